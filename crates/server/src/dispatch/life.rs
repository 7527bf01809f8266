//! The signs of life of a stream: in a long silence the caller gets something to read that means nothing, so that
//! neither its client nor a proxy takes the connection for dead. They stand between whole frames only.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, Sleep};

use crate::flight::Flight;
use crate::reply::Pieces;

/// How long a provider may keep its connection open behind the end of its answer. If it closes properly until then,
/// the connection is used again.
const GRACE: Duration = Duration::from_secs(1);

/// A stream with signs of life.
pub(super) struct Alive {
    inner: Box<dyn Pieces>,
    beat: &'static [u8],
    every: Duration,
    /// Made at the first wait, and moved only when it fires.
    timer: Option<Pin<Box<Sleep>>>,
    /// When the silence began.
    silent: Option<Instant>,
}

impl Alive {
    /// `beat` must mean nothing to the caller behind any piece of `inner`.
    pub(super) fn new(inner: Box<dyn Pieces>, beat: &'static [u8], every: Duration) -> Self {
        Self { inner, beat, every, timer: None, silent: None }
    }

    fn poll_silence(&mut self, context: &mut Context<'_>, wait: Duration) -> Poll<()> {
        let deadline = *self.silent.get_or_insert_with(Instant::now) + wait;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if timer.deadline() > deadline {
            timer.as_mut().reset(deadline);
        }
        loop {
            ready!(timer.as_mut().poll(context));
            if deadline <= Instant::now() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
    }
}

impl Pieces for Alive {
    fn poll_piece(&mut self, context: &mut Context<'_>, flight: &mut Flight) -> Poll<Option<Bytes>> {
        if let Poll::Ready(piece) = self.inner.poll_piece(context, flight) {
            self.silent = None;
            return Poll::Ready(piece);
        }
        if self.inner.is_told() {
            ready!(self.poll_silence(context, GRACE));
            return Poll::Ready(None);
        }
        ready!(self.poll_silence(context, self.every));
        self.silent = None;
        Poll::Ready(Some(Bytes::from_static(self.beat)))
    }

    fn is_told(&self) -> bool {
        self.inner.is_told()
    }

    fn settle(&mut self, flight: &mut Flight) {
        self.inner.settle(flight);
    }
}
