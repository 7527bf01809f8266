//! Requests: what is refused, and how meaning moves between dialects.

use millgate_dialect::{Quirks, ReasoningField, ReasoningParameter, codec};
use millgate_types::{Block, Call, Dialect, Operation, code};
use serde_json::{Value, json};

/// Quirks that lose nothing, for round trips.
pub(crate) fn faithful() -> Quirks {
    Quirks {
        supports_developer_role: true,
        reasoning_field: ReasoningField::ReasoningDetails,
        reasoning_parameter: ReasoningParameter::Object,
        cache_control: true,
        ..Quirks::default()
    }
}

/// Streams always ask for usage; a choice without tools says nothing.
pub(crate) fn with_usage(call: &mut Call) {
    match call {
        Call::Chat(call) => {
            call.include_usage = call.stream;
            if call.tools.is_empty() {
                call.tool_choice = None;
                call.parallel_tool_calls = None;
            }
        }
        Call::Completion(call) => call.include_usage = call.stream,
        Call::Embedding(_) | Call::Rerank(_) | Call::Moderation(_) => {}
    }
}

/// What the Responses API says in one way only: tools that are not strict say so, bounds have a least value, and
/// thinking without a seal is none.
pub(crate) fn as_responses(mut call: Call) -> Call {
    let Call::Chat(chat) = &mut call else { return call };
    chat.max_output_tokens = chat.max_output_tokens.map(|limit| limit.max(16));
    for tool in &mut chat.tools {
        tool.strict.get_or_insert(false);
        tool.parameters.get_or_insert_with(|| json!({"type": "object", "properties": {}}));
    }
    if chat.tools.is_empty() {
        chat.tool_choice = None;
        chat.parallel_tool_calls = None;
    }
    for message in &mut chat.messages {
        message.content.retain(|block| !matches!(block, Block::Reasoning { signature: None, .. }));
    }
    chat.messages.retain(|message| !message.content.is_empty());
    call
}

fn refused(dialect: Dialect, operation: Operation, body: &Value) -> (&'static str, String) {
    let fault = codec(dialect).decode_call(operation, body.to_string().as_bytes()).unwrap_err();
    (fault.code.name, fault.param.map(String::from).unwrap_or_default())
}

fn translated(from: Dialect, to: Dialect, quirks: &Quirks, body: &Value) -> (Value, Vec<String>) {
    let call = codec(from).decode_call(Operation::Chat, body.to_string().as_bytes()).unwrap();
    let encoded = codec(to).encode_call(&call, quirks).unwrap();
    (serde_json::from_slice(&encoded.body).unwrap(), encoded.dropped)
}

fn to_anthropic(body: &Value) -> (Value, Vec<String>) {
    translated(Dialect::OpenAi, Dialect::Anthropic, &Quirks::default(), body)
}

/// trust.md section 3.
#[test]
fn wrong_fields_are_named() {
    let user = json!([{"role": "user", "content": "hi"}]);
    let with = |key: &str, value: Value| {
        let mut body = json!({"model": "m", "messages": user});
        body[key] = value;
        refused(Dialect::OpenAi, Operation::Chat, &body)
    };
    let invalid = |param: &str| ("invalid_value", param.to_owned());
    assert_eq!(with("temperature", json!(2.5)), invalid("temperature"));
    assert_eq!(with("temperature", json!("hot")), invalid("temperature"));
    assert_eq!(with("n", json!(0)), invalid("n"));
    assert_eq!(with("max_tokens", json!(1.5)), invalid("max_tokens"));
    assert_eq!(with("stream", json!("yes")), invalid("stream"));
    assert_eq!(with("messages", json!([])), invalid("messages"));
    assert_eq!(
        with("messages", json!([{"role": "user", "content": [{"type": "text"}]}])),
        invalid("messages[0].content[0].text")
    );
    assert_eq!(with("messages", json!([{"role": "nobody"}])), invalid("messages[0].role"));
    assert_eq!(with("model", json!("a b")), ("invalid_model", "model".to_owned()));
    for field in [
        "api_base",
        "base_url",
        "api_key",
        "user_config",
        "extra_headers",
        "chat_template_kwargs",
        "prompt_embeds",
    ] {
        assert_eq!(with(field, json!("x")), ("unsupported_parameter", field.to_owned()));
    }
    assert_eq!(refused(Dialect::OpenAi, Operation::Chat, &json!({"model": "m"})), invalid("messages"));
    assert_eq!(refused(Dialect::OpenAi, Operation::Embeddings, &json!({"model": "m"})), invalid("input"));
    assert_eq!(
        refused(Dialect::Anthropic, Operation::Chat, &json!({"model": "m", "messages": user})),
        invalid("max_tokens")
    );
    let mlflow = json!({"messages": user, "stop": "x"});
    assert_eq!(refused(Dialect::Mlflow, Operation::Chat, &mlflow), invalid("stop"));
    let twice = br#"{"model":"a","model":"b","messages":[]}"#;
    let fault = codec(Dialect::OpenAi).decode_call(Operation::Chat, twice).unwrap_err();
    assert_eq!(fault.code, code::DUPLICATE_MEMBER);
}

#[test]
fn mlflow_reads_numbers_in_text_and_keeps_unknown_fields() {
    let body = json!({"messages": [{"role": "user", "content": "hi", "name": "ann", "cache_control": {"type": "x"}}],
        "temperature": "0.5", "max_tokens": "7", "n": 1, "top_k": 3, "safety": true});
    let (sent, dropped) = translated(Dialect::Mlflow, Dialect::OpenAi, &Quirks::default(), &body);
    assert_eq!(sent["temperature"], 0.5);
    assert_eq!(sent["max_tokens"], 7);
    assert_eq!(sent["n"], 1);
    assert_eq!(sent["safety"], true);
    assert_eq!(sent["messages"][0]["name"], "ann");
    assert_eq!(sent["messages"][0]["cache_control"], json!({"type": "x"}));
    assert!(dropped.is_empty(), "{dropped:?}");
}

#[test]
fn an_openai_conversation_becomes_anthropic_turns() {
    let (sent, dropped) = to_anthropic(&json!({
        "model": "claude-sonnet-4-5",
        "temperature": 1.7, "seed": 3, "user": "u1", "logit_bias": {}, "stop": ["END", " "],
        "parallel_tool_calls": false, "tool_choice": "required",
        "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}],
        "messages": [
            {"role": "system", "content": "one"},
            {"role": "developer", "content": "two"},
            {"role": "user", "content": "a", "name": "ann"},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]},
            {"role": "assistant", "content": "thinking aloud", "tool_calls": [
                {"id": "c:1", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}},
                {"id": "c2", "type": "function", "function": {"name": "f", "arguments": ""}}]},
            {"role": "tool", "tool_call_id": "c:1", "content": "r1"},
            {"role": "tool", "tool_call_id": "c2", "content": "r2"},
            {"role": "user", "content": "go on"}]
    }));
    assert_eq!(
        sent,
        json!({
            "model": "claude-sonnet-4-5", "max_tokens": 8192,
            "system": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "a"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}]},
                {"role": "assistant", "content": [{"type": "text", "text": "thinking aloud"},
                    {"type": "tool_use", "id": "c_1", "name": "f", "input": {"x": 1}},
                    {"type": "tool_use", "id": "c2", "name": "f", "input": {}}]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "c_1", "content": "r1"},
                    {"type": "tool_result", "tool_use_id": "c2", "content": "r2"},
                    {"type": "text", "text": "go on"}]}],
            "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}}],
            "tool_choice": {"type": "any", "disable_parallel_tool_use": true},
            "temperature": 1.0, "stop_sequences": ["END"], "metadata": {"user_id": "u1"}
        })
    );
    for field in ["seed", "logit_bias", "stop", "messages[2].name"] {
        assert!(dropped.iter().any(|path| path == field), "{field} in {dropped:?}");
    }
}

#[test]
fn effort_and_schemas_find_their_anthropic_words() {
    let base = |model: &str| {
        json!({"model": model, "reasoning_effort": "high", "temperature": 0.3,
        "messages": [{"role": "user", "content": "a"}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}})
    };
    let (old, dropped) = to_anthropic(&base("claude-sonnet-4-5"));
    assert_eq!(old["thinking"], json!({"type": "enabled", "budget_tokens": 16384}));
    assert!(old["max_tokens"].as_u64() > Some(16384));
    assert_eq!(
        old["output_config"]["format"]["schema"],
        json!({"type": "object", "additionalProperties": false})
    );
    assert!(old.get("temperature").is_none() && dropped.contains(&"temperature".to_owned()));
    let (new, _) = to_anthropic(&base("claude-opus-4-7"));
    assert_eq!(new["thinking"], json!({"type": "adaptive"}));
    assert_eq!(new["output_config"]["effort"], "high");
    let (ancient, _) = to_anthropic(&base("claude-3-5-haiku-latest"));
    assert!(ancient.get("thinking").is_none());
    assert!(ancient["system"].as_str().is_some_and(|text| text.contains("JSON Schema")));
}

#[test]
fn anthropic_callers_reach_openai_targets() {
    let (sent, dropped) = translated(
        Dialect::Anthropic,
        Dialect::OpenAi,
        &Quirks::default(),
        &json!({
            "model": "m", "max_tokens": 100, "system": "s", "top_k": 5,
            "thinking": {"type": "enabled", "budget_tokens": 2000}, "service_tier": "auto",
            "tools": [{"name": "f", "input_schema": {"type": "object"}}, {"type": "web_search_20250305", "name": "web_search"}],
            "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": true},
            "messages": [
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": [{"type": "thinking", "thinking": "t", "signature": "sig"},
                    {"type": "tool_use", "id": "t1", "name": "f", "input": {"x": 1}}]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "is_error": true, "content": [
                        {"type": "text", "text": "boom"},
                        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}]},
                    {"type": "text", "text": "and?"}]}]
        }),
    );
    assert_eq!(
        sent,
        json!({
            "model": "m",
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": null, "tool_calls": [
                    {"id": "t1", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}}]},
                {"role": "tool", "content": "Error: boom", "tool_call_id": "t1"},
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]},
                {"role": "user", "content": "and?"}],
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
            "parallel_tool_calls": false, "max_tokens": 100, "top_k": 5, "reasoning_effort": "low"
        })
    );
    for field in ["service_tier", "tools[1]", "messages[2].reasoning_content"] {
        assert!(dropped.iter().any(|path| path == field), "{field} in {dropped:?}");
    }
}

/// A caller who echoes the assistant's message gives the provider its sealed thinking back.
#[test]
fn an_echoed_message_carries_signatures_back() {
    let answer = json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "stop_reason": "tool_use",
        "content": [{"type": "thinking", "thinking": "hm", "signature": "sig=="}, {"type": "redacted_thinking", "data": "xx"},
            {"type": "text", "text": "ok"}, {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}],
        "usage": {"input_tokens": 1, "output_tokens": 2}});
    let decoded =
        codec(Dialect::Anthropic).decode_answer(Operation::Chat, answer.to_string().as_bytes()).unwrap();
    let shown = codec(Dialect::OpenAi).encode_answer(&decoded, &crate::fixtures::context());
    let shown: Value = serde_json::from_slice(&shown).unwrap();
    let message = &shown["choices"][0]["message"];
    assert_eq!(message["reasoning_content"], "hm");
    let (sent, _) = to_anthropic(&json!({"model": "claude-opus-4", "messages": [
        {"role": "user", "content": "a"}, message, {"role": "tool", "tool_call_id": "toolu_1", "content": "r"}]}));
    assert_eq!(sent["messages"][1]["content"], answer["content"]);
}

#[test]
fn a_chat_goes_by_responses() {
    let body = json!({"model": "gpt-5-mini", "max_tokens": 5, "temperature": 0.5, "stop": ["x"], "reasoning_effort": "low",
        "verbosity": "low", "metadata": {"a": "b"}, "logit_bias": {"1": 1}, "user": "u", "stream": true,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": true}},
        "tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}],
        "tool_choice": {"type": "function", "function": {"name": "look"}},
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "see"},
                {"type": "image_url", "image_url": {"url": "https://x.test/a.png", "detail": "low"}},
                {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="}}]},
            {"role": "assistant", "content": "I look.", "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "42"}]});
    let quirks = Quirks { supports_developer_role: true, ..Quirks::default() };
    let (sent, dropped) = translated(Dialect::OpenAi, Dialect::Responses, &quirks, &body);
    assert_eq!(
        sent,
        json!({"model": "gpt-5-mini", "input": [
            {"role": "system", "content": [{"type": "input_text", "text": "Be brief."}]},
            {"role": "user", "content": [{"type": "input_text", "text": "see"},
                {"type": "input_image", "image_url": "https://x.test/a.png", "detail": "low"},
                {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="}]},
            {"type": "message", "role": "assistant", "content": [
                {"type": "output_text", "text": "I look.", "annotations": []}]},
            {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "42"}],
            "tools": [{"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": false}],
            "tool_choice": {"type": "function", "name": "look"},
            "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": true},
                "verbosity": "low"},
            "max_output_tokens": 16, "temperature": 0.5, "reasoning": {"effort": "low"}, "store": false,
            "include": ["reasoning.encrypted_content"], "user": "u", "metadata": {"a": "b"}, "stream": true})
    );
    assert_eq!(dropped, ["stop", "logit_bias"]);
}

/// An Anthropic caller gets OpenAI's sealed thinking as a signature, and it goes back as OpenAI's own item.
#[test]
fn sealed_thinking_goes_back_by_responses_and_nobody_elses_does() {
    let body = json!({"model": "o3", "max_tokens": 99, "messages": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": "openai/rs_1/SEALED"},
            {"type": "thinking", "thinking": "Not mine.", "signature": "c2ln"},
            {"type": "text", "text": "Hello."}]},
        {"role": "user", "content": [{"type": "text", "text": "More."}]}]});
    let (sent, _) = translated(Dialect::Anthropic, Dialect::Responses, &Quirks::default(), &body);
    assert_eq!(
        sent["input"][1],
        json!({"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}],
            "encrypted_content": "SEALED"})
    );
    assert_eq!(sent["input"][2]["content"][0]["text"], "Hello.");
    assert_eq!(sent["input"].as_array().map(Vec::len), Some(4), "{sent}");
    let (plain, _) = translated(
        Dialect::Anthropic,
        Dialect::Responses,
        &Quirks::default(),
        &json!({"model": "gpt-4o", "max_tokens": 99, "messages": [{"role": "user", "content": "Hi"}]}),
    );
    assert_eq!(plain["include"], Value::Null, "models that do not think refuse it");
}

/// Mistral's thinking stands in the content, both ways; sound and documents stand bare.
#[test]
fn mistral_gets_thinking_in_its_content() {
    let quirks = Quirks {
        reasoning_field: ReasoningField::Content,
        bare_media: true,
        rename: vec![("seed".to_owned(), "random_seed".to_owned())],
        ..Quirks::default()
    };
    let native = json!([{"type": "thinking", "thinking": [{"type": "text", "text": "12 x 12."}]}, {"type": "text", "text": "144"}]);
    let body = json!({"model": "m", "seed": 3, "messages": [
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
            {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="}}]},
        {"role": "assistant", "content": "144", "reasoning_content": "12 x 12."},
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": native}]});
    let (sent, dropped) = translated(Dialect::OpenAi, Dialect::OpenAi, &quirks, &body);
    assert_eq!(
        sent["messages"][0]["content"],
        json!([{"type": "input_audio", "input_audio": "AA=="},
            {"type": "document_url", "document_url": "data:application/pdf;base64,AA==", "document_name": "a.pdf"}])
    );
    assert_eq!((&sent["messages"][1]["content"], &sent["messages"][3]["content"]), (&native, &native));
    assert_eq!((&sent["random_seed"], dropped), (&json!(3), vec![]));
    let thinking = json!({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}, {"type": "text", "text": "Yes."}]},
        {"role": "user", "content": "More"}]});
    let (sent, _) = translated(Dialect::Anthropic, Dialect::OpenAi, &quirks, &thinking);
    assert_eq!(sent["messages"][1]["content"][0]["thinking"][0]["text"], "Hm.");
}

#[test]
fn a_chat_goes_to_ollama_in_its_own_words() {
    let body = json!({"model": "qwen3", "max_tokens": 5, "temperature": 1.5, "stop": "x", "reasoning_effort": "high", "user": "u",
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
        "tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}},
            {"type": "function", "function": {"name": "other"}}],
        "tool_choice": {"type": "function", "function": {"name": "look"}},
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "see"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
                {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}}]},
            {"role": "assistant", "content": null, "reasoning_content": "Hm.", "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{\"a\":1}"}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "42"}]});
    let (sent, dropped) = translated(Dialect::OpenAi, Dialect::Ollama, &Quirks::default(), &body);
    assert_eq!(
        sent,
        json!({"model": "qwen3", "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "see", "images": ["AA=="]},
            {"role": "assistant", "content": "", "thinking": "Hm.", "tool_calls": [
                {"type": "function", "function": {"name": "look", "arguments": {"a": 1}}}]},
            {"role": "tool", "content": "42", "tool_name": "look"}],
            "tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}],
            "format": {"type": "object"}, "think": true,
            "options": {"num_predict": 5, "temperature": 1.5, "stop": ["x"]}, "stream": false})
    );
    assert_eq!(dropped, ["messages[1].content[2]", "tool_choice", "user"]);
}
