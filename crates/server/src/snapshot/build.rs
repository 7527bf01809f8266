//! From a checked [`Config`] to what runs.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use http::HeaderValue;
use millgate_config::{
    Compat, Config, EndpointConfig, EndpointType, EnvManager, KeyMode, Network, RouteConfig, RuntimeChoice,
    ScheduleConfig,
};
use millgate_credential::{Credential, Credentials};
use millgate_models::{
    Batching, Deployment, DeploymentSpec, Instances, Models, Registry, RegistryAuth, RegistryConfig, Window,
};
use millgate_policy::Route;
use millgate_types::{ModelRef, Permission, Permissions, Principal};

use super::{Endpoint, Provider, Snapshot, Target, TargetKind, TargetModel, chat, digest, providers};
use crate::body::BodyLimits;
use crate::identity::{Identity, scope};
use crate::limits::{Limits, Rule};
use crate::native::Native;
use crate::openapi::OpenApi;
use crate::sign_on::{SignOn, Sources};
use crate::standing::Standings;
use crate::webhook::Webhooks;

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

pub(super) struct Resolver<'a> {
    pub(super) config: &'a Config,
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

    pub(super) fn route(
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
