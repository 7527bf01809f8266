//! A tracking server over its REST API. No redirects are followed and nobody but the server itself is called:
//! the login must not travel.

use std::time::Duration;

use futures_util::StreamExt as _;
use millgate_types::{ModelRef, VersionSelector};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use url::Url;

use super::{Place, RegistryAuth, RegistryConfig, RegistryError, Resolved, join, text_of, what};

/// The largest JSON answer we read from a registry, in bytes.
const ANSWER_LIMIT: usize = 8 << 20;

/// Pages of logged models that are looked through for one run.
const PAGES: usize = 100;

pub(crate) struct HttpRegistry {
    registry: String,
    base: Url,
    client: Client,
    timeout: Duration,
}

/// One entry of an artifact folder.
pub(crate) struct Entry {
    pub(crate) path: String,
    pub(crate) is_dir: bool,
    pub(crate) size: u64,
}

impl HttpRegistry {
    pub(super) fn new(config: &RegistryConfig) -> Result<Self, String> {
        let mut base = Url::parse(&config.uri).map_err(|error| format!("the URI is not valid: {error}"))?;
        if !base.username().is_empty() || base.password().is_some() {
            return Err(
                "credentials do not belong into the URI; use `token` or `username` and `password`".to_owned()
            );
        }
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let mut headers = HeaderMap::new();
        let login = match &config.auth {
            RegistryAuth::None => None,
            RegistryAuth::Token(token) => Some(format!("Bearer {token}")),
            RegistryAuth::Basic { username, password } => {
                use base64::Engine as _;
                let pair = base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"));
                Some(format!("Basic {pair}"))
            }
        };
        if let Some(login) = login {
            let mut value =
                HeaderValue::from_str(&login).map_err(|_| "the token has characters a header cannot hold")?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        // Harmless when the binary has installed the same provider already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut builder = Client::builder()
            .default_headers(headers)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(config.timeout.min(Duration::from_secs(5)))
            .read_timeout(config.timeout);
        if base.scheme() == "http" {
            // Without TLS no certificate store need be read, and slim machines have none.
            builder = builder.tls_certs_only(std::iter::empty::<reqwest::Certificate>());
        }
        let client = builder.build().map_err(|error| format!("no HTTP client: {error}"))?;
        Ok(Self { registry: config.name.clone(), base, client, timeout: config.timeout })
    }

    fn unreachable(&self, reason: impl Into<String>) -> RegistryError {
        RegistryError::Unreachable { registry: self.registry.clone(), reason: reason.into() }
    }

    pub(super) fn refused(&self, reason: impl Into<String>) -> RegistryError {
        RegistryError::Refused { registry: self.registry.clone(), reason: reason.into() }
    }

    fn url(&self, segments: &[&str], query: &[(&str, &str)]) -> Result<Url, RegistryError> {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .map_err(|()| self.refused("the URI cannot carry paths"))?
            .pop_if_empty()
            .extend(segments.iter().flat_map(|segment| segment.split('/')));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(url)
    }

    pub(super) async fn probe(&self) -> Result<(), RegistryError> {
        let url = self.url(&["api/2.0/mlflow/registered-models/search"], &[("max_results", "1")])?;
        self.json(self.client.get(url))
            .await
            .map(drop)
            .map_err(|error| error.unwrap_or_else(|| self.refused("no such API")))
    }

    /// `Err(None)` is the registry's "does not exist".
    async fn json(&self, request: RequestBuilder) -> Result<Value, Option<RegistryError>> {
        let call = async {
            let answer = request.send().await.map_err(|error| self.unreachable(reason(&error)))?;
            let status = answer.status();
            let mut body = Vec::new();
            let mut stream = answer.bytes_stream();
            while let Some(chunk) = stream.next().await {
                let chunk = chunk.map_err(|error| self.unreachable(reason(&error)))?;
                if body.len() + chunk.len() > ANSWER_LIMIT {
                    return Err(self.refused("the answer is too large"));
                }
                body.extend_from_slice(&chunk);
            }
            Ok((status, body))
        };
        let (status, body) = tokio::time::timeout(self.timeout, call)
            .await
            .map_err(|_| self.unreachable("no answer in time"))??;
        let value: Option<Value> = serde_json::from_slice(&body).ok();
        if status.is_success() {
            return value
                .ok_or_else(|| Some(self.unreachable("the answer is not JSON: is this an MLflow server?")));
        }
        let code = value.as_ref().and_then(|value| value.get("error_code")).and_then(Value::as_str);
        Err(match (status, code) {
            // A missing alias is answered with the second.
            (_, Some("RESOURCE_DOES_NOT_EXIST"))
            | (StatusCode::BAD_REQUEST, Some("INVALID_PARAMETER_VALUE")) => None,
            (StatusCode::UNAUTHORIZED, _) => Some(self.refused("the login was refused (401)")),
            (StatusCode::FORBIDDEN, _) => Some(self.refused("the login may not read this model (403)")),
            (status, _) if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Some(self.unreachable(format!("status {}", status.as_u16())))
            }
            (StatusCode::NOT_FOUND, _) => {
                Some(self.refused("status 404 without an MLflow error: is this an MLflow server?"))
            }
            (status, _) => Some(self.refused(format!("status {}", status.as_u16()))),
        })
    }

    pub(super) async fn get(
        &self,
        path: &str,
        query: &[(&str, &str)],
        missing: impl FnOnce() -> String,
    ) -> Result<Value, RegistryError> {
        let url = self.url(&[path], query)?;
        self.json(self.client.get(url)).await.map_err(|error| {
            error.unwrap_or_else(|| RegistryError::NotFound {
                registry: self.registry.clone(),
                what: missing(),
            })
        })
    }

    pub(super) async fn resolve(&self, model: &ModelRef) -> Result<Resolved, RegistryError> {
        match model {
            ModelRef::Registered { name, selector } => self.registered(model, name, selector).await,
            ModelRef::Logged(id) => {
                let path = format!("api/2.0/mlflow/logged-models/{id}");
                let answer = self.get(&path, &[], || what(model)).await?;
                let uri = text_of(answer.pointer("/model/info/artifact_uri"))
                    .ok_or_else(|| self.refused("the logged model has no artifact address"))?;
                Ok(Resolved { version: id.clone(), identity: id.clone(), place: Place::Uri(uri) })
            }
            ModelRef::Run { run_id, path } => {
                let query = [("run_id", run_id.as_str())];
                let answer = self.get("api/2.0/mlflow/runs/get", &query, || what(model)).await?;
                let uri = text_of(answer.pointer("/run/info/artifact_uri"))
                    .ok_or_else(|| self.refused("the run has no artifact address"))?;
                let experiment = text_of(answer.pointer("/run/info/experiment_id")).unwrap_or_default();
                let (name, rest) = path.split_once('/').unwrap_or((path, ""));
                if let Some((id, uri)) = self.logged_by(run_id, &experiment, name).await? {
                    let place = Place::Uri(join(&uri, rest));
                    return Ok(Resolved { version: run_id.clone(), identity: join(&id, rest), place });
                }
                let place = Place::Uri(format!("{uri}/{path}"));
                Ok(Resolved { version: run_id.clone(), identity: format!("{run_id}/{path}"), place })
            }
            ModelRef::Path(_) => {
                Err(RegistryError::NotFound { registry: self.registry.clone(), what: what(model) })
            }
        }
    }

    /// The newest model of this name that a run logged, and its address. MLflow 3 keeps models beside runs; a
    /// server without logged models has none.
    async fn logged_by(
        &self,
        run: &str,
        experiment: &str,
        name: &str,
    ) -> Result<Option<(String, String)>, RegistryError> {
        // The filter's quotes cannot be escaped.
        if name.contains(['\'', '"', '`']) {
            return Ok(None);
        }
        let mut page = None;
        for _ in 0..PAGES {
            let url = self.url(&["api/2.0/mlflow/logged-models/search"], &[])?;
            let asked = serde_json::json!({
                "experiment_ids": [experiment],
                "filter": format!("name = '{name}'"),
                "page_token": page,
            });
            let request = self.client.post(url).header(CONTENT_TYPE, "application/json");
            let answer = match self.json(request.body(asked.to_string())).await {
                Ok(answer) => answer,
                Err(Some(error @ RegistryError::Unreachable { .. })) => return Err(error),
                Err(_) => return Ok(None),
            };
            let models =
                answer.get("models").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            let info = |model: &Value, field: &str| text_of(model.pointer(&format!("/info/{field}")));
            let found = models.iter().find(|model| info(model, "source_run_id").as_deref() == Some(run));
            if let Some(model) = found {
                return Ok(info(model, "model_id").zip(info(model, "artifact_uri")));
            }
            page = text_of(answer.get("next_page_token")).filter(|token| !token.is_empty());
            if page.is_none() {
                break;
            }
        }
        Ok(None)
    }

    async fn registered(
        &self,
        model: &ModelRef,
        name: &str,
        selector: &VersionSelector,
    ) -> Result<Resolved, RegistryError> {
        const API: &str = "api/2.0/mlflow/";
        let missing = || what(model);
        let found = match selector {
            VersionSelector::Version(version) => {
                let number = version.to_string();
                let query = [("name", name), ("version", number.as_str())];
                self.get(&format!("{API}model-versions/get"), &query, missing).await
            }
            VersionSelector::Alias(alias) => {
                let query = [("name", name), ("alias", alias.as_str())];
                self.get(&format!("{API}registered-models/alias"), &query, missing).await
            }
            VersionSelector::Stage(stage) => {
                let query = [("name", name), ("stages", stage.as_str())];
                self.get(&format!("{API}registered-models/get-latest-versions"), &query, missing).await
            }
            VersionSelector::Latest => {
                let query = [("name", name)];
                self.get(&format!("{API}registered-models/get-latest-versions"), &query, missing).await
            }
        };
        let answer = match found {
            Err(RegistryError::NotFound { registry, what }) => {
                // Say which half is wrong: the model, or its version, stage or alias.
                let query = [("name", name)];
                let path = format!("{API}registered-models/get");
                self.get(&path, &query, || format!("model `{name}`")).await?;
                return Err(RegistryError::NotFound { registry, what });
            }
            other => other?,
        };
        let version = match answer.get("model_version") {
            Some(version) => version,
            None => answer
                .get("model_versions")
                .and_then(Value::as_array)
                .and_then(|versions| {
                    versions.iter().max_by_key(|version| {
                        text_of(version.get("version")).and_then(|n| n.parse::<u64>().ok())
                    })
                })
                .ok_or_else(|| RegistryError::NotFound {
                    registry: self.registry.clone(),
                    what: what(model),
                })?,
        };
        let number =
            text_of(version.get("version")).ok_or_else(|| self.refused("a version without a number"))?;
        if let Some(status) = text_of(version.get("status")).filter(|status| status != "READY") {
            return Err(self.refused(format!("version {number} of model `{name}` is {status}")));
        }
        let created = text_of(version.get("creation_timestamp")).unwrap_or_default();
        let source = text_of(version.get("source")).unwrap_or_default();
        Ok(Resolved {
            identity: format!("{name}/{number}/{created}/{source}"),
            place: Place::Version { name: name.to_owned(), version: number.clone() },
            version: number,
        })
    }

    /// The address of a version's files.
    pub(crate) async fn download_uri(&self, name: &str, version: &str) -> Result<String, RegistryError> {
        let query = [("name", name), ("version", version)];
        let path = "api/2.0/mlflow/model-versions/get-download-uri";
        let answer = self.get(path, &query, || format!("version {version} of model `{name}`")).await?;
        let uri = text_of(answer.get("artifact_uri"))
            .ok_or_else(|| self.refused("the version has no artifact address"))?;
        match uri.strip_prefix("models:/") {
            // Older servers answer the logged model's own URI.
            Some(id) if id.starts_with("m-") => {
                let path = format!("api/2.0/mlflow/logged-models/{id}");
                let answer = self.get(&path, &[], || format!("logged model `{id}`")).await?;
                text_of(answer.pointer("/model/info/artifact_uri"))
                    .ok_or_else(|| self.refused("the logged model has no artifact address"))
            }
            _ => Ok(uri),
        }
    }

    /// The path behind the server's artifact proxy, when the address leads there: `mlflow-artifacts:/P`, or this
    /// very server's `http://.../api/2.0/mlflow-artifacts/artifacts/P`.
    pub(crate) fn proxied_path(&self, uri: &str) -> Option<String> {
        let url = Url::parse(uri).ok()?;
        let path = match url.scheme() {
            // A host inside the address names the server; only ours is called.
            "mlflow-artifacts" => url.path().to_owned(),
            "http" | "https" if url.origin() == self.base.origin() => {
                let (_, rest) = url.path().split_once("/mlflow-artifacts/artifacts/")?;
                rest.to_owned()
            }
            _ => return None,
        };
        let path = path.trim_matches('/');
        (!path.is_empty() && path.split('/').all(|part| !matches!(part, "" | "." | "..")))
            .then(|| path.to_owned())
    }

    /// One folder behind the proxy.
    pub(crate) async fn list(&self, path: &str) -> Result<Vec<Entry>, RegistryError> {
        let query = [("path", path)];
        let answer = self
            .get("api/2.0/mlflow-artifacts/artifacts", &query, || "files for this model version".to_owned())
            .await?;
        let files = answer.get("files").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        Ok(files
            .iter()
            .filter_map(|file| {
                let size = text_of(file.get("file_size")).and_then(|size| size.parse().ok()).unwrap_or(0);
                Some(Entry {
                    path: file.get("path")?.as_str()?.to_owned(),
                    is_dir: file.get("is_dir").and_then(Value::as_bool).unwrap_or(false),
                    size,
                })
            })
            .collect())
    }

    /// One file behind the proxy into `to`; at most `limit` bytes. Answers the bytes written.
    pub(crate) async fn download(
        &self,
        path: &str,
        to: &std::path::Path,
        limit: u64,
    ) -> Result<u64, RegistryError> {
        let url = self.url(&["api/2.0/mlflow-artifacts/artifacts", path], &[])?;
        let answer = self.client.get(url).send().await.map_err(|error| self.unreachable(reason(&error)))?;
        if answer.status() != StatusCode::OK {
            let status = answer.status();
            let reason = format!("a model file was answered with status {}", status.as_u16());
            return Err(if status.is_server_error() {
                self.unreachable(reason)
            } else {
                self.refused(reason)
            });
        }
        let disk = |error: std::io::Error| self.refused(format!("the artifact cache: {}", error.kind()));
        let mut file = tokio::fs::File::create_new(to).await.map_err(disk)?;
        let mut written = 0_u64;
        let mut stream = answer.bytes_stream();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| self.unreachable(reason(&error)))?;
            written += chunk.len() as u64;
            if written > limit {
                return Err(self.refused("the model's files are larger than allowed"));
            }
            file.write_all(&chunk).await.map_err(disk)?;
        }
        file.flush().await.map_err(disk)?;
        Ok(written)
    }
}

/// The cause in a few words. reqwest's own text names the URL.
fn reason(error: &reqwest::Error) -> String {
    let word = if error.is_timeout() {
        "no answer in time"
    } else if error.is_connect() {
        "no connection"
    } else if error.is_body() || error.is_decode() {
        "the answer broke off"
    } else {
        "the request failed"
    };
    let mut deepest: &dyn std::error::Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    match deepest.downcast_ref::<std::io::Error>() {
        Some(io) => format!("{word} ({})", io.kind()),
        None => word.to_owned(),
    }
}
