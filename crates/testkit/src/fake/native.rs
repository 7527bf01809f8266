//! What the fake provider says at the paths of OpenAI's API that hold no model: files, images, audio. The path tells
//! how it behaves.
//!
//! | path | behaviour |
//! |---|---|
//! | `POST .../files` | how many bytes came |
//! | `GET .../files/N/content` | N bytes with their length; `/chunked` without; `/cut`, `/cut-chunked`: half of them |
//! | `GET .../files/missing`, `/conflict`, `/moved` | 404, 409, 302 |
//! | `DELETE .../files/x` | deleted |
//! | `POST .../images/generations` | an answer with usage |
//! | `POST .../audio/speech` | sound, without a length |
//! | `POST .../audio/transcriptions` | a stream of events without an end marker |

use std::io;

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::server::{STREAM_HEAD, chunk, whole_answer};
use crate::wire::Head;

/// Whether the path is one of these.
pub(super) fn serves(path: &str) -> bool {
    ["/files", "/images/", "/audio/"].iter().any(|part| path.contains(part))
}

/// Answers one call; false when the connection is over.
pub(super) async fn answer(
    stream: &mut TcpStream,
    method: &str,
    path: &str,
    head: &Head,
    body: &[u8],
) -> io::Result<bool> {
    let path = path.split('?').next().unwrap_or_default();
    let mut parts = path.rsplit('/');
    let (last, name) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let json = |status, value: serde_json::Value| {
        whole_answer(
            status,
            "application/json",
            "etag: \"1\"\r\nset-cookie: a=b\r\n",
            value.to_string().as_bytes(),
        )
    };
    let error = |status, message: &str| {
        json(
            status,
            json!({ "error": { "message": message, "type": "invalid_request_error", "param": "id", "code": null } }),
        )
    };
    let count: usize = name.parse().unwrap_or(0);
    let sound = b"content-type: audio/mpeg\r\n";
    match (method, last) {
        (_, "missing") => stream.write_all(&error(404, "No such File object: missing")).await?,
        (_, "conflict") => stream.write_all(&error(409, "the upload is complete")).await?,
        (_, "moved") => {
            stream
                .write_all(&whole_answer(302, "text/plain", "location: http://169.254.169.254/\r\n", b""))
                .await?;
        }
        ("GET", "content") if head.field("if-none-match").is_some() => {
            stream.write_all(b"HTTP/1.1 304 Not Modified\r\netag: \"1\"\r\n\r\n").await?;
        }
        ("HEAD", "content") => {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {count}\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
        }
        ("GET", "content") => {
            let more = "content-disposition: attachment\r\n";
            stream
                .write_all(&whole_answer(200, "application/octet-stream", more, &vec![b'x'; count]))
                .await?;
        }
        ("GET", "cut") => {
            let mut answer = whole_answer(200, "application/octet-stream", "", &vec![b'x'; count]);
            answer.truncate(answer.len() - count / 2);
            stream.write_all(&answer).await?;
            return Ok(false);
        }
        ("GET", "chunked" | "cut-chunked") => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n").await?;
            stream.write_all(b"content-type: application/octet-stream\r\n\r\n").await?;
            stream.write_all(&chunk(&vec![b'x'; count / 2])).await?;
            if last == "cut-chunked" {
                return Ok(false);
            }
            stream.write_all(&chunk(&vec![b'x'; count - count / 2])).await?;
            stream.write_all(b"0\r\n\r\n").await?;
        }
        ("POST", "speech") => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n").await?;
            stream
                .write_all(&[sound, &b"\r\n"[..], &chunk(b"ID3"), &chunk(b"sound"), b"0\r\n\r\n"].concat())
                .await?;
        }
        ("POST", "transcriptions") => {
            let mut out = STREAM_HEAD.to_vec();
            for event in [
                r#"{"type":"transcript.text.delta","delta":"Hel"}"#,
                r#"{"type":"transcript.text.done","text":"Hello"}"#,
            ] {
                out.extend_from_slice(&chunk(format!("data: {event}\n\n").as_bytes()));
            }
            out.extend_from_slice(b"0\r\n\r\n");
            stream.write_all(&out).await?;
        }
        ("POST", "generations") => {
            let usage = json!({ "input_tokens": 10, "output_tokens": 20, "total_tokens": 30,
                "input_tokens_details": { "text_tokens": 10, "image_tokens": 0 } });
            stream
                .write_all(&json(
                    200,
                    json!({ "created": 1, "data": [{ "b64_json": "AA==" }], "usage": usage }),
                ))
                .await?;
        }
        ("DELETE", _) => {
            stream.write_all(&json(200, json!({ "id": last, "object": "file", "deleted": true }))).await?;
        }
        _ => {
            let value = json!({ "id": "file-fake", "object": "file", "bytes": body.len() });
            stream.write_all(&json(201, value)).await?;
        }
    }
    Ok(true)
}
