//! What a model's id tells of its maker: makers differ in the fields that Converse hands through to them.

/// Whose model it is, as far as the request differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Maker {
    /// Anthropic's Claude, with its version where the name tells it.
    Claude(Option<(u32, u32)>),
    /// Amazon's Nova, first or second generation.
    Nova(u32),
    /// OpenAI's open models.
    GptOss,
    /// Models that are held to no JSON schema, and those of which nothing is known because an ARN hides them.
    Plain,
    /// Another.
    Other,
}

/// Parts of the names of models that are held to no schema.
const PLAIN: [&str; 11] = [
    "amazon.titan",
    "meta.llama",
    "ai21.",
    "cohere.",
    "writer.",
    "deepseek.r1",
    "mistral.mistral-7b",
    "mistral.mixtral",
    "mistral.pixtral",
    "mistral.mistral-large-24",
    "mistral.mistral-small-24",
];

impl Maker {
    /// Reads `anthropic.claude-3-5-sonnet-20240620-v1:0`, `us.amazon.nova-lite-v1:0`, ARNs that end in such an id.
    pub(super) fn of(model: &str) -> Self {
        let has = |part: &str| model.contains(part);
        if has("claude") {
            Self::Claude(crate::anthropic::version(model))
        } else if has("amazon.nova-2") {
            Self::Nova(2)
        } else if has("amazon.nova") {
            Self::Nova(1)
        } else if has("openai.gpt-oss") {
            Self::GptOss
        } else if PLAIN.iter().any(|part| has(part)) || model.starts_with("arn:") {
            Self::Plain
        } else {
            Self::Other
        }
    }

    /// Takes marks for its prompt cache in messages and instructions.
    pub(super) fn caches(self) -> bool {
        matches!(self, Self::Claude(_) | Self::Nova(_))
    }

    /// Takes them among the tools too.
    pub(super) fn caches_tools(self) -> bool {
        matches!(self, Self::Claude(_))
    }

    /// Holds its answer to a schema (`outputConfig`), and tools to theirs (`strict`).
    pub(super) fn is_structured(self) -> bool {
        match self {
            Self::Claude(version) => version.is_none_or(|version| version >= (4, 5)),
            Self::Nova(_) | Self::Plain => false,
            Self::GptOss | Self::Other => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makers_are_read_from_ids_profiles_and_arns() {
        for (model, maker) in [
            ("anthropic.claude-3-5-sonnet-20240620-v1:0", Maker::Claude(Some((3, 5)))),
            ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", Maker::Claude(Some((4, 5)))),
            (
                "arn:aws:bedrock:us-east-1:000000000000:inference-profile/us.anthropic.claude-3-7-sonnet-20250219-v1:0",
                Maker::Claude(Some((3, 7))),
            ),
            ("global.amazon.nova-2-lite-v1:0", Maker::Nova(2)),
            ("amazon.nova-micro-v1:0", Maker::Nova(1)),
            ("openai.gpt-oss-20b-1:0", Maker::GptOss),
            ("meta.llama3-8b-instruct-v1:0", Maker::Plain),
            ("arn:aws:bedrock:eu-central-1:000000000000:application-inference-profile/abc123", Maker::Plain),
            ("us.deepseek.r1-v1:0", Maker::Plain),
            ("minimax.minimax-m2", Maker::Other),
        ] {
            assert_eq!(Maker::of(model), maker, "{model}");
        }
    }
}
