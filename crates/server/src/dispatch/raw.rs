//! Bodies that pass without being looked at.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Body;
use millgate_dialect::codec;
use millgate_types::{Dialect, Fault, Retry, code};

use super::llm::AnswerBody;
use crate::flight::Flight;
use crate::reply::Pieces;

/// Bytes as they come, no faster than the caller takes them. A break is an event where there are events; elsewhere the
/// caller's connection breaks too.
pub(super) struct Raw {
    body: AnswerBody,
    events: Option<Dialect>,
    over: bool,
    broke: bool,
}

impl Raw {
    /// An event stream, whose end is told in a dialect's words if it is a bad one.
    pub(super) fn events(body: AnswerBody, dialect: Dialect) -> Self {
        Self { body, events: Some(dialect), over: false, broke: false }
    }

    /// Anything else.
    pub(super) fn bytes(body: AnswerBody) -> Self {
        Self { body, events: None, over: false, broke: false }
    }
}

impl Pieces for Raw {
    fn poll_piece(&mut self, context: &mut Context<'_>, flight: &mut Flight) -> Poll<Option<Bytes>> {
        while !self.over {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                None => self.over = true,
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => return Poll::Ready(Some(data)),
                    _ => {}
                },
                Some(Err(error)) => {
                    self.over = true;
                    let public = "the provider's answer broke off";
                    let fault = Fault::upstream(code::STREAM_INTERRUPTED, Retry::Never, public);
                    let fault = fault.with_cause(error);
                    flight.fail(&fault);
                    if let Some(dialect) = self.events {
                        let event = codec(dialect).fault_event(&fault, flight.request_id());
                        return Poll::Ready(Some(event.into()));
                    }
                    self.broke = true;
                    // One turn for what came before to leave: the connection is closed after it.
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(None)
    }

    fn broke(&self) -> bool {
        self.broke
    }
}
