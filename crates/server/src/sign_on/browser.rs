//! People who sign on with a browser (OpenID Connect, authorization code with PKCE). What a login under way must remember
//! stands sealed in a cookie, so that any replica can finish it; a session is a row of the store, and its cookie only
//! names it.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use millgate_config::{OwnerConfig, Secret, SignOnConfig};
use millgate_identity::{Mapping, Person, Rules};
use millgate_store::SessionRecord;
use millgate_types::{Fault, Permission, Retry, Source as Maker, code};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use url::Url;
use url::form_urlencoded::{Serializer, byte_serialize, parse};

use super::source::Source;
use super::{Refused, fetch, identity};
use crate::Gateway;
use crate::identity::{Identity, scope};
use crate::keys::{Keys, Reach, now_ms, random};
use crate::reply::Reply;
use crate::seal::Seal;

/// The cookie of a session, and that of a login under way.
const SESSION: &str = "millgate-session";
const LOGIN: &str = "millgate-login";
/// Time to sign on.
const LOGIN_FOR: Duration = Duration::from_mins(10);
/// Logins that are finished at one time.
const AT_ONCE: usize = 16;
/// The longest path to come back to.
const RETURN: usize = 2048;

/// How people sign on.
pub(crate) struct Browser {
    issuer: String,
    source: Arc<Source>,
    rules: Rules,
    mapping: Arc<Mapping>,
    client: reqwest::Client,
    client_id: String,
    client_secret: Option<Secret>,
    scopes: String,
    public_url: Url,
    life: Duration,
    handle: Handle,
    turns: Arc<Semaphore>,
}

/// What a login under way must remember.
#[derive(Serialize, Deserialize)]
struct Login {
    state: String,
    nonce: String,
    verifier: String,
    return_to: String,
    until_ms: i64,
}

/// Who is signed on, as the store keeps it.
#[derive(Serialize, Deserialize)]
struct Kept {
    by: String,
    owner: OwnerConfig,
    rights: Option<(Vec<String>, Reach)>,
}

#[derive(Deserialize)]
struct TokenAnswer {
    id_token: String,
}

fn refused(reason: Refused) -> Fault {
    Fault::client(code::INVALID_API_KEY, "signing on did not succeed; begin again at /auth/login")
        .with_cause(reason)
}

fn unavailable(text: &'static str) -> Fault {
    Fault::new(code::DEPENDENCY_UNAVAILABLE, Maker::Gateway, Retry::Never, text)
        .with_retry_after(Duration::from_secs(5))
}

impl Browser {
    pub(super) fn open(
        written: &SignOnConfig,
        issuer: &super::Issuer,
        handle: &Handle,
    ) -> Result<Self, String> {
        let fail = |error: String| format!("access.sign_on: {error}");
        let url = Url::parse(&issuer.rules.issuer).map_err(|error| fail(error.to_string()))?;
        Ok(Self {
            issuer: issuer.name.clone(),
            source: Arc::clone(&issuer.source),
            // An ID token is for the client that asked.
            rules: Rules { audience: vec![written.client_id.as_str().to_owned()], ..issuer.rules.clone() },
            mapping: Arc::clone(&issuer.mapping),
            client: fetch::client(&url).map_err(fail)?,
            client_id: written.client_id.as_str().to_owned(),
            client_secret: written.client_secret.clone(),
            scopes: written.scopes.join(" "),
            public_url: Url::parse(written.public_url.as_str()).map_err(|error| fail(error.to_string()))?,
            life: written.session.0,
            handle: handle.clone(),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
        })
    }

    fn redirect_uri(&self) -> String {
        format!("{}/auth/callback", self.public_url.as_str().trim_end_matches('/'))
    }

    /// A `Set-Cookie`. `SameSite=Lax`: it comes along when the provider sends the browser back, and with no request that
    /// another site's page makes.
    fn cookie(&self, name: &str, value: &str, path: &str, life: Duration) -> Result<HeaderValue, Fault> {
        let secure = if self.public_url.scheme() == "https" { "; Secure" } else { "" };
        let age = life.as_secs();
        let text = format!("{name}={value}; Path={path}; Max-Age={age}; HttpOnly; SameSite=Lax{secure}");
        HeaderValue::from_str(&text)
            .map_err(|_| Fault::gateway(code::INTERNAL_ERROR, "the cookie could not be written"))
    }

    /// Sends the browser to the provider.
    pub(crate) fn login(&self, keys: &Keys, head: &Parts) -> Result<Reply, Fault> {
        let asked = head.uri.query().unwrap_or_default();
        let return_to = parse(asked.as_bytes()).find(|(name, _)| name == "return_to");
        let return_to = return_to.map_or("/".to_owned(), |(_, path)| path.into_owned());
        if !is_own_path(&return_to) {
            return Err(Fault::invalid_value("return_to", "expected a path of this gateway"));
        }
        let Some(metadata) = self.source.described() else {
            return Err(unavailable("the identity provider cannot be reached"));
        };
        let word = || Ok::<_, Fault>(BASE64.encode(random::<32>()?));
        let login = Login {
            state: word()?,
            nonce: word()?,
            verifier: word()?,
            return_to,
            until_ms: now_ms() + LOGIN_FOR.as_millis() as i64,
        };
        let mut place =
            fetch::address(metadata.authorization_endpoint.as_deref().unwrap_or_default(), self.source.url())
                .map_err(|reason| {
                    unavailable("the identity provider names no place to sign on").with_cause(reason)
                })?;
        let challenge = BASE64.encode(digest::digest(&digest::SHA256, login.verifier.as_bytes()));
        place
            .query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &self.client_id)
            .append_pair("redirect_uri", &self.redirect_uri())
            .append_pair("scope", &self.scopes)
            .append_pair("state", &login.state)
            .append_pair("nonce", &login.nonce)
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256");
        let sealed = seal(keys).and_then(|seal| seal.close(&login));
        let sealed =
            sealed.ok_or_else(|| Fault::gateway(code::INTERNAL_ERROR, "the login cannot be kept"))?;
        let cookie = self.cookie(LOGIN, &sealed, "/auth", LOGIN_FOR)?;
        redirect(StatusCode::FOUND, place.as_str(), [cookie])
    }

    /// The browser comes back from the provider with a code.
    pub(crate) async fn callback(
        &self,
        gateway: &Gateway,
        keys: &Arc<Keys>,
        head: &Parts,
    ) -> Result<Reply, Fault> {
        let asked: Vec<(String, String)> =
            parse(head.uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
        let param =
            |name: &str| asked.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let sealed = cookie_of(&head.headers, LOGIN).ok_or_else(|| refused("no login is under way"))?;
        let login: Login = seal(keys)
            .and_then(|seal| seal.open(sealed))
            .ok_or_else(|| refused("the login's cookie is not ours"))?;
        let state = param("state").unwrap_or_default();
        if now_ms() >= login.until_ms
            || verify_slices_are_equal(state.as_bytes(), login.state.as_bytes()).is_err()
        {
            return Err(refused("the login's state is another, or too old"));
        }
        // RFC 9207: an answer of another provider.
        if param("iss").is_some_and(|issuer| issuer != self.rules.issuer) {
            return Err(refused("another issuer answered"));
        }
        let (Some(code), None) = (param("code"), param("error")) else {
            return Err(refused("the identity provider let nobody in"));
        };
        let person = self.redeem(code, &login).await?;
        let by = self.issuer.clone();
        let kept = Kept { by, owner: kept_owner(&person), rights: person.rights.as_ref().map(kept_rights) };
        let caller = identity(&self.issuer, person, Some(&keys.directory()))
            .ok_or_else(|| refused("the user or the team may not call"))?;
        let token = BASE64.encode(random::<32>()?);
        let record = SessionRecord {
            hash: keys.session_hash(&token),
            principal: caller.principal.name().to_owned(),
            person: serde_json::to_value(&kept).unwrap_or_default(),
            created_ms: now_ms(),
            expires_ms: now_ms().saturating_add(i64::try_from(self.life.as_millis()).unwrap_or(i64::MAX)),
        };
        tracing::info!(caller = record.principal, "signed on");
        let held = Arc::clone(keys);
        let added = gateway.models().handle().spawn(async move { held.store().add_session(&record).await });
        match added.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(unavailable("the store cannot be reached").with_cause(error)),
            Err(error) => return Err(unavailable("the store cannot be reached").with_cause(error)),
        }
        let cookies =
            [self.cookie(SESSION, &token, "/", self.life)?, self.cookie(LOGIN, "", "/auth", Duration::ZERO)?];
        redirect(StatusCode::SEE_OTHER, &login.return_to, cookies)
    }

    /// The request that gives a code away for tokens.
    fn exchange(&self, code: &str, login: &Login) -> Result<reqwest::RequestBuilder, Fault> {
        let metadata =
            self.source.described().ok_or_else(|| unavailable("the identity provider cannot be reached"))?;
        let place = fetch::address(metadata.token_endpoint.as_deref().unwrap_or_default(), self.source.url())
            .map_err(|reason| {
                unavailable("the identity provider names no token endpoint").with_cause(reason)
            })?;
        let mut form = Serializer::new(String::new());
        form.append_pair("grant_type", "authorization_code")
            .append_pair("code", code)
            .append_pair("redirect_uri", &self.redirect_uri())
            .append_pair("code_verifier", &login.verifier);
        if self.client_secret.is_none() {
            form.append_pair("client_id", &self.client_id);
        }
        let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
        let mut request = self
            .client
            .post(place)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::ACCEPT, "application/json")
            .body(form.finish());
        if let Some(secret) = &self.client_secret {
            request = request.basic_auth(encoded(&self.client_id), Some(encoded(secret.expose())));
        }
        Ok(request)
    }

    /// Who the code stands for.
    async fn redeem(&self, code: &str, login: &Login) -> Result<Person, Fault> {
        let Ok(_turn) = self.turns.try_acquire() else {
            return Err(unavailable("too many people sign on at this moment"));
        };
        let request = self.exchange(code, login)?;
        let answer = self.handle.spawn(fetch::json::<TokenAnswer>(request)).await;
        let answer = answer.unwrap_or_else(|_| Err("the call broke off".to_owned()));
        let answer = answer.map_err(|reason| {
            tracing::warn!(issuer = self.issuer, reason, "the identity provider gave no token for a code");
            refused("the identity provider gave no token for the code")
        })?;
        let claims = super::verify(&self.source, &self.rules, answer.id_token.as_bytes(), now_ms())
            .await
            .map_err(refused)?
            .value;
        let same = |name: &str, value: &str| claims.get(name).and_then(Value::as_str) == Some(value);
        let several = claims.get("aud").and_then(Value::as_array).is_some_and(|names| names.len() > 1);
        if !same("nonce", &login.nonce) {
            return Err(refused("the ID token answers another login"));
        }
        if (several || claims.get("azp").is_some()) && !same("azp", &self.client_id) {
            return Err(refused("the ID token was made for another client"));
        }
        self.mapping.person(&claims).ok_or_else(|| refused("the ID token names no user"))
    }

    /// Ends the browser's session, everywhere and at once.
    pub(crate) async fn logout(
        &self,
        gateway: &Gateway,
        keys: &Arc<Keys>,
        head: &Parts,
    ) -> Result<Reply, Fault> {
        if let Some(token) = cookie_of(&head.headers, SESSION) {
            let (held, hash) = (Arc::clone(keys), keys.session_hash(token));
            let ended = gateway.models().handle().spawn(async move { held.store().end_session(&hash).await });
            if !matches!(ended.await, Ok(Ok(()))) {
                return Err(unavailable("the store cannot be reached: you are still signed on"));
            }
        }
        redirect(StatusCode::SEE_OTHER, "/", [self.cookie(SESSION, "", "/", Duration::ZERO)?])
    }

    /// Who is signed on with the browser that sends this.
    pub(crate) async fn session(
        &self,
        gateway: &Gateway,
        keys: &Arc<Keys>,
        headers: &HeaderMap,
    ) -> Result<Arc<Identity>, Refused> {
        let token = cookie_of(headers, SESSION).ok_or("nothing was shown")?;
        let (held, hash) = (Arc::clone(keys), keys.session_hash(token));
        let found =
            gateway.models().handle().spawn(async move { held.store().session(&hash, now_ms()).await });
        let record = match found.await {
            Ok(Ok(record)) => record.ok_or("the session has ended")?,
            _ => return Err("the store cannot be reached"),
        };
        let kept: Kept = serde_json::from_value(record.person).map_err(|_| "the session cannot be read")?;
        if kept.by != self.issuer {
            return Err("the session is another issuer's");
        }
        let mut owner = kept.owner.owner();
        owner.tags.clear();
        let rights = kept.rights.map(|(roles, reach)| {
            let permissions = roles.iter().filter_map(|role| Permission::parse(role)).collect();
            (permissions, scope(&reach.endpoints, &reach.targets, &reach.deny))
        });
        identity(&kept.by, Person { owner, rights }, Some(&keys.directory())).ok_or(super::DISABLED)
    }
}

fn kept_owner(person: &Person) -> OwnerConfig {
    let text = |name: &Option<Arc<str>>| name.as_deref().map(str::to_owned);
    let owner = &person.owner;
    OwnerConfig {
        user: text(&owner.user),
        team: text(&owner.team),
        app: text(&owner.app),
        organization: text(&owner.organization),
        ..OwnerConfig::default()
    }
}

fn kept_rights(rights: &(millgate_types::Permissions, millgate_policy::Scope)) -> (Vec<String>, Reach) {
    let (permissions, scope) = rights;
    let texts = |globs: &[millgate_policy::Glob]| globs.iter().map(|glob| glob.as_str().to_owned()).collect();
    let roles = Permission::ALL.into_iter().filter(|permission| permissions.has(*permission));
    let reach = Reach {
        endpoints: texts(&scope.endpoints),
        targets: texts(&scope.targets),
        deny: texts(&scope.deny),
    };
    (roles.map(|role| role.name().to_owned()).collect(), reach)
}

fn seal(keys: &Keys) -> Option<Seal> {
    Seal::new(&keys.derive("millgate login"))
}

/// A path of this gateway, which no browser takes for another's address.
fn is_own_path(path: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'\\';
    path.len() <= RETURN && path.starts_with('/') && !path.starts_with("//") && path.bytes().all(plain)
}

/// The value of a cookie that stands once.
fn cookie_of<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let fields = headers.get_all(header::COOKIE).iter().filter_map(|field| field.to_str().ok());
    let mut found = fields.flat_map(|field| field.split(';')).filter_map(|pair| {
        let (known, value) = pair.trim().split_once('=')?;
        (known == name).then_some(value)
    });
    let value = found.next()?;
    found.next().is_none().then_some(value).filter(|value| !value.is_empty())
}

fn redirect<const N: usize>(
    status: StatusCode,
    place: &str,
    cookies: [HeaderValue; N],
) -> Result<Reply, Fault> {
    let place = HeaderValue::from_str(place)
        .map_err(|_| Fault::gateway(code::INTERNAL_ERROR, "the address could not be written"))?;
    let mut reply = Reply::json("{}").with(header::LOCATION, place);
    reply.headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply.headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    for cookie in cookies {
        reply.headers.append(header::SET_COOKIE, cookie);
    }
    reply.status = status;
    Ok(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_sent_to_another_site() {
        for path in ["/", "/ui/keys?a=b#c", "/admin/v1/keys"] {
            assert!(is_own_path(path), "{path}");
        }
        for path in
            ["", "x", "//evil.example", "/\\evil.example", "https://evil.example", "/a\r\nx", "/a b", "/\t/x"]
        {
            assert!(!is_own_path(path), "{path}");
        }
        assert!(!is_own_path(&"/".repeat(5000)));
    }

    #[test]
    fn a_cookie_that_stands_twice_is_nobodys() {
        let of = |fields: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for field in fields {
                headers.append(header::COOKIE, HeaderValue::from_static(field));
            }
            cookie_of(&headers, SESSION).map(str::to_owned)
        };
        assert_eq!(of(&["a=b; millgate-session=x"]).as_deref(), Some("x"));
        assert_eq!(of(&["millgate-session=x; millgate-session=y"]), None);
        assert_eq!(of(&["millgate-session=x", "millgate-session=y"]), None);
        assert_eq!(of(&["millgate-session="]), None);
        assert_eq!(of(&["xmillgate-session=x"]), None);
    }
}
