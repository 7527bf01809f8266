//! Where the audit log goes beside its files, as the configuration says.

use millgate_audit::{Sink, SinkKind, SyslogAddress, Webhook};
use millgate_config::{AuditSink, Config};

/// Opens the sinks. The error says which setting is wrong.
pub fn audit_sinks(config: &Config) -> Result<Vec<Sink>, String> {
    let open = |(index, sink): (usize, &AuditSink)| {
        let kind = match sink {
            AuditSink::Stdout(_) => SinkKind::Stdout,
            AuditSink::Webhook(webhook) => SinkKind::Webhook(Webhook {
                url: webhook.url.as_str().to_owned(),
                secret: webhook.secret.expose().to_owned(),
            }),
            AuditSink::Syslog(syslog) => {
                let address = SyslogAddress::parse(&syslog.address);
                SinkKind::Syslog(
                    address.ok_or_else(|| format!("audit.sinks[{index}]: no address of a syslog"))?,
                )
            }
        };
        Sink::open(kind).map_err(|error| format!("audit.sinks[{index}]: {error}"))
    };
    config.audit.sinks.iter().enumerate().map(open).collect()
}
