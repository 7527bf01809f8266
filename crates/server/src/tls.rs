//! TLS at the listener, and the certificates of clients. Files are looked at every second: new ones count for the next
//! connection, bad ones change nothing.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use millgate_config::{ClientCertificates, TlsConfig};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A client's certificate that our authority has signed.
pub(crate) struct ClientCertificate {
    pub(crate) digest: [u8; 32],
    /// What it calls its holder.
    pub(crate) names: Value,
    pub(crate) until_ms: i64,
    /// It, and those between it and its authority, as shown.
    chain: Vec<CertificateDer<'static>>,
    /// The authorities and lists of revoked certificates that it was found good by last.
    checked: AtomicU64,
    tls: Arc<Tls>,
}

impl ClientCertificate {
    /// Whether it is good by the authorities and revocations of this moment: connections may be older than those.
    pub(crate) fn is_good(&self) -> bool {
        let clients = self.tls.clients.load();
        if self.checked.load(Relaxed) == clients.generation {
            return true;
        }
        let Some((end, between)) = self.chain.split_first() else { return false };
        let verifier = clients.verifier.as_ref();
        let good = verifier.is_some_and(|all| all.verify_client_cert(end, between, UnixTime::now()).is_ok());
        if good {
            self.checked.store(clients.generation, Relaxed);
        }
        good
    }
}

/// What a listener needs for TLS.
pub struct Tls {
    written: TlsConfig,
    serving: ArcSwap<ServerConfig>,
    clients: ArcSwap<Clients>,
}

/// Who tells which certificates of clients are good.
struct Clients {
    /// Another number for other files.
    generation: u64,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
}

/// The files' content.
#[derive(PartialEq, Eq)]
struct Files {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
    client_crl: Option<Vec<u8>>,
}

impl Files {
    fn read(written: &TlsConfig) -> Result<Self, String> {
        let read = |field: &str, path: &str| {
            std::fs::read(PathBuf::from(path))
                .map_err(|error| format!("server.tls.{field}: {}", error.kind()))
        };
        Ok(Self {
            cert: read("cert", written.cert.as_str())?,
            key: read("key", written.key.as_str())?,
            client_ca: written.client_ca.as_ref().map(|path| read("client_ca", path.as_str())).transpose()?,
            client_crl: written
                .client_crl
                .as_ref()
                .map(|path| read("client_crl", path.as_str()))
                .transpose()?,
        })
    }

    /// Who tells which certificates of clients are good; `None`: clients are not asked for any.
    fn verifier(&self, clients: ClientCertificates) -> Result<Option<Arc<dyn ClientCertVerifier>>, String> {
        let Some(authorities) = &self.client_ca else { return Ok(None) };
        let fail = |field: &str, error: &dyn std::fmt::Display| format!("server.tls.{field}: {error}");
        let mut roots = RootCertStore::empty();
        for authority in CertificateDer::pem_slice_iter(authorities) {
            let authority = authority.map_err(|error| fail("client_ca", &error))?;
            roots.add(authority).map_err(|error| fail("client_ca", &error))?;
        }
        let mut verifier = WebPkiClientVerifier::builder(Arc::new(roots));
        if let Some(lists) = &self.client_crl {
            let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(lists).collect();
            let lists = lists.map_err(|error| fail("client_crl", &error))?;
            if lists.is_empty() {
                return Err("server.tls.client_crl: it holds no list".to_owned());
            }
            // A certificate whose authority has no list that is still good is not known to be good itself.
            verifier =
                verifier.with_crls(lists).only_check_end_entity_revocation().enforce_revocation_expiration();
        }
        let verifier = match clients {
            ClientCertificates::Optional => verifier.allow_unauthenticated(),
            ClientCertificates::Required => verifier,
        };
        let field = if self.client_crl.is_some() { "client_crl" } else { "client_ca" };
        verifier.build().map(Some).map_err(|error| fail(field, &error))
    }

    fn config(&self, clients: Option<Arc<dyn ClientCertVerifier>>) -> Result<ServerConfig, String> {
        let fail = |field: &str, error: &dyn std::fmt::Display| format!("server.tls.{field}: {error}");
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.cert).collect();
        let chain = chain.map_err(|error| fail("cert", &error))?;
        if chain.is_empty() {
            return Err("server.tls.cert: it holds no certificate".to_owned());
        }
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|_| "server.tls.key: it holds no key".to_owned())?;
        let builder = ServerConfig::builder();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(verifier) => builder.with_client_cert_verifier(verifier),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| fail("cert", &error))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

impl Tls {
    /// Reads the files, and follows them on the current runtime as long as somebody holds this.
    pub fn open(written: &TlsConfig) -> Result<Arc<Self>, String> {
        let files = Files::read(written)?;
        let verifier = files.verifier(written.client_certificates)?;
        let serving = ArcSwap::from_pointee(files.config(verifier.clone())?);
        let clients = ArcSwap::from_pointee(Clients { generation: 0, verifier });
        let tls = Arc::new(Self { written: written.clone(), serving, clients });
        tokio::spawn(follow(Arc::downgrade(&tls), files));
        Ok(tls)
    }

    /// Shakes hands. `None`: the client does not speak TLS with us, or showed no certificate that is good.
    pub(crate) async fn accept(
        self: &Arc<Self>,
        stream: TcpStream,
    ) -> Option<(TlsStream<TcpStream>, Option<Arc<ClientCertificate>>)> {
        // Read before the handshake: what changes meanwhile is looked at again.
        let generation = self.clients.load().generation;
        let stream = match TlsAcceptor::from(self.serving.load_full()).accept(stream).await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(%error, "no TLS");
                return None;
            }
        };
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let certificate = chain.first().and_then(|der| {
            let (names, until) = millgate_identity::subject(der)?;
            // Apart from what callers can show as a key.
            let digest = Sha256::new().chain_update("certificate\0").chain_update(der).finalize();
            Some(Arc::new(ClientCertificate {
                digest: digest.into(),
                names,
                until_ms: until.saturating_mul(1000),
                chain: chain.to_vec(),
                checked: AtomicU64::new(generation),
                tls: Arc::clone(self),
            }))
        });
        Some((stream, certificate))
    }
}

async fn follow(tls: Weak<Tls>, mut serving: Files) {
    let mut failed: Option<Files> = None;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(tls) = tls.upgrade() else { return };
        // One that is away for a moment is being replaced.
        let Ok(files) = Files::read(&tls.written) else { continue };
        if files == serving || failed.as_ref() == Some(&files) {
            continue;
        }
        let verifier = files.verifier(tls.written.client_certificates);
        match verifier.and_then(|verifier| Ok((files.config(verifier.clone())?, verifier))) {
            Ok((config, verifier)) => {
                tls.serving.store(Arc::new(config));
                let generation = tls.clients.load().generation + 1;
                tls.clients.store(Arc::new(Clients { generation, verifier }));
                tracing::info!("new certificates are used");
                (serving, failed) = (files, None);
            }
            Err(error) => {
                // Certificate and key are written one after the other: the next look may find them together.
                tracing::warn!(error, "the new certificates are not used; those before are");
                failed = Some(files);
            }
        }
    }
}
