//! AWS keys: from the configuration, the environment, or the shared credentials file, which is read again every few
//! minutes because tools that hand out temporary keys rewrite it.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue};
use millgate_config::{AwsConfig, Secret};
use millgate_provider::{AwsKeys, Scope, Unsigned, sign};
use millgate_types::{Fault, code};

use crate::Unauthorized;
use crate::cache::{Cache, Fetched, Source};
use crate::failure::Failure;

const DATE: HeaderName = HeaderName::from_static("x-amz-date");
const TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");
/// How old what was read from a file may be.
const FILE_LIFE: Duration = Duration::from_mins(5);

/// Keys in use.
#[derive(Clone)]
pub(crate) struct Keys {
    id: Secret,
    secret: Secret,
    token: Option<Secret>,
}

/// Where keys come from.
pub(crate) enum Aws {
    /// They stay what they are.
    Fixed(Keys),
    /// A profile of the shared credentials file.
    File { path: PathBuf, profile: String },
}

impl Aws {
    /// As configured, else as AWS's own tools look for them: `AWS_ACCESS_KEY_ID` and its relatives, then the
    /// profile `AWS_PROFILE` of the shared credentials file.
    pub(crate) fn open(written: &AwsConfig) -> Result<Self, String> {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        if let (Some(id), Some(secret)) = (&written.access_key_id, &written.secret_access_key) {
            let token = written.session_token.clone();
            return Ok(Self::Fixed(Keys { id: id.clone(), secret: secret.clone(), token }));
        }
        let in_file = written.profile.is_some() || written.credentials_file.is_some();
        if let (false, Some(id), Some(secret)) =
            (in_file, set("AWS_ACCESS_KEY_ID"), set("AWS_SECRET_ACCESS_KEY"))
        {
            let token = set("AWS_SESSION_TOKEN").map(Secret::new);
            return Ok(Self::Fixed(Keys { id: Secret::new(id), secret: Secret::new(secret), token }));
        }
        let path = written
            .credentials_file
            .as_ref()
            .map(|path| PathBuf::from(path.as_str()))
            .or_else(|| set("AWS_SHARED_CREDENTIALS_FILE").map(PathBuf::from))
            .or_else(|| Some(PathBuf::from(set("HOME")?).join(".aws/credentials")))
            .ok_or("there are no AWS keys: neither in the configuration nor in the environment")?;
        let profile =
            written.profile.clone().or_else(|| set("AWS_PROFILE")).unwrap_or_else(|| "default".to_owned());
        read(&path, &profile).map_err(|failure| failure.to_string())?;
        Ok(Self::File { path, profile })
    }
}

impl Source for Aws {
    type Value = Keys;

    async fn fetch(&self) -> Result<Fetched<Keys>, Failure> {
        match self {
            Self::Fixed(keys) => Ok(Fetched { value: keys.clone(), life: None }),
            Self::File { path, profile } => {
                Ok(Fetched { value: read(path, profile)?, life: Some(FILE_LIFE) })
            }
        }
    }
}

fn read(path: &Path, profile: &str) -> Result<Keys, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::missing(format!(
            "there are no AWS keys: neither in the configuration nor in the environment, and the shared \
             credentials file cannot be read: {}",
            error.kind()
        ))
    })?;
    profile_keys(&text, profile).ok_or_else(|| {
        Failure::missing(format!("the shared AWS credentials file has no keys of the profile `{profile}`"))
    })
}

/// The keys of a profile: `[name]`, then `key = value` lines.
fn profile_keys(text: &str, profile: &str) -> Option<Keys> {
    let (mut id, mut secret, mut token) = (None, None, None);
    let mut inside = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let name = name.trim();
            // The sister file, `config`, says `[profile name]`.
            inside = name == profile || name.strip_prefix("profile ").map(str::trim) == Some(profile);
            continue;
        }
        let Some((key, value)) = line.split_once('=').filter(|_| inside) else { continue };
        let value = Some(value.trim()).filter(|value| !value.is_empty()).map(Secret::new);
        match key.trim() {
            "aws_access_key_id" => id = value,
            "aws_secret_access_key" => secret = value,
            "aws_session_token" => token = value,
            _ => {}
        }
    }
    Some(Keys { id: id?, secret: secret?, token })
}

/// Signs requests.
pub(crate) struct Signer {
    pub(crate) keys: Cache<Keys>,
    pub(crate) region: String,
    pub(crate) service: String,
}

impl Signer {
    /// Adds the signature's headers. What is signed is the target, the host, the content type and the body.
    pub(crate) async fn sign(
        &self,
        request: &Unauthorized<'_>,
        out: &mut Vec<(HeaderName, HeaderValue)>,
    ) -> Result<(), Fault> {
        let keys = self.keys.get().await?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let text = |value: &HeaderValue| value.to_str().unwrap_or_default().to_owned();
        let host = text(request.host);
        let content_type = request.content_type.map(text);
        let mut headers = vec![("host", host.as_str())];
        headers.extend(content_type.as_deref().map(|value| ("content-type", value)));
        let (path, query) = request.target.split_once('?').unwrap_or((request.target, ""));
        let signature = sign(
            &Unsigned {
                method: request.method.as_str(),
                path,
                query,
                headers: &headers,
                body: request.body,
                normalize: true,
            },
            &AwsKeys {
                access_key_id: keys.id.expose(),
                secret_access_key: keys.secret.expose(),
                session_token: keys.token.as_ref().map(Secret::expose),
            },
            &Scope { region: &self.region, service: &self.service },
            now,
        );
        out.push((AUTHORIZATION, sensitive(&signature.authorization)?));
        out.push((DATE, sensitive(&signature.date)?));
        if let Some(token) = &keys.token {
            out.push((TOKEN, sensitive(token.expose())?));
        }
        Ok(())
    }
}

fn sensitive(text: &str) -> Result<HeaderValue, Fault> {
    let mut value = HeaderValue::from_str(text).map_err(|_| {
        Fault::gateway(code::INTERNAL_ERROR, "the AWS keys hold characters that a header cannot hold")
    })?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# comment\n[default]\naws_access_key_id = AKIDDEFAULT\naws_secret_access_key=s1\n\n\
        [other]\n aws_access_key_id= AKIDOTHER \naws_secret_access_key = a/b+c=d\naws_session_token = t==\nregion = x\n\
        [half]\naws_access_key_id = AKIDHALF\n";

    #[test]
    fn profiles_are_read_from_the_shared_file() {
        let keys = profile_keys(FILE, "default").unwrap();
        assert_eq!((keys.id.expose(), keys.secret.expose()), ("AKIDDEFAULT", "s1"));
        assert!(keys.token.is_none());
        let keys = profile_keys(FILE, "other").unwrap();
        assert_eq!((keys.id.expose(), keys.secret.expose()), ("AKIDOTHER", "a/b+c=d"));
        assert_eq!(keys.token.unwrap().expose(), "t==");
        assert!(profile_keys(FILE, "half").is_none());
        assert!(profile_keys(FILE, "none").is_none());
    }
}
