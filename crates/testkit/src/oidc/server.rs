//! The provider's endpoints.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD as BASE64};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::state::Login;
use super::{AUDIENCE, CLIENT, CLIENT_SECRET, Shared, lock};
use crate::wire::{Buffered, Head, Length};

type Form = HashMap<String, String>;

pub(super) async fn run(listener: TcpListener, state: Shared) {
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let state = Shared::clone(&state);
                tokio::task::spawn_local(async move { connection(Buffered::new(stream), &state).await });
            }
        })
        .await;
}

/// Status, further header lines and body.
struct Answer(u16, String, Vec<u8>);

impl Answer {
    fn json(status: u16, body: &Value) -> Self {
        Self(status, "content-type: application/json\r\n".to_owned(), body.to_string().into_bytes())
    }
}

async fn connection(mut link: Buffered<TcpStream>, state: &Shared) -> io::Result<()> {
    while let Some(head) = link.head().await? {
        let body = link.body(head.length().unwrap_or(Length::Known(0))).await?;
        let target = head.line.split(' ').nth(1).unwrap_or_default().to_owned();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let fault = {
            let mut state = lock(state);
            *state.hits.entry(path.to_owned()).or_default() += 1;
            state.fault.clone()
        };
        if fault == "down" && !path.starts_with("/__") {
            return Ok(());
        }
        if fault == "slow" && path == "/jwks" {
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        let Answer(status, more, body) = answer(path, query, &head, &body, &fault, state);
        let head = format!("HTTP/1.1 {status} Status\r\n{more}content-length: {}\r\n\r\n", body.len());
        link.stream.write_all(&[head.as_bytes(), &body].concat()).await?;
    }
    Ok(())
}

fn answer(path: &str, query: &str, head: &Head, body: &[u8], fault: &str, state: &Shared) -> Answer {
    let text = String::from_utf8_lossy(body).into_owned();
    let given: Value = serde_json::from_str(&text).unwrap_or_default();
    let word = |name: &str| given[name].as_str().unwrap_or_default().to_owned();
    let mut state = lock(state);
    match path {
        "/.well-known/openid-configuration" => {
            let issuer = if fault == "other-issuer" { "https://another.example" } else { &state.issuer };
            let at = |path: &str| format!("{}{path}", state.issuer);
            Answer::json(
                200,
                &json!({
                    "issuer": issuer,
                    "jwks_uri": at("/jwks"),
                    "authorization_endpoint": at("/authorize"),
                    "token_endpoint": at("/token"),
                    "introspection_endpoint": at("/introspect"),
                    "response_types_supported": ["code"],
                    "subject_types_supported": ["public"],
                    "id_token_signing_alg_values_supported": ["ES256"],
                    "code_challenge_methods_supported": ["S256"],
                }),
            )
        }
        "/jwks" if fault == "huge" => {
            Answer::json(200, &json!({ "keys": [], "padding": "x".repeat(8 << 20) }))
        }
        "/jwks" => Answer::json(200, &state.jwks()),
        "/authorize" => {
            let asked = form(query);
            let of = |name: &str| asked.get(name).cloned().unwrap_or_default();
            let good = of("response_type") == "code"
                && of("client_id") == CLIENT
                && of("code_challenge_method") == "S256"
                && !of("code_challenge").is_empty()
                && of("scope").split(' ').any(|scope| scope == "openid");
            if !good {
                return Answer::json(400, &json!({ "error": "invalid_request" }));
            }
            let user = asked.get("login_hint").cloned().unwrap_or_else(|| "alice".to_owned());
            let code = format!("code-{}", state.hits.get("/authorize").copied().unwrap_or(0));
            let login = Login {
                client: of("client_id"),
                redirect: of("redirect_uri"),
                challenge: of("code_challenge"),
                nonce: asked.get("nonce").cloned(),
                user,
            };
            let place = format!("{}?code={code}&state={}", of("redirect_uri"), encoded(&of("state")));
            state.logins.insert(code, login);
            Answer(302, format!("location: {place}\r\n"), Vec::new())
        }
        "/token" => {
            let asked = form(&text);
            let of = |name: &str| asked.get(name).cloned().unwrap_or_default();
            let basic = client(head);
            let id = basic.as_ref().map_or_else(|| of("client_id"), |(id, _)| id.clone());
            let secret = basic.map_or_else(|| of("client_secret"), |(_, secret)| secret);
            if id != CLIENT || secret != CLIENT_SECRET {
                return Answer::json(401, &json!({ "error": "invalid_client" }));
            }
            if of("grant_type") == "client_credentials" {
                let access = state.token("good", &json!({ "sub": id, "scope": of("scope") }));
                return Answer::json(
                    200,
                    &json!({ "access_token": access, "token_type": "Bearer", "expires_in": 3600 }),
                );
            }
            let Some(login) = state.logins.remove(&of("code")) else {
                return Answer::json(400, &json!({ "error": "invalid_grant" }));
            };
            let proof = digest::digest(&digest::SHA256, of("code_verifier").as_bytes());
            if login.challenge != BASE64.encode(proof.as_ref())
                || login.redirect != of("redirect_uri")
                || login.client != id
            {
                return Answer::json(400, &json!({ "error": "invalid_grant" }));
            }
            let mut claims = state.claims.clone();
            claims["sub"] = login.user.clone().into();
            claims["aud"] = id.into();
            claims["nonce"] = if fault == "wrong-nonce" { "another".into() } else { login.nonce.into() };
            let identity = state.token("good", &claims);
            let access = state.token("good", &json!({ "sub": login.user, "aud": AUDIENCE }));
            Answer::json(
                200,
                &json!({ "access_token": access, "id_token": identity, "token_type": "Bearer", "expires_in": 3600 }),
            )
        }
        "/introspect" => {
            if client(head) != Some((CLIENT.to_owned(), CLIENT_SECRET.to_owned())) {
                return Answer::json(401, &json!({ "error": "invalid_client" }));
            }
            let token = form(&text).remove("token").unwrap_or_default();
            Answer::json(200, state.opaque.get(&token).unwrap_or(&json!({ "active": false })))
        }
        "/__token" => {
            let token = state.token(&word("kind"), &given["claims"]);
            Answer::json(200, &json!({ "token": token }))
        }
        "/__rotate" => Answer::json(200, &json!({ "rotated": state.rotate().is_ok() })),
        "/__fault" => {
            state.fault = word("fault");
            Answer::json(200, &json!({}))
        }
        "/__claims" => {
            state.claims = given;
            Answer::json(200, &json!({}))
        }
        "/__opaque" => {
            state.opaque.insert(word("token"), given["answer"].clone());
            Answer::json(200, &json!({}))
        }
        "/__hits" => Answer::json(200, &json!(state.hits)),
        _ => Answer::json(404, &json!({ "error": "not_found" })),
    }
}

/// The client of HTTP basic authentication.
fn client(head: &Head) -> Option<(String, String)> {
    let given = STANDARD.decode(head.field("authorization")?.strip_prefix("Basic ")?).ok()?;
    let given = String::from_utf8(given).ok()?;
    let (id, secret) = given.split_once(':')?;
    Some((decoded(id), decoded(secret)))
}

fn form(text: &str) -> Form {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (decoded(name), decoded(value))).collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, more @ ..] = rest {
        rest = more;
        let digits = more.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match (first, digits.and_then(|digits| u8::from_str_radix(digits, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &more[2..];
            }
            (b'+', _) => bytes.push(b' '),
            (byte, _) => bytes.push(*byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn encoded(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::new(), |mut done, byte| {
        let _written = write!(done, "%{byte:02X}");
        done
    })
}
