//! The client against small scripted servers on loopback.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use millgate_upstream::{Client, Deadlines, Origin, UpstreamError, collect};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const DEADLINES: Deadlines = Deadlines {
    connect: Duration::from_secs(5),
    head: Duration::from_secs(5),
    idle: Duration::from_millis(200),
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

fn request() -> Request<Full<Bytes>> {
    Request::post("/v1/x").header("content-length", "2").body(Full::new(Bytes::from_static(b"hi"))).unwrap()
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
    assert!(matches!(body.frame().await, Some(Err(UpstreamError::Http(_)))));
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
