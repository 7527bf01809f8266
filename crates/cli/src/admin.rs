//! Talking to a running gateway by its admin API.

use std::time::Duration;

use anyhow::{Context as _, bail};
use reqwest::{Client, Method, StatusCode};
use serde_json::Value;
use url::Url;

use crate::args::Reach;
use crate::run::install_crypto;

/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running gateway.
pub(crate) struct Admin {
    client: Client,
    base: Url,
    key: Option<String>,
}

impl Admin {
    /// Runs `work` with the gateway that the arguments name; the key comes from `MILLGATE_ADMIN_KEY`.
    pub(crate) fn run<T>(
        reach: &Reach,
        work: impl AsyncFnOnce(Self) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        install_crypto()?;
        let base = Url::parse(&reach.url).with_context(|| format!("`{}` is no address", reach.url))?;
        if !matches!(base.scheme(), "http" | "https") {
            bail!("`{}` is no address of a gateway: http:// or https:// is expected", reach.url);
        }
        let key = std::env::var("MILLGATE_ADMIN_KEY").ok().filter(|key| !key.is_empty());
        let mut client =
            Client::builder().timeout(PATIENCE).redirect(reqwest::redirect::Policy::none()).no_proxy();
        if base.scheme() == "http" {
            // Without TLS no certificate store need be read, and slim machines have none.
            client = client.tls_certs_only(std::iter::empty::<reqwest::Certificate>());
        }
        let client = client.build()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(work(Self { client, base, key }))
    }

    /// One call. `path` is a list of segments below `/admin/v1`.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> anyhow::Result<Value> {
        let text = self.send(method, path, query, body, None).await?;
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }

    /// `POST`, if the object is in the state `expected` (an `ETag`).
    pub(crate) async fn change(
        &self,
        path: &[&str],
        body: &Value,
        expected: Option<&str>,
    ) -> anyhow::Result<Value> {
        let text = self.send(Method::POST, path, &[], Some(body), expected).await?;
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }

    /// `GET` of what is no JSON.
    pub(crate) async fn text(&self, path: &[&str], query: &[(&str, &str)]) -> anyhow::Result<String> {
        self.send(Method::GET, path, query, None, None).await
    }

    async fn send(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
        expected: Option<&str>,
    ) -> anyhow::Result<String> {
        let mut url = self.base.clone();
        let segments = ["admin", "v1"].iter().chain(path);
        url.path_segments_mut()
            .map_err(|()| anyhow::anyhow!("`{}` is no address of a gateway", self.base))?
            .pop_if_empty()
            .extend(segments);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut request = self.client.request(method, url);
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        if let Some(expected) = expected {
            request = request.header(reqwest::header::IF_MATCH, expected);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.map_err(reqwest::Error::without_url);
        let answer = answer.with_context(|| {
            format!("no gateway answers at {}; name it with --url or MILLGATE_URL", self.base)
        })?;
        let status = answer.status();
        let text = answer.text().await.map_err(reqwest::Error::without_url)?;
        if status.is_success() {
            return Ok(text);
        }
        let value: Value = serde_json::from_str(&text).unwrap_or_default();
        let detail = value["detail"].as_str().unwrap_or("it says nothing more: is this a Millgate gateway?");
        let hint = match (status, &self.key) {
            (StatusCode::UNAUTHORIZED, None) => "; set MILLGATE_ADMIN_KEY",
            (StatusCode::UNAUTHORIZED, Some(_)) => "; MILLGATE_ADMIN_KEY holds another one",
            _ => "",
        };
        let mut places = String::new();
        for error in value["errors"].as_array().into_iter().flatten() {
            let place = match (error["line"].as_u64(), error["column"].as_u64()) {
                (Some(line), Some(column)) => format!("{line}:{column}: "),
                _ => String::new(),
            };
            let hint = error["hint"].as_str().map(|hint| format!("; {hint}")).unwrap_or_default();
            let (at, what) = (cell(&error["pointer"]), cell(&error["detail"]));
            if what != detail {
                places.push_str(&format!("\n  {place}{at}: {what}{hint}"));
            }
        }
        bail!("the gateway refused ({}): {detail}{hint}{places}", status.as_u16())
    }

    /// `GET`.
    pub(crate) async fn get(&self, path: &[&str], query: &[(&str, &str)]) -> anyhow::Result<Value> {
        self.call(Method::GET, path, query, None).await
    }

    /// All pages of a list, whose entries stand in `member`.
    pub(crate) async fn all(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
        member: &str,
    ) -> anyhow::Result<Vec<Value>> {
        let mut found = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let more = cursor.iter().map(|cursor| ("cursor", cursor.as_str()));
            let query: Vec<_> = query.iter().copied().chain([("limit", "1000")]).chain(more).collect();
            let mut page = self.get(path, &query).await?;
            if let Value::Array(entries) = page[member].take() {
                found.extend(entries);
            }
            match page["next_cursor"].as_str() {
                Some(next) => cursor = Some(next.to_owned()),
                None => return Ok(found),
            }
        }
    }

    /// `POST`.
    pub(crate) async fn post(&self, path: &[&str], body: &Value) -> anyhow::Result<Value> {
        self.call(Method::POST, path, &[], Some(body)).await
    }
}

/// Rows under a head, each column as wide as it must be.
pub(crate) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    columns(&head, rows)
}

/// The same where the columns are only known when it is asked.
pub(crate) fn columns<R: AsRef<[String]>>(head: &[&str], rows: &[R]) -> String {
    let width = |(column, head): (usize, &&str)| {
        let cells = rows.iter().map(|row| row.as_ref()[column].chars().count());
        cells.chain([head.len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = head.iter().enumerate().map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded = cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    let rows = rows.iter().map(|row| line(&mut row.as_ref().iter().map(String::as_str)));
    line(&mut head.iter().copied()) + &rows.collect::<String>()
}

/// A field as a cell: `-` where there is none.
pub(crate) fn cell(value: &Value) -> String {
    match value {
        Value::String(text) if !text.is_empty() => text.clone(),
        Value::Null | Value::String(_) => "-".to_owned(),
        other => other.to_string(),
    }
}
