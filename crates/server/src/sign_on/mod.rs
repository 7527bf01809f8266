//! Callers who hold no key of ours: tokens of identity providers, and those for whom a trusted proxy vouches. A token is
//! checked once and then known by its digest until it expires; what must be fetched for that is fetched on the control
//! runtime, once for all who wait.

mod browser;
mod fetch;
mod introspection;
mod proxies;
mod source;
mod tokens;

use std::net::IpAddr;
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, Method, header};
use millgate_config::{AccessConfig, RoleRuleConfig};
use millgate_identity::{Claims, KeySet, Mapping, MappingConfig, Person, Refusal, Rules, Unverified};
use millgate_types::{Fault, Permission, Permissions, Principal, code};
use tokio::runtime::Handle;

use crate::directory::Directory;
use crate::identity::{Identity, scope};
use crate::reply::Reply;
use crate::snapshot::Snapshot;
use crate::surface::Auth;
use crate::tls::ClientCertificate;
use crate::{Gateway, admin};
use browser::Browser;
use introspection::Introspection;
use proxies::Proxies;
use source::Source;
use tokens::Tokens;

/// Why a token was not good, for the log.
pub(crate) type Refused = &'static str;

const DISABLED: Refused = "the user or the team may not call";

/// Everybody beside the holders of keys, as one configuration describes them.
pub(crate) struct SignOn {
    issuers: Vec<Issuer>,
    introspection: Option<Introspection>,
    proxies: Option<Proxies>,
    /// Whose certificates are.
    certificates: Option<Mapping>,
    /// How people sign on with a browser.
    pub(crate) browser: Option<Browser>,
    tokens: Tokens,
}

struct Issuer {
    name: String,
    rules: Rules,
    mapping: Arc<Mapping>,
    source: Arc<Source>,
}

/// The sources of keys, which outlive a configuration that does not change them.
pub(crate) type Sources = Vec<Arc<Source>>;

impl SignOn {
    /// Opens what `access` describes; sources that did not change are taken from `kept`. `None`: there are keys only.
    pub(crate) fn open(
        access: &AccessConfig,
        kept: &mut Sources,
        handle: &Handle,
    ) -> Result<Option<Arc<Self>>, String> {
        let mut sources = Sources::new();
        let mut issuers = Vec::new();
        for written in &access.issuers {
            let fail = |error: String| format!("access.issuers: {}: {error}", written.name);
            let jwks_uri = written.jwks_uri.as_ref().map(millgate_config::Expanded::as_str);
            let known = kept.iter().find(|source| source.is(written.issuer.as_str(), jwks_uri));
            let source = match known {
                Some(source) => Arc::clone(source),
                None => {
                    Source::open(&written.name, written.issuer.as_str(), jwks_uri, handle).map_err(fail)?
                }
            };
            let mapping = MappingConfig {
                user: written.user.clone(),
                team: written.team.clone(),
                app: written.app.clone(),
                organization: written.organization.clone(),
                roles: rules(&written.roles),
            };
            issuers.push(Issuer {
                name: written.name.clone(),
                rules: Rules {
                    issuer: written.issuer.as_str().to_owned(),
                    audience: written.audience.clone(),
                    algorithms: written.algorithms.clone(),
                    skew: i64::try_from(written.clock_skew.0.as_secs()).unwrap_or(0),
                },
                mapping: Arc::new(Mapping::compile(&mapping, &["claims"]).map_err(fail)?),
                source: Arc::clone(&source),
            });
            sources.push(source);
        }
        let introspection =
            access.introspection.as_ref().map(|written| Introspection::open(written, handle)).transpose()?;
        let proxies = access.trusted_proxies.as_ref().map(Proxies::open).transpose()?;
        let browser = match &access.sign_on {
            Some(written) => {
                let issuer = issuers.iter().find(|issuer| issuer.name == written.issuer);
                let issuer =
                    issuer.ok_or_else(|| format!("access.sign_on: no issuer `{}`", written.issuer))?;
                Some(Browser::open(written, issuer, handle)?)
            }
            None => None,
        };
        let certificates = match &access.certificates {
            Some(written) => {
                let mapping = MappingConfig {
                    user: written.user.clone(),
                    team: written.team.clone(),
                    app: written.app.clone(),
                    organization: written.organization.clone(),
                    roles: rules(&written.roles),
                };
                let fail = |error: String| format!("access.certificates: {error}");
                Some(Mapping::compile(&mapping, &["certificate"]).map_err(fail)?)
            }
            None => None,
        };
        *kept = sources;
        let nobody =
            certificates.is_none() && issuers.is_empty() && introspection.is_none() && proxies.is_none();
        let sign_on =
            Self { issuers, introspection, proxies, certificates, browser, tokens: Tokens::default() };
        Ok((!nobody).then(|| Arc::new(sign_on)))
    }

    /// The holder of a token that was seen before.
    pub(crate) fn known(
        &self,
        digest: &[u8; 32],
        directory: Option<&Directory>,
        now_ms: i64,
    ) -> Option<Arc<Identity>> {
        self.tokens.find(digest, generation(directory), now_ms)
    }

    /// The holder of a token. Waits where an issuer's keys must be fetched, or the token be asked about.
    pub(crate) async fn identify(
        &self,
        token: &[u8],
        digest: [u8; 32],
        directory: Option<&Directory>,
        now_ms: i64,
    ) -> Result<Arc<Identity>, Refused> {
        let signed = Unverified::read(token);
        let issuer = signed.as_ref().and_then(|token| {
            let named = token.issuer()?;
            self.issuers.iter().find(|issuer| issuer.rules.issuer == named)
        });
        let (name, person, until_ms) = match (signed, issuer, &self.introspection) {
            (Some(_), Some(issuer), _) => {
                let claims = verify(&issuer.source, &issuer.rules, token, now_ms).await?;
                let person = issuer.mapping.person(&claims.value).ok_or("the token names no user")?;
                (issuer.name.as_str(), person, claims.expires.saturating_mul(1000))
            }
            (_, None, Some(introspection)) => {
                let (person, until_ms) = introspection.ask(token, digest, now_ms).await?;
                ("introspection", person, until_ms)
            }
            (Some(_), None, None) => return Err("no issuer is known by the token's `iss`"),
            _ => return Err("no such key"),
        };
        let identity = identity(name, person, directory).ok_or(DISABLED)?;
        self.tokens.add(digest, Arc::clone(&identity), generation(directory), until_ms, now_ms);
        Ok(identity)
    }

    /// The holder of a certificate that the handshake has found good.
    pub(crate) fn certified(
        &self,
        shown: &ClientCertificate,
        directory: Option<&Directory>,
        now_ms: i64,
    ) -> Option<Arc<Identity>> {
        let mapping = self.certificates.as_ref()?;
        if now_ms >= shown.until_ms || !shown.is_good() {
            return None;
        }
        if let Some(known) = self.known(&shown.digest, directory, now_ms) {
            return Some(known);
        }
        let identity = identity("certificate", mapping.person(&shown.names)?, directory)?;
        self.tokens.add(shown.digest, Arc::clone(&identity), generation(directory), shown.until_ms, now_ms);
        Some(identity)
    }

    /// Who sends a request, by the word of the trusted proxy `peer`.
    pub(crate) fn vouched(
        &self,
        peer: IpAddr,
        headers: &HeaderMap,
        directory: Option<&Directory>,
    ) -> Option<Arc<Identity>> {
        identity("proxy", self.proxies.as_ref()?.person(peer, headers)?, directory)
    }

    /// The address a request comes from, by the word of the trusted proxy `peer`.
    pub(crate) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        self.proxies.as_ref().map_or(peer, |proxies| proxies.client(peer, headers))
    }
}

/// What everybody is told who showed nothing that is good.
pub(crate) fn unknown() -> Fault {
    Fault::client(code::INVALID_API_KEY, "the API key is missing or not known")
}

impl SignOn {
    /// Who is signed on with the browser that sends this request. Of what changes something it must say itself that one
    /// of our pages sends it.
    pub(crate) async fn signed_on(&self, gateway: &Gateway, head: &Parts) -> Result<Arc<Identity>, Fault> {
        let (Some(browser), Some(keys)) = (&self.browser, &gateway.keys) else { return Err(unknown()) };
        let session = browser.session(gateway, keys, &head.headers).await;
        let identity = session.map_err(|reason| unknown().with_cause(reason))?;
        let only_looks = matches!(head.method, Method::GET | Method::HEAD);
        if !only_looks && !head.headers.contains_key(header::ORIGIN) {
            let text = "a browser's changes must come from a page of this gateway";
            return Err(Fault::client(code::PERMISSION_DENIED, text));
        }
        Ok(identity)
    }
}

/// A step of signing on with a browser. Faults: `not_found` where nobody can, `invalid_api_key` where it did not
/// succeed, `dependency_unavailable` where the provider or the store does not answer.
pub(crate) async fn auth(
    gateway: &Gateway,
    snapshot: &Snapshot,
    step: Auth,
    head: &Parts,
) -> Result<Reply, Fault> {
    let browser = snapshot.sign_on.as_ref().and_then(|sign_on| sign_on.browser.as_ref());
    let (Some(browser), Some(keys)) = (browser, &gateway.keys) else {
        return Err(Fault::client(code::NOT_FOUND, "nothing is served at this path"));
    };
    match step {
        Auth::Login => browser.login(keys, head),
        Auth::Callback => browser.callback(gateway, keys, head).await,
        Auth::Logout => {
            admin::from_elsewhere(&head.headers, &head.uri)?;
            browser.logout(gateway, keys, head).await
        }
    }
}

/// Checks a token with the keys known now, and once more with new ones where its key is not among them.
async fn verify(source: &Arc<Source>, rules: &Rules, token: &[u8], now_ms: i64) -> Result<Claims, Refused> {
    let check = |keys: Arc<KeySet>| {
        Unverified::read(token).ok_or(Refusal::Malformed)?.verify(&keys, rules, now_ms / 1000)
    };
    let seen = source.since();
    let refused = match source.keys().map(check) {
        Some(Ok(claims)) => return Ok(claims),
        Some(Err(refusal)) if refusal != Refusal::UnknownKey => return Err(refusal.text()),
        Some(Err(refusal)) => refusal.text(),
        None => "the issuer's keys are not known",
    };
    if !source.refresh(seen).await {
        return Err(refused);
    }
    let keys = source.keys().ok_or(refused)?;
    check(keys).map_err(Refusal::text)
}

/// Somebody as a caller: known by who says so and their name there, within what the directory gives them. `None`: it
/// says that they may not call.
fn identity(by: &str, person: Person, directory: Option<&Directory>) -> Option<Arc<Identity>> {
    let name = person.owner.user.as_deref().unwrap_or_default();
    let principal = Principal::Key(format!("{by}:{name}").into());
    let nobody = Directory::default();
    directory.unwrap_or(&nobody).bound(principal, person.owner, person.rights).map(Arc::new)
}

fn generation(directory: Option<&Directory>) -> u64 {
    directory.map_or(0, |directory| directory.generation)
}

fn rules(written: &[RoleRuleConfig]) -> Vec<(String, Permissions, millgate_policy::Scope)> {
    let rule = |rule: &RoleRuleConfig| {
        let permissions = rule.roles.iter().copied().map(Permission::from).collect();
        (rule.when.clone(), permissions, scope(&rule.endpoints, &rule.targets, &rule.deny))
    };
    written.iter().map(rule).collect()
}
