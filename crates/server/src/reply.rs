//! Answers on their way out: status, headers, and a body that carries the request's record with it.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use millgate_http1::{Answer, Lines};
use millgate_types::{Dialect, Fault, code};

use crate::flight::Flight;

/// Our own headers.
pub(crate) mod names {
    use http::HeaderName;

    pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
    pub(crate) const ENDPOINT: HeaderName = HeaderName::from_static("x-millgate-endpoint");
    pub(crate) const TARGET: HeaderName = HeaderName::from_static("x-millgate-target");
    pub(crate) const MODEL_VERSION: HeaderName = HeaderName::from_static("x-millgate-model-version");
    pub(crate) const RUNTIME: HeaderName = HeaderName::from_static("x-millgate-runtime");
    pub(crate) const ATTEMPTS: HeaderName = HeaderName::from_static("x-millgate-attempts");
    pub(crate) const CONFIG: HeaderName = HeaderName::from_static("x-millgate-config");
    pub(crate) const COST: HeaderName = HeaderName::from_static("x-millgate-cost-usd");
    pub(crate) const UNPRICED: HeaderName = HeaderName::from_static("x-millgate-unpriced");
    pub(crate) const DROPPED: HeaderName = HeaderName::from_static("x-millgate-dropped");
    pub(crate) const ESTIMATED: HeaderName = HeaderName::from_static("x-millgate-estimated");
    pub(crate) const MAX_TOKENS: HeaderName = HeaderName::from_static("x-millgate-max-tokens");
    pub(crate) const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit-requests");
    pub(crate) const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining-requests");
    pub(crate) const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset-requests");
    pub(crate) const TOKENS_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit-tokens");
    pub(crate) const TOKENS_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining-tokens");
    pub(crate) const TOKENS_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset-tokens");
    pub(crate) const ERROR: HeaderName = HeaderName::from_static("x-millgate-error");
}

/// Headers that an answer may have before their map has to grow.
const ROOM: usize = 3;
/// The same of what we say of the call, in bytes.
const LINES: usize = 640;

pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");
pub(crate) const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream; charset=utf-8");

/// An answer before it becomes an HTTP response.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// What we say of the call, each once.
    pub(crate) lines: Lines,
    pub(crate) body: Content,
}

/// The body of an answer.
pub(crate) enum Content {
    /// All of it.
    Whole(Bytes),
    /// Piece by piece.
    Stream(Box<dyn Pieces>),
}

/// A body that is made while it is sent. It ends by `None`; what goes wrong on the way is told to the caller
/// as an event in the stream, or by breaking the connection, and to the record through the flight.
pub(crate) trait Pieces: Send {
    fn poll_piece(&mut self, context: &mut Context<'_>, flight: &mut Flight) -> Poll<Option<Bytes>>;

    /// All that the caller is to see has been given out; what is waited for is the end of the connection behind it.
    fn is_told(&self) -> bool {
        false
    }

    /// Asked at the end: what came is not whole, and the caller must not take it to be so.
    fn broke(&self) -> bool {
        false
    }

    /// The body is over, or the caller is gone: what is known of its usage goes to the record.
    fn settle(&mut self, _: &mut Flight) {}
}

impl Reply {
    pub(crate) fn new(headers: HeaderMap, body: Content) -> Self {
        Self { status: StatusCode::OK, headers, lines: Lines::with_capacity(LINES), body }
    }

    pub(crate) fn whole(content_type: HeaderValue, body: impl Into<Bytes>) -> Self {
        let mut headers = HeaderMap::with_capacity(ROOM);
        headers.insert(header::CONTENT_TYPE, content_type);
        Self::new(headers, Content::Whole(body.into()))
    }

    pub(crate) fn json(body: impl Into<Bytes>) -> Self {
        Self::whole(JSON, body)
    }

    pub(crate) fn stream(pieces: Box<dyn Pieces>) -> Self {
        let mut headers = HeaderMap::with_capacity(ROOM);
        headers.insert(header::CONTENT_TYPE, EVENT_STREAM);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        // Nginx in front of us must not gather what we send piece by piece.
        headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
        Self::new(headers, Content::Stream(pieces))
    }

    /// A stream that is one JSON array.
    pub(crate) fn array(pieces: Box<dyn Pieces>) -> Self {
        Self::stream(pieces).with(header::CONTENT_TYPE, JSON)
    }

    pub(crate) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// The answer to a fault, in the caller's dialect.
    pub(crate) fn fault(fault: &Fault, flight: &mut Flight) -> Self {
        flight.fail(fault);
        let dialect = flight.record().dialect.unwrap_or(Dialect::OpenAi);
        let codec = millgate_dialect::codec(dialect);
        let body = codec.encode_fault(fault, flight.request_id());
        let content_type = HeaderValue::from_static(codec.fault_type());
        let mut reply =
            Self::whole(content_type, body).with(names::ERROR, HeaderValue::from_static(fault.code.name));
        reply.status = fault.status();
        if let Some(seconds) = fault.retry_after_seconds() {
            reply.headers.insert(header::RETRY_AFTER, number(seconds));
        }
        if fault.code == code::INVALID_API_KEY {
            reply.headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        reply.headers.extend(std::mem::take(&mut flight.headers));
        if closes_connection(fault) {
            reply.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        reply
    }

    /// The HTTP response. From here on the body owns the record.
    pub(crate) fn into_answer(self, mut flight: Box<Flight>) -> Answer<ReplyBody> {
        flight.gather();
        let record = flight.record();
        record.status = self.status.as_u16();
        record.stream = matches!(self.body, Content::Stream(_));
        let mut lines = self.lines;
        let mut digits = itoa::Buffer::new();
        lines.push(&names::REQUEST_ID, &record.request_id.hex());
        if record.attempts > 0 {
            lines.push(&names::ATTEMPTS, digits.format(record.attempts).as_bytes());
        }
        let (usage, cost) = record.totals();
        if let Some(cost) = cost.filter(|_| matches!(self.body, Content::Whole(_))) {
            lines.push(&names::COST, cost.text(&mut [0; 21]));
        }
        if cost.is_none() && usage.total() > 0 && matches!(self.body, Content::Whole(_)) {
            lines.push(&names::UNPRICED, b"true");
        }
        lines.push(&names::CONFIG, digits.format(record.config_generation).as_bytes());
        let mut response = Response::new(ReplyBody { content: Some(self.body), flight });
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        Answer { response, lines }
    }
}

/// A text of visible ASCII as a header's value; empty where it is none.
pub(crate) fn value(text: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(text).unwrap_or(HeaderValue::from_static(""))
}

/// A number as a header's value. `HeaderValue::from` allocates twice for it.
pub(crate) fn number(number: u64) -> HeaderValue {
    value(itoa::Buffer::new().format(number).as_bytes())
}

/// A time as a header says it: `1500ms`.
pub(crate) fn millis<T>(time: Duration, to: impl FnOnce(&[u8]) -> T) -> T {
    let mut text = [0; 22];
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(time.as_millis() as u64).as_bytes();
    let length = digits.len() + 2;
    text[..digits.len()].copy_from_slice(digits);
    text[digits.len()..length].copy_from_slice(b"ms");
    to(&text[..length])
}

/// After these the rest of the connection cannot be trusted, or the caller should go elsewhere.
fn closes_connection(fault: &Fault) -> bool {
    [
        code::BAD_FRAMING,
        code::BAD_HOST,
        code::HEADERS_TOO_LARGE,
        code::URI_TOO_LONG,
        code::BODY_TOO_LARGE,
        code::BODY_TIMEOUT,
        code::DRAINING,
        code::INTERNAL_ERROR,
    ]
    .contains(&fault.code)
}

/// The rest of the body is not to be had. It breaks the caller's connection.
#[derive(Debug)]
pub(crate) struct BrokenOff;

impl std::fmt::Display for BrokenOff {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the answer broke off")
    }
}

impl std::error::Error for BrokenOff {}

/// The body of every response.
pub(crate) struct ReplyBody {
    content: Option<Content>,
    flight: Box<Flight>,
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let piece = match &mut this.content {
            None => return Poll::Ready(None),
            Some(Content::Whole(bytes)) => {
                let bytes = std::mem::take(bytes);
                this.content = None;
                this.flight.land();
                (!bytes.is_empty()).then_some(bytes)
            }
            Some(Content::Stream(pieces)) => match pieces.poll_piece(context, &mut this.flight) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(piece)) => Some(piece),
                Poll::Ready(None) => {
                    pieces.settle(&mut this.flight);
                    let broke = pieces.broke();
                    this.content = None;
                    if broke {
                        return Poll::Ready(Some(Err(BrokenOff)));
                    }
                    this.flight.land();
                    None
                }
            },
        };
        if let Some(piece) = &piece {
            let record = this.flight.record();
            record.bytes_out += piece.len() as u64;
            if let Some(captured) = &mut record.captured {
                captured.answered(piece);
            }
        }
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            None => true,
            Some(Content::Whole(bytes)) => bytes.is_empty(),
            Some(Content::Stream(_)) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            None => SizeHint::with_exact(0),
            Some(Content::Whole(bytes)) => SizeHint::with_exact(bytes.len() as u64),
            Some(Content::Stream(_)) => SizeHint::default(),
        }
    }
}

impl Drop for ReplyBody {
    fn drop(&mut self) {
        if let Some(Content::Stream(pieces)) = &mut self.content {
            pieces.settle(&mut self.flight);
        }
        // An empty body is never polled.
        if self.is_end_stream() {
            self.flight.land();
        }
    }
}
