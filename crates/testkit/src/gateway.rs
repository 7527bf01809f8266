//! The gateway under test: in this process, on a free port, over real sockets.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use millgate_audit::Audit;
use millgate_config::{Config, KeyMode, load};
use millgate_models::{ModelSettings, Models};
use millgate_observe::{LogSink, Metrics, Recorder};
use millgate_server::{
    ConfigSource, Counters, Gateway, Kept, Keys, Ledger, Listener, ListenerLimits, Reloader, Secrets, Tls,
    audit_sinks,
};
use millgate_store::Store;
use serde_json::Value;

use crate::client::{self, Answer, Connection};

/// How long issued keys are good without a store.
const DAY: Duration = Duration::from_hours(24);

/// What its audit log is bound with.
pub const AUDIT_KEY: &[u8] = b"the audit key of the tests";

/// A gateway on loopback. Dropping it leaves its threads to the end of the test's process; `close` stops it.
pub struct TestGateway {
    /// The gateway itself.
    pub gateway: Arc<Gateway>,
    address: SocketAddr,
    listener: Listener,
    folder: tempfile::TempDir,
    reloader: Option<Reloader>,
}

impl TestGateway {
    /// Starts with a configuration file's text. Call it on a multi-threaded runtime.
    ///
    /// # Panics
    /// When the configuration is not valid or the gateway cannot start: then there is nothing to test.
    pub async fn start(yaml: &str) -> Self {
        Self::start_in(yaml, tempfile::tempdir().expect("a temporary folder")).await
    }

    /// The same with the folder of one that was closed.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub async fn start_in(yaml: &str, folder: tempfile::TempDir) -> Self {
        // Another test of this process may have been first.
        let _first = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let config = parse(yaml);
        let settings = ModelSettings::new(folder.path().join("data"), launcher());
        let models = Models::new(settings, tokio::runtime::Handle::current());
        let metrics = Arc::new(Metrics::new());
        let recorder = Recorder::start(Arc::clone(&metrics), LogSink::Off).expect("the recorder starts");
        let kept = match config.access.keys {
            KeyMode::Open if config.budgets.is_empty() && config.shared.is_none() => None,
            _ => Some(kept(&config, &folder.path().join("data"), &metrics).await),
        };
        let gateway =
            Gateway::new(&config, models, metrics, recorder, kept).expect("the config can be served");
        gateway.begin_budgets().await.expect("the ledger is read");
        let limits = ListenerLimits {
            threads: config.server.threads.unwrap_or(2) as usize,
            connections: config.server.max_connections,
            connections_per_ip: config.server.max_connections_per_ip,
            header_timeout: config.server.header_timeout.0,
        };
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let tls =
            config.server.tls.as_ref().map(|written| Tls::open(written).expect("the certificates are read"));
        let listener =
            Listener::bind(Arc::clone(&gateway), anywhere, limits, tls).await.expect("a free port");
        Self { gateway, address: listener.address(), listener, folder, reloader: None }
    }

    /// Starts from a file that holds `yaml`, and follows it. Gives the file's path too.
    ///
    /// # Panics
    /// As [`TestGateway::start`].
    pub async fn start_from_file(yaml: &str) -> (Self, PathBuf) {
        let mut this = Self::start(yaml).await;
        let file = this.folder.path().join("millgate.yaml");
        std::fs::write(&file, yaml).expect("the file is written");
        let source = ConfigSource::new(&file);
        this.reloader = Some(Reloader::start(Arc::clone(&this.gateway), source, yaml).await);
        (this, file)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A folder of this test's own.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// Puts another configuration to use.
    ///
    /// # Panics
    /// When it is not valid.
    pub fn apply(&self, yaml: &str) -> u64 {
        self.gateway.apply(&parse(yaml)).expect("the config can be served")
    }

    /// Posts JSON on a connection of its own.
    ///
    /// # Panics
    /// When no answer comes.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_with(path, &[], body.to_string().as_bytes()).await
    }

    /// Posts bytes with headers.
    ///
    /// # Panics
    /// When no answer comes.
    pub async fn post_with(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        client::send(self.address, "POST", path, headers, body).await.expect("an answer")
    }

    /// Gets a path with headers.
    ///
    /// # Panics
    /// When no answer comes.
    pub async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        client::send(self.address, "GET", path, headers, b"").await.expect("an answer")
    }

    /// Gets a path.
    ///
    /// # Panics
    /// When no answer comes.
    pub async fn get(&self, path: &str) -> Answer {
        client::send(self.address, "GET", path, &[], b"").await.expect("an answer")
    }

    /// A connection to it.
    pub async fn connect(&self) -> io::Result<Connection> {
        Connection::open(self.address).await
    }

    /// Sends raw bytes on a connection of its own and reads one answer, if there is one.
    pub async fn raw(&self, bytes: &[u8]) -> io::Result<(Answer, Connection)> {
        let mut connection = self.connect().await?;
        connection.write(bytes).await?;
        let answer = connection.answer().await?;
        Ok((answer, connection))
    }

    /// Stops, after running requests.
    pub async fn close(self) -> tempfile::TempDir {
        self.listener.close(Duration::from_secs(5)).await;
        self.gateway.shutdown().await;
        self.folder
    }
}

/// A store of its own, with nothing in it.
async fn kept(config: &Config, data: &std::path::Path, metrics: &Arc<Metrics>) -> Kept {
    let store = match &config.store {
        Some(uri) => Store::open(uri.expose()).await,
        None => Store::open_file(&data.join("millgate.db")).await,
    };
    let pepper = config
        .access
        .key_pepper
        .as_ref()
        .map_or("the pepper of the tests, 32 bytes", |pepper| pepper.expose());
    let store = store.expect("the store opens");
    let keys = Keys::load(store.clone(), pepper.as_bytes(), DAY, None).await.expect("the keys are read");
    keys.follow();
    let settings = millgate_audit::Settings {
        folder: data.join("audit"),
        segment_bytes: config.audit.max_segment.0,
        retention: config.audit.retention.map(|retention| retention.0),
    };
    let audit = Audit::open(settings, AUDIT_KEY).expect("the audit log opens");
    audit.send_to(audit_sinks(config).expect("the sinks open"));
    let master = millgate_secret::Master::new(b"the master key of the tests, 32 bytes", &[]);
    let secrets = Secrets::open(store.clone(), Some(master), None).await.expect("the secrets are read");
    let ledger = Ledger::open(&keys, data, config.ledger.mode, false).await.expect("the ledger opens");
    ledger.follow();
    let shared = match &config.shared {
        Some(written) => {
            let counters = Counters::open(written, Arc::clone(&ledger), Arc::clone(metrics)).await;
            let counters = counters.expect("the shared counts are opened");
            counters.follow();
            Some(counters)
        }
        None => None,
    };
    Kept { keys, audit, store, secrets, ledger, shared }
}

fn parse(yaml: &str) -> Config {
    match load(yaml) {
        Ok(loaded) => loaded.config,
        Err(problems) => panic!("the test's configuration is wrong: {problems:?}\n{yaml}"),
    }
}

/// Worker processes are started by the real binary; it lies beside the folder of the tests' binaries.
fn launcher() -> PathBuf {
    let here = std::env::current_exe().unwrap_or_default();
    let folder = here.ancestors().nth(2).map(PathBuf::from).unwrap_or_default();
    std::env::var_os("MILLGATE_BIN").map_or_else(|| folder.join("millgate"), PathBuf::from)
}
