//! Credentials that are more than a fixed header: requests signed with AWS keys, access tokens that are fetched and
//! renewed behind the scenes. A kind is one variant of `CredentialConfig` (crates/config), one file here, and one
//! arm in [`Credentials::open`]. Secrets leave only in headers marked as sensitive.

mod aws;
mod cache;
mod failure;
mod google;
mod oauth;
mod token;

use std::collections::HashMap;
use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use millgate_config::{AwsConfig, CredentialConfig, GoogleConfig};
use millgate_provider::{ProviderKind, Settings};
use millgate_types::Fault;
use tokio::runtime::Handle;
use url::Url;

use crate::aws::{Aws, Signer};
use crate::cache::{Cache, Source};
use crate::google::Google;
use crate::oauth::ClientCredentials;

/// How the requests to a provider are authorised.
#[derive(Clone)]
pub enum Credential {
    /// The provider's fixed headers say it all.
    Fixed,
    /// Each request is signed.
    Signed(Arc<SignedRequests>),
    /// Each request carries the current access token.
    Bearer(Arc<AccessToken>),
}

/// Signs requests with AWS keys.
pub struct SignedRequests(Signer);

/// An access token that renews itself.
pub struct AccessToken(Cache<HeaderValue>);

/// A request that is about to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Unauthorized<'a> {
    /// The method.
    pub method: &'a Method,
    /// Path and query.
    pub target: &'a str,
    /// What its `Host` header will say.
    pub host: &'a HeaderValue,
    /// What its `Content-Type` header will say.
    pub content_type: Option<&'a HeaderValue>,
    /// The whole body.
    pub body: &'a [u8],
}

impl Credential {
    /// Whether the body must be whole before its request can be authorised.
    #[must_use]
    pub fn signs(&self) -> bool {
        matches!(self, Self::Signed(_))
    }

    /// Adds the headers that the request needs. Costs one look at the current token, or one signature; waits only
    /// while there is no token at all.
    pub async fn authorize(
        &self,
        request: &Unauthorized<'_>,
        headers: &mut Vec<(HeaderName, HeaderValue)>,
    ) -> Result<(), Fault> {
        match self {
            Self::Fixed => Ok(()),
            Self::Signed(signer) => signer.0.sign(request, headers).await,
            Self::Bearer(token) => {
                headers.push((AUTHORIZATION, HeaderValue::clone(&*token.0.get().await?)));
                Ok(())
            }
        }
    }

    /// Whether there is something to prove the caller with; a fetch under way is waited for.
    pub async fn test(&self) -> Result<(), Fault> {
        match self {
            Self::Fixed => Ok(()),
            Self::Signed(signer) => signer.0.keys.get().await.map(drop),
            Self::Bearer(token) => token.0.get().await.map(drop),
        }
    }

    /// The provider answered that it does not accept the credential: a token may have been revoked, keys in a
    /// file replaced. What is not young any more is fetched anew.
    pub fn refused(&self, status: StatusCode) {
        match (self, status) {
            (Self::Bearer(token), StatusCode::UNAUTHORIZED) => token.0.refused(),
            // AWS says 403 of expired keys too.
            (Self::Signed(signer), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                signer.0.keys.refused();
            }
            _ => {}
        }
    }
}

/// What a provider needs a credential for.
pub struct Wanted<'a> {
    /// Its name in the configuration.
    pub name: &'a str,
    /// As written; `None` where nothing is.
    pub written: Option<&'a CredentialConfig>,
    /// A fixed key is configured.
    pub has_key: bool,
    /// Its entry of the catalogue.
    pub kind: &'a ProviderKind,
    /// `region` and its relatives.
    pub settings: &'a Settings,
    /// Its base address; `None` for the mock.
    pub base: Option<&'a Url>,
}

/// What two credentials that are the same agree in.
#[derive(Clone, PartialEq)]
struct Shape {
    written: CredentialConfig,
    kind: String,
    settings: Settings,
    base: Option<Url>,
}

/// The credentials of a gateway. What did not change outlives a reload, with its token.
pub struct Credentials {
    handle: Handle,
    kept: HashMap<String, (Shape, Credential)>,
}

impl Credentials {
    /// None yet; tokens will be fetched on `handle`.
    #[must_use]
    pub fn new(handle: Handle) -> Self {
        Self { handle, kept: HashMap::new() }
    }

    /// Opens a provider's credential. Tokens are fetched from now on; nothing is waited for. The error says what
    /// is missing on this machine, without any secret.
    pub fn open(&self, wanted: &Wanted<'_>) -> Result<Opened, String> {
        let proof = &wanted.kind.proof;
        let written = match wanted.written {
            Some(written) => written.clone(),
            None if wanted.has_key => return Ok(Opened::fixed()),
            None if proof.aws_service.is_some() => CredentialConfig::Aws(AwsConfig::default()),
            None if proof.google => CredentialConfig::Google(GoogleConfig::default()),
            None => return Ok(Opened::fixed()),
        };
        let shape = Shape {
            written,
            kind: wanted.kind.name.clone(),
            settings: wanted.settings.clone(),
            base: wanted.base.cloned(),
        };
        if let Some((_, kept)) = self.kept.get(wanted.name).filter(|(known, _)| *known == shape) {
            return Ok(Opened { name: wanted.name.to_owned(), shape: Some(shape), credential: kept.clone() });
        }
        let credential = match &shape.written {
            CredentialConfig::Aws(aws) => {
                let service =
                    proof.aws_service.clone().ok_or("requests to it are not signed with AWS keys")?;
                let region = wanted.settings.get("region").cloned().ok_or("the field `region` is missing")?;
                let keys = self.cache(wanted, Aws::open(aws)?);
                Credential::Signed(Arc::new(SignedRequests(Signer { keys, region, service })))
            }
            CredentialConfig::Google(google) => self.bearer(wanted, Google::open(google)?),
            CredentialConfig::Entra(entra) => self.bearer(wanted, ClientCredentials::entra(entra)?),
            CredentialConfig::Oauth(oauth) => self.bearer(wanted, ClientCredentials::oauth(oauth, wanted)?),
        };
        Ok(Opened { name: wanted.name.to_owned(), shape: Some(shape), credential })
    }

    fn bearer(&self, wanted: &Wanted<'_>, source: impl Source<Value = HeaderValue>) -> Credential {
        Credential::Bearer(Arc::new(AccessToken(self.cache(wanted, source))))
    }

    fn cache<S: Source>(&self, wanted: &Wanted<'_>, source: S) -> Cache<S::Value> {
        Cache::start(&self.handle, wanted.name.to_owned(), source)
    }

    /// Keeps what is in use from now on; the others end when their last request does.
    pub fn keep(&mut self, opened: Vec<Opened>) {
        let in_use = opened.into_iter().filter_map(|one| Some((one.name, (one.shape?, one.credential))));
        self.kept = in_use.collect();
    }
}

/// A credential that was opened, not yet in use.
pub struct Opened {
    name: String,
    shape: Option<Shape>,
    /// The credential.
    pub credential: Credential,
}

impl Opened {
    fn fixed() -> Self {
        Self { name: String::new(), shape: None, credential: Credential::Fixed }
    }
}
