//! The server's side of a connection: requests are read, served and answered one behind the other.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::Lines;
use crate::incoming::Incoming;
use crate::lock;
use crate::outgoing::{Asked, Coding, Outbox};
use crate::request::{Head, Refused};
use crate::wire::{Came, Wire};

/// A caller that is still sending when its answer has left is listened to for so long: what it sends would otherwise
/// make its system throw the answer away.
const LINGER: Duration = Duration::from_secs(1);
/// And for so many bytes.
const LINGER_BYTES: usize = 1 << 20;

/// Who serves the requests of a connection, and looks after it.
pub trait Service {
    /// The body of an answer. It is dropped before its last bytes leave.
    type Body: Body<Data = Bytes>;
    /// An answer to come. It is dropped when the caller goes away.
    type Serving: Future<Output = Answer<Self::Body>> + Unpin;

    /// Serves a request. From here on the connection is busy.
    fn call(&self, request: Request<Incoming>) -> Self::Serving;

    /// Answers a request that is not served. The connection closes behind it.
    fn refuse(&self, refused: Refused) -> Answer<Self::Body>;

    /// No more requests are wanted.
    fn is_closing(&self) -> bool;

    /// The first bytes of a request have come.
    fn speaks(&self);

    /// The connection is the caller's to go on with: its next request, or to take what is written.
    fn waits(&self);

    /// The connection is ours to go on with, again.
    fn works(&self);
}

/// An answer, and fields of it that are written as they are.
pub struct Answer<B> {
    /// The answer.
    pub response: Response<B>,
    /// More of its fields, none of which stands in the response, or is one of the framing.
    pub lines: Lines,
}

enum End {
    /// The next request may come.
    Next,
    /// Everything has left.
    Close,
    /// The same, and the caller may still be sending.
    Linger,
    /// The caller must not take what it got to be whole, or is gone.
    Break,
}

/// Serves a connection until it ends or is closing. Dropping it breaks the connection.
pub async fn serve<S, V>(stream: S, service: &V)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    V: Service,
{
    let wire = Arc::new(Mutex::new(Wire::new(stream)));
    while let Some(came) = poll_fn(|context| lock(&wire).poll_request(context, service)).await {
        let end = match came {
            Ok(came) => one(&wire, service, came).await,
            Err(refused) => {
                let is_head = refused.line.as_ref().is_some_and(|(method, _)| method == Method::HEAD);
                let asked = Asked { is_head, is_1_1: true, keep_alive: false };
                let answer = service.refuse(refused);
                match answer_with(&wire, service, answer, asked).await {
                    End::Break => End::Break,
                    _ => End::Linger,
                }
            }
        };
        match end {
            End::Next if lock(&wire).has_input() => {}
            End::Next => service.waits(),
            End::Close => return close(&wire, service).await,
            End::Linger => {
                close(&wire, service).await;
                let mut most = LINGER_BYTES;
                let discard = poll_fn(|context| lock(&wire).poll_discard(context, &mut most));
                let _late = tokio::time::timeout(LINGER, discard).await;
                return;
            }
            End::Break => return,
        }
    }
    close(&wire, service).await;
}

/// Says that nothing more comes.
async fn close<S, V>(wire: &Mutex<Wire<S>>, service: &V)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    V: Service,
{
    service.waits();
    let _gone = poll_fn(|context| lock(wire).poll_shutdown(context)).await;
}

/// Serves one request.
async fn one<S, V>(wire: &Arc<Mutex<Wire<S>>>, service: &V, came: Came) -> End
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    V: Service,
{
    let Came { head, whole } = came;
    let Head { method, target, version, headers, framing, keep_alive, expects, .. } = head;
    let asked = Asked::new(&method, version == http::Version::HTTP_11, keep_alive);
    let body = match whole {
        Some(bytes) => Incoming::whole(bytes),
        None => {
            lock(wire).expect_body(framing, expects);
            Incoming::arriving(Arc::clone(wire) as _)
        }
    };
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = target;
    *request.version_mut() = version;
    *request.headers_mut() = headers;
    let answer = {
        let mut answer = service.call(request);
        poll_fn(|context| match Pin::new(&mut answer).poll(context) {
            Poll::Ready(answer) => Poll::Ready(Some(answer)),
            Poll::Pending if lock(wire).is_gone(context) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await
    };
    match answer {
        Some(answer) => answer_with(wire, service, answer, asked).await,
        None => End::Break,
    }
}

/// Writes an answer.
async fn answer_with<S, V>(
    wire: &Arc<Mutex<Wire<S>>>,
    service: &V,
    answer: Answer<V::Body>,
    mut asked: Asked,
) -> End
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    V: Service,
{
    let Answer { response, lines } = answer;
    let (parts, body) = response.into_parts();
    // A body that somebody still reads is looked at again behind the answer.
    let skipped = poll_fn(|context| {
        let mut read = lock(wire);
        Poll::Ready(read.is_read() || Arc::strong_count(wire) > 1 || read.skip_body(context))
    });
    asked.keep_alive &= skipped.await && !service.is_closing();
    let mut outbox = Outbox::default();
    let (coding, keep_alive) = outbox.head(&parts, &lines, &body.size_hint(), asked);
    let mut sending = Sending { body: pin!(Some(body)), coding, outbox, broken: false };
    let mut waits = false;
    let end = poll_fn(|context| {
        loop {
            sending.fill(context);
            let over = sending.body.is_none();
            if sending.outbox.is_empty() && !over {
                // The body is waited for.
                return if lock(wire).is_gone(context) { Poll::Ready(End::Break) } else { Poll::Pending };
            }
            let written = lock(wire).poll_write(context, &mut sending.outbox);
            if written.is_pending() {
                waits = true;
                service.waits();
            } else if std::mem::take(&mut waits) {
                service.works();
            }
            match ready!(written) {
                Ok(()) if !over => {}
                Ok(()) if !sending.broken => {
                    return Poll::Ready(if keep_alive { End::Next } else { End::Close });
                }
                _ => return Poll::Ready(End::Break),
            }
        }
    })
    .await;
    match end {
        // Of a body that was not read to its end, the rest would be taken for a request.
        End::Next | End::Close if !lock(wire).is_read() => End::Linger,
        end => end,
    }
}

/// An answer on its way out.
struct Sending<'b, B> {
    /// `None`: it is over, and all of it is in the outbox.
    body: Pin<&'b mut Option<B>>,
    coding: Coding,
    outbox: Outbox,
    /// It is over and was not whole.
    broken: bool,
}

impl<B: Body<Data = Bytes>> Sending<'_, B> {
    /// Puts into the outbox what there is of the body, as far as there is room.
    fn fill(&mut self, context: &mut Context<'_>) {
        while let Some(body) = self.body.as_mut().as_pin_mut() {
            // Nobody waits for the pieces of a body that is not sent.
            let untold = self.coding == Coding::None && body.size_hint().exact().is_none();
            if untold || body.is_end_stream() {
                return self.end(true);
            }
            if !self.outbox.has_room() {
                return;
            }
            match body.poll_frame(context) {
                Poll::Pending => return,
                Poll::Ready(Some(Ok(frame))) => {
                    let Ok(data) = frame.into_data() else { continue };
                    if !self.outbox.push(&mut self.coding, data) {
                        return self.end(false);
                    }
                }
                Poll::Ready(Some(Err(_))) => return self.end(false),
                Poll::Ready(None) => return self.end(true),
            }
        }
    }

    fn end(&mut self, whole: bool) {
        self.broken = !whole || !self.outbox.end(self.coding);
        self.body.set(None);
    }
}
