//! Frames between us and a worker: `u32 LE length | u8 kind | u64 LE request id | payload`. The length counts
//! kind, id and payload.

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Kinds of frames, as `python/wire.py` numbers them.
pub(crate) mod kind {
    pub(crate) const HELLO: u8 = 1;
    pub(crate) const LOAD: u8 = 2;
    pub(crate) const READY: u8 = 3;
    pub(crate) const FAILED: u8 = 4;
    pub(crate) const PREDICT_JSON: u8 = 5;
    pub(crate) const PREDICT_COLUMNS: u8 = 6;
    pub(crate) const RESULT_ARRAY: u8 = 7;
    pub(crate) const RESULT_JSON: u8 = 8;
    pub(crate) const RESULT_PARTS: u8 = 9;
    pub(crate) const ERROR: u8 = 10;
    pub(crate) const PING: u8 = 11;
    pub(crate) const PONG: u8 = 12;
    pub(crate) const STOP: u8 = 14;
    pub(crate) const FORK: u8 = 15;
    pub(crate) const FORKED: u8 = 16;
    // 17, ENDED, is whatever else a zygote tells.
    pub(crate) const REAP: u8 = 18;
    pub(crate) const CHAT: u8 = 19;
    pub(crate) const CANCEL: u8 = 20;
    pub(crate) const ITEM: u8 = 21;
    pub(crate) const DONE: u8 = 22;
}

const HEAD: usize = 9;
/// Frames up to this size, in bytes, are copied together.
const SMALL: usize = 64 << 10;

/// One frame from a worker.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) id: u64,
    pub(crate) payload: Bytes,
}

/// Reads a frame. A length over `limit` is an error of kind `InvalidData`: the worker sends garbage.
pub(crate) async fn read(from: &mut (impl AsyncRead + Unpin), limit: usize) -> io::Result<Frame> {
    let mut head = [0_u8; 4 + HEAD];
    from.read_exact(&mut head).await?;
    let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    let id = u64::from_le_bytes([head[5], head[6], head[7], head[8], head[9], head[10], head[11], head[12]]);
    if length < HEAD || length - HEAD > limit || !(kind::HELLO..=kind::DONE).contains(&head[4]) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a frame"));
    }
    let length = length - HEAD;
    // Grown as bytes arrive: a forged length reserves nothing.
    let mut payload = Vec::with_capacity(length.min(1 << 16));
    if from.take(length as u64).read_to_end(&mut payload).await? < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Frame { kind: head[4], id, payload: payload.into() })
}

/// A frame in one piece.
pub(crate) fn small(kind: u8, id: u64, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(4 + HEAD + payload.len());
    frame.extend(((HEAD + payload.len()) as u32).to_le_bytes());
    frame.push(kind);
    frame.extend(id.to_le_bytes());
    frame.extend(payload);
    frame
}

/// Writes a frame whose payload stands in parts.
pub(crate) async fn write(
    to: &mut (impl AsyncWrite + Unpin),
    kind: u8,
    id: u64,
    parts: &[&[u8]],
) -> io::Result<()> {
    let length = HEAD + parts.iter().map(|part| part.len()).sum::<usize>();
    let length = u32::try_from(length).map_err(|_| io::Error::other("a frame over 4 GiB"))?;
    // Small frames go out with one call to the kernel.
    let small = length as usize <= SMALL;
    let mut head = Vec::with_capacity(if small { 4 + length as usize } else { 4 + HEAD });
    head.extend(length.to_le_bytes());
    head.push(kind);
    head.extend(id.to_le_bytes());
    if small {
        for part in parts {
            head.extend(*part);
        }
    }
    to.write_all(&head).await?;
    if !small {
        for part in parts {
            to.write_all(part).await?;
        }
    }
    to.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_frame_survives_the_wire_and_garbage_is_refused() {
        let mut wire = Vec::new();
        write(&mut wire, kind::PREDICT_JSON, 7, &[b"ab", b"c"]).await.unwrap();
        let frame = read(&mut wire.as_slice(), 100).await.unwrap();
        assert_eq!((frame.kind, frame.id, &frame.payload[..]), (kind::PREDICT_JSON, 7, &b"abc"[..]));
        let error = read(&mut wire.as_slice(), 2).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let error = read(&mut &b"Hello, I am a print statement"[..], 1 << 20).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(read(&mut &wire[..15], 100).await.is_err());
    }
}
