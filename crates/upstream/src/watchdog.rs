//! Time-outs of answers. A timer per request costs more than it is worth where nearly every answer comes in time: each
//! connection has one place in its thread's list instead, and the sweep looks at it once a second.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::pool;

/// From here on a time-out may come up to two seconds late; shorter ones have a timer.
pub(crate) const COARSE: Duration = Duration::from_secs(10);
/// Between two sweeps.
pub(crate) const SWEEP: Duration = Duration::from_secs(1);

thread_local! {
    static WATCHED: RefCell<Vec<Weak<Watchdog>>> = const { RefCell::new(Vec::new()) };
}

/// The time-out of the one request that a connection has at a time.
#[derive(Debug, Default)]
pub(crate) struct Watchdog {
    wait: Mutex<Option<(Instant, Waker)>>,
    late: AtomicBool,
}

impl Watchdog {
    /// A watchdog in this thread's list.
    pub(crate) fn new() -> Arc<Self> {
        let watchdog = Arc::new(Self::default());
        WATCHED.with_borrow_mut(|list| list.push(Arc::downgrade(&watchdog)));
        watchdog
    }

    /// What `work` gives, or `None` when it takes longer than `limit` and the sweep has seen it.
    pub(crate) async fn within<F: Future>(&self, limit: Duration, work: F) -> Option<F::Output> {
        let until = pool::swept() + limit + SWEEP;
        let mut work = pin!(work);
        let done = poll_fn(|context| match work.as_mut().poll(context) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending => self.poll_late(context, until).map(|()| None),
        })
        .await;
        self.rest();
        done
    }

    /// Waits until `until`; forgets what it waited for before.
    fn poll_late(&self, context: &mut Context<'_>, until: Instant) -> Poll<()> {
        if self.late.swap(false, Ordering::Relaxed) {
            return Poll::Ready(());
        }
        let mut wait = self.wait.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *wait {
            Some((known, task)) => {
                *known = until;
                task.clone_from(context.waker());
            }
            None => *wait = Some((until, context.waker().clone())),
        }
        Poll::Pending
    }

    /// The answer came: nothing is waited for.
    fn rest(&self) {
        *self.wait.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.late.store(false, Ordering::Relaxed);
    }
}

/// Wakes what has waited too long.
pub(crate) fn sweep(now: Instant) {
    let mut late = Vec::new();
    WATCHED.with_borrow_mut(|list| {
        list.retain(|watchdog| {
            let Some(watchdog) = watchdog.upgrade() else { return false };
            let mut wait = watchdog.wait.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, task)) = wait.take_if(|(until, _)| *until <= now) {
                watchdog.late.store(true, Ordering::Relaxed);
                late.push(task);
            }
            true
        });
    });
    late.into_iter().for_each(Waker::wake);
}
