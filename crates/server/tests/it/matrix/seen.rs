//! What the caller got, read in the caller's own dialect by hand: nothing here uses the gateway's readers.

use serde_json::Value;

use super::caller::Caller;

/// An answer, whole or put together from a stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Seen {
    pub(super) text: String,
    pub(super) calls: Vec<Call>,
    pub(super) thinking: String,
    /// The dialect's word for why it ended; empty when it does not say.
    pub(super) finish: String,
    pub(super) usage: Option<Counts>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Call {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) arguments: String,
}

/// Tokens, each total with its parts inside.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Counts {
    pub(super) input: u64,
    pub(super) cached: u64,
    pub(super) output: u64,
}

fn string(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// The counts of a usage object, by the dialect's own arithmetic.
fn counts(caller: Caller, usage: &Value) -> Option<Counts> {
    if !usage.is_object() {
        return None;
    }
    let count = |key: &str| number(&usage[key]);
    Some(match caller {
        Caller::Anthropic => Counts {
            input: count("input_tokens")
                + count("cache_read_input_tokens")
                + count("cache_creation_input_tokens"),
            cached: count("cache_read_input_tokens"),
            output: count("output_tokens"),
        },
        Caller::Responses => Counts {
            input: count("input_tokens"),
            cached: number(&usage["input_tokens_details"]["cached_tokens"]),
            output: count("output_tokens"),
        },
        Caller::Gemini => Counts {
            input: count("promptTokenCount"),
            cached: count("cachedContentTokenCount"),
            output: count("candidatesTokenCount") + count("thoughtsTokenCount"),
        },
        _ => Counts {
            input: count("prompt_tokens"),
            cached: number(&usage["prompt_tokens_details"]["cached_tokens"]),
            output: count("completion_tokens"),
        },
    })
}

/// Reads a whole answer.
pub(super) fn whole(caller: Caller, body: &Value) -> Result<Seen, String> {
    let mut seen = Seen::default();
    match caller {
        Caller::OpenAi | Caller::Mlflow => {
            expect(body["object"] == "chat.completion", "object", body)?;
            let choice = &body["choices"][0];
            let message = &choice["message"];
            seen.text = string(&message["content"]);
            seen.thinking = string(&message["reasoning_content"]) + &string(&message["reasoning"]);
            for call in list(&message["tool_calls"]) {
                expect(call["type"] == "function", "type of a tool call", body)?;
                seen.calls.push(Call {
                    id: string(&call["id"]),
                    name: string(&call["function"]["name"]),
                    arguments: string(&call["function"]["arguments"]),
                });
            }
            seen.finish = string(&choice["finish_reason"]);
        }
        Caller::Completions | Caller::MlflowCompletions => {
            expect(body["object"] == "text_completion", "object", body)?;
            seen.text = string(&body["choices"][0]["text"]);
            seen.finish = string(&body["choices"][0]["finish_reason"]);
        }
        Caller::Responses => {
            expect(body["object"] == "response", "object", body)?;
            response(body, &mut seen);
        }
        Caller::Anthropic => {
            expect(body["type"] == "message" && body["role"] == "assistant", "type", body)?;
            for block in list(&body["content"]) {
                match block["type"].as_str() {
                    Some("text") => seen.text += &string(&block["text"]),
                    Some("thinking") => seen.thinking += &string(&block["thinking"]),
                    Some("tool_use") => seen.calls.push(Call {
                        id: string(&block["id"]),
                        name: string(&block["name"]),
                        arguments: block["input"].to_string(),
                    }),
                    other => return Err(format!("a block of type {other:?}")),
                }
            }
            seen.finish = string(&body["stop_reason"]);
        }
        Caller::Gemini => candidate(body, &mut seen),
    }
    let usage = if caller == Caller::Gemini { "usageMetadata" } else { "usage" };
    seen.usage = counts(caller, &body[usage]);
    Ok(seen)
}

fn expect(holds: bool, what: &str, body: &Value) -> Result<(), String> {
    if holds { Ok(()) } else { Err(format!("the {what} is not the dialect's: {body}")) }
}

fn response(body: &Value, seen: &mut Seen) {
    for item in list(&body["output"]) {
        match item["type"].as_str() {
            Some("message") => {
                seen.text.extend(list(&item["content"]).map(|part| string(&part["text"])));
            }
            Some("reasoning") => {
                seen.thinking.extend(list(&item["summary"]).map(|part| string(&part["text"])));
            }
            Some("function_call") => seen.calls.push(Call {
                id: string(&item["call_id"]),
                name: string(&item["name"]),
                arguments: string(&item["arguments"]),
            }),
            _ => {}
        }
    }
    seen.finish = match body["incomplete_details"]["reason"].as_str() {
        Some(reason) => format!("{}: {reason}", string(&body["status"])),
        None => string(&body["status"]),
    };
}

fn candidate(body: &Value, seen: &mut Seen) {
    let candidate = &body["candidates"][0];
    for part in list(&candidate["content"]["parts"]) {
        if part["functionCall"].is_object() {
            let call = &part["functionCall"];
            seen.calls.push(Call {
                id: string(&call["id"]),
                name: string(&call["name"]),
                arguments: call["args"].to_string(),
            });
        } else if part["thought"] == true {
            seen.thinking += &string(&part["text"]);
        } else {
            seen.text += &string(&part["text"]);
        }
    }
    if candidate["finishReason"].is_string() {
        seen.finish = string(&candidate["finishReason"]);
    }
}

/// A stream's events: the name, empty where there is none, and the data.
fn events(body: &str) -> Result<Vec<(String, String)>, String> {
    let body = body.replace("\r\n", "\n");
    expect(body.is_empty() || body.ends_with("\n\n"), "last frame", &Value::from(body.as_str()))?;
    let mut found = Vec::new();
    for frame in body.split("\n\n").filter(|frame| !frame.is_empty()) {
        let (mut name, mut data) = (String::new(), None);
        for line in frame.lines() {
            match line.split_once(':') {
                Some(("event", value)) => name = String::from(value.trim()),
                Some(("data", value)) => data = Some(value.trim_start().to_owned()),
                Some(("", _)) => {}
                _ => return Err(format!("a line that is no field: {line}")),
            }
        }
        found.extend(data.map(|data| (name, data)));
    }
    Ok(found)
}

/// How a stream ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum End {
    /// As streams of the dialect do.
    Proper,
    /// With an error, in the dialect's form; its code.
    Fault(String),
}

/// Reads a stream.
pub(super) fn stream(caller: Caller, body: &str) -> Result<(Seen, End), String> {
    let events = events(body)?;
    match caller {
        Caller::Anthropic => anthropic(&events),
        Caller::Responses => responses(&events),
        Caller::Gemini => gemini(&events),
        _ => openai(caller, &events),
    }
}

fn parsed(data: &str) -> Result<Value, String> {
    serde_json::from_str(data).map_err(|error| format!("{error}: {data}"))
}

fn openai(caller: Caller, events: &[(String, String)]) -> Result<(Seen, End), String> {
    let mut seen = Seen::default();
    let mut last: Option<End> = None;
    for (name, data) in events {
        if last.is_some() || !name.is_empty() {
            return Err(format!("an event that may not stand here: {name} {data}"));
        }
        if data == "[DONE]" {
            last = Some(End::Proper);
            continue;
        }
        let chunk = parsed(data)?;
        if chunk["error"].is_object() {
            expect(chunk["error"]["message"].is_string(), "error", &chunk)?;
            last = Some(End::Fault(string(&chunk["error"]["code"])));
            continue;
        }
        if chunk["usage"].is_object() {
            seen.usage = counts(caller, &chunk["usage"]);
        }
        let choice = &chunk["choices"][0];
        seen.text += &string(&choice["text"]);
        let delta = &choice["delta"];
        seen.text += &string(&delta["content"]);
        seen.thinking += &string(&delta["reasoning_content"]);
        seen.thinking += &string(&delta["reasoning"]);
        for call in list(&delta["tool_calls"]) {
            let at = usize::try_from(number(&call["index"])).unwrap_or(0);
            if at == seen.calls.len() {
                seen.calls.push(Call::default());
            }
            let known = seen.calls.get_mut(at).ok_or("a call out of order")?;
            known.id += &string(&call["id"]);
            known.name += &string(&call["function"]["name"]);
            known.arguments += &string(&call["function"]["arguments"]);
        }
        seen.finish += &string(&choice["finish_reason"]);
    }
    Ok((seen, last.ok_or("no end marker")?))
}

fn anthropic(events: &[(String, String)]) -> Result<(Seen, End), String> {
    let mut seen = Seen::default();
    let mut last: Option<End> = None;
    let mut usage = Value::Null;
    let (mut open, mut next) = (None, 0);
    for (at, (name, data)) in events.iter().enumerate() {
        let event = parsed(data)?;
        let wrong = |what: &str| format!("{what}: {name} {data}");
        if last.is_some() || event["type"] != name.as_str() {
            return Err(wrong("an event that may not stand here"));
        }
        if (at == 0) != (name == "message_start") {
            return Err(wrong("not the first event"));
        }
        if name.starts_with("content_block_")
            && name != "content_block_start"
            && open != event["index"].as_u64()
        {
            return Err(wrong("a block that is not open"));
        }
        match name.as_str() {
            "message_start" => usage = event["message"]["usage"].clone(),
            "content_block_start" => {
                if open.is_some() || event["index"] != next {
                    return Err(wrong("blocks must follow each other"));
                }
                open = Some(next);
                next += 1;
                let block = &event["content_block"];
                if block["type"] == "tool_use" {
                    seen.calls.push(Call {
                        id: string(&block["id"]),
                        name: string(&block["name"]),
                        arguments: String::new(),
                    });
                }
            }
            "content_block_delta" => {
                let delta = &event["delta"];
                seen.text += &string(&delta["text"]);
                seen.thinking += &string(&delta["thinking"]);
                if let Some(call) = seen.calls.last_mut() {
                    call.arguments += &string(&delta["partial_json"]);
                }
            }
            "content_block_stop" => open = None,
            "message_delta" => {
                seen.finish = string(&event["delta"]["stop_reason"]);
                for (key, value) in event["usage"].as_object().into_iter().flatten() {
                    usage[key] = value.clone();
                }
            }
            "message_stop" => last = Some(End::Proper),
            "error" => last = Some(End::Fault(string(&event["error"]["code"]))),
            "ping" => {}
            _ => return Err(wrong("an unknown event")),
        }
    }
    if last == Some(End::Proper) && open.is_some() {
        return Err("a block stays open".to_owned());
    }
    seen.usage = counts(Caller::Anthropic, &usage);
    Ok((seen, last.ok_or("no end")?))
}

fn responses(events: &[(String, String)]) -> Result<(Seen, End), String> {
    let mut last: Option<(Seen, End)> = None;
    let (mut text, mut thinking) = (String::new(), String::new());
    let mut arguments: Vec<(String, String)> = Vec::new();
    for (at, (name, data)) in events.iter().enumerate() {
        let event = parsed(data)?;
        let wrong = |what: &str| format!("{what}: {name} {data}");
        if last.is_some() || event["type"] != name.as_str() || event["sequence_number"] != at {
            return Err(wrong("an event that may not stand here"));
        }
        match name.as_str() {
            "response.output_text.delta" => text += &string(&event["delta"]),
            "response.reasoning_summary_text.delta" => thinking += &string(&event["delta"]),
            "response.output_item.added" if event["item"]["type"] == "function_call" => {
                arguments.push((string(&event["item"]["id"]), String::new()));
            }
            "response.function_call_arguments.delta" => {
                let known = arguments.iter_mut().find(|(id, _)| event["item_id"] == id.as_str());
                known.ok_or_else(|| wrong("a call that was not begun"))?.1 += &string(&event["delta"]);
            }
            "response.completed" | "response.incomplete" => {
                let mut seen = Seen::default();
                response(&event["response"], &mut seen);
                seen.usage = counts(Caller::Responses, &event["response"]["usage"]);
                let said: Vec<&String> = seen.calls.iter().map(|call| &call.arguments).collect();
                let streamed: Vec<&String> = arguments.iter().map(|(_, text)| text).collect();
                if (&seen.text, &seen.thinking) != (&text, &thinking) || said != streamed {
                    return Err(wrong("the end differs from what was streamed"));
                }
                last = Some((seen, End::Proper));
            }
            "response.failed" => {
                let code = string(&event["response"]["error"]["code"]);
                last = Some((Seen { text: text.clone(), ..Seen::default() }, End::Fault(code)));
            }
            "error" => {
                let code = string(&event["code"]);
                last = Some((Seen { text: text.clone(), ..Seen::default() }, End::Fault(code)));
            }
            _ => {}
        }
    }
    last.ok_or_else(|| "no end".to_owned())
}

fn gemini(events: &[(String, String)]) -> Result<(Seen, End), String> {
    let mut seen = Seen::default();
    let mut last = None;
    for (name, data) in events {
        let event = parsed(data)?;
        if last.is_some() || !name.is_empty() {
            return Err(format!("an event that may not stand here: {name} {data}"));
        }
        if event["error"].is_object() {
            expect(event["error"]["status"].is_string(), "error", &event)?;
            last = Some(End::Fault(string(&event["error"]["details"][0]["reason"])));
            continue;
        }
        candidate(&event, &mut seen);
        if event["usageMetadata"].is_object() {
            seen.usage = counts(Caller::Gemini, &event["usageMetadata"]);
        }
    }
    match last {
        Some(fault) => Ok((seen, fault)),
        None if seen.finish.is_empty() => Err("no reason for the end".to_owned()),
        None => Ok((seen, End::Proper)),
    }
}
