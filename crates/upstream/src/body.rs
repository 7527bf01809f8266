//! The body of an upstream's answer, which carries the connection it comes from.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use millgate_http1::Framing;
use tokio::time::{Instant, Sleep};

use crate::connection::Connection;
use crate::{UpstreamError, pool};

/// The body of an answer. Each frame is what one read brought, without the framing of the wire. Reading it to
/// the end gives the connection back for reuse; dropping it earlier closes the connection, which cancels the
/// work upstream.
pub struct UpstreamBody {
    /// `None` once the body is at its end or broke.
    connection: Option<Connection>,
    framing: Framing,
    /// What came with the head, as it came.
    rest: Bytes,
    /// The connection may be used again.
    keep: bool,
    /// Made at the first wait: most answers are whole when their head is read.
    timer: Option<Pin<Box<Sleep>>>,
    idle: Duration,
    /// When the wait for the next bytes began.
    waiting: Option<Instant>,
    /// When the whole answer must be here.
    end: Instant,
}

impl UpstreamBody {
    pub(crate) fn new(
        framing: Framing,
        rest: Bytes,
        connection: Connection,
        keep: bool,
        idle: Duration,
        end: Instant,
    ) -> Self {
        let connection = Some(connection);
        let mut body = Self { connection, framing, rest, keep, timer: None, idle, waiting: None, end };
        if body.framing.is_end() {
            body.end();
        }
        body
    }

    /// The last byte was read.
    fn end(&mut self) {
        // Bytes behind the end answer no question of ours.
        let keep = self.keep && self.rest.is_empty();
        if let Some(connection) = self.connection.take()
            && keep
        {
            pool::check_in(connection);
        }
    }

    fn fail(&mut self, error: UpstreamError) -> UpstreamError {
        self.connection = None;
        self.rest = Bytes::new();
        error
    }

    /// The idle time-out, and that of the whole answer. The timer is moved only when it fires, not at every frame.
    fn poll_patience(&mut self, context: &mut Context<'_>) -> Poll<UpstreamError> {
        let began = *self.waiting.get_or_insert_with(Instant::now);
        // Looked at here too, for a body that always has more is never waited for long.
        if began >= self.end {
            return Poll::Ready(UpstreamError::Timeout);
        }
        let mut deadline = (began + self.idle).min(self.end);
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        loop {
            ready!(timer.as_mut().poll(context));
            deadline = (began + self.idle).min(self.end);
            let now = Instant::now();
            if deadline <= now {
                let whole = self.end <= now;
                return Poll::Ready(if whole { UpstreamError::Timeout } else { UpstreamError::Idle });
            }
            timer.as_mut().reset(deadline);
        }
    }

    /// The next piece: of what came with the head, then of what the connection brings.
    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Result<Bytes, UpstreamError>> {
        if let Some(what) = self.framing.failure() {
            return Poll::Ready(Err(UpstreamError::NotHttp(what)));
        }
        if !self.rest.is_empty() {
            return Poll::Ready(Ok(self.framing.take(&mut self.rest)));
        }
        let Self { connection, framing, rest, .. } = self;
        let Some(connection) = connection else { return Poll::Ready(Ok(Bytes::new())) };
        let read = connection.poll_read(context, |bytes| match framing {
            Framing::Close if bytes.is_empty() => {
                *framing = Framing::Length(0);
                Ok(Bytes::new())
            }
            _ if bytes.is_empty() => Err(UpstreamError::Broken(std::io::ErrorKind::UnexpectedEof.into())),
            _ => Ok(framing.read(bytes, rest)),
        });
        match ready!(read) {
            Ok(piece) => Poll::Ready(piece),
            Err(error) => Poll::Ready(Err(UpstreamError::Broken(error))),
        }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = UpstreamError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        let this = &mut *self;
        while this.connection.is_some() {
            let piece = match this.poll_piece(context) {
                Poll::Ready(Ok(piece)) => piece,
                Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(this.fail(error)))),
                Poll::Pending => {
                    let error = ready!(this.poll_patience(context));
                    return Poll::Ready(Some(Err(this.fail(error))));
                }
            };
            this.waiting = None;
            if this.framing.is_end() {
                this.end();
            }
            if !piece.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.connection.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.framing {
            Framing::Length(left) => SizeHint::with_exact(*left),
            _ => SizeHint::default(),
        }
    }
}

/// Reads a body whole, at most `limit` bytes.
pub async fn collect<B>(body: B, limit: usize) -> Result<Bytes, UpstreamError>
where
    B: Body<Data = Bytes, Error = UpstreamError>,
{
    let mut body = std::pin::pin!(body);
    if body.size_hint().lower() > limit as u64 {
        return Err(UpstreamError::TooLarge(limit));
    }
    let mut first = Bytes::new();
    let mut joined = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if first.len() + joined.len() + data.len() > limit {
            return Err(UpstreamError::TooLarge(limit));
        }
        if first.is_empty() && joined.is_empty() {
            first = data;
        } else {
            if joined.is_empty() {
                joined.reserve(body.size_hint().lower() as usize + first.len() + data.len());
                joined.extend_from_slice(&first);
                first = Bytes::new();
            }
            joined.extend_from_slice(&data);
        }
    }
    Ok(if joined.is_empty() { first } else { joined.freeze() })
}
