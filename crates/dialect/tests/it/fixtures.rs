//! Recordings: the curated ones beside this file always, the whole shared set when it is there.

use std::fs;
use std::path::{Path, PathBuf};

use millgate_dialect::Context;
use millgate_types::{Dialect, EmbeddingFormat, Operation, RequestId};
use serde_json::Value;

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
    let (dialect, operation) = match file["api"].as_str()? {
        "chat" => (Dialect::OpenAi, Operation::Chat),
        "completions" => (Dialect::OpenAi, Operation::Completions),
        "embeddings" => (Dialect::OpenAi, Operation::Embeddings),
        "messages" => (Dialect::Anthropic, Operation::Chat),
        "generateContent" | "streamGenerateContent" => (Dialect::Gemini, Operation::Chat),
        // Azure answered one call there with a chat completion.
        "responses" if file["response"]["body"]["choices"].is_array() => (Dialect::OpenAi, Operation::Chat),
        "responses" => (Dialect::Responses, Operation::Chat),
        "native-chat" => (Dialect::Ollama, Operation::Chat),
        "chat-v2" => (Dialect::Cohere, Operation::Chat),
        "embeddings-v2" => (Dialect::Cohere, Operation::Embeddings),
        // Bedrock's has a shape of its own.
        "rerank" | "rerank-v1" | "rerank-v2" if file["provider"] != "bedrock" => {
            (Dialect::Cohere, Operation::Rerank)
        }
        "moderations" => (Dialect::OpenAi, Operation::Moderations),
        "batchEmbedContents" => (Dialect::Gemini, Operation::Embeddings),
        _ => return None,
    };
    let asked_as_answered = dialect != Dialect::OpenAi || operation != Operation::Chat;
    let response = &file["response"];
    let body = match (response["body_file"].as_str(), response["body_text"].as_str()) {
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
            .filter(|body| body.is_object() && (asked_as_answered || body.get("input").is_none())),
        body,
    })
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
