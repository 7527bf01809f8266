//! OAuth 2.0 client credentials: an id and a secret are exchanged for an access token. Databricks and others take
//! them as basic authentication, Microsoft Entra ID as fields of the form.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use millgate_config::{EntraConfig, OauthConfig, Secret};
use reqwest::Client;
use reqwest::header::AUTHORIZATION;
use url::Url;

use crate::Wanted;
use crate::cache::{Fetched, Source};
use crate::failure::Failure;
use crate::token;

/// Where Entra ID's tokens come from.
const ENTRA: &str = "https://login.microsoftonline.com";
/// What Azure OpenAI wants them for.
const AZURE_OPENAI: &str = "https://cognitiveservices.azure.com/.default";

/// One client of one token endpoint.
pub(crate) struct ClientCredentials {
    client: Client,
    url: Url,
    id: String,
    secret: Secret,
    scope: Option<String>,
    /// Id and secret stand in the form, not in a header.
    in_form: bool,
}

impl ClientCredentials {
    /// As configured; what is left out is the catalogue's.
    pub(crate) fn oauth(written: &OauthConfig, wanted: &Wanted<'_>) -> Result<Self, String> {
        let proof = &wanted.kind.proof;
        let url = match (&written.token_url, &proof.token_path) {
            (Some(url), _) => token::endpoint(url.as_str())?,
            (None, Some(path)) => {
                let base = wanted.base.ok_or("the field `base_url` is missing")?;
                base.join(path).map_err(|error| format!("the token endpoint is not a URL: {error}"))?
            }
            (None, None) => return Err("the field `token_url` is missing".to_owned()),
        };
        Ok(Self {
            client: token::client(&url)?,
            url,
            id: written.client_id.as_str().to_owned(),
            secret: written.client_secret.clone(),
            scope: written.scope.clone().or_else(|| proof.scope.clone()),
            in_form: written.in_form,
        })
    }

    /// Microsoft Entra ID.
    pub(crate) fn entra(written: &EntraConfig) -> Result<Self, String> {
        let authority = written.authority.as_ref().map_or(ENTRA, |authority| authority.as_str());
        let mut url = token::endpoint(authority)?;
        url.path_segments_mut()
            .map_err(|()| "the authority is not an `https://` URL")?
            .pop_if_empty()
            .extend([written.tenant_id.as_str(), "oauth2", "v2.0", "token"]);
        Ok(Self {
            client: token::client(&url)?,
            url,
            id: written.client_id.as_str().to_owned(),
            secret: written.client_secret.clone(),
            scope: Some(written.scope.clone().unwrap_or_else(|| AZURE_OPENAI.to_owned())),
            in_form: true,
        })
    }
}

impl Source for ClientCredentials {
    type Value = HeaderValue;

    async fn fetch(&self) -> Result<Fetched<HeaderValue>, Failure> {
        let mut form = vec![("grant_type", "client_credentials")];
        form.extend(self.scope.as_deref().map(|scope| ("scope", scope)));
        if self.in_form {
            form.extend([("client_id", self.id.as_str()), ("client_secret", self.secret.expose())]);
        }
        let mut request = token::post(&self.client, self.url.clone(), &form);
        if !self.in_form {
            let pair = STANDARD.encode(format!("{}:{}", self.id, self.secret.expose()));
            let mut value = HeaderValue::from_str(&format!("Basic {pair}"))
                .map_err(|_| Failure::missing("the client's id and secret cannot stand in a header"))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        token::fetch(request).await
    }
}
