//! A caller's body on its way to a provider, piece by piece: counted, within its limits, never held whole.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use millgate_types::{BoxError, Fault, code};
use tokio::time::Sleep;

const TOO_LARGE: u8 = 1;
const TOO_SLOW: u8 = 2;
const BROKEN: u8 = 3;

/// What became of an upload; outlives the body.
#[derive(Debug, Default)]
pub(super) struct Progress {
    bytes: AtomicU64,
    trouble: AtomicU8,
}

impl Progress {
    /// Bytes so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// What the caller did wrong, if the upload failed by the caller.
    pub(super) fn fault(&self, limit: u64) -> Option<Fault> {
        match self.trouble.load(Ordering::Relaxed) {
            TOO_LARGE => Some(too_large(limit)),
            TOO_SLOW => Some(too_slow()),
            BROKEN => Some(Fault::client(code::BAD_FRAMING, "the body broke off or is framed badly")),
            _ => None,
        }
    }
}

pub(super) fn too_slow() -> Fault {
    Fault::client(code::BODY_TIMEOUT, "the body did not arrive in time")
}

pub(super) fn too_large(limit: u64) -> Fault {
    Fault::client(code::BODY_TOO_LARGE, format!("the body is over the limit of {limit} bytes"))
}

/// The body, as the provider's connection takes it: the next piece is read when the one before has been written.
pub(super) struct Upload<B> {
    inner: B,
    left: u64,
    idle: Duration,
    /// Made at the first wait.
    timer: Option<Pin<Box<Sleep>>>,
    progress: Arc<Progress>,
}

impl<B> Upload<B> {
    pub(super) fn new(inner: B, limit: u64, idle: Duration, progress: Arc<Progress>) -> Self {
        Self { inner, left: limit, idle, timer: None, progress }
    }

    fn fail(&self, trouble: u8, error: impl Into<BoxError>) -> io::Error {
        self.progress.trouble.store(trouble, Ordering::Relaxed);
        io::Error::other(error)
    }
}

impl<B> Body for Upload<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(context) else {
            let idle = this.idle;
            let timer = this.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(idle)));
            return match timer.as_mut().poll(context) {
                Poll::Ready(()) => Poll::Ready(Some(Err(this.fail(TOO_SLOW, "the caller stopped sending")))),
                Poll::Pending => Poll::Pending,
            };
        };
        this.timer = None;
        Poll::Ready(match frame {
            None => None,
            Some(Err(error)) => Some(Err(this.fail(BROKEN, error))),
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, Bytes::len) as u64;
                this.progress.bytes.fetch_add(length, Ordering::Relaxed);
                match this.left.checked_sub(length) {
                    Some(left) => {
                        this.left = left;
                        Some(Ok(frame))
                    }
                    None => Some(Err(this.fail(TOO_LARGE, "the caller's body is over the limit"))),
                }
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
