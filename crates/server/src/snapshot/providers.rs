//! From a provider as written to one that can be called: its address, its headers, its credential, its paths.

use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use millgate_config::{ChatApi, Config, ProviderConfig, ProviderKey};
use millgate_credential::{Credential, Credentials, Opened, Wanted};
use millgate_provider::{ProviderKind, Settings, complete};
use millgate_scoring::Template;
use millgate_types::{Dialect, Operation};
use millgate_upstream::{Deadlines, Origin};
use url::Url;

use super::known::KnownModels;
use super::{Encoded, Place, Provider, Transport, Way};
use crate::standing::Standing;

/// The provider, and its credential to keep once everything is in use.
pub(super) fn open(
    name: &str,
    written: &ProviderConfig,
    config: &Config,
    credentials: &Credentials,
) -> Result<(Provider, Opened), String> {
    let kind = millgate_provider::kind(&written.kind)
        .ok_or_else(|| format!("providers.{name}: `{}` is not a kind of provider", written.kind))?;
    let settings = written
        .settings(kind)
        .map_err(|missing| format!("providers.{name}: missing: {}", missing.join(", ")))?;
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (header, value) in &kind.headers {
        headers.insert(header.clone(), value.clone());
    }
    if let Some((header, value)) = written.api_key.as_ref().and_then(|key| kind.auth_header(key.expose())) {
        headers.insert(header, value);
    }
    for (header, value) in &written.headers {
        let named =
            HeaderName::from_bytes(header.as_bytes()).map_err(|_| format!("`{header}` is not a header"))?;
        let mut value = HeaderValue::from_str(value.expose())
            .map_err(|_| format!("providers.{name}: a value cannot stand in the header `{header}`"))?;
        value.set_sensitive(true);
        headers.insert(named, value);
    }
    let route_timeout =
        std::env::var("MLFLOW_GATEWAY_ROUTE_TIMEOUT_SECONDS").ok().and_then(|t| t.parse().ok());
    let deadlines = Deadlines {
        connect: written.connect_timeout.map_or(Duration::from_secs(5), |period| period.0),
        head: written.timeout.map_or(Duration::from_secs(route_timeout.unwrap_or(300)), |period| period.0),
        idle: config.server.stream_idle_timeout.0,
        total: config.server.answer_timeout.0,
    };
    let base = match &written.base_url {
        Some(base) => Some(base.as_str().to_owned()),
        None => kind.base_url(&settings),
    };
    let base = base.map(|base| Url::parse(&base)).transpose();
    let base = base.map_err(|error| format!("providers.{name}.base_url: {error}"))?;
    let (transport, prefix) = match &base {
        _ if kind.name == "mock" => (Transport::Mock, String::new()),
        None => return Err(format!("providers.{name}: `base_url` is missing")),
        Some(url) => {
            let host = url.host_str().unwrap_or_default();
            let port = url.port_or_known_default().unwrap_or(443);
            let origin = Origin::new(url.scheme() == "https", host, port)
                .ok_or_else(|| format!("providers.{name}.base_url: the host cannot be called"))?;
            (Transport::Http(Arc::new(origin)), url.path().trim_end_matches('/').to_owned())
        }
    };
    let opened = credentials
        .open(&Wanted {
            name,
            written: written.credential.as_ref(),
            has_key: written.api_key.is_some() || !written.api_keys.is_empty(),
            kind,
            settings: &settings,
            base: base.as_ref(),
        })
        .map_err(|error| format!("providers.{name}: {error}"))?;
    if !matches!(opened.credential, Credential::Fixed) {
        // What the credential adds stands alone.
        headers.remove(AUTHORIZATION);
    }
    let version = written.api_version.as_deref().filter(|_| kind.takes_version());
    let paths = Paths { name, prefix: &prefix, version, settings: &settings };
    let mut quirks = kind.quirks.clone();
    if let Some(purpose) = &written.input_type {
        purpose.clone_into(&mut quirks.input_type);
    }
    let mut provider = Provider {
        name: name.into(),
        kind,
        transport,
        headers,
        deadlines,
        first_content: written.first_content_timeout.map(|period| period.0),
        credential: opened.credential.clone(),
        scorer: written.scorer.as_ref().map(|scorer| {
            let (request, response) = (scorer.request.clone(), scorer.response.clone());
            Arc::new(Template { request, response })
        }),
        described: Arc::default(),
        rules: Arc::default(),
        standing: Arc::new(Standing::unwatched()),
        ways: match &written.scorer {
            Some(scorer) => vec![paths.way(Dialect::Scoring, Operation::Predict, false, &scorer.path)?],
            None => paths.of_chats(written.api, paths.ways(kind)?),
        },
        quirks,
        base: prefix.clone(),
        families: Vec::new(),
        models: Arc::new(KnownModels::new(written.models.clone(), &config.catalogue)),
    };
    for family in &kind.families {
        let ways = paths.ways(&family.kind)?;
        let quirks = family.kind.quirks.clone();
        let member = Provider { kind: &family.kind, ways, quirks, families: Vec::new(), ..provider.clone() };
        provider.families.push((family, Arc::new(member)));
    }
    Ok((provider, opened))
}

/// The header of each of several keys. One that the configuration sets itself stands instead of them all.
pub(super) fn key_headers(
    name: &str,
    written: &ProviderConfig,
    ours: &HeaderMap,
    kind: &ProviderKind,
) -> Result<Vec<Option<(HeaderName, HeaderValue)>>, String> {
    let header = |(place, key): (usize, &ProviderKey)| {
        let header = kind.auth_header(key.key.expose());
        let header = header.ok_or_else(|| format!("providers.{name}.api_keys[{place}] cannot be sent"))?;
        Ok(Some(header).filter(|(name, _)| !ours.contains_key(name)))
    };
    written.api_keys.iter().enumerate().map(header).collect()
}

/// What paths are completed with.
struct Paths<'a> {
    name: &'a str,
    prefix: &'a str,
    version: Option<&'a str>,
    settings: &'a Settings,
}

impl Paths<'_> {
    fn ways(&self, kind: &ProviderKind) -> Result<Vec<Way>, String> {
        let ways = kind.ways(self.version.is_some()).into_iter();
        ways.map(|way| self.way(way.dialect, way.operation, way.stream, way.path)).collect()
    }

    fn way(&self, dialect: Dialect, operation: Operation, stream: bool, path: &str) -> Result<Way, String> {
        let prefix = self.prefix;
        let path = complete(path, self.settings);
        let path = path.replace("{version}", &Encoded(self.version.unwrap_or_default()).to_string());
        let place = match path.split_once("{model}") {
            Some((before, after)) => Place::ByModel(format!("{prefix}{before}"), after.to_owned()),
            None => Place::Fixed(format!("{prefix}{path}")),
        };
        let whole = format!("{prefix}{}", path.replace("{model}", "m"));
        whole.parse::<Uri>().map_err(|error| format!("providers.{}: {error}", self.name))?;
        Ok(Way { dialect, operation, stream, place })
    }

    /// The ways, where chats go by the API that the configuration says.
    fn of_chats(&self, api: Option<ChatApi>, mut ways: Vec<Way>) -> Vec<Way> {
        if api == Some(ChatApi::Responses) {
            ways.retain(|way| way.operation != Operation::Chat || way.dialect == Dialect::Responses);
            if !ways.iter().any(|way| way.dialect == Dialect::Responses) {
                let place = Place::Fixed(format!("{}/responses", self.prefix));
                ways.push(Way {
                    dialect: Dialect::Responses,
                    operation: Operation::Chat,
                    stream: false,
                    place,
                });
            }
        }
        ways
    }
}
