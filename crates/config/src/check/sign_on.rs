//! Rules of issuers, introspection and trusted proxies.

use std::net::IpAddr;
use std::time::Duration;

use millgate_expr::Expression;
use url::{Host, Url};

use super::{Checker, check_base_url, is_name, steps};
use crate::access::{ALGORITHMS, ClientCertificates, IssuerConfig, RoleRuleConfig, SignOnConfig};
use crate::keys::KeyMode;
use crate::load::nearest;
use crate::node::Step;
use crate::value::Secret;

/// Names by which others than issuers are known.
const TAKEN: [&str; 3] = ["introspection", "proxy", "certificate"];
/// The longest session.
const MAX_SESSION: Duration = Duration::from_hours(30 * 24);
/// A clock that differs by more is wrong.
const MAX_SKEW: u64 = 600;

impl Checker<'_> {
    pub(super) fn sign_on(&mut self) {
        let access = &self.config.access;
        for (index, issuer) in access.issuers.iter().enumerate() {
            self.issuer(index, issuer);
        }
        if let Some(introspection) = &access.introspection {
            let at = |field: &str| steps!["access", "introspection", field].to_vec();
            self.needs_keys(&at(""));
            self.control_url(&at("url"), introspection.url.as_str());
            self.above_zero(&at("cache"), Some(introspection.cache));
            if introspection.client_secret.is_clear_text() {
                self.warning(
                    &at("client_secret"),
                    "the secret stands in clear text",
                    "use `env:NAME` or `file:PATH`",
                );
            }
            self.expression(&at("user"), Some(&introspection.user), &["claims"]);
            self.expression(&at("team"), introspection.team.as_deref(), &["claims"]);
            self.expression(&at("app"), introspection.app.as_deref(), &["claims"]);
            self.expression(&at("organization"), introspection.organization.as_deref(), &["claims"]);
            self.rules(&at("roles"), &introspection.roles, &["claims"]);
        }
        let tls = self.config.server.tls.as_ref();
        if tls.is_some_and(|tls| {
            tls.client_ca.is_none() && tls.client_certificates == ClientCertificates::Required
        }) {
            let hint = "name the authorities of the clients' certificates";
            self.error(steps!["server", "tls", "client_ca"], "the field `client_ca` is missing", hint);
        }
        if tls.is_some_and(|tls| tls.client_ca.is_none() && tls.client_crl.is_some()) {
            let hint = "name the authorities whose certificates it revokes";
            self.error(steps!["server", "tls", "client_ca"], "the field `client_ca` is missing", hint);
        }
        if let Some(certificates) = &access.certificates {
            let at = |field: &str| steps!["access", "certificates", field].to_vec();
            self.needs_keys(&at(""));
            if tls.is_none_or(|tls| tls.client_ca.is_none()) {
                let hint = "set `server.tls.client_ca`";
                self.error(&at(""), "clients are not asked for certificates", hint);
            }
            self.expression(&at("user"), Some(&certificates.user), &["certificate"]);
            self.expression(&at("team"), certificates.team.as_deref(), &["certificate"]);
            self.expression(&at("app"), certificates.app.as_deref(), &["certificate"]);
            self.expression(&at("organization"), certificates.organization.as_deref(), &["certificate"]);
            self.rules(&at("roles"), &certificates.roles, &["certificate"]);
        }
        if let Some(sign_on) = &access.sign_on {
            self.browser(sign_on);
        }
        if let Some(proxies) = &access.trusted_proxies {
            let at = |field: &str| steps!["access", "trusted_proxies", field].to_vec();
            if proxies.from.is_empty() {
                self.error(&at("from"), "no proxy is named", "for example `from: [10.0.0.0/8]`");
            }
            for (index, network) in proxies.from.iter().enumerate() {
                let at = [at("from"), steps![index].to_vec()].concat();
                match network.rsplit_once('/') {
                    _ if !is_network(network) => {
                        self.error(&at, "expected an address or a block", "for example `10.0.0.0/8`");
                    }
                    Some((_, "0")) if proxies.user.is_some() => {
                        let hint = "name the proxies' own addresses";
                        self.error(&at, "whoever reaches the gateway could say who they are", hint);
                    }
                    _ => {}
                }
            }
            if proxies.user.is_some() {
                self.needs_keys(&at("user"));
            } else if !proxies.roles.is_empty() {
                self.error(&at("roles"), "`user` is missing", "for example `headers['x-forwarded-user']`");
            }
            self.expression(&at("user"), proxies.user.as_deref(), &["headers"]);
            self.expression(&at("team"), proxies.team.as_deref(), &["headers"]);
            self.expression(&at("app"), proxies.app.as_deref(), &["headers"]);
            self.expression(&at("organization"), proxies.organization.as_deref(), &["headers"]);
            self.rules(&at("roles"), &proxies.roles, &["headers"]);
        }
    }

    fn browser(&mut self, sign_on: &SignOnConfig) {
        let at = |field: &str| steps!["access", "sign_on", field].to_vec();
        let issuers = &self.config.access.issuers;
        match issuers.iter().find(|issuer| issuer.name == sign_on.issuer) {
            None => {
                let hint = nearest(&sign_on.issuer, issuers.iter().map(|issuer| issuer.name.as_str()));
                self.error(
                    &at("issuer"),
                    format!("no issuer `{}` stands in `access.issuers`", sign_on.issuer),
                    hint,
                );
            }
            Some(issuer) if issuer.jwks_uri.is_some() => {
                let hint = "leave the issuer's `jwks_uri` out";
                self.error(&at("issuer"), "where to sign on stands in the issuer's discovery document", hint);
            }
            Some(_) => {}
        }
        self.control_url(&at("public_url"), sign_on.public_url.as_str());
        if Url::parse(sign_on.public_url.as_str()).is_ok_and(|url| url.path() != "/") {
            self.error(
                &at("public_url"),
                "the gateway is served at `/`",
                "for example `https://gateway.example`",
            );
        }
        if !sign_on.scopes.iter().any(|scope| scope == "openid") {
            self.error(
                &at("scopes"),
                "`openid` is missing",
                "without it the provider says not who signed on",
            );
        }
        self.above_zero(&at("session"), Some(sign_on.session));
        if sign_on.session.0 > MAX_SESSION {
            self.error(&at("session"), "nobody stays signed on for more than 30 days", "");
        }
        if sign_on.client_secret.as_ref().is_some_and(Secret::is_clear_text) {
            self.warning(
                &at("client_secret"),
                "the secret stands in clear text",
                "use `env:NAME` or `file:PATH`",
            );
        }
    }

    fn issuer(&mut self, index: usize, issuer: &IssuerConfig) {
        let before = &self.config.access.issuers[..index];
        let at = |field: &str| steps!["access", "issuers", index, field].to_vec();
        self.needs_keys(&at("name"));
        if !is_name(&issuer.name) || TAKEN.contains(&issuer.name.as_str()) {
            let hint = "use letters, digits, `_`, `-` and `.`, for example `corp`";
            self.error(&at("name"), format!("`{}` cannot be an issuer's name", issuer.name), hint);
        }
        if before.iter().any(|other| other.name == issuer.name) {
            self.error(&at("name"), format!("the name `{}` is taken", issuer.name), "");
        }
        if before.iter().any(|other| other.issuer.as_str() == issuer.issuer.as_str()) {
            self.error(
                &at("issuer"),
                "another name has the same issuer",
                "one issuer can have several audiences",
            );
        }
        self.control_url(&at("issuer"), issuer.issuer.as_str());
        if let Some(uri) = &issuer.jwks_uri {
            self.control_url(&at("jwks_uri"), uri.as_str());
        }
        if issuer.audience.is_empty() {
            let hint = "without it, tokens that were made for others would be good here";
            self.error(&at("audience"), "no audience is named", hint);
        }
        if issuer.algorithms.is_empty() {
            self.error(&at("algorithms"), "no algorithm is allowed", "for example `[RS256, ES256]`");
        }
        for (number, name) in issuer.algorithms.iter().enumerate() {
            let at = [at("algorithms"), steps![number].to_vec()].concat();
            if name.eq_ignore_ascii_case("none") {
                self.error(&at, "a token without a signature proves nothing", "for example `RS256`");
            } else if name.starts_with("HS") {
                let reason = "signatures by a shared secret do not go with published keys";
                self.error(&at, reason, "let the issuer sign with `RS256`, `ES256` or `EdDSA`");
            } else if !ALGORITHMS.contains(&name.as_str()) {
                let hint = nearest(name, ALGORITHMS.into_iter());
                self.error(&at, format!("`{name}` is not a known algorithm"), hint);
            }
        }
        if issuer.clock_skew.0.as_secs() > MAX_SKEW {
            self.error(&at("clock_skew"), "clocks differ by 10 minutes at most", "set them by NTP");
        }
        self.expression(&at("user"), Some(&issuer.user), &["claims"]);
        self.expression(&at("team"), issuer.team.as_deref(), &["claims"]);
        self.expression(&at("app"), issuer.app.as_deref(), &["claims"]);
        self.expression(&at("organization"), issuer.organization.as_deref(), &["claims"]);
        self.rules(&at("roles"), &issuer.roles, &["claims"]);
    }

    /// Where no key is asked for nobody would look at a token.
    pub(super) fn needs_keys(&mut self, at: &[Step]) {
        if self.config.access.keys == KeyMode::Open {
            let hint = "with `access.keys: open` everybody is anonymous: set `keys: required`";
            self.error(at, "this takes no effect", hint);
        }
    }

    pub(super) fn expression(&mut self, at: &[Step], text: Option<&str>, name: &'static [&'static str; 1]) {
        if let Some(Err(reason)) = text.map(|text| Expression::compile(text, name)) {
            self.error(at, reason, "");
        }
    }

    pub(super) fn rules(&mut self, at: &[Step], rules: &[RoleRuleConfig], name: &'static [&'static str; 1]) {
        for (index, rule) in rules.iter().enumerate() {
            self.expression(&[at, steps![index, "when"]].concat(), Some(&rule.when), name);
            if rule.roles.is_empty() && !(rule.endpoints.is_empty() && rule.targets.is_empty()) {
                self.error(&[at, steps![index, "roles"]].concat(), "who has no role reaches nothing", "");
            }
        }
    }

    /// An address that answers are believed from: nobody on the way may write them.
    pub(super) fn control_url(&mut self, at: &[Step], text: &str) {
        if let Err(reason) = check_base_url(text) {
            return self.error(at, reason, "");
        }
        let url = Url::parse(text).ok();
        if url.as_ref().is_some_and(|url| url.scheme() == "http" && !is_here(url)) {
            let hint = "use https://; http:// is for this machine only";
            self.error(at, "anybody on the way could write the answers", hint);
        }
    }
}

fn is_here(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

fn is_network(text: &str) -> bool {
    let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
    let Ok(address) = address.parse::<IpAddr>() else { return false };
    let most = if address.is_ipv4() { 32 } else { 128 };
    bits.is_none_or(|bits| bits.parse::<u8>().is_ok_and(|bits| bits <= most))
}
