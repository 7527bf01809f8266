//! What each codec costs: calls, whole answers and streams, into each dialect; and streams that are long, whose time
//! per event must not grow with their length.
//!
//! `cargo bench -p millgate-dialect`

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use millgate_dialect::{Codec, Context, DIALECTS, Quirks, codec};
use millgate_types::{Call, Dialect, EmbeddingFormat, Operation, RequestId};
use serde_json::json;

const CALLERS: [Dialect; 5] =
    [Dialect::OpenAi, Dialect::Responses, Dialect::Anthropic, Dialect::Gemini, Dialect::Mlflow];

fn context() -> Context {
    Context {
        request_id: RequestId::random(),
        model: "gpt-5-mini".to_owned(),
        provider: "openai".to_owned(),
        include_usage: true,
        embedding_format: EmbeddingFormat::Float,
        created: 1_760_000_000,
    }
}

/// A chat of about 1 KB, with a tool and its result.
fn chat() -> Vec<u8> {
    json!({
        "model": "gpt-5-mini", "max_tokens": 256, "temperature": 0.5,
        "tools": [{"type": "function", "function": {"name": "get_weather", "description": "Tells the weather.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}],
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "The quick brown fox jumps over the lazy dog. ".repeat(8)},
            {"role": "assistant", "content": null, "tool_calls": [{"id": "call_1", "type": "function",
                "function": {"name": "get_weather", "arguments": "{\"city\":\"Paris\"}"}}]},
            {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
        ],
    })
    .to_string()
    .into_bytes()
}

fn answer() -> Vec<u8> {
    json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1_760_000_000, "model": "gpt-5-mini",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant",
            "content": "The quick brown fox jumps over the lazy dog. ".repeat(10)}}],
        "usage": {"prompt_tokens": 90, "completion_tokens": 110, "total_tokens": 200},
    })
    .to_string()
    .into_bytes()
}

fn frame(delta: &serde_json::Value) -> String {
    let chunk = json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_760_000_000,
        "model": "gpt-5-mini", "choices": [{"index": 0, "delta": delta, "finish_reason": null}]});
    format!("data: {chunk}\n\n")
}

/// A stream of `count` pieces of text, or of one tool call's arguments.
fn stream(count: usize, tool: bool) -> Vec<u8> {
    let mut out = frame(&json!({"role": "assistant", "content": ""}));
    if tool {
        out.push_str(&frame(&json!({"tool_calls": [{"index": 0, "id": "call_1", "type": "function",
            "function": {"name": "write", "arguments": "{\"text\":\""}}]})));
    }
    let piece = if tool {
        frame(&json!({"tool_calls": [{"index": 0, "function": {"arguments": "word "}}]}))
    } else {
        frame(&json!({"content": "word "}))
    };
    out.push_str(&piece.repeat(count));
    if tool {
        out.push_str(&frame(&json!({"tool_calls": [{"index": 0, "function": {"arguments": "\"}"}}]})));
    }
    let end = json!({"id": "chatcmpl-1", "choices": [{"index": 0, "delta": {},
        "finish_reason": if tool { "tool_calls" } else { "stop" }}]});
    out.push_str(&format!("data: {end}\n\ndata: [DONE]\n\n"));
    out.into_bytes()
}

/// The call as a provider of this dialect gets it, and as a caller of it sends it.
fn said_in(dialect: &dyn Codec) -> Option<Vec<u8>> {
    let call = codec(Dialect::OpenAi).decode_call(Operation::Chat, &chat()).expect("a good call");
    dialect.encode_call(&call, &Quirks::default()).ok().map(|encoded| encoded.body)
}

fn calls(c: &mut Criterion) {
    let mut group = c.benchmark_group("calls");
    for dialect in DIALECTS {
        let Some(body) = said_in(*dialect) else { continue };
        let name = dialect.dialect().name();
        group.throughput(Throughput::Bytes(body.len() as u64));
        if dialect.decode_call(Operation::Chat, &body).is_ok() {
            group.bench_function(BenchmarkId::new("decode", name), |b| {
                b.iter(|| dialect.decode_call(Operation::Chat, &body));
            });
        }
        let call: Call = codec(Dialect::OpenAi).decode_call(Operation::Chat, &chat()).expect("a good call");
        group.bench_function(BenchmarkId::new("encode", name), |b| {
            b.iter(|| dialect.encode_call(&call, &Quirks::default()));
        });
    }
}

fn answers(c: &mut Criterion) {
    let mut group = c.benchmark_group("answers");
    let body = answer();
    let openai = codec(Dialect::OpenAi);
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function("decode/openai", |b| b.iter(|| openai.decode_answer(Operation::Chat, &body)));
    let decoded = openai.decode_answer(Operation::Chat, &body).expect("a good answer");
    let context = context();
    for caller in CALLERS {
        let written = codec(caller).encode_answer(&decoded, &context);
        group.bench_function(BenchmarkId::new("encode", caller.name()), |b| {
            b.iter(|| codec(caller).encode_answer(&decoded, &context));
        });
        if caller != Dialect::OpenAi && codec(caller).decode_answer(Operation::Chat, &written).is_ok() {
            group.bench_function(BenchmarkId::new("decode", caller.name()), |b| {
                b.iter(|| codec(caller).decode_answer(Operation::Chat, &written));
            });
        }
    }
}

/// An OpenAI stream in pieces of a few frames, written for a caller.
fn translate(bytes: &[u8], caller: Dialect, context: &Context) -> usize {
    let mut decoder = codec(Dialect::OpenAi).stream_decoder(Operation::Chat);
    let mut encoder = codec(caller).stream_encoder(Operation::Chat, context);
    let (mut events, mut out, mut written) = (Vec::new(), Vec::new(), 0);
    for piece in bytes.chunks(1024) {
        decoder.push(piece, &mut events);
        events.drain(..).for_each(|event| encoder.push(event, &mut out));
        written += out.len();
        out.clear();
    }
    decoder.finish(&mut events);
    events.drain(..).for_each(|event| encoder.push(event, &mut out));
    written + out.len()
}

fn streams(c: &mut Criterion) {
    let mut group = c.benchmark_group("streams");
    let context = context();
    for (kind, tool) in [("text", false), ("arguments", true)] {
        for count in [100_usize, 10_000, 100_000] {
            let bytes = stream(count, tool);
            group.throughput(Throughput::Elements(count as u64));
            if count > 1000 {
                group.sample_size(10);
            }
            for caller in CALLERS {
                if count > 100 && caller == Dialect::Mlflow {
                    continue;
                }
                let id = BenchmarkId::new(format!("{kind} to {}", caller.name()), count);
                group.bench_function(id, |b| b.iter(|| translate(&bytes, caller, &context)));
            }
        }
    }
}

criterion_group!(benches, calls, answers, streams);
criterion_main!(benches);
