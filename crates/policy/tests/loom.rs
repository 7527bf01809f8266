//! Every order in which threads may run: what two calls take together is never more than there is, what is given back is
//! there again, and nobody waits for good. `cargo test -p millgate-policy --features loom --test loom`.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use loom::thread;
use millgate_policy::{
    Amounts, Ask, Cells, Exceeded, Limit, Measure, Now, Place, Priority, Queue, Reservation, Span, Terms,
    admit,
};

const NOW: Now = Now { monotonic: 0, wall_ms: 0 };

fn limit(measure: Measure, amount: u64) -> Arc<Limit> {
    let window = Duration::from_secs(3600);
    Arc::new(Limit {
        name: "limit".into(),
        measure,
        amount,
        amounts: HashMap::new(),
        span: match measure {
            Measure::Concurrent => Span::Meanwhile,
            _ => Span::Rolling { window, burst: amount },
        },
        exceeded: Exceeded::Refuse,
        budget: false,
        cap: false,
        queue: Some(Queue { size: 4, wait: window }),
        alerts: Arc::default(),
        key: "key".into(),
        cells: Arc::new(Cells::default()),
    })
}

fn take(limits: &[Arc<Limit>], output_tokens: u64) -> Option<Reservation> {
    let mut asks: Vec<_> =
        limits.iter().map(|limit| Ask { limit: Arc::clone(limit), label: "".into() }).collect();
    asks.sort_by_key(|ask| ask.limit.cells.number());
    let amounts = Amounts { output_tokens, ..Amounts::default() };
    admit(&asks, &amounts, Terms::alone(1), NOW, &mut |_, _| {}).ok()
}

fn used(limit: &Limit) -> (u64, u64) {
    limit.counts(NOW).first().map_or((0, 0), |count| (count.tally.used, count.tally.reserved))
}

/// A call that reserves 2 tokens and uses 1: whether it was admitted.
fn call(limits: &[Arc<Limit>]) -> u64 {
    let Some(held) = take(limits, 2) else { return 0 };
    let (used, reserved) = used(&limits[0]);
    assert!(used + reserved <= 3, "{used} and {reserved} of 3");
    let used = Amounts { output_tokens: 1, ..Amounts::default() };
    drop(held.settle(&used, NOW));
    1
}

#[test]
fn two_calls_never_take_more_than_there_is_and_settle_exactly() {
    loom::model(|| {
        // Either fits alone; both do not, and the second limit is taken in the same step or not at all.
        let limits = [limit(Measure::OutputTokens, 3), limit(Measure::Requests, 2)];
        let theirs = limits.clone();
        let other = thread::spawn(move || call(&theirs));
        let admitted = call(&limits) + other.join().expect("it ends");
        assert!(admitted >= 1);
        assert_eq!((used(&limits[0]), used(&limits[1])), ((admitted, 0), (admitted, 0)));
    });
}

/// A stream that reserves 1 token, then 3: what it used.
fn stream(limits: &[Arc<Limit>]) -> u64 {
    let Some(mut held) = take(limits, 1) else { return 0 };
    let more = Amounts { output_tokens: 3, ..Amounts::default() };
    let used = if held.extend(&more, NOW).is_ok() { 3 } else { 1 };
    drop(held.settle(&Amounts { output_tokens: used, ..Amounts::default() }, NOW));
    used
}

#[test]
fn streams_that_reserve_more_stay_within_the_limit() {
    loom::model(|| {
        let limits = [limit(Measure::OutputTokens, 4)];
        let theirs = limits.clone();
        let other = thread::spawn(move || stream(&theirs));
        let together = stream(&limits) + other.join().expect("it ends");
        assert!((2..=4).contains(&together), "{together}");
        assert_eq!(used(&limits[0]), (together, 0));
    });
}

#[test]
fn whoever_waits_is_woken() {
    loom::model(|| {
        let limits = [limit(Measure::Concurrent, 1)];
        let theirs = limits.clone();
        let first = take(&limits, 0).expect("nobody else is there");
        let waiter = thread::spawn(move || {
            let place = Place::enter(&theirs[0], &"".into(), "caller".into(), Priority::Normal);
            let place = place.expect("a place");
            loom::future::block_on(async {
                let mut seen = None;
                loop {
                    // Without a clock: only being woken ends this.
                    let turn = poll_fn(|context| place.poll_turn(seen, context)).await;
                    if let Some(held) = take(&theirs, 0) {
                        break held;
                    }
                    seen = Some(turn.expect("the place stays"));
                }
            })
        });
        drop(first);
        drop(waiter.join().expect("it ends"));
        assert_eq!((used(&limits[0]), limits[0].waiting()), ((0, 0), 0));
    });
}

#[test]
fn a_place_that_is_left_lets_the_next_one_try() {
    loom::model(|| {
        let limit = limit(Measure::Concurrent, 1);
        let enter = |caller: &str| Place::enter(&limit, &"".into(), caller.into(), Priority::Normal);
        let (first, second) = (enter("a").expect("a place"), enter("b").expect("a place"));
        let waiter = thread::spawn(move || {
            let turn = loom::future::block_on(poll_fn(|context| second.poll_turn(None, context)));
            turn.expect("its turn");
        });
        drop(first);
        waiter.join().expect("it ends");
        assert_eq!(limit.waiting(), 0);
    });
}
