//! Recordings: the curated ones beside this file always, the whole shared set when it is there.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use millgate_dialect::{Context, eventstream};
use millgate_types::{Dialect, EmbeddingFormat, Operation, RequestId};
use serde_json::{Map, Value};

/// One recorded exchange.
pub(crate) struct Recording {
    pub(crate) path: PathBuf,
    pub(crate) id: String,
    pub(crate) provider: String,
    pub(crate) kind: String,
    pub(crate) dialect: Dialect,
    pub(crate) operation: Operation,
    pub(crate) features: Vec<String>,
    pub(crate) status: u16,
    pub(crate) request: Option<Value>,
    pub(crate) body: Vec<u8>,
}

impl Recording {
    pub(crate) fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|found| found == feature)
    }
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn shared() -> Option<PathBuf> {
    let root = match std::env::var_os("MILLGATE_SHARED") {
        Some(path) => PathBuf::from(path),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
    };
    let providers = root.join("fixtures/providers");
    providers.is_dir().then_some(providers)
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut entries: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "json") {
            found.push(path);
        }
    }
}

fn read(path: &Path) -> Option<Recording> {
    let text = fs::read_to_string(path).unwrap();
    let mut file: Value = serde_json::from_str(&text).unwrap();
    let api = file["api"].as_str()?.to_owned();
    let (dialect, operation) = match api.as_str() {
        "chat" => (Dialect::OpenAi, Operation::Chat),
        "completions" => (Dialect::OpenAi, Operation::Completions),
        "embeddings" => (Dialect::OpenAi, Operation::Embeddings),
        "messages" => (Dialect::Anthropic, Operation::Chat),
        "generateContent" | "streamGenerateContent" => (Dialect::Gemini, Operation::Chat),
        // Azure answered one call there with a chat completion.
        "responses" if file["response"]["body"]["choices"].is_array() => (Dialect::OpenAi, Operation::Chat),
        "responses" => (Dialect::Responses, Operation::Chat),
        "batchEmbedContents" | "embedContent" | "predict" => (Dialect::Gemini, Operation::Embeddings),
        "converse" | "converse-stream" => (Dialect::Bedrock, Operation::Chat),
        "invoke" if file["model"].as_str()?.contains("embed") => (Dialect::Bedrock, Operation::Embeddings),
        "native-chat" => (Dialect::Ollama, Operation::Chat),
        "chat-v2" => (Dialect::Cohere, Operation::Chat),
        "embeddings-v2" => (Dialect::Cohere, Operation::Embeddings),
        // Bedrock's has a shape of its own.
        "rerank" | "rerank-v1" | "rerank-v2" if file["provider"] != "bedrock" => {
            (Dialect::Cohere, Operation::Rerank)
        }
        "moderations" => (Dialect::OpenAi, Operation::Moderations),
        _ => return None,
    };
    let asked_as_answered = dialect != Dialect::OpenAi || operation != Operation::Chat;
    let response = &file["response"];
    let body = match (response["body_file"].as_str(), response["body_text"].as_str()) {
        (Some(name), _) if response["framing"].as_str().is_some_and(|framing| framing.contains("base64")) => {
            let text = fs::read_to_string(path.with_file_name(name)).unwrap();
            STANDARD.decode(text.split_ascii_whitespace().collect::<String>()).unwrap()
        }
        (Some(name), _) if dialect == Dialect::Bedrock => {
            framed(&fs::read_to_string(path.with_file_name(name)).unwrap())
        }
        (Some(name), _) => fs::read(path.with_file_name(name)).unwrap(),
        // Bodies that the recorder cut are no answers.
        (None, Some(text)) if file["kind"] == "error" => text.as_bytes().to_vec(),
        (None, Some(_)) => return None,
        (None, None) => match &file["response"]["body"] {
            Value::String(text) => text.clone().into_bytes(),
            value => value.to_string().into_bytes(),
        },
    };
    let text = |key: &str| file[key].as_str().unwrap_or_default().to_owned();
    let features =
        file["features"].as_array()?.iter().filter_map(|one| Some(one.as_str()?.to_owned())).collect();
    Some(Recording {
        path: path.to_owned(),
        id: text("id"),
        provider: text("provider"),
        kind: text("kind"),
        dialect,
        operation,
        features,
        status: file["response"]["status"].as_u64().unwrap_or(0) as u16,
        request: Some(file["request"]["body"].take())
            // Only callers' dialects read requests, and of Vertex AI's embeddings only the answers are Gemini's.
            .filter(|_| dialect != Dialect::Bedrock && !["embedContent", "predict"].contains(&api.as_str()))
            .filter(|body| body.is_object() && (asked_as_answered || body.get("input").is_none())),
        body,
    })
}

/// Events of which only the payloads were recorded, a line each, in their frames again.
fn framed(lines: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in lines.lines() {
        let event: Map<String, Value> = serde_json::from_str(line).unwrap();
        for (kind, payload) in event {
            let headers = [(":event-type", kind.as_str()), (":message-type", "event")];
            eventstream::write(&mut bytes, &headers, payload.to_string().as_bytes());
        }
    }
    bytes
}

/// The curated recordings.
pub(crate) fn curated() -> Vec<Recording> {
    let mut found = Vec::new();
    files(&golden(), &mut found);
    found.iter().filter_map(|path| read(path)).collect()
}

/// All recordings there are.
pub(crate) fn all() -> Vec<Recording> {
    let Some(root) = shared() else { return curated() };
    let mut found = Vec::new();
    files(&root, &mut found);
    found.iter().filter(|path| !path.ends_with("index.json")).filter_map(|path| read(path)).collect()
}

/// A context that makes the same bytes every time, but for the request's id.
pub(crate) fn context() -> Context {
    Context {
        request_id: RequestId::random(),
        model: "shown".to_owned(),
        provider: "recorded".to_owned(),
        include_usage: true,
        embedding_format: EmbeddingFormat::Float,
        created: 1_700_000_000,
    }
}
