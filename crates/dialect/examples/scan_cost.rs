//! What one scan of a 50 KB chat body costs: `cargo run --release -p millgate-dialect --example scan_cost`.

use std::hint::black_box;
use std::time::Instant;

const RUNS: u32 = 10_000;

fn main() {
    let prose = "The quick brown fox jumps over the lazy dog and says \"hello\" to everyone it meets.\n";
    let escapes = "{\"key\": \"value\"},\n";
    for (name, text) in [("prose", prose), ("escapes everywhere", escapes)] {
        let content = text.repeat(50_000 / text.len());
        let body = serde_json::json!({ "model": "m", "messages": [{ "role": "user", "content": content }] });
        let body = body.to_string().into_bytes();
        let start = Instant::now();
        for _ in 0..RUNS {
            let scanned = millgate_dialect::scan::members(black_box(&body));
            assert!(black_box(scanned).is_ok());
        }
        let micros = start.elapsed().as_secs_f64() * 1e6 / f64::from(RUNS);
        eprintln!("{name}: {micros:.1} us for {} bytes", body.len());
    }
}
