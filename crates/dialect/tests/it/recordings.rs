//! Every recording decodes, keeps its numbers straight and can be shown in every dialect.

use millgate_dialect::{aggregate, codec, eventstream, replay};
use millgate_types::{Answer, Block, Dialect, Event, Operation, Usage};
use serde_json::Value;

use crate::fixtures::{self, Recording};

const INBOUND: [Dialect; 5] =
    [Dialect::OpenAi, Dialect::Responses, Dialect::Anthropic, Dialect::Gemini, Dialect::Mlflow];

/// The dialects that callers ask for the operation in.
fn inbound(operation: Operation) -> &'static [Dialect] {
    match operation {
        Operation::Chat => &INBOUND,
        Operation::Rerank => &[Dialect::Cohere],
        Operation::Moderations => &[Dialect::OpenAi],
        _ => &[Dialect::OpenAi, Dialect::Mlflow],
    }
}

pub(crate) fn decode(recording: &Recording, chunk: usize) -> Vec<Event> {
    let mut decoder = codec(recording.dialect).stream_decoder(recording.operation);
    let mut events = Vec::new();
    for piece in recording.body.chunks(chunk.max(1)) {
        decoder.push(piece, &mut events);
    }
    decoder.finish(&mut events);
    events
}

/// Runs the check on each recording and names all that fail.
fn each(kind: &str, least: usize, check: impl Fn(&Recording)) {
    let recordings: Vec<Recording> =
        fixtures::all().into_iter().filter(|recording| kind.is_empty() || recording.kind == kind).collect();
    let fails = |recording: &&Recording| {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(recording))).is_err()
    };
    let failed: Vec<&str> = recordings.iter().filter(fails).map(|recording| recording.id.as_str()).collect();
    assert!(failed.is_empty(), "{} of {} failed: {failed:#?}", failed.len(), recordings.len());
    assert!(recordings.len() >= least, "only {} recordings of kind `{kind}`", recordings.len());
    eprintln!("{} recordings of kind `{kind}`", recordings.len());
}

fn shown(events: &[Event]) -> String {
    events.iter().map(|event| format!("{event:?}")).collect::<Vec<_>>().join("\n")
}

/// The last usage object in the raw bytes.
fn raw_usage(recording: &Recording) -> Vec<Value> {
    let mut found = Vec::new();
    let mut look = |value: Value| {
        for usage in [
            &value["usage"],
            &value["message"]["usage"],
            &value["x_groq"]["usage"],
            &value["usageMetadata"],
            &value["meta"]["billed_units"],
            &value["response"]["usage"],
        ] {
            if usage.is_object() {
                found.push(usage.clone());
            }
        }
    };
    if recording.dialect == Dialect::Bedrock && recording.kind == "stream" {
        let read = eventstream::Parser::new().push(&recording.body, |frame| {
            look(serde_json::from_slice(frame.payload).unwrap());
            true
        });
        read.unwrap();
    } else if let Ok(Value::Array(items)) = serde_json::from_slice(&recording.body) {
        items.into_iter().for_each(look);
    } else if recording.kind == "stream" {
        for line in String::from_utf8_lossy(&recording.body).lines() {
            if let Some(data) = line.strip_prefix("data:")
                && let Ok(value) = serde_json::from_str::<Value>(data.trim())
            {
                look(value);
            }
        }
    } else {
        look(serde_json::from_slice(&recording.body).unwrap());
    }
    found
}

/// `contracts/providers.md` 1.2.
fn check_usage(recording: &Recording, usage: Option<Usage>) {
    if recording.dialect == Dialect::Cohere && recording.operation != Operation::Rerank {
        check_cohere(recording, usage);
        return;
    }
    if recording.dialect == Dialect::Ollama {
        let text = String::from_utf8_lossy(&recording.body);
        let last = text.trim().lines().next_back().unwrap_or_default().to_owned();
        let value: Value = serde_json::from_str(&last).unwrap();
        let count = |key: &str| value[key].as_u64().unwrap_or(0);
        let usage = usage.unwrap_or_default();
        assert_eq!(usage.prompt_total(), count("prompt_eval_count"), "{}", recording.id);
        assert_eq!(usage.completion_total(), count("eval_count"), "{}", recording.id);
        return;
    }
    let raw = raw_usage(recording);
    let id = &recording.id;
    if raw.is_empty() && recording.operation == Operation::Embeddings && recording.dialect != Dialect::OpenAi
    {
        // Bedrock and Vertex AI count without a usage object.
        let text = String::from_utf8_lossy(&recording.body);
        let counts = ["inputTextTokenCount", "token_count"].iter().any(|key| text.contains(key));
        assert_eq!(usage.is_some_and(|usage| usage.input > 0), counts, "{id}: {usage:?}");
        return;
    }
    if raw.is_empty() {
        assert_eq!(usage, None, "{id}: usage out of nowhere");
        return;
    }
    let count = |key: &str| raw.iter().rev().find_map(|usage| usage[key].as_f64()).map(|count| count as u64);
    if recording.dialect == Dialect::Gemini {
        let Some(usage) = usage else {
            assert!(count("promptTokenCount").is_none(), "{id}: usage lost: {raw:?}");
            return;
        };
        let last = |key: &str| count(key).unwrap_or(0);
        assert_eq!(usage.prompt_total(), last("promptTokenCount") + last("toolUsePromptTokenCount"), "{id}");
        assert_eq!(
            usage.completion_total(),
            last("candidatesTokenCount") + last("thoughtsTokenCount"),
            "{id}"
        );
        if count("totalTokenCount").is_some() {
            assert_eq!(usage.total(), last("totalTokenCount"), "{id}: {raw:?}");
        }
        return;
    }
    if recording.dialect == Dialect::Bedrock {
        let usage = usage.unwrap_or_else(|| panic!("{id}: usage lost: {raw:?}"));
        let last = |key: &str| count(key).unwrap_or(0);
        let cached = last("cacheReadInputTokens") + last("cacheWriteInputTokens");
        assert_eq!(usage.prompt_total(), last("inputTokens") + cached, "{id}: {raw:?}");
        assert_eq!(usage.completion_total(), last("outputTokens"), "{id}: {raw:?}");
        assert_eq!(usage.total(), last("totalTokens"), "{id}: {raw:?}");
        return;
    }
    if recording.operation == Operation::Rerank && count("total_tokens").is_none() {
        let searches = usage.and_then(|usage| usage.billed).map(|billed| billed.search_units);
        assert_eq!(searches, count("search_units"), "{id}: {raw:?}");
        return;
    }
    let Some(usage) = usage else {
        assert!(count("total_tokens").or(count("output_tokens")).is_none(), "{id}: usage lost: {raw:?}");
        return;
    };
    if recording.dialect == Dialect::Anthropic {
        let cached =
            count("cache_read_input_tokens").unwrap_or(0) + count("cache_creation_input_tokens").unwrap_or(0);
        assert_eq!(usage.prompt_total(), count("input_tokens").unwrap_or(0) + cached, "{id}: {raw:?}");
        assert_eq!(usage.completion_total(), count("output_tokens").unwrap_or(0), "{id}: {raw:?}");
        return;
    }
    if recording.dialect == Dialect::Responses {
        let (input, output) = (count("input_tokens").unwrap_or(0), count("output_tokens").unwrap_or(0));
        assert_eq!((usage.prompt_total(), usage.completion_total()), (input, output), "{id}: {raw:?}");
        assert_eq!(Some(usage.total()), count("total_tokens"), "{id}: {raw:?}");
        return;
    }
    if let (Some(total), Some(prompt)) = (count("total_tokens"), count("prompt_tokens")) {
        let completion = count("completion_tokens").unwrap_or(0);
        let expected = total.max(prompt + completion);
        // One OpenRouter stream with an error reports more reasoning than completion.
        assert_eq!(usage.total(), expected, "{id}: {usage:?} {raw:?}");
    }
}

/// What the model saw in disjoint classes, and what is billed beside it.
fn check_cohere(recording: &Recording, usage: Option<Usage>) {
    let text = String::from_utf8_lossy(&recording.body);
    let lines = text.lines().map(|line| line.trim_start_matches("data:"));
    let mut values = lines.filter_map(|line| serde_json::from_str::<Value>(line.trim()).ok());
    let found = values.find_map(|value| {
        let places = [&value["usage"], &value["delta"]["usage"], &value["meta"]];
        places.into_iter().find(|place| place.is_object()).cloned()
    });
    let (Some(found), Some(usage)) = (found, usage) else { panic!("{}: usage lost", recording.id) };
    let count = |value: &Value| value.as_f64().unwrap_or(0.0) as u64;
    let billed = usage.billed.unwrap_or_default();
    let units = &found["billed_units"];
    assert_eq!(billed.input, count(&units["input_tokens"]), "{}", recording.id);
    assert_eq!(billed.output, count(&units["output_tokens"]), "{}", recording.id);
    let tokens = if recording.operation == Operation::Chat { &found["tokens"] } else { units };
    let prompt = count(&tokens["input_tokens"]) + count(&tokens["image_tokens"]);
    assert_eq!(usage.prompt_total(), prompt, "{}: {found}", recording.id);
    assert_eq!(usage.completion_total(), count(&tokens["output_tokens"]), "{}: {found}", recording.id);
    assert_eq!(usage.cache_read, count(&found["cached_tokens"]), "{}: {found}", recording.id);
}

fn show(recording: &Recording, answer: &Answer) {
    for dialect in inbound(recording.operation).iter().copied() {
        let text = codec(dialect).encode_answer(answer, &fixtures::context());
        let value: Value = serde_json::from_slice(&text).unwrap();
        let id = &recording.id;
        if dialect == Dialect::Anthropic {
            assert_eq!(value["type"], "message", "{id}");
            assert!(value["usage"]["input_tokens"].is_u64(), "{id}");
            continue;
        }
        let key = if dialect == Dialect::Gemini { "modelVersion" } else { "model" };
        assert_eq!(value[key], "shown", "{id}");
        let again = codec(dialect).decode_answer(recording.operation, &text).unwrap();
        if let (Some(first), Some(second)) = (answer.usage(), again.usage()) {
            assert_eq!(first.total(), second.total(), "{id}");
        }
        if dialect == recording.dialect {
            assert_eq!(text_and_tools(answer), text_and_tools(&again), "{id}");
        }
    }
}

fn text_and_tools(answer: &Answer) -> (String, Vec<(String, String, String)>) {
    let answer = match answer {
        Answer::Chat(answer) => answer,
        Answer::Rerank(answer) => return (format!("{:?} {:?}", answer.results, answer.usage), Vec::new()),
        Answer::Moderation(answer) => return (format!("{:?}", answer.results), Vec::new()),
        other => return (format!("{:?}", other.usage()), Vec::new()),
    };
    let (mut text, mut tools) = (String::new(), Vec::new());
    for block in answer.choices.iter().flat_map(|choice| &choice.content) {
        match block {
            Block::Text { text: more, .. } | Block::Refusal { text: more } => text.push_str(more),
            Block::ToolCall { id, name, arguments, .. } => {
                // Some dialects write arguments as objects: blanks are not kept, and text that is no object
                // is wrapped.
                let arguments = match serde_json::from_str::<Value>(arguments) {
                    Ok(value) => value["_raw"].as_str().map_or_else(|| value.to_string(), str::to_owned),
                    Err(_) => arguments.clone(),
                };
                tools.push((id.clone(), name.clone(), arguments));
            }
            _ => {}
        }
    }
    (text, tools)
}

#[test]
fn every_whole_answer_decodes_and_shows_in_every_dialect() {
    each("response", 30, |recording| {
        let answer = match codec(recording.dialect).decode_answer(recording.operation, &recording.body) {
            Ok(answer) => answer,
            Err(_) if recording.has("error_in_200") => return,
            // 8-bit vectors, which this dialect has no name for.
            Err(_) if recording.provider == "perplexity" && recording.operation == Operation::Embeddings => {
                return;
            }
            Err(fault) => panic!("{}: {fault:?}", recording.id),
        };
        check_usage(recording, answer.usage());
        show(recording, &answer);
    });
}

#[test]
fn every_stream_decodes_whole_and_shows_in_every_dialect() {
    each("stream", 15, |recording| {
        let events = decode(recording, usize::MAX);
        let id = &recording.id;
        let broken =
            ["mid_stream_error", "error_in_200", "truncated"].iter().any(|feature| recording.has(feature));
        match events.last() {
            Some(Event::End) => {}
            Some(Event::Error(_)) if broken => {}
            last => panic!("{id}: ends with {last:?}"),
        }
        for size in [1, 7, 1000] {
            assert_eq!(shown(&decode(recording, size)), shown(&events), "{id} in chunks of {size}");
        }
        let usage = events.iter().rev().find_map(|event| match event {
            Event::Usage(usage) => Some(*usage),
            Event::Start { usage, .. } => *usage,
            _ => None,
        });
        check_usage(recording, usage);
        show_stream(recording, &events);
    });
}

fn show_stream(recording: &Recording, events: &[Event]) {
    let id = &recording.id;
    let whole = aggregate(recording.dialect, recording.operation, decode(recording, usize::MAX));
    for dialect in inbound(recording.operation).iter().copied() {
        let mut encoder = codec(dialect).stream_encoder(recording.operation, &fixtures::context());
        let mut bytes = Vec::new();
        for event in decode(recording, usize::MAX) {
            encoder.push(event, &mut bytes);
        }
        let mut decoder = codec(dialect).stream_decoder(recording.operation);
        let mut again = Vec::new();
        decoder.push(&bytes, &mut again);
        decoder.finish(&mut again);
        let ended = matches!(events.last(), Some(Event::End));
        assert_eq!(matches!(again.last(), Some(Event::End)), ended, "{id} as {dialect:?}: {again:?}");
        assert_eq!(matches!(again.last(), Some(Event::Error(_))), !ended, "{id} as {dialect:?}");
        if let (Ok(whole), true) = (&whole, ended) {
            let again = aggregate(dialect, recording.operation, again).unwrap();
            if choices(whole) < 2 {
                assert_eq!(text_and_tools(whole), text_and_tools(&again), "{id} as {dialect:?}");
            }
            assert_eq!(
                whole.usage().map(|usage| usage.total()),
                again.usage().map(|usage| usage.total()).filter(|_| whole.usage().is_some()),
                "{id} as {dialect:?}"
            );
        }
    }
}

fn choices(answer: &Answer) -> usize {
    match answer {
        Answer::Chat(answer) => answer.choices.len(),
        Answer::Completion(answer) => answer.choices.len(),
        Answer::Embedding(_) | Answer::Rerank(_) | Answer::Moderation(_) => 0,
    }
}

#[test]
fn every_error_body_gives_its_message() {
    each("error", 5, |recording| {
        let error = codec(recording.dialect).decode_error(recording.status, &recording.body);
        let json = serde_json::from_slice::<Value>(&recording.body)
            .is_ok_and(|value| value.as_object().is_some_and(|map| !map.is_empty()));
        assert!(!json || error.message.is_some(), "{}: {error:?}", recording.id);
    });
}

#[test]
fn every_recorded_request_is_understood_and_survives_its_own_dialect() {
    each("", 60, |recording| {
        let Some(request) = &recording.request else { return };
        let codec_of = codec(recording.dialect);
        // No caller speaks these: their own requests are compared in another test.
        let foreign = [Dialect::Cohere, Dialect::Ollama].contains(&recording.dialect);
        if foreign && recording.operation != Operation::Rerank {
            return;
        }
        let call = match codec_of.decode_call(recording.operation, request.to_string().as_bytes()) {
            Ok(call) => call,
            // What the provider refused, we may refuse too.
            Err(_) if recording.kind == "error" => return,
            // What only the provider itself can do.
            Err(fault) if recording.dialect == Dialect::Responses => {
                assert_eq!(fault.code.name, "unsupported_parameter", "{}: {fault:?}", recording.id);
                return;
            }
            Err(fault) => panic!("{}: {fault:?} {:?}", recording.id, fault.param),
        };
        let quirks = crate::calls::faithful();
        let encoded = codec_of.encode_call(&call, &quirks).unwrap();
        let again = codec_of.decode_call(recording.operation, &encoded.body).unwrap();
        if recording.dialect == Dialect::Responses {
            assert_eq!(crate::calls::as_responses(call.clone()), again, "{}", recording.id);
        }
        if recording.dialect == Dialect::OpenAi {
            let mut call = call.clone();
            crate::calls::with_usage(&mut call);
            assert_eq!(call, again, "{}", recording.id);
        }
        if recording.dialect == Dialect::Gemini {
            // An id that looks as if we had made it is made anew.
            if !format!("{call:?}").contains("call_320") {
                assert_eq!(call, again, "{}", recording.id);
            }
        }
        for dialect in INBOUND {
            if dialect == Dialect::Anthropic && recording.operation == Operation::Embeddings {
                continue;
            }
            if let Ok(encoded) = codec(dialect).encode_call(&call, &quirks) {
                let value: Value = serde_json::from_slice(&encoded.body).unwrap();
                assert!(value.is_object());
            }
        }
    });
}

#[test]
fn a_replayed_answer_aggregates_to_itself() {
    each("response", 30, |recording| {
        if let Ok(Answer::Chat(mut answer)) =
            codec(recording.dialect).decode_answer(recording.operation, &recording.body)
        {
            answer.extra.clear();
            for choice in &mut answer.choices {
                choice.extra.clear();
                choice.logprobs = None;
                choice.finish.get_or_insert(millgate_types::FinishReason::Stop);
            }
            let again =
                aggregate(answer.dialect, Operation::Chat, replay(Answer::Chat(answer.clone()))).unwrap();
            assert_eq!(again, Answer::Chat(answer), "{}", recording.id);
        }
    });
}
