//! Rules for where secrets are kept, and where the audit log goes.

use super::guessable::guessable;
use super::{Checker, check_base_url, steps};
use crate::audit::AuditSink;
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
        } else if let Some(reason) = secrets.master_key.as_ref().and_then(|key| guessable(key.expose())) {
            self.error(steps!["secrets", "master_key"], reason, hint);
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
        for (index, sink) in config.audit.sinks.iter().enumerate() {
            let at = |kind: &str, field: &str| steps!["audit", "sinks", index, kind, field].to_vec();
            match sink {
                AuditSink::Stdout(_) => {}
                AuditSink::Webhook(webhook) => {
                    if let Err(reason) = check_base_url(webhook.url.as_str()) {
                        self.error(&at("webhook", "url"), reason, "");
                    }
                    if webhook.secret.is_clear_text() {
                        let hint = "use `env:NAME` or `file:PATH`";
                        self.warning(&at("webhook", "secret"), "the secret stands in clear text", hint);
                    }
                }
                AuditSink::Syslog(syslog) => {
                    let known = ["udp://", "tcp://", "unix:///"];
                    if !known.iter().any(|scheme| syslog.address.starts_with(scheme)) {
                        let hint = "`udp://host:514`, `tcp://host:601` or `unix:///dev/log`";
                        self.error(&at("syslog", "address"), "this is no address of a syslog", hint);
                    }
                }
            }
        }
        // What is needed to look secrets up cannot be looked up.
        let vault_token = secrets.vault.as_ref().and_then(|vault| vault.token.as_ref());
        let needed = [
            (steps!["store"].to_vec(), config.store.as_ref()),
            (steps!["shared", "redis"].to_vec(), config.shared.as_ref().map(|shared| &shared.redis)),
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
