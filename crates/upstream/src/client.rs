//! Sending a request: a connection from the pool or a fresh one, within the deadlines.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Response};

use crate::connection::{Connection, Failure};
use crate::head::Head;
use crate::outgoing::Outbox;
use crate::watchdog::{COARSE, SWEEP};
use crate::{Origin, Outgoing, UpstreamBody, UpstreamError, pool};

/// How long an attempt may take.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// Name look-up, TCP and TLS together.
    pub connect: Duration,
    /// From sending the request to the response's head. From 10 s on it is looked at by [`Client::sweep`] and comes
    /// up to two seconds late.
    pub head: Duration,
    /// Between two frames of the body.
    pub idle: Duration,
    /// From sending the request to the last byte of the answer. From 10 s on it may come a second late.
    pub total: Duration,
}

/// The client. It has no state of its own: idle connections live in the thread that made them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Client;

impl Client {
    /// Sends a request and waits for the response's head. A connection taken from the pool that turns out dead
    /// before anything was written is replaced.
    pub async fn send(
        self,
        origin: &Arc<Origin>,
        outgoing: Outgoing<'_>,
        deadlines: &Deadlines,
    ) -> Result<Response<UpstreamBody>, UpstreamError> {
        let method = outgoing.method;
        let began = if deadlines.total < COARSE { Instant::now() } else { pool::swept() + SWEEP };
        let end = began + deadlines.total;
        let mut outbox = Outbox::new(origin, outgoing);
        let limit = deadlines.head.min(deadlines.total);
        let (connection, (head, rest)) = loop {
            let Some(mut connection) = pool::check_out(origin.id) else {
                // Boxed: mostly there is a connection, and no need for the room that this takes.
                let opened =
                    tokio::time::timeout(deadlines.connect, Box::pin(Connection::open(origin))).await;
                let mut connection = opened.map_err(|_| UpstreamError::ConnectTimeout)??;
                match ask(&mut connection, &mut outbox, method, limit).await {
                    Ok(answer) => break (connection, answer),
                    Err(Failure::Unsent(error) | Failure::Sent(error)) => return Err(error),
                }
            };
            match ask(&mut connection, &mut outbox, method, limit).await {
                Ok(answer) => break (connection, answer),
                Err(Failure::Unsent(_)) => {}
                Err(Failure::Sent(error)) => return Err(error),
            }
        };
        let keep = head.keep_alive;
        let mut response = Response::new(UpstreamBody::new(
            head.framing,
            rest,
            connection,
            keep,
            deadlines.idle,
            end.into(),
        ));
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers;
        Ok(response)
    }

    /// Closes this thread's idle connections that are too old or that the other side has closed, and
    /// ends what waits too long. Each data thread calls it once a second.
    pub fn sweep(self) {
        self.sweep_at(Instant::now());
    }

    /// The same as if it were `now`.
    pub fn sweep_at(self, now: Instant) {
        pool::sweep(now);
    }
}

/// One exchange within its time.
async fn ask(
    connection: &mut Connection,
    outbox: &mut Outbox,
    method: &Method,
    limit: Duration,
) -> Result<(Head, Bytes), Failure> {
    let watchdog = Arc::clone(&connection.watchdog);
    // Pinned here: a future of this size is not moved for nothing.
    let exchange = pin!(connection.exchange(outbox, method));
    let answered = if limit < COARSE {
        tokio::time::timeout(limit, exchange).await.ok()
    } else {
        watchdog.within(limit, exchange).await
    };
    answered.unwrap_or(Err(Failure::Sent(UpstreamError::Timeout)))
}
