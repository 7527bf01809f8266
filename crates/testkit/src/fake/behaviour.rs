//! What a model's name makes the fake do, for every API alike: calls of tools, thinking, answers that are cut.

/// A tool's call. APIs put their own mark in front of the id.
pub(super) struct Called {
    pub(super) id: &'static str,
    pub(super) name: &'static str,
    /// The arguments' JSON, as streams break it up.
    pub(super) pieces: [&'static str; 2],
}

impl Called {
    pub(super) fn arguments(&self) -> String {
        self.pieces.concat()
    }

    /// For APIs that write them as an object.
    pub(super) fn object(&self) -> serde_json::Value {
        serde_json::from_str(&self.arguments()).unwrap_or_default()
    }
}

const CALLED: [Called; 2] = [
    Called { id: "fake1", name: "get_weather", pieces: ["{\"city\":", "\"Paris\"}"] },
    Called { id: "fake2", name: "get_time", pieces: ["{\"zone\":", "\"CET\"}"] },
];

/// What the model calls.
pub(super) fn called(model: &str) -> &'static [Called] {
    match model {
        "tool" => &CALLED[..1],
        "parallel" => &CALLED,
        _ => &[],
    }
}

pub(super) const THOUGHT: &str = "Let me think.";

pub(super) fn thinks(model: &str) -> bool {
    model == "reasoning"
}

/// The answer ends at its bound.
pub(super) fn is_cut(model: &str) -> bool {
    model == "length"
}

/// How a vendor of OpenAI's API does it, where they differ; segments of the path say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Manner {
    pub(super) thinking: Thinking,
    /// Streams have usage on their last chunk without being asked.
    pub(super) always_counts: bool,
}

/// Where thinking stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Thinking {
    /// `reasoning_content`.
    ReasoningContent,
    /// `reasoning`.
    Reasoning,
    /// With a signature, as OpenRouter does.
    Details,
    /// In the content's list, as Mistral does.
    Content,
}

impl Manner {
    pub(super) fn of(path: &str) -> Self {
        let has = |part: &str| path.contains(part);
        let thinking = if has("/mistral/") || has("/thinks-in-content/") {
            Thinking::Content
        } else if has("/thinks-in-details/") {
            Thinking::Details
        } else if has("/thinks-in-reasoning/") {
            Thinking::Reasoning
        } else {
            Thinking::ReasoningContent
        };
        Self { thinking, always_counts: has("/always-counts/") }
    }
}

/// The model's behaviour: what stands behind the last `@` of its name, else the whole name.
pub(super) fn behaviour(model: &str) -> &str {
    let name = model.rsplit_once('@').or_else(|| model.rsplit_once("%40"));
    name.map_or(model, |(_, behaviour)| behaviour)
}
