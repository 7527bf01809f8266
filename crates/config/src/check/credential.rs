//! Rules of credentials, and of the settings that addresses are completed with.

use millgate_provider::ProviderKind;

use super::{Checker, check_base_url};
use crate::credential::{AwsConfig, CredentialConfig};
use crate::node::Step;
use crate::provider::ProviderConfig;
use crate::value::Secret;

impl Checker<'_> {
    /// What proves who calls, and where the provider is.
    pub(super) fn credential(&mut self, name: &str, provider: &ProviderConfig, kind: &ProviderKind) {
        let at = |fields: &[&str]| -> Vec<Step> {
            ["providers", name].iter().chain(fields).map(|field| Step::from(*field)).collect()
        };
        self.settings(provider, kind, &at);
        let Some(credential) = &provider.credential else {
            let has_key = provider.api_key.is_some() || !provider.api_keys.is_empty();
            if let (false, Some(_)) = (has_key, &kind.proof.aws_service) {
                self.aws(&AwsConfig::default(), &at(&["credential"]));
            }
            return;
        };
        if provider.api_key.is_some() {
            let hint = "leave one of them out";
            self.error(&at(&["credential"]), "`api_key` and `credential` exclude each other", hint);
        }
        match credential {
            CredentialConfig::Aws(aws) => {
                if kind.proof.aws_service.is_none() {
                    let reason = format!("requests to {} are not signed with AWS keys", kind.title);
                    self.error(&at(&["credential", "aws"]), reason, "AWS keys go with `kind: bedrock`");
                }
                for (field, secret) in
                    [("secret_access_key", &aws.secret_access_key), ("session_token", &aws.session_token)]
                {
                    self.clear_text(&at(&["credential", "aws", field]), secret.as_ref());
                }
                self.aws(aws, &at(&["credential", "aws"]));
            }
            CredentialConfig::Google(google) => {
                let file = google.credentials_file.as_ref();
                self.readable(
                    &at(&["credential", "google", "credentials_file"]),
                    file.map(crate::Expanded::as_str),
                );
                if file.is_some() && google.metadata_host.is_some() {
                    let reason = "`credentials_file` and `metadata_host` exclude each other";
                    self.error(&at(&["credential", "google"]), reason, "leave one of them out");
                }
                if let Some(host) = &google.metadata_host
                    && !is_authority(host.as_str())
                {
                    let node = at(&["credential", "google", "metadata_host"]);
                    self.error(&node, "expected a host", "for example `metadata.google.internal`");
                }
            }
            CredentialConfig::Entra(entra) => {
                self.clear_text(&at(&["credential", "entra", "client_secret"]), Some(&entra.client_secret));
                if let Some(authority) = &entra.authority {
                    self.token_url(&at(&["credential", "entra", "authority"]), authority.as_str());
                }
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
                if entra.tenant_id.as_str().is_empty() || !entra.tenant_id.as_str().bytes().all(plain) {
                    let node = at(&["credential", "entra", "tenant_id"]);
                    self.error(&node, "expected a tenant's id or domain", "it stands in the Azure portal");
                }
            }
            CredentialConfig::Oauth(oauth) => {
                self.clear_text(&at(&["credential", "oauth", "client_secret"]), Some(&oauth.client_secret));
                match &oauth.token_url {
                    Some(url) => self.token_url(&at(&["credential", "oauth", "token_url"]), url.as_str()),
                    None if kind.proof.token_path.is_none() => {
                        let hint = "for example `token_url: https://login.example/oauth2/token`";
                        self.error(&at(&["credential", "oauth"]), "the field `token_url` is missing", hint);
                    }
                    None => {}
                }
            }
        }
    }

    fn settings(
        &mut self,
        provider: &ProviderConfig,
        kind: &ProviderKind,
        at: &dyn Fn(&[&str]) -> Vec<Step>,
    ) {
        for (field, value) in
            [("region", &provider.region), ("project", &provider.project), ("location", &provider.location)]
        {
            if value.is_some() && kind.settings.iter().all(|setting| setting.name != field) {
                let reason = format!("{} has no `{field}`", kind.title);
                self.warning(&at(&[field]), reason, "the field is not used");
            }
        }
        match provider.settings(kind) {
            Err(missing) => {
                for name in missing {
                    let setting = kind.settings.iter().find(|setting| setting.name == name);
                    let variable = setting.and_then(|setting| setting.env.first());
                    let hint = variable.map_or(String::new(), |variable| {
                        format!("write it, or set the environment variable `{variable}`")
                    });
                    self.error(&at(&[&name]), format!("the field `{name}` is missing"), hint);
                }
            }
            // They become part of host names and paths.
            Ok(found) => {
                for (name, value) in found {
                    let more: &[u8] = if name == "project" { b"-_.:" } else { b"-" };
                    let plain = |byte: u8| byte.is_ascii_alphanumeric() || more.contains(&byte);
                    if value.is_empty() || value.len() > 128 || !value.bytes().all(plain) {
                        let hint = "letters, digits and `-`, as the provider's console shows it";
                        self.error(&at(&[&name]), format!("this is not a {name}"), hint);
                    }
                }
            }
        }
    }

    fn aws(&mut self, aws: &AwsConfig, at: &[Step]) {
        let keys = [&aws.access_key_id, &aws.secret_access_key];
        let in_file = aws.profile.is_some() || aws.credentials_file.is_some();
        if keys.iter().any(|key| key.is_some()) != keys.iter().all(|key| key.is_some()) {
            self.error(at, "`access_key_id` and `secret_access_key` belong together", "give both or none");
        } else if aws.session_token.is_some() && aws.access_key_id.is_none() {
            self.error(at, "`session_token` belongs to an `access_key_id`", "");
        }
        if in_file && aws.access_key_id.is_some() {
            let reason = "keys and a profile of the shared credentials file exclude each other";
            self.error(at, reason, "leave one of them out");
        }
        if keys.iter().any(|key| key.is_some()) {
            return;
        }
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        if !in_file && set("AWS_ACCESS_KEY_ID").is_some() && set("AWS_SECRET_ACCESS_KEY").is_some() {
            return;
        }
        if let Some(file) = &aws.credentials_file {
            let at = [at, &[Step::from("credentials_file")]].concat();
            return self.readable(&at, Some(file.as_str()));
        }
        let home = set("HOME").map(|home| format!("{home}/.aws/credentials"));
        let file = set("AWS_SHARED_CREDENTIALS_FILE").or(home);
        if !file.is_some_and(|file| std::path::Path::new(&file).is_file()) {
            let hint =
                "set `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, or give `api_key` or `credential`";
            self.error(at, "there are no AWS keys", hint);
        }
    }

    fn readable(&mut self, at: &[Step], path: Option<&str>) {
        if let Some(Err(error)) = path.map(std::fs::File::open) {
            let reason = format!("the file cannot be read: {}", error.kind());
            self.error(at, reason, "check the path and its permissions");
        }
    }

    fn token_url(&mut self, at: &[Step], url: &str) {
        if let Err(reason) = check_base_url(url) {
            self.error(at, reason, "");
        }
    }

    fn clear_text(&mut self, at: &[Step], secret: Option<&Secret>) {
        if secret.is_some_and(Secret::is_clear_text) {
            self.warning(at, "the secret stands in clear text", "use `env:NAME` or `file:PATH`");
        }
    }
}

/// A host, with a port or without.
fn is_authority(text: &str) -> bool {
    let url = url::Url::parse(&format!("http://{text}/"));
    !text.contains(['/', '@', '?', '#', ' '])
        && url.is_ok_and(|url| url.host_str().is_some_and(|host| !host.is_empty()))
}
