//! What each curated recording looks like in every inbound dialect, as text to read and review.
//! `UPDATE=1 cargo test -p millgate-dialect` rewrites the `.snap` files.

use std::fmt::Write as _;
use std::fs;

use millgate_dialect::codec;
use millgate_types::{Dialect, Event, Operation};
use serde_json::Value;

use crate::fixtures::{self, Recording};
use crate::recordings::decode;

fn whole(recording: &Recording, dialect: Dialect) -> String {
    let context = fixtures::context();
    let bytes = match codec(recording.dialect).decode_answer(recording.operation, &recording.body) {
        Ok(answer) => codec(dialect).encode_answer(&answer, &context),
        Err(fault) => codec(dialect).encode_fault(&fault, context.request_id),
    };
    let value: Value = serde_json::from_slice(&bytes).unwrap();
    let text = serde_json::to_string_pretty(&value).unwrap();
    text.replace(&context.request_id.to_string(), "REQUEST")
}

fn stream(recording: &Recording, dialect: Dialect) -> String {
    let context = fixtures::context();
    let mut encoder = codec(dialect).stream_encoder(recording.operation, &context);
    let mut bytes = Vec::new();
    for event in decode(recording, usize::MAX) {
        // Keep-alives say nothing about content.
        if !matches!(event, Event::Ping) {
            encoder.push(event, &mut bytes);
        }
    }
    String::from_utf8(bytes).unwrap().replace(&context.request_id.to_string(), "REQUEST")
}

#[test]
fn recordings_look_as_they_did_in_every_dialect() {
    let update = std::env::var_os("UPDATE").is_some();
    let mut differing = Vec::new();
    for recording in fixtures::curated() {
        let mut text = String::new();
        // The younger dialects show their own recordings only, and each other's.
        let younger = [Dialect::Gemini, Dialect::Responses];
        let all = [Dialect::OpenAi, Dialect::Anthropic, Dialect::Mlflow, Dialect::Cohere];
        let all = all.into_iter().chain(younger);
        for dialect in all {
            let chats_only = [Dialect::Anthropic, Dialect::Responses].contains(&dialect);
            let only = match recording.operation {
                Operation::Rerank => Some(Dialect::Cohere),
                Operation::Moderations => Some(Dialect::OpenAi),
                _ => None,
            };
            if only.is_some_and(|only| only != dialect) || only.is_none() && dialect == Dialect::Cohere {
                continue;
            }
            if chats_only && recording.operation != Operation::Chat
                || younger.contains(&dialect) && !younger.contains(&recording.dialect)
            {
                continue;
            }
            let shown = match recording.kind.as_str() {
                "response" => whole(&recording, dialect),
                "stream" => stream(&recording, dialect),
                _ => continue,
            };
            writeln!(text, "## {}\n\n{}\n", dialect.name(), shown.trim_end()).unwrap();
        }
        if text.is_empty() {
            continue;
        }
        let path = recording.path.with_extension("snap");
        if update {
            fs::write(&path, &text).unwrap();
        } else if fs::read_to_string(&path).unwrap_or_default() != text {
            differing.push(recording.id);
        }
    }
    assert!(
        differing.is_empty(),
        "changed; look at the difference with UPDATE=1 and git diff: {differing:#?}"
    );
}
