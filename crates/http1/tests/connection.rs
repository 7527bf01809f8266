//! Whole connections, byte by byte.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use millgate_http1::{Answer, Incoming, Lines, Refused, Service, Why};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

/// The body of an answer: pieces, and whether their sum is known before.
struct Pieces {
    left: VecDeque<Bytes>,
    known: bool,
    breaks: bool,
    /// Waits for ever behind them.
    stays: bool,
    dropped: Arc<AtomicUsize>,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.left.pop_front() {
            Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            None if self.stays => Poll::Pending,
            None => Poll::Ready(self.breaks.then_some(Err("broke"))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty() && !self.breaks && !self.stays
    }

    fn size_hint(&self) -> SizeHint {
        if self.known {
            SizeHint::with_exact(self.left.iter().map(|piece| piece.len() as u64).sum())
        } else {
            SizeHint::default()
        }
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

/// Answers with what it read; by path in other ways.
#[derive(Default)]
struct Echo {
    closing: AtomicBool,
    dropped: Arc<AtomicUsize>,
    states: Mutex<String>,
    kept: Arc<Mutex<Vec<Incoming>>>,
}

impl Echo {
    fn note(&self, state: char) {
        self.states.lock().expect("states").push(state);
    }
}

type Serving = Pin<Box<dyn Future<Output = Answer<Pieces>> + Send>>;

impl Service for Echo {
    type Body = Pieces;
    type Serving = Serving;

    fn call(&self, request: Request<Incoming>) -> Serving {
        self.note('c');
        let (dropped, kept) = (Arc::clone(&self.dropped), Arc::clone(&self.kept));
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let path = head.uri.path().to_owned();
            let pieces = |texts: &[&'static str]| {
                texts.iter().map(|text| Bytes::from_static(text.as_bytes())).collect()
            };
            let mut answer =
                Pieces { left: VecDeque::new(), known: true, breaks: false, stays: false, dropped };
            let mut status = StatusCode::OK;
            match path.as_str() {
                "/unread" => status = StatusCode::PAYLOAD_TOO_LARGE,
                "/stream" => (answer.left, answer.known) = (pieces(&["one", "", "two"]), false),
                "/breaks" => {
                    (answer.left, answer.known, answer.breaks) = (pieces(&["one"]), false, true);
                }
                "/stays" => (answer.left, answer.known, answer.stays) = (pieces(&["one"]), false, true),
                // Somebody holds on to the body.
                "/kept" => {
                    let mut body = body;
                    while body.frame().await.is_some() {}
                    kept.lock().expect("kept").push(body);
                }
                "/never" => std::future::pending::<()>().await,
                "/empty" => status = StatusCode::NO_CONTENT,
                "/large" => answer.left = [Bytes::from(vec![b'x'; 1 << 20])].into(),
                "/short" => {
                    (answer.left, answer.known) = (pieces(&["one"]), false);
                    let mut response = Response::new(answer);
                    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("5"));
                    return Answer { response, lines: Lines::default() };
                }
                _ => match body.collect().await {
                    Ok(body) => answer.left = [body.to_bytes()].into(),
                    Err(error) => {
                        status = StatusCode::BAD_REQUEST;
                        answer.left = [error.to_string().into()].into();
                    }
                },
            }
            let mut response = Response::new(answer);
            *response.status_mut() = status;
            if path == "/close" {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            let mut lines = Lines::default();
            if path == "/a" {
                lines.push(&HeaderName::from_static("x-more"), b"1");
            }
            Answer { response, lines }
        })
    }

    fn refuse(&self, refused: Refused) -> Answer<Pieces> {
        let text = match refused.why {
            Why::Malformed(what) => what,
            Why::TooLarge => "too large",
        };
        let pieces = [Bytes::from_static(text.as_bytes())].into();
        let dropped = Arc::clone(&self.dropped);
        let mut response =
            Response::new(Pieces { left: pieces, known: true, breaks: false, stays: false, dropped });
        *response.status_mut() = StatusCode::BAD_REQUEST;
        Answer { response, lines: Lines::default() }
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    fn speaks(&self) {
        self.note('s');
    }

    fn waits(&self) {
        self.note('w');
    }

    fn works(&self) {
        self.note('b');
    }
}

fn begin(buffer: usize) -> (DuplexStream, Arc<Echo>, tokio::task::JoinHandle<()>) {
    let (client, server) = tokio::io::duplex(buffer);
    let echo = Arc::new(Echo::default());
    let service = Arc::clone(&echo);
    let task = tokio::spawn(async move { millgate_http1::serve(server, &*service).await });
    (client, echo, task)
}

/// All that is answered to these pieces, with the date left out. The caller closes its side behind them.
async fn talk(pieces: &[&[u8]]) -> String {
    let (client, _echo, task) = begin(64 << 10);
    let (mut from, mut to) = tokio::io::split(client);
    let read = tokio::spawn(async move {
        let mut all = Vec::new();
        let _broken = from.read_to_end(&mut all).await;
        String::from_utf8(all).expect("text")
    });
    for piece in pieces {
        if to.write_all(piece).await.is_err() {
            break;
        }
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
    }
    // What was asked is answered before we close.
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    let _closed = to.shutdown().await;
    task.await.expect("no panic");
    let text = read.await.expect("no panic");
    let without_date: Vec<&str> = text.split("\r\n").filter(|line| !line.starts_with("date: ")).collect();
    without_date.join("\n")
}

#[tokio::test]
async fn requests_are_answered_one_behind_the_other_in_any_split() {
    let wire = b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello\
        POST /b HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n\
        GET /stream HTTP/1.1\r\nhost: x\r\n\r\n\
        POST /close HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n!";
    let expected = "HTTP/1.1 200 OK\nx-more: 1\ncontent-length: 5\n\nhello\
        HTTP/1.1 200 OK\ncontent-length: 5\n\nabcde\
        HTTP/1.1 200 OK\ntransfer-encoding: chunked\n\n3\none\n3\ntwo\n0\n\n\
        HTTP/1.1 200 OK\ncontent-length: 1\nconnection: close\n\n!";
    assert_eq!(talk(&[wire]).await, expected);
    for step in [1, 2, 3, 7, 50] {
        let pieces: Vec<&[u8]> = wire.chunks(step).collect();
        assert_eq!(talk(&pieces).await, expected, "in pieces of {step}");
    }
}

#[tokio::test]
async fn what_is_not_http_is_refused_and_nothing_behind_it_is_read() {
    for (wire, why) in [
        (&b"nonsense\r\n\r\nGET / HTTP/1.1\r\n\r\n"[..], "the request is not HTTP/1.1"),
        (b"GET / HTTP/1.1\r\nx : y\r\n\r\nGET / HTTP/1.1\r\n\r\n", "a header field has no proper name"),
        (
            b"POST / HTTP/1.1\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "`Content-Length` and `Transfer-Encoding` stand together",
        ),
    ] {
        let length = why.len();
        let expected = format!("HTTP/1.1 400 Bad Request\ncontent-length: {length}\nconnection: close\n\n{why}");
        assert_eq!(talk(&[wire]).await, expected);
    }
    let answer =
        talk(&[b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n\r\nGET / HTTP/1.1\r\n\r\n"])
            .await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
}

#[tokio::test]
async fn older_callers_and_head_get_what_they_understand() {
    let answer = talk(&[b"GET /stream HTTP/1.0\r\nconnection: keep-alive\r\n\r\n"]).await;
    assert_eq!(answer, "HTTP/1.1 200 OK\nconnection: close\n\nonetwo");
    let answer = talk(&[b"POST / HTTP/1.0\r\nconnection: keep-alive\r\ncontent-length: 1\r\n\r\nx"]).await;
    assert_eq!(answer, "HTTP/1.1 200 OK\ncontent-length: 1\nconnection: keep-alive\n\nx");
    let answer =
        talk(&[b"HEAD /large HTTP/1.1\r\n\r\nHEAD /stream HTTP/1.1\r\n\r\nGET /empty HTTP/1.1\r\n\r\n"])
            .await;
    let expected = "HTTP/1.1 200 OK\ncontent-length: 1048576\n\n\
        HTTP/1.1 200 OK\ntransfer-encoding: chunked\n\nHTTP/1.1 204 No Content\n\n";
    assert_eq!(answer, expected);
}

#[tokio::test]
async fn an_answer_that_is_not_whole_does_not_look_whole() {
    let answer = talk(&[b"GET /breaks HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n"]).await;
    assert_eq!(answer, "HTTP/1.1 200 OK\ntransfer-encoding: chunked\n\n3\none\n");
    let answer = talk(&[b"GET /short HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n"]).await;
    assert_eq!(answer, "HTTP/1.1 200 OK\ncontent-length: 5\n\none");
}

#[tokio::test]
async fn a_body_that_nobody_reads_does_not_become_a_request() {
    let behind = b"POST /unread HTTP/1.1\r\ncontent-length: 3\r\n\r\nabcGET / HTTP/1.1\r\n\r\n";
    assert_eq!(talk(&[behind]).await.matches("HTTP/1.1").count(), 2);
    // Of this one the rest comes later.
    let begun = b"POST /unread HTTP/1.1\r\ncontent-length: 100\r\n\r\nGET / HTTP/1.1\r\n\r\n";
    let answer = talk(&[begun]).await;
    assert_eq!(answer, "HTTP/1.1 413 Payload Too Large\ncontent-length: 0\nconnection: close\n\n");
}

#[tokio::test]
async fn who_holds_on_to_a_body_gets_nothing_of_the_next_request() {
    let (mut client, echo, task) = begin(1024);
    client
        .write_all(b"POST /kept HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n")
        .await
        .expect("sent");
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    client.write_all(b"POST /a HTTP/1.1\r\ncontent-length: 5\r\n\r\nhel").await.expect("sent");
    let mut kept = echo.kept.lock().expect("kept").pop().expect("a body");
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    client.write_all(b"lo").await.expect("sent");
    let stolen = kept.frame().await;
    assert!(matches!(stolen, Some(Err(_))), "{stolen:?}");
    let mut answers = String::new();
    client.shutdown().await.expect("closed");
    client.read_to_string(&mut answers).await.expect("answers");
    assert!(answers.ends_with("hello"), "{answers}");
    task.await.expect("no panic");
}

#[tokio::test]
async fn a_body_is_asked_for_where_the_caller_waits_for_that() {
    let (mut client, ..) = begin(1024);
    client
        .write_all(b"POST / HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        .await
        .expect("sent");
    let mut answer = [0; 25];
    client.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(b"hi").await.expect("sent");
    let mut answer = vec![0; 17];
    client.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(answer, b"HTTP/1.1 200 OK\r\n");
    // Not where the answer is known without it.
    let answer = talk(&[b"POST /unread HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n"]).await;
    assert_eq!(answer, "HTTP/1.1 413 Payload Too Large\ncontent-length: 0\nconnection: close\n\n");
}

#[tokio::test]
async fn a_caller_that_goes_away_ends_the_work() {
    for path in ["never", "stays"] {
        let (mut client, echo, task) = begin(1024);
        client.write_all(format!("GET /{path} HTTP/1.1\r\n\r\n").as_bytes()).await.expect("sent");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        assert!(!task.is_finished());
        drop(client);
        task.await.expect("no panic");
        assert_eq!(echo.dropped.load(Ordering::Relaxed), 1, "{path}");
    }
}

#[tokio::test]
async fn a_closing_connection_answers_what_it_took_and_closes() {
    let (mut client, echo, task) = begin(1024);
    client.write_all(b"GET / HT").await.expect("sent");
    tokio::task::yield_now().await;
    echo.closing.store(true, Ordering::Relaxed);
    client.write_all(b"TP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n").await.expect("sent");
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1").count(), 1);
    drop(client);
    task.await.expect("no panic");
}

#[tokio::test]
async fn a_caller_that_does_not_take_its_answer_is_told_from_one_that_waits() {
    let (mut client, echo, _task) = begin(1024);
    client.write_all(b"GET /large HTTP/1.1\r\n\r\n").await.expect("sent");
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    assert_eq!(*echo.states.lock().expect("states"), "scw", "spoke, was served, and takes its time");
    assert_eq!(echo.dropped.load(Ordering::Relaxed), 1, "the body is done with before it has left");
    let mut all = vec![0; 1 << 20];
    client.read_exact(&mut all).await.expect("all of it");
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("sent");
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    assert!(echo.states.lock().expect("states").ends_with("bwscw"));
}

/// Whoever reads the same bytes in other pieces reads the same requests.
mod splits {
    use proptest::prelude::*;

    use super::*;

    fn parts() -> impl Strategy<Value = Vec<u8>> {
        let part = prop_oneof![
            Just(b"GET /stream HTTP/1.1\r\n\r\n".to_vec()),
            Just(b"POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc".to_vec()),
            Just(b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n".to_vec()),
            Just(b"HEAD / HTTP/1.1\r\nconnection: close\r\n\r\n".to_vec()),
            Just(b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nxyz".to_vec()),
            Just(b"\r\n".to_vec()),
            proptest::collection::vec(any::<u8>(), 0..20),
        ];
        proptest::collection::vec(part, 1..6).prop_map(|parts| parts.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_split_is_answered_the_same(wire in parts(), step in 1_usize..40) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
            let whole = runtime.block_on(talk(&[&wire]));
            let pieces: Vec<&[u8]> = wire.chunks(step).collect();
            prop_assert_eq!(whole, runtime.block_on(talk(&pieces)));
        }
    }
}
