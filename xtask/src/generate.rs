//! Generated files: the configuration's JSON Schema and the reference pages.

mod runtimes;

use std::fmt::Write as _;

use anyhow::{Context as _, Result, bail};
use millgate_config::EndpointType;
use millgate_provider::AuthScheme;
use millgate_types::{CODES, Dialect, Operation};
use serde_json::Value;

use crate::shell::{root, say};

pub(super) const NOTE: &str = "<!-- Written by `cargo xtask gen`; edit the source it is made from. -->\n";

/// Writes the generated files, or with `check` says which are not up to date.
pub(crate) fn generate(check: bool) -> Result<()> {
    let schema = millgate_config::json_schema();
    let files = [
        ("schema/millgate.schema.json", serde_json::to_string_pretty(&schema)? + "\n"),
        ("docs/reference/errors.md", errors()?),
        ("docs/reference/configuration.md", configuration(&schema)?),
        ("docs/reference/providers.md", providers()?),
        ("docs/reference/runtimes.md", runtimes::page()?),
    ];
    let mut old = Vec::new();
    for (name, text) in files {
        let path = root().join(name);
        if std::fs::read_to_string(&path).is_ok_and(|kept| kept == text) {
            continue;
        }
        old.push(name);
        if !check {
            let folder = path.parent().context("a file has a folder")?;
            std::fs::create_dir_all(folder)?;
            std::fs::write(&path, text)?;
            say(&format!("written: {name}"));
        }
    }
    if check && !old.is_empty() {
        bail!("out of date: {}; run `cargo xtask gen`", old.join(", "));
    }
    if old.is_empty() {
        say("generated files are up to date");
    }
    Ok(())
}

fn errors() -> Result<String> {
    let mut out = format!(
        "{NOTE}# Errors\n\nEvery error that Millgate itself makes has one of these codes. The same code stands in the \
         answer's body, whatever API it is an answer of, in the header `x-millgate-error`, in the access log and in \
         the metrics. Once a stream has begun, errors are its last event.\n\n\
         | code | status | OpenAI `type` | what it means |\n|---|---|---|---|\n"
    );
    for code in CODES {
        writeln!(out, "| `{}` | {} | `{}` | {} |", code.name, code.status, code.openai_type, code.meaning)?;
    }
    out.push_str(
        "\n## Where the code stands\n\n\
         | API | body |\n|---|---|\n\
         | OpenAI | `{\"error\": {\"message\", \"type\", \"param\", \"code\", \"source\", \"request_id\"}}` |\n\
         | Anthropic | `{\"type\": \"error\", \"error\": {\"type\", \"message\", \"code\", \"source\"}, \"request_id\"}` |\n\
         | Cohere (rerank) | `{\"id\", \"message\", \"code\", \"param\", \"source\"}` |\n\
         | MLflow | see the MLflow guide; the header names the code |\n\n\
         `source` says who made the error: `client`, `gateway`, `upstream` or `worker`. An upstream's own status is \
         `upstream_status`.\n",
    );
    Ok(out)
}

fn providers() -> Result<String> {
    let mut out = format!(
        "{NOTE}# Providers\n\nThe kinds that `providers.<name>.kind` takes. Whatever else speaks one of these APIs is \
         `openai-compatible` with a `base_url`.\n\n\
         | kind | also | API | default address | key | variable | operations |\n|---|---|---|---|---|---|---|\n"
    );
    for kind in millgate_provider::kinds() {
        let api = match kind.dialect {
            Dialect::OpenAi => "OpenAI",
            Dialect::Responses => "OpenAI Responses",
            Dialect::Gemini => "Gemini",
            Dialect::Bedrock => "Bedrock Converse",
            Dialect::Anthropic => "Anthropic",
            Dialect::Cohere => "Cohere",
            Dialect::Ollama => "Ollama",
            Dialect::Mlflow => "MLflow",
            Dialect::Scoring => "MLflow scoring",
            Dialect::Inference => "Open Inference",
            Dialect::Problem => "",
        };
        let key = match &kind.auth {
            AuthScheme::Bearer => "`Authorization: Bearer`".to_owned(),
            AuthScheme::Header(name) => format!("`{name}`"),
            AuthScheme::None => "none".to_owned(),
        };
        let proof = match &kind.proof {
            proof if proof.aws_service.is_some() => ", or an AWS signature",
            proof if proof.google => " with Google's tokens",
            proof if proof.token_path.is_some() => ", or an OAuth client's tokens",
            _ => "",
        };
        let key = key + proof;
        let quoted = |text: Option<&str>| text.map_or("-".to_owned(), |text| format!("`{text}`"));
        let also: Vec<String> = kind.also.iter().map(|name| format!("`{name}`")).collect();
        let operations: Vec<&str> = EndpointType::LLM
            .into_iter()
            .map(EndpointType::operation)
            .filter(|operation| kind.serves(*operation))
            .map(Operation::name)
            .collect();
        writeln!(
            out,
            "| `{}` | {} | {api} | {} | {key} | {} | {} |",
            kind.name,
            also.join(", "),
            quoted(kind.base_url.as_deref()),
            quoted(kind.key_env.as_deref()),
            operations.join(", ")
        )?;
    }
    Ok(out)
}

fn configuration(schema: &Value) -> Result<String> {
    let mut out = format!(
        "{NOTE}# Configuration\n\nOne YAML file. Unknown fields are errors; `millgate check FILE` reports every problem \
         with its place. The schema for editors is `schema/millgate.schema.json` (`millgate schema` prints it): \
         `# yaml-language-server: $schema=...` in the first line makes them complete and check.\n"
    );
    section(&mut out, "The file", schema)?;
    let mut done = vec![String::new()];
    let mut wanted = mentioned(schema);
    while let Some(name) = wanted.first().cloned() {
        wanted.remove(0);
        if done.contains(&name) {
            continue;
        }
        let definition = &schema["$defs"][&name];
        section(&mut out, title(&name), definition)?;
        let inner = mentioned(definition);
        wanted.splice(0..0, inner);
        done.push(name);
    }
    Ok(out)
}

/// The types a part of the schema refers to, in order.
fn mentioned(value: &Value) -> Vec<String> {
    match value {
        Value::Object(members) => members
            .iter()
            .filter(|(name, _)| *name != "$defs")
            .flat_map(|(name, value)| match value.as_str().filter(|_| name == "$ref") {
                Some(path) => path.rsplit('/').next().map(str::to_owned).into_iter().collect(),
                None => mentioned(value),
            })
            .collect(),
        Value::Array(items) => items.iter().flat_map(mentioned).collect(),
        _ => Vec::new(),
    }
}

fn title(name: &str) -> &str {
    name.strip_suffix("Config").unwrap_or(name)
}

fn section(out: &mut String, name: &str, part: &Value) -> Result<()> {
    writeln!(out, "\n## {name}\n")?;
    if let Some(text) = part["description"].as_str() {
        writeln!(out, "{text}\n")?;
    }
    if let Some(properties) = part["properties"].as_object() {
        out.push_str("| field | type | default | meaning |\n|---|---|---|---|\n");
        let required: Vec<&str> =
            part["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for (field, property) in properties {
            let default = match &property["default"] {
                _ if required.contains(&field.as_str()) => "**required**".to_owned(),
                Value::Null => String::new(),
                Value::Object(_) => "see there".to_owned(),
                value => format!("`{value}`"),
            };
            let text = property["description"].as_str().unwrap_or_default().replace('\n', " ");
            writeln!(out, "| `{field}` | {} | {default} | {} |", kind(property), cell(&text))?;
        }
        return Ok(());
    }
    let choices = part["oneOf"].as_array().or(part["anyOf"].as_array());
    if let Some(choices) = choices {
        for choice in choices {
            let text = choice["description"].as_str().unwrap_or_default().replace('\n', " ");
            if let Some(word) = choice["const"].as_str() {
                writeln!(out, "- `{word}`: {text}")?;
            } else if let Some(properties) = choice["properties"].as_object() {
                for (field, property) in properties {
                    let text = property["description"].as_str().unwrap_or(&text);
                    writeln!(out, "- `{{ {field}: ... }}` ({}): {text}", kind(property))?;
                }
            } else {
                writeln!(out, "- {}{}{text}", kind(choice), if text.is_empty() { "" } else { ": " })?;
            }
        }
        return Ok(());
    }
    let mut facts = vec![kind(part)];
    if let Some(pattern) = part["pattern"].as_str().filter(|pattern| pattern.len() > 1) {
        facts.push(format!("pattern `{pattern}`"));
    }
    if let Some(examples) = part["examples"].as_array() {
        let examples: Vec<String> = examples.iter().map(|example| format!("`{example}`")).collect();
        facts.push(format!("for example {}", examples.join(", ")));
    }
    writeln!(out, "Written as {}.", cell(&facts.join("; ")))?;
    Ok(())
}

/// A type in few words, linked where it has a section.
fn kind(value: &Value) -> String {
    if let Some(path) = value["$ref"].as_str() {
        let name = path.rsplit('/').next().unwrap_or_default();
        let title = title(name);
        return format!("[{title}](#{})", title.to_lowercase());
    }
    for list in ["anyOf", "oneOf", "allOf"] {
        if let Some(choices) = value[list].as_array() {
            let choices: Vec<String> = choices.iter().map(kind).filter(|kind| kind != "null").collect();
            return choices.join(" or ");
        }
    }
    if let Some(word) = value["const"].as_str() {
        return format!("`{word}`");
    }
    let name = match &value["type"] {
        Value::String(name) => name.as_str(),
        Value::Array(names) => {
            names.iter().filter_map(Value::as_str).find(|name| *name != "null").unwrap_or_default()
        }
        _ => "any",
    };
    match name {
        "array" => format!("list of {}", kind(&value["items"])),
        "object" if value["additionalProperties"].is_object() => {
            format!("map of {}", kind(&value["additionalProperties"]))
        }
        "string" => "text".to_owned(),
        name => name.to_owned(),
    }
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}
