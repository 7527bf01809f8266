//! Providers that lie: answers that are not what they say they are, and exactly what callers get of them.

use std::time::{Duration, Instant};

use millgate_testkit::client::Answer;
use millgate_testkit::{FakeProvider, TestGateway};
use serde_json::Value;

use super::cost::metric;
use super::pass::chat;
use super::{config, over};

/// Pass and translate lane, in both dialects.
const WAYS: [(&str, &str); 4] = [
    ("/v1/chat/completions", "openai"),
    ("/v1/chat/completions", "anthropic"),
    ("/v1/messages", "anthropic"),
    ("/v1/messages", "openai"),
];

const TEXT: &str = "Hello from the fake provider.";
/// The text with the letters that are split over writes.
const LETTERS: &str = "Hello gr\u{fc}\u{df}e \u{1f600} the fake provider.";

/// What a caller gets.
#[derive(Clone, Copy, Debug)]
enum Gets {
    /// This text, and one proper end with nothing behind it.
    Text(&'static str),
    /// A tool call with this name, an id and its arguments, and one proper end.
    Tool(&'static str),
    /// This status and code.
    Fault(u16, &'static str),
    /// The beginning of the text, then the error event with this code, and nothing behind it.
    Broken(&'static str),
    /// On the pass lane what the provider said, on the other one a fault.
    AsItIs,
}

use Gets::{AsItIs, Broken, Fault, Text, Tool};

/// The lie, the whole answer, the stream.
const LIES: &[(&str, Gets, Gets)] = &[
    ("type", Text(TEXT), Fault(502, "upstream_error")),
    ("html", Fault(502, "upstream_error"), Fault(502, "upstream_error")),
    ("usage-negative", Text(TEXT), Text(TEXT)),
    ("usage-huge", Text(TEXT), Text(TEXT)),
    ("line", Fault(502, "upstream_error"), Fault(502, "upstream_error")),
    ("line-later", Fault(502, "upstream_error"), Broken("upstream_error")),
    ("utf8-split", Text(LETTERS), Text(LETTERS)),
    ("utf8-bad", Fault(502, "upstream_error"), Broken("upstream_error")),
    ("done-twice", Text(TEXT), Text(TEXT)),
    ("after-end", Text(TEXT), Text(TEXT)),
    ("two-answers", Text(TEXT), Text(TEXT)),
    ("open-end", Text(TEXT), Text(TEXT)),
    ("tool-no-id", Tool("get_weather"), Tool("get_weather")),
    ("tool-no-name", AsItIs, AsItIs),
    ("events", Text(TEXT), Text(TEXT)),
    ("damage", Text(TEXT), Broken("upstream_error")),
    ("half-frame", Text(TEXT), Broken("stream_interrupted")),
    ("long", Fault(502, "upstream_error"), Text(TEXT)),
    ("short", Fault(502, "upstream_error"), Broken("stream_interrupted")),
    ("gzip", Fault(502, "upstream_error"), Fault(502, "upstream_error")),
];

/// The text and the tool calls' names and ids of a whole answer or of a stream, whatever the dialect.
fn said(answer: &Answer, stream: bool) -> (String, Vec<String>, Vec<String>) {
    let values: Vec<Value> = if stream {
        answer.events().iter().filter_map(|event| serde_json::from_str(event).ok()).collect()
    } else {
        vec![answer.json()]
    };
    let (mut text, mut names, mut ids) = (String::new(), Vec::new(), Vec::new());
    let mut add = |found: &Value| text.push_str(found.as_str().unwrap_or_default());
    for value in &values {
        for place in ["message", "delta"] {
            add(&value["choices"][0][place]["content"]);
            for call in value["choices"][0][place]["tool_calls"].as_array().into_iter().flatten() {
                names.extend(call["function"]["name"].as_str().map(str::to_owned));
                ids.extend(call["id"].as_str().map(str::to_owned));
            }
        }
        add(&value["delta"]["text"]);
        let blocks = value["content"].as_array().into_iter().flatten().chain([&value["content_block"]]);
        for block in blocks {
            add(&block["text"]);
            if block["type"] == "tool_use" {
                names.extend(block["name"].as_str().map(str::to_owned));
                ids.extend(block["id"].as_str().map(str::to_owned));
            }
        }
    }
    (text, names, ids)
}

fn check(name: &str, answer: &Answer, stream: bool, passes: bool, gets: Gets) -> Result<(), String> {
    let text = answer.text();
    let (words, names, ids) = said(answer, stream);
    let ends = text.matches("data: [DONE]").count() + text.matches("event: message_stop").count();
    let ended_well = !stream
        || ends == 1
            && (text.ends_with("data: [DONE]\n\n") || text.ends_with("{\"type\":\"message_stop\"}\n\n"));
    let is_fault = |status: u16, code: &str| {
        answer.status == status
            && answer.header("x-millgate-error") == Some(code)
            && text.contains(&format!("\"{code}\""))
    };
    let good = match gets {
        Text(wanted) => answer.status == 200 && words == wanted && ended_well && !text.contains("\"error\""),
        Tool(wanted) => {
            answer.status == 200
                && ended_well
                && names == [wanted]
                // On the pass lane the provider's own bytes come, and it gave none.
                && (passes || ids.len() == 1 && !ids[0].is_empty())
        }
        Fault(status, code) => is_fault(status, code),
        Broken(code) => {
            answer.status == 200
                && words.starts_with("Hello ")
                && ends == 0
                && text.matches("\"error\"").count() >= 1
                && text.trim_end().lines().last().is_some_and(|line| line.contains(&format!("\"{code}\"")))
        }
        AsItIs if passes => answer.status == 200 && names.is_empty() && ended_well,
        AsItIs => is_fault(502, "upstream_error"),
    };
    if good && answer.complete {
        return Ok(());
    }
    let shown: String = text.chars().take(1500).collect();
    Err(format!("{name}: want {gets:?}, got {} complete {}: {shown}", answer.status, answer.complete))
}

async fn check_all(stream: bool) {
    let fake = FakeProvider::start().expect("a free port");
    let models: Vec<String> = LIES.iter().map(|(lie, ..)| format!("lie-{lie}")).collect();
    let models: Vec<&str> = models.iter().map(String::as_str).collect();
    let gateway = over(&fake, &models).await;
    let mut problems = Vec::new();
    for (path, provider) in WAYS {
        for (lie, whole, streamed) in LIES {
            let mut call = chat(&format!("{provider}-lie-{lie}"));
            call["stream"] = stream.into();
            let began = Instant::now();
            let answer = gateway.post(path, &call).await;
            let name = format!("{path} to {provider}, {lie}, stream {stream}");
            let passes = path.contains("messages") == (provider == "anthropic");
            let gets = if stream { *streamed } else { *whole };
            problems.extend(check(&name, &answer, stream, passes, gets).err());
            if began.elapsed() > Duration::from_secs(5) {
                problems.push(format!("{name}: took {:?}", began.elapsed()));
            }
            // What a lie left behind in a connection reaches nobody else.
            let mut next = chat(&format!("{provider}-lie-none"));
            next["model"] = format!("{provider}-lie-type").into();
            let next = gateway.post(path, &next).await;
            problems.extend(check(&format!("after {name}"), &next, false, passes, Text(TEXT)).err());
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_answers_that_lie() {
    check_all(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_lie() {
    check_all(true).await;
}

/// The caller gets the answer; what we count is ours, in whole answers and streams.
#[tokio::test(flavor = "multi_thread")]
async fn counts_that_nobody_can_believe_are_made_anew() {
    let fake = FakeProvider::start().unwrap();
    for lie in ["usage-negative", "usage-huge"] {
        let gateway = over(&fake, &[&format!("lie-{lie}")]).await;
        for provider in ["openai", "anthropic"] {
            for path in ["/v1/chat/completions", "/v1/messages"] {
                for stream in [false, true] {
                    let mut call = chat(&format!("{provider}-lie-{lie}"));
                    call["stream"] = stream.into();
                    let answer = gateway.post(path, &call).await;
                    assert_eq!(answer.status, 200);
                    if !stream {
                        assert_eq!(answer.header("x-millgate-estimated"), Some("true"), "{provider} {path}");
                    }
                }
            }
            let labels = format!("endpoint=\"{provider}-lie-{lie}\",target=\"{provider}/lie-{lie}\"");
            let estimated = metric(&gateway, &format!("millgate_estimated_requests_total{{{labels}}}")).await;
            assert_eq!(estimated, 4, "{provider} {lie}");
            // "Hello" and what a message costs; six words and a full stop.
            for (class, least, most) in [("input", 4 * 4, 4 * 12), ("output", 4 * 6, 4 * 9)] {
                let series = format!("millgate_tokens_total{{{labels},class=\"{class}\"}}");
                let tokens = metric(&gateway, &series).await;
                assert!((least..=most).contains(&tokens), "{provider} {lie} {class}: {tokens}");
            }
        }
    }
}

async fn impatient(fake: &FakeProvider, models: &[&str]) -> TestGateway {
    TestGateway::start(&config(fake, models, "server: { answer_timeout: 500ms }\n")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_never_ends_is_ended() {
    let fake = FakeProvider::start().unwrap();
    let gateway = impatient(&fake, &["lie-endless"]).await;
    let mut gone = 0;
    for (path, provider) in WAYS {
        for stream in [false, true] {
            let mut call = chat(&format!("{provider}-lie-endless"));
            call["stream"] = stream.into();
            let began = Instant::now();
            let answer = gateway.post(path, &call).await;
            let took = began.elapsed();
            assert!((Duration::from_millis(400)..Duration::from_secs(4)).contains(&took), "{took:?}");
            let name = format!("{path} to {provider}, stream {stream}");
            let passes = path.contains("messages") == (provider == "anthropic");
            let gets = if stream { Broken("upstream_timeout") } else { Fault(504, "upstream_timeout") };
            check(&name, &answer, stream, passes, gets).unwrap();
            gone += 1;
            assert!(fake.wait_for_gone(gone).await.is_some(), "{name}: the provider was not told");
        }
    }
}

/// A hundred megabytes are not read: the connection is closed as soon as it is clear that there is no end to them.
#[tokio::test(flavor = "multi_thread")]
async fn a_line_without_end_is_not_read_to_its_end() {
    let fake = FakeProvider::start().unwrap();
    let gateway = over(&fake, &["lie-line", "lie-line-later"]).await;
    let mut gone = 0;
    for (path, provider) in WAYS {
        for lie in ["line", "line-later"] {
            for stream in [false, true] {
                let mut call = chat(&format!("{provider}-lie-{lie}"));
                call["stream"] = stream.into();
                let answer = gateway.post(path, &call).await;
                assert!(answer.body.len() < 8 << 10, "{}", answer.body.len());
                gone += 1;
                assert!(fake.wait_for_gone(gone).await.is_some(), "{path} {provider} {lie} {stream}");
            }
        }
    }
}

/// Google's callers get streams as lists, too: the closing bracket does not wait for the connection's end.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_closed_at_the_end_of_the_answer() {
    let fake = FakeProvider::start().unwrap();
    let gateway = over(&fake, &["lie-open-end", "lie-two-answers"]).await;
    let body = serde_json::json!({ "contents": [{ "role": "user", "parts": [{ "text": "Hello" }] }] });
    for lie in ["open-end", "two-answers"] {
        for query in ["", "?alt=sse"] {
            let path = format!("/v1beta/models/openai-lie-{lie}:streamGenerateContent{query}");
            let answer = gateway.post(&path, &body).await;
            let text = answer.text();
            assert_eq!((answer.status, answer.complete), (200, true), "{text}");
            assert_eq!(text.matches("Hello ").count(), 1, "{text}");
            if query.is_empty() {
                assert!(answer.json().as_array().is_some_and(|items| items.len() > 4), "{text}");
            }
        }
    }
}
