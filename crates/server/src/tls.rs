//! TLS at the listener, and the certificates of clients. Files are looked at every second: new ones count for the next
//! connection, bad ones change nothing.

use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use millgate_config::{ClientCertificates, TlsConfig};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
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
}

/// What a listener needs for TLS.
pub struct Tls {
    written: TlsConfig,
    serving: ArcSwap<ServerConfig>,
}

/// The files' content.
#[derive(PartialEq, Eq)]
struct Files {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
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
        })
    }

    fn config(&self, clients: ClientCertificates) -> Result<ServerConfig, String> {
        let fail = |field: &str, error: &dyn std::fmt::Display| format!("server.tls.{field}: {error}");
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.cert).collect();
        let chain = chain.map_err(|error| fail("cert", &error))?;
        if chain.is_empty() {
            return Err("server.tls.cert: it holds no certificate".to_owned());
        }
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|_| "server.tls.key: it holds no key".to_owned())?;
        let builder = ServerConfig::builder();
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(authorities) => {
                let mut roots = RootCertStore::empty();
                for authority in CertificateDer::pem_slice_iter(authorities) {
                    let authority = authority.map_err(|error| fail("client_ca", &error))?;
                    roots.add(authority).map_err(|error| fail("client_ca", &error))?;
                }
                let verifier = WebPkiClientVerifier::builder(Arc::new(roots));
                let verifier = match clients {
                    ClientCertificates::Optional => verifier.allow_unauthenticated(),
                    ClientCertificates::Required => verifier,
                };
                builder
                    .with_client_cert_verifier(verifier.build().map_err(|error| fail("client_ca", &error))?)
            }
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
        let serving = ArcSwap::from_pointee(files.config(written.client_certificates)?);
        let tls = Arc::new(Self { written: written.clone(), serving });
        tokio::spawn(follow(Arc::downgrade(&tls), files));
        Ok(tls)
    }

    /// Shakes hands. `None`: the client does not speak TLS with us, or showed no certificate that is good.
    pub(crate) async fn accept(
        &self,
        stream: TcpStream,
    ) -> Option<(TlsStream<TcpStream>, Option<Arc<ClientCertificate>>)> {
        let stream = match TlsAcceptor::from(self.serving.load_full()).accept(stream).await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(%error, "no TLS");
                return None;
            }
        };
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let certificate = shown.and_then(|der| {
            let (names, until) = millgate_identity::subject(der)?;
            // Apart from what callers can show as a key.
            let digest = Sha256::new().chain_update("certificate\0").chain_update(der).finalize();
            Some(Arc::new(ClientCertificate {
                digest: digest.into(),
                names,
                until_ms: until.saturating_mul(1000),
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
        match files.config(tls.written.client_certificates) {
            Ok(config) => {
                tls.serving.store(Arc::new(config));
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
