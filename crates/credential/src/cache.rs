//! A value that grows old, such as an access token: fetched by one task behind the scenes, renewed before it
//! expires, read by requests without a lock. However many requests wait, one fetch runs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use millgate_types::Fault;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::failure::Failure;

/// Time for one fetch.
const FETCH: Duration = Duration::from_secs(10);
/// A value is renewed this long before it expires, or a fifth of its life when that is shorter.
const AHEAD: Duration = Duration::from_mins(5);
/// A value is not used any more this long before it expires, or a tenth of its life when that is shorter: a
/// request takes its time to arrive.
const MARGIN: Duration = Duration::from_secs(30);
/// The pause after a failed fetch, doubled up to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A request that finds nothing to use asks for a fetch at once, unless one failed within this time.
const QUIET: Duration = Duration::from_secs(1);
/// A value that the provider refused is fetched anew, unless it is younger than this.
const YOUNG: Duration = Duration::from_secs(30);

/// Where a value comes from.
pub(crate) trait Source: Send + Sync + 'static {
    /// What is fetched.
    type Value: Send + Sync + 'static;
    /// Fetches a new one.
    fn fetch(&self) -> impl Future<Output = Result<Fetched<Self::Value>, Failure>> + Send;
}

/// A new value.
pub(crate) struct Fetched<T> {
    pub(crate) value: T,
    /// How long it is good for; `None`: for ever.
    pub(crate) life: Option<Duration>,
}

/// A value in use.
struct Held<T> {
    value: Arc<T>,
    since: Instant,
    renew: Option<Instant>,
    last: Option<Instant>,
}

impl<T> Held<T> {
    fn new(fetched: Fetched<T>, now: Instant) -> Self {
        let life = fetched.life;
        Self {
            value: Arc::new(fetched.value),
            since: now,
            renew: life.map(|life| now + life.saturating_sub(AHEAD.min(life / 5))),
            last: life.map(|life| now + life.saturating_sub(MARGIN.min(life / 10))),
        }
    }

    fn is_good(&self, now: Instant) -> bool {
        self.last.is_none_or(|last| now < last)
    }
}

/// How the last fetch went.
#[derive(Clone, Default)]
struct Outcome {
    /// Fetches that ended, in all.
    fetches: u64,
    failed: Option<(Instant, Failure)>,
}

struct Shared<T> {
    held: ArcSwapOption<Held<T>>,
    outcome: watch::Sender<Outcome>,
    asked: Notify,
}

/// The value, and the task that keeps it fresh until this is dropped.
pub(crate) struct Cache<T> {
    shared: Arc<Shared<T>>,
    task: JoinHandle<()>,
}

impl<T> Drop for Cache<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<T: Send + Sync + 'static> Cache<T> {
    /// Starts to fetch at once. `what` names the value in the log.
    pub(crate) fn start<S: Source<Value = T>>(handle: &Handle, what: String, source: S) -> Self {
        let shared = Arc::new(Shared {
            held: ArcSwapOption::empty(),
            outcome: watch::Sender::default(),
            asked: Notify::new(),
        });
        let task = handle.spawn(keep(Arc::clone(&shared), what, source));
        Self { shared, task }
    }

    /// The value. Waits for the fetch under way when there is none to use; a fault when that failed.
    pub(crate) async fn get(&self) -> Result<Arc<T>, Fault> {
        if let Some(value) = self.now() {
            return Ok(value);
        }
        let mut outcome = self.shared.outcome.subscribe();
        let before = outcome.borrow_and_update().clone();
        if let Some((at, failure)) = &before.failed
            && at.elapsed() < QUIET
        {
            return Err(failure.fault());
        }
        // It may have come between the two looks.
        if let Some(value) = self.now() {
            return Ok(value);
        }
        self.shared.asked.notify_one();
        let ended = tokio::time::timeout(FETCH + QUIET, async {
            outcome.wait_for(|now| now.fetches > before.fetches).await.map(|now| now.clone())
        });
        match (ended.await, self.now()) {
            (_, Some(value)) => Ok(value),
            (Ok(Ok(Outcome { failed: Some((_, failure)), .. })), None) => Err(failure.fault()),
            (_, None) => Err(Failure::unreachable("it did not answer in time").fault()),
        }
    }

    fn now(&self) -> Option<Arc<T>> {
        let held = self.shared.held.load();
        held.as_ref().filter(|held| held.is_good(Instant::now())).map(|held| Arc::clone(&held.value))
    }

    /// The provider refused the value before its time: it is fetched anew, and not used until then.
    pub(crate) fn refused(&self) {
        let old = self.shared.held.load().as_ref().is_some_and(|held| held.since.elapsed() > YOUNG);
        if old {
            self.shared.held.store(None);
            self.shared.asked.notify_one();
        }
    }
}

/// Fetches, waits, fetches again.
async fn keep<S: Source>(shared: Arc<Shared<S::Value>>, what: String, source: S) {
    let mut pause = PAUSE;
    loop {
        let fetched = match tokio::time::timeout(FETCH, source.fetch()).await {
            Ok(fetched) => fetched,
            Err(_) => Err(Failure::unreachable("it did not answer in time")),
        };
        let wait = match fetched {
            Ok(fetched) => {
                pause = PAUSE;
                let held = Held::new(fetched, Instant::now());
                let wait = held.renew.map(|renew| renew.saturating_duration_since(Instant::now()));
                shared.held.store(Some(Arc::new(held)));
                shared.outcome.send_modify(|outcome| {
                    *outcome = Outcome { fetches: outcome.fetches + 1, failed: None };
                });
                wait
            }
            Err(failure) => {
                tracing::warn!(credential = what, "no new credential: {failure}");
                shared.outcome.send_modify(|outcome| {
                    outcome.fetches += 1;
                    outcome.failed = Some((Instant::now(), failure));
                });
                let wait = pause;
                pause = (pause * 2).min(LONGEST_PAUSE);
                Some(wait)
            }
        };
        // Who asked while the fetch ran has its answer now, unless there is nothing to use.
        let asked = async {
            loop {
                shared.asked.notified().await;
                let outcome = shared.outcome.borrow().clone();
                let quiet = outcome.failed.is_some_and(|(at, _)| at.elapsed() < QUIET);
                let good = shared.held.load().as_ref().is_some_and(|held| held.is_good(Instant::now()));
                if !quiet && !good {
                    break;
                }
            }
        };
        match wait {
            Some(wait) => drop(tokio::time::timeout(wait, asked).await),
            None => asked.await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// Counts its fetches; fails while `broken`.
    #[derive(Clone, Default)]
    struct Counter {
        fetches: Arc<AtomicU64>,
        broken: Arc<AtomicU64>,
        life: Option<Duration>,
    }

    impl Source for Counter {
        type Value = u64;
        async fn fetch(&self) -> Result<Fetched<u64>, Failure> {
            tokio::task::yield_now().await;
            let count = self.fetches.fetch_add(1, Ordering::SeqCst) + 1;
            if self.broken.load(Ordering::SeqCst) > 0 {
                return Err(Failure::Refused("no".to_owned()));
            }
            Ok(Fetched { value: count, life: self.life })
        }
    }

    fn start(source: &Counter) -> Arc<Cache<u64>> {
        Arc::new(Cache::start(&Handle::current(), "test".to_owned(), source.clone()))
    }

    #[tokio::test]
    async fn however_many_wait_one_fetch_runs() {
        let source = Counter::default();
        let cache = start(&source);
        let waiting: Vec<_> = (0..50)
            .map(|_| {
                let cache = Arc::clone(&cache);
                tokio::spawn(async move { cache.get().await.map(|value| *value) })
            })
            .collect();
        for one in waiting {
            assert_eq!(one.await.unwrap().unwrap(), 1);
        }
        assert_eq!(source.fetches.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_value_is_renewed_before_it_expires_and_the_old_one_serves_until_then() {
        let source = Counter { life: Some(Duration::from_millis(200)), ..Counter::default() };
        let cache = start(&source);
        let began = Instant::now();
        let mut last = 0;
        while last < 3 && began.elapsed() < Duration::from_secs(10) {
            last = *cache.get().await.unwrap();
            tokio::task::yield_now().await;
        }
        assert_eq!(last, 3);
        // A value every 160 ms, not one per request.
        assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn a_failing_renewal_leaves_the_old_value_and_nothing_hammers() {
        let source = Counter { life: Some(Duration::from_millis(300)), ..Counter::default() };
        let cache = start(&source);
        assert_eq!(*cache.get().await.unwrap(), 1);
        source.broken.store(1, Ordering::SeqCst);
        while source.fetches.load(Ordering::SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(*cache.get().await.unwrap(), 1);
        let fault = loop {
            match cache.get().await {
                Ok(_) => tokio::task::yield_now().await,
                Err(fault) => break fault,
            }
        };
        assert_eq!(fault.code.name, "upstream_auth");
        for _ in 0..100 {
            assert!(cache.get().await.is_err());
        }
        assert!(source.fetches.load(Ordering::SeqCst) <= 3);
    }

    #[test]
    fn times_are_those_of_the_life() {
        let now = Instant::now();
        let held = |life| Held::new(Fetched { value: (), life: Some(Duration::from_secs(life)) }, now);
        let hour = held(3600);
        assert_eq!(hour.renew.unwrap() - now, Duration::from_secs(3300));
        assert_eq!(hour.last.unwrap() - now, Duration::from_secs(3570));
        let short = held(10);
        assert_eq!(short.renew.unwrap() - now, Duration::from_secs(8));
        assert!(short.is_good(now) && !short.is_good(now + Duration::from_secs(9)));
        assert!(!held(0).is_good(now));
    }
}
