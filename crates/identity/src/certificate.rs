//! The names in a client's certificate. That it is good, the TLS handshake has shown.

use serde_json::{Value, json};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// What a certificate calls its holder, for expressions: `cn`, `organization` and `unit` of the subject (empty texts
/// where there are none), the alternative names `dns`, `email` and `uri` as lists, `serial` in hexadecimal; and until when
/// it is good, in seconds since 1970. `None`: it cannot be read.
#[must_use]
pub fn subject(der: &[u8]) -> Option<(Value, i64)> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let mut names = subject.iter_common_name().filter_map(|name| name.as_str().ok());
    let (cn, another) = (names.next().unwrap_or_default(), names.next());
    // A subject of two names would be whoever reads it wants it to be.
    let cn = if another.is_some() { "" } else { cn };
    let first = |text: Option<&str>| text.unwrap_or_default().to_owned();
    let organization = first(subject.iter_organization().find_map(|name| name.as_str().ok()));
    let unit = first(subject.iter_organizational_unit().find_map(|name| name.as_str().ok()));
    let (mut dns, mut email, mut uri) = (Vec::new(), Vec::new(), Vec::new());
    let alternative = certificate.subject_alternative_name().ok()?;
    for name in alternative.iter().flat_map(|extension| &extension.value.general_names) {
        match name {
            GeneralName::DNSName(name) => dns.push(*name),
            GeneralName::RFC822Name(name) => email.push(*name),
            GeneralName::URI(name) => uri.push(*name),
            _ => {}
        }
    }
    let value = json!({
        "cn": cn,
        "organization": organization,
        "unit": unit,
        "dns": dns,
        "email": email,
        "uri": uri,
        "serial": format!("{:x}", certificate.serial),
    });
    Some((value, certificate.validity().not_after.timestamp()))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    #[test]
    fn the_names_of_a_certificate_are_read() {
        let mut params = CertificateParams::new(vec!["job.example".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "batch");
        params.distinguished_name.push(DnType::OrganizationName, "Corp");
        params.subject_alt_names.push(SanType::URI("spiffe://corp/ns/ml/sa/batch".try_into().unwrap()));
        params.subject_alt_names.push(SanType::Rfc822Name("batch@corp.example".try_into().unwrap()));
        let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let (value, until) = subject(made.der()).unwrap();
        assert_eq!(
            (&value["cn"], &value["organization"], &value["unit"]),
            (&json!("batch"), &json!("Corp"), &json!(""))
        );
        assert_eq!(value["dns"], json!(["job.example"]));
        assert_eq!(value["uri"], json!(["spiffe://corp/ns/ml/sa/batch"]));
        assert_eq!(value["email"], json!(["batch@corp.example"]));
        assert!(until > 1_900_000_000);
        assert_eq!(subject(b"no certificate"), None);
    }
}
