//! A small HashiCorp Vault: the key-value engine version 2 mounted at `secret`, tokens, and Kubernetes' login.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::wire::{Buffered, Length};

/// The token that is always good.
pub const VAULT_TOKEN: &str = "hvs.canary-root-token-0001";
/// The service account's token that may log in as `millgate`.
pub const VAULT_ACCOUNT: &str = "account-jwt-canary";

#[derive(Default)]
struct State {
    secrets: HashMap<String, Value>,
    /// Given at a login.
    token: Option<String>,
    logins: usize,
    reads: usize,
    status: Option<u16>,
}

/// A Vault on loopback; dropping it stops it.
pub struct FakeVault {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

impl FakeVault {
    /// Starts on a free port.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(connection(stream, Arc::clone(&shared)));
            }
        });
        Ok(Self { address, state, task })
    }

    /// `http://127.0.0.1:PORT`
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the fields of the secret `secret/PATH`.
    pub fn set(&self, path: &str, fields: Value) {
        self.state().secrets.insert(path.to_owned(), fields);
    }

    /// From now on every request is answered with this status; `None`: as it should be.
    pub fn answer_with(&self, status: Option<u16>) {
        self.state().status = status;
    }

    /// The token of the last login is good no more.
    pub fn revoke(&self) {
        self.state().token = None;
    }

    /// Logins and reads so far.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let state = self.state();
        (state.logins, state.reads)
    }
}

impl Drop for FakeVault {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn connection(stream: TcpStream, state: Arc<Mutex<State>>) {
    let mut link = Buffered::new(stream);
    while let Ok(Some(head)) = link.head().await {
        let Ok(body) = link.body(head.length().unwrap_or(Length::Known(0))).await else { return };
        let path = head.line.split(' ').nth(1).unwrap_or_default().to_owned();
        let token = head.field("x-vault-token").unwrap_or_default().to_owned();
        let (status, answer) = {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            answer(&mut state, &path, &token, &body)
        };
        let answer = answer.to_string();
        let length = answer.len();
        let head = format!(
            "HTTP/1.1 {status} x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        );
        if link.stream.write_all([head.as_bytes(), answer.as_bytes()].concat().as_slice()).await.is_err() {
            return;
        }
    }
}

fn answer(state: &mut State, path: &str, token: &str, body: &[u8]) -> (u16, Value) {
    let errors = |text: &str| json!({ "errors": [text] });
    if let Some(status) = state.status {
        return (status, errors("sealed"));
    }
    if path == "/v1/auth/kubernetes/login" {
        let asked: Value = serde_json::from_slice(body).unwrap_or_default();
        if asked["role"] != "millgate" || asked["jwt"] != VAULT_ACCOUNT {
            return (403, errors("permission denied"));
        }
        state.logins += 1;
        let token = format!("hvs.login-{}", state.logins);
        state.token = Some(token.clone());
        return (
            200,
            json!({ "auth": { "client_token": token, "lease_duration": 3600, "renewable": true } }),
        );
    }
    if token != VAULT_TOKEN && state.token.as_deref() != Some(token) {
        return (403, errors("permission denied"));
    }
    state.reads += 1;
    match path.strip_prefix("/v1/secret/data/").and_then(|path| state.secrets.get(path)) {
        Some(fields) => (200, json!({ "data": { "data": fields, "metadata": { "version": 1 } } })),
        None => (404, json!({ "errors": [] })),
    }
}
