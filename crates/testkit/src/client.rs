//! A small HTTP/1.1 client. It sends exactly what it is told and shows exactly what came.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::wire::{Buffered, Length, broken};

/// No test waits longer than this for one piece of an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection that can be used again.
pub struct Connection {
    inner: Buffered<TcpStream>,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Names in lower case, in the order they came.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
    /// Whether the body came to its proper end.
    pub complete: bool,
}

/// An answer whose body is still coming.
pub struct Opened<'a> {
    /// The HTTP status.
    pub status: u16,
    /// Names in lower case, in the order they came.
    pub headers: Vec<(String, String)>,
    connection: &'a mut Connection,
    length: Length,
    had: usize,
}

impl Connection {
    /// Connects.
    pub async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { inner: Buffered::new(stream) })
    }

    /// Sends bytes as they are.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.inner.stream.write_all(bytes).await
    }

    /// Sends a request with a body; `Host`, `Content-Length` and, unless given, a JSON `Content-Type` are added.
    pub async fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<()> {
        let host = self.inner.stream.peer_addr()?;
        let mut head = vec![format!("{method} {path} HTTP/1.1"), format!("Host: {host}")];
        if method != "GET" {
            head.push(format!("Content-Length: {}", body.len()));
            if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
                head.push("Content-Type: application/json".to_owned());
            }
        }
        head.extend(headers.iter().map(|(name, value)| format!("{name}: {value}")));
        let head = head.join("\r\n") + "\r\n\r\n";
        self.write(&[head.as_bytes(), body].concat()).await
    }

    /// Reads the head of the next answer.
    pub async fn answer_head(&mut self) -> io::Result<Opened<'_>> {
        let head = within(self.inner.head()).await?.ok_or_else(|| broken("before an answer"))?;
        let status = head.line.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("not an answer: {}", head.line)))?;
        let length = match status {
            100..200 | 204 | 304 => Length::Known(0),
            _ => head.length().unwrap_or(Length::Close),
        };
        Ok(Opened { status, headers: head.fields, connection: self, length, had: 0 })
    }

    /// Reads the next answer whole.
    pub async fn answer(&mut self) -> io::Result<Answer> {
        let mut opened = self.answer_head().await?;
        let mut body = Vec::new();
        let complete = loop {
            match opened.piece().await {
                Ok(Some(piece)) => body.extend_from_slice(&piece),
                Ok(None) => break true,
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(error),
                Err(_) => break false,
            }
        };
        Ok(Answer { status: opened.status, headers: opened.headers, body, complete })
    }

    /// Whether the other side has closed the connection.
    pub async fn is_closed(&mut self) -> bool {
        matches!(
            tokio::time::timeout(Duration::from_secs(2), self.inner.fill()).await,
            Ok(Ok(false) | Err(_))
        )
    }
}

impl Opened<'_> {
    /// Sends more of the request, whose answer has begun.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.connection.write(bytes).await
    }

    /// The next piece of the body; `None` at its proper end.
    pub async fn piece(&mut self) -> io::Result<Option<Vec<u8>>> {
        let piece = within(self.connection.inner.piece(self.length, self.had)).await?;
        self.had += piece.as_ref().map_or(0, Vec::len);
        Ok(piece)
    }
}

impl Answer {
    /// The first value of a header, by its lower-case name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; `null` when it is not.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The `data:` values of an event stream.
    #[must_use]
    pub fn events(&self) -> Vec<String> {
        self.text().lines().filter_map(|line| Some(line.strip_prefix("data:")?.trim().to_owned())).collect()
    }
}

/// One request on a connection of its own.
pub async fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Answer> {
    let mut connection = Connection::open(address).await?;
    connection.request(method, path, headers, body).await?;
    connection.answer().await
}

async fn within<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")),
    }
}
