//! Bedrock: framing, failures inside streams, and how calls are put into Converse's words.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use millgate_dialect::{Quirks, aggregate, codec, eventstream, replay};
use millgate_types::{Answer, Dialect, Event, Fault, Operation};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Frames as `aws-smithy-eventstream` ships them for tests, and failures that were constructed after the
/// service's model because no recording of one exists.
const VECTORS: &str = include_str!("../eventstream-vectors.json");

fn cases(list: &str) -> Vec<(String, String, Vec<u8>)> {
    let file: Value = serde_json::from_str(VECTORS).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let cases = file[list].as_array().unwrap().iter();
    cases
        .map(|case| {
            (text(&case["name"]), text(&case["expect"]), STANDARD.decode(text(&case["base64"])).unwrap())
        })
        .collect()
}

fn events(bytes: &[u8], piece: usize) -> Vec<Event> {
    let mut decoder = codec(Dialect::Bedrock).stream_decoder(Operation::Chat);
    let mut events = Vec::new();
    for part in bytes.chunks(piece.max(1)) {
        decoder.push(part, &mut events);
    }
    decoder.finish(&mut events);
    events
}

#[test]
fn published_frames_are_read_or_refused() {
    for (name, expect, bytes) in cases("framing") {
        let mut count = 0;
        let mut parser = eventstream::Parser::new();
        let read = parser.push(&bytes, |_| {
            count += 1;
            true
        });
        let complete = read.is_ok() && count == 1 && parser.is_between();
        assert_eq!(complete, expect == "ok", "{name}: {read:?}, {count} frames");
    }
}

#[test]
fn failures_inside_a_stream_have_their_class() {
    let expected = [
        ("first-frame-throttling", "upstream_rate_limited", Some(429), 0),
        ("mid-stream-throttling", "upstream_rate_limited", Some(429), 3),
        ("mid-stream-internal", "upstream_error", Some(500), 3),
        ("truncated-inside-frame", "stream_interrupted", None, 3),
        ("unmodelled-error", "upstream_error", Some(500), 3),
    ];
    let cases = cases("exceptions");
    assert_eq!(cases.len(), expected.len());
    for (name, _, bytes) in cases {
        let (_, code, status, before) = expected.iter().find(|(known, ..)| *known == name).unwrap();
        for piece in [1, 10, usize::MAX] {
            let events = events(&bytes, piece);
            let Some(Event::Error(fault)) = events.last() else { panic!("{name}: {events:?}") };
            assert_eq!((fault.code.name, fault.upstream_status), (*code, *status), "{name}");
            assert_eq!(events.len() - 1, *before, "{name}: {events:?}");
        }
    }
}

#[test]
fn nothing_is_taken_for_a_stream_that_is_none() {
    for bytes in
        [&b"<html><body>no</body></html>"[..], b"data: {}\n\ndata: [DONE]\n\n", &[0; 64], &[0xff; 64]]
    {
        let events = events(bytes, 7);
        assert!(matches!(events.as_slice(), [Event::Error(_)]), "{events:?}");
    }
    let mut bytes = Vec::new();
    let headers = [(":event-type", "messageStop"), (":message-type", "event")];
    eventstream::write(&mut bytes, &headers, b"{\"stopReason\": oops");
    assert!(matches!(events(&bytes, 9).as_slice(), [Event::Error(_)]));
}

fn frame(kind: &str, payload: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    let headers = [(":event-type", kind), (":content-type", "application/json"), (":message-type", "event")];
    eventstream::write(&mut bytes, &headers, payload.to_string().as_bytes());
    bytes
}

/// The same message, whole and as a stream whose deltas are cut at will.
fn pair(thinking: &str, said: &str, calls: &[(String, String)], cut: usize) -> (Value, Vec<u8>) {
    let pieces = |text: &str| -> Vec<String> {
        let chars: Vec<char> = text.chars().collect();
        chars.chunks(cut).map(|piece| piece.iter().collect()).collect()
    };
    let mut content = Vec::new();
    let mut stream = frame("messageStart", &json!({"role": "assistant", "p": "abcd"}));
    let mut index = 0;
    let mut block = |whole: Value, start: Option<Value>, deltas: Vec<Value>| {
        content.push(whole);
        if let Some(start) = start {
            stream.extend(frame("contentBlockStart", &json!({"contentBlockIndex": index, "start": start})));
        }
        for delta in deltas {
            stream.extend(frame("contentBlockDelta", &json!({"contentBlockIndex": index, "delta": delta})));
        }
        stream.extend(frame("contentBlockStop", &json!({"contentBlockIndex": index})));
        index += 1;
    };
    let mut deltas: Vec<Value> =
        pieces(thinking).into_iter().map(|text| json!({"reasoningContent": {"text": text}})).collect();
    deltas.push(json!({"reasoningContent": {"signature": "c2ln"}}));
    let inner = json!({"text": thinking, "signature": "c2ln"});
    block(json!({"reasoningContent": {"reasoningText": inner}}), None, deltas);
    block(json!({"text": said}), None, pieces(said).into_iter().map(|text| json!({"text": text})).collect());
    for (id, value) in calls {
        let input = json!({"v": value});
        let call = json!({"toolUseId": id, "name": "f"});
        let mut whole = call.clone();
        whole["input"] = input.clone();
        let deltas = pieces(&input.to_string()).into_iter().map(|text| json!({"toolUse": {"input": text}}));
        block(json!({"toolUse": whole}), Some(json!({"toolUse": call})), deltas.collect());
    }
    let reason = if calls.is_empty() { "end_turn" } else { "tool_use" };
    let usage = json!({"inputTokens": 7, "outputTokens": 5, "cacheReadInputTokens": 3, "totalTokens": 15});
    stream.extend(frame("messageStop", &json!({"stopReason": reason})));
    stream.extend(frame("metadata", &json!({"usage": usage, "metrics": {"latencyMs": 1}})));
    let whole = json!({"output": {"message": {"role": "assistant", "content": content}},
        "stopReason": reason, "usage": usage, "metrics": {"latencyMs": 1}});
    (whole, stream)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_stream_adds_up_to_the_whole_in_any_pieces(
        thinking in "[a-z\u{e4}\u{1f600}\"]{1,12}", said in "[ -~\u{e4}]{0,12}[a-z]",
        calls in proptest::collection::vec(("[a-z]{1,6}", "[a-z\\\\\"]{0,9}"), 0..3),
        cut in 1..5_usize, piece in 1..200_usize,
    ) {
        let (whole, stream) = pair(&thinking, &said, &calls, cut);
        let whole = codec(Dialect::Bedrock).decode_answer(Operation::Chat, whole.to_string().as_bytes()).unwrap();
        let Answer::Chat(mut expected) = whole else { panic!() };
        expected.extra.clear();
        let found = aggregate(Dialect::Bedrock, Operation::Chat, events(&stream, piece)).unwrap();
        prop_assert_eq!(found, Answer::Chat(expected.clone()));
        let replayed = aggregate(Dialect::Bedrock, Operation::Chat, replay(Answer::Chat(expected.clone()))).unwrap();
        prop_assert_eq!(replayed, Answer::Chat(expected));
    }
}

fn finished(reason: &str) -> Result<Answer, Fault> {
    let body = json!({"output": {"message": {"role": "assistant", "content": [{"text": "a"}]}},
        "stopReason": reason, "additionalModelResponseFields": {"stop_sequence": "END"},
        "usage": {"inputTokens": 1, "outputTokens": 2, "totalTokens": 3}});
    codec(Dialect::Bedrock).decode_answer(Operation::Chat, body.to_string().as_bytes())
}

#[test]
fn reasons_of_an_end_are_told_apart_and_spoiled_output_is_an_error() {
    for (reason, expected) in [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("guardrail_intervened", "content_filter"),
        ("content_filtered", "content_filter"),
        ("of_the_future", "stop"),
    ] {
        let answer = finished(reason).unwrap();
        let shown = codec(Dialect::OpenAi).encode_answer(&answer, &crate::fixtures::context());
        let shown: Value = serde_json::from_slice(&shown).unwrap();
        assert_eq!(shown["choices"][0]["finish_reason"], expected, "{reason}");
    }
    let shown = codec(Dialect::Anthropic)
        .encode_answer(&finished("stop_sequence").unwrap(), &crate::fixtures::context());
    let shown: Value = serde_json::from_slice(&shown).unwrap();
    assert_eq!((&shown["stop_reason"], &shown["stop_sequence"]), (&json!("stop_sequence"), &json!("END")));
    for reason in ["malformed_model_output", "malformed_tool_use"] {
        assert_eq!(finished(reason).unwrap_err().code.name, "upstream_error");
        let stream = [
            frame("messageStart", &json!({"role": "assistant"})),
            frame("contentBlockDelta", &json!({"contentBlockIndex": 0, "delta": {"text": "a"}})),
            frame("messageStop", &json!({"stopReason": reason})),
        ];
        let events = events(&stream.concat(), usize::MAX);
        assert!(matches!(events.last(), Some(Event::Error(fault)) if fault.code.name == "upstream_error"));
    }
}

#[test]
fn a_stream_without_usage_ends_all_the_same_and_one_that_breaks_off_does_not() {
    let start = frame("messageStart", &json!({"role": "assistant"}));
    let text = frame("contentBlockDelta", &json!({"contentBlockIndex": 0, "delta": {"text": "a"}}));
    let stop = frame("messageStop", &json!({"stopReason": "end_turn"}));
    let whole = [start.clone(), text.clone(), stop].concat();
    assert!(matches!(events(&whole, 11).last(), Some(Event::End)));
    for bytes in [[start, text].concat(), whole[..whole.len() - 3].to_vec()] {
        let events = events(&bytes, 11);
        let Some(Event::Error(fault)) = events.last() else { panic!("{events:?}") };
        assert_eq!(fault.code.name, "stream_interrupted");
    }
}

#[test]
fn long_streams_take_time_in_proportion() {
    let stream = |count: usize| {
        let call = json!({"contentBlockIndex": 0, "start": {"toolUse": {"toolUseId": "t", "name": "f"}}});
        let mut bytes = frame("contentBlockStart", &call);
        let piece = frame(
            "contentBlockDelta",
            &json!({"contentBlockIndex": 0, "delta": {"toolUse": {"input": "0123456789"}}}),
        );
        (0..count).for_each(|_| bytes.extend_from_slice(&piece));
        bytes
    };
    // The best of some: other work of the machine only adds to it.
    let time = |count: usize| {
        let bytes = stream(count);
        let once = || {
            let began = std::time::Instant::now();
            assert_eq!(events(&bytes, 1400).len(), count + 3);
            began.elapsed()
        };
        (0..3).map(|_| once()).min().unwrap()
    };
    let (short, long) = (time(2000), time(40_000));
    // Twenty times the deltas; a square would be four hundred times the time.
    assert!(long < short * 100, "{short:?} {long:?}");
}

// ---- requests -------------------------------------------------------------------------------------------

fn quirks() -> Quirks {
    Quirks { cache_control: true, ..Quirks::default() }
}

fn translated(from: Dialect, body: &Value) -> (Value, Vec<String>) {
    let call = codec(from).decode_call(Operation::Chat, body.to_string().as_bytes()).unwrap();
    let encoded = codec(Dialect::Bedrock).encode_call(&call, &quirks()).unwrap();
    (serde_json::from_slice(&encoded.body).unwrap(), encoded.dropped)
}

fn refused(from: Dialect, body: &Value) -> Fault {
    let call = codec(from).decode_call(Operation::Chat, body.to_string().as_bytes()).unwrap();
    codec(Dialect::Bedrock).encode_call(&call, &quirks()).unwrap_err()
}

#[test]
fn an_openai_conversation_becomes_converse() {
    let (sent, dropped) = translated(
        Dialect::OpenAi,
        &json!({
            "model": "anthropic.claude-3-5-sonnet-20240620-v1:0",
            "temperature": 1.7, "top_p": 0.5, "seed": 3, "max_tokens": 50, "stop": ["END", " "], "user": "u 1",
            "service_tier": "flex", "logit_bias": {}, "parallel_tool_calls": false, "tool_choice": "required",
            "guardrailConfig": {"guardrailIdentifier": "g", "guardrailVersion": "1"},
            "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}],
            "messages": [
                {"role": "system", "content": "one"},
                {"role": "user", "content": "a"},
                {"role": "user", "content": [
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                    {"type": "file", "file": {"filename": "q 3.pdf", "file_data": "data:application/pdf;base64,BBBB"}}]},
                {"role": "assistant", "content": null, "tool_calls": [
                    {"id": "c:1", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}},
                    {"id": "c2", "type": "function", "function": {"name": "f", "arguments": ""}}]},
                {"role": "tool", "tool_call_id": "c:1", "content": "r1"},
                {"role": "tool", "tool_call_id": "c2", "content": "r2"},
                {"role": "user", "content": "go on"}]
        }),
    );
    assert_eq!(
        sent,
        json!({
            "messages": [
                {"role": "user", "content": [{"text": "a"},
                    {"image": {"format": "png", "source": {"bytes": "AAAA"}}},
                    {"document": {"format": "pdf", "name": "q 3", "source": {"bytes": "BBBB"}}}]},
                {"role": "assistant", "content": [
                    {"toolUse": {"toolUseId": "c_1", "name": "f", "input": {"x": 1}}},
                    {"toolUse": {"toolUseId": "c2", "name": "f", "input": {}}}]},
                {"role": "user", "content": [
                    {"toolResult": {"toolUseId": "c_1", "content": [{"text": "r1"}]}},
                    {"toolResult": {"toolUseId": "c2", "content": [{"text": "r2"}]}},
                    {"text": "go on"}]}],
            "system": [{"text": "one"}],
            "toolConfig": {"tools": [{"toolSpec": {"name": "f", "description": "d",
                "inputSchema": {"json": {"type": "object"}}}}], "toolChoice": {"any": {}}},
            "inferenceConfig": {"maxTokens": 50, "temperature": 1.0, "topP": 0.5, "stopSequences": ["END"]},
            "additionalModelResponseFieldPaths": ["/stop_sequence"],
            "serviceTier": {"type": "flex"},
            "guardrailConfig": {"guardrailIdentifier": "g", "guardrailVersion": "1"},
            "requestMetadata": {"user": "u 1"}
        })
    );
    for field in ["seed", "stop", "logit_bias", "parallel_tool_calls"] {
        assert!(dropped.iter().any(|path| path == field), "{field} in {dropped:?}");
    }
}

#[test]
fn claudes_thinking_and_cache_marks_go_to_claude() {
    let body = |model: &str| {
        json!({
            "model": model, "max_tokens": 4000, "thinking": {"type": "enabled", "budget_tokens": 2000}, "top_k": 5,
            "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
            "tools": [{"name": "f", "input_schema": {"type": "object"}, "cache_control": {"type": "ephemeral"}}],
            "messages": [
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "t", "signature": "sig=="}, {"type": "redacted_thinking", "data": "xx"},
                    {"type": "tool_use", "id": "t1", "name": "f", "input": {}}]},
                {"role": "user", "content": [
                    {"type": "text", "text": "and?"},
                    {"type": "tool_result", "tool_use_id": "t1", "is_error": true, "content": [
                        {"type": "text", "text": "boom"},
                        {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": "AAAA"}}],
                     "cache_control": {"type": "ephemeral"}}]}]
        })
    };
    let (sent, dropped) =
        translated(Dialect::Anthropic, &body("us.anthropic.claude-3-7-sonnet-20250219-v1:0"));
    assert!(dropped.is_empty(), "{dropped:?}");
    assert_eq!(sent["system"], json!([{"text": "s"}, {"cachePoint": {"type": "default", "ttl": "1h"}}]));
    assert_eq!(
        sent["messages"][1]["content"],
        json!([{"reasoningContent": {"reasoningText": {"text": "t", "signature": "sig=="}}},
            {"reasoningContent": {"redactedContent": "xx"}},
            {"toolUse": {"toolUseId": "t1", "name": "f", "input": {}}}])
    );
    assert_eq!(
        sent["messages"][2]["content"],
        json!([{"toolResult": {"toolUseId": "t1", "status": "error", "content": [{"text": "boom"},
                {"image": {"format": "jpeg", "source": {"bytes": "AAAA"}}}]}},
            {"cachePoint": {"type": "default"}}, {"text": "and?"}])
    );
    assert_eq!(sent["toolConfig"]["tools"][1], json!({"cachePoint": {"type": "default"}}));
    assert_eq!(
        sent["additionalModelRequestFields"],
        json!({"thinking": {"type": "enabled", "budget_tokens": 2000}, "top_k": 5})
    );
    assert_eq!(sent["inferenceConfig"], json!({"maxTokens": 4000}));

    let (sent, dropped) = translated(Dialect::Anthropic, &body("meta.llama3-1-70b-instruct-v1:0"));
    assert!(!sent.to_string().contains("cachePoint"));
    assert!(sent.get("additionalModelRequestFields").is_none());
    for field in ["messages[0].cache_control", "tools[0].cache_control", "top_k", "reasoning_effort"] {
        assert!(dropped.iter().any(|path| path == field), "{field} in {dropped:?}");
    }
}

#[test]
fn effort_and_schemas_find_each_makers_words() {
    let body = |model: &str| {
        json!({"model": model, "reasoning_effort": "high", "messages": [{"role": "user", "content": "a"}],
            "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}})
    };
    let sent = |model: &str| translated(Dialect::OpenAi, &body(model)).0;
    let claude = sent("global.anthropic.claude-sonnet-4-5-20250929-v1:0");
    assert_eq!(
        claude["additionalModelRequestFields"]["thinking"],
        json!({"type": "enabled", "budget_tokens": 16384})
    );
    assert!(claude["inferenceConfig"]["maxTokens"].as_u64() > Some(16384));
    assert_eq!(
        claude["outputConfig"]["textFormat"]["structure"]["jsonSchema"],
        json!({"name": "n", "schema": "{\"type\":\"object\",\"additionalProperties\":false}"})
    );
    let newer = sent("anthropic.claude-opus-4-7");
    assert_eq!(
        newer["additionalModelRequestFields"],
        json!({"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}})
    );
    let nova = sent("us.amazon.nova-2-lite-v1:0");
    assert_eq!(
        nova["additionalModelRequestFields"],
        json!({"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "high"}})
    );
    assert!(nova["system"][0]["text"].as_str().is_some_and(|text| text.contains("JSON Schema")));
    let open = sent("openai.gpt-oss-120b-1:0");
    assert_eq!(open["additionalModelRequestFields"], json!({"reasoning_effort": "high"}));
    assert!(open["outputConfig"].is_object());
}

#[test]
fn a_history_with_calls_brings_its_tools() {
    let (sent, _) = translated(
        Dialect::OpenAi,
        &json!({"model": "amazon.nova-lite-v1:0", "tool_choice": "none", "messages": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b", "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "f", "arguments": "not json"}}]},
            {"role": "tool", "tool_call_id": "c", "content": ""}]}),
    );
    assert_eq!(
        sent["toolConfig"],
        json!({"tools": [{"toolSpec": {"name": "f", "inputSchema": {"json": {"type": "object", "properties": {}}}}}]})
    );
    assert_eq!(sent["messages"][1]["content"][1]["toolUse"]["input"], json!({"_raw": "not json"}));
    assert_eq!(sent["messages"][2]["content"][0]["toolResult"]["content"], json!([]));
    let off = json!({"model": "m", "tool_choice": "none", "messages": [{"role": "user", "content": "a"}],
        "tools": [{"type": "function", "function": {"name": "f"}}]});
    assert!(translated(Dialect::OpenAi, &off).0.get("toolConfig").is_none());
}

#[test]
fn what_bedrock_cannot_take_is_refused_with_its_place() {
    let with = |part: Value| json!({"model": "m", "messages": [{"role": "user", "content": [part]}]});
    let image = with(json!({"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}));
    let file = with(json!({"type": "file", "file": {"file_id": "file-1", "filename": "a.pdf"}}));
    for body in [image, file] {
        let fault = refused(Dialect::OpenAi, &body);
        assert_eq!(fault.code.name, "unsupported_parameter");
        assert_eq!(fault.param.as_deref(), Some("messages[0].content[0]"));
    }
    let many = json!({"model": "m", "n": 2, "messages": [{"role": "user", "content": "a"}]});
    assert_eq!(refused(Dialect::OpenAi, &many).param.as_deref(), Some("n"));
}

#[test]
fn texts_are_embedded_in_each_makers_words() {
    let sent = |body: Value| {
        let call =
            codec(Dialect::OpenAi).decode_call(Operation::Embeddings, body.to_string().as_bytes()).unwrap();
        codec(Dialect::Bedrock)
            .encode_call(&call, &quirks())
            .map(|encoded| (serde_json::from_slice::<Value>(&encoded.body).unwrap(), encoded.dropped))
    };
    let (body, dropped) =
        sent(json!({"model": "amazon.titan-embed-text-v1", "input": "a", "dimensions": 256})).unwrap();
    assert_eq!((body, dropped), (json!({"inputText": "a"}), vec!["dimensions".to_owned()]));
    let (body, _) =
        sent(json!({"model": "amazon.titan-embed-text-v2:0", "input": ["a"], "dimensions": 256})).unwrap();
    assert_eq!(body, json!({"inputText": "a", "dimensions": 256}));
    let (body, _) = sent(json!({"model": "us.cohere.embed-v4:0", "input": ["a", "b"], "dimensions": 512,
        "input_type": "search_query"}))
    .unwrap();
    assert_eq!(body, json!({"texts": ["a", "b"], "input_type": "search_query", "output_dimension": 512}));
    let (body, _) = sent(json!({"model": "amazon.nova-2-multimodal-embeddings-v1:0", "input": "a"})).unwrap();
    assert_eq!(
        body,
        json!({"taskType": "SINGLE_EMBEDDING", "singleEmbeddingParams": {"embeddingPurpose": "GENERIC_INDEX",
            "text": {"truncationMode": "END", "value": "a"}}})
    );
    let fault = sent(json!({"model": "amazon.titan-embed-text-v2:0", "input": ["a", "b"]})).unwrap_err();
    assert_eq!((fault.code.name, fault.param.as_deref()), ("unsupported_parameter", Some("input")));
}
