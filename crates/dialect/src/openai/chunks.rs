//! OpenAI's chunks, written.

use millgate_types::{Fault, Operation, Usage};
use serde_json::{Value, json};

use super::{answer, error as faults, usage};
use crate::json::Object;
use crate::stream::{ChunkWriter, Piece};
use crate::{Context, json, sse};

/// Writes OpenAI's chunks.
pub(crate) struct ChunkOut {
    context: Context,
    operation: Operation,
    /// Everything before `"choices"`; the same in each chunk.
    head: Vec<u8>,
}

impl ChunkOut {
    pub(crate) fn new(operation: Operation, context: &Context) -> Self {
        let mut new = Self { context: context.clone(), operation, head: Vec::new() };
        new.start("", None);
        new
    }

    fn frame(
        &self,
        out: &mut Vec<u8>,
        choices: impl FnOnce(&mut Vec<u8>),
        usage_part: impl FnOnce(&mut Vec<u8>),
    ) {
        sse::data(out, |out| {
            out.extend_from_slice(&self.head);
            out.extend_from_slice(b",\"choices\":[");
            choices(out);
            out.push(b']');
            usage_part(out);
            out.push(b'}');
        });
    }
}

impl ChunkWriter for ChunkOut {
    fn start(&mut self, id: &str, created: Option<u64>) {
        let chat = self.operation != Operation::Completions;
        self.head.clear();
        let mut head = Object::new(&mut self.head);
        head.field("id", &answer::answer_id(id, if chat { "chatcmpl-" } else { "cmpl-" }, &self.context));
        head.field("object", if chat { "chat.completion.chunk" } else { "text_completion" });
        head.field("created", &created.unwrap_or(self.context.created));
        head.string("model", &self.context.model);
    }

    fn chunk(&mut self, choice: u32, piece: &Piece<'_>, logprobs: Option<&Value>, out: &mut Vec<u8>) {
        let chat = self.operation != Operation::Completions;
        if !chat && !matches!(piece, Piece::Text(_) | Piece::Finish(_)) {
            return;
        }
        let finish = match piece {
            Piece::Finish(reason) => Some(*reason),
            _ => None,
        };
        let write = |out: &mut Vec<u8>| {
            let mut item = Object::new(out);
            item.field("index", &choice);
            if chat {
                delta(item.object("delta"), piece);
            } else {
                item.field("text", if let Piece::Text(text) = piece { *text } else { "" });
            }
            item.field("logprobs", &logprobs);
            item.field("finish_reason", &finish.map(answer::finish_word));
            item.some("native_finish_reason", finish.and_then(answer::native_finish).as_ref());
            item.end();
        };
        let null_usage = |out: &mut Vec<u8>| {
            if self.context.include_usage {
                out.extend_from_slice(b",\"usage\":null");
            }
        };
        self.frame(out, write, null_usage);
    }

    fn usage(&mut self, found: &Usage, out: &mut Vec<u8>) {
        if self.context.include_usage {
            let write = |out: &mut Vec<u8>| {
                out.extend_from_slice(b",\"usage\":");
                usage::write(out, found);
            };
            self.frame(out, |_| {}, write);
        }
    }

    fn ping(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(b": ping\n\n");
    }

    fn fault(&mut self, fault: &Fault, out: &mut Vec<u8>) {
        out.extend_from_slice(&faults::event(fault, self.context.request_id));
    }

    fn done(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"data: [DONE]\n\n");
    }
}

fn delta(mut delta: Object<'_>, piece: &Piece<'_>) {
    match piece {
        Piece::Role => {
            delta.field("role", "assistant");
            delta.field("content", "");
        }
        Piece::Text(text) => delta.string("content", text),
        Piece::Refusal(text) => delta.string("refusal", text),
        Piece::Reasoning(text) => delta.string("reasoning_content", text),
        Piece::Details(details) => delta.field("reasoning_details", details),
        Piece::Tool { .. } | Piece::Arguments { .. } => {
            let mut calls = delta.array("tool_calls");
            json::write(calls.item(), &tool_value(piece));
            calls.end();
        }
        Piece::Citation { citation, start, end } => match answer::annotation(citation, *start, *end) {
            Some(annotation) => delta.field("annotations", &[annotation]),
            None => delta.field("citations", &[citation]),
        },
        Piece::Finish(_) => {}
    }
    delta.end();
}

fn tool_value(piece: &Piece<'_>) -> Value {
    match piece {
        Piece::Tool { index, id, name } => {
            json!({"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": ""}})
        }
        Piece::Arguments { index, text } => json!({"index": index, "function": {"arguments": text}}),
        _ => Value::Null,
    }
}
