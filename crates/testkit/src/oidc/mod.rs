//! A small OpenID Connect provider on loopback: discovery, keys that rotate, authorization with PKCE (everybody is let
//! in), token, introspection; and every lie that a token can tell.
//!
//! | fault | what it does |
//! |---|---|
//! | `huge` | the key document is 8 MiB |
//! | `slow` | the key document takes two seconds |
//! | `down` | connections are closed without an answer |
//! | `other-issuer` | the discovery document names another issuer |
//! | `wrong-nonce` | the ID token holds another nonce |
//!
//! Kinds of tokens (see [`FakeIssuer::token`]): `good`, `none`, `hs`, `foreign`, `unknown-key`, `expired`, `not-yet`,
//! `no-exp`, `audience`, `issuer`.

mod server;
mod state;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use state::State;

/// What the provider's tokens are for.
pub const AUDIENCE: &str = "millgate";
/// The client that may ask for tokens and about them.
pub const CLIENT: &str = "millgate-client";
/// Its secret.
pub const CLIENT_SECRET: &str = "canary-client-secret-0123456789";

type Shared = Arc<Mutex<State>>;

fn lock(state: &Shared) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The provider, on a thread of its own until it is dropped.
pub struct FakeIssuer {
    address: SocketAddr,
    state: Shared,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl FakeIssuer {
    /// Starts on a free port.
    pub fn start() -> io::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let state: Shared = Arc::new(Mutex::new(State::new(format!("http://{address}"))?));
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let served = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                let Ok(listener) = TcpListener::from_std(listener) else { return };
                tokio::select! {
                    () = server::run(listener, served) => {}
                    _ = stopped => {}
                }
            });
        });
        Ok(Self { address, state, stop: Some(stop), thread: Some(thread) })
    }

    /// Its `iss`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A token of a kind, with these claims beside the usual ones.
    #[must_use]
    pub fn token(&self, kind: &str, claims: &Value) -> String {
        lock(&self.state).token(kind, claims)
    }

    /// Signs with another key from now on; the one before is not published any more.
    ///
    /// # Panics
    /// When the machine makes no key.
    pub fn rotate(&self) {
        lock(&self.state).rotate().expect("a key is made");
    }

    /// Behaves badly from now on; an empty name: well.
    pub fn fault(&self, name: &str) {
        name.clone_into(&mut lock(&self.state).fault);
    }

    /// What introspection says of an opaque token.
    pub fn opaque(&self, token: &str, answer: Value) {
        lock(&self.state).opaque.insert(token.to_owned(), answer);
    }

    /// What each ID token says beside the usual claims.
    pub fn claims(&self, claims: Value) {
        lock(&self.state).claims = claims;
    }

    /// How often a path was asked for.
    #[must_use]
    pub fn hits(&self, path: &str) -> usize {
        lock(&self.state).hits.get(path).copied().unwrap_or(0)
    }
}

impl Drop for FakeIssuer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// Serves until the process ends; `listener` says where. Under `/__token`, `/__rotate`, `/__fault`, `/__opaque` and
/// `/__hits` tests of other languages drive it.
pub async fn serve_issuer(listener: TcpListener) -> io::Result<()> {
    let address = listener.local_addr()?;
    let state = Arc::new(Mutex::new(State::new(format!("http://{address}"))?));
    server::run(listener, state).await;
    Ok(())
}
