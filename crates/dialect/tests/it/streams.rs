//! Streams by hand: what recordings do not hold.

use millgate_dialect::{Quirks, StreamDecoder, codec, sse};
use millgate_types::{BlockKind, Delta, Dialect, Event, FinishReason, Operation, code};
use serde_json::Value;

use crate::fixtures;

fn events(dialect: Dialect, operation: Operation, text: &str) -> Vec<Event> {
    let mut decoder: Box<dyn StreamDecoder> = codec(dialect).stream_decoder(operation);
    let mut events = Vec::new();
    decoder.push(text.as_bytes(), &mut events);
    decoder.finish(&mut events);
    events
}

fn encoded(dialect: Dialect, events: Vec<Event>, include_usage: bool) -> Vec<(String, Value)> {
    let mut context = fixtures::context();
    context.include_usage = include_usage;
    let mut encoder = codec(dialect).stream_encoder(Operation::Chat, &context);
    let mut bytes = Vec::new();
    for event in events {
        encoder.push(event, &mut bytes);
    }
    let mut seen = Vec::new();
    sse::Parser::new()
        .push(&bytes, |frame| {
            if let sse::Frame::Event { event, data } = frame {
                seen.push((
                    event.to_owned(),
                    serde_json::from_str(data).unwrap_or_else(|_| Value::from(data)),
                ));
            }
            true
        })
        .unwrap();
    seen
}

fn chunk(delta: &str, finish: &str) -> String {
    format!(
        "data: {{\"id\":\"a\",\"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":{finish}}}]}}\n\n"
    )
}

/// Interleaved tool deltas come out as whole blocks, one after the other.
#[test]
fn interleaved_tools_become_nested_blocks() {
    let call = |index: u32, id: &str, rest: &str| {
        let id = if id.is_empty() { String::new() } else { format!("\"id\":\"{id}\",") };
        chunk(&format!("{{\"tool_calls\":[{{\"index\":{index},{id}\"function\":{{{rest}}}}}]}}"), "null")
    };
    let text = [
        chunk("{\"role\":\"assistant\",\"content\":\"\"}", "null"),
        call(0, "one", "\"name\":\"f\",\"arguments\":\"\""),
        call(1, "two", "\"name\":\"g\",\"arguments\":\"{\\\"b\\\"\""),
        call(0, "", "\"arguments\":\"{\\\"a\\\":1}\""),
        call(1, "", "\"arguments\":\":2}\""),
        chunk("{}", "\"tool_calls\""),
        "data: [DONE]\n\n".to_owned(),
    ]
    .concat();
    let frames = encoded(Dialect::Anthropic, events(Dialect::OpenAi, Operation::Chat, &text), true);
    let names: Vec<&str> = frames.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "message_start",
            "content_block_start",
            "content_block_delta",
            "content_block_stop",
            "content_block_start",
            "content_block_delta",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop"
        ]
    );
    assert_eq!(frames[1].1["content_block"]["id"], "one");
    assert_eq!(frames[2].1["delta"]["partial_json"], "{\"a\":1}");
    assert_eq!(frames[4].1["index"], 1);
    assert_eq!(frames[8].1["delta"]["stop_reason"], "tool_use");
}

#[test]
fn servers_that_number_every_call_zero_still_make_two_calls() {
    let call = |id: &str, arguments: &str| {
        chunk(
            &format!(
                "{{\"tool_calls\":[{{\"index\":0,\"id\":\"{id}\",\"function\":{{\"name\":\"f\",\"arguments\":\"{arguments}\"}}}}]}}"
            ),
            "null",
        )
    };
    let no_index = |id: &str, arguments: &str| call(id, arguments).replace("\"index\":0,\"id\"", "\"id\"");
    for make in [&call as &dyn Fn(&str, &str) -> String, &no_index] {
        let text = [make("x", "{"), make("x", "}"), make("y", "{}"), chunk("{}", "\"stop\"")].concat();
        let events = events(Dialect::OpenAi, Operation::Chat, &text);
        let ids: Vec<&str> = events
            .iter()
            .filter_map(|event| match event {
                Event::BlockStart { kind: BlockKind::ToolCall { id, .. }, .. } => Some(id.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(ids, ["x", "y"]);
        assert!(
            events.iter().any(|event| matches!(event, Event::Finish { reason: FinishReason::ToolCalls, .. }))
        );
    }
}

#[test]
fn halves_of_a_surrogate_pair_meet() {
    let text = [chunk("{\"content\":\"a\\ud83d\"}", "null"), chunk("{\"content\":\"\\ude00b\"}", "\"stop\"")]
        .concat();
    let said: String = events(Dialect::OpenAi, Operation::Chat, &text)
        .iter()
        .filter_map(|event| match event {
            Event::BlockDelta { delta: Delta::Text(text), .. } => Some(text.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(said, "a\u{1f600}b");
}

#[test]
fn a_stream_that_breaks_off_says_so_in_every_dialect() {
    let text = chunk("{\"content\":\"a\"}", "null");
    for dialect in [Dialect::OpenAi, Dialect::Anthropic, Dialect::Mlflow] {
        let events = events(Dialect::OpenAi, Operation::Chat, &text);
        assert!(matches!(events.last(), Some(Event::Error(fault)) if fault.code == code::STREAM_INTERRUPTED));
        let frames = encoded(dialect, events, true);
        let (name, body) = frames.last().unwrap();
        assert_eq!(body["error"]["code"], "stream_interrupted");
        assert_eq!(name, if dialect == Dialect::Anthropic { "error" } else { "" });
    }
}

#[test]
fn errors_inside_streams_are_told_apart() {
    for (dialect, text, expected) in [
        (
            Dialect::OpenAi,
            "data: {\"error\":{\"message\":\"m\",\"code\":429}}\n\n",
            code::UPSTREAM_RATE_LIMITED,
        ),
        (
            Dialect::OpenAi,
            "event: error\ndata: {\"error\":{\"message\":\"m\",\"type\":\"server_error\"}}\n\n",
            code::UPSTREAM_ERROR,
        ),
        (
            Dialect::OpenAi,
            "data: {\"id\":\"a\",\"choices\":[{\"delta\":{\"content\":\"\"},\"finish_reason\":\"error\"}],\"error\":{\"code\":502,\"message\":\"m\"}}\n\n",
            code::UPSTREAM_ERROR,
        ),
        (Dialect::OpenAi, "data: not json\n\n", code::UPSTREAM_ERROR),
        (
            Dialect::Anthropic,
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n",
            code::UPSTREAM_OVERLOADED,
        ),
    ] {
        let events =
            events(dialect, Operation::Chat, &format!("{text}data: {{\"choices\":[]}}\n\ndata: [DONE]\n\n"));
        assert!(
            matches!(events.as_slice(), [Event::Error(fault)] if fault.code == expected),
            "{text}: {events:?}"
        );
    }
}

#[test]
fn usage_is_shown_only_when_asked_for() {
    let text = [
        chunk("{\"content\":\"a\"}", "\"stop\""),
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1,\"total_tokens\":4}}\n\ndata: [DONE]\n\n".to_owned(),
    ].concat();
    let with = |include| encoded(Dialect::OpenAi, events(Dialect::OpenAi, Operation::Chat, &text), include);
    let asked = with(true);
    assert_eq!(asked[asked.len() - 2].1["usage"]["total_tokens"], 4);
    assert_eq!(asked[0].1["usage"], Value::Null);
    assert!(asked[0].1.as_object().unwrap().contains_key("usage"));
    let plain = with(false);
    assert!(plain.iter().all(|(_, chunk)| chunk.get("usage").is_none()));
    assert_eq!(plain.last().unwrap().1, "[DONE]");
    let (first, finish) = (&plain[0].1["choices"][0], &plain[2].1["choices"][0]);
    assert_eq!(first["delta"], serde_json::json!({"role": "assistant", "content": ""}));
    assert_eq!((&finish["delta"], &finish["finish_reason"]), (&serde_json::json!({}), &Value::from("stop")));
}

/// A completion against a target that only chats: both ways, whole and streamed.
#[test]
fn completions_reach_a_chat_target() {
    let (openai, anthropic) = (codec(Dialect::OpenAi), codec(Dialect::Anthropic));
    let body = br#"{"model":"claude","prompt":"once","max_tokens":9,"best_of":2}"#;
    let call = openai.decode_call(Operation::Completions, body).unwrap();
    let encoded = anthropic.encode_call(&call, &Quirks::default()).unwrap();
    let sent: Value = serde_json::from_slice(&encoded.body).unwrap();
    let expected = r#"{"model":"claude","max_tokens":9,"messages":[{"role":"user","content":"once"}]}"#;
    assert_eq!(sent, serde_json::from_str::<Value>(expected).unwrap());
    assert_eq!(encoded.dropped, ["best_of"]);

    let answer = br#"{"id":"msg_1","type":"message","model":"c","stop_reason":"max_tokens","content":[
        {"type":"thinking","thinking":"hm","signature":"s"},{"type":"text","text":" upon"}],
        "usage":{"input_tokens":2,"output_tokens":3}}"#;
    let answer = anthropic.decode_answer(Operation::Completions, answer).unwrap();
    let shown = openai.encode_answer(&answer, &fixtures::context());
    let shown: Value = serde_json::from_slice(&shown).unwrap();
    assert_eq!(
        (&shown["object"], &shown["choices"][0]["text"]),
        (&"text_completion".into(), &" upon".into())
    );
    assert_eq!(shown["choices"][0]["finish_reason"], "length");

    let mut events = Vec::new();
    let mut decoder = anthropic.stream_decoder(Operation::Completions);
    for (name, data) in [
        (
            "message_start",
            r#"{"type":"message_start","message":{"id":"msg_1","usage":{"input_tokens":2,"output_tokens":0}}}"#,
        ),
        (
            "content_block_start",
            r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#,
        ),
        (
            "content_block_delta",
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" upon"}}"#,
        ),
        (
            "message_delta",
            r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":3}}"#,
        ),
        ("message_stop", r#"{"type":"message_stop"}"#),
    ] {
        decoder.push(format!("event: {name}\ndata: {data}\n\n").as_bytes(), &mut events);
    }
    let mut encoder = openai.stream_encoder(Operation::Completions, &fixtures::context());
    let mut bytes = Vec::new();
    for event in events {
        encoder.push(event, &mut bytes);
    }
    let text = String::from_utf8(bytes).unwrap();
    assert_eq!(text.matches("\"object\":\"text_completion\"").count(), 3, "{text}");
    assert!(
        text.contains("\"text\":\" upon\"")
            && text.contains("\"total_tokens\":5")
            && text.ends_with("[DONE]\n\n")
    );
}
