//! The rows: every kind of provider in the catalogue, its families of models, and its Responses API where it has
//! one. A new entry of the catalogue gets its row by itself.

use millgate_provider::{ProviderKind, kinds};
use millgate_testkit::FakeProvider;
use millgate_types::{Dialect, Operation};

use super::super::{PROVIDER_KEY, SENT};

/// Kinds that are not asked over the wire, and why.
const ELSEWHERE: [(&str, &str); 1] = [("mock", "answers inside the gateway: [Mock](../mock.md)")];

/// How the fake behaves: the end of its models' names.
pub(super) const BEHAVIOURS: [&str; 9] = [
    "ok",
    "tool",
    "parallel",
    "reasoning",
    "length",
    "status-429-retry-7",
    "status-401",
    "error-in-stream-250ms",
    "chunks-2000-3ms",
];

pub(super) struct Row {
    /// As the page shows it.
    pub(super) title: String,
    /// Its name in the configuration.
    pub(super) name: String,
    /// As the models of this row know it.
    pub(super) kind: &'static ProviderKind,
    /// What chats are held in.
    pub(super) wire: Dialect,
    pub(super) fake: FakeProvider,
    model: String,
    config: String,
}

/// A model that the row is asked for. Where the name decides how it is asked, it is one of those.
fn model(kind: &ProviderKind, wire: Dialect, pattern: Option<&str>) -> String {
    let pattern = pattern.map(|pattern| pattern.strip_prefix('*').unwrap_or(pattern));
    match (wire, pattern) {
        (_, Some("/")) => "maker/model".to_owned(),
        (Dialect::Anthropic, _) => "claude-sonnet-4-5".to_owned(),
        (_, Some(pattern)) => pattern.to_owned(),
        (Dialect::Bedrock, None) => "anthropic.claude-sonnet-4-5-20250929-v1".to_owned(),
        (Dialect::Gemini, None) if kind.path(Operation::Chat).is_some() => "gemini-2.5-flash".to_owned(),
        (Dialect::Responses, None) => "gpt-5-mini".to_owned(),
        _ => "model".to_owned(),
    }
}

impl Row {
    fn new(
        kind: &'static ProviderKind,
        seen_as: &'static ProviderKind,
        family: Option<&str>,
        responses: bool,
    ) -> Self {
        let wire = if responses { Dialect::Responses } else { seen_as.dialect };
        let mut title = format!("`{}`", kind.name);
        let mut name = kind.name.clone();
        if let Some(pattern) = family {
            let shown =
                pattern.strip_prefix('*').map_or(format!("{pattern}..."), |part| format!("...{part}..."));
            title = format!("{title}, models `{shown}`");
            name = format!("{name}-{}", pattern.replace(['*', '/'], "open"));
        }
        if responses {
            title.push_str(", `api: responses`");
            name.push_str("-responses");
        }
        let fake = FakeProvider::start().expect("a free port");
        let mut config = format!("kind: {}, timeout: 5s, {SENT}", kind.name);
        let mut manner = match manner_of_thinking(seen_as) {
            "" => String::new(),
            manner => format!("/thinks-in-{manner}"),
        };
        if !seen_as.quirks.supports_stream_options || seen_as.dialect == Dialect::Mlflow {
            manner.push_str("/always-counts");
        }
        config += &format!(", base_url: 'http://{}/{}{manner}/v1'", fake.address(), kind.name);
        for setting in &kind.settings {
            config += &format!(", {}: here-1", setting.name);
        }
        if kind.proof.google {
            config += &format!(", credential: {{ google: {{ metadata_host: '{}' }} }}", fake.address());
        } else if kind.auth != millgate_provider::AuthScheme::None {
            config += &format!(", api_key: {PROVIDER_KEY}");
        }
        if responses {
            config += ", api: responses";
        }
        Self { title, name, kind: seen_as, wire, fake, model: model(seen_as, wire, family), config }
    }

    /// What the provider calls the model that does this.
    fn model(&self, operation: Operation) -> &str {
        match (operation, self.kind.dialect) {
            (Operation::Embeddings, Dialect::Bedrock) => "amazon.titan-embed-text-v2",
            _ => &self.model,
        }
    }

    /// Whether the provider has the operation in an API of its own for it.
    pub(super) fn has(&self, operation: Operation) -> bool {
        self.kind.path(operation).is_some()
    }

    /// The endpoint's name for a behaviour.
    pub(super) fn endpoint(&self, operation: Operation, behaviour: &str) -> String {
        format!("{}.{}.{behaviour}", self.name, operation.name())
    }

    /// Its endpoints, as the configuration writes them.
    fn endpoints(&self) -> String {
        let mut out = String::new();
        for operation in [
            Operation::Chat,
            Operation::Completions,
            Operation::Embeddings,
            Operation::Rerank,
            Operation::Moderations,
        ] {
            for behaviour in BEHAVIOURS {
                out += &format!(
                    "  - {{ name: {}, type: llm/v1/{}, route: '{}/{}@{behaviour}' }}\n",
                    self.endpoint(operation, behaviour),
                    operation.name(),
                    self.name,
                    self.model(operation),
                );
            }
        }
        out
    }
}

/// How the fake is told where thinking stands in OpenAI's shape.
fn manner_of_thinking(kind: &ProviderKind) -> &'static str {
    use millgate_dialect::ReasoningField;
    match kind.quirks.reasoning_field {
        ReasoningField::None | ReasoningField::ReasoningContent => "",
        ReasoningField::Reasoning => "reasoning",
        ReasoningField::ReasoningDetails => "details",
        ReasoningField::Content => "content",
    }
}

/// Every row, and the lines of the page for kinds that have none.
pub(super) fn all() -> (Vec<Row>, Vec<String>) {
    let (mut rows, mut notes) = (Vec::new(), Vec::new());
    // Servers of registered models are no LLMs.
    for kind in kinds().iter().filter(|kind| !matches!(kind.dialect, Dialect::Scoring | Dialect::Inference)) {
        if let Some((name, why)) = ELSEWHERE.iter().find(|(name, _)| *name == kind.name) {
            notes.push(format!("`{name}` {why}."));
            continue;
        }
        rows.push(Row::new(kind, kind, None, false));
        for family in &kind.families {
            rows.push(Row::new(kind, &family.kind, family.models.first().map(String::as_str), false));
        }
        if kind.ways(false).iter().any(|way| way.dialect == Dialect::Responses) {
            rows.push(Row::new(kind, kind, None, true));
        }
    }
    (rows, notes)
}

/// The gateway's configuration over all of them.
///
/// `maker-anthropic` and `maker-gemini` begin conversations that others go on with.
pub(super) fn config(rows: &[Row], makers: &FakeProvider) -> String {
    let mut out = "version: 1\nproviders:\n".to_owned();
    for row in rows {
        out += &format!("  {}: {{ {} }}\n", row.name, row.config);
    }
    for maker in ["anthropic", "gemini"] {
        let base = makers.base_url();
        out +=
            &format!("  maker-{maker}: {{ kind: {maker}, api_key: {PROVIDER_KEY}, base_url: '{base}' }}\n");
    }
    out += "endpoints:\n";
    for maker in ["anthropic", "gemini"] {
        out += &format!("  - {{ name: maker-{maker}, type: llm/v1/chat, route: maker-{maker}/reasoning }}\n");
    }
    for row in rows {
        out += &row.endpoints();
    }
    out
}
