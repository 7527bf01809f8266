//! Whose seal a signature over thinking is. A provider takes back only what it sealed itself, and callers may
//! send a conversation on to another one: so seals of providers other than Anthropic carry their owner in
//! front, in every dialect that shows them.

/// Where a Gemini signature stood: it must go back to the same part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// On the thought itself.
    Thought,
    /// On visible text.
    Text,
    /// On this function call of the message, counted from 0.
    Call(usize),
}

const GEMINI: &str = "gemini/";
const OPENAI: &str = "openai/";

/// A Gemini signature as the canonical form keeps it.
pub(crate) fn gemini(place: Place, signature: &str) -> String {
    match place {
        Place::Thought => format!("{GEMINI}t/{signature}"),
        Place::Text => format!("{GEMINI}x/{signature}"),
        Place::Call(number) => format!("{GEMINI}c{number}/{signature}"),
    }
}

/// A Gemini signature and its place; `None` when the seal is another's.
pub(crate) fn as_gemini(seal: &str) -> Option<(Place, &str)> {
    let (place, signature) = seal.strip_prefix(GEMINI)?.split_once('/')?;
    let place = match place {
        "t" => Place::Thought,
        "x" => Place::Text,
        call => Place::Call(call.strip_prefix('c')?.parse().ok()?),
    };
    Some((place, signature))
}

/// An OpenAI reasoning item, by its id and its encrypted content, as the canonical form keeps it.
pub(crate) fn openai(id: &str, encrypted: &str) -> String {
    format!("{OPENAI}{id}/{encrypted}")
}

/// Id and encrypted content of an OpenAI reasoning item; `None` when the seal is another's.
pub(crate) fn as_openai(seal: &str) -> Option<(&str, &str)> {
    seal.strip_prefix(OPENAI)?.split_once('/')
}

/// Whether Anthropic made the seal: its own carry no mark.
pub(crate) fn is_anthropic(seal: &str) -> bool {
    !seal.starts_with(GEMINI) && !seal.starts_with(OPENAI)
}
