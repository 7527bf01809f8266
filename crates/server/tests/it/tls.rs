//! TLS at the listener, and clients whose certificates say who they are.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may stop")]

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use millgate_testkit::{FakeProvider, TestGateway};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa,
    KeyPair, KeyUsagePurpose, RevokedCertParams,
};

use super::config;
use super::pass::chat;

const KEY: &str = "mg-caller-key-0123456789ab";

const DAY: Duration = Duration::from_hours(24);

/// An authority, and what it signs.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// Certificate and key.
    fn sign(&self, cn: &str, names: &[&str]) -> (String, String) {
        self.sign_as(cn, names, None)
    }

    fn sign_as(&self, cn: &str, names: &[&str], serial: Option<u64>) -> (String, String) {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, cn);
        params.serial_number = serial.map(Into::into);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }

    /// A list on which the certificate with a serial number stands, good until a moment.
    fn revoke(&self, serial: Option<u64>, until: SystemTime) -> String {
        let begun = SystemTime::now() - DAY;
        let revoked = serial.map(|serial| RevokedCertParams {
            serial_number: serial.into(),
            revocation_time: begun.into(),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: begun.into(),
            next_update: until.into(),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked.into_iter().collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        params.signed_by(&self.0).unwrap().pem().unwrap()
    }

    fn write_server(&self, folder: &Path) {
        let (cert, key) = self.sign("gateway", &["localhost"]);
        std::fs::write(folder.join("cert.pem"), cert).unwrap();
        std::fs::write(folder.join("key.pem"), key).unwrap();
    }
}

async fn start(fake: &FakeProvider, folder: &Path, mode: &str) -> TestGateway {
    let at = |name: &str| folder.join(name).display().to_string();
    let crl = at("revoked.pem");
    let mode =
        if Path::new(&crl).exists() { format!("{mode}, client_crl: '{crl}'") } else { mode.to_owned() };
    let more = format!(
        "server: {{ tls: {{ cert: '{}', key: '{}', client_ca: '{}', client_certificates: {mode} }} }}
access:
  keys: required
  static: [ {{ name: caller, key: {KEY} }} ]
  certificates:
    roles: [ {{ when: \"certificate.cn.startsWith('job-')\", roles: [invoke], deny: [openai-json] }} ]
",
        at("cert.pem"),
        at("key.pem"),
        at("clients.pem")
    );
    TestGateway::start(&config(fake, &["ok", "json"], &more)).await
}

/// A client that trusts one authority, with a certificate of its own perhaps.
fn client(trusts: &Authority, shows: Option<&(String, String)>, h2: bool) -> reqwest::Client {
    let authority = reqwest::Certificate::from_pem(trusts.pem().as_bytes()).unwrap();
    let mut builder = reqwest::Client::builder().no_proxy().tls_certs_only([authority]);
    if let Some((cert, key)) = shows {
        builder = builder.identity(reqwest::Identity::from_pem(format!("{cert}{key}").as_bytes()).unwrap());
    }
    if !h2 {
        builder = builder.http1_only();
    }
    builder.build().unwrap()
}

/// The status; 0: no answer at all.
async fn call(gateway: &TestGateway, client: &reqwest::Client, key: Option<&str>, endpoint: &str) -> u16 {
    let url = format!("https://localhost:{}/v1/chat/completions", gateway.address().port());
    let mut request = client.post(url).json(&chat(endpoint));
    if let Some(key) = key {
        request = request.bearer_auth(key);
    }
    request.send().await.map_or(0, |answer| answer.status().as_u16())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_as_good_as_a_key() {
    let fake = FakeProvider::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (ours, clients, foreign) =
        (Authority::new("ours"), Authority::new("clients"), Authority::new("foreign"));
    ours.write_server(folder.path());
    std::fs::write(folder.path().join("clients.pem"), clients.pem()).unwrap();
    let gateway = start(&fake, folder.path(), "optional").await;
    for h2 in [false, true] {
        let nobody = client(&ours, None, h2);
        assert_eq!(call(&gateway, &nobody, Some(KEY), "openai-ok").await, 200, "a key, by TLS; HTTP/2: {h2}");
        assert_eq!(call(&gateway, &nobody, None, "openai-ok").await, 401);
        let job = client(&ours, Some(&clients.sign("job-7", &[])), h2);
        assert_eq!(call(&gateway, &job, None, "openai-ok").await, 200);
        assert_eq!(call(&gateway, &job, None, "openai-ok").await, 200, "known from before");
        assert_eq!(call(&gateway, &job, None, "openai-json").await, 404, "its reach");
        assert_eq!(
            call(&gateway, &job, Some("no-such-key-0000"), "openai-ok").await,
            401,
            "a key counts first"
        );
        let other = client(&ours, Some(&clients.sign("other", &[])), h2);
        assert_eq!(call(&gateway, &other, None, "openai-ok").await, 403);
        let stranger = client(&ours, Some(&foreign.sign("job-7", &[])), h2);
        assert_eq!(call(&gateway, &stranger, None, "openai-ok").await, 0, "of another authority");
    }
    // Who does not speak TLS gets nothing, and does no harm.
    assert!(
        gateway
            .raw(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .map_or(true, |(answer, _)| !answer.complete)
    );
    assert_eq!(call(&gateway, &client(&ours, None, true), Some(KEY), "openai-ok").await, 200);
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_certificates_are_required_others_are_not_spoken_with() {
    let fake = FakeProvider::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("ours");
    authority.write_server(folder.path());
    std::fs::write(folder.path().join("clients.pem"), authority.pem()).unwrap();
    let gateway = start(&fake, folder.path(), "required").await;
    assert_eq!(call(&gateway, &client(&authority, None, true), Some(KEY), "openai-ok").await, 0);
    let job = client(&authority, Some(&authority.sign("job-1", &[])), true);
    assert_eq!(call(&gateway, &job, None, "openai-ok").await, 200);
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_certificates_are_used_and_bad_ones_are_not() {
    let fake = FakeProvider::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    old.write_server(folder.path());
    std::fs::write(folder.path().join("clients.pem"), old.pem()).unwrap();
    let gateway = start(&fake, folder.path(), "optional").await;
    let by_old = || client(&old, None, true);
    let kept = by_old();
    assert_eq!(call(&gateway, &kept, Some(KEY), "openai-ok").await, 200);
    std::fs::write(folder.path().join("cert.pem"), "-----BEGIN NONSENSE-----").unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(call(&gateway, &by_old(), Some(KEY), "openai-ok").await, 200, "those before are used");
    new.write_server(folder.path());
    let began = Instant::now();
    while call(&gateway, &client(&new, None, true), Some(KEY), "openai-ok").await != 200 {
        assert!(began.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(call(&gateway, &by_old(), Some(KEY), "openai-ok").await, 0);
    assert_eq!(call(&gateway, &kept, Some(KEY), "openai-ok").await, 200, "connections that are there stay");
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_certificate_is_good_for_nothing_on_open_connections_neither() {
    let fake = FakeProvider::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("ours");
    authority.write_server(folder.path());
    std::fs::write(folder.path().join("clients.pem"), authority.pem()).unwrap();
    let tomorrow = SystemTime::now() + DAY;
    let revoke = |list: String| std::fs::write(folder.path().join("revoked.pem"), list).unwrap();
    revoke(authority.revoke(None, tomorrow));
    let gateway = start(&fake, folder.path(), "optional").await;
    let (lost, kept) =
        (authority.sign_as("job-1", &[], Some(4711)), authority.sign_as("job-2", &[], Some(4712)));
    let [lost_open, kept_open] = [&lost, &kept].map(|shows| client(&authority, Some(shows), true));
    for open in [&lost_open, &kept_open] {
        assert_eq!(call(&gateway, open, None, "openai-ok").await, 200);
    }
    revoke(authority.revoke(Some(4711), tomorrow));
    let began = Instant::now();
    while call(&gateway, &lost_open, None, "openai-ok").await != 401 {
        assert!(began.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(call(&gateway, &client(&authority, Some(&lost), true), None, "openai-ok").await, 0);
    for open in [&kept_open, &client(&authority, Some(&kept), true)] {
        assert_eq!(call(&gateway, open, None, "openai-ok").await, 200);
    }
    // Nobody can tell any more who is revoked.
    revoke(authority.revoke(None, SystemTime::now() - Duration::from_mins(1)));
    let began = Instant::now();
    while call(&gateway, &kept_open, None, "openai-ok").await != 401 {
        assert!(began.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(call(&gateway, &client(&authority, None, true), Some(KEY), "openai-ok").await, 200);
    gateway.close().await;
}
