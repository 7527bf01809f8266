//! Providers that fail: keys that are set aside, breakers, retries, pacing. Figures go to stderr.

use std::sync::Arc;
use std::time::{Duration, Instant};

use millgate_testkit::client::Answer;
use millgate_testkit::{FakeProvider, TestGateway};
use serde_json::Value;

use super::pass::chat;

/// Calls to a provider that fails altogether.
const CALLS: usize = 640;

/// `openai` with what is under test, `other` to fall back to.
fn config(fake: &FakeProvider, other: &FakeProvider, settings: &str, more: &str) -> String {
    format!(
        "version: 1
providers:
  openai: {{ kind: openai, base_url: '{}', {settings} }}
  other: {{ kind: openai, base_url: '{}', api_key: sk-other-0123456789 }}
endpoints:
  - {{ name: alone, type: llm/v1/chat, route: openai/ok }}
  - {{ name: both, type: llm/v1/chat, route: {{ fallback: [openai/ok, other/ok] }} }}
{more}",
        fake.base_url(),
        other.base_url()
    )
}

struct Bench {
    fake: FakeProvider,
    other: FakeProvider,
    gateway: Arc<TestGateway>,
}

impl Bench {
    async fn with(settings: &str) -> Self {
        Self::and(settings, "").await
    }

    async fn and(settings: &str, more: &str) -> Self {
        let start = || FakeProvider::start().expect("a free port");
        let (fake, other) = (start(), start());
        let gateway = Arc::new(TestGateway::start(&config(&fake, &other, settings, more)).await);
        Self { fake, other, gateway }
    }

    async fn call(&self, endpoint: &str) -> Answer {
        self.gateway.post("/v1/chat/completions", &chat(endpoint)).await
    }

    /// What the admin API says of `openai`.
    async fn shown(&self) -> Value {
        let answer = self.gateway.get("/admin/v1/providers").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(!answer.text().contains("sk-") && !answer.text().contains("as-"), "{}", answer.text());
        answer.json()["providers"][0].clone()
    }

    /// Calls so far with the key that ends like this.
    fn with_key(&self, end: &str) -> usize {
        let sent = self.fake.requests();
        sent.iter().filter(|sent| sent.header("authorization").is_some_and(|key| key.ends_with(end))).count()
    }

    /// `count` calls, `at_once` at a time; the statuses of their answers.
    async fn many(&self, endpoint: &'static str, count: usize, at_once: usize) -> Vec<(u16, Duration)> {
        let callers = (0..at_once).map(|_| {
            let gateway = Arc::clone(&self.gateway);
            tokio::spawn(async move {
                let mut seen = Vec::new();
                for _ in 0..count / at_once {
                    let began = Instant::now();
                    let answer = gateway.post("/v1/chat/completions", &chat(endpoint)).await;
                    seen.push((answer.status, began.elapsed()));
                }
                seen
            })
        });
        let mut seen = Vec::new();
        for caller in callers.collect::<Vec<_>>() {
            seen.extend(caller.await.expect("no call panics"));
        }
        seen
    }
}

fn is(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status, answer.header("x-millgate-error")), (status, Some(code)), "{}", answer.text());
}

fn seconds(answer: &Answer) -> u64 {
    answer.header("retry-after").expect("it says when").parse().expect("whole seconds")
}

fn percentile(mut all: Vec<Duration>, percent: usize) -> Duration {
    all.sort_unstable();
    all[(all.len() * percent / 100).min(all.len() - 1)]
}

// ---- keys -------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn keys_take_turns_by_their_weights() {
    let bench =
        Bench::with("api_keys: [ sk-one-0123456789, { key: sk-two-0123456789, name: two, weight: 3 } ]")
            .await;
    for _ in 0..80 {
        assert_eq!(bench.call("alone").await.status, 200);
    }
    let (one, two) = (bench.with_key("sk-one-0123456789"), bench.with_key("sk-two-0123456789"));
    assert!((18..=22).contains(&one) && one + two == 80, "{one} {two}");
    let shown = bench.shown().await;
    assert_eq!((&shown["keys"][0]["name"], &shown["keys"][1]["name"]), (&"1".into(), &"two".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_refused_is_set_aside_and_the_call_goes_on_with_another() {
    let bench = Bench::with("api_keys: [ { key: as-status-401, name: old }, sk-two-0123456789 ]").await;
    for call in 0..20 {
        for stream in [false, true] {
            let mut body = chat("alone");
            body["stream"] = stream.into();
            let answer = bench.gateway.post("/v1/chat/completions", &body).await;
            assert_eq!(answer.status, 200, "{call}: {}", answer.text());
        }
    }
    assert_eq!(bench.with_key("as-status-401"), 1);
    let shown = bench.shown().await;
    assert_eq!(shown["keys"][0]["aside"]["reason"], "refused");
    assert!(shown["keys"][0]["aside"]["retry_after"].as_f64().unwrap() <= 10.0);
    assert_eq!((&shown["keys"][1]["aside"], &shown["breaker"]["state"]), (&Value::Null, &"closed".into()));
    let metrics = bench.gateway.get("/metrics").await.text();
    for line in [
        "millgate_provider_key_set_aside_total{provider=\"openai\",key=\"old\",reason=\"refused\"} 1",
        "millgate_provider_key_usable{provider=\"openai\",key=\"old\"} 0",
        "millgate_provider_key_usable{provider=\"openai\",key=\"2\"} 1",
        "millgate_provider_state{provider=\"openai\"} 0",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    assert!(!metrics.contains("status-401") && !metrics.contains("sk-two"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_keeps_what_is_known_of_keys_that_stay() {
    let bench = Bench::with("api_keys: [ as-status-401, sk-two-0123456789 ]").await;
    for _ in 0..4 {
        assert_eq!(bench.call("alone").await.status, 200);
    }
    assert_eq!(bench.with_key("as-status-401"), 1);
    let keys = "api_keys: [ sk-three-0123456789, as-status-401 ]";
    bench.gateway.apply(&config(&bench.fake, &bench.other, keys, ""));
    for _ in 0..6 {
        assert_eq!(bench.call("alone").await.status, 200);
    }
    assert_eq!((bench.with_key("as-status-401"), bench.with_key("sk-three-0123456789")), (1, 6));
    let reset = bench.gateway.post("/admin/v1/providers/openai/reset", &Value::Null).await;
    assert_eq!((reset.status, &reset.json()["keys"][1]["aside"]), (200, &Value::Null), "{}", reset.text());
    for _ in 0..4 {
        assert_eq!(bench.call("alone").await.status, 200);
    }
    assert_eq!(bench.with_key("as-status-401"), 2);
}

/// The fault tells what became of the keys, and when the first is back; the provider is left alone until then.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_left_the_next_target_answers_or_the_caller_is_told_when() {
    for (keys, status, code, longest) in [
        ("as-status-429-retry-40, as-status-429-retry-9", 429, "upstream_rate_limited", 9),
        ("as-status-401~a, as-status-401~b", 502, "upstream_auth", 10),
        ("as-status-402~a, as-status-402~b", 429, "upstream_quota", 60),
        ("as-status-401", 502, "upstream_auth", 10),
        ("as-status-429-retry-30", 429, "upstream_rate_limited", 30),
    ] {
        let count = keys.split(',').count();
        let bench = Bench::with(&format!("api_keys: [ {keys} ]")).await;
        is(&bench.call("alone").await, status, code);
        assert_eq!(bench.fake.seen(), count, "{keys}");
        for _ in 0..5 {
            let answer = bench.call("alone").await;
            is(&answer, status, code);
            assert!((1..=longest).contains(&seconds(&answer)), "{keys}: {}", seconds(&answer));
            let answer = bench.call("both").await;
            assert_eq!((answer.status, answer.header("x-millgate-target")), (200, Some("other/ok")));
            assert_eq!(answer.header("x-millgate-attempts"), Some("1"), "what is not called is no attempt");
        }
        assert_eq!(bench.fake.seen(), count, "{keys}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_model_is_refused_is_not_held_against_others() {
    let more = "  - { name: limited, type: llm/v1/chat, route: openai/status-429-retry-9 }
  - { name: forbidden, type: llm/v1/chat, route: openai/status-403 }\n";
    let bench = Bench::and("api_key: sk-one-0123456789", more).await;
    for _ in 0..5 {
        is(&bench.call("limited").await, 429, "upstream_rate_limited");
        is(&bench.call("forbidden").await, 502, "upstream_auth");
        assert_eq!(bench.call("alone").await.status, 200);
    }
    // One 429, and three 403 before they are believed.
    assert_eq!(bench.fake.seen(), 1 + 3 + 5);
    let shown = bench.shown().await;
    let models: Vec<_> = shown["keys"][0]["models"].as_array().unwrap().iter().collect();
    assert_eq!(models.len(), 2, "{shown}");
    assert_eq!(models[0]["aside"]["reason"], "forbidden");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keys_own_limits_lead_to_the_next_key() {
    let keys = "api_keys: [ { key: sk-one-0123456789, limits: [ { requests: 3, per: hour } ] }, \
                { key: sk-two-0123456789, limits: [ { requests: 4, per: hour } ] } ]";
    let bench = Bench::with(keys).await;
    for _ in 0..7 {
        assert_eq!(bench.call("alone").await.status, 200);
    }
    is(&bench.call("alone").await, 429, "rate_limit_exceeded");
    assert_eq!((bench.with_key("sk-one-0123456789"), bench.with_key("sk-two-0123456789")), (3, 4));
    assert_eq!(bench.call("both").await.header("x-millgate-target"), Some("other/ok"));
    let limits = bench.gateway.get("/admin/v1/limits").await.json();
    assert_eq!(limits["limits"].as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_try_counts_in_the_providers_limits_and_so_do_calls_of_its_own_api() {
    let limits = "limits: [ { requests: 3, per: hour } ], retries: { attempts: 8, max_wait: 2s }, breaker: { enabled: false }";
    let bench = Bench::with(&format!("api_key: sk-one-0123456789, {limits}")).await;
    bench.fake.behave(Some("status-503"));
    // What really happened says more than that there is no room for another try.
    is(&bench.call("alone").await, 503, "upstream_overloaded");
    assert_eq!(bench.fake.seen(), 3);
    is(&bench.call("alone").await, 429, "rate_limit_exceeded");
    assert_eq!(bench.fake.seen(), 3);

    let more = "native:\n  files: { provider: openai }\n";
    let keys = "limits: [ { requests: 6, per: hour } ], api_keys: [ { key: sk-one-0123456789, limits: [ { requests: 2, per: hour } ] }, \
                { key: sk-two-0123456789, limits: [ { requests: 9, per: hour } ] } ]";
    let bench = Bench::and(keys, more).await;
    for _ in 0..5 {
        assert_eq!(bench.gateway.post("/files/files", &chat("x")).await.status, 201);
    }
    assert_eq!((bench.with_key("sk-one-0123456789"), bench.with_key("sk-two-0123456789")), (2, 3));
    assert_eq!(bench.call("alone").await.status, 200, "the sixth");
    is(&bench.gateway.post("/files/files", &chat("x")).await, 429, "rate_limit_exceeded");
    assert_eq!(bench.fake.seen(), 6);
}

/// A body that streams through is not there for a second key; what has none is.
#[tokio::test(flavor = "multi_thread")]
async fn a_providers_own_api_uses_the_first_key_that_is_good() {
    let more = "native:\n  files: { provider: openai }\n";
    let bench = Bench::and("api_keys: [ as-status-401, sk-two-0123456789, sk-three-0123456789 ]", more).await;
    for _ in 0..3 {
        let answer = bench.gateway.get("/files/files/5/content").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    // Only its own API shows it: three times in a row.
    assert_eq!((bench.with_key("as-status-401"), bench.with_key("sk-two-0123456789")), (3, 3));
    for _ in 0..3 {
        let answer = bench.gateway.post("/files/files", &chat("x")).await;
        assert_eq!(answer.status, 201, "{}", answer.text());
    }
    assert_eq!((bench.with_key("as-status-401"), bench.with_key("sk-two-0123456789")), (3, 6));
    assert_eq!(bench.with_key("sk-three-0123456789"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn model_servers_elsewhere_have_keys_too() {
    let fake = FakeProvider::start().unwrap();
    let text = format!(
        "version: 1
providers:
  scorer:
    kind: http-scorer
    base_url: '{}'
    api_keys: [ as-status-401, sk-two-0123456789 ]
    scorer: {{ path: /files/score, request: {{ data: $rows }}, response: '' }}
endpoints:
  - {{ name: predict, type: predict, path: /score, route: scorer/m }}
",
        fake.base_url()
    );
    let gateway = TestGateway::start(&text).await;
    let body = serde_json::json!({ "inputs": [[1, 2]] });
    for _ in 0..6 {
        let _any = gateway.post("/score", &body).await;
    }
    let sent = fake.requests();
    let by = |key: &str| sent.iter().filter(|sent| sent.header("authorization") == Some(key)).count();
    assert_eq!((by("Bearer as-status-401"), by("Bearer sk-two-0123456789")), (1, 6));
}

// ---- pacing -----------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_the_provider_has_no_room_for_go_elsewhere() {
    let more =
        "  - { name: requests, type: llm/v1/chat, route: { fallback: [openai/left-0-of-1-60s, other/ok] } }
  - { name: tokens, type: llm/v1/chat, route: { fallback: [openai/tokens-1000-of-60000-60s, other/ok] } }
  - { name: only, type: llm/v1/chat, route: openai/left-0-of-1-60s }\n";
    for (pacing, first, all) in [("learned", 1, 1), ("off", 4, 4)] {
        let bench = Bench::and(&format!("api_key: sk-one-0123456789, pacing: {pacing}"), more).await;
        for _ in 0..4 {
            assert_eq!(bench.call("requests").await.status, 200);
        }
        assert_eq!((bench.fake.seen(), bench.other.seen()), (first, 4 - first), "{pacing}");
        // 1,000 tokens are left: small calls fit, large ones do not.
        let seen = bench.fake.seen();
        for _ in 0..4 {
            let mut call = chat("tokens");
            call["max_tokens"] = 5000.into();
            assert_eq!(bench.gateway.post("/v1/chat/completions", &call).await.status, 200);
        }
        assert_eq!(bench.fake.seen() - seen, all, "{pacing}");
        let seen = bench.fake.seen();
        assert_eq!(bench.call("tokens").await.status, 200);
        assert_eq!(bench.fake.seen() - seen, 1, "{pacing}: a small call fits");
        // With nowhere else to go the provider decides.
        for _ in 0..2 {
            assert_eq!(bench.call("only").await.status, 200);
        }
        assert_eq!(bench.fake.seen() - seen, 3, "{pacing}");
    }
}

// ---- retries ----------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_that_passes_is_not_seen_where_there_is_no_other_target() {
    for failure in ["status-503", "status-500", "status-408", "reset"] {
        let bench = Bench::with("api_key: sk-one-0123456789").await;
        bench.fake.behave(Some(failure));
        let gateway = Arc::clone(&bench.gateway);
        let call = tokio::spawn(async move { gateway.post("/v1/chat/completions", &chat("alone")).await });
        while bench.fake.seen() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        bench.fake.behave(None);
        let answer = call.await.unwrap();
        assert_eq!(answer.status, 200, "{failure}: {}", answer.text());
        let attempts = bench.fake.seen().to_string();
        assert_eq!(answer.header("x-millgate-attempts"), Some(&*attempts), "{failure}");
        let metrics = bench.gateway.get("/metrics").await.text();
        assert!(metrics.contains("millgate_upstream_retries_total{provider=\"openai\"}"), "{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_that_the_provider_asks_for_is_kept() {
    let bench = Bench::with("api_key: sk-one-0123456789").await;
    for status in [429, 503] {
        bench.fake.behave(Some(&format!("status-{status}-retry-1")));
        let (gateway, began) = (Arc::clone(&bench.gateway), Instant::now());
        let seen = bench.fake.seen();
        let call = tokio::spawn(async move { gateway.post("/v1/chat/completions", &chat("alone")).await });
        while bench.fake.seen() == seen {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        bench.fake.behave(None);
        assert_eq!((call.await.unwrap().status, bench.fake.seen() - seen), (200, 2), "{status}");
        assert!(began.elapsed() >= Duration::from_secs(1));
    }
    // One that is longer than `max_wait` is the caller's to keep.
    bench.fake.behave(Some("status-503-retry-30"));
    let (began, seen) = (Instant::now(), bench.fake.seen());
    let answer = bench.call("alone").await;
    is(&answer, 503, "upstream_overloaded");
    assert_eq!((seconds(&answer), bench.fake.seen() - seen), (30, 1));
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_tried_again_that_must_not_be() {
    let bench = Bench::with("api_key: sk-one-0123456789, timeout: 300ms").await;
    for (behaviour, stream, sent) in [
        ("status-400", false, 1),
        ("status-404", false, 1),
        ("status-409", false, 1),
        ("status-422", false, 1),
        ("hang", false, 1),
        ("cut-stream", true, 1),
        ("error-in-stream", true, 1),
        // Where the next target answers, this one is not asked again.
        ("status-503", false, 1),
    ] {
        bench.fake.behave(Some(behaviour));
        let seen = bench.fake.seen();
        let endpoint = if behaviour == "status-503" { "both" } else { "alone" };
        let mut call = chat(endpoint);
        call["stream"] = stream.into();
        let answer = bench.gateway.post("/v1/chat/completions", &call).await;
        assert_eq!(bench.fake.seen() - seen, sent, "{behaviour}: {}", answer.text());
    }
}

/// P5: 100 % failure, and the attempts that the provider sees.
#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_fails_altogether_sees_no_storm() {
    for (failure, settings) in [
        ("status-500", ""),
        ("status-500", "breaker: { enabled: false }, "),
        ("status-429", "breaker: { enabled: false }, pacing: off, "),
        ("reset", "breaker: { enabled: false }, "),
    ] {
        let bench = Bench::with(&format!("{settings}api_key: sk-one-0123456789")).await;
        bench.fake.behave(Some(failure));
        let answers = bench.many("alone", CALLS, 32).await;
        assert!(answers.iter().all(|(status, _)| *status >= 429), "{failure}");
        let attempts = bench.fake.seen();
        eprintln!("{failure}, {settings:?}: {attempts} attempts for {CALLS} calls");
        assert!(attempts <= CALLS * 12 / 10 + 10, "{failure}: {attempts} attempts");
        // Every call is tried where nothing holds it back, and retries there are.
        assert_eq!(attempts > CALLS, settings.contains("false"), "{failure}: {attempts} attempts");
    }
}

// ---- the breaker ------------------------------------------------------------------------------------

/// P4: the first target dies; nobody sees it, and once the breaker is open nobody waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_dies_is_passed_over_at_once() {
    for failure in ["gone", "reset", "status-500", "hang"] {
        let mut bench = Bench::with("api_key: sk-one-0123456789, timeout: 400ms").await;
        // One at a time: the machine of the tests is small, and waits of their own would be measured.
        let healthy = bench.many("both", 200, 1).await;
        if failure == "gone" {
            bench.fake = FakeProvider::start().unwrap();
        } else {
            bench.fake.behave(Some(failure));
        }
        let before = bench.fake.seen();
        let breaking = bench.many("both", 40, 4).await;
        let open = bench.many("both", 200, 1).await;
        for (status, _) in breaking.iter().chain(&open) {
            assert_eq!(*status, 200, "{failure}");
        }
        let p99 = |all: &[(u16, Duration)]| percentile(all.iter().map(|(_, took)| *took).collect(), 99);
        let added = |all: &[(u16, Duration)]| p99(all).saturating_sub(p99(&healthy));
        eprintln!(
            "{failure}: 240 calls, 0 failed, {} attempts at the dead one; p99 healthy {:.1?}, added while it broke {:.1?}, added with the breaker open {:.1?}",
            bench.fake.seen() - before,
            p99(&healthy),
            added(&breaking),
            added(&open)
        );
        assert!(added(&breaking) <= Duration::from_millis(450), "{failure}: {:?}", added(&breaking));
        if failure != "hang" {
            // A debug build on a busy machine: the figure above is what counts.
            assert!(added(&open) <= Duration::from_millis(50), "{failure}: {:?}", added(&open));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn alone_it_is_503_until_one_call_finds_the_provider_back() {
    let settings =
        "api_key: sk-one-0123456789, breaker: { failures: 3, pause: 500ms }, retries: { attempts: 0 }";
    let bench = Bench::with(settings).await;
    bench.fake.behave(Some("status-500"));
    for _ in 0..3 {
        is(&bench.call("alone").await, 502, "upstream_error");
    }
    let answer = bench.call("alone").await;
    is(&answer, 503, "no_healthy_target");
    assert_eq!((seconds(&answer), bench.fake.seen()), (1, 3));
    let shown = bench.shown().await;
    assert_eq!((&shown["breaker"]["state"], &shown["breaker"]["failures"]), (&"open".into(), &3.into()));
    let metrics = bench.gateway.get("/metrics").await.text();
    for line in [
        "millgate_provider_state{provider=\"openai\"} 2",
        "millgate_provider_state{provider=\"other\"} 0",
        "millgate_provider_breaker_opened_total{provider=\"openai\"} 1",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    bench.fake.behave(Some("slow-head-300ms"));
    tokio::time::sleep(Duration::from_millis(650)).await;
    // One of many tries, and the others are not sent.
    let answers = bench.many("alone", 8, 8).await;
    let served = answers.iter().filter(|(status, _)| *status == 200).count();
    assert_eq!((served, bench.fake.seen()), (1, 4));
    bench.fake.behave(None);
    assert!(bench.many("alone", 20, 4).await.iter().all(|(status, _)| *status == 200));
    assert_eq!(bench.shown().await["breaker"]["state"], "closed");
}

/// Callers' own mistakes, refusals and limits are no failures of the provider.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_no_failures_leave_it_closed() {
    let bench = Bench::with("api_key: sk-one-0123456789, breaker: { failures: 2 }, pacing: off").await;
    for status in [400, 404, 409, 413, 422, 429] {
        bench.fake.behave(Some(&format!("status-{status}")));
        for _ in 0..3 {
            let _any = bench.call("alone").await;
        }
        assert_eq!(bench.shown().await["breaker"]["state"], "closed", "{status}");
    }
    bench.fake.behave(None);
    assert_eq!(bench.call("alone").await.status, 200);
}
