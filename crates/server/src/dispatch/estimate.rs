//! What providers do not say is counted by us: answers without usage, streams that end before it comes. The
//! bytes are kept as they came, for nothing on the way; they are read and counted after the answer has left,
//! by the thread that works on records.

use std::sync::Arc;

use bytes::Bytes;
use millgate_dialect::{codec, replay};
use millgate_provider::Price;
use millgate_types::{Block, Call, Delta, Dialect, Event, Exchange, Operation, Prompt, Unsettled, Usage};

use crate::flight::Flight;

/// Bytes of an answer that are kept. What a longer one has beyond is taken to be like what is kept.
const MAX_KEPT: usize = 16 << 10;
/// Longer requests are not kept either: their tokens are taken to be four bytes each.
const MAX_REQUEST: usize = 64 << 10;

/// What was asked and what was answered, as far as counting needs it.
pub(super) struct Evidence {
    caller: Dialect,
    asked: Operation,
    /// `None`: too long to be kept.
    request: Option<Bytes>,
    request_length: usize,
    provider: Dialect,
    answered: Operation,
    model: Box<str>,
    pieces: Vec<Bytes>,
    kept: usize,
    /// Bytes seen, kept or not.
    seen: usize,
}

impl Evidence {
    pub(super) fn new(
        (caller, asked, request): (Dialect, Operation, &Bytes),
        (provider, answered, model): (Dialect, Operation, &str),
    ) -> Self {
        let (model, request_length) = (model.into(), request.len());
        let request = (request_length <= MAX_REQUEST).then(|| request.clone());
        Self {
            caller,
            asked,
            request,
            request_length,
            provider,
            answered,
            model,
            pieces: Vec::new(),
            kept: 0,
            seen: 0,
        }
    }

    /// Notes a piece of the answer.
    pub(super) fn keep(&mut self, bytes: &Bytes) {
        self.seen += bytes.len();
        if self.kept < MAX_KEPT {
            self.kept += bytes.len();
            self.pieces.push(bytes.clone());
        }
    }

    /// Leaves the counting to whoever works on the record. `said` is what the provider has said.
    pub(super) fn settle(self, said: Usage, streamed: bool, flight: &mut Flight) {
        let price = flight.price.clone();
        let settle = move |record: &mut Exchange| self.count(said, streamed, price.as_ref(), record);
        flight.record().unsettled = Some(Unsettled::new(settle));
    }

    fn count(self, said: Usage, streamed: bool, price: Option<&Arc<Price>>, record: &mut Exchange) {
        let answer = if streamed { self.streamed() } else { self.whole() };
        let mut output = millgate_tokens::count(&self.model, &answer);
        if self.seen > self.kept {
            output = (output as f64 * self.seen as f64 / self.kept.max(1) as f64).round() as u64;
        }
        let mut usage = Usage { estimated: true, ..said };
        if said.prompt_total() == 0 {
            usage.input = self.input();
        }
        if said.completion_total() < output {
            usage.output += output - said.completion_total();
        }
        if usage.total() == said.total() {
            return;
        }
        record.usage = usage;
        record.cost = said.reported_cost.or_else(|| price?.cost(&usage));
    }

    fn input(&self) -> u64 {
        let Some(request) = &self.request else { return self.request_length as u64 / 4 };
        count_input(self.caller, self.asked, request, &self.model).unwrap_or(0)
    }

    fn streamed(&self) -> String {
        let mut decoder = codec(self.provider).stream_decoder(self.answered);
        let mut events = Vec::new();
        self.pieces.iter().for_each(|piece| decoder.push(piece, &mut events));
        decoder.finish(&mut events);
        said(events)
    }

    fn whole(&self) -> String {
        let body = self.pieces.first().map(|body| &body[..]).unwrap_or_default();
        match codec(self.provider).decode_answer(self.answered, body) {
            Ok(answer) => said(replay(answer)),
            Err(_) => String::new(),
        }
    }
}

/// How many tokens the prompt of a call has for a model; `None` when it cannot be read. Takes the longer, the longer the
/// prompt, and the first time a vocabulary is loaded: never on a data thread.
pub(crate) fn count_input(caller: Dialect, asked: Operation, request: &[u8], model: &str) -> Option<u64> {
    let call = codec(caller).decode_call(asked, request).ok()?;
    let mut text = String::new();
    let mut more = 0;
    match &call {
        Call::Chat(call) => {
            more = call.messages.len() as u64 * millgate_tokens::PER_MESSAGE;
            call.messages.iter().for_each(|message| read(&message.content, &mut text));
            for tool in &call.tools {
                text.push_str(&tool.name);
                text.push_str(tool.description.as_deref().unwrap_or_default());
                text.push_str(&tool.parameters.as_ref().map(ToString::to_string).unwrap_or_default());
            }
        }
        Call::Completion(call) => prompt(&call.prompt, &mut text, &mut more),
        Call::Embedding(call) => prompt(&call.input, &mut text, &mut more),
        Call::Rerank(_) | Call::Moderation(_) => {}
    }
    Some(millgate_tokens::count(model, &text) + more)
}

/// Everything that the model wrote.
fn said(events: Vec<Event>) -> String {
    let mut text = String::new();
    for event in events {
        match event {
            Event::BlockDelta { delta: Delta::Text(piece) | Delta::Arguments(piece), .. } => {
                text.push_str(&piece);
            }
            Event::BlockStart { kind: millgate_types::BlockKind::ToolCall { name, .. }, .. } => {
                text.push_str(&name);
            }
            _ => {}
        }
    }
    text
}

fn read(blocks: &[Block], text: &mut String) {
    for block in blocks {
        match block {
            Block::Text { text: said, .. } | Block::Refusal { text: said } => text.push_str(said),
            Block::ToolCall { name, arguments, .. } => {
                text.push_str(name);
                text.push_str(arguments);
            }
            Block::ToolResult { content, .. } => read(content, text),
            // Pictures and sound are not text, and thinking that goes back is not billed again.
            _ => {}
        }
    }
}

fn prompt(prompt: &Prompt, text: &mut String, tokens: &mut u64) {
    match prompt {
        Prompt::Text(one) => text.push_str(one),
        Prompt::Texts(texts) => texts.iter().for_each(|piece| text.push_str(piece)),
        Prompt::Tokens(list) => *tokens += list.len() as u64,
        Prompt::TokenLists(lists) => *tokens += lists.iter().map(|list| list.len() as u64).sum::<u64>(),
    }
}
