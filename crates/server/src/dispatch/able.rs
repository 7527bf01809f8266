//! Whether a target's model can do what a call asks for. What is surely beyond it is not sent: the next target of a
//! fallback gets the call, or the caller a clear error. What is not known is left to the provider.

use millgate_config::Capability;
use millgate_dialect::estimate_tokens;
use millgate_types::{Block, Call, ChatCall, Fault, Operation, ResponseFormat, Retry, Source, code};

use super::llm::{Attempt, Translated};

/// A call is surely too long when the rule of thumb says so by this much.
const MARGIN: u64 = 2;

impl Attempt<'_> {
    /// The fault of a call that the model cannot answer.
    pub(super) fn check_able(&self, translated: &mut Translated) -> Result<(), Fault> {
        self.check_mode()?;
        if self.planned.call.operation != Operation::Chat || !self.known.has_bounds() {
            return Ok(());
        }
        // A token is at least a byte: what has fewer bytes fits.
        let long = self.known.context.filter(|context| self.planned.call.body.len() as u64 > *context);
        let lacking = || Capability::ALL.into_iter().filter(|capability| self.known.lacks(*capability));
        if long.is_none() && lacking().next().is_none() {
            return Ok(());
        }
        let Call::Chat(call) = translated.call(self.planned)? else { return Ok(()) };
        if let Some(context) = long
            && estimate_tokens(call) / MARGIN > context
        {
            let public = format!("the prompt is longer than the {context} tokens of `{}`", self.model);
            return Err(refused(code::CONTEXT_LENGTH_EXCEEDED, public));
        }
        match lacking().find(|capability| needs(call, *capability)) {
            Some(capability) => {
                let public =
                    format!("`{}` has no {}, and the request needs it", self.model, title(capability));
                Err(refused(code::MODEL_LACKS_CAPABILITY, public))
            }
            None => Ok(()),
        }
    }

    /// What a model is for, as far as the catalogue says.
    fn check_mode(&self) -> Result<(), Fault> {
        let Some(mode) = self.known.mode.as_deref() else { return Ok(()) };
        let fits = match self.planned.call.operation {
            Operation::Chat | Operation::Completions | Operation::CountTokens => ![
                "embedding",
                "rerank",
                "moderation",
                "image_generation",
                "audio_transcription",
                "audio_speech",
            ]
            .contains(&mode),
            Operation::Embeddings => mode != "rerank" && mode != "moderation",
            _ => true,
        };
        if fits {
            return Ok(());
        }
        let public = format!("`{}` is a model for {}", self.model, mode.replace('_', " "));
        Err(refused(code::MODEL_LACKS_CAPABILITY, public))
    }
}

fn refused(code: millgate_types::Code, public: String) -> Fault {
    Fault::new(code, Source::Client, Retry::NextTarget, public)
}

fn title(capability: Capability) -> &'static str {
    match capability {
        Capability::Tools => "tools",
        Capability::Images => "image input",
        Capability::Audio => "audio input",
        Capability::Files => "file input",
        Capability::JsonSchema => "answers by a JSON schema",
        Capability::Reasoning => "reasoning",
    }
}

fn needs(call: &ChatCall, capability: Capability) -> bool {
    let has = |wanted: fn(&Block) -> bool| call.messages.iter().any(|message| any(&message.content, wanted));
    match capability {
        Capability::Tools => !call.tools.is_empty(),
        Capability::Images => has(|block| matches!(block, Block::Image { .. })),
        Capability::Audio => has(|block| matches!(block, Block::Audio { .. })),
        Capability::Files => has(|block| matches!(block, Block::File { .. })),
        Capability::JsonSchema => matches!(call.response_format, Some(ResponseFormat::JsonSchema { .. })),
        Capability::Reasoning => {
            call.reasoning.as_ref().is_some_and(|reasoning| reasoning.effort.as_deref() != Some("none"))
        }
    }
}

/// Whether any block, also inside results of tools, is what is looked for.
fn any(blocks: &[Block], wanted: fn(&Block) -> bool) -> bool {
    blocks.iter().any(|block| match block {
        Block::ToolResult { content, .. } => any(content, wanted),
        block => wanted(block),
    })
}
