//! Properties over generated calls and answers.

use millgate_dialect::{aggregate, codec, replay};
use millgate_types::{
    Answer, Block, Call, ChatAnswer, ChatCall, Choice, CompletionCall, Dialect, EmbeddingCall,
    EmbeddingFormat, Event, Extra, FinishReason, MediaSource, Message, Operation, Prompt, Reasoning,
    ResponseFormat, Role, Sampling, Tool, ToolChoice, Usage,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde_json::{Map, json};

use crate::calls::{faithful, with_usage};
use crate::fixtures;

/// Any text that is not blank, quotes, line ends, emoji and all.
fn text() -> impl Strategy<Value = String> {
    "[ -~\u{e4}\u{1f600}\n\"\\\\]{0,12}[a-z]"
}

fn name() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9_-]{0,8}"
}

fn block_text() -> impl Strategy<Value = Block> {
    text().prop_map(Block::text)
}

fn image() -> impl Strategy<Value = Block> {
    prop_oneof![
        name().prop_map(|data| MediaSource::Base64 { media_type: "image/png".to_owned(), data }),
        name().prop_map(|host| MediaSource::Url(format!("https://{host}/x.png"))),
    ]
    .prop_map(|source| Block::Image { source, detail: None, cache_control: None })
}

fn tool_call() -> impl Strategy<Value = Block> {
    (name(), name(), option::of(text())).prop_map(|(id, name, value)| {
        let arguments = value.map_or(json!({}), |value| json!({"v": value})).to_string();
        Block::ToolCall { id, name, arguments, cache_control: None }
    })
}

fn user() -> impl Strategy<Value = Message> {
    vec(prop_oneof![block_text(), image()], 1..3).prop_map(|content| message(Role::User, content))
}

fn message(role: Role, content: Vec<Block>) -> Message {
    Message { role, name: None, content, extra: Map::new() }
}

fn reasoning() -> impl Strategy<Value = Block> {
    (text(), name()).prop_map(|(text, signature)| Block::Reasoning { text, signature: Some(signature) })
}

/// An assistant's turn and the results of the tools it calls.
fn exchange(several: bool) -> impl Strategy<Value = Vec<Message>> {
    (option::of(reasoning()), block_text(), vec((tool_call(), text()), 0..3)).prop_map(
        move |(thinking, said, calls)| {
            let mut content: Vec<Block> = thinking.into_iter().chain([said]).collect();
            let mut results = Vec::new();
            for (place, (call, result)) in calls.into_iter().enumerate() {
                if let Block::ToolCall { name, arguments, .. } = call {
                    let id = format!("call_{place}");
                    results.push(Block::ToolResult {
                        call_id: id.clone(),
                        content: vec![Block::text(result)],
                        is_error: false,
                        cache_control: None,
                    });
                    content.push(Block::ToolCall { id, name, arguments, cache_control: None });
                }
            }
            let mut turns = vec![message(Role::Assistant, content)];
            if several && !results.is_empty() {
                turns.push(message(Role::Tool, results));
            } else {
                turns.extend(results.into_iter().map(|result| message(Role::Tool, vec![result])));
            }
            turns
        },
    )
}

fn tool() -> impl Strategy<Value = Tool> {
    (name(), option::of(text()), option::of(any::<bool>())).prop_map(|(name, description, strict)| Tool {
        name,
        description,
        parameters: Some(json!({"type": "object", "properties": {"v": {"type": "string"}}})),
        strict,
        other: None,
        cache_control: None,
    })
}

fn sampling(most: f64) -> impl Strategy<Value = Sampling> {
    (option::of(0.0..most), option::of(0.0..1.0), option::of(1_u64..100), vec(text(), 0..3)).prop_map(
        |(temperature, top_p, top_k, stop)| Sampling {
            temperature,
            top_p,
            top_k,
            stop,
            ..Sampling::default()
        },
    )
}

/// Calls in the normal form of a dialect: what decoding gives.
fn chat(dialect: Dialect) -> impl Strategy<Value = Call> {
    let anthropic = dialect == Dialect::Anthropic;
    let turns = (user(), vec((exchange(anthropic), user()), 0..3));
    let head = (name(), option::of(text()), any::<bool>(), option::of(name()), 1..5000_u64);
    let tools = (vec(tool(), 1..3), 0..5_u8, option::of(any::<bool>()));
    (head, turns, tools, sampling(if anthropic { 1.0 } else { 2.0 }), 0..4_u8).prop_map(
        move |(
            (model, system, stream, user, limit),
            (first, rest),
            (tools, choice, parallel),
            sampling,
            format,
        )| {
            let mut messages: Vec<Message> =
                system.map(|text| message(Role::System, vec![Block::text(text)])).into_iter().collect();
            messages.push(first);
            for (turns, user) in rest {
                messages.extend(turns);
                messages.push(user);
            }
            let schema = json!({"type": "object"});
            let mut call = ChatCall {
                model,
                messages,
                tool_choice: match choice {
                    0 => None,
                    1 => Some(ToolChoice::Auto),
                    2 => Some(ToolChoice::None),
                    3 => Some(ToolChoice::Required),
                    _ => Some(ToolChoice::Named(tools[0].name.clone())),
                },
                parallel_tool_calls: parallel,
                tools,
                response_format: (format == 1).then(|| ResponseFormat::JsonSchema {
                    name: "response".to_owned(),
                    description: None,
                    schema,
                    strict: Some(true),
                }),
                max_output_tokens: Some(limit),
                sampling,
                reasoning: (format == 2)
                    .then(|| Reasoning { effort: Some("high".to_owned()), ..Reasoning::default() }),
                stream,
                include_usage: anthropic || stream,
                user,
                extra: Extra::none(dialect),
            };
            call.extra.fields.insert("future_field".to_owned(), json!({"a": [1, 2.5, null]}));
            if anthropic && matches!(call.tool_choice, None | Some(ToolChoice::None)) {
                call.parallel_tool_calls = None;
            }
            Call::Chat(Box::new(call))
        },
    )
}

fn answer() -> impl Strategy<Value = ChatAnswer> {
    let content = (option::of(reasoning()), option::of(block_text()), vec(tool_call(), 0..3));
    let finish =
        prop_oneof![Just(FinishReason::Stop), Just(FinishReason::Length), Just(FinishReason::ContentFilter)];
    let usage = (0..1000_u64, 0..1000_u64, 0..1000_u64, 0..1000_u64, 0..1000_u64);
    (name(), content, finish, usage).prop_map(|(id, (thinking, said, calls), finish, usage)| {
        let (input, cache_read, cache_write, output, reasoning) = usage;
        let has_calls = !calls.is_empty();
        let calls = calls.into_iter().enumerate().map(|(place, block)| match block {
            Block::ToolCall { name, arguments, .. } => {
                Block::ToolCall { id: format!("call_{place}"), name, arguments, cache_control: None }
            }
            other => other,
        });
        let choice = Choice {
            index: 0,
            content: thinking.into_iter().chain(said).chain(calls).collect(),
            finish: Some(if has_calls { FinishReason::ToolCalls } else { finish }),
            stop_sequence: None,
            logprobs: None,
            extra: Map::new(),
        };
        ChatAnswer {
            id: format!("msg_{id}"),
            created: Some(7),
            model: "shown".to_owned(),
            choices: vec![choice],
            usage: Some(Usage { input, cache_read, cache_write, output, reasoning, ..Usage::default() }),
            dialect: Dialect::OpenAi,
            extra: Map::new(),
        }
    })
}

fn stream_of(dialect: Dialect, answer: &ChatAnswer) -> Vec<u8> {
    let mut encoder = codec(dialect).stream_encoder(Operation::Chat, &fixtures::context());
    let mut bytes = Vec::new();
    for event in replay(Answer::Chat(answer.clone())) {
        encoder.push(event, &mut bytes);
    }
    bytes
}

fn decode(dialect: Dialect, parts: &[&[u8]]) -> Vec<Event> {
    let mut decoder = codec(dialect).stream_decoder(Operation::Chat);
    let mut events = Vec::new();
    for part in parts {
        decoder.push(part, &mut events);
    }
    decoder.finish(&mut events);
    events
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_call_survives_its_own_dialect(openai in chat(Dialect::OpenAi), anthropic in chat(Dialect::Anthropic)) {
        for (dialect, call) in [(Dialect::OpenAi, openai), (Dialect::Anthropic, anthropic)] {
            let encoded = codec(dialect).encode_call(&call, &faithful()).unwrap();
            prop_assert!(encoded.dropped.is_empty(), "{:?}", encoded.dropped);
            let again = codec(dialect).decode_call(Operation::Chat, &encoded.body).unwrap();
            prop_assert_eq!(again, call);
        }
    }

    #[test]
    fn other_calls_survive_too(model in name(), prompt in vec(text(), 1..4), stream: bool, dimensions in option::of(1..9_u64)) {
        let mut call = Call::Completion(CompletionCall {
            model: model.clone(), prompt: Prompt::Texts(prompt.clone()), max_output_tokens: dimensions,
            sampling: Sampling::default(), stream, include_usage: false, user: None, extra: Extra::none(Dialect::OpenAi),
        });
        with_usage(&mut call);
        let encoded = codec(Dialect::OpenAi).encode_call(&call, &faithful()).unwrap();
        prop_assert_eq!(codec(Dialect::OpenAi).decode_call(Operation::Completions, &encoded.body).unwrap(), call);
        let call = Call::Embedding(EmbeddingCall {
            model, input: Prompt::Texts(prompt), dimensions, format: EmbeddingFormat::Base64, user: None,
            extra: Extra::none(Dialect::OpenAi),
        });
        let encoded = codec(Dialect::OpenAi).encode_call(&call, &faithful()).unwrap();
        prop_assert_eq!(codec(Dialect::OpenAi).decode_call(Operation::Embeddings, &encoded.body).unwrap(), call);
    }

    /// The same content as a whole and as a stream.
    #[test]
    fn a_stream_adds_up_to_the_whole(answer in answer()) {
        for dialect in [Dialect::OpenAi, Dialect::Anthropic] {
            let mut expected = answer.clone();
            expected.dialect = dialect;
            if dialect == Dialect::Anthropic {
                expected.created = None;
            } else {
                let usage = expected.usage.as_mut().unwrap();
                usage.cache_read = usage.cache_read.min(usage.prompt_total());
            }
            let bytes = stream_of(dialect, &answer);
            let streamed = aggregate(dialect, Operation::Chat, decode(dialect, &[&bytes])).unwrap();
            prop_assert_eq!(&streamed, &Answer::Chat(expected));
            let whole = codec(dialect).encode_answer(&Answer::Chat(answer.clone()), &fixtures::context());
            let whole = codec(dialect).decode_answer(Operation::Chat, &whole).unwrap();
            prop_assert_eq!(&streamed, &whole);
        }
    }

    /// The younger dialects sign and name things their own way; what is said and called is the same.
    #[test]
    fn an_answer_says_the_same_in_every_dialect(answer in answer()) {
        let said = |answer: &Answer| match answer {
            Answer::Chat(answer) => answer.choices[0].content.iter().map(|block| match block {
                Block::Reasoning { text, .. } => format!("thinking {text}"),
                Block::ToolCall { id, name, arguments, .. } => {
                    let arguments: serde_json::Value = serde_json::from_str(arguments).unwrap();
                    format!("call {id} {name} {arguments}")
                }
                other => format!("{other:?}"),
            }).chain([format!("{:?} {:?}", answer.choices[0].finish, answer.usage.map(|usage| usage.total()))]).collect::<Vec<_>>(),
            other => vec![format!("{other:?}")],
        };
        let answer = Answer::Chat(answer);
        let Answer::Chat(chat) = &answer else { return Ok(()) };
        for dialect in [Dialect::Gemini, Dialect::Responses] {
            let whole = codec(dialect).encode_answer(&answer, &fixtures::context());
            let whole = codec(dialect).decode_answer(Operation::Chat, &whole).unwrap();
            let streamed = aggregate(dialect, Operation::Chat, decode(dialect, &[&stream_of(dialect, chat)])).unwrap();
            prop_assert_eq!(said(&whole), said(&answer), "{:?}", dialect);
            prop_assert_eq!(said(&streamed), said(&whole), "{:?}", dialect);
        }
    }

    #[test]
    fn every_split_gives_the_same_events(answer in answer(), cuts in vec(any::<prop::sample::Index>(), 0..8)) {
        for dialect in [Dialect::OpenAi, Dialect::Anthropic, Dialect::Gemini, Dialect::Responses] {
            let bytes = stream_of(dialect, &answer);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
            cuts.sort_unstable();
            let mut parts = Vec::new();
            let mut from = 0;
            for cut in cuts.into_iter().chain([bytes.len()]) {
                parts.push(&bytes[from..cut]);
                from = cut;
            }
            prop_assert_eq!(format!("{:?}", decode(dialect, &parts)), format!("{:?}", decode(dialect, &[&bytes])));
        }
    }

    #[test]
    fn vectors_come_back_bit_for_bit(values in vec(-1.0e3_f32..1.0e3, 0..40), base64: bool) {
        let answer = Answer::Embedding(millgate_types::EmbeddingAnswer {
            model: "shown".to_owned(),
            data: vec![millgate_types::Embedding { index: 0, values }],
            usage: Some(Usage { input: 3, ..Usage::default() }),
            dialect: Dialect::OpenAi,
            extra: Map::new(),
        });
        let mut context = fixtures::context();
        context.embedding_format = if base64 { EmbeddingFormat::Base64 } else { EmbeddingFormat::Float };
        for dialect in [Dialect::OpenAi, Dialect::Mlflow] {
            let bytes = codec(dialect).encode_answer(&answer, &context);
            prop_assert_eq!(&codec(dialect).decode_answer(Operation::Embeddings, &bytes).unwrap(), &answer);
        }
    }

    /// Bytes of any kind never panic a decoder.
    #[test]
    fn noise_is_refused_in_peace(bytes in vec(any::<u8>(), 0..200), json in "[\\[\\]{}\":,a-z0-9 ]{0,60}") {
        for codec in millgate_dialect::DIALECTS {
            let dialect = codec.dialect();
            for operation in [Operation::Chat, Operation::CountTokens, Operation::Completions, Operation::Embeddings, Operation::Rerank,
                Operation::Moderations, Operation::Predict, Operation::Native] {
                for body in [&bytes, json.as_bytes()] {
                    let _ = codec.decode_call(operation, body);
                    let _ = codec.decode_answer(operation, body);
                    let _ = codec.decode_error(500, body);
                    for framed in [[b"data: ", body, b"\n\n"].concat(), [body, b"\n"].concat()] {
                        let mut decoder = codec.stream_decoder(operation);
                        let mut events = Vec::new();
                        decoder.push(&framed, &mut events);
                        decoder.finish(&mut events);
                        let ended = matches!(events.last(), Some(Event::Error(_) | Event::End));
                        prop_assert!(ended, "{dialect:?}");
                    }
                }
            }
        }
    }
}
