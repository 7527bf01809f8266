//! The fake provider's lies: answers that are not what they say they are. The model's name chooses one; in the table
//! `W` is the whole answer, `S` the stream.
//!
//! | model | behaviour |
//! |---|---|
//! | `lie-type` | the right bytes under `text/plain` |
//! | `lie-html` | an HTML page under the right type |
//! | `lie-usage-negative`, `lie-usage-huge` | the usual answer, with such counts |
//! | `lie-endless` | W: white space without end; S: content without end |
//! | `lie-line`, `lie-line-later` | a line of 100 MB; S: after the first content |
//! | `lie-utf8-split`, `lie-utf8-bad` | letters split over writes; bytes that are no UTF-8 |
//! | `lie-done-twice`, `lie-after-end`, `lie-two-answers` | S: things behind the end marker |
//! | `lie-open-end` | S: the connection stays open after the end marker |
//! | `lie-tool-no-id`, `lie-tool-no-name` | a tool call that lacks it |
//! | `lie-events` | S: events that nobody knows, and comments |
//! | `lie-damage` | S: damaged JSON after the first content |
//! | `lie-half-frame` | S: ends inside a frame |
//! | `lie-long`, `lie-short` | `Content-Length` above or below what comes |
//! | `lie-gzip` | compressed, though nobody asked for it |

use std::io::{self, Write as _};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::bodies::{self, Api, Script};
use super::server::{chunk, stream_answer, stream_head, whole_answer};

/// Bytes of the line that has no end in sight.
const LINE: usize = 100 << 20;
/// Between two pieces of what never ends.
const TICK: Duration = Duration::from_millis(10);
/// What is sent first should be read first.
const PAUSE: Duration = Duration::from_millis(30);
const TEXT: &str = "gr\u{fc}\u{df}e \u{1f600}";

/// Tells the lie, `lie-` left off; false when the connection is over.
pub(super) async fn tell(
    stream: &mut TcpStream,
    api: Api,
    lie: &str,
    streams: bool,
    request: &Value,
) -> io::Result<bool> {
    if streams { streamed(stream, api, lie, request).await } else { whole(stream, api, lie, request).await }
}

async fn whole(stream: &mut TcpStream, api: Api, lie: &str, request: &Value) -> io::Result<bool> {
    let model = if lie.starts_with("tool") { "tool" } else { "ok" };
    let body = bodies::whole(api, "", model, request);
    let json = "application/json";
    let length = body.len();
    match lie {
        "type" => stream.write_all(&whole_answer(200, "text/plain", "", &body)).await?,
        "html" => stream.write_all(&whole_answer(200, json, "", b"<html>busy</html>")).await?,
        "usage-negative" | "usage-huge" => {
            let body = with_counts(&body, lie);
            stream.write_all(&whole_answer(200, json, "", &body)).await?;
        }
        "endless" => {
            stream.write_all(JSON_HEAD).await?;
            loop {
                stream.write_all(&chunk(b" ")).await?;
                tokio::time::sleep(TICK).await;
            }
        }
        "line" | "line-later" => {
            stream.write_all(JSON_HEAD).await?;
            return flood(stream, b"{\"filler\":\"").await.map(|()| false);
        }
        "utf8-split" | "utf8-bad" => {
            let body = spoken(&body, lie == "utf8-bad");
            stream.write_all(JSON_HEAD).await?;
            for byte in body.chunks(1) {
                stream.write_all(&chunk(byte)).await?;
            }
            stream.write_all(b"0\r\n\r\n").await?;
        }
        "tool-no-id" | "tool-no-name" => {
            let body = without(&body, lie.trim_start_matches("tool-no-"));
            stream.write_all(&whole_answer(200, json, "", &body)).await?;
        }
        "long" | "short" => {
            let said = if lie == "long" { length + 50 } else { length - 20 };
            stream.write_all(&with_length(json, said, &body)).await?;
            return Ok(lie == "short");
        }
        "gzip" => stream.write_all(&compressed(json, &body)?).await?,
        _ => stream.write_all(&whole_answer(200, json, "", &body)).await?,
    }
    Ok(true)
}

const JSON_HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";

async fn streamed(stream: &mut TcpStream, api: Api, lie: &str, request: &Value) -> io::Result<bool> {
    let model = if lie.starts_with("tool") { "tool" } else { "ok" };
    let Script { start, content, finish, end } = bodies::script(api, "", model, request, None);
    let usual = [start.clone(), content.clone(), finish.clone(), vec![end.clone()]].concat();
    let first = [start, content[..2].to_vec()].concat();
    let rest = [content[2..].to_vec(), finish, vec![end.clone()]].concat();
    let kind = api.stream_type();
    match lie {
        "type" => stream.write_all(&whole_answer(200, "text/plain", "", &usual.concat())).await?,
        "html" => stream.write_all(&stream_answer(api, &[b"<html>\n<p>busy\n\n</html>".to_vec()])).await?,
        "usage-negative" | "usage-huge" => {
            let events: Vec<_> = usual.iter().map(|event| event_with_counts(event, lie)).collect();
            stream.write_all(&stream_answer(api, &events)).await?;
        }
        "endless" => {
            stream.write_all(&opened(api, &first)).await?;
            loop {
                stream.write_all(&chunk(&content[1])).await?;
                tokio::time::sleep(TICK).await;
            }
        }
        "line" | "line-later" => {
            let before = if lie == "line" { &[][..] } else { &first };
            stream.write_all(&opened(api, before)).await?;
            tokio::time::sleep(PAUSE).await;
            return flood(stream, b"data: {\"filler\":\"").await.map(|()| false);
        }
        "utf8-split" | "utf8-bad" => {
            stream.write_all(&opened(api, &first[..first.len() - 1])).await?;
            tokio::time::sleep(PAUSE).await;
            for byte in spoken(&content[1], lie == "utf8-bad").chunks(1) {
                stream.write_all(&chunk(byte)).await?;
                tokio::task::yield_now().await;
            }
            closed(stream, &rest).await?;
        }
        "done-twice" => stream.write_all(&stream_answer(api, &[usual, vec![end]].concat())).await?,
        "after-end" => stream.write_all(&stream_answer(api, &[usual, content].concat())).await?,
        "two-answers" => {
            stream.write_all(&opened(api, &usual)).await?;
            tokio::time::sleep(PAUSE).await;
            closed(stream, &usual).await?;
        }
        "open-end" => {
            stream.write_all(&opened(api, &usual)).await?;
            tokio::time::sleep(Duration::from_hours(1)).await;
            return Ok(false);
        }
        "tool-no-id" | "tool-no-name" => {
            let member = lie.trim_start_matches("tool-no-");
            let events: Vec<_> =
                usual.iter().map(|event| mapped(event, |json| without(json, member))).collect();
            stream.write_all(&stream_answer(api, &events)).await?;
        }
        "events" => {
            let odd: [&[u8]; 4] = [
                b": a comment\n\n",
                b"event: vendor.note\ndata: {\"note\":1}\n\n",
                b"id: 7\nretry: 10\n\n",
                b"event: vendor.text\ndata: not json\n\n",
            ];
            let odd = if api == Api::Messages { odd.to_vec() } else { odd[..3].to_vec() };
            let events = [first, odd.iter().map(|event| event.to_vec()).collect(), rest].concat();
            stream.write_all(&stream_answer(api, &events)).await?;
        }
        "damage" => {
            stream.write_all(&opened(api, &first)).await?;
            tokio::time::sleep(PAUSE).await;
            let damaged = &content[1][..content[1].len() - 6];
            closed(stream, &[vec![[damaged, b"\n\n"].concat()], rest].concat()).await?;
        }
        "half-frame" => {
            let half = content[1][..content[1].len() / 2].to_vec();
            stream.write_all(&stream_answer(api, &[first, vec![half]].concat())).await?;
        }
        "long" | "short" => {
            let body = usual.concat();
            let said = if lie == "long" { body.len() + 50 } else { body.len() / 2 };
            stream.write_all(&with_length(kind, said, &body)).await?;
            return Ok(lie == "short");
        }
        "gzip" => stream.write_all(&compressed(kind, &usual.concat())?).await?,
        _ => stream.write_all(&stream_answer(api, &usual)).await?,
    }
    Ok(true)
}

/// A stream's head and its first events.
fn opened(api: Api, events: &[Vec<u8>]) -> Vec<u8> {
    let mut out = stream_head(api).into_bytes();
    out.extend(events.iter().flat_map(|event| chunk(event)));
    out
}

async fn closed(stream: &mut TcpStream, events: &[Vec<u8>]) -> io::Result<()> {
    let last: Vec<u8> = events.iter().flat_map(|event| chunk(event)).collect();
    stream.write_all(&[&last[..], b"0\r\n\r\n"].concat()).await
}

async fn flood(stream: &mut TcpStream, front: &[u8]) -> io::Result<()> {
    stream.write_all(&chunk(front)).await?;
    let piece = chunk(&vec![b'x'; 1 << 20]);
    for _ in 0..LINE >> 20 {
        stream.write_all(&piece).await?;
    }
    stream.write_all(b"0\r\n\r\n").await
}

fn with_length(kind: &str, said: usize, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {said}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

fn compressed(kind: &str, body: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body)?;
    Ok(whole_answer(200, kind, "content-encoding: gzip\r\n", &encoder.finish()?))
}

/// Applies `change` to the JSON of an event.
fn mapped(event: &[u8], change: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let Some(at) = memchr::memmem::find(event, b"data: {") else { return event.to_vec() };
    let (front, json) = event.split_at(at + 6);
    [front, &change(json.trim_ascii_end()), b"\n\n"].concat()
}

fn event_with_counts(event: &[u8], lie: &str) -> Vec<u8> {
    mapped(event, |json| with_counts(json, lie))
}

/// The same JSON, whose token counts are lies.
fn with_counts(json: &[u8], lie: &str) -> Vec<u8> {
    let count = if lie == "usage-huge" { Value::from(4_000_000_000_000_u64) } else { Value::from(-5) };
    edited(json, &|map| {
        for (name, value) in map {
            if name.ends_with("_tokens") && value.is_number() {
                *value = count.clone();
            }
        }
    })
}

/// The same JSON without what a tool call is known by.
fn without(json: &[u8], member: &str) -> Vec<u8> {
    edited(json, &|map| {
        let is_call = map.contains_key("function") || map.get("type").is_some_and(|kind| kind == "tool_use");
        if is_call || member == "name" && map.contains_key("arguments") {
            map.remove(member);
        }
    })
}

fn edited(json: &[u8], change: &dyn Fn(&mut serde_json::Map<String, Value>)) -> Vec<u8> {
    fn walk(value: &mut Value, change: &dyn Fn(&mut serde_json::Map<String, Value>)) {
        match value {
            Value::Object(map) => {
                change(map);
                map.values_mut().for_each(|value| walk(value, change));
            }
            Value::Array(items) => items.iter_mut().for_each(|value| walk(value, change)),
            _ => {}
        }
    }
    let mut value: Value = serde_json::from_slice(json).unwrap_or_default();
    walk(&mut value, change);
    value.to_string().into_bytes()
}

/// The second word of the usual text is another one; damaged, a letter of it is no UTF-8.
fn spoken(bytes: &[u8], damaged: bool) -> Vec<u8> {
    let text = String::from_utf8_lossy(bytes).replacen("from ", &format!("{TEXT} "), 1);
    let mut bytes = text.into_bytes();
    if damaged && let Some(at) = memchr::memchr(0xc3, &bytes) {
        bytes[at + 1] = b'x';
    }
    bytes
}
