//! HashiCorp Vault's key-value engine, version 2: secrets are read when they are asked for, kept for a while, and read
//! again. While Vault does not answer, the last ones are good.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use millgate_config::VaultConfig;
use reqwest::{Client, StatusCode};
use serde_json::{Map, Value, json};
use tokio::sync::Mutex;
use url::Url;

/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Calls of one look-up: the second with a fresh token.
const ATTEMPTS: usize = 2;
/// The largest answer, in bytes.
const LARGEST: usize = 1 << 20;

/// Why Vault gave no secret. The text holds no token and no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// It cannot be reached, or answers with an error of its own.
    #[error("Vault does not answer: {0}")]
    Unreachable(String),
    /// It does not let us.
    #[error("Vault refuses: {0}")]
    Refused(String),
    /// There is no such secret or field.
    #[error("{0}")]
    Missing(String),
}

struct Read {
    at: Instant,
    fields: Map<String, Value>,
}

#[derive(Default)]
struct State {
    token: Option<(String, Option<Instant>)>,
    known: HashMap<String, Read>,
    failing: bool,
}

/// A Vault, and what was read from it.
pub struct Vault {
    config: VaultConfig,
    address: Url,
    client: Client,
    state: Mutex<State>,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vault").field("address", &self.address.as_str()).finish_non_exhaustive()
    }
}

impl Vault {
    /// Nothing is asked yet. The error says what is wrong with the settings.
    pub fn new(config: &VaultConfig) -> Result<Self, VaultError> {
        let wrong = |error: &dyn std::fmt::Display| VaultError::Unreachable(error.to_string());
        let address = Url::parse(config.address.as_str()).map_err(|error| wrong(&error))?;
        let mut client =
            Client::builder().timeout(PATIENCE).redirect(reqwest::redirect::Policy::none()).no_proxy();
        if address.scheme() == "http" {
            // Without TLS no certificate store need be read, and slim machines have none.
            client = client.tls_certs_only(std::iter::empty::<reqwest::Certificate>());
        }
        let client = client.build().map_err(|error| wrong(&error))?;
        Ok(Self { config: config.clone(), address, client, state: Mutex::default() })
    }

    /// Whether it was made for these settings.
    #[must_use]
    pub fn is_for(&self, config: &VaultConfig) -> bool {
        self.config == *config
    }

    /// A field of the secret at `path` (the mount, then the secret's own path). What was read within the last `refresh` is
    /// not asked for again; what was read before is given where Vault does not answer now.
    pub async fn field(&self, path: &str, field: &str) -> Result<String, VaultError> {
        let mut state = self.state.lock().await;
        let fresh = |read: &Read| read.at.elapsed() < self.config.refresh.0;
        if !state.known.get(path).is_some_and(fresh) {
            match self.read(path, &mut state).await {
                Ok(fields) => {
                    state.known.insert(path.to_owned(), Read { at: Instant::now(), fields });
                    if std::mem::replace(&mut state.failing, false) {
                        tracing::info!("Vault answers again");
                    }
                }
                Err(error @ VaultError::Missing(_)) => {
                    state.known.remove(path);
                    return Err(error);
                }
                Err(error) => {
                    if !std::mem::replace(&mut state.failing, true) {
                        tracing::error!(%error, "secrets of Vault are those read before");
                    }
                    match state.known.get_mut(path) {
                        // Asked again at the next refresh, not at every look.
                        Some(known) => known.at = Instant::now(),
                        None => return Err(error),
                    }
                }
            }
        }
        let found = state.known.get(path).and_then(|read| read.fields.get(field));
        match found {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(other @ (Value::Number(_) | Value::Bool(_))) => Ok(other.to_string()),
            _ => Err(VaultError::Missing(format!("Vault's secret `{path}` has no field `{field}`"))),
        }
    }

    async fn read(&self, path: &str, state: &mut State) -> Result<Map<String, Value>, VaultError> {
        let (mount, own) = path.split_once('/').unwrap_or((path, ""));
        let url = self.url(&[mount, "data"].into_iter().chain(own.split('/')).collect::<Vec<_>>());
        let mut refused = String::new();
        for _ in 0..ATTEMPTS {
            let token = self.token(state).await?;
            let (status, mut answer) =
                self.send(self.client.get(url.clone()).header("X-Vault-Token", token)).await?;
            match status {
                StatusCode::OK => match answer["data"]["data"].take() {
                    Value::Object(fields) => return Ok(fields),
                    _ => {
                        let text =
                            format!("`{mount}` is no key-value engine of version 2, or `{own}` was deleted");
                        return Err(VaultError::Missing(text));
                    }
                },
                StatusCode::NOT_FOUND => {
                    return Err(VaultError::Missing(format!("Vault holds no secret `{path}`")));
                }
                StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => {
                    refused = format!("the token may not read `{path}`");
                    state.token = None;
                }
                other => return Err(VaultError::Unreachable(format!("status {}", other.as_u16()))),
            }
        }
        Err(VaultError::Refused(refused))
    }

    /// The token, got anew where it has ended.
    async fn token(&self, state: &mut State) -> Result<String, VaultError> {
        let good = |until: &Option<Instant>| until.is_none_or(|until| Instant::now() < until);
        if let Some((token, _)) = state.token.as_ref().filter(|(_, until)| good(until)) {
            return Ok(token.clone());
        }
        let Some(kubernetes) = &self.config.kubernetes else {
            let token = self.config.token.as_ref().map(|token| token.expose().to_owned());
            return token.ok_or_else(|| VaultError::Refused("no token is configured".to_owned()));
        };
        let file = &kubernetes.token_file;
        let account = tokio::fs::read_to_string(file).await.map_err(|error| {
            VaultError::Refused(format!("the service account's token cannot be read: {}", error.kind()))
        })?;
        let url = self.url(&["auth", &kubernetes.mount, "login"]);
        let body = json!({ "role": kubernetes.role, "jwt": account.trim() });
        let (status, answer) = self.send(self.client.post(url).json(&body)).await?;
        let auth = &answer["auth"];
        let Some(token) = auth["client_token"].as_str().filter(|_| status == StatusCode::OK) else {
            let text = format!("the role `{}` is not given to this service account", kubernetes.role);
            return Err(VaultError::Refused(text));
        };
        // Early: the clock here and the one there need not agree.
        let lease = auth["lease_duration"].as_u64().filter(|seconds| *seconds > 0);
        let until =
            lease.and_then(|seconds| Instant::now().checked_add(Duration::from_secs(seconds * 4 / 5)));
        state.token = Some((token.to_owned(), until));
        Ok(token.to_owned())
    }

    fn url(&self, segments: &[&str]) -> Url {
        let mut url = self.address.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().push("v1").extend(segments);
        }
        url
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<(StatusCode, Value), VaultError> {
        let request = match &self.config.namespace {
            Some(namespace) => request.header("X-Vault-Namespace", namespace),
            None => request,
        };
        let failed = |error: reqwest::Error| {
            let text = if error.is_timeout() {
                "no answer in time".to_owned()
            } else {
                error.without_url().to_string()
            };
            VaultError::Unreachable(text)
        };
        let mut answer = request.send().await.map_err(failed)?;
        let status = answer.status();
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(failed)? {
            if body.len() + piece.len() > LARGEST {
                return Err(VaultError::Unreachable("the answer is too large".to_owned()));
            }
            body.extend_from_slice(&piece);
        }
        Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
    }
}
