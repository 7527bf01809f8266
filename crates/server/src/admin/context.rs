//! What a handler of the admin API is given.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use millgate_types::{Fault, code};
use serde::de::DeserializeOwned;

use crate::Gateway;
use crate::identity::Identity;
use crate::snapshot::Snapshot;

/// One request of the admin API, its caller known and allowed.
pub(crate) struct Context {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) identity: Arc<Identity>,
    pub(super) params: Vec<(String, String)>,
    pub(super) query: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Context {
    /// A segment of the path.
    pub(super) fn param(&self, name: &str) -> &str {
        self.params.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// Whether an endpoint is there for the caller: what is out of reach is as good as not there.
    pub(super) fn sees(&self, endpoint: &str) -> bool {
        self.identity.scope.allows_endpoint(endpoint)
    }

    /// A query parameter that is there and not empty.
    pub(super) fn query(&self, name: &str) -> Option<Cow<'_, str>> {
        let pairs = url::form_urlencoded::parse(self.query.as_bytes());
        let mut found = pairs.filter_map(|(known, value)| (known == name).then_some(value));
        found.find(|value| !value.is_empty())
    }

    /// The body as `T`; an empty one is `{}`. Faults name the field.
    pub(super) fn body<T: DeserializeOwned>(&self) -> Result<T, Fault> {
        let body: &[u8] = if self.body.is_empty() { b"{}" } else { &self.body };
        let mut reader = serde_json::Deserializer::from_slice(body);
        let read = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
            let path = error.path().to_string();
            let inner = error.into_inner();
            if inner.is_syntax() || inner.is_eof() {
                let text = format!("the body is not JSON: line {}, column {}", inner.line(), inner.column());
                return Fault::client(code::INVALID_JSON, text);
            }
            // serde's text ends with the place, which the pointer says better.
            let text = inner.to_string();
            let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text).to_owned();
            if path == "." {
                Fault::client(code::INVALID_VALUE, text)
            } else {
                Fault::invalid_value(path, text)
            }
        })?;
        reader.end().map_err(|_| Fault::client(code::INVALID_JSON, "something stands behind the JSON"))?;
        Ok(read)
    }
}
