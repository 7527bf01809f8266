//! What one scan of a body costs: `cargo run --release -p millgate-dialect --example scan_cost`.

use std::hint::black_box;
use std::time::Instant;

use serde_json::json;

fn main() {
    let prose = "The quick brown fox jumps over the lazy dog and says \"hello\" to everyone it meets.\n";
    let escapes = "{\"key\": \"value\"},\n";
    let body = |text: &str| {
        let content = text.repeat(50_000 / text.len());
        json!({ "model": "m", "messages": [{ "role": "user", "content": content }] })
    };
    let answer = json!({"id": "chatcmpl-1", "object": "chat.completion", "created": 1_760_000_000, "model": "gpt-5-mini",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Sunny."}}],
        "usage": {"prompt_tokens": 90, "completion_tokens": 110, "total_tokens": 200,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0}}});
    for (name, body, runs) in [
        ("prose", body(prose), 10_000),
        ("escapes everywhere", body(escapes), 10_000),
        ("a short answer", answer, 1_000_000),
    ] {
        let body = body.to_string().into_bytes();
        let start = Instant::now();
        for _ in 0..runs {
            let scanned = millgate_dialect::scan::members(black_box(&body));
            assert!(black_box(scanned).is_ok());
        }
        let micros = start.elapsed().as_secs_f64() * 1e6 / f64::from(runs);
        eprintln!("{name}: {micros:.2} us for {} bytes", body.len());
    }
}
