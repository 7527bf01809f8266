//! Google Cloud's access tokens: for a service account by a signed assertion, for a user by a refresh token, on
//! Google's machines from the metadata server. The credentials file is read at each fetch, so that a new key is
//! seen without a reload.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::HeaderValue;
use millgate_config::GoogleConfig;
use serde::Deserialize;
use serde_json::json;

use crate::cache::{Fetched, Source};
use crate::failure::Failure;
use crate::token;

const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
const TOKEN_URL: &str = "https://oauth2.googleapis.com/token";
const METADATA_HOST: &str = "metadata.google.internal";
const METADATA_PATH: &str = "/computeMetadata/v1/instance/service-accounts/default/token";
/// How long an assertion may be used, in seconds; Google's longest.
const ASSERTION_LIFE: u64 = 3600;
/// A credentials file larger than this is none.
const FILE_LIMIT: u64 = 1 << 20;

/// Where tokens come from.
pub(crate) enum Google {
    /// A key of a service account, or a user's login.
    File(PathBuf),
    /// The metadata server at this host.
    Metadata(String),
}

/// The fields of a form.
type Form = Vec<(&'static str, String)>;

/// A credentials file, as `gcloud` and the console write it.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Key {
    ServiceAccount {
        client_email: String,
        private_key: String,
        #[serde(default)]
        private_key_id: Option<String>,
        #[serde(default)]
        token_uri: Option<String>,
    },
    AuthorizedUser {
        client_id: String,
        client_secret: String,
        refresh_token: String,
        #[serde(default)]
        token_uri: Option<String>,
    },
}

impl Key {
    /// Where to ask for a token, and the form to send there.
    fn request(self, now: u64) -> Result<(String, Form), Failure> {
        match self {
            Self::ServiceAccount { client_email, private_key, private_key_id, token_uri } => {
                let uri = token_uri.unwrap_or_else(|| TOKEN_URL.to_owned());
                let signed = assertion(&client_email, &private_key, private_key_id.as_deref(), &uri, now)?;
                let grant = "urn:ietf:params:oauth:grant-type:jwt-bearer".to_owned();
                Ok((uri, vec![("grant_type", grant), ("assertion", signed)]))
            }
            Self::AuthorizedUser { client_id, client_secret, refresh_token, token_uri } => {
                let form = vec![
                    ("grant_type", "refresh_token".to_owned()),
                    ("client_id", client_id),
                    ("client_secret", client_secret),
                    ("refresh_token", refresh_token),
                ];
                Ok((token_uri.unwrap_or_else(|| TOKEN_URL.to_owned()), form))
            }
        }
    }
}

impl Google {
    /// As configured, else Application Default Credentials: `GOOGLE_APPLICATION_CREDENTIALS`, the file that
    /// `gcloud auth application-default login` writes, the metadata server.
    pub(crate) fn open(written: &GoogleConfig) -> Result<Self, String> {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        if let Some(path) = &written.credentials_file {
            return Self::file(PathBuf::from(path.as_str()));
        }
        if let Some(host) = &written.metadata_host {
            return Ok(Self::Metadata(host.as_str().to_owned()));
        }
        if let Some(path) = set("GOOGLE_APPLICATION_CREDENTIALS") {
            return Self::file(PathBuf::from(path));
        }
        let folder = set("CLOUDSDK_CONFIG")
            .map(PathBuf::from)
            .or_else(|| Some(PathBuf::from(set("HOME")?).join(".config/gcloud")));
        let login = folder.map(|folder| folder.join("application_default_credentials.json"));
        if let Some(path) = login.filter(|path| path.is_file()) {
            return Self::file(path);
        }
        Ok(Self::Metadata(set("GCE_METADATA_HOST").unwrap_or_else(|| METADATA_HOST.to_owned())))
    }

    /// A file that is no key is refused when the configuration is put to use, not at the first request.
    fn file(path: PathBuf) -> Result<Self, String> {
        read(&path).map_err(|failure| failure.to_string())?;
        Ok(Self::File(path))
    }
}

fn read(path: &Path) -> Result<Key, Failure> {
    let unreadable = |error: std::io::Error| {
        Failure::missing(format!("the credentials file cannot be read: {}", error.kind()))
    };
    if std::fs::metadata(path).map_err(unreadable)?.len() > FILE_LIMIT {
        return Err(Failure::missing("the credentials file is too large to be one"));
    }
    let text = std::fs::read(path).map_err(unreadable)?;
    // The parser's own words could repeat the key.
    let key: Key = serde_json::from_slice(&text).map_err(|_| {
        Failure::missing("the credentials file holds no key of a service account and no user's login")
    })?;
    if let Key::ServiceAccount { private_key, .. } = &key {
        key_pair(private_key)?;
    }
    Ok(key)
}

/// The key out of its PEM armour.
fn key_pair(pem: &str) -> Result<RsaKeyPair, Failure> {
    let wrong = || Failure::missing("the private key of the service account is not an RSA key in PKCS #8");
    let body = pem
        .split_once("-----BEGIN PRIVATE KEY-----")
        .and_then(|(_, rest)| rest.split_once("-----END PRIVATE KEY-----"))
        .map(|(body, _)| body.split_ascii_whitespace().collect::<String>())
        .ok_or_else(wrong)?;
    let der = STANDARD.decode(body).map_err(|_| wrong())?;
    RsaKeyPair::from_pkcs8(&der).map_err(|_| wrong())
}

/// A JSON Web Token that says who asks, signed with RS256.
fn assertion(
    email: &str,
    pem: &str,
    key_id: Option<&str>,
    audience: &str,
    now: u64,
) -> Result<String, Failure> {
    let mut header = json!({"alg": "RS256", "typ": "JWT"});
    if let Some(id) = key_id {
        header["kid"] = json!(id);
    }
    let claims =
        json!({"iss": email, "scope": SCOPE, "aud": audience, "iat": now, "exp": now + ASSERTION_LIFE});
    let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", part(&header), part(&claims));
    let pair = key_pair(pem)?;
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature)
        .map_err(|_| Failure::missing("the assertion could not be signed"))?;
    Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

impl Source for Google {
    type Value = HeaderValue;

    async fn fetch(&self) -> Result<Fetched<HeaderValue>, Failure> {
        let path = match self {
            Self::File(path) => path,
            Self::Metadata(host) => {
                let url = format!("http://{host}{METADATA_PATH}");
                let url = token::endpoint(&url).map_err(Failure::Missing)?;
                let client = token::client(&url).map_err(Failure::Missing)?;
                return token::fetch(client.get(url).header("metadata-flavor", "Google")).await;
            }
        };
        // A small file, a few times an hour, on the control plane's threads.
        let key = read(path)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let (uri, form) = key.request(now)?;
        let url = token::endpoint(&uri).map_err(Failure::Missing)?;
        let client = token::client(&url).map_err(Failure::Missing)?;
        let form: Vec<(&str, &str)> = form.iter().map(|(name, value)| (*name, value.as_str())).collect();
        token::fetch(token::post(&client, url, &form)).await
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::AsDer as _;
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
    use serde_json::Value;

    use super::*;

    fn pem(pair: &RsaKeyPair) -> String {
        let der: aws_lc_rs::encoding::Pkcs8V1Der<'_> = pair.as_der().unwrap();
        let text = STANDARD.encode(der.as_ref());
        let lines: Vec<&str> =
            text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"))
    }

    #[test]
    fn an_assertion_says_who_asks_and_is_signed_with_the_key() {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let token = assertion("me@p.iam", &pem(&pair), Some("k1"), TOKEN_URL, 1_700_000_000).unwrap();
        let (text, signature) = token.rsplit_once('.').unwrap();
        let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pair.public_key().as_ref());
        public.verify(text.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap()).unwrap();
        let parts: Vec<Value> = text
            .split('.')
            .map(|part| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap())
            .collect();
        assert_eq!(parts[0], json!({"alg": "RS256", "typ": "JWT", "kid": "k1"}));
        assert_eq!(
            parts[1],
            json!({"iss": "me@p.iam", "scope": SCOPE, "aud": TOKEN_URL, "iat": 1_700_000_000_u64,
                "exp": 1_700_003_600_u64})
        );
    }

    #[test]
    fn a_file_that_is_no_key_is_refused_without_its_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.json");
        for (text, reason) in [
            (
                "{\"type\":\"service_account\",\"client_email\":\"a\",\"private_key\":\"very-secret\"}",
                "PKCS #8",
            ),
            ("{\"type\":\"external_account\",\"secret\":\"very-secret\"}", "no key of a service account"),
            ("very-secret", "no key of a service account"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Google::file(path.clone()).err().unwrap();
            assert!(error.contains(reason) && !error.contains("very-secret"), "{error}");
        }
        assert!(Google::file(folder.path().join("none")).err().unwrap().contains("cannot be read"));
    }
}
