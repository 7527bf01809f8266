//! A load generator for HTTP/1.1 that costs little: one thread, one buffer per connection, no parsing beyond
//! what tells where an answer ends. Closed loop by default; `--rate` makes it an open loop whose latencies
//! count from the moment a request was due. Prints one JSON object.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::Parser;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Sends requests and measures the answers.
#[derive(Parser)]
struct Arguments {
    /// Address, for example 127.0.0.1:5000.
    address: SocketAddr,
    /// Request target.
    #[arg(long, default_value = "/v1/chat/completions")]
    path: String,
    /// Connections.
    #[arg(long, short, default_value_t = 32)]
    connections: usize,
    /// Seconds to run.
    #[arg(long, short, default_value_t = 5.0)]
    duration: f64,
    /// Stop after this many requests.
    #[arg(long, short = 'n')]
    requests: Option<u64>,
    /// Requests per second in an open loop.
    #[arg(long)]
    rate: Option<f64>,
    /// The body, from a file.
    #[arg(long)]
    body: Option<PathBuf>,
    /// A chat body of about this size.
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// The chat body's model.
    #[arg(long, default_value = "ok")]
    model: String,
    /// Ask for streams and count their chunks.
    #[arg(long)]
    stream: bool,
    /// More header fields, `Name: value`.
    #[arg(long, short = 'H')]
    header: Vec<String>,
    /// Open every connection, ask for a stream on each, read nothing but the head, and hold them open this
    /// many seconds; prints a line once all are open.
    #[arg(long)]
    hold: Option<f64>,
}

#[derive(Default)]
struct Tally {
    started: u64,
    requests: u64,
    errors: u64,
    chunks: u64,
    latencies: Vec<u32>,
    statuses: std::collections::BTreeMap<u16, u64>,
}

#[derive(Serialize)]
struct Report {
    requests: u64,
    errors: u64,
    seconds: f64,
    rps: f64,
    p50_us: u32,
    p99_us: u32,
    max_us: u32,
    chunks: u64,
    chunks_per_s: f64,
    statuses: std::collections::BTreeMap<u16, u64>,
}

struct Plan {
    address: SocketAddr,
    request: Vec<u8>,
    end: Instant,
    most: u64,
}

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    runtime.block_on(local.run_until(run(arguments)))
}

async fn run(arguments: Arguments) -> io::Result<()> {
    let body = match &arguments.body {
        Some(path) => std::fs::read(path)?,
        None => chat(&arguments.model, arguments.size, arguments.stream),
    };
    let mut head = vec![
        format!("POST {} HTTP/1.1", arguments.path),
        format!("Host: {}", arguments.address),
        "Content-Type: application/json".to_owned(),
        format!("Content-Length: {}", body.len()),
    ];
    head.extend(arguments.header.iter().cloned());
    let head = head.join("\r\n") + "\r\n\r\n";
    let request = [head.as_bytes(), &body].concat();
    if let Some(seconds) = arguments.hold {
        return hold(&arguments, &request, seconds).await;
    }
    let began = Instant::now();
    let plan = Rc::new(Plan {
        address: arguments.address,
        request,
        end: began + Duration::from_secs_f64(arguments.duration),
        most: arguments.requests.unwrap_or(u64::MAX),
    });
    let tally = Rc::new(RefCell::new(Tally::default()));
    let tasks: Vec<_> = (0..arguments.connections)
        .map(|index| {
            let (plan, tally) = (Rc::clone(&plan), Rc::clone(&tally));
            // Each connection has its share of the rate, and its own place within the period.
            let pace = arguments.rate.map(|rate| {
                let period = Duration::from_secs_f64(arguments.connections as f64 / rate);
                (period, period.mul_f64(index as f64 / arguments.connections as f64))
            });
            tokio::task::spawn_local(async move { work(&plan, &tally, pace, began).await })
        })
        .collect();
    for task in tasks {
        let _panicked = task.await;
    }
    let seconds = began.elapsed().as_secs_f64();
    let mut tally = tally.borrow_mut();
    tally.latencies.sort_unstable();
    let at = |share: f64| {
        let last = tally.latencies.len().saturating_sub(1) as f64;
        tally.latencies.get((last * share) as usize).copied().unwrap_or(0)
    };
    let report = Report {
        requests: tally.requests,
        errors: tally.errors,
        seconds,
        rps: tally.requests as f64 / seconds,
        p50_us: at(0.5),
        p99_us: at(0.99),
        max_us: at(1.0),
        chunks: tally.chunks,
        chunks_per_s: tally.chunks as f64 / seconds,
        statuses: tally.statuses.clone(),
    };
    print(&serde_json::to_string(&report)?)
}

#[expect(clippy::print_stdout, reason = "the report is this program's output")]
fn print(line: &str) -> io::Result<()> {
    println!("{line}");
    io::Write::flush(&mut io::stdout())
}

fn chat(model: &str, size: usize, stream: bool) -> Vec<u8> {
    let stream = if stream { "\"stream\":true," } else { "" };
    let start = format!(
        "{{\"model\":\"{model}\",{stream}\"messages\":[{{\"role\":\"system\",\"content\":\"Be brief.\"}},\
         {{\"role\":\"user\",\"content\":\""
    );
    let end = "\"}],\"temperature\":0.5}";
    let filler = "The quick brown fox jumps over the lazy dog. ";
    let mut body = start.into_bytes();
    while body.len() + end.len() < size {
        let room = size - body.len() - end.len();
        body.extend_from_slice(&filler.as_bytes()[..filler.len().min(room)]);
    }
    body.extend_from_slice(end.as_bytes());
    body
}

async fn work(plan: &Plan, tally: &RefCell<Tally>, pace: Option<(Duration, Duration)>, began: Instant) {
    let mut link: Option<TcpStream> = None;
    let mut buffer = Vec::with_capacity(64 << 10);
    let mut due = pace.map(|(_, offset)| began + offset);
    loop {
        if let (Some(due), Some(_)) = (due, pace) {
            if due > plan.end {
                return;
            }
            tokio::time::sleep_until(due.into()).await;
        }
        if Instant::now() >= plan.end {
            return;
        }
        {
            let mut tally = tally.borrow_mut();
            if tally.started >= plan.most {
                return;
            }
            tally.started += 1;
        }
        let from = due.unwrap_or_else(Instant::now);
        let outcome = one(plan, &mut link, &mut buffer).await;
        let mut tally = tally.borrow_mut();
        tally.requests += 1;
        if let Ok((status, chunks)) = outcome {
            *tally.statuses.entry(status).or_default() += 1;
            tally.chunks += chunks;
            tally.errors += u64::from(status >= 400);
            tally.latencies.push(from.elapsed().as_micros() as u32);
        } else {
            tally.errors += 1;
            link = None;
        }
        if let (Some(at), Some((period, _))) = (due, pace) {
            due = Some(at + period);
        }
    }
}

/// Sends one request; the status and the number of `data:` lines of the answer.
async fn one(plan: &Plan, link: &mut Option<TcpStream>, buffer: &mut Vec<u8>) -> io::Result<(u16, u64)> {
    let stream = if let Some(stream) = link {
        stream
    } else {
        let stream = TcpStream::connect(plan.address).await?;
        stream.set_nodelay(true)?;
        link.insert(stream)
    };
    stream.write_all(&plan.request).await?;
    buffer.clear();
    let head = loop {
        fill(stream, buffer).await?;
        if let Some(at) = memchr::memmem::find(buffer, b"\r\n\r\n") {
            break at + 4;
        }
    };
    let status = buffer.get(9..12).and_then(|code| std::str::from_utf8(code).ok());
    let status = status.and_then(|code| code.parse().ok()).unwrap_or(0);
    let length = content_length(&buffer[..head]);
    let closes = has_close(&buffer[..head]);
    let mut chunks = 0;
    if let Some(length) = length {
        while buffer.len() < head + length {
            fill(stream, buffer).await?;
        }
    } else {
        chunks = to_last_chunk(stream, buffer, head).await?;
    }
    if closes {
        *link = None;
    }
    Ok((status, chunks))
}

/// Reads to the end of a chunked body that begins at `head`: the empty chunk, which nothing follows. Returns the
/// number of `data:` lines.
async fn to_last_chunk(stream: &mut TcpStream, buffer: &mut Vec<u8>, head: usize) -> io::Result<u64> {
    let mut chunks = 0;
    let mut counted = head;
    let mut begun = buffer.len() > head;
    loop {
        chunks += memchr::memmem::find_iter(&buffer[counted..], b"data: ").count() as u64;
        if begun && buffer.ends_with(b"0\r\n\r\n") {
            return Ok(chunks);
        }
        // A marker may be cut in two: its beginning is looked at again.
        let tail = buffer.len() - buffer.len().min(5);
        let from = (tail..buffer.len()).find(|at| b"data: ".starts_with(&buffer[*at..]));
        let from = from.unwrap_or(buffer.len());
        buffer.drain(..from.saturating_sub(8));
        counted = from.min(8);
        fill(stream, buffer).await?;
        begun = true;
    }
}

async fn fill(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<()> {
    if buffer.capacity() - buffer.len() < 4096 {
        buffer.reserve(64 << 10);
    }
    if stream.read_buf(buffer).await? == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

fn content_length(head: &[u8]) -> Option<usize> {
    let at = ["content-length: ", "Content-Length: "]
        .iter()
        .find_map(|name| memchr::memmem::find(head, name.as_bytes()))?;
    let digits = head[at + 16..].iter().take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0')))
}

fn has_close(head: &[u8]) -> bool {
    ["connection: close", "Connection: close"]
        .iter()
        .any(|field| memchr::memmem::find(head, field.as_bytes()).is_some())
}

/// Holds streams open.
async fn hold(arguments: &Arguments, request: &[u8], seconds: f64) -> io::Result<()> {
    let mut links = Vec::new();
    let mut buffer = Vec::new();
    for _ in 0..arguments.connections {
        let mut stream = TcpStream::connect(arguments.address).await?;
        stream.write_all(request).await?;
        links.push(stream);
    }
    // A gateway may hold the head back until there is content.
    for stream in &mut links {
        buffer.clear();
        fill(stream, &mut buffer).await?;
    }
    print(&format!("{{\"open\":{}}}", links.len()))?;
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    Ok(())
}
