//! The client against small scripted servers on loopback.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use http_body_util::BodyExt;
use millgate_upstream::{Client, Deadlines, Origin, Outgoing, Payload, UpstreamError, collect};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const DEADLINES: Deadlines = Deadlines {
    connect: Duration::from_secs(5),
    head: Duration::from_secs(5),
    idle: Duration::from_millis(200),
    total: Duration::from_secs(30),
};

/// A server that answers every request it reads on a connection with the next text of the script, and says
/// how many connections it accepted. A text of `close` closes the connection instead.
async fn serve(script: Vec<&'static str>) -> (Arc<Origin>, tokio::task::JoinHandle<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let mut script = script.into_iter();
        let mut accepted = 0;
        let mut next = script.next();
        while next.is_some() {
            let (mut socket, _) = listener.accept().await.unwrap();
            accepted += 1;
            while let Some(text) = next {
                if text == "close" {
                    next = script.next();
                    break;
                }
                if read_request(&mut socket).await.is_none() {
                    break;
                }
                socket.write_all(text.as_bytes()).await.unwrap();
                next = script.next();
                if next == Some("hang") {
                    let mut rest = [0_u8; 1];
                    let _ended = socket.read(&mut rest).await;
                    next = script.next();
                }
            }
        }
        accepted
    });
    (Arc::new(Origin::new(false, "127.0.0.1", port).unwrap()), server)
}

async fn read_request(socket: &mut TcpStream) -> Option<()> {
    let mut seen = Vec::new();
    let mut buffer = [0_u8; 1024];
    loop {
        let read = socket.read(&mut buffer).await.ok()?;
        if read == 0 {
            return None;
        }
        seen.extend_from_slice(&buffer[..read]);
        if seen.ends_with(b"\r\n\r\nhi") {
            return Some(());
        }
    }
}

static NO_HEADERS: LazyLock<HeaderMap> = LazyLock::new(HeaderMap::new);

fn request() -> Outgoing<'static> {
    Outgoing {
        method: &Method::POST,
        target: "/v1/x",
        headers: &NO_HEADERS,
        more: &[],
        body: Payload::Whole(Bytes::from_static(b"hi")),
    }
}

#[tokio::test]
async fn a_connection_is_used_again_after_its_body_is_read() {
    let (origin, server) = serve(vec![
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\none",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nthree",
    ])
    .await;
    for expected in ["one", "two", "three"] {
        let response = Client.send(&origin, request(), &DEADLINES).await.unwrap();
        let body = collect(response.into_body(), 100).await.unwrap();
        assert_eq!(body, expected.as_bytes());
    }
    assert_eq!(server.await.unwrap(), 1);
}

#[tokio::test]
async fn a_connection_the_server_closed_meanwhile_is_replaced() {
    let (origin, server) = serve(vec![
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\none",
        "close",
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\ntwo",
    ])
    .await;
    for expected in ["one", "two"] {
        let response = Client.send(&origin, request(), &DEADLINES).await.unwrap();
        assert_eq!(collect(response.into_body(), 100).await.unwrap(), expected.as_bytes());
        tokio::task::yield_now().await;
    }
    assert_eq!(server.await.unwrap(), 2);
}

#[tokio::test]
async fn a_body_that_ends_early_is_an_error_behind_the_data_that_came() {
    let (origin, _server) = serve(vec!["HTTP/1.1 200 OK\r\ncontent-length: 30\r\n\r\nabc", "close"]).await;
    let mut body = Client.send(&origin, request(), &DEADLINES).await.unwrap().into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first, b"abc".as_slice());
    assert!(matches!(body.frame().await, Some(Err(UpstreamError::Broken(_)))));
}

#[tokio::test]
async fn chunks_of_one_read_arrive_as_one_frame() {
    let (origin, _server) = serve(vec![
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n2\r\ngh\r\n0\r\n\r\n",
    ])
    .await;
    let mut body = Client.send(&origin, request(), &DEADLINES).await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), b"abcdefgh".as_slice());
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn a_stalled_body_ends_in_an_error() {
    let (origin, _server) = serve(vec!["HTTP/1.1 200 OK\r\ncontent-length: 30\r\n\r\nabc", "hang"]).await;
    let response = Client.send(&origin, request(), &DEADLINES).await.unwrap();
    assert!(matches!(collect(response.into_body(), 100).await, Err(UpstreamError::Idle)));
}

/// The time for the whole answer runs though something comes all the time.
#[tokio::test]
async fn a_body_that_never_ends_does() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = Arc::new(Origin::new(false, "127.0.0.1", listener.local_addr().unwrap().port()).unwrap());
    let server = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        read_request(&mut socket).await.unwrap();
        socket.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
        while socket.write_all(b"3\r\nabc\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    let deadlines = Deadlines { total: Duration::from_millis(300), ..DEADLINES };
    let began = std::time::Instant::now();
    let mut body = Client.send(&origin, request(), &deadlines).await.unwrap().into_body();
    let error = loop {
        match body.frame().await {
            Some(Ok(_)) => {}
            Some(Err(error)) => break error,
            None => panic!("it ended"),
        }
    };
    assert!(matches!(error, UpstreamError::Timeout));
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    // The connection is gone, which the server sees.
    server.await.unwrap();
}

#[tokio::test]
async fn a_refused_connection_was_surely_not_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let origin = Arc::new(Origin::new(false, "127.0.0.1", port).unwrap());
    let error = Client.send(&origin, request(), &DEADLINES).await.err().unwrap();
    assert!(error.is_unsent());
    assert_eq!(error.into_fault().code.name, "upstream_error");
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let (origin, _server) = serve(vec!["HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabcde"]).await;
    let response = Client.send(&origin, request(), &DEADLINES).await.unwrap();
    assert!(matches!(collect(response.into_body(), 4).await, Err(UpstreamError::TooLarge(4))));
}

/// One connection whose server writes `answer` in pieces of `step` bytes once it has read `until`, then closes.
async fn raw(
    answer: Vec<u8>,
    step: usize,
    until: &'static [u8],
) -> (Arc<Origin>, tokio::task::JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.set_nodelay(true).unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(until) {
            let mut buffer = [0_u8; 4096];
            let read = socket.read(&mut buffer).await.unwrap();
            assert!(read > 0, "the client went away");
            seen.extend_from_slice(&buffer[..read]);
        }
        for piece in answer.chunks(step) {
            socket.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        seen
    });
    (Arc::new(Origin::new(false, "127.0.0.1", port).unwrap()), server)
}

const HI: &[u8] = b"\r\n\r\nhi";

#[tokio::test]
async fn an_answer_is_the_same_however_it_drips_in() {
    let wire = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\nx-a: 1\r\nx-a: 2\r\n\
        transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n4;x\r\ndefg\r\n0\r\n\r\n";
    for step in [1, 2, 3, 7, 64, 1000] {
        let (origin, _server) = raw(wire.to_vec(), step, HI).await;
        let response = Client.send(&origin, request(), &DEADLINES).await.unwrap();
        assert_eq!(response.headers().get_all("x-a").iter().count(), 2);
        assert_eq!(collect(response.into_body(), 100).await.unwrap(), b"abcdefg".as_slice());
    }
}

#[tokio::test]
async fn a_body_without_a_length_ends_with_the_connection() {
    let (origin, _server) = raw(b"HTTP/1.1 200 OK\r\n\r\nall of it".to_vec(), 4, HI).await;
    let response = Client.send(&origin, request(), &DEADLINES).await.unwrap();
    assert_eq!(collect(response.into_body(), 100).await.unwrap(), b"all of it".as_slice());
}

#[tokio::test]
async fn damage_in_the_framing_comes_behind_the_data_before_it() {
    let wire = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nZZ\r\n";
    for step in [1, wire.len()] {
        let (origin, _server) = raw(wire.to_vec(), step, HI).await;
        let mut body = Client.send(&origin, request(), &DEADLINES).await.unwrap().into_body();
        let mut data = Vec::new();
        let error = loop {
            match body.frame().await.unwrap() {
                Ok(frame) => data.extend_from_slice(&frame.into_data().unwrap()),
                Err(error) => break error,
            }
        };
        assert_eq!(data, b"abc");
        assert!(matches!(error, UpstreamError::NotHttp(_)), "{error:?}");
        assert!(body.frame().await.is_none());
    }
}

#[tokio::test]
async fn what_is_not_http_is_said_to_be_so() {
    for wire in [&b"SSH-2.0-OpenSSH_9.2\r\n\r\n"[..], b"HTTP/1.1 101 Switching\r\nupgrade: x\r\n\r\n"] {
        let (origin, _server) = raw(wire.to_vec(), 100, HI).await;
        let error = Client.send(&origin, request(), &DEADLINES).await.err().unwrap();
        assert!(matches!(error, UpstreamError::NotHttp(_)), "{error:?}");
        assert_eq!(error.into_fault().public, "the provider answered something that is not HTTP");
    }
    let (origin, _server) = raw(Vec::new(), 1, HI).await;
    let error = Client.send(&origin, request(), &DEADLINES).await.err().unwrap();
    assert!(matches!(error, UpstreamError::Broken(_)) && !error.is_unsent(), "{error:?}");
}

#[tokio::test]
async fn bytes_behind_an_answer_end_the_connection() {
    let (origin, server) = serve(vec![
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\noneHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\ntwo",
    ])
    .await;
    for expected in ["one", "two"] {
        let response = Client.send(&origin, request(), &DEADLINES).await.unwrap();
        assert_eq!(collect(response.into_body(), 100).await.unwrap(), expected.as_bytes());
    }
    assert_eq!(server.await.unwrap(), 2);
}

/// Pieces of a body, with or without their length together.
struct Pieces(Vec<&'static [u8]>, Option<u64>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, std::io::Error>>> {
        let next = (!self.0.is_empty()).then(|| self.0.remove(0));
        std::task::Poll::Ready(next.map(|piece| Ok(http_body::Frame::data(Bytes::from_static(piece)))))
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.1.map_or_else(http_body::SizeHint::default, http_body::SizeHint::with_exact)
    }
}

#[tokio::test]
async fn a_body_goes_out_piece_by_piece() {
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    for (length, until, sent) in [
        (None, &b"\r\n0\r\n\r\n"[..], "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"),
        (Some(5), b"abcde", "content-length: 5\r\n\r\nabcde"),
    ] {
        let (origin, server) = raw(answer.to_vec(), 100, until).await;
        let body = Payload::Stream(Box::pin(Pieces(vec![b"abc", b"", b"de"], length)));
        let response = Client.send(&origin, Outgoing { body, ..request() }, &DEADLINES).await.unwrap();
        assert!(http_body::Body::is_end_stream(response.body()));
        let seen = String::from_utf8(server.await.unwrap()).unwrap();
        assert!(seen.ends_with(sent), "{seen}");
    }
}

#[tokio::test]
async fn an_answer_before_the_request_is_written_is_taken() {
    let answer = b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nbig";
    let (origin, _server) = raw(answer.to_vec(), 100, b"aaaa").await;
    let large = vec![b'a'; 64 << 20];
    let body = Payload::Whole(large.into());
    let response = Client.send(&origin, Outgoing { body, ..request() }, &DEADLINES).await.unwrap();
    assert_eq!(response.status(), 413);
    assert_eq!(collect(response.into_body(), 100).await.unwrap(), b"big".as_slice());
}

#[tokio::test(flavor = "current_thread")]
async fn an_answer_that_does_not_come_is_given_up() {
    for head in [Duration::from_millis(50), Duration::from_secs(10)] {
        let (origin, _server) = serve(vec!["HTTP/1.1 200 OK\r\n", "hang"]).await;
        let deadlines = Deadlines { head, ..DEADLINES };
        let sent = Client.send(&origin, request(), &deadlines);
        let sweeps = async {
            // The coarse way is only as good as its sweeps; time is the sweeps' own here.
            if head >= Duration::from_secs(10) {
                tokio::time::sleep(Duration::from_millis(100)).await;
                Client.sweep_at(std::time::Instant::now() + head + Duration::from_secs(2));
            }
            std::future::pending::<()>().await;
        };
        let error = tokio::select! {
            answered = sent => answered.err().unwrap(),
            () = sweeps => unreachable!(),
        };
        assert!(matches!(error, UpstreamError::Timeout), "{error:?}");
    }
}
