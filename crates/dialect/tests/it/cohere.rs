//! Requests for Cohere: recorded ones, said in OpenAI's words, come out as they were recorded.

use millgate_dialect::{Quirks, aggregate, codec};
use millgate_types::{Answer, Dialect, Operation};
use serde_json::{Map, Value, json};

use crate::fixtures;

fn to_cohere(from: Dialect, operation: Operation, body: &Value) -> (Value, Vec<String>) {
    let call = codec(from).decode_call(operation, body.to_string().as_bytes()).unwrap();
    let encoded = codec(Dialect::Cohere).encode_call(&call, &Quirks::default()).unwrap();
    (serde_json::from_slice(&encoded.body).unwrap(), encoded.dropped)
}

/// What a recorded request would be in OpenAI's dialect. `None` where it says what has no counterpart there.
fn as_openai(recorded: &Value) -> Option<Value> {
    let mut body = Map::new();
    for (key, value) in recorded.as_object()? {
        let (key, value) = match key.as_str() {
            "p" => ("top_p", value.clone()),
            "k" => ("top_k", value.clone()),
            "stop_sequences" => ("stop", value.clone()),
            "tool_choice" => ("tool_choice", json!(value.as_str()?.to_lowercase())),
            "thinking" => ("reasoning_effort", json!("medium")),
            "strict_tools" => continue,
            "documents" if value.as_array()?.is_empty() => continue,
            "response_format" => (
                "response_format",
                json!({"type": "json_schema", "json_schema": {"name": "x", "schema": value["json_schema"]}}),
            ),
            "messages" => ("messages", messages(value)?),
            key => (key, value.clone()),
        };
        body.insert(key.to_owned(), value);
    }
    if recorded["strict_tools"] == true {
        for tool in body.get_mut("tools")?.as_array_mut()? {
            tool["function"]["strict"] = true.into();
        }
    }
    Some(Value::Object(body))
}

fn messages(recorded: &Value) -> Option<Value> {
    let mut messages = Vec::new();
    for message in recorded.as_array()? {
        let mut message = message.clone();
        let parts = message["content"].as_array().cloned().unwrap_or_default();
        if parts.iter().any(|part| part["type"] == "document") {
            return None;
        }
        if parts.iter().any(|part| part["type"] == "thinking") {
            message["reasoning_content"] = parts[0]["thinking"].clone();
            message["content"] = parts[1..].into();
        }
        let map = message.as_object_mut()?;
        map.shift_remove("citations");
        if let Some(plan) = map.shift_remove("tool_plan").filter(Value::is_string) {
            map.insert("content".to_owned(), plan);
        }
        messages.push(message);
    }
    Some(messages.into())
}

/// Spellings that mean the same: one text as a list, and members that say nothing.
fn plain(mut body: Value) -> Value {
    for message in body["messages"].as_array_mut().into_iter().flatten() {
        let single =
            message["content"].as_array().filter(|parts| parts.len() == 1).map(|parts| parts[0].clone());
        if let Some(text) = single.filter(|part| part["type"] == "text") {
            message["content"] = text["text"].clone();
        }
        let nothing = |value: &Value| value.is_null() || *value == json!([]) || *value == json!("");
        message.as_object_mut().unwrap().retain(|_, value| !nothing(value));
    }
    body.as_object_mut().unwrap().retain(|key, value| {
        let unsaid = key == "stream" && *value == false || *value == json!([]);
        !unsaid
    });
    // Members in one order.
    serde_json::from_str(&body.to_string()).unwrap()
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut members: Vec<_> = map.iter().map(|(key, value)| (key.clone(), sorted(value))).collect();
            members.sort_by(|one, other| one.0.cmp(&other.0));
            Value::Object(members.into_iter().collect())
        }
        Value::Array(items) => items.iter().map(sorted).collect(),
        other => other.clone(),
    }
}

#[test]
fn recorded_requests_come_out_as_they_were() {
    let (mut compared, mut differing) = (0, Vec::new());
    for recording in fixtures::all() {
        if recording.dialect != Dialect::Cohere || recording.operation != Operation::Chat {
            continue;
        }
        let Some(request) = &recording.request else { continue };
        let Some(call) = as_openai(request) else { continue };
        let (sent, dropped) = to_cohere(Dialect::OpenAi, Operation::Chat, &call);
        compared += 1;
        let (sent, recorded) = (sorted(&plain(sent)), sorted(&plain(request.clone())));
        if sent != recorded || !dropped.is_empty() {
            differing.push(format!("{}: {dropped:?}\n  {sent}\n  {recorded}", recording.id));
        }
    }
    assert!(differing.is_empty(), "{} of {compared}:\n{}", differing.len(), differing.join("\n"));
    assert!(compared >= 5, "only {compared}");
    eprintln!("{compared} requests");
}

#[test]
fn what_cohere_lacks_is_said_and_the_rest_finds_its_place() {
    let body = json!({"model": "m", "n": 1, "temperature": 1.7, "top_p": 0.5, "top_k": 4, "seed": 7, "user": "u",
        "logit_bias": {"1": 1}, "parallel_tool_calls": false, "safety_mode": "STRICT", "stop": ["a", "b", "c", "d", "e", "f"],
        "tools": [{"type": "function", "function": {"name": "a"}}, {"type": "function", "function": {"name": "b"}}],
        "tool_choice": {"type": "function", "function": {"name": "b"}},
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "look"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}}]},
            {"role": "assistant", "content": "I will look.", "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "b", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "42"}]});
    let (sent, dropped) = to_cohere(Dialect::OpenAi, Operation::Chat, &body);
    assert_eq!(
        sent,
        json!({"model": "m", "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "look"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}}]},
            {"role": "assistant", "tool_plan": "I will look.", "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "b", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "42"}],
            "tools": [{"type": "function", "function": {"name": "b",
                "parameters": {"type": "object", "properties": {}}}}],
            "tool_choice": "REQUIRED", "temperature": 1.0, "p": 0.5, "k": 4, "seed": 7,
            "stop_sequences": ["a", "b", "c", "d", "e"], "safety_mode": "STRICT"})
    );
    assert_eq!(dropped, ["parallel_tool_calls", "stop", "user", "logit_bias"]);
}

#[test]
fn an_anthropic_callers_documents_and_results_are_told() {
    let body = json!({"model": "m", "max_tokens": 9, "thinking": {"type": "enabled", "budget_tokens": 2000},
        "messages": [
            {"role": "user", "content": [
                {"type": "document", "title": "facts", "source": {"type": "text", "media_type": "text/plain", "data": "Ruby is red."}},
                {"type": "text", "text": "What is Ruby?"}]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "look", "input": {"a": 1}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "is_error": true, "content": "no"}]}]});
    let (sent, dropped) = to_cohere(Dialect::Anthropic, Operation::Chat, &body);
    assert_eq!(sent["documents"][0]["data"]["text"], "Ruby is red.", "{sent}");
    assert_eq!(sent["thinking"], json!({"type": "enabled", "token_budget": 2000}));
    assert_eq!(sent["messages"][1]["tool_calls"][0]["function"]["arguments"], "{\"a\":1}");
    assert_eq!(sent["messages"][2], json!({"role": "tool", "tool_call_id": "t1", "content": "Error: no"}));
    assert_eq!(dropped, Vec::<String>::new());
}

#[test]
fn vectors_are_asked_for_with_their_purpose() {
    let ask = |body: Value| to_cohere(Dialect::OpenAi, Operation::Embeddings, &body);
    let (sent, dropped) =
        ask(json!({"model": "m", "input": "a", "dimensions": 256, "encoding_format": "base64"}));
    assert_eq!(
        sent,
        json!({"model": "m", "input_type": "search_document", "texts": ["a"], "embedding_types": ["float"],
            "output_dimension": 256})
    );
    assert!(dropped.is_empty(), "{dropped:?}");
    let (sent, dropped) =
        ask(json!({"model": "m", "input": ["a", "b"], "input_type": "search_query", "x": 1}));
    assert_eq!((&sent["input_type"], &sent["texts"]), (&json!("search_query"), &json!(["a", "b"])));
    assert_eq!(dropped, ["x"]);
    let tokens = json!({"model": "m", "input": [1, 2]}).to_string();
    let call = codec(Dialect::OpenAi).decode_call(Operation::Embeddings, tokens.as_bytes()).unwrap();
    let fault = codec(Dialect::Cohere).encode_call(&call, &Quirks::default()).unwrap_err();
    assert_eq!(fault.param.as_deref(), Some("input"));
}

/// The same answer, once whole and once as events.
#[test]
fn a_stream_adds_up_to_the_whole() {
    let usage = json!({"billed_units": {"input_tokens": 5, "output_tokens": 6},
        "tokens": {"input_tokens": 70, "output_tokens": 9, "reasoning_tokens": 2}, "cached_tokens": 10});
    let citation = json!({"start": 0, "end": 4, "text": "Ruby", "type": "TEXT_CONTENT",
        "sources": [{"type": "document", "id": "doc:0", "document": {"id": "doc:0", "title": "t", "url": "https://x.test"}}]});
    let call =
        |id: &str| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}});
    let with_text = json!({"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm."},
        {"type": "text", "text": "Ruby is."}], "citations": [citation]});
    let with_calls =
        json!({"role": "assistant", "tool_plan": "I will.", "tool_calls": [call("c1"), call("c2")]});
    let text_events = [
        json!({"type": "content-start", "index": 0, "delta": {"message": {"content": {"type": "thinking", "thinking": ""}}}}),
        json!({"type": "content-delta", "index": 0, "delta": {"message": {"content": {"thinking": "Hm."}}}}),
        json!({"type": "content-end", "index": 0}),
        json!({"type": "content-start", "index": 1, "delta": {"message": {"content": {"type": "text", "text": ""}}}}),
        json!({"type": "content-delta", "index": 1, "delta": {"message": {"content": {"text": "Ruby"}}}}),
        json!({"type": "citation-start", "index": 0, "delta": {"message": {"citations": citation}}}),
        json!({"type": "content-delta", "index": 1, "delta": {"message": {"content": {"text": " is."}}}}),
        json!({"type": "content-end", "index": 1}),
    ];
    let begin = |index: u64, id: &str| {
        let call = json!({"id": id, "type": "function", "function": {"name": "f", "arguments": ""}});
        json!({"type": "tool-call-start", "index": index, "delta": {"message": {"tool_calls": call}}})
    };
    let grow = |index: u64, text: &str| {
        let call = json!({"function": {"arguments": text}});
        json!({"type": "tool-call-delta", "index": index, "delta": {"message": {"tool_calls": call}}})
    };
    let call_events = [
        json!({"type": "tool-plan-delta", "delta": {"message": {"tool_plan": "I "}}}),
        json!({"type": "tool-plan-delta", "delta": {"message": {"tool_plan": "will."}}}),
        begin(0, "c1"),
        grow(0, "{\"a\""),
        grow(0, ":1}"),
        json!({"type": "tool-call-end", "index": 0}),
        begin(1, "c2"),
        grow(1, "{\"a\":1}"),
    ];
    for (message, events, reason) in
        [(with_text, &text_events[..], "COMPLETE"), (with_calls, &call_events[..], "TOOL_CALL")]
    {
        let whole =
            json!({"id": "x", "message": message, "finish_reason": reason, "usage": usage}).to_string();
        let start = json!({"type": "message-start", "id": "x", "delta": {"message": {"role": "assistant"}}});
        let end = json!({"type": "message-end", "delta": {"finish_reason": reason, "usage": usage}});
        let lines = std::iter::once(&start).chain(events).chain([&end]);
        let framed = lines.map(|event| {
            let name = event["type"].as_str().unwrap();
            format!("event: {name}\ndata: {event}\n\n")
        });
        let stream = framed.collect::<Vec<_>>().concat();
        let whole = codec(Dialect::Cohere).decode_answer(Operation::Chat, whole.as_bytes()).unwrap();
        for size in [1, 5, 64, stream.len()] {
            let mut decoder = codec(Dialect::Cohere).stream_decoder(Operation::Chat);
            let mut events = Vec::new();
            for piece in stream.as_bytes().chunks(size) {
                decoder.push(piece, &mut events);
            }
            decoder.finish(&mut events);
            let added = aggregate(Dialect::Cohere, Operation::Chat, events).unwrap();
            let (Answer::Chat(added), Answer::Chat(whole)) = (&added, &whole) else { panic!("no chats") };
            assert_eq!((&added.id, &added.choices, added.usage), (&whole.id, &whole.choices, whole.usage));
        }
    }
}
