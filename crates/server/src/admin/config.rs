//! The configuration: what is served, what would be wrong with another one, and how to change and undo it. Secrets are
//! references; one that stands in a text itself is never shown.

use http::header::CONTENT_TYPE;
use http::{Method, StatusCode};
use millgate_config::{Config, Problem, Severity, Values, load_with};
use millgate_store::ConfigVersion;
use millgate_types::{Fault, Permission, code, pointer};
use schemars::{JsonSchema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::page::{self, CURSOR, LIMIT, Page};
use super::{Answer, Context, Manner, Route, tag};
use crate::documents::{self, Documents, NewText, Put, Served};
use crate::keys::unavailable;

/// The longest reason, in bytes.
const REASON: usize = 1000;

pub(super) fn routes() -> [Route; 6] {
    let served = Manner { tag: Some(served_tag), told: Some(told) };
    let show = Route {
        method: Method::GET,
        path: "/config",
        needs: Permission::Read,
        summary: "The configuration that is served, in its canonical form; secrets are references",
        query: &[],
        request: None,
        response: SchemaGenerator::subschema_for::<ConfigView>,
        manner: served,
        handle: |context| Box::pin(async move { show(&context) }),
    };
    let history = Route {
        path: "/config/history",
        summary: "Configurations that were served, the newest first: when, by whom, why",
        query: &[LIMIT, CURSOR],
        response: SchemaGenerator::subschema_for::<History>,
        manner: Manner::default(),
        handle: |context| Box::pin(async move { history(&context).await }),
        ..show.copy()
    };
    let apply = Route {
        method: Method::POST,
        path: "/config/apply",
        needs: Permission::Admin,
        summary: "Check another configuration, write it to the file and serve it; on an error nothing changes",
        request: Some(SchemaGenerator::subschema_for::<NewConfig>),
        response: SchemaGenerator::subschema_for::<Applied>,
        handle: |context| Box::pin(async move { apply(&context).await }),
        ..show.copy()
    };
    [
        Route {
            // It reads what the text names, variables and files, and asks the Vault that it names.
            path: "/config/validate",
            summary: "Every problem of another configuration; changes nothing",
            request: Some(SchemaGenerator::subschema_for::<NewConfig>),
            response: SchemaGenerator::subschema_for::<Validated>,
            manner: Manner { told: Some(told), ..Manner::default() },
            handle: |context| Box::pin(async move { validate(&context).await }),
            ..apply.copy()
        },
        Route {
            path: "/config/undo",
            summary: "Serve the configuration before, or version `to` of the history, again",
            request: Some(SchemaGenerator::subschema_for::<Undo>),
            manner: Manner { told: None, ..served },
            handle: |context| Box::pin(async move { undo(&context).await }),
            ..apply.copy()
        },
        Route {
            path: "/config/history/{id}",
            needs: Permission::Admin,
            summary: "One configuration of the history with its text",
            query: &[],
            response: SchemaGenerator::subschema_for::<VersionView>,
            handle: |context| Box::pin(async move { version(&context).await }),
            ..history.copy()
        },
        apply,
        history,
        show,
    ]
}

#[derive(Serialize, JsonSchema)]
struct ConfigView {
    /// Counts the configurations since the start, from 1.
    generation: u64,
    /// Its number in the history.
    version: Option<i64>,
    /// SHA-256 of its text; the `ETag`.
    digest: Option<String>,
    /// It came from a file, which `apply` replaces.
    from_file: bool,
    config: Config,
    /// As written, for admins; `null` where it holds secrets that cannot be taken out.
    text: Option<String>,
}

/// Another configuration. A body of the type `application/yaml` is the text itself.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NewConfig {
    /// The file's text.
    text: String,
    /// Why, for the history.
    #[serde(default)]
    reason: String,
    /// Replace the file also if it was changed by hand and its content is not served.
    #[serde(default)]
    overwrite: bool,
}

#[derive(Serialize, JsonSchema)]
struct Validated {
    /// It can be served.
    valid: bool,
    /// Errors and warnings, in the order of the text.
    problems: Vec<ProblemView>,
}

#[derive(Serialize, JsonSchema)]
struct ProblemView {
    /// `error` or `warning`.
    severity: &'static str,
    /// From 1; 0 where the problem has no place.
    line: u64,
    column: u64,
    /// The field, in the words of the text: `endpoints[0].route`.
    path: String,
    /// The same as a JSON pointer.
    pointer: String,
    reason: String,
    /// What to do; empty when there is nothing to add.
    hint: String,
}

#[derive(Serialize, JsonSchema)]
struct Applied {
    /// Counts the configurations since the start, from 1.
    generation: u64,
    /// Its number in the history.
    version: Option<i64>,
    digest: String,
    warnings: Vec<ProblemView>,
    /// Settings that were changed and hold from the next start on.
    needs_restart: Vec<&'static str>,
}

/// Where to go back to.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Undo {
    /// A number of the history. Default: the configuration before.
    to: Option<i64>,
    /// Why, for the history.
    reason: String,
    /// Replace the file also if it was changed by hand and its content is not served.
    overwrite: bool,
}

#[derive(Serialize, JsonSchema)]
struct History {
    versions: Vec<VersionView>,
    next_cursor: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct VersionView {
    id: i64,
    /// SHA-256 of the text.
    digest: String,
    /// `start`, `file` (changed by hand), `api` or `undo`.
    origin: String,
    /// Who did it; empty for changes of the file.
    principal: String,
    reason: String,
    /// The version that it is again.
    restored: Option<i64>,
    /// Milliseconds since 1970.
    applied_ms: i64,
    /// It is what this gateway serves.
    served: bool,
    /// `null` in lists, and where it holds secrets in clear text: such a text is not kept.
    text: Option<String>,
}

impl From<&Problem> for ProblemView {
    fn from(problem: &Problem) -> Self {
        Self {
            severity: if problem.severity == Severity::Error { "error" } else { "warning" },
            line: problem.line,
            column: problem.column,
            path: problem.path.clone(),
            pointer: pointer(&problem.path),
            reason: problem.reason.clone(),
            hint: problem.hint.clone(),
        }
    }
}

impl VersionView {
    fn new(version: ConfigVersion, served: &Served) -> Self {
        Self {
            served: served.version == Some(version.id),
            id: version.id,
            digest: version.digest,
            origin: version.origin,
            principal: version.principal,
            reason: version.reason,
            restored: version.restored,
            applied_ms: version.applied_ms,
            text: version.text,
        }
    }
}

fn served_tag(context: &Context) -> Option<String> {
    context.gateway.documents().map(|documents| documents.served().digest.clone())
}

/// What the audit log is told of a text: which one it is, not what it holds.
fn told(context: &Context) -> Value {
    match asked(context) {
        Ok(asked) => json!({
            "digest": documents::digest(&asked.text),
            "bytes": asked.text.len(),
            "reason": asked.reason,
            "overwrite": asked.overwrite,
        }),
        Err(_) => Value::Null,
    }
}

/// The fault of a gateway that was given its configuration by other means.
fn kept(context: &Context) -> Result<&Documents, Fault> {
    context.gateway.documents().ok_or_else(|| {
        let text = "the gateway was not started from a file: there is nowhere to write the configuration";
        Fault::client(code::CONFIG_NOT_WRITABLE, text)
    })
}

fn asked(context: &Context) -> Result<NewConfig, Fault> {
    let kind = context.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !matches!(kind, "application/yaml" | "application/x-yaml" | "text/yaml") {
        let asked: NewConfig = context.body()?;
        reason(&asked.reason)?;
        return Ok(asked);
    }
    let text = String::from_utf8(context.body.to_vec());
    let text = text.map_err(|_| Fault::invalid_value("text", "the text is not UTF-8"))?;
    let given = context.query("reason").unwrap_or_default().into_owned();
    reason(&given)?;
    Ok(NewConfig { text, reason: given, overwrite: context.query("overwrite").as_deref() == Some("true") })
}

fn reason(text: &str) -> Result<(), Fault> {
    if text.len() > REASON || text.chars().any(|c| c.is_control() && c != '\n') {
        let text = format!("a reason has at most {REASON} bytes and no control characters");
        return Err(Fault::invalid_value("reason", text));
    }
    Ok(())
}

/// Who changes everything must be able to do everything.
fn unlimited(context: &Context) -> Result<(), Fault> {
    if context.identity.scope.is_open() {
        return Ok(());
    }
    Err(Fault::client(
        code::PERMISSION_DENIED,
        "a key that may not reach everything cannot change everything",
    ))
}

fn show(context: &Context) -> Result<Answer, Fault> {
    let snapshot = &context.snapshot;
    let documents = context.gateway.documents();
    let served = documents.map(Documents::served);
    let text = served.as_ref().filter(|_| context.identity.permissions.has(Permission::Admin));
    Answer::ok(&ConfigView {
        generation: snapshot.generation,
        version: served.as_ref().and_then(|served| served.version),
        digest: served.as_ref().map(|served| served.digest.clone()),
        from_file: documents.is_some_and(|documents| documents.file().is_some()),
        config: Config::clone(&snapshot.config),
        text: text
            .and_then(|served| load_with(&served.text, &Values::placeholders()).ok()?.masked(&served.text)),
    })
}

async fn validate(context: &Context) -> Result<Answer, Fault> {
    unlimited(context)?;
    let asked = asked(context)?;
    let (valid, problems) = match documents::load(&context.gateway, &asked.text).await {
        Ok(loaded) => (true, loaded.warnings),
        Err(problems) => (false, problems),
    };
    Answer::ok(&Validated { valid, problems: problems.iter().map(ProblemView::from).collect() })
}

async fn apply(context: &Context) -> Result<Answer, Fault> {
    unlimited(context)?;
    let asked = asked(context)?;
    let new = NewText {
        text: asked.text,
        origin: "api",
        principal: context.identity.principal.name().to_owned(),
        reason: asked.reason,
        restored: None,
        expected: tag::expected(&context.headers)?,
        overwrite: asked.overwrite,
    };
    put(context, new).await
}

async fn undo(context: &Context) -> Result<Answer, Fault> {
    unlimited(context)?;
    let asked: Undo = context.body()?;
    reason(&asked.reason)?;
    let documents = kept(context)?;
    let store = documents.store()?;
    let served = documents.served();
    let to = match asked.to {
        Some(id) => store.config(id).await.map_err(unavailable)?,
        None => {
            let Some(now) = served.version else { return Err(no_version()) };
            // Going back twice goes back further.
            let now = store.config(now).await.map_err(unavailable)?.ok_or_else(no_version)?;
            let from = now.restored.unwrap_or(now.id);
            store.config_before(from, &served.digest).await.map_err(unavailable)?
        }
    };
    let missing = || match asked.to {
        Some(id) => Fault::invalid_value("to", format!("the history holds no version {id}")),
        None => Fault::invalid_value("to", "the history holds nothing before what is served"),
    };
    let to = to.ok_or_else(missing)?;
    let text = to.text.ok_or_else(|| {
        let text = format!("version {} held secrets in clear text and was not kept: apply its text", to.id);
        Fault::invalid_value("to", text)
    })?;
    let new = NewText {
        text,
        origin: "undo",
        principal: context.identity.principal.name().to_owned(),
        reason: asked.reason,
        restored: Some(to.restored.unwrap_or(to.id)),
        expected: tag::expected(&context.headers)?,
        overwrite: asked.overwrite,
    };
    put(context, new).await
}

async fn put(context: &Context, new: NewText) -> Result<Answer, Fault> {
    let documents = kept(context)?;
    let old = documents.served();
    let old_config = std::sync::Arc::clone(&context.gateway.snapshot().config);
    let Put { served, generation, warnings } = documents.put(&context.gateway, new).await?;
    let needs_restart = at_start(&old_config, &context.gateway.snapshot().config);
    let caller = context.identity.principal.name();
    tracing::info!(caller, generation, version = served.version, "serving another configuration");
    let seen = |served: &Served| json!({ "version": served.version, "digest": served.digest });
    let answer = Answer::with(
        StatusCode::OK,
        &Applied {
            generation,
            version: served.version,
            digest: served.digest.clone(),
            warnings: warnings.iter().map(ProblemView::from).collect(),
            needs_restart,
        },
    )?;
    Ok(answer.tagged(&*served.digest).changing(Some(&seen(&old)), &seen(&served)))
}

/// Settings that are read at start only and were changed.
fn at_start(old: &Config, new: &Config) -> Vec<&'static str> {
    let shown = |config: &Config| serde_json::to_value(config).unwrap_or_default();
    let (old, new) = (shown(old), shown(new));
    let pointers = [
        ("listen", "/listen"),
        ("store", "/store"),
        ("shared", "/shared"),
        ("audit", "/audit"),
        ("log", "/log"),
        ("access.key_pepper", "/access/key_pepper"),
        ("server.threads", "/server/threads"),
        ("server.max_connections", "/server/max_connections"),
        ("server.max_connections_per_ip", "/server/max_connections_per_ip"),
        ("server.header_timeout", "/server/header_timeout"),
        ("models", "/models"),
    ];
    let changed = pointers.into_iter().filter(|(_, at)| old.pointer(at) != new.pointer(at));
    changed.map(|(name, _)| name).collect()
}

fn no_version() -> Fault {
    Fault::invalid_value("to", "what is served is not in the history: name a version")
}

async fn history(context: &Context) -> Result<Answer, Fault> {
    let documents = kept(context)?;
    let page = Page::of(context)?;
    let before = page.number()?.unwrap_or(i64::MAX);
    let limit = page.limit as i64;
    let mut found = documents.store()?.configs(before, limit + 1).await.map_err(unavailable)?;
    let more = found.len() > page.limit;
    found.truncate(page.limit);
    let next_cursor = found.last().filter(|_| more).map(|last| page::cursor(&last.id.to_string()));
    let served = documents.served();
    let versions = found.into_iter().map(|version| VersionView::new(version, &served)).collect();
    Answer::ok(&History { versions, next_cursor })
}

async fn version(context: &Context) -> Result<Answer, Fault> {
    let documents = kept(context)?;
    let id =
        context.param("id").parse().map_err(|_| Fault::client(code::NOT_FOUND, "a version is a number"))?;
    let found = documents.store()?.config(id).await.map_err(unavailable)?;
    let found =
        found.ok_or_else(|| Fault::client(code::NOT_FOUND, format!("the history holds no version {id}")))?;
    Answer::ok(&VersionView::new(found, &documents.served()))
}
