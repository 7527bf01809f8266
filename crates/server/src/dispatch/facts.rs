//! What the gateway needs to know of a call's body, read in one pass without building a tree, and the splice
//! that turns the caller's bytes into the target's.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use millgate_dialect::scan::{self, Kind, Member};
use millgate_dialect::{Quirks, check_model, codec, is_control_field};
use millgate_types::{Dialect, Fault, Operation, code};

/// The top level of a call's body.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) model: Option<Model>,
    pub(crate) stream: bool,
    /// The body may go out as it is: nothing in it but `model` names the model.
    pub(crate) passes: bool,
    /// `stream_options.include_usage`, when it stands there.
    pub(crate) include_usage: Option<bool>,
    /// Tokens of one answer, where the body bounds them.
    pub(crate) most: Option<u64>,
    /// How many answers it asks for.
    pub(crate) answers: u64,
    /// The value of `stream_options`.
    stream_options: Option<Range<usize>>,
    /// Where the first member begins.
    first_member: usize,
    /// Where the members stand.
    members: Vec<Spot>,
}

/// Where a member stands.
#[derive(Debug)]
struct Spot {
    /// Its name, the quotes left out.
    name: Range<usize>,
    /// Behind its value.
    end: usize,
}

/// The `model` member.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) name: Arc<str>,
    /// Where its value stands, quotes included; `None` when the path names it, not the body.
    span: Option<Range<usize>>,
}

impl Facts {
    /// Reads and checks a body. Members that would steer the gateway are refused; types and ranges of the
    /// fields we look at are checked here, the rest is the target's business.
    pub(crate) fn read(body: &[u8], dialect: Dialect, operation: Operation) -> Result<Self, Fault> {
        let members = scan::members(body)?;
        let mut facts = Self {
            model: None,
            stream: false,
            passes: codec(dialect).passes(operation),
            include_usage: None,
            most: None,
            answers: 1,
            stream_options: None,
            first_member: body.iter().position(|byte| *byte == b'{').map_or(0, |at| at + 1),
            members: members
                .iter()
                .map(|member| Spot { name: member.name_span.clone(), end: member.span.end })
                .collect(),
        };
        let mut subject = false;
        // MLflow coerces what it can (`"0.5"`); its codec does that, and the checks.
        let strict = dialect != Dialect::Mlflow;
        for member in &members {
            facts.bounds(member)?;
            match member.name.as_ref() {
                "model" if dialect != Dialect::Gemini => {
                    let name = member.string().ok_or_else(|| wrong_type(member, "text"))?;
                    check_model(&name)?;
                    facts.model = Some(Model { name: name.into(), span: Some(member.span.clone()) });
                }
                "stream" if member.kind != Kind::Null => {
                    facts.stream = member.boolean().ok_or_else(|| wrong_type(member, "a boolean"))?;
                }
                "stream_options" => facts.stream_options(member)?,
                "contents" => subject |= dialect == Dialect::Gemini && operation != Operation::Embeddings,
                "content" | "requests" => {
                    subject |= dialect == Dialect::Gemini && operation == Operation::Embeddings;
                }
                "generateContentRequest" | "generate_content_request" if dialect == Dialect::Gemini => {
                    subject |= operation == Operation::CountTokens;
                    facts.passes = false;
                }
                "messages" => {
                    subject |= operation.served_by() == Operation::Chat
                        && subject_of(dialect, operation) == "messages";
                    if member.kind != Kind::Array {
                        return Err(wrong_type(member, "an array"));
                    }
                    if member.is_empty_container() {
                        return Err(Fault::invalid_value("messages", "`messages` is empty"));
                    }
                }
                "prompt" | "previous_response_id" | "conversation" if dialect == Dialect::Responses => {
                    subject = true;
                }
                "prompt" => subject |= operation == Operation::Completions,
                "documents" if operation == Operation::Rerank => subject = true,
                "input" => subject |= subject_of(dialect, operation) == "input",
                "n" | "max_tokens" | "max_completion_tokens" | "max_output_tokens"
                    if strict
                        && member.kind != Kind::Null
                        && member.unsigned().is_none_or(|number| number == 0) =>
                {
                    return Err(wrong_type(member, "a positive integer"));
                }
                "temperature" if strict && member.kind != Kind::Null => {
                    let most = if dialect == Dialect::Anthropic { 1.0 } else { 2.0 };
                    if !member.float().is_some_and(|number| (0.0..=most).contains(&number)) {
                        return Err(wrong_type(member, &format!("a number from 0 to {most}")));
                    }
                }
                "top_p"
                    if strict
                        && member.kind != Kind::Null
                        && !member.float().is_some_and(|number| (0.0..=1.0).contains(&number)) =>
                {
                    return Err(wrong_type(member, "a number from 0 to 1"));
                }
                name if is_control_field(name) => {
                    let public = format!("`{name}` may not be set by callers");
                    return Err(
                        Fault::client(code::UNSUPPORTED_PARAMETER, public).with_param(name.to_owned())
                    );
                }
                _ => {}
            }
        }
        if !subject {
            let field = subject_of(dialect, operation);
            return Err(Fault::invalid_value(field, format!("`{field}` is missing")));
        }
        Ok(facts)
    }

    /// How long and how many answers may be.
    fn bounds(&mut self, member: &Member<'_>) -> Result<(), Fault> {
        match member.name.as_ref() {
            "n" | "candidateCount" => self.answers = member.unsigned().unwrap_or(self.answers),
            "max_tokens" | "max_completion_tokens" | "max_output_tokens" | "maxOutputTokens" => {
                self.most = member.unsigned().or(self.most);
            }
            "generationConfig" | "generation_config" if member.kind == Kind::Object => {
                for inner in scan::inner_members(member)? {
                    self.bounds(&inner)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The body in which no answer may be longer than `most` tokens. The rest of it stays as it came.
    pub(crate) fn cap_output(
        &mut self,
        body: &Bytes,
        dialect: Dialect,
        operation: Operation,
        most: u64,
    ) -> Result<Bytes, Fault> {
        const NAMES: [&str; 4] =
            ["max_tokens", "max_completion_tokens", "max_output_tokens", "maxOutputTokens"];
        let name = match dialect {
            Dialect::Gemini => "maxOutputTokens",
            Dialect::Responses => "max_output_tokens",
            _ => "max_tokens",
        };
        let members = scan::members(body)?;
        let config = members.iter().find(|member| {
            dialect == Dialect::Gemini
                && ["generationConfig", "generation_config"].contains(&&*member.name)
                && member.kind == Kind::Object
        });
        // Where the object with the bound stands: members inside another one know where they are within it.
        let (start, inside) = match config {
            Some(config) => (config.span.start, scan::inner_members(config)?),
            None => (0, members.clone()),
        };
        let bounds = inside.iter().filter(|member| NAMES.contains(&&*member.name));
        let mut edits: Vec<(Range<usize>, String)> = bounds
            .map(|member| (start + member.span.start..start + member.span.end, most.to_string()))
            .collect();
        if edits.is_empty() {
            let at = if config.is_some() { start + 1 } else { self.first_member };
            let comma = if inside.is_empty() { "" } else { "," };
            let bound = format!("\"{name}\":{most}");
            let bound = if dialect == Dialect::Gemini && config.is_none() {
                format!("\"generationConfig\":{{{bound}}}{comma}")
            } else {
                format!("{bound}{comma}")
            };
            edits.push((at..at, bound));
        }
        let out = edited(body, edits);
        let named = self.model.take().filter(|model| model.span.is_none()).map(|model| model.name);
        let stream = self.stream;
        *self = Self::read(&out, dialect, operation)?;
        if let Some(model) = named {
            self.name(model, stream);
        }
        Ok(out)
    }

    /// What the path says in place of the body.
    pub(crate) fn name(&mut self, model: Arc<str>, stream: bool) {
        self.model = Some(Model { name: model, span: None });
        self.stream = stream;
    }

    fn stream_options(&mut self, member: &Member<'_>) -> Result<(), Fault> {
        match member.kind {
            Kind::Null => {}
            Kind::Object => {
                let inner = scan::inner_members(member)?;
                let usage = inner.iter().find(|inner| inner.name == "include_usage");
                self.include_usage = usage.and_then(Member::boolean);
            }
            _ => return Err(wrong_type(member, "an object")),
        }
        self.stream_options = Some(member.span.clone());
        Ok(())
    }

    /// The body with the target's model name, and with `stream_options` that ask for usage when
    /// `ask_for_usage` is set. Where the target takes fields otherwise (`quirks`), they are renamed or cut out, and
    /// what is cut is told. Every other byte stays as it came.
    pub(crate) fn splice(
        &self,
        body: &Bytes,
        model: &str,
        ask_for_usage: bool,
        quirks: Option<(&Quirks, Operation)>,
    ) -> (Bytes, Vec<String>) {
        let as_it_came = quirks.is_none_or(|(quirks, _)| quirks.passes_all());
        if let (Some(Model { span: Some(span), .. }), false, true) = (&self.model, ask_for_usage, as_it_came)
        {
            return (renamed(body, span, model), Vec::new());
        }
        let quoted = serde_json::to_string(model).unwrap_or_default();
        let mut edits: Vec<(Range<usize>, String)> = Vec::with_capacity(2);
        let mut front = String::new();
        match &self.model {
            Some(Model { span: Some(span), .. }) => edits.push((span.clone(), quoted)),
            Some(_) => {}
            None => front = format!("\"model\":{quoted}"),
        }
        if ask_for_usage {
            const OPTIONS: &str = "{\"include_usage\":true}";
            match &self.stream_options {
                Some(span) => edits.push((span.clone(), OPTIONS.to_owned())),
                None => {
                    let comma = if front.is_empty() { "" } else { "," };
                    front = format!("{front}{comma}\"stream_options\":{OPTIONS}");
                }
            }
        }
        let dropped = match quirks {
            Some((quirks, operation)) if !as_it_came => self.adapt(body, quirks, operation, &mut edits),
            _ => Vec::new(),
        };
        if !front.is_empty() {
            if self.members.len() > dropped.len() {
                front.push(',');
            }
            edits.push((self.first_member..self.first_member, front));
        }
        if edits.is_empty() {
            return (body.clone(), dropped);
        }
        (edited(body, edits), dropped)
    }

    /// Renames and cuts members as the target takes them; gives the names of those that were cut.
    fn adapt(
        &self,
        body: &Bytes,
        quirks: &Quirks,
        operation: Operation,
        edits: &mut Vec<(Range<usize>, String)>,
    ) -> Vec<String> {
        let name_of = |spot: &Spot| std::str::from_utf8(&body[spot.name.clone()]).unwrap_or_default();
        let mut dropped = Vec::new();
        // A comma goes with each member that is cut: the one before it, or behind it while none is kept.
        let mut kept_before = false;
        for (number, spot) in self.members.iter().enumerate() {
            let name = name_of(spot);
            let ours = name == "model" || name == "stream_options";
            match quirks.passing_name(operation, name).or(ours.then_some(name)) {
                Some(theirs) => {
                    let taken = || self.members.iter().any(|other| name_of(other) == theirs);
                    if theirs != name && !taken() {
                        edits.push((spot.name.clone(), theirs.to_owned()));
                    }
                    kept_before = true;
                }
                None => {
                    let (before, after) = (number.checked_sub(1), self.members.get(number + 1));
                    let span = match (before, after) {
                        (Some(before), _) if kept_before => self.members[before].end..spot.end,
                        (_, Some(after)) => spot.name.start - 1..after.name.start - 1,
                        _ => spot.name.start - 1..spot.end,
                    };
                    edits.push((span, String::new()));
                    dropped.push(name.to_owned());
                }
            }
        }
        dropped
    }
}

/// The body with other texts at some places.
fn edited(body: &Bytes, mut edits: Vec<(Range<usize>, String)>) -> Bytes {
    edits.sort_by_key(|(span, _)| (span.start, span.end));
    let more: usize = edits.iter().map(|(_, text)| text.len()).sum();
    let mut out = Vec::with_capacity(body.len() + more);
    let mut at = 0;
    for (span, text) in edits {
        out.extend_from_slice(&body[at..span.start]);
        out.extend_from_slice(text.as_bytes());
        at = span.end;
    }
    out.extend_from_slice(&body[at..]);
    out.into()
}

/// The body with another model's name at `span`: what most calls need, without a list of edits.
fn renamed(body: &Bytes, span: &Range<usize>, model: &str) -> Bytes {
    let mut out = Vec::with_capacity(body.len() + 16 + model.len());
    out.extend_from_slice(&body[..span.start]);
    // Names are short and checked; writing into a vector cannot fail.
    let _written = serde_json::to_writer(&mut out, model);
    out.extend_from_slice(&body[span.end..]);
    out.into()
}

/// The member without which there is nothing to do.
fn subject_of(dialect: Dialect, operation: Operation) -> &'static str {
    match (dialect, operation) {
        (Dialect::Gemini, Operation::Embeddings) => "content",
        (Dialect::Gemini, _) => "contents",
        (Dialect::Responses, _) | (_, Operation::Embeddings | Operation::Moderations) => "input",
        (_, Operation::Rerank) => "documents",
        (_, Operation::Completions) => "prompt",
        _ => "messages",
    }
}

fn wrong_type(member: &Member<'_>, expected: &str) -> Fault {
    let name = member.name.to_string();
    let found = match member.kind {
        // The number itself says more than that it is one.
        Kind::Number => String::from_utf8_lossy(&member.text[..member.text.len().min(32)]).into_owned(),
        kind => kind.name().to_owned(),
    };
    Fault::invalid_value(name, format!("`{}` must be {expected}, found {found}", member.name))
}

#[cfg(test)]
mod tests {
    use millgate_dialect::MaxTokensName;

    use super::*;

    fn read(body: &str) -> Result<Facts, Fault> {
        Facts::read(body.as_bytes(), Dialect::OpenAi, Operation::Chat)
    }

    fn spliced(body: &str, ask: bool) -> String {
        let bytes = Bytes::copy_from_slice(body.as_bytes());
        let (spliced, dropped) = read(body).unwrap().splice(&bytes, "gpt-5", ask, None);
        assert!(dropped.is_empty());
        String::from_utf8(spliced.to_vec()).unwrap()
    }

    #[test]
    fn fields_that_the_target_refuses_are_cut_and_those_it_names_otherwise_renamed() {
        let quirks = Quirks {
            strip: vec!["top_k".to_owned(), "user".to_owned(), "n".to_owned()],
            rename: vec![("seed".to_owned(), "random_seed".to_owned())],
            max_tokens_name: MaxTokensName::MaxCompletionTokens,
            ..Quirks::default()
        };
        let adapted = |body: &str, ask| {
            let bytes = Bytes::copy_from_slice(body.as_bytes());
            let quirks = Some((&quirks, Operation::Chat));
            let (spliced, dropped) = read(body).unwrap().splice(&bytes, "gpt-5", ask, quirks);
            assert!(scan::members(&spliced).is_ok(), "{}", String::from_utf8_lossy(&spliced));
            (String::from_utf8(spliced.to_vec()).unwrap(), dropped.join(","))
        };
        for (body, sent, dropped) in [
            (
                r#"{ "model": "a", "top_k" : 4 , "messages": [1]}"#,
                r#"{ "model": "gpt-5" , "messages": [1]}"#,
                "top_k",
            ),
            (r#"{"top_k":4, "model":"a","messages":[1]}"#, r#"{"model":"gpt-5","messages":[1]}"#, "top_k"),
            (r#"{"messages":[1], "n":1}"#, r#"{"model":"gpt-5","messages":[1]}"#, "n"),
            (
                r#"{"user":"u","n":1,"messages":[1],"top_k":{"a":[]},"seed":7,"user_id":1}"#,
                r#"{"model":"gpt-5","messages":[1],"random_seed":7,"user_id":1}"#,
                "user,n,top_k",
            ),
            (
                r#"{"messages":[1],"max_tokens":9}"#,
                r#"{"model":"gpt-5","messages":[1],"max_completion_tokens":9}"#,
                "",
            ),
            // Who says both means both.
            (
                r#"{"messages":[1],"max_tokens":9,"max_completion_tokens":8}"#,
                r#"{"model":"gpt-5","messages":[1],"max_tokens":9,"max_completion_tokens":8}"#,
                "",
            ),
        ] {
            assert_eq!(adapted(body, false), (sent.to_owned(), dropped.to_owned()), "{body}");
            adapted(body, true);
        }
        // Completions never had the other name.
        let body = r#"{"prompt":"x","max_tokens":9}"#;
        let facts = Facts::read(body.as_bytes(), Dialect::OpenAi, Operation::Completions).unwrap();
        let bytes = Bytes::copy_from_slice(body.as_bytes());
        let (sent, _) = facts.splice(&bytes, "m", false, Some((&quirks, Operation::Completions)));
        assert_eq!(sent, r#"{"model":"m","prompt":"x","max_tokens":9}"#);
    }

    #[test]
    fn an_answer_is_bounded_where_its_dialect_says_so() {
        let cap = |dialect, operation, body: &str| {
            let bytes = Bytes::copy_from_slice(body.as_bytes());
            let mut facts = Facts::read(&bytes, dialect, operation).unwrap();
            let capped = facts.cap_output(&bytes, dialect, operation, 7).unwrap();
            assert_eq!(facts.most, Some(7));
            String::from_utf8(capped.to_vec()).unwrap()
        };
        for (dialect, body, capped) in [
            (Dialect::OpenAi, r#"{"messages":[1]}"#, r#"{"max_tokens":7,"messages":[1]}"#),
            (
                Dialect::OpenAi,
                r#"{ "max_completion_tokens" : 900, "messages":[1], "max_tokens":null}"#,
                r#"{ "max_completion_tokens" : 7, "messages":[1], "max_tokens":7}"#,
            ),
            (Dialect::Anthropic, r#"{"max_tokens":99,"messages":[1]}"#, r#"{"max_tokens":7,"messages":[1]}"#),
            (Dialect::Responses, r#"{"input":"x"}"#, r#"{"max_output_tokens":7,"input":"x"}"#),
            (
                Dialect::Gemini,
                r#"{"contents":[1]}"#,
                r#"{"generationConfig":{"maxOutputTokens":7},"contents":[1]}"#,
            ),
            (
                Dialect::Gemini,
                r#"{"contents":[1],"generationConfig": {"topK":1,"maxOutputTokens":99}}"#,
                r#"{"contents":[1],"generationConfig": {"topK":1,"maxOutputTokens":7}}"#,
            ),
            (
                Dialect::Gemini,
                r#"{"contents":[1],"generation_config":{}}"#,
                r#"{"contents":[1],"generation_config":{"maxOutputTokens":7}}"#,
            ),
        ] {
            assert_eq!(cap(dialect, Operation::Chat, body), capped);
        }
    }

    #[test]
    fn the_model_is_spliced_and_every_other_byte_stays() {
        let body = r#" { "x" : 1.50, "model" : "chat" , "messages":[{"role":"user","content":"h\u00e9"}] } "#;
        assert_eq!(spliced(body, false), body.replace("\"chat\"", "\"gpt-5\""));
        assert_eq!(
            spliced(r#"{"messages":[1]}"#, true),
            r#"{"model":"gpt-5","stream_options":{"include_usage":true},"messages":[1]}"#
        );
        assert_eq!(
            spliced(r#"{"messages":[1],"stream_options":{"include_usage":false},"model":"a"}"#, true),
            r#"{"messages":[1],"stream_options":{"include_usage":true},"model":"gpt-5"}"#
        );
    }

    #[test]
    fn fields_of_the_wrong_kind_are_named() {
        for (body, param) in [
            (r#"{"messages":[]}"#, "messages"),
            (r#"{"messages":"hi"}"#, "messages"),
            (r#"{"model":"m"}"#, "messages"),
            (r#"{"messages":[1],"n":0}"#, "n"),
            (r#"{"messages":[1],"max_tokens":-1}"#, "max_tokens"),
            (r#"{"messages":[1],"temperature":2.5}"#, "temperature"),
            (r#"{"messages":[1],"stream":"yes"}"#, "stream"),
            (r#"{"messages":[1],"model":3}"#, "model"),
            (r#"{"messages":[1],"api_base":"http://evil"}"#, "api_base"),
        ] {
            assert_eq!(read(body).unwrap_err().param.as_deref(), Some(param), "{body}");
        }
        assert_eq!(read(r#"{"messages":[1],"model":"../x"}"#).unwrap_err().code.name, "invalid_model");
    }
}
