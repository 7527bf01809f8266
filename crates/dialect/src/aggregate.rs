//! From events to a whole answer and back: for callers without a stream in front of targets with one, for
//! caches, and for the other way round.

use millgate_types::{
    Answer, Block, BlockKind, ChatAnswer, Choice, Delta, Dialect, Event, Fault, FinishReason, Operation,
    Usage,
};
use serde_json::{Map, Value, json};

use crate::{completion, error};

/// Collects a stream into a whole answer.
pub struct Aggregator {
    dialect: Dialect,
    operation: Operation,
    id: String,
    model: String,
    created: Option<u64>,
    usage: Option<Usage>,
    choices: Vec<Choice>,
    blocks: Vec<Place>,
    fault: Option<Fault>,
    ended: bool,
}

/// Where a block of the stream went. Its position is kept, so a block that starts later stands later.
struct Place {
    choice: u32,
    block: u32,
    position: usize,
    arguments: String,
}

impl Aggregator {
    /// Nothing yet. `dialect` is the provider's.
    #[must_use]
    pub fn new(dialect: Dialect, operation: Operation) -> Self {
        Self {
            dialect,
            operation,
            id: String::new(),
            model: String::new(),
            created: None,
            usage: None,
            choices: Vec::new(),
            blocks: Vec::new(),
            fault: None,
            ended: false,
        }
    }

    /// Takes the next event.
    pub fn push(&mut self, event: Event) {
        match event {
            Event::Start { id, model, created, usage } => {
                self.id = id;
                self.model = model;
                self.created = created;
                self.usage = usage.or(self.usage);
            }
            Event::BlockStart { choice, block, kind } => {
                let content = &mut self.choice(choice).content;
                content.push(begin(kind));
                let position = content.len() - 1;
                self.blocks.push(Place { choice, block, position, arguments: String::new() });
            }
            Event::BlockDelta { choice, block, delta } => self.delta(choice, block, delta),
            Event::BlockStop { choice, block } => self.stop(choice, block),
            Event::Finish { choice, reason, stop_sequence } => {
                let choice = self.choice(choice);
                choice.finish = Some(reason);
                choice.stop_sequence = stop_sequence;
            }
            Event::Usage(usage) => self.usage = Some(usage),
            Event::Ping => {}
            Event::Error(fault) => self.fault = Some(fault),
            Event::End => self.ended = true,
        }
    }

    /// What was consumed, as far as known.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// The answer; the stream's own fault, or [`millgate_types::code::STREAM_INTERRUPTED`] without an end.
    pub fn finish(mut self) -> Result<Answer, Fault> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        if !self.ended {
            return Err(error::interrupted());
        }
        Ok(self.partial())
    }

    /// The answer as far as it came, whatever happened after.
    #[must_use]
    pub fn partial(mut self) -> Answer {
        while let Some(place) = self.blocks.last() {
            let (choice, block) = (place.choice, place.block);
            self.stop(choice, block);
        }
        self.choices.sort_by_key(|choice| choice.index);
        let answer = ChatAnswer {
            id: self.id,
            created: self.created,
            model: self.model,
            choices: self.choices,
            usage: self.usage,
            dialect: self.dialect,
            extra: Map::new(),
        };
        match self.operation {
            Operation::Completions => Answer::Completion(completion::chat_as_completion(answer)),
            _ => Answer::Chat(answer),
        }
    }

    fn choice(&mut self, index: u32) -> &mut Choice {
        let place = self.choices.iter().position(|choice| choice.index == index).unwrap_or_else(|| {
            self.choices.push(Choice {
                index,
                content: Vec::new(),
                finish: None,
                stop_sequence: None,
                logprobs: None,
                extra: Map::new(),
            });
            self.choices.len() - 1
        });
        &mut self.choices[place]
    }

    fn delta(&mut self, choice: u32, block: u32, delta: Delta) {
        let Some(place) =
            self.blocks.iter().rposition(|place| place.choice == choice && place.block == block)
        else {
            return;
        };
        if let Delta::Other { dialect: Dialect::OpenAi, value } = delta {
            return merge_other(self.choice(choice), value);
        }
        let position = self.blocks[place].position;
        if let Delta::Arguments(more) = delta {
            return self.blocks[place].arguments.push_str(&more);
        }
        match (&mut self.choice(choice).content[position], delta) {
            (
                Block::Text { text, .. } | Block::Reasoning { text, .. } | Block::Refusal { text },
                Delta::Text(more),
            ) => text.push_str(&more),
            (Block::Reasoning { signature, .. }, Delta::Signature(more)) => {
                signature.get_or_insert_default().push_str(&more);
            }
            (Block::Text { citations, .. }, Delta::Citation(citation)) => citations.push(citation),
            _ => {}
        }
    }

    fn stop(&mut self, choice: u32, block: u32) {
        let Some(place) =
            self.blocks.iter().rposition(|place| place.choice == choice && place.block == block)
        else {
            return;
        };
        let place = self.blocks.remove(place);
        match &mut self.choice(choice).content[place.position] {
            Block::ToolCall { arguments, .. } => {
                *arguments =
                    if place.arguments.trim().is_empty() { "{}".to_owned() } else { place.arguments };
            }
            Block::Other { value, .. } if !place.arguments.is_empty() => {
                if let (Some(map), Ok(input)) =
                    (value.as_object_mut(), serde_json::from_str(&place.arguments))
                {
                    map.insert("input".to_owned(), input);
                }
            }
            _ => {}
        }
    }
}

fn begin(kind: BlockKind) -> Block {
    match kind {
        BlockKind::Text => Block::text(""),
        BlockKind::Reasoning => Block::Reasoning { text: String::new(), signature: None },
        BlockKind::RedactedReasoning { data } => Block::RedactedReasoning { data },
        BlockKind::ToolCall { id, name } => {
            Block::ToolCall { id, name, arguments: "{}".to_owned(), cache_control: None }
        }
        BlockKind::Refusal => Block::Refusal { text: String::new() },
        BlockKind::Other { dialect, value } => Block::Other { dialect, value },
    }
}

/// OpenAI's `logprobs` and foreign `reasoning_details` come in pieces.
fn merge_other(choice: &mut Choice, value: Value) {
    let Value::Object(map) = value else { return };
    for (key, value) in map {
        match (key.as_str(), value) {
            ("logprobs", Value::Object(more)) => {
                let whole = choice.logprobs.get_or_insert_with(|| json!({}));
                for (key, value) in more {
                    append(&mut whole[&key], value);
                }
            }
            ("reasoning_details", value) => append(choice.extra.entry(key).or_insert(Value::Null), value),
            _ => {}
        }
    }
}

fn append(slot: &mut Value, value: Value) {
    if slot.is_null() {
        *slot = value;
    } else if let (Value::Array(items), Value::Array(mut more)) = (slot, value) {
        items.append(&mut more);
    }
}

/// A whole stream as a whole answer.
pub fn aggregate(
    dialect: Dialect,
    operation: Operation,
    events: impl IntoIterator<Item = Event>,
) -> Result<Answer, Fault> {
    let mut whole = Aggregator::new(dialect, operation);
    for event in events {
        whole.push(event);
    }
    whole.finish()
}

/// A whole chat or completion answer as the events of a stream; an embedding answer has none.
#[must_use]
pub fn replay(answer: Answer) -> Vec<Event> {
    let chat = match answer {
        Answer::Chat(answer) => answer,
        Answer::Completion(answer) => ChatAnswer {
            choices: answer
                .choices
                .into_iter()
                .map(|choice| Choice {
                    index: choice.index,
                    content: vec![Block::text(choice.text)],
                    finish: choice.finish,
                    stop_sequence: None,
                    logprobs: choice.logprobs,
                    extra: Map::new(),
                })
                .collect(),
            id: answer.id,
            created: answer.created,
            model: answer.model,
            usage: answer.usage,
            dialect: answer.dialect,
            extra: answer.extra,
        },
        Answer::Embedding(_) | Answer::Rerank(_) | Answer::Moderation(_) => return Vec::new(),
    };
    let mut events =
        vec![Event::Start { id: chat.id, model: chat.model, created: chat.created, usage: chat.usage }];
    for choice in chat.choices {
        for (number, block) in choice.content.into_iter().enumerate() {
            replay_block(choice.index, number as u32, block, &mut events);
        }
        let reason = choice.finish.unwrap_or(FinishReason::Stop);
        events.push(Event::Finish { choice: choice.index, reason, stop_sequence: choice.stop_sequence });
    }
    events.extend(chat.usage.map(Event::Usage));
    events.push(Event::End);
    events
}

fn replay_block(choice: u32, block: u32, content: Block, events: &mut Vec<Event>) {
    let mut deltas = Vec::new();
    let kind = match content {
        Block::Text { text, citations, .. } => {
            deltas.push(Delta::Text(text));
            deltas.extend(citations.into_iter().map(Delta::Citation));
            BlockKind::Text
        }
        Block::Refusal { text } => {
            deltas.push(Delta::Text(text));
            BlockKind::Refusal
        }
        Block::Reasoning { text, signature } => {
            deltas.push(Delta::Text(text));
            deltas.extend(signature.map(Delta::Signature));
            BlockKind::Reasoning
        }
        Block::RedactedReasoning { data } => BlockKind::RedactedReasoning { data },
        Block::ToolCall { id, name, arguments, .. } => {
            deltas.push(Delta::Arguments(arguments));
            BlockKind::ToolCall { id, name }
        }
        Block::Other { dialect, value } => BlockKind::Other { dialect, value },
        Block::Image { .. } | Block::Audio { .. } | Block::File { .. } | Block::ToolResult { .. } => return,
    };
    events.push(Event::BlockStart { choice, block, kind });
    for delta in deltas {
        let empty = matches!(&delta, Delta::Text(text) | Delta::Arguments(text) if text.is_empty());
        if !empty {
            events.push(Event::BlockDelta { choice, block, delta });
        }
    }
    events.push(Event::BlockStop { choice, block });
}
