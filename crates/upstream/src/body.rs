//! The body of an upstream's answer, which carries the connection it comes from.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use crate::UpstreamError;
use crate::connection::Link;

/// Chunks that one read brought are handed on as one frame, up to this size.
const COALESCE_LIMIT: usize = 64 * 1024;

/// The body of an answer. Reading it drives the connection; reading it to the end gives the connection back
/// for reuse; dropping it earlier closes the connection, which cancels the work upstream.
pub struct UpstreamBody {
    incoming: Incoming,
    link: Option<Link>,
    /// Made at the first wait: most answers are whole when their head is read.
    timer: Option<Pin<Box<Sleep>>>,
    idle: Duration,
    last_frame: Instant,
    /// An error that came behind data: the data goes out first, the error at the next call.
    failed: Option<UpstreamError>,
}

impl UpstreamBody {
    pub(crate) fn new(incoming: Incoming, link: Link, idle: Duration) -> Self {
        let link = Some(link);
        let mut body = Self { incoming, link, timer: None, idle, last_frame: Instant::now(), failed: None };
        if body.incoming.is_end_stream() {
            body.give_back();
        }
        body
    }

    fn give_back(&mut self) {
        if let Some(link) = self.link.take() {
            link.check_in();
        }
    }

    /// The idle time-out. The timer is moved only when it fires, not at every frame.
    fn poll_idle(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut deadline = self.last_frame + self.idle;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        loop {
            ready!(timer.as_mut().poll(context));
            deadline = self.last_frame + self.idle;
            if deadline <= Instant::now() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
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
        if let Some(error) = this.failed.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let mut first: Option<Bytes> = None;
        let mut more: Option<BytesMut> = None;
        loop {
            let mut polled = Pin::new(&mut this.incoming).poll_frame(context);
            if polled.is_pending()
                && let Some(link) = this.link.as_mut()
            {
                let _closed = link.poll_closed(context);
                polled = Pin::new(&mut this.incoming).poll_frame(context);
            }
            match polled {
                Poll::Ready(Some(Ok(frame))) => {
                    // Trailers say nothing a gateway needs.
                    let Ok(data) = frame.into_data() else { continue };
                    match (&mut first, &mut more) {
                        (None, _) => first = Some(data),
                        (Some(head), None) => {
                            let mut joined = BytesMut::with_capacity(head.len() + data.len() + 4096);
                            joined.extend_from_slice(head);
                            joined.extend_from_slice(&data);
                            more = Some(joined);
                        }
                        (Some(_), Some(joined)) => joined.extend_from_slice(&data),
                    }
                    let size = more.as_ref().map_or(0, BytesMut::len);
                    if size < COALESCE_LIMIT && !this.incoming.is_end_stream() {
                        continue;
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    this.link = None;
                    if first.is_none() {
                        return Poll::Ready(Some(Err(UpstreamError::Http(error))));
                    }
                    this.failed = Some(UpstreamError::Http(error));
                }
                Poll::Ready(None) if first.is_none() => {
                    this.give_back();
                    return Poll::Ready(None);
                }
                Poll::Pending if first.is_none() => {
                    ready!(this.poll_idle(context));
                    this.link = None;
                    return Poll::Ready(Some(Err(UpstreamError::Idle)));
                }
                // What was read goes out first; the end comes at the next call.
                Poll::Ready(None) | Poll::Pending => {}
            }
            this.last_frame = Instant::now();
            let data = match more {
                Some(joined) => joined.freeze(),
                None => first.unwrap_or_default(),
            };
            if this.failed.is_none() && this.incoming.is_end_stream() {
                this.give_back();
            }
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.failed.is_none() && self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
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
