use std::collections::HashMap;

use proptest::prelude::*;

use super::super::{Calendar, Cells, Span};
use super::*;

const SECOND: u64 = 1_000_000_000;

fn at(nanoseconds: u64) -> Now {
    Now { monotonic: nanoseconds, wall_ms: 1_700_000_000_000 + (nanoseconds / 1_000_000) as i64 }
}

fn limit(number: usize, measure: Measure, amount: u64, span: Span) -> Arc<Limit> {
    Arc::new(Limit {
        name: format!("limit-{number}").into(),
        measure,
        amount,
        amounts: HashMap::new(),
        span,
        exceeded: Exceeded::Refuse,
        budget: false,
        cap: false,
        queue: None,
        key: "".into(),
        alerts: Arc::default(),
        cells: Arc::new(Cells::default()),
    })
}

fn rolling(seconds: u64, burst: u64) -> Span {
    Span::Rolling { window: Duration::from_secs(seconds), burst }
}

fn daily() -> Span {
    Span::Calendar(Calendar::Every { length_ms: 86_400_000, anchor_ms: 0 })
}

fn ask(limit: &Arc<Limit>, label: &str) -> Ask {
    Ask { limit: Arc::clone(limit), label: label.into() }
}

fn one(limit: &Arc<Limit>, label: &str, amounts: Amounts, now: Now) -> Result<(Reservation, Left), Refused> {
    let mut told = None;
    let held = admit(&[ask(limit, label)], &amounts, Terms::alone(1), now, &mut |_, left| told = Some(left))?;
    Ok((held, told.unwrap()))
}

fn requests(limit: &Arc<Limit>, label: &str, now: u64) -> Result<Left, Refused> {
    one(limit, label, Amounts::default(), at(now)).map(|(_, left)| left)
}

fn tokens(count: u64) -> Amounts {
    Amounts { output_tokens: count, ..Amounts::default() }
}

#[test]
fn very_many_are_told_apart_and_cost_no_more_each() {
    const MANY: usize = 200_000;
    let limit = limit(0, Measure::Requests, 1, daily());
    let labels: Vec<String> = (0..MANY).map(|number| format!("key-{number}")).collect();
    assert!(labels.iter().all(|label| requests(&limit, label, 5).is_ok()));
    assert!(labels.iter().all(|label| requests(&limit, label, 6).is_err()));
    assert_eq!(limit.counts(at(7)).len(), MANY);
    // The next day they are at rest, and make room for others.
    let day = 86_400 * SECOND;
    assert!((0..MANY).all(|number| requests(&limit, &format!("other-{number}"), day + 5).is_ok()));
    assert_eq!(limit.counts(at(day + 6)).len(), MANY);
}

#[test]
fn the_burst_passes_and_the_next_waits_exactly_its_turn() {
    for most in [10, 7, 3] {
        let limit = limit(0, Measure::Requests, most, rolling(60, most));
        for left in (0..most).rev() {
            assert_eq!(requests(&limit, "a", 5).unwrap().remaining, left);
        }
        let refused = requests(&limit, "a", 5).unwrap_err();
        let wait = refused.retry_after.unwrap();
        assert!(wait.abs_diff(Duration::from_secs(60) / most as u32) < Duration::from_nanos(10), "{wait:?}");
        assert!(requests(&limit, "b", 5).is_ok());
        let wait = wait.as_nanos() as u64;
        assert!(requests(&limit, "a", 5 + wait - 100).is_err());
        assert_eq!(requests(&limit, "a", 5 + wait).unwrap().remaining, 0);
    }
}

#[test]
fn no_window_admits_more_than_limit_and_burst() {
    let limit = limit(0, Measure::Requests, 100, rolling(1, 20));
    let mut random = fastrand::Rng::with_seed(3);
    let mut now = 0;
    let mut admitted = Vec::new();
    for _ in 0..20_000 {
        now += random.u64(0..2_000_000);
        if requests(&limit, "a", now).is_ok() {
            admitted.push(now);
        }
    }
    for (index, start) in admitted.iter().enumerate() {
        let inside = admitted[index..].iter().take_while(|at| **at < start + SECOND).count();
        assert!(inside <= 120, "{inside} in the window at {start}");
    }
}

#[test]
fn threads_together_never_overshoot_any_of_several_limits() {
    let of_key = limit(0, Measure::Requests, 50, rolling(3600, 50));
    let of_all = limit(1, Measure::Tokens, 4_000, daily());
    let budget = limit(2, Measure::Cost, 1_000, daily());
    let amounts = Amounts { output_tokens: 100, cost: 30, ..Amounts::default() };
    let run = || {
        (0..1000)
            .filter_map(|_| {
                let asks = [ask(&of_key, "a"), ask(&of_all, ""), ask(&budget, "")];
                admit(&asks, &amounts, Terms::alone(1), at(1), &mut |_, _| {}).ok()
            })
            .fold(0, |admitted, held| {
                assert!(held.settle(&amounts, at(1)).is_empty());
                admitted + 1
            })
    };
    let admitted: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(run)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(admitted, 33);
    // Nothing was taken of one limit for a call that did not fit another.
    assert_eq!(of_key.counts(at(1))[0].tally.used, 33);
    assert_eq!(of_all.counts(at(1))[0].tally.used, 3300);
    assert_eq!(budget.counts(at(1))[0].tally.used, 990);
}

#[test]
fn what_is_reserved_and_not_used_comes_back() {
    let limit = limit(0, Measure::Tokens, 1000, daily());
    let (first, _) = one(&limit, "", tokens(900), at(0)).unwrap();
    let refused = one(&limit, "", tokens(200), at(0)).unwrap_err();
    assert_eq!(refused.retry_after, None, "it hangs on the call under way");
    first.settle(&tokens(100), at(SECOND));
    let (second, left) = one(&limit, "", tokens(900), at(SECOND)).unwrap();
    assert_eq!(left.remaining, 0);
    // Nobody settles it: nobody knows that it was less.
    drop(second);
    let refused = one(&limit, "", tokens(1), at(2 * SECOND)).unwrap_err();
    let midnight = 86_400_000 - 1_700_000_002_000_i64.rem_euclid(86_400_000);
    assert_eq!(refused.retry_after, Some(Duration::from_millis(midnight as u64)));
    assert!(one(&limit, "", tokens(1000), at(midnight as u64 * 1_000_000 + 2 * SECOND)).is_ok());
}

#[test]
fn places_among_calls_under_way_are_given_back() {
    let limit = limit(0, Measure::Concurrent, 2, Span::Meanwhile);
    let (mut first, _) = one(&limit, "a", Amounts::default(), at(0)).unwrap();
    let (_second, _) = one(&limit, "a", Amounts::default(), at(0)).unwrap();
    assert!(one(&limit, "a", Amounts::default(), at(0)).is_err());
    assert!(one(&limit, "b", Amounts::default(), at(0)).is_ok());
    first.landed(at(1));
    assert!(first.is_empty() && one(&limit, "a", Amounts::default(), at(1)).is_ok());
}

#[test]
fn a_call_that_grows_reserves_more_or_is_cut() {
    let limit = limit(0, Measure::OutputTokens, 1000, rolling(60, 1000));
    let (mut held, _) = one(&limit, "", tokens(100), at(0)).unwrap();
    held.extend(&tokens(900), at(0)).unwrap();
    held.extend(&tokens(800), at(0)).unwrap();
    assert!(held.extend(&tokens(1100), at(0)).is_err());
    assert_eq!(limit.counts(at(0))[0].tally.reserved, 900);
    held.settle(&tokens(950), at(0));
    let counts = limit.counts(at(0));
    assert_eq!((counts[0].tally.used, counts[0].tally.reserved), (950, 0));
}

#[test]
fn a_limit_that_only_counts_refuses_nobody() {
    let mut strict = Arc::into_inner(limit(0, Measure::Requests, 1, rolling(60, 1))).unwrap();
    strict.exceeded = Exceeded::Count;
    let shadow = Arc::new(strict);
    assert!((0..5).all(|_| requests(&shadow, "a", 0).is_ok()));
    assert_eq!(shadow.counts(at(0))[0].tally.used, 5);
}

#[test]
fn a_clock_that_is_set_anew_locks_nobody_out() {
    let limit = limit(0, Measure::Requests, 2, daily());
    let ask = |monotonic: u64, wall_ms: i64| {
        let now = Now { monotonic, wall_ms };
        one(&limit, "", Amounts::default(), now).is_ok()
    };
    let noon = 1_700_000_000_000 - 1_700_000_000_000 % 86_400_000 + 43_200_000;
    assert!(ask(0, noon) && ask(1, noon) && !ask(2, noon));
    // A day ahead or behind on the wall: the window is as long as it was.
    assert!(!ask(3, noon + 86_400_000) && !ask(4, noon - 86_400_000));
    let half_a_day = 43_200 * SECOND;
    assert!(!ask(half_a_day - 1, noon - 86_400_000));
    assert!(ask(half_a_day, noon - 43_200_000));
}

#[test]
fn those_who_cannot_ask_each_other_have_a_part_each() {
    let limit = limit(0, Measure::Requests, 10, rolling(60, 10));
    let mut admitted = 0;
    let mut ask_with = |terms| {
        let asks = [ask(&limit, "")];
        let ok = admit(&asks, &Amounts::default(), terms, at(0), &mut |_, _| {}).is_ok();
        admitted += u32::from(ok);
        ok
    };
    let shared = Terms { margin: 1, share: 3, decided: false };
    assert!((0..3).all(|_| ask_with(shared)) && !ask_with(shared));
    assert!(ask_with(Terms { decided: true, ..shared }), "somebody else has decided");
    assert_eq!(admitted, 4);
}

#[test]
fn each_step_of_the_alerts_is_told_once_per_window() {
    let mut budget = Arc::into_inner(limit(0, Measure::Cost, 100, daily())).unwrap();
    budget.alerts = [50, 80, 100].into();
    let budget = Arc::new(budget);
    let mut now = at(0);
    let spend = |cost: u64, now: Now| {
        let amounts = Amounts { cost, ..Amounts::default() };
        let (held, _) = one(&budget, "", amounts, now).unwrap();
        held.settle(&amounts, now).first().map(|alert| (alert.percent, alert.used))
    };
    let told: Vec<_> = [40, 9, 1, 5, 30, 10, 5].map(|cost| spend(cost, now)).into();
    assert_eq!(told, [None, None, Some((50, 50)), None, Some((80, 85)), None, Some((100, 100))]);
    now = Now { monotonic: 86_400 * SECOND, wall_ms: now.wall_ms + 86_400_000 };
    assert_eq!(spend(90, now), Some((80, 90)));
}

/// What a limit must do, as a list of everything that happened.
#[derive(Default)]
struct Model {
    settled: Vec<u64>,
    live: Vec<(u64, Reservation)>,
}

proptest! {
    #[test]
    fn counters_are_what_was_used_and_what_is_reserved(
        steps in proptest::collection::vec((0_u8..3, 1_u64..400, 0_u64..400), 1..120)
    ) {
        let limit = limit(0, Measure::Tokens, 1000, daily());
        let mut model = Model::default();
        for (kind, amount, used) in steps {
            let spent: u64 = model.settled.iter().sum();
            let reserved: u64 = model.live.iter().map(|(amount, _)| amount).sum();
            match kind {
                0 | 1 => {
                    let admitted = one(&limit, "", tokens(amount), at(0));
                    prop_assert_eq!(admitted.is_ok(), spent + reserved + amount <= 1000);
                    if let Ok((held, left)) = admitted {
                        prop_assert_eq!(left.remaining, 1000 - spent - reserved - amount);
                        model.live.push((amount, held));
                    }
                }
                _ => if let Some((amount, held)) = model.live.pop() {
                    // A call uses at most what it reserved.
                    let used = used.min(amount);
                    held.settle(&tokens(used), at(0));
                    model.settled.push(used);
                },
            }
            let count = limit.counts(at(0)).first().map_or((0, 0), |count| (count.tally.used, count.tally.reserved));
            let live: u64 = model.live.iter().map(|(amount, _)| amount).sum();
            prop_assert_eq!(count, (model.settled.iter().sum(), live));
            prop_assert!(count.0 + count.1 <= 1000);
        }
    }
}
