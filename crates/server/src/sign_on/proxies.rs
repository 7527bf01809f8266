//! The word of trusted proxies: where a request comes from, and who sends it.

use std::net::IpAddr;

use http::HeaderMap;
use millgate_config::TrustedProxiesConfig;
use millgate_identity::{Mapping, MappingConfig, Network, Person, client_address};
use serde_json::{Map, Value};

use super::rules;

/// The headers of which nothing is shown to expressions: they hold secrets, and prove nothing of the proxy.
const HIDDEN: [&str; 3] = ["authorization", "cookie", "proxy-authorization"];

/// Proxies that are believed.
pub(super) struct Proxies {
    from: Vec<Network>,
    /// `None`: they say nothing of users.
    mapping: Option<Mapping>,
}

impl Proxies {
    pub(super) fn open(written: &TrustedProxiesConfig) -> Result<Self, String> {
        let network = |text: &String| {
            Network::parse(text)
                .ok_or_else(|| format!("access.trusted_proxies: `{text}` is no block of addresses"))
        };
        let mapping = written.user.as_ref().map(|user| {
            let mapping = MappingConfig {
                user: user.clone(),
                team: written.team.clone(),
                app: written.app.clone(),
                organization: written.organization.clone(),
                roles: rules(&written.roles),
            };
            Mapping::compile(&mapping, &["headers"])
                .map_err(|error| format!("access.trusted_proxies: {error}"))
        });
        Ok(Self {
            from: written.from.iter().map(network).collect::<Result<_, _>>()?,
            mapping: mapping.transpose()?,
        })
    }

    pub(super) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let forwarded = headers.get_all("x-forwarded-for");
        let fields: Vec<_> = forwarded.iter().filter_map(|field| field.to_str().ok()).collect();
        client_address(peer, fields.into_iter(), &self.from)
    }

    pub(super) fn person(&self, peer: IpAddr, headers: &HeaderMap) -> Option<Person> {
        let mapping = self.mapping.as_ref()?;
        if !self.from.iter().any(|network| network.holds(peer)) {
            return None;
        }
        let mut shown = Map::new();
        for name in headers.keys().filter(|name| !HIDDEN.contains(&name.as_str())) {
            // One that stands twice is joined: a name that a client slipped in beside the proxy's is nobody's.
            let values: Option<Vec<_>> =
                headers.get_all(name).iter().map(|value| value.to_str().ok()).collect();
            shown.insert(name.as_str().to_owned(), values?.join(",").into());
        }
        mapping.person(&Value::Object(shown))
    }
}
