//! Reading a request's body, within its limits.

use std::io::Read;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use millgate_types::{Fault, code};

/// A decoded body may be this many times larger than the bytes that came.
pub(crate) const MAX_RATIO: usize = 100;

/// A request's body, by whichever version of HTTP it comes.
pub(crate) enum RequestBody {
    Http1(millgate_http1::Incoming),
    Http2(hyper::body::Incoming),
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Http1(body) => {
                Pin::new(body).poll_frame(context).map(|frame| frame.map(|frame| frame.map_err(Into::into)))
            }
            Self::Http2(body) => {
                Pin::new(body).poll_frame(context).map(|frame| frame.map(|frame| frame.map_err(Into::into)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
        }
    }
}

/// Limits of a request's body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BodyLimits {
    /// Bytes as they come; a decoded body may be twice as large.
    pub(crate) size: usize,
    /// Between two pieces.
    pub(crate) idle: Duration,
    /// For all of it.
    pub(crate) total: Duration,
}

/// Reads the body whole and decodes its `Content-Encoding`.
pub(crate) async fn read(
    headers: &HeaderMap,
    body: RequestBody,
    limits: &BodyLimits,
) -> Result<Bytes, Fault> {
    let encoding = encoding(headers)?;
    if body.size_hint().lower() > limits.size as u64 {
        return Err(too_large(limits.size));
    }
    let raw = gather(body, limits).await?;
    match encoding {
        Encoding::Identity => Ok(raw),
        Encoding::Gzip => gunzip(&raw, limits.size * 2),
    }
}

/// How a body is encoded.
pub(crate) enum Encoding {
    Identity,
    Gzip,
}

/// The one encoding of a body. Fault: `unsupported_encoding`.
pub(crate) fn encoding(headers: &HeaderMap) -> Result<Encoding, Fault> {
    let mut values = headers.get_all(header::CONTENT_ENCODING).iter();
    let refuse = || Fault::client(code::UNSUPPORTED_ENCODING, "the body may be plain or gzip, once");
    match (values.next(), values.next()) {
        (None, _) => Ok(Encoding::Identity),
        (Some(value), None) => match value.as_bytes() {
            text if text.eq_ignore_ascii_case(b"identity") => Ok(Encoding::Identity),
            text if text.eq_ignore_ascii_case(b"gzip") => Ok(Encoding::Gzip),
            _ => Err(refuse()),
        },
        _ => Err(refuse()),
    }
}

async fn gather(mut body: RequestBody, limits: &BodyLimits) -> Result<Bytes, Fault> {
    let expected = body.size_hint().exact();
    let mut first = Bytes::new();
    let mut joined = BytesMut::new();
    let mut deadline = None;
    loop {
        // Most bodies came with their head: no timer for those.
        let ready = std::future::poll_fn(|context| {
            Poll::Ready(match Pin::new(&mut body).poll_frame(context) {
                Poll::Ready(frame) => Some(frame),
                Poll::Pending => None,
            })
        })
        .await;
        let frame = match ready {
            Some(frame) => frame,
            None => {
                let now = tokio::time::Instant::now();
                let until = (*deadline.get_or_insert(now + limits.total)).min(now + limits.idle);
                tokio::time::timeout_at(until, body.frame())
                    .await
                    .map_err(|_| Fault::client(code::BODY_TIMEOUT, "the body did not arrive in time"))?
            }
        };
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|error| {
            Fault::client(code::BAD_FRAMING, "the body broke off or is framed badly").with_cause(error)
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if first.len() + joined.len() + data.len() > limits.size {
            return Err(too_large(limits.size));
        }
        if first.is_empty() && joined.is_empty() {
            first = data;
        } else {
            if joined.is_empty() {
                joined.reserve(expected.unwrap_or(0).min(limits.size as u64) as usize);
                joined.extend_from_slice(&first);
                first = Bytes::new();
            }
            joined.extend_from_slice(&data);
        }
    }
    Ok(if joined.is_empty() { first } else { joined.freeze() })
}

fn gunzip(raw: &[u8], limit: usize) -> Result<Bytes, Fault> {
    let limit = limit.min(raw.len().saturating_mul(MAX_RATIO));
    let mut decoded = Vec::new();
    let mut reader = flate2::read::GzDecoder::new(raw).take(limit as u64 + 1);
    reader
        .read_to_end(&mut decoded)
        .map_err(|error| Fault::client(code::BAD_ENCODING, "the gzip body is damaged").with_cause(error))?;
    if decoded.len() > limit { Err(too_large(limit)) } else { Ok(decoded.into()) }
}

fn too_large(limit: usize) -> Fault {
    Fault::client(code::BODY_TOO_LARGE, format!("the body is over the limit of {limit} bytes"))
}
