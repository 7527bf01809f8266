//! Parts: what a content is made of, in requests and answers.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD as BASE64, URL_SAFE};
use millgate_types::{Block, Dialect, MediaSource};
use serde_json::{Map, Value, json};

use crate::json;
use crate::seal::{self, Place};

/// What a part holds.
pub(super) enum Kind {
    Text(String),
    Thought(String),
    Call(Call),
    Response { id: Option<String>, name: String, response: Value, parts: Vec<Value> },
    Media(Block),
    Other(Value),
}

/// A function call.
pub(super) struct Call {
    pub(super) id: Option<String>,
    pub(super) name: String,
    pub(super) arguments: String,
    /// Pieces of arguments ([`super::partial`]).
    pub(super) pieces: Vec<Value>,
    /// More pieces follow.
    pub(super) goes_on: bool,
}

/// A part, and the signature on it.
pub(super) struct Part {
    pub(super) kind: Kind,
    pub(super) signature: Option<String>,
}

/// Reads a part; `None` when it is not an object or says nothing.
pub(super) fn read(value: Value) -> Option<Part> {
    let Value::Object(map) = value else { return None };
    let mut map = super::camel(map);
    let signature = json::take_string(&mut map, "thoughtSignature").filter(|text| !text.is_empty());
    let thought = map.shift_remove("thought").is_some_and(|value| value == true);
    map.retain(|_, value| !value.is_null());
    let alone = map.len() == 1;
    let kind = match map.iter().next().map(|(key, _)| key.as_str()) {
        Some("text") if alone => {
            let text = json::take_string(&mut map, "text").unwrap_or_default();
            if thought { Kind::Thought(text) } else { Kind::Text(text) }
        }
        Some("functionCall") if alone => call(map.shift_remove("functionCall")),
        Some("functionResponse") if alone => response(map.shift_remove("functionResponse")),
        Some("inlineData" | "fileData") if alone => media(map),
        None if signature.is_some() => {
            if thought {
                Kind::Thought(String::new())
            } else {
                Kind::Text(String::new())
            }
        }
        None => return None,
        Some(_) => Kind::Other(Value::Object(map)),
    };
    Some(Part { kind, signature })
}

fn fields(value: Option<Value>) -> Map<String, Value> {
    match value {
        Some(Value::Object(map)) => super::camel(map),
        _ => Map::new(),
    }
}

fn call(value: Option<Value>) -> Kind {
    let mut map = fields(value);
    let id = json::take_string(&mut map, "id").filter(|id| !id.is_empty());
    let name = json::take_string(&mut map, "name").unwrap_or_default();
    let arguments = match json::take(&mut map, "args") {
        Some(arguments @ Value::Object(_)) => arguments.to_string(),
        _ => "{}".to_owned(),
    };
    let goes_on = map.get("willContinue").is_some_and(|value| value == true);
    let pieces = match map.shift_remove("partialArgs") {
        Some(Value::Array(pieces)) => pieces,
        _ => Vec::new(),
    };
    Kind::Call(Call { id, name, arguments, pieces, goes_on })
}

fn response(value: Option<Value>) -> Kind {
    let mut map = fields(value);
    let id = json::take_string(&mut map, "id").filter(|id| !id.is_empty());
    let name = json::take_string(&mut map, "name").unwrap_or_default();
    let response = json::take(&mut map, "response").unwrap_or_else(|| json!({}));
    let parts = match map.shift_remove("parts") {
        Some(Value::Array(parts)) => parts,
        _ => Vec::new(),
    };
    Kind::Response { id, name, response, parts }
}

fn media(map: Map<String, Value>) -> Kind {
    let inline = map.contains_key("inlineData");
    let mut inner = fields(map.values().next().cloned());
    let mut text = |key: &str| json::take_string(&mut inner, key);
    let media_type = text("mimeType").unwrap_or_default();
    let filename = text("displayName");
    let content = text(if inline { "data" } else { "fileUri" });
    let Some(content) = content.filter(|_| inner.is_empty()) else {
        return Kind::Other(Value::Object(map));
    };
    let audio = media_type.strip_prefix("audio/").map(str::to_owned);
    let image = media_type.starts_with("image/");
    let mut extra = Map::new();
    let source = if inline {
        MediaSource::Base64 { media_type, data: content }
    } else {
        if !image && !media_type.is_empty() {
            extra.insert("mimeType".to_owned(), json!(media_type));
        }
        MediaSource::Url(content)
    };
    Kind::Media(match (source, audio) {
        (MediaSource::Base64 { data, .. }, Some(format)) => Block::Audio { data, format },
        (source, _) if image && filename.is_none() => {
            Block::Image { source, detail: None, cache_control: None }
        }
        (source, _) => Block::File { source, filename, cache_control: None, extra },
    })
}

/// A media block as a part; `None` when it is none.
pub(super) fn media_value(block: &Block) -> Option<Value> {
    let (source, filename, given) = match block {
        Block::Image { source, .. } => (source, None, None),
        Block::File { source, filename, extra, .. } => {
            (source, filename.as_ref(), extra.get("mimeType").and_then(Value::as_str))
        }
        Block::Audio { data, format } => {
            return Some(json!({"inlineData": {"mimeType": format!("audio/{format}"), "data": data}}));
        }
        _ => return None,
    };
    let mut inner = Map::new();
    let key = match source {
        MediaSource::Base64 { media_type, data } => {
            inner.insert("mimeType".to_owned(), json!(media_type));
            inner.insert("data".to_owned(), json!(data));
            "inlineData"
        }
        MediaSource::Url(uri) | MediaSource::FileId(uri) => {
            if let Some(media_type) = given.or_else(|| media_type_of(uri)) {
                inner.insert("mimeType".to_owned(), json!(media_type));
            }
            inner.insert("fileUri".to_owned(), json!(uri));
            "fileData"
        }
        MediaSource::Text(text) => return Some(json!({"text": text})),
    };
    if let Some(filename) = filename {
        inner.insert("displayName".to_owned(), json!(filename));
    }
    Some(json!({key: inner}))
}

/// Google wants to be told what a URL leads to; the name's ending is all there is to go by.
fn media_type_of(uri: &str) -> Option<&'static str> {
    let path = uri.split(['?', '#']).next().unwrap_or_default();
    let ending = path.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase())?;
    Some(match ending.as_str() {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "webp" => "image/webp",
        "gif" => "image/gif",
        "heic" => "image/heic",
        "pdf" => "application/pdf",
        "mp4" => "video/mp4",
        "mp3" => "audio/mp3",
        "wav" => "audio/wav",
        "txt" => "text/plain",
        _ => return None,
    })
}

// ---- signatures -------------------------------------------------------------------------------------

const FOREIGN: &str = "millgate/";
const FOREIGN_WHOLE: &str = "millgate-sealed/";

/// Another provider's seal as a signature that Google's clients carry (they insist on base64).
pub(super) fn foreign_signature(seal: &str) -> String {
    BASE64.encode(format!("{FOREIGN}{seal}"))
}

/// Another provider's sealed thinking as such a signature.
pub(super) fn foreign_data(data: &str) -> String {
    BASE64.encode(format!("{FOREIGN_WHOLE}{data}"))
}

/// The block that a part's signature stands for: another provider's thinking on its way back, or Google's own
/// seal. `text` is the thought it stands on, if any.
pub(super) fn sealed(signature: &str, place: Place, text: String) -> Block {
    let bytes = BASE64.decode(signature).or_else(|_| URL_SAFE.decode(signature)).unwrap_or_default();
    let decoded = std::str::from_utf8(&bytes).unwrap_or_default();
    if let Some(data) = decoded.strip_prefix(FOREIGN_WHOLE) {
        return Block::RedactedReasoning { data: data.to_owned() };
    }
    let seal = match decoded.strip_prefix(FOREIGN) {
        Some(seal) => seal.to_owned(),
        None => seal::gemini(place, signature),
    };
    Block::Reasoning { text, signature: Some(seal) }
}

/// A block that only this dialect knows.
pub(super) fn other(value: Value) -> Block {
    Block::Other { dialect: Dialect::Gemini, value }
}

// ---- writing ----------------------------------------------------------------------------------------

/// Blocks of one turn as parts, with every signature of Google's back on the part it came from.
#[derive(Default)]
pub(super) struct Turn {
    parts: Vec<Value>,
    calls: usize,
    /// Signatures for function calls that have not come yet.
    waiting: Vec<(usize, String)>,
    /// A signature for the next text.
    for_text: Option<String>,
}

impl Turn {
    pub(super) fn push(&mut self, part: Value) {
        self.parts.push(part);
    }

    pub(super) fn text(&mut self, text: &str) {
        let mut part = json!({"text": text});
        if let Some(signature) = self.for_text.take() {
            part["thoughtSignature"] = json!(signature);
        }
        self.parts.push(part);
    }

    /// A thought of Google's making.
    pub(super) fn thought(&mut self, text: &str, place: Place, signature: &str) {
        let mut part = json!({"text": text, "thought": true});
        match place {
            Place::Thought => part["thoughtSignature"] = json!(signature),
            Place::Call(number) => self.waiting.push((number, signature.to_owned())),
            Place::Text => match self.parts.last_mut() {
                Some(last) if text.is_empty() && is_plain_text(last) => {
                    last["thoughtSignature"] = json!(signature);
                }
                _ => self.for_text = Some(signature.to_owned()),
            },
        }
        if !text.is_empty() || place == Place::Thought {
            self.parts.push(part);
        }
    }

    /// `spare` is the signature for a call whose own is lost.
    pub(super) fn call(&mut self, id: Option<&str>, name: &str, arguments: &str, spare: Option<&str>) {
        let mut call = Map::new();
        if let Some(id) = id {
            call.insert("id".to_owned(), json!(id));
        }
        call.insert("name".to_owned(), json!(name));
        call.insert("args".to_owned(), super::arguments(arguments));
        let mut part = json!({"functionCall": call});
        let own = self.waiting.iter().position(|(number, _)| *number == self.calls);
        let own = own.map(|place| self.waiting.remove(place).1);
        let spare = spare.filter(|_| self.calls == 0).map(str::to_owned);
        if let Some(signature) = own.or(spare) {
            part["thoughtSignature"] = json!(signature);
        }
        self.calls += 1;
        self.parts.push(part);
    }

    /// What is gathered so far; signatures that wait go on waiting.
    pub(super) fn take(&mut self) -> Vec<Value> {
        std::mem::take(&mut self.parts)
    }

    pub(super) fn end(mut self) -> Vec<Value> {
        if let Some(signature) = self.for_text.take() {
            self.parts.push(json!({"text": "", "thoughtSignature": signature}));
        }
        self.parts
    }
}

fn is_plain_text(part: &Value) -> bool {
    part.as_object().is_some_and(|map| map.len() == 1 && map.contains_key("text"))
}
