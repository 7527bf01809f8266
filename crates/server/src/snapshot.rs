//! What runs: built whole from a checked [`Config`], never changed, swapped as one. A request keeps the one
//! it began with.

mod build;
mod chat;
mod graph;
pub(crate) mod known;
mod providers;

pub(crate) use build::{Builder, credentials, registry};
use known::{Known, KnownModels};

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use millgate_config::{Config, EndpointConfig, EndpointType};
use millgate_credential::Credential;
use millgate_dialect::Quirks;
use millgate_models::{ChatModel, Deployment, Registry};
use millgate_policy::Route;
use millgate_provider::{Family, ProviderKind};
use millgate_scoring::Template;
use millgate_types::{Dialect, Operation};
use millgate_upstream::{Deadlines, Origin};
use sha2::{Digest, Sha256};

use crate::body::BodyLimits;
use crate::dispatch::{ChatTarget, Described};
use crate::identity::Identity;
use crate::keys::{Keys, now_ms};
use crate::limits::Rule;
use crate::native::{self, Native};
use crate::openapi::OpenApi;
use crate::sign_on::SignOn;
use crate::standing::Standing;
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
