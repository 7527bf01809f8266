//! Rules that one field alone cannot break: names, references, types, cycles, addresses.

mod credential;
mod guessable;
mod limits;
mod naming;
mod route;
mod secrets;
mod sign_on;
mod upkeep;

use std::net::SocketAddr;
use std::path::Path;

use millgate_provider::ProviderKind;
use millgate_types::Dialect;
use url::Url;

use crate::document::{Config, EndpointType};
use crate::load::{Problems, nearest};
use crate::node::{Node, Step};
use crate::provider::{ChatApi, ProviderConfig};
use crate::serving::{EnvManager, RuntimeChoice, ServingConfig};
use crate::value::Period;

use route::Expected;

/// Paths that the gateway itself serves.
const RESERVED: [&str; 18] = [
    "/v1",
    "/v1beta",
    "/v2",
    "/api",
    "/admin",
    "/auth",
    "/gateway",
    "/endpoints",
    "/ui",
    "/webhooks",
    "/health",
    "/livez",
    "/readyz",
    "/metrics",
    "/openapi.json",
    "/docs",
    "/ping",
    "/version",
];

struct Checker<'a> {
    config: &'a Config,
    tree: &'a Node,
    problems: &'a mut Problems,
}

/// Reports every broken rule.
pub(crate) fn check(config: &Config, tree: &Node, problems: &mut Problems) {
    let mut checker = Checker { config, tree, problems };
    checker.top();
    checker.server();
    checker.providers();
    checker.registries();
    checker.access();
    checker.sign_on();
    checker.secrets();
    checker.budgets();
    checker.endpoints();
    checker.natives();
}

macro_rules! steps {
    ($($step:expr),* $(,)?) => { &[$(Step::from($step)),*] };
}
use steps;

impl From<&str> for Step {
    fn from(name: &str) -> Self {
        Self::Member(name.to_owned())
    }
}

impl From<usize> for Step {
    fn from(index: usize) -> Self {
        Self::Item(index)
    }
}

impl Checker<'_> {
    /// The node at `steps`, or the nearest one around it.
    fn node(&self, steps: &[Step]) -> &Node {
        (0..=steps.len()).rev().find_map(|length| self.tree.at(&steps[..length])).unwrap_or(self.tree)
    }

    fn error(&mut self, steps: &[Step], reason: impl Into<String>, hint: impl Into<String>) {
        if self.problems.taken.iter().any(|taken| taken == steps) {
            return;
        }
        let node = self.node(steps).clone();
        self.problems.error(&node, reason, hint);
    }

    fn warning(&mut self, steps: &[Step], reason: impl Into<String>, hint: impl Into<String>) {
        let node = self.node(steps).clone();
        self.problems.warning(&node, reason, hint);
    }

    fn top(&mut self) {
        if self.config.version != 1 {
            self.error(steps!["version"], "this version of the format is not known", "use `version: 1`");
        }
        if let Some(listen) = &self.config.listen
            && listen.as_str().parse::<SocketAddr>().is_err()
        {
            self.error(steps!["listen"], "expected an address and a port", "for example `127.0.0.1:5000`");
        }
    }

    /// Every duration but those of the drain means something only above zero.
    fn above_zero(&mut self, steps: &[Step], period: Option<Period>) {
        if period.is_some_and(|period| period.0.is_zero()) {
            self.error(steps, "the duration must be longer than zero", "");
        }
    }

    fn server(&mut self) {
        let server = &self.config.server;
        for (name, period) in [
            ("header_timeout", server.header_timeout),
            ("body_idle_timeout", server.body_idle_timeout),
            ("body_timeout", server.body_timeout),
            ("stream_idle_timeout", server.stream_idle_timeout),
            ("stream_heartbeat", server.stream_heartbeat),
            ("answer_timeout", server.answer_timeout),
        ] {
            self.above_zero(steps!["server", name], Some(period));
        }
    }

    fn providers(&mut self) {
        for (name, provider) in &self.config.providers {
            let at = |field: &str| [Step::from("providers"), Step::from(name.as_str()), Step::from(field)];
            if name.contains('/') || name.is_empty() {
                self.error(&at("kind")[..2], "a provider's name may not hold `/`", "");
            }
            match millgate_provider::kind(&provider.kind) {
                None => {
                    let kinds = millgate_provider::kinds().iter().map(|kind| kind.name.as_str());
                    let hint = nearest(&provider.kind, kinds.collect::<Vec<_>>().into_iter());
                    self.error(&at("kind"), format!("`{}` is not a kind of provider", provider.kind), hint);
                }
                Some(kind) => {
                    if provider.api == Some(ChatApi::Responses) && kind.dialect != Dialect::OpenAi {
                        let reason = format!("`{}` has no Responses API", provider.kind);
                        self.error(&at("api"), reason, "only providers with OpenAI's API may have it");
                    }
                    if kind.base_url.is_none() && provider.base_url.is_none() && kind.name != "mock" {
                        let hint = "for example `base_url: http://10.0.0.7:8000/v1`";
                        self.error(&at("base_url"), "the field `base_url` is missing", hint);
                    }
                    if provider.api_version.is_some() && !kind.takes_version() {
                        let what = format!("{} has no API versions", kind.title);
                        self.warning(&at("api_version"), &what, "the field is not used");
                    }
                    self.scorer(&at("scorer"), provider, kind);
                    self.credential(name, provider, kind);
                    self.upkeep(name, provider, kind);
                    if kind.needs_key()
                        && provider.api_key.is_none()
                        && provider.api_keys.is_empty()
                        && provider.credential.is_none()
                        && !self.problems.taken.iter().any(|taken| {
                            taken.starts_with(&at("credential")) || taken.starts_with(&at("api_keys"))
                        })
                        && provider.base_url.is_none()
                    {
                        let hint = "for example `api_key: env:OPENAI_API_KEY`";
                        self.error(&at("api_key"), "the field `api_key` is missing", hint);
                    }
                }
            }
            self.models(name, provider);
            self.above_zero(&at("timeout"), provider.timeout);
            self.above_zero(&at("connect_timeout"), provider.connect_timeout);
            self.above_zero(&at("first_content_timeout"), provider.first_content_timeout);
            if let Some(key) = &provider.api_key
                && key.is_clear_text()
            {
                self.warning(
                    &at("api_key"),
                    "the secret stands in clear text",
                    "use `env:NAME` or `file:PATH`",
                );
            }
            if let Some(base_url) = &provider.base_url
                && let Err(reason) = check_base_url(base_url.as_str())
            {
                self.error(&at("base_url"), reason, "");
            }
            for header in provider.headers.keys() {
                let valid = !header.is_empty()
                    && header.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
                if !valid {
                    self.error(&at("headers"), format!("`{header}` is not a header's name"), "");
                }
            }
        }
    }

    fn scorer(&mut self, at: &[Step], provider: &ProviderConfig, kind: &ProviderKind) {
        let is_scorer = kind.name == "http-scorer";
        match &provider.scorer {
            None if is_scorer => {
                let hint =
                    "for example `scorer: { path: /score, request: { data: $rows }, response: /result }`";
                self.error(at, "the field `scorer` is missing", hint);
            }
            Some(_) if !is_scorer => {
                self.error(at, format!("`{}` has an API of its own", kind.name), "use `kind: http-scorer`");
            }
            Some(scorer) if !scorer.path.starts_with('/') => {
                self.error(&[at, steps!["path"]].concat(), "the path must begin with `/`", "");
            }
            Some(scorer) if !scorer.response.is_empty() && !scorer.response.starts_with('/') => {
                let hint = "a JSON pointer begins with `/`, for example `/result/values`";
                self.error(&[at, steps!["response"]].concat(), "this is no JSON pointer", hint);
            }
            _ => {}
        }
    }

    fn registries(&mut self) {
        for (name, registry) in &self.config.registries {
            let at = |field: &str| [Step::from("registries"), Step::from(name.as_str()), Step::from(field)];
            let uri = registry.uri.as_str();
            if uri.contains("://") {
                let scheme = uri.split("://").next().unwrap_or_default();
                match scheme {
                    "http" | "https" => {
                        if let Err(reason) = check_base_url(uri) {
                            self.error(&at("uri"), reason, "");
                        }
                    }
                    "sqlite" | "file" => {}
                    other => {
                        let hint = "use `http://...`, `sqlite:///file.db`, `file:///folder` or a folder";
                        self.error(
                            &at("uri"),
                            format!("registries of the kind `{other}://` are not supported"),
                            hint,
                        );
                    }
                }
            }
            self.above_zero(&at("poll_interval"), registry.poll_interval);
            self.above_zero(&at("timeout"), registry.timeout);
            if registry.username.is_some() != registry.password.is_some() {
                self.error(&at("username"), "`username` and `password` belong together", "");
            }
            if registry.token.is_some() && registry.username.is_some() {
                self.error(&at("token"), "`token` and `username` exclude each other", "");
            }
        }
    }

    fn access(&mut self) {
        let access = &self.config.access;
        if let Some(pepper) = &access.key_pepper {
            let hint = "make one with `openssl rand -hex 32`";
            if pepper.expose().len() < 32 {
                self.error(steps!["access", "key_pepper"], "the pepper is shorter than 32 characters", hint);
            } else if let Some(reason) = guessable::guessable(pepper.expose()) {
                self.error(steps!["access", "key_pepper"], reason, hint);
            }
        }
        if self.config.audit.max_segment.0 < 1 << 10 {
            self.error(steps!["audit", "max_segment"], "a file of the audit log holds at least 1KiB", "");
        }
        self.above_zero(steps!["audit", "retention"], self.config.audit.retention);
        if let Some(store) = &self.config.store {
            let uri = store.expose();
            if !["postgres://", "postgresql://", "sqlite://"].iter().any(|scheme| uri.starts_with(scheme)) {
                let text = "expected postgres:// or sqlite://";
                self.error(steps!["store"], text, "without it a SQLite file in the data folder is used");
            } else if !uri.starts_with("sqlite") && access.key_pepper.is_none() {
                let hint = "all replicas must hash keys alike: `key_pepper: env:MILLGATE_KEY_PEPPER`";
                self.error(steps!["store"], "`access.key_pepper` is missing", hint);
            }
        }
        for (index, key) in access.declared.iter().enumerate() {
            let at = |field: &str| steps!["access", "static", index, field].to_vec();
            if access.declared[..index].iter().any(|other| other.name == key.name) {
                self.error(&at("name"), format!("the name `{}` is taken", key.name), "");
            }
            if access.declared[..index].iter().any(|other| other.key == key.key) {
                self.error(&at("key"), "another name has the same key", "");
            }
            if key.key.expose().len() < 16 {
                self.error(
                    &at("key"),
                    "the key is shorter than 16 characters",
                    "make one with `openssl rand -hex 24`",
                );
            } else if let Some(reason) = guessable::guessable(key.key.expose()) {
                self.error(&at("key"), reason, "make one with `openssl rand -hex 24`");
            }
            if key.key.is_clear_text() {
                self.warning(&at("key"), "the key stands in clear text", "use `env:NAME` or `file:PATH`");
            }
        }
    }

    fn endpoints(&mut self) {
        let endpoints = &self.config.endpoints;
        for (index, endpoint) in endpoints.iter().enumerate() {
            let at = |field: &str| steps!["endpoints", index, field].to_vec();
            self.names(index, endpoint);
            if let Some(path) = &endpoint.path {
                if let Err(reason) = check_path(path) {
                    self.error(&at("path"), reason, "for example `/predict/iris`");
                }
                if endpoints[..index].iter().any(|other| other.path.as_ref() == Some(path)) {
                    self.error(&at("path"), format!("the path `{path}` is taken"), "");
                }
            }
            self.limits(&endpoint.limits, &at("limits"));
            self.serving(index, &endpoint.serving);
            if endpoint.kind == EndpointType::Chat
                && matches!(endpoint.serving.runtime, RuntimeChoice::Native | RuntimeChoice::Onnx)
            {
                let at = [&at("serving")[..], steps!["runtime"]].concat();
                self.error(&at, "a model that chats runs in a worker", "leave `runtime` out");
            }
            self.route(endpoint, &endpoint.route, Expected::of(endpoint.kind), &at("route"));
        }
        for (name, class) in &self.config.models.instance_classes {
            let at =
                |field: &'static str| steps!["models", "instance_classes", name.as_str(), field].to_vec();
            self.placement(&at, class.device.as_deref(), class.cpus, class.threads);
        }
        self.cycles();
    }

    fn serving(&mut self, index: usize, serving: &ServingConfig) {
        let at = |field: &'static str| steps!["endpoints", index, "serving", field].to_vec();
        self.above_zero(&at("timeout"), Some(serving.timeout));
        self.above_zero(&at("idle_timeout"), Some(serving.idle_timeout));
        if serving.workers.is_some_and(|workers| !(1..=64).contains(&workers)) {
            self.error(&at("workers"), "expected 1 to 64 workers", "");
        }
        if let Some(instances) = &serving.instances {
            if serving.workers.is_some() {
                let hint = "`workers: 2` is short for `instances: { min: 2, max: 2 }`";
                self.error(&at("workers"), "both `workers` and `instances` are given", hint);
            }
            if !(1..=64).contains(&instances.max) || instances.min > instances.max {
                self.error(&at("instances"), "expected 0 <= `min` <= `max` and 1 <= `max` <= 64", "");
            }
            for (number, window) in instances.schedule.iter().enumerate() {
                let at = |field: &'static str| {
                    [at("instances"), steps!["schedule", number, field].to_vec()].concat()
                };
                if window.min == 0 || window.min > instances.max {
                    self.error(&at("min"), "expected 1 <= `min` <= `instances.max`", "");
                }
                if window.from == window.to {
                    self.error(
                        &at("to"),
                        "it ends when it begins",
                        "for the whole day: `from: \"00:00\", to: \"24:00\"`",
                    );
                }
            }
        }
        if let Some(class) = &serving.instance_class {
            let classes = &self.config.models.instance_classes;
            if !classes.contains_key(class) {
                let hint = nearest(class, classes.keys().map(String::as_str));
                let text = format!("no class `{class}` stands under `models.instance_classes`");
                self.error(&at("instance_class"), text, hint);
            }
        }
        let whole = serving.with_class(&self.config.models.instance_classes);
        self.placement(&at, serving.device.as_deref(), serving.cpus, serving.threads);
        let in_process = matches!(serving.runtime, RuntimeChoice::Native | RuntimeChoice::Onnx);
        if in_process && whole.device.as_ref().is_some_and(|device| device != "cpu") {
            self.error(
                &at("device"),
                "what runs in the gateway's process runs on the CPU",
                "use `runtime: worker`",
            );
        }
        if serving.tolerance.is_some_and(|tolerance| !(tolerance.is_finite() && tolerance >= 0.0)) {
            self.error(&at("tolerance"), "expected a number of 0 or more", "for example 1e-9");
        }
        let bulk = serving.bulk;
        if !(1..=100_000).contains(&bulk.max_rows)
            || !(1..=64).contains(&bulk.in_flight)
            || !(1024..=64 << 20).contains(&bulk.max_bytes.0)
            || !(1024..=1 << 40).contains(&bulk.max_file.0)
        {
            let hint = "`max_rows` 1 to 100000, `max_bytes` 1KiB to 64MiB, `in_flight` 1 to 64, `max_file` 1KiB to 1TiB";
            self.error(&at("bulk"), "the bounds of a batch make no sense", hint);
        }
        if serving.usd_per_million_tokens.is_some() {
            if self.config.endpoints[index].kind != EndpointType::Chat {
                let hint = "predictions have no tokens: leave it out";
                self.error(&at("usd_per_million_tokens"), "only models that chat have a price", hint);
            } else if serving.token_price().is_none() {
                self.error(&at("usd_per_million_tokens"), "a price is not below zero", "");
            }
        }
        if let Some(environment) = &serving.environment {
            if serving.env_manager != EnvManager::Local {
                let hint = "a prepared environment is used as it is: leave `env_manager` out";
                self.error(&at("env_manager"), "both `env_manager` and `environment` are given", hint);
            }
            if !Path::new(environment.as_str()).join("bin/python").is_file() {
                let hint = "name the folder of a virtual environment, as `python3 -m venv` makes one";
                self.error(&at("environment"), "there is no `bin/python` in this folder", hint);
            }
        }
        if let Some(batching) = serving.batching {
            if batching.max_rows == 0 || batching.max_bytes.0 == 0 {
                self.error(&at("batching"), "a call holds at least one row and one byte", "");
            }
            if batching.max_wait >= serving.timeout {
                self.error(&at("batching"), "`max_wait` is not below `timeout`", "");
            }
        }
    }

    fn placement(
        &mut self,
        at: &dyn Fn(&'static str) -> Vec<Step>,
        device: Option<&str>,
        cpus: Option<u32>,
        threads: Option<u32>,
    ) {
        let is_device = |text: &str| {
            let number = text.strip_prefix("cuda:").map(|number| number.parse::<u8>().is_ok());
            matches!(text, "cpu" | "cuda") || number == Some(true)
        };
        if device.is_some_and(|device| !is_device(device)) {
            self.error(&at("device"), "expected `cpu`, `cuda` or `cuda:0`", "");
        }
        if cpus == Some(0) {
            self.error(&at("cpus"), "expected at least one core", "");
        }
        if threads.is_some_and(|threads| !(1..=256).contains(&threads)) {
            self.error(&at("threads"), "expected 1 to 256 threads", "");
        }
    }

    /// Providers' own APIs.
    fn natives(&mut self) {
        let config = self.config;
        for (name, native) in &config.native {
            let at = |field: &str| steps!["native", name.as_str(), field].to_vec();
            let path = format!("/{name}");
            if !is_name(name) || name.contains('.') || path == "/rerank" {
                let reason = format!("`{name}` cannot be the first part of a path");
                self.error(&at("")[..2], reason, "use letters, digits, `_` and `-`, for example `openai`");
            } else if let Err(reason) = check_path(&path) {
                self.error(&at("")[..2], reason, "choose another name, for example `openai`");
            }
            let under = |path: &String| path.trim_start_matches('/').split('/').next() == Some(name);
            if let Some(index) = config.endpoints.iter().position(|e| e.path.as_ref().is_some_and(under)) {
                let reason = format!("paths under `{path}` belong to `native.{name}`");
                self.error(steps!["endpoints", index, "path"], reason, "choose another path");
            }
            match config.providers.get(&native.provider) {
                None => {
                    let hint = nearest(&native.provider, config.providers.keys().map(String::as_str));
                    self.error(&at("provider"), format!("unknown provider `{}`", native.provider), hint);
                }
                Some(provider) if provider.kind == "mock" => {
                    self.error(&at("provider"), "the mock provider has no API of its own", "");
                }
                Some(_) => {}
            }
            self.limits(&native.limits, &at("limits"));
        }
    }
}

fn is_name(name: &str) -> bool {
    name.len() <= 128
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
}

fn check_path(path: &str) -> Result<(), String> {
    if !path.starts_with('/') || path == "/" {
        return Err("a path starts with `/` and names something".to_owned());
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte);
    if !path.bytes().all(plain) || path.split('/').skip(1).any(|part| matches!(part, "" | "." | "..")) {
        return Err("a path holds letters, digits, `-`, `_`, `.`, `~` between single `/`".to_owned());
    }
    let under = |reserved: &str| {
        path.strip_prefix(reserved).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    match RESERVED.iter().find(|reserved| under(reserved)) {
        Some(reserved) => Err(format!("paths under `{reserved}` belong to the gateway")),
        None => Ok(()),
    }
}

fn check_base_url(text: &str) -> Result<(), String> {
    let url = Url::parse(text).map_err(|error| format!("not a URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("a URL of the kind `{}://` cannot be called", url.scheme()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("credentials do not belong into a URL".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("a base URL has no query and no fragment".to_owned());
    }
    match url.host_str() {
        None | Some("") => Err("the host is missing".to_owned()),
        Some("169.254.169.254" | "metadata.google.internal" | "[fd00:ec2::254]") => {
            Err("the cloud's metadata address is never called".to_owned())
        }
        Some(_) => Ok(()),
    }
}
