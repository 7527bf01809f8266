//! No byte of one tenant reaches another: every answer, whole or streamed, translated or passed, is that of its own call, also
//! while others hang up in the middle.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use millgate_testkit::{FakeProvider, TestGateway};
use serde_json::{Value, json};

/// Calls of this run; `MILLGATE_ISOLATION_CALLS` says another number.
const CALLS: usize = 3000;
const TENANTS: usize = 40;

fn text_of(answer: &millgate_testkit::client::Answer, stream: bool) -> String {
    if !stream {
        let whole = answer.json();
        let text = whole["choices"][0]["message"]["content"].as_str();
        return text.or_else(|| whole["content"][0]["text"].as_str()).unwrap_or_default().to_owned();
    }
    let events = answer.events();
    let pieces = events.iter().filter_map(|event| serde_json::from_str::<Value>(event).ok());
    pieces
        .filter_map(|event| {
            let text = event["choices"][0]["delta"]["content"].as_str();
            text.or_else(|| event["delta"]["text"].as_str()).map(str::to_owned)
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_byte_of_a_tenant_reaches_another() {
    let fake = FakeProvider::start().unwrap();
    let mut keys = String::new();
    for tenant in 0..TENANTS {
        let owner = format!("owner: {{ team: t{tenant} }}");
        keys += &format!(
            "    - {{ name: t{tenant}, key: key-of-tenant-{tenant:04}, roles: [invoke], {owner} }}\n"
        );
    }
    let text = format!(
        "access:
  keys: required
  static:
{keys}limits: [ {{ concurrent: 1000, by: team, queue: {{ wait: 20s }} }}, {{ tokens: 100000000, per: hour, by: key }} ]
providers:
  openai: {{ kind: openai, api_key: sk-test-0123456789, base_url: '{base}', models: {{ '*': {{ usd_per_million_tokens: {{ input: 1, output: 1 }} }} }} }}
  claude: {{ kind: anthropic, api_key: sk-test-0123456789, base_url: '{base}' }}
endpoints:
  - {{ name: openai, type: llm/v1/chat, route: openai/repeat }}
  - {{ name: claude, type: llm/v1/chat, route: claude/repeat }}
  - {{ name: spread, type: llm/v1/chat, route: {{ split: {{ openai/repeat: 1, claude/repeat: 1 }} }} }}
",
        base = fake.base_url()
    );
    let gateway = Arc::new(TestGateway::start(&text).await);
    let calls =
        std::env::var("MILLGATE_ISOLATION_CALLS").ok().and_then(|count| count.parse().ok()).unwrap_or(CALLS);
    let (next, seen, left) =
        (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let tasks: Vec<_> = (0..TENANTS)
        .map(|tenant| {
            let (gateway, next, seen, left) =
                (Arc::clone(&gateway), Arc::clone(&next), Arc::clone(&seen), Arc::clone(&left));
            tokio::spawn(async move {
                let key = format!("Bearer key-of-tenant-{tenant:04}");
                let mut connection = gateway.connect().await.unwrap();
                loop {
                    let call = next.fetch_add(1, Ordering::Relaxed);
                    if call >= calls {
                        return;
                    }
                    let marker =
                        format!("tenant-{tenant:04} call-{call:06} {}", "and more words ".repeat(call % 40));
                    let (path, model) = [
                        ("/v1/chat/completions", "openai"),
                        ("/v1/messages", "claude"),
                        ("/v1/chat/completions", "claude"),
                        ("/v1/messages", "openai"),
                        ("/v1/chat/completions", "spread"),
                    ][call % 5];
                    let stream = call % 3 == 0;
                    let body = json!({ "model": model, "max_tokens": 900, "stream": stream,
                        "messages": [{ "role": "user", "content": marker }] });
                    let headers = [("authorization", key.as_str())];
                    connection.request("POST", path, &headers, body.to_string().as_bytes()).await.unwrap();
                    if call % 11 == 0 {
                        // Some hang up before the answer, some inside it.
                        if call % 2 == 0 {
                            let mut opened = connection.answer_head().await.unwrap();
                            let _some = opened.piece().await;
                        }
                        left.fetch_add(1, Ordering::Relaxed);
                        connection = gateway.connect().await.unwrap();
                        continue;
                    }
                    let answer = connection.answer().await.unwrap();
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    assert!(answer.complete);
                    assert_eq!(text_of(&answer, stream).trim(), marker.trim(), "{path} {model} {stream}");
                    seen.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let (seen, left) = (seen.load(Ordering::Relaxed), left.load(Ordering::Relaxed));
    assert_eq!(seen + left, calls);
    eprintln!("{seen} answers of {TENANTS} tenants compared, {left} calls hung up: no foreign byte");
}
