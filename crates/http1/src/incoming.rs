//! The body of a request on its way in.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::lock;

/// A request's body. It is read no faster than it is asked for.
pub struct Incoming(Kind);

enum Kind {
    /// All of it, which came with the head; nothing once it is taken.
    Whole(Bytes),
    /// From the connection; the number is that of the request.
    Arriving(Arc<Mutex<dyn Arrive>>, u64),
}

/// A connection, as the body sees it that comes over it.
pub(crate) trait Arrive: Send {
    /// The number of the request that is under way: who holds on to the body of another one gets nothing of this one's.
    fn number(&self) -> u64;

    /// The next data; `None` at the body's end.
    fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, IncomingError>>>;

    /// How much is to come: exactly, or nobody knows.
    fn left(&self) -> Option<u64>;
}

/// Why a body is not to be had whole.
#[derive(Debug)]
pub enum IncomingError {
    /// It is framed badly. In words.
    Framing(&'static str),
    /// The connection broke.
    Broken(std::io::Error),
}

impl fmt::Display for IncomingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Framing(what) => f.write_str(what),
            Self::Broken(error) => write!(f, "the connection broke: {error}"),
        }
    }
}

impl std::error::Error for IncomingError {}

impl Incoming {
    /// A body that is all there.
    #[must_use]
    pub fn whole(bytes: Bytes) -> Self {
        Self(Kind::Whole(bytes))
    }

    pub(crate) fn arriving(from: Arc<Mutex<dyn Arrive>>) -> Self {
        let number = lock(&from).number();
        Self(Kind::Arriving(from, number))
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = IncomingError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &mut self.0 {
            Kind::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Kind::Arriving(from, number) => {
                let mut from = lock(from);
                if from.number() != *number {
                    return Poll::Ready(Some(Err(IncomingError::Framing("the request is over"))));
                }
                from.poll_data(context).map(|data| data.map(|data| data.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.size_hint().exact() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Arriving(from, number) => {
                let from = lock(from);
                let left = if from.number() == *number { from.left() } else { None };
                left.map_or_else(SizeHint::default, SizeHint::with_exact)
            }
        }
    }
}
