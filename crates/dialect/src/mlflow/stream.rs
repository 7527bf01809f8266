//! MLflow's chunks: its key order, nulls included, usage always.

use millgate_types::{Fault, Operation, Usage};
use serde_json::{Value, json};

use super::{encode, error};
use crate::json::Object;
use crate::openai::answer::{answer_id, finish_word};
use crate::stream::{ChunkWriter, Piece};
use crate::{Context, sse};

pub(super) struct ChunkOut {
    context: Context,
    chat: bool,
    head: Vec<u8>,
}

impl ChunkOut {
    pub(super) fn new(operation: Operation, context: &Context) -> Self {
        let chat = operation != Operation::Completions;
        let mut new = Self { context: context.clone(), chat, head: Vec::new() };
        new.start("", None);
        new
    }

    fn frame(&self, out: &mut Vec<u8>, choices: &Value, usage: Option<&Usage>) {
        sse::data(out, |out| {
            out.extend_from_slice(&self.head);
            out.extend_from_slice(b",\"choices\":");
            crate::json::write(out, choices);
            if self.chat {
                out.extend_from_slice(b",\"usage\":");
                match usage {
                    Some(_) => encode::usage(out, usage),
                    None => out.extend_from_slice(b"null"),
                }
                out.extend_from_slice(b",\"provider\":");
                crate::json::write(out, &self.context.provider);
            } else if usage.is_some() {
                out.extend_from_slice(b",\"usage\":");
                crate::json::write(out, &encode::three_counts(usage));
            }
            out.push(b'}');
        });
    }
}

impl ChunkWriter for ChunkOut {
    fn start(&mut self, id: &str, created: Option<u64>) {
        self.head.clear();
        let mut head = Object::new(&mut self.head);
        head.field("id", &answer_id(id, if self.chat { "chatcmpl-" } else { "cmpl-" }, &self.context));
        head.field("object", if self.chat { "chat.completion.chunk" } else { "text_completion_chunk" });
        head.field("created", &created.unwrap_or(self.context.created));
        head.field("model", &self.context.model);
    }

    fn chunk(&mut self, choice: u32, piece: &Piece<'_>, _logprobs: Option<&Value>, out: &mut Vec<u8>) {
        let finish = match piece {
            Piece::Finish(reason) => Some(finish_word(reason)),
            _ => None,
        };
        if !self.chat {
            let text = match piece {
                Piece::Text(text) => text,
                Piece::Finish(_) => "",
                _ => return,
            };
            return self.frame(out, &json!([{"index": choice, "finish_reason": finish, "text": text}]), None);
        }
        let (role, content, calls) = match piece {
            Piece::Role => (json!("assistant"), json!(""), Value::Null),
            // A refusal has no field of its own here; better shown as text than lost.
            Piece::Text(text) | Piece::Refusal(text) => (Value::Null, json!(text), Value::Null),
            Piece::Tool { index, id, name } => {
                let function = json!({"name": name, "arguments": ""});
                let call = json!({"index": index, "id": id, "type": "function", "function": function});
                (Value::Null, Value::Null, json!([call]))
            }
            Piece::Arguments { index, text } => {
                let function = json!({"name": null, "arguments": text});
                let call = json!({"index": index, "id": null, "type": null, "function": function});
                (Value::Null, Value::Null, json!([call]))
            }
            Piece::Finish(_) => (Value::Null, Value::Null, Value::Null),
            // MLflow's chunks have no place for these.
            Piece::Reasoning(_) | Piece::Details(_) | Piece::Citation { .. } => return,
        };
        let delta = json!({"role": role, "content": content, "tool_calls": calls});
        self.frame(out, &json!([{"index": choice, "finish_reason": finish, "delta": delta}]), None);
    }

    fn usage(&mut self, usage: &Usage, out: &mut Vec<u8>) {
        self.frame(out, &json!([]), Some(usage));
    }

    /// MLflow's clients read `data:` lines only.
    fn ping(&mut self, _out: &mut Vec<u8>) {}

    fn fault(&mut self, fault: &Fault, out: &mut Vec<u8>) {
        out.extend_from_slice(&error::event(fault, self.context.request_id));
    }

    fn done(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"data: [DONE]\n\n");
    }
}
