//! What runs: built whole from a checked [`Config`], never changed, swapped as one. A request keeps the one
//! it began with.

mod chat;
mod graph;
pub(crate) mod known;
mod providers;

use known::{Known, KnownModels};

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use millgate_config::{
    Compat, Config, EndpointConfig, EndpointType, EnvManager, KeyMode, Network, RouteConfig, RuntimeChoice,
    ScheduleConfig,
};
use millgate_credential::{Credential, Credentials};
use millgate_dialect::Quirks;
use millgate_models::{
    Batching, ChatModel, Deployment, DeploymentSpec, Instances, Models, Registry, RegistryAuth,
    RegistryConfig, Window,
};
use millgate_policy::Route;
use millgate_provider::{Family, ProviderKind};
use millgate_scoring::Template;
use millgate_types::{Dialect, ModelRef, Operation, Permission, Permissions, Principal};
use millgate_upstream::{Deadlines, Origin};
use sha2::{Digest, Sha256};

use crate::body::BodyLimits;
use crate::dispatch::{ChatTarget, Described};
use crate::identity::{Identity, scope};
use crate::keys::{Keys, now_ms};
use crate::limits::{Limits, Rule};
use crate::native::{self, Native};
use crate::openapi::OpenApi;
use crate::sign_on::{SignOn, Sources};
use crate::standing::{Standing, Standings};
use crate::webhook::Webhooks;

/// One destination.
#[derive(Debug)]
pub(crate) struct Target {
    /// `provider/model` or a `models:/` URI, for logs and metrics.
    pub(crate) label: Arc<str>,
    pub(crate) kind: TargetKind,
    /// What it is asked for: inside a chain not always what its endpoint answers.
    pub(crate) operation: Operation,
}

pub(crate) enum TargetKind {
    /// A provider's model.
    Provider { provider: Arc<Provider>, model: TargetModel },
    /// A registered model.
    Model(Arc<Deployment>),
    /// A registered model that chats.
    Chat(Box<ChatTarget>),
}

/// How a target's model is named.
#[derive(Debug)]
pub(crate) enum TargetModel {
    /// By the configuration.
    Fixed(Box<str>, Arc<Known>),
    /// What the `*` of the endpoint's name stands for comes between the two.
    Pattern(Box<str>, Box<str>),
    /// The request says `provider/model`.
    Named,
}

/// Who is asked, the provider's name of the model, and what is known of it.
pub(crate) type Resolved<'a> = (&'a Arc<Provider>, Cow<'a, str>, Arc<Known>);

impl TargetModel {
    /// The model that a request for `asked` means; `None` when it does not say.
    pub(crate) fn resolve<'a>(
        &'a self,
        provider: &'a Arc<Provider>,
        endpoint: &Endpoint,
        asked: Option<&'a str>,
    ) -> Option<Resolved<'a>> {
        let name: Cow<'_, str> = match self {
            Self::Fixed(name, known) => return Some((provider, Cow::Borrowed(name), Arc::clone(known))),
            Self::Pattern(before, after) => format!("{before}{}{after}", endpoint.matched(asked?)?).into(),
            Self::Named => asked?.split_once('/')?.1.into(),
        };
        let provider = provider.for_model(&name);
        let known = provider.known(&name);
        Some((provider, name, known))
    }
}

impl std::fmt::Debug for TargetKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Provider { provider, model } => write!(f, "{}/{model:?}", provider.name),
            Self::Model(_) | Self::Chat(_) => f.write_str("model"),
        }
    }
}

/// A provider, ready to be called.
#[derive(Clone)]
pub(crate) struct Provider {
    pub(crate) name: Arc<str>,
    pub(crate) kind: &'static ProviderKind,
    /// The kind's, with what the configuration says otherwise.
    pub(crate) quirks: Quirks,
    pub(crate) transport: Transport,
    /// The path of its address, without a slash at the end.
    pub(crate) base: String,
    /// Credential, content type and configured headers, as every request carries them.
    pub(crate) headers: HeaderMap,
    pub(crate) deadlines: Deadlines,
    /// To the first content of a stream; `None`: no more than the deadlines.
    pub(crate) first_content: Option<Duration>,
    /// What each request needs beside the headers.
    pub(crate) credential: Credential,
    /// How it is spoken to, where its API is its own.
    pub(crate) scorer: Option<Arc<Template>>,
    /// What it said of its models.
    pub(crate) described: Arc<Described>,
    /// What it allows.
    pub(crate) rules: Arc<[Rule]>,
    /// How it stands, with its keys.
    pub(crate) standing: Arc<Standing>,
    ways: Vec<Way>,
    /// The same provider for models that are spoken to otherwise.
    families: Vec<(&'static Family, Arc<Provider>)>,
    models: Arc<KnownModels>,
}

/// One operation of a provider, in one dialect.
#[derive(Clone)]
struct Way {
    dialect: Dialect,
    operation: Operation,
    stream: bool,
    place: Place,
}

/// The request target of a way.
#[derive(Clone)]
enum Place {
    Fixed(String),
    /// The model's name stands between the two.
    ByModel(String, String),
}

/// How a provider is reached.
#[derive(Clone)]
pub(crate) enum Transport {
    Http(Arc<Origin>),
    /// Answered in this process by the mock provider.
    Mock,
    /// Answered by a registered model that chats.
    Model(Arc<ChatModel>),
}

impl Provider {
    /// Sets what the provider allows and how it stands, for all of its models.
    fn limited(&mut self, rules: &[Rule], standing: Standing) {
        (self.rules, self.standing) = (rules.into(), Arc::new(standing));
        for (_, provider) in &mut self.families {
            let (rules, standing) = (Arc::clone(&self.rules), Arc::clone(&self.standing));
            *provider = Arc::new(Self { rules, standing, ..Self::clone(provider) });
        }
    }

    /// The same, reached otherwise.
    pub(crate) fn by(&self, transport: Transport) -> Self {
        Self { transport, ..self.clone() }
    }

    /// The provider as one of its models knows it.
    pub(crate) fn for_model<'a>(self: &'a Arc<Self>, model: &str) -> &'a Arc<Self> {
        self.families.iter().find(|(family, _)| family.has(model)).map_or(self, |(_, provider)| provider)
    }

    /// Whether the provider has the operation in this dialect.
    pub(crate) fn has(&self, dialect: Dialect, operation: Operation) -> bool {
        self.ways.iter().any(|way| way.dialect == dialect && way.operation == operation)
    }

    /// The dialect to speak for an operation: the provider's own where it has it there.
    pub(crate) fn dialect(&self, operation: Operation) -> Option<Dialect> {
        let mut ways = self.ways.iter().filter(|way| way.operation == operation);
        let own = ways.clone().find(|way| way.dialect == self.kind.dialect);
        own.or_else(|| ways.next()).map(|way| way.dialect)
    }

    /// What is known of a model.
    pub(crate) fn known(&self, model: &str) -> Arc<Known> {
        self.models.of(self.kind, model)
    }

    /// The request target of an operation; `None` where the provider has no such operation.
    pub(crate) fn target(
        &self,
        dialect: Dialect,
        operation: Operation,
        stream: bool,
        model: &str,
    ) -> Option<Cow<'_, str>> {
        // Targets for streams only stand in front.
        let way = self
            .ways
            .iter()
            .find(|way| way.dialect == dialect && way.operation == operation && (stream || !way.stream))?;
        match &way.place {
            Place::Fixed(target) => Some(target.into()),
            Place::ByModel(before, after) => {
                // Google's own names repeat the folder.
                let model = model.strip_prefix("models/").unwrap_or(model);
                Some(format!("{before}{}{after}", Encoded(model)).into())
            }
        }
    }
}

/// A path segment, percent-encoded. `@` stays: Google's models have versions behind it.
struct Encoded<'a>(&'a str);

impl std::fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for byte in self.0.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~@".contains(&byte) {
                write!(f, "{}", char::from(byte))?;
            } else {
                write!(f, "%{byte:02X}")?;
            }
        }
        Ok(())
    }
}

/// A named thing that clients call.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) name: Arc<str>,
    pub(crate) kind: EndpointType,
    pub(crate) path: Option<String>,
    pub(crate) route: Arc<Route<Target>>,
    /// Limits and budgets that its calls must be within.
    pub(crate) rules: Vec<Rule>,
    /// As written: what MLflow's listing APIs show.
    pub(crate) config: EndpointConfig,
    /// Kind and model of a sole provider target, for the listing APIs.
    pub(crate) shown_model: Option<(String, String)>,
}

/// Everything a request needs.
pub(crate) struct Snapshot {
    /// Counts from 1.
    pub(crate) generation: u64,
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
    pub(crate) webhooks: Webhooks,
    by_name: foldhash::HashMap<Arc<str>, Arc<Endpoint>>,
    /// Endpoints whose names hold a `*`, the longest first.
    patterns: Vec<Arc<Endpoint>>,
    by_path: HashMap<String, Arc<Endpoint>>,
    /// For `provider/model` called directly: per provider and operation an endpoint named after the provider.
    direct: HashMap<(String, Operation), Arc<Endpoint>>,
    /// The endpoint for moderation calls that name none, as OpenAI's may: the only one there is.
    pub(crate) moderations: Option<Arc<Endpoint>>,
    natives: HashMap<String, Arc<Native>>,
    keys: Option<foldhash::HashMap<[u8; 32], Arc<Identity>>>,
    /// Who else may call; `None`: nobody.
    pub(crate) sign_on: Option<Arc<SignOn>>,
    /// Everybody where no keys are asked for: on this machine, and elsewhere.
    anonymous: [Arc<Identity>; 2],
    pub(crate) registries: HashMap<String, Arc<Registry>>,
    pub(crate) config: Arc<Config>,
    pub(crate) body_limits: BodyLimits,
    pub(crate) max_answer: usize,
    /// Longest silence in a stream.
    pub(crate) heartbeat: Duration,
    pub(crate) deployments: Vec<Arc<Deployment>>,
    pub(crate) openapi: OpenApi,
    /// Limits and budgets that are for more than one endpoint.
    pub(crate) rules: Vec<Rule>,
    /// What providers allow, by their names.
    pub(crate) provider_rules: Vec<(Arc<str>, Rule)>,
    /// All of them, in the configuration's order.
    pub(crate) providers: Vec<Arc<Provider>>,
}

impl Endpoint {
    /// Its name and aliases, but for patterns.
    fn names(&self) -> impl Iterator<Item = Arc<str>> {
        let own = (!self.name.contains('*')).then(|| Arc::clone(&self.name));
        own.into_iter().chain(self.config.aliases.iter().map(|alias| alias.as_str().into()))
    }

    /// What the `*` of the endpoint's name stands for in a name that fits it.
    pub(crate) fn matched<'a>(&self, name: &'a str) -> Option<&'a str> {
        let (before, after) = self.name.split_once('*')?;
        name.strip_prefix(before)?.strip_suffix(after)
    }
}

impl Snapshot {
    /// The endpoint of a name or an alias, else of the longest pattern that fits.
    pub(crate) fn by_name(&self, name: &str) -> Option<&Arc<Endpoint>> {
        let pattern = || self.patterns.iter().find(|endpoint| endpoint.matched(name).is_some());
        self.by_name.get(name).or_else(pattern)
    }

    pub(crate) fn by_path(&self, path: &str) -> Option<&Arc<Endpoint>> {
        self.by_path.get(path)
    }

    /// The endpoint of `provider/model`, where callers may name providers.
    pub(crate) fn direct(&self, model: &str, operation: Operation) -> Option<&Arc<Endpoint>> {
        let (provider, _) = model.split_once('/')?;
        self.direct.get(&(provider.to_owned(), operation))
    }

    /// The provider whose own API a path belongs to, and the path there.
    pub(crate) fn native<'p>(&self, path: &'p str) -> Option<(&Arc<Native>, &'p str)> {
        native::find(&self.natives, path)
    }

    /// Whether callers need a key.
    pub(crate) fn asks_for_keys(&self) -> bool {
        self.keys.is_some()
    }

    /// Whose key it is; everybody is anonymous where no keys are asked for. This machine alone is then trusted with more
    /// than calls.
    pub(crate) fn identity(
        &self,
        issued: Option<&Keys>,
        key: Option<&Shown<'_>>,
        peer: IpAddr,
    ) -> Option<Arc<Identity>> {
        let Some(keys) = &self.keys else {
            let [here, elsewhere] = &self.anonymous;
            return Some(Arc::clone(if peer.is_loopback() { here } else { elsewhere }));
        };
        let key = key?;
        let token = || {
            let directory = issued.map(Keys::directory);
            self.sign_on.as_ref()?.known(&key.digest, directory.as_deref(), now_ms())
        };
        keys.get(&key.digest).cloned().or_else(token).or_else(|| issued?.identity(key.bytes))
    }
}

/// What a caller shows, with its digest: keys are looked up by that, so that the comparison's time says nothing about a
/// key.
pub(crate) struct Shown<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) digest: [u8; 32],
}

impl<'a> Shown<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, digest: digest(bytes) }
    }
}

fn digest(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

/// Builds snapshots; keeps what outlives one: limiters with their counts, registries, deployments.
pub(crate) struct Builder {
    models: Arc<Models>,
    credentials: Credentials,
    limits: Limits,
    standings: Standings,
    registries: HashMap<String, (String, Arc<Registry>)>,
    sources: Sources,
    generation: u64,
}

impl Builder {
    /// Call it on the runtime where tokens are to be fetched.
    pub(crate) fn new(models: Arc<Models>) -> Self {
        let credentials = Credentials::new(tokio::runtime::Handle::current());
        let (limits, sources) = (Limits::default(), Sources::new());
        let (standings, registries) = (Standings::default(), HashMap::new());
        Self { models, credentials, limits, standings, registries, sources, generation: 0 }
    }

    /// Resolves a checked config. Errors are those that only show when things are opened; then nothing has
    /// changed.
    pub(crate) fn build(&mut self, config: &Config) -> Result<Snapshot, String> {
        let mut making = self.limits.making(config);
        let mut provider_rules = Vec::new();
        let (mut credentials, mut standings) = (Vec::new(), Vec::new());
        let mut providers: HashMap<&str, Arc<Provider>> = HashMap::new();
        for (name, written) in &config.providers {
            let (mut provider, opened) = providers::open(name, written, config, &self.credentials)?;
            let headers = providers::key_headers(name, written, &provider.headers, provider.kind)?;
            let fixed = matches!(opened.credential, Credential::Fixed);
            let (mut standing, state) = self.standings.open(&provider.name, written, headers, fixed);
            standings.push(state);
            let own = making.provider(name, &written.limits);
            let mut rules = own.clone();
            standing.limited(|place, called| {
                let limits = written.api_keys.get(place).map_or(&[][..], |key| &key.limits);
                let of_key = making.provider(&format!("{name}/{called}"), limits);
                rules.extend(of_key.iter().cloned());
                // What the provider allows altogether and with this key, reserved in one step.
                own.iter().cloned().chain(of_key).collect()
            });
            provider.limited(&own, standing);
            provider_rules.extend(rules.into_iter().map(|rule| (Arc::clone(&provider.name), rule)));
            providers.insert(name, Arc::new(provider));
            credentials.push(opened);
        }
        let registries = self.registries(config)?;
        let mut resolver = Resolver {
            config,
            providers: &providers,
            registries: &registries,
            models: &self.models,
            routes: HashMap::new(),
            deployments: Vec::new(),
        };
        let mut endpoints = Vec::new();
        for written in &config.endpoints {
            let route = resolver.endpoint(written)?;
            let name: Arc<str> = written.name.as_str().into();
            let rules = making.endpoint(&name, &written.limits);
            check_header(&written.name)?;
            endpoints.push(Arc::new(Endpoint {
                kind: written.kind,
                path: written.path.clone(),
                rules,
                shown_model: shown_model(&route),
                route,
                config: written.clone(),
                name,
            }));
        }
        let mut natives = HashMap::new();
        for (name, written) in &config.native {
            let label: Arc<str> = format!("native/{name}").into();
            let provider = providers.get(written.provider.as_str());
            let provider = provider.ok_or_else(|| format!("native.{name}: the provider is not there"))?;
            let target = format!("{}/*", written.provider);
            check_header(&label)?;
            check_header(&target)?;
            let native = Native {
                target: target.into(),
                provider: Arc::clone(provider),
                rules: making.endpoint(&label, &written.limits),
                max_body: written.max_body.0,
                label,
            };
            natives.insert(name.clone(), Arc::new(native));
        }
        let mut direct = HashMap::new();
        if config.access.allow_provider_models {
            for (name, provider) in &providers {
                for kind in EndpointType::LLM {
                    let rules = making.endpoint(name, &[]);
                    let endpoint = direct_endpoint(name, provider, kind, rules)?;
                    direct.insert(((*name).to_owned(), kind.operation()), Arc::new(endpoint));
                }
            }
        }
        let mut judges = endpoints.iter().filter(|endpoint| endpoint.kind == EndpointType::Moderations);
        let moderations = judges.next().filter(|_| judges.next().is_none()).cloned();
        let mut patterns: Vec<_> = endpoints.iter().filter(|e| e.name.contains('*')).cloned().collect();
        patterns.sort_by_key(|endpoint| std::cmp::Reverse(endpoint.name.len()));
        let deployments = resolver.deployments;
        // The last that may fail: what it keeps is replaced only with everything else.
        let sign_on = SignOn::open(&config.access, &mut self.sources, self.models.handle())?;
        let (everywhere, counts) = making.finish();
        self.credentials.keep(credentials);
        self.standings.keep(standings);
        self.limits.keep(counts);
        self.registries = registries;
        self.generation += 1;
        let keys = (config.access.keys == KeyMode::Required).then(|| {
            let declared = config.access.declared.iter().map(|key| {
                let permissions = key.roles.iter().copied().map(Permission::from).collect();
                let principal = Principal::Key(key.name.as_str().into());
                let scope = scope(&key.endpoints, &key.targets, &key.deny);
                let owner = Arc::new(key.owner.owner());
                let identity = Identity { principal, owner, permissions, scope };
                (digest(key.key.expose().as_bytes()), Arc::new(identity))
            });
            declared.collect()
        });
        let server = &config.server;
        Ok(Snapshot {
            generation: self.generation,
            by_name: endpoints.iter().flat_map(|e| e.names().map(|name| (name, Arc::clone(e)))).collect(),
            patterns,
            by_path: endpoints.iter().filter_map(|e| Some((e.path.clone()?, Arc::clone(e)))).collect(),
            endpoints,
            webhooks: Webhooks::new(config),
            moderations,
            direct,
            natives,
            keys,
            sign_on,
            anonymous: [
                Identity::anonymous(Permissions::ALL),
                Identity::anonymous([Permission::Invoke].into_iter().collect()),
            ],
            registries: self
                .registries
                .iter()
                .map(|(name, (_, kept))| (name.clone(), Arc::clone(kept)))
                .collect(),
            config: Arc::new(config.clone()),
            body_limits: BodyLimits {
                size: server.max_body.0 as usize,
                idle: server.body_idle_timeout.0,
                total: server.body_timeout.0,
            },
            max_answer: server.max_answer.0 as usize,
            heartbeat: server.stream_heartbeat.0,
            deployments,
            openapi: OpenApi::default(),
            rules: everywhere,
            provider_rules,
            providers: config.providers.keys().filter_map(|name| providers.get(&**name).cloned()).collect(),
        })
    }

    /// Registries whose settings did not change stay, with what they know.
    fn registries(&self, config: &Config) -> Result<HashMap<String, (String, Arc<Registry>)>, String> {
        let mut found = HashMap::new();
        for (name, written) in &config.registries {
            // Secrets take part by digest only.
            let secret = written.token.as_ref().or(written.password.as_ref()).map_or("", |s| s.expose());
            let shape = format!("{written:?} {} {:?}", written.uri.as_str(), digest(secret.as_bytes()));
            let kept = self.registries.get(name).filter(|(known, _)| *known == shape);
            let registry = match kept {
                Some((_, kept)) => Arc::clone(kept),
                None => registry(name, written)?,
            };
            found.insert(name.clone(), (shape, registry));
        }
        Ok(found)
    }
}

/// The credential of each provider, opened apart from any snapshot.
pub(crate) fn credentials(config: &Config) -> Vec<(String, Result<Credential, String>)> {
    let credentials = Credentials::new(tokio::runtime::Handle::current());
    let open = |(name, written): (&String, _)| {
        let opened = providers::open(name, written, config, &credentials);
        (name.clone(), opened.map(|(provider, _)| provider.credential))
    };
    config.providers.iter().map(open).collect()
}

struct Resolver<'a> {
    config: &'a Config,
    providers: &'a HashMap<&'a str, Arc<Provider>>,
    registries: &'a HashMap<String, (String, Arc<Registry>)>,
    models: &'a Arc<Models>,
    routes: HashMap<&'a str, Arc<Route<Target>>>,
    deployments: Vec<Arc<Deployment>>,
}

impl<'a> Resolver<'a> {
    fn endpoint(&mut self, endpoint: &'a EndpointConfig) -> Result<Arc<Route<Target>>, String> {
        if let Some(known) = self.routes.get(endpoint.name.as_str()) {
            return Ok(Arc::clone(known));
        }
        let route = Arc::new(self.route(endpoint, &endpoint.route, endpoint.kind)?);
        self.routes.insert(&endpoint.name, Arc::clone(&route));
        Ok(route)
    }

    fn route(
        &mut self,
        endpoint: &'a EndpointConfig,
        route: &'a RouteConfig,
        kind: EndpointType,
    ) -> Result<Route<Target>, String> {
        Ok(match route {
            RouteConfig::Target(target) => self.target(endpoint, target, kind)?,
            RouteConfig::Split(split) => {
                let branches = split
                    .0
                    .iter()
                    .map(|(target, weight)| Ok((*weight, self.target(endpoint, target, kind)?)));
                Route::Split(branches.collect::<Result<_, String>>()?)
            }
            RouteConfig::Fallback(nodes) => {
                let nodes = nodes.iter().map(|node| self.route(endpoint, node, kind));
                Route::Fallback(nodes.collect::<Result<_, String>>()?)
            }
            RouteConfig::Chain(_) | RouteConfig::Ensemble(_) | RouteConfig::Switch(_) => {
                self.graph(endpoint, route)?
            }
        })
    }

    fn target(
        &mut self,
        endpoint: &'a EndpointConfig,
        target: &'a str,
        kind: EndpointType,
    ) -> Result<Route<Target>, String> {
        let config = self.config;
        if let Ok(model) = ModelRef::parse(target) {
            return self.model(endpoint, target, model, kind);
        }
        if let Some(other) = config.endpoints.iter().find(|other| other.name == target) {
            // The check before us found no cycle.
            return Ok(Route::Shared(self.endpoint(other)?));
        }
        let (provider, model) = target.split_once('/').ok_or_else(|| format!("`{target}` leads nowhere"))?;
        let provider = self.providers.get(provider).ok_or_else(|| format!("`{target}` leads nowhere"))?;
        let provider = Arc::clone(provider.for_model(model));
        let model = match model.split_once('*') {
            Some((before, after)) => TargetModel::Pattern(before.into(), after.into()),
            None => TargetModel::Fixed(model.into(), provider.known(model)),
        };
        let operation = kind.operation();
        let kind = TargetKind::Provider { provider, model };
        check_header(target)?;
        Ok(Route::Target(Arc::new(Target { label: target.into(), kind, operation })))
    }

    fn model(
        &mut self,
        endpoint: &EndpointConfig,
        target: &str,
        model: ModelRef,
        kind: EndpointType,
    ) -> Result<Route<Target>, String> {
        let name = endpoint.registry.as_deref().unwrap_or("default");
        let registry = match self.registries.get(name) {
            Some((_, registry)) => Arc::clone(registry),
            // Only `file://` models need no registry; the check before us saw to that.
            None => {
                Registry::new(RegistryConfig::new("local", "./mlruns")).map_err(|error| error.to_string())?
            }
        };
        let serving = &endpoint.serving.with_class(&self.config.models.instance_classes);
        let (instances, batching) = (serving.instances(), serving.batching.unwrap_or_default());
        let deployment = self.models.deploy(DeploymentSpec {
            endpoint: endpoint.name.as_str().into(),
            registry,
            model,
            runtime: match serving.runtime {
                RuntimeChoice::Auto => millgate_models::RuntimeChoice::Auto,
                RuntimeChoice::Native => millgate_models::RuntimeChoice::Native,
                RuntimeChoice::Onnx => millgate_models::RuntimeChoice::Onnx,
                RuntimeChoice::Worker => millgate_models::RuntimeChoice::Worker,
            },
            env_manager: match serving.env_manager {
                EnvManager::Local => millgate_models::EnvManager::Local,
                EnvManager::Uv => millgate_models::EnvManager::Uv,
                EnvManager::Virtualenv => millgate_models::EnvManager::Virtualenv,
            },
            environment: serving.environment.as_ref().map(|folder| {
                let folder = Path::new(folder.as_str());
                std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned())
            }),
            instances: Instances {
                min: instances.min as usize,
                max: instances.max as usize,
                idle_timeout: serving.idle_timeout.0,
                schedule: instances.schedule.iter().map(window).collect(),
            },
            batching: Batching {
                wanted: batching.enabled,
                max_rows: batching.max_rows,
                max_bytes: usize::try_from(batching.max_bytes.0).unwrap_or(usize::MAX),
                max_wait: batching.max_wait.0,
            },
            idempotent: serving.idempotent,
            threads: serving.threads.unwrap_or(1),
            device: serving.device.as_deref().filter(|device| *device != "cpu").map(Arc::from),
            cpus: serving.cpus.map(|cpus| cpus as usize),
            max_rss_bytes: serving.max_rss.map(|size| size.0),
            timeout: serving.timeout.0,
            memory_limit_bytes: serving.memory_limit.map(|size| size.0),
            network_allowed: serving.network == Network::Allow,
            compat_mlflow: serving.compat == Compat::Mlflow,
            tolerance: serving.tolerance,
            keep_previous: serving.keep_previous.0,
            chat: kind == EndpointType::Chat,
        });
        if !self.deployments.iter().any(|known| Arc::ptr_eq(known, &deployment)) {
            self.deployments.push(Arc::clone(&deployment));
        }
        let operation = kind.operation();
        let kind = match kind {
            EndpointType::Chat => TargetKind::Chat(Box::new(chat::target(deployment, serving, self.config))),
            _ => TargetKind::Model(deployment),
        };
        check_header(target)?;
        Ok(Route::Target(Arc::new(Target { label: target.into(), kind, operation })))
    }
}

fn window(written: &ScheduleConfig) -> Window {
    Window {
        days: written.days.0,
        from: written.from.0,
        to: written.to.0,
        zone: written.timezone.0.clone(),
        min: written.min as usize,
    }
}

/// Opens a registry; nothing is called yet.
pub(crate) fn registry(
    name: &str,
    written: &millgate_config::RegistryConfig,
) -> Result<Arc<Registry>, String> {
    let mut settings = RegistryConfig::new(name, written.uri.as_str());
    settings.auth = match (&written.token, &written.username, &written.password) {
        (Some(token), ..) => RegistryAuth::Token(token.expose().to_owned()),
        (None, Some(user), Some(password)) => {
            RegistryAuth::Basic { username: user.as_str().to_owned(), password: password.expose().to_owned() }
        }
        _ => RegistryAuth::None,
    };
    settings.allow_local_artifacts = written.allow_local_artifacts;
    if let Some(interval) = written.poll_interval {
        settings.poll_interval = interval.0;
    }
    if let Some(timeout) = written.timeout {
        settings.timeout = timeout.0;
    }
    Registry::new(settings).map_err(|error| format!("registries.{name}: {error}"))
}

/// Whether answers can say a name in a header.
fn check_header(text: &str) -> Result<(), String> {
    HeaderValue::from_str(text).map(drop).map_err(|_| format!("`{text}` cannot stand in a header"))
}

fn direct_endpoint(
    name: &str,
    provider: &Arc<Provider>,
    kind: EndpointType,
    rules: Vec<Rule>,
) -> Result<Endpoint, String> {
    let label = format!("{name}/*");
    check_header(&label)?;
    let target = Target {
        label: label.as_str().into(),
        kind: TargetKind::Provider { provider: Arc::clone(provider), model: TargetModel::Named },
        operation: kind.operation(),
    };
    Ok(Endpoint {
        name: name.into(),
        kind,
        path: None,
        route: Arc::new(Route::Target(Arc::new(target))),
        rules,
        config: EndpointConfig {
            name: name.to_owned(),
            aliases: Vec::new(),
            kind,
            path: None,
            route: RouteConfig::Target(label),
            registry: None,
            limits: Vec::new(),
            serving: millgate_config::ServingConfig::default(),
            audit: None,
        },
        shown_model: None,
    })
}

fn shown_model(route: &Route<Target>) -> Option<(String, String)> {
    match route {
        Route::Target(target) => match &target.kind {
            TargetKind::Provider { provider, model } => {
                let model = match model {
                    TargetModel::Fixed(name, _) => name.to_string(),
                    TargetModel::Pattern(before, after) => format!("{before}*{after}"),
                    TargetModel::Named => String::new(),
                };
                Some((provider.kind.name.clone(), model))
            }
            TargetKind::Model(_) | TargetKind::Chat(_) => {
                Some(("mlflow".to_owned(), target.label.to_string()))
            }
        },
        Route::Shared(route) => shown_model(route),
        Route::Split(_) | Route::Fallback(_) | Route::Graph(_) => None,
    }
}
