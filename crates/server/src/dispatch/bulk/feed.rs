//! The bytes of a request as they come, its `Content-Encoding` taken off. A small body that becomes a very large one is
//! refused, and none is decoded faster than it is used.

use std::future::Future;
use std::io::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use flate2::write::MultiGzDecoder;
use http::HeaderMap;
use http_body::Body as _;
use millgate_types::{Fault, code};
use tokio::time::{Instant, Sleep};

use crate::body::{self, Encoding, MAX_RATIO, RequestBody};

/// So much is decoded at a time.
const PIECE: usize = 64 << 10;

/// A body may become this large whatever its compressed size is.
const FREE: u64 = 1 << 20;

/// A body on its way in.
pub(super) struct Feed {
    /// `None`: all has come, or it broke.
    body: Option<RequestBody>,
    /// The longest pause inside it.
    idle: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    unzip: Option<Box<Unzip>>,
}

impl Feed {
    /// Fault: `unsupported_encoding`.
    pub(super) fn new(headers: &HeaderMap, body: RequestBody, idle: Duration) -> Result<Self, Fault> {
        let unzip = match body::encoding(headers)? {
            Encoding::Identity => None,
            Encoding::Gzip => Some(Box::new(Unzip::new())),
        };
        Ok(Self { body: Some(body), idle, timer: None, unzip })
    }

    /// The next piece; `None` behind the last one or a fault. `came` counts the bytes as they came. Faults: `bad_framing`,
    /// `body_timeout`, `bad_encoding`, `body_too_large`.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        came: &mut u64,
    ) -> Poll<Option<Result<Bytes, Fault>>> {
        let polled = ready!(self.poll_piece(context, came));
        if matches!(polled, Some(Err(_))) {
            (self.body, self.unzip) = (None, None);
        }
        Poll::Ready(polled)
    }

    fn poll_piece(
        &mut self,
        context: &mut Context<'_>,
        came: &mut u64,
    ) -> Poll<Option<Result<Bytes, Fault>>> {
        loop {
            if let Some(unzip) = &mut self.unzip
                && let Some(piece) = unzip.next().transpose()
            {
                return Poll::Ready(Some(piece));
            }
            let Some(body) = &mut self.body else { return Poll::Ready(None) };
            let frame = match Pin::new(body).poll_frame(context) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    let idle = self.idle;
                    let timer = self
                        .timer
                        .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + idle)));
                    ready!(timer.as_mut().poll(context));
                    let late = Fault::client(code::BODY_TIMEOUT, "the next rows did not arrive in time");
                    return Poll::Ready(Some(Err(late)));
                }
            };
            self.timer = None;
            let Some(frame) = frame else {
                self.body = None;
                let last = self.unzip.take().map(|unzip| unzip.end());
                return Poll::Ready(last.filter(|last| !matches!(last, Ok(last) if last.is_empty())));
            };
            let frame = frame.map_err(|error| {
                Fault::client(code::BAD_FRAMING, "the body broke off or is framed badly").with_cause(error)
            });
            let data = match frame {
                Ok(frame) => frame.into_data().unwrap_or_default(),
                Err(fault) => return Poll::Ready(Some(Err(fault))),
            };
            *came += data.len() as u64;
            match &mut self.unzip {
                Some(unzip) => unzip.push(data),
                None if data.is_empty() => {}
                None => return Poll::Ready(Some(Ok(data))),
            }
        }
    }
}

/// A gzip file on its way, one member or several.
struct Unzip {
    decoder: MultiGzDecoder<Vec<u8>>,
    /// What has come and is not decoded.
    rest: Bytes,
    came: u64,
    decoded: u64,
}

impl Unzip {
    fn new() -> Self {
        Self { decoder: MultiGzDecoder::new(Vec::new()), rest: Bytes::new(), came: 0, decoded: 0 }
    }

    /// Takes bytes. All that came before have been decoded.
    fn push(&mut self, bytes: Bytes) {
        self.came += bytes.len() as u64;
        self.rest = bytes;
    }

    /// Decodes on; `None`: more must come first.
    fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        while !self.rest.is_empty() && self.decoder.get_ref().len() < PIECE {
            let taken = self.decoder.write(&self.rest).map_err(damaged)?;
            self.rest.advance(taken);
        }
        let piece = self.take()?;
        Ok((!piece.is_empty()).then_some(piece))
    }

    /// Nothing comes any more.
    fn end(mut self) -> Result<Bytes, Fault> {
        self.decoder.try_finish().map_err(damaged)?;
        self.take()
    }

    fn take(&mut self) -> Result<Bytes, Fault> {
        let piece = std::mem::take(self.decoder.get_mut());
        self.decoded += piece.len() as u64;
        if self.decoded > FREE && self.decoded > self.came.saturating_mul(MAX_RATIO as u64) {
            let public = format!("the body becomes more than {MAX_RATIO} times larger when it is decoded");
            return Err(Fault::client(code::BODY_TOO_LARGE, public));
        }
        Ok(piece.into())
    }
}

fn damaged(cause: std::io::Error) -> Fault {
    Fault::client(code::BAD_ENCODING, "the gzip body is damaged").with_cause(cause)
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn zip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn all(zipped: &[u8], piece: usize) -> Result<(Vec<u8>, usize), Fault> {
        let mut unzip = Unzip::new();
        let (mut out, mut largest) = (Vec::new(), 0);
        for bytes in zipped.chunks(piece) {
            unzip.push(Bytes::copy_from_slice(bytes));
            while let Some(piece) = unzip.next()? {
                largest = largest.max(piece.len());
                out.extend_from_slice(&piece);
            }
        }
        out.extend_from_slice(&unzip.end()?);
        Ok((out, largest))
    }

    #[test]
    fn members_are_decoded_however_they_come_and_never_much_at_a_time() {
        let text: Vec<u8> = (0..200_000_u32)
            .flat_map(|n| format!("{}\n", n.wrapping_mul(2_654_435_761)).into_bytes())
            .collect();
        let mut zipped = zip(&text);
        zipped.extend(zip(b"the end"));
        for piece in [1, 7, 1000, zipped.len()] {
            let (found, largest) = all(&zipped, piece).unwrap();
            assert!(found.len() == text.len() + 7 && found.ends_with(b"the end"), "{piece}");
            assert!(largest <= 2 * PIECE, "{largest}");
        }
    }

    #[test]
    fn bombs_and_damage_are_refused() {
        let zeros = vec![0; 64 << 20];
        let bomb = zip(&zeros);
        assert_eq!(all(&bomb, bomb.len()).unwrap_err().code, code::BODY_TOO_LARGE);
        // Small ones are no bombs.
        assert_eq!(all(&zip(&zeros[..1 << 20]), 100).unwrap().0.len(), 1 << 20);
        let whole = zip(b"some rows that are whole");
        for cut in [0, 5, whole.len() - 9, whole.len() - 1] {
            assert_eq!(all(&whole[..cut], 3).unwrap_err().code, code::BAD_ENCODING, "{cut}");
        }
        let mut wrong = whole.clone();
        let last = wrong.len() - 6;
        wrong[last] ^= 1;
        assert_eq!(all(&wrong, 100).unwrap_err().code, code::BAD_ENCODING);
        assert_eq!(all(b"{\"a\": 1}\n", 100).unwrap_err().code, code::BAD_ENCODING);
    }
}
