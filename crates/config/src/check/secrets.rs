//! Rules for where secrets are kept.

use super::{Checker, check_base_url, steps};
use crate::node::Step;
use crate::value::Secret;

impl Checker<'_> {
    pub(super) fn secrets(&mut self) {
        let config = self.config;
        let secrets = &config.secrets;
        if secrets.master_key.is_some() && !secrets.master_key_command.is_empty() {
            let reason = "`master_key` and `master_key_command` exclude each other";
            self.error(steps!["secrets", "master_key_command"], reason, "");
        }
        let short = |secret: &Secret| secret.expose().len() < 32;
        let hint = "make one with `openssl rand -hex 32`";
        if secrets.master_key.as_ref().is_some_and(short) {
            self.error(steps!["secrets", "master_key"], "the key is shorter than 32 characters", hint);
        }
        for (index, key) in secrets.previous_master_keys.iter().enumerate() {
            if short(key) {
                let at = steps!["secrets", "previous_master_keys", index];
                self.error(at, "the key is shorter than 32 characters", "");
            }
        }
        if let Some(vault) = &secrets.vault {
            let at = |field: &str| [Step::from("secrets"), Step::from("vault"), Step::from(field)];
            if let Err(reason) = check_base_url(vault.address.as_str()) {
                self.error(&at("address"), reason, "for example `https://vault.example.com:8200`");
            }
            if vault.token.is_some() == vault.kubernetes.is_some() {
                let hint = "`token: env:VAULT_TOKEN`, or `kubernetes: { role: millgate }`";
                self.error(&at("token")[..2], "expected either `token` or `kubernetes`", hint);
            }
            self.above_zero(&at("refresh"), Some(vault.refresh));
        }
        // What is needed to look secrets up cannot be looked up.
        let vault_token = secrets.vault.as_ref().and_then(|vault| vault.token.as_ref());
        let needed = [
            (steps!["store"].to_vec(), config.store.as_ref()),
            (steps!["access", "key_pepper"].to_vec(), config.access.key_pepper.as_ref()),
            (steps!["secrets", "master_key"].to_vec(), secrets.master_key.as_ref()),
            (steps!["secrets", "vault", "token"].to_vec(), vault_token),
        ];
        for (at, secret) in needed {
            if secret.is_some_and(Secret::is_kept_elsewhere) {
                let reason = "this is read before secrets can be looked up";
                self.error(&at, reason, "use `env:NAME` or `file:PATH`");
            }
        }
    }
}
