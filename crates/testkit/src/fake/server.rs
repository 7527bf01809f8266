//! The fake provider's server. One task per connection; the usual answer is made once and only copied.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::behaviour::{Manner, behaviour};
use super::bodies::{self, Api, Script};
use super::{Log, Recorded, token};
use crate::wire::{Buffered, Head, Length};

const HUGE: usize = 8 << 20;
/// What was sent should be on its way before the trouble begins.
const PAUSE: Duration = Duration::from_millis(30);
/// How often a client that may be gone is looked for while it still sends.
const TICK: Duration = Duration::from_millis(10);

/// Answers that were made before: the model and whether it streams, to all bytes of the answer.
type Made = Rc<RefCell<HashMap<(Api, Manner, String, bool, bool), Rc<[u8]>>>>;

pub(super) async fn run(listener: TcpListener, log: Log) {
    let made = Made::default();
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let log = log.clone();
                let made = Rc::clone(&made);
                tokio::task::spawn_local(async move {
                    let _delayed = stream.set_nodelay(true);
                    let Ok((stream, watched)) = watched(stream, &log) else { return };
                    let owed = Cell::new(false);
                    // A client that goes away ends its task.
                    tokio::select! {
                        over = connection(Buffered::new(stream), &log, &made, &owed) => if over.is_err() && owed.get() { log.note_gone() },
                        () = gone(watched) => if owed.get() { log.note_gone() },
                    }
                });
            }
        })
        .await;
}

/// The connection, and where requests are kept the same one again, to be watched while it is used.
fn watched(stream: TcpStream, log: &Log) -> io::Result<(TcpStream, Option<TcpStream>)> {
    if log.0.is_none() {
        return Ok((stream, None));
    }
    let stream = stream.into_std()?;
    let again = TcpStream::from_std(stream.try_clone()?)?;
    Ok((TcpStream::from_std(stream)?, Some(again)))
}

/// Ends when the client has closed its side.
async fn gone(watched: Option<TcpStream>) {
    let Some(stream) = watched else { return std::future::pending().await };
    // What can be read is its next request, or a body on the way.
    while stream.peek(&mut [0]).await.is_ok_and(|bytes| bytes > 0) {
        tokio::time::sleep(TICK).await;
    }
}

async fn connection(
    mut link: Buffered<TcpStream>,
    log: &Log,
    made: &Made,
    owed: &Cell<bool>,
) -> io::Result<()> {
    while let Some(head) = link.head().await? {
        owed.set(true);
        if head.field("expect").is_some() {
            link.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let body = link.body(head.length().unwrap_or(Length::Known(0))).await?;
        let mut words = head.line.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        if path == "/__requests" {
            control(&mut link.stream, method, log).await?;
            continue;
        }
        record(log, method, path, &head, &body);
        if path.ends_with("/token") {
            let (status, kind, body) = token::answer(path, log).await;
            link.stream.write_all(&whole_answer(status, kind, "", &body)).await?;
            continue;
        }
        let told = log.behaviour().or_else(|| by_key(&head));
        let status = told.as_deref().and_then(|told| told.strip_prefix("status-"));
        if super::native::serves(path)
            && let Some(status) = status.and_then(|status| status.parse().ok())
        {
            let body = bodies::error(Api::Chat, status);
            link.stream.write_all(&whole_answer(status, "application/json", "", &body)).await?;
            owed.set(false);
            continue;
        }
        if super::native::serves(path) {
            if super::native::answer(&mut link.stream, method, path, &head, &body).await? {
                owed.set(false);
                continue;
            }
            return Ok(());
        }
        let Some(api) = Api::of(path) else {
            let answer = whole_answer(404, "application/json", "", &bodies::error(Api::Chat, 404));
            link.stream.write_all(&answer).await?;
            continue;
        };
        if !answer(&mut link.stream, api, path, &body, told.as_deref(), made).await? {
            return Ok(());
        }
        owed.set(false);
    }
    Ok(())
}

fn record(log: &Log, method: &str, path: &str, head: &Head, body: &[u8]) {
    log.push(Recorded {
        method: method.to_owned(),
        path: path.to_owned(),
        headers: head.fields.clone(),
        body: String::from_utf8_lossy(body).into_owned(),
    });
}

async fn control(stream: &mut TcpStream, method: &str, log: &Log) -> io::Result<()> {
    let body = match (method, log.lock()) {
        ("DELETE", Some(mut log)) => {
            log.clear();
            b"[]".to_vec()
        }
        (_, Some(log)) => serde_json::to_vec(&*log).unwrap_or_default(),
        (_, None) => b"[]".to_vec(),
    };
    stream.write_all(&whole_answer(200, "application/json", "", &body)).await
}

/// The model's name where the path holds it: Google's way, Bedrock's, and that of Azure's deployments.
fn named(path: &str) -> Option<&str> {
    for before in ["/deployments/", "/model/"] {
        if let Some((_, rest)) = path.split_once(before) {
            return rest.split('/').next();
        }
    }
    path.split_once("/models/")?.1.rsplit_once(':').map(|(model, _)| model)
}

/// Answers one call; false when the connection is over.
async fn answer(
    stream: &mut TcpStream,
    api: Api,
    path: &str,
    body: &[u8],
    told: Option<&str>,
    made: &Made,
) -> io::Result<bool> {
    let mut asked = Asked::read(path, body);
    if let Some(model) = named(path) {
        asked.model = model.to_owned();
        asked.stream = asked.stream || api.always_streams() || path.contains(":streamRawPredict");
    }
    if asked.model.contains('@') || asked.model.contains("%40") {
        asked.model = behaviour(&asked.model).to_owned();
    }
    if let Some(told) = told {
        told.clone_into(&mut asked.model);
    }
    let model = asked.model.as_str();
    let streams = asked.stream && api.streams();
    if let Some(lie) = model.strip_prefix("lie-") {
        return super::lies::tell(stream, api, lie, streams, &asked.value()).await;
    }
    let mut parts = model.split('-');
    match parts.next().unwrap_or_default() {
        "status" => {
            let status = parts.next().and_then(|code| code.parse().ok()).unwrap_or(500);
            let retry = match (parts.next(), parts.next()) {
                (Some("retry"), Some(seconds)) => format!("retry-after: {seconds}\r\n"),
                _ => String::new(),
            };
            let more = retry + api.error_class(status);
            let answer = whole_answer(status, "application/json", &more, &bodies::error(api, status));
            stream.write_all(&answer).await?;
        }
        "html" => {
            let status = parts.next().and_then(|code| code.parse().ok()).unwrap_or(500);
            let page = b"<html><body><h1>Gateway</h1></body></html>";
            stream.write_all(&whole_answer(status, "text/html; charset=utf-8", "", page)).await?;
        }
        "slow" => {
            tokio::time::sleep(millis(parts.nth(1))).await;
            usual(stream, api, &asked, made).await?;
        }
        "chunks" => {
            let count = parts.next().and_then(|count| count.parse().ok()).unwrap_or(10);
            let pause = millis(parts.next());
            let script = bodies::script(api, path, model, &asked.value(), Some(count));
            if streams {
                play(stream, api, script, pause).await?;
            } else {
                usual(stream, api, &asked, made).await?;
            }
        }
        what @ ("left" | "tokens") => {
            let what = if what == "left" { "requests" } else { "tokens" };
            let said: Vec<&str> = parts.collect();
            let [left, "of", limit, reset] = said[..] else {
                return usual(stream, api, &asked, made).await.map(|()| true);
            };
            let more = format!(
                "x-ratelimit-limit-{what}: {limit}\r\nx-ratelimit-remaining-{what}: {left}\r\nx-ratelimit-reset-{what}: {reset}\r\n"
            );
            let body = bodies::whole(api, path, model, &asked.value());
            stream.write_all(&whole_answer(200, "application/json", &more, &body)).await?;
        }
        _ => return fault(stream, api, &asked, made).await,
    }
    Ok(true)
}

/// What a key says of how its calls end.
fn by_key(head: &Head) -> Option<String> {
    let key = head.field("authorization").or_else(|| head.field("x-api-key"))?;
    key.strip_prefix("Bearer ")
        .unwrap_or(key)
        .strip_prefix("as-")
        .map(|told| told.split('~').next().unwrap_or_default().to_owned())
}

async fn fault(stream: &mut TcpStream, api: Api, asked: &Asked<'_>, made: &Made) -> io::Result<bool> {
    let model = asked.model.as_str();
    let script = || bodies::script(api, asked.path, model, &asked.value(), None);
    match (model, asked.stream && api.streams()) {
        ("reset", _) => {
            stream.set_zero_linger()?;
            return Ok(false);
        }
        ("hang", _) => {
            tokio::time::sleep(Duration::from_hours(1)).await;
            return Ok(false);
        }
        ("redirect", _) => {
            let location = "location: /v1/__stolen\r\n";
            stream.write_all(&whole_answer(302, "text/plain", location, b"moved")).await?;
        }
        ("error-200", _) => {
            stream.write_all(&whole_answer(200, "application/json", "", &bodies::error(api, 500))).await?;
        }
        ("bad-json", false) => {
            let body = b"{\"id\":\"chatcmpl-fake\",\"choices\":[{\"index\":0,";
            stream.write_all(&whole_answer(200, "application/json", "", body)).await?;
        }
        ("huge", false) => {
            let mut body =
                br#"{"id":"chatcmpl-fake","object":"chat.completion","choices":[],"filler":""#.to_vec();
            body.resize(HUGE, b'x');
            body.extend_from_slice(b"\"}");
            stream.write_all(&whole_answer(200, "application/json", "", &body)).await?;
        }
        ("cut-stream", false) => {
            let body = bodies::whole(api, asked.path, model, &asked.value());
            let mut answer = whole_answer(200, "application/json", "", &body);
            answer.truncate(answer.len() - 20);
            stream.write_all(&answer).await?;
            return Ok(false);
        }
        ("cut-stream", true) => {
            let Script { start, content, .. } = script();
            stream.write_all(stream_head(api).as_bytes()).await?;
            for event in start.iter().chain(&content[..2]) {
                stream.write_all(&chunk(event)).await?;
            }
            tokio::time::sleep(PAUSE).await;
            return Ok(false);
        }
        ("empty-stream", true) => events(stream, api, &[]).await?,
        ("bad-json", true) => events(stream, api, &[b"data: {\"id\": oops\n\n".to_vec()]).await?,
        ("huge", true) => {
            let mut line = b"data: {\"filler\":\"".to_vec();
            line.resize(HUGE, b'x');
            events(stream, api, &[line]).await?;
        }
        ("error-first", true) => events(stream, api, &[bodies::error_event(api)]).await?,
        (name, true) if name.starts_with("error-in-stream") => {
            let pause = name.strip_prefix("error-in-stream-").map_or(PAUSE, |pause| millis(Some(pause)));
            let Script { start, content, .. } = script();
            let content = [start, content[..2].to_vec()].concat();
            let mut first = stream_head(api).into_bytes();
            first.extend(content.iter().flat_map(|event| chunk(event)));
            stream.write_all(&first).await?;
            tokio::time::sleep(pause).await;
            let last = [chunk(&bodies::error_event(api)), b"0\r\n\r\n".to_vec()].concat();
            stream.write_all(&last).await?;
        }
        ("no-done", true) => {
            let Script { start, content, .. } = script();
            events(stream, api, &[start, content].concat()).await?;
        }
        _ => usual(stream, api, asked, made).await?,
    }
    Ok(true)
}

/// The answer without faults, from memory when it was made before.
async fn usual(stream: &mut TcpStream, api: Api, asked: &Asked<'_>, made: &Made) -> io::Result<()> {
    let streams = asked.stream && api.streams();
    if !api.streams() {
        let body = bodies::whole(api, asked.path, &asked.model, &asked.value());
        let counted = if api == Api::Invoke { "x-amzn-bedrock-input-token-count: 3\r\n" } else { "" };
        return stream.write_all(&whole_answer(200, "application/json", counted, &body)).await;
    }
    let usage = streams && asked.includes_usage();
    let key = (api, Manner::of(asked.path), asked.model.clone(), streams, usage);
    let kept = made.borrow().get(&key).filter(|_| asked.model != "repeat").cloned();
    let bytes = kept.unwrap_or_else(|| {
        let bytes: Rc<[u8]> = if streams {
            let Script { start, content, finish, end } =
                bodies::script(api, asked.path, &asked.model, &asked.value(), None);
            stream_answer(api, &[start, content, finish, vec![end]].concat()).into()
        } else {
            let body = bodies::whole(api, asked.path, &asked.model, &asked.value());
            whole_answer(200, "application/json", "", &body).into()
        };
        let mut made = made.borrow_mut();
        if made.len() < 64 {
            made.insert(key, Rc::clone(&bytes));
        }
        bytes
    });
    stream.write_all(&bytes).await
}

/// A stream whose content comes piece by piece.
async fn play(stream: &mut TcpStream, api: Api, script: Script, pause: Duration) -> io::Result<()> {
    let mut first = stream_head(api).into_bytes();
    for event in &script.start {
        first.extend_from_slice(&chunk(event));
    }
    stream.write_all(&first).await?;
    for event in &script.content {
        if pause.is_zero() {
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep(pause).await;
        }
        stream.write_all(&chunk(event)).await?;
    }
    let mut last = Vec::new();
    for event in script.finish.iter().chain([&script.end]) {
        last.extend_from_slice(&chunk(event));
    }
    last.extend_from_slice(b"0\r\n\r\n");
    stream.write_all(&last).await
}

async fn events(stream: &mut TcpStream, api: Api, events: &[Vec<u8>]) -> io::Result<()> {
    stream.write_all(&stream_answer(api, events)).await
}

pub(super) const STREAM_HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n\
    cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n";

pub(super) fn stream_head(api: Api) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {}\r\ncache-control: no-cache\r\n\
         transfer-encoding: chunked\r\n\r\n",
        api.stream_type()
    )
}

pub(super) fn stream_answer(api: Api, events: &[Vec<u8>]) -> Vec<u8> {
    let mut out = stream_head(api).into_bytes();
    for event in events {
        out.extend_from_slice(&chunk(event));
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

pub(super) fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

pub(super) fn whole_answer(status: u16, content_type: &str, more: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status} Status\r\ncontent-type: {content_type}\r\nx-request-id: req_fake\r\n{more}\
         content-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

pub(super) fn millis(text: Option<&str>) -> Duration {
    let number = text.map(|text| text.trim_end_matches("ms")).and_then(|text| text.parse().ok());
    Duration::from_millis(number.unwrap_or(0))
}

/// What a request asks for.
struct Asked<'a> {
    model: String,
    stream: bool,
    path: &'a str,
    body: &'a [u8],
}

impl<'a> Asked<'a> {
    /// Large prompts are not parsed when the model stands near the front, where clients and gateways put it.
    fn read(path: &'a str, body: &'a [u8]) -> Self {
        let quick = &body[..body.len().min(200)];
        let model = memchr::memmem::find(quick, b"\"model\":\"").and_then(|at| {
            let rest = &quick[at + 9..];
            let end = memchr::memchr(b'"', rest)?;
            std::str::from_utf8(&rest[..end]).ok().map(str::to_owned)
        });
        if let Some(model) = model {
            let stream = ["\"stream\":true", "\"stream\": true"]
                .iter()
                .any(|text| memchr::memmem::find(body, text.as_bytes()).is_some());
            return Self { model, stream, path, body };
        }
        let value: Value = serde_json::from_slice(body).unwrap_or_default();
        Self {
            model: value["model"].as_str().unwrap_or_default().to_owned(),
            stream: value["stream"] == true,
            path,
            body,
        }
    }

    fn value(&self) -> Value {
        serde_json::from_slice(self.body).unwrap_or_default()
    }

    fn includes_usage(&self) -> bool {
        memchr::memmem::find(self.body, b"include_usage").is_some()
            && self.value()["stream_options"]["include_usage"] == true
    }
}
