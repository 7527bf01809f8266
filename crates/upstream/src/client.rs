//! Sending a request: a connection from the pool or a fresh one, within the deadlines.

use std::sync::Arc;
use std::time::Duration;

use http::Response;
use tokio::time::Instant;

use crate::connection::{Connection, Failure};
use crate::outgoing::Outbox;
use crate::{Origin, Outgoing, UpstreamBody, UpstreamError, pool};

/// How long an attempt may take.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// Name look-up, TCP and TLS together.
    pub connect: Duration,
    /// From sending the request to the response's head.
    pub head: Duration,
    /// Between two frames of the body.
    pub idle: Duration,
    /// From sending the request to the last byte of the answer.
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
        let end = Instant::now() + deadlines.total;
        let mut outbox = Outbox::new(origin, outgoing);
        let attempt = async {
            while let Some(mut connection) = pool::check_out(origin.id) {
                match connection.exchange(&mut outbox, method).await {
                    Ok(answer) => return Ok((connection, answer)),
                    Err(Failure::Unsent(_)) => {}
                    Err(Failure::Sent(error)) => return Err(error),
                }
            }
            let opened = tokio::time::timeout(deadlines.connect, Connection::open(origin)).await;
            let mut connection = opened.map_err(|_| UpstreamError::ConnectTimeout)??;
            match connection.exchange(&mut outbox, method).await {
                Ok(answer) => Ok((connection, answer)),
                Err(Failure::Unsent(error) | Failure::Sent(error)) => Err(error),
            }
        };
        let answered = tokio::time::timeout(deadlines.head.min(deadlines.total), attempt).await;
        let (connection, (head, rest)) = answered.map_err(|_| UpstreamError::Timeout)??;
        let keep = head.keep_alive;
        let mut response =
            Response::new(UpstreamBody::new(head.framing, rest, connection, keep, deadlines.idle, end));
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers;
        Ok(response)
    }

    /// Closes this thread's idle connections that are too old or that the other side has closed. Each data
    /// thread calls it every few seconds.
    pub fn sweep(self) {
        pool::sweep();
    }
}
