//! What a provider's answer must have for a caller to do anything with it, whatever dialect it came in. Tool calls
//! are called by a name and answered by an id: without a name the answer is refused, an id is made.

use millgate_types::{Answer, Block, BlockKind, Event, Fault, RequestId, Retry, code};

fn nameless() -> Fault {
    Fault::upstream(code::UPSTREAM_ERROR, Retry::NextTarget, "the provider's tool call has no name")
}

fn made(id: &mut String, request: RequestId, number: usize) {
    if id.is_empty() {
        *id = format!("call_{request}_{number}");
    }
}

/// Checks and mends a whole answer.
pub(super) fn check(answer: &mut Answer, request: RequestId) -> Result<(), Fault> {
    let Answer::Chat(answer) = answer else { return Ok(()) };
    let blocks = answer.choices.iter_mut().flat_map(|choice| &mut choice.content);
    let mut number = 0;
    for block in blocks {
        if let Block::ToolCall { id, name, .. } = block {
            if name.is_empty() {
                return Err(nameless());
            }
            made(id, request, number);
            number += 1;
        }
    }
    Ok(())
}

/// Checks and mends new events of a stream of which `calls` tool calls were seen before. A fault is an event, the
/// last one.
pub(super) fn check_events(events: &mut Vec<Event>, calls: &mut usize, request: RequestId) {
    let mut bad = None;
    for (at, event) in events.iter_mut().enumerate() {
        if let Event::BlockStart { kind: BlockKind::ToolCall { id, name }, .. } = event {
            if name.is_empty() {
                bad = Some(at);
                break;
            }
            made(id, request, *calls);
            *calls += 1;
        }
    }
    if let Some(at) = bad {
        events.truncate(at);
        events.push(Event::Error(nameless()));
    }
}
