//! Content blocks for Converse: what each block of ours becomes, and what has no counterpart.

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use millgate_types::{Block, Dialect, Fault, MediaSource, code};
use serde_json::{Value, json};

use crate::seal;

/// Writes the blocks of one call.
pub(super) struct Blocks {
    /// Marks for the prompt cache are written.
    caches: bool,
    pub(super) dropped: Vec<String>,
    /// Documents' names must differ.
    names: HashSet<String>,
}

/// Bedrock takes ids of letters, digits, `_` and `-`, at most 64.
fn tool_id(id: &str) -> String {
    let clean: String = id
        .chars()
        .take(64)
        .map(|c| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '_' })
        .collect();
    if clean.is_empty() { "call".to_owned() } else { clean }
}

/// `png` of `image/png`.
fn image_format(media_type: &str) -> Option<&'static str> {
    Some(match media_type {
        "image/png" => "png",
        "image/jpeg" | "image/jpg" => "jpeg",
        "image/gif" => "gif",
        "image/webp" => "webp",
        _ => return None,
    })
}

/// `pdf` of `application/pdf`, else of the file's name.
fn document_format(media_type: &str, filename: Option<&str>) -> Option<&'static str> {
    Some(match media_type.split(';').next().unwrap_or_default().trim() {
        "application/pdf" => "pdf",
        "text/csv" => "csv",
        "text/html" => "html",
        "text/markdown" => "md",
        "application/msword" => "doc",
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document" => "docx",
        "application/vnd.ms-excel" => "xls",
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet" => "xlsx",
        _ => {
            let ending = filename.and_then(|name| name.rsplit_once('.')).map_or("", |(_, ending)| ending);
            let known = ["pdf", "csv", "doc", "docx", "xls", "xlsx", "html", "txt", "md"];
            match known.into_iter().find(|known| ending.eq_ignore_ascii_case(known)) {
                Some(known) => known,
                None if media_type.starts_with("text/") => "txt",
                None => return None,
            }
        }
    })
}

/// `mp4` of `video/mp4`.
fn film_format(ending: &str) -> Option<&str> {
    Some(match ending {
        "mp4" | "webm" | "mpeg" | "mpg" => ending,
        "quicktime" | "mov" => "mov",
        "x-matroska" | "mkv" => "mkv",
        "x-flv" | "flv" => "flv",
        "x-ms-wmv" | "wmv" => "wmv",
        "3gpp" => "three_gp",
        _ => return None,
    })
}

fn refused(public: &'static str, path: &dyn Fn() -> String) -> Fault {
    Fault::client(code::UNSUPPORTED_PARAMETER, public).with_param(path())
}

/// Where media lie: inline, or in a bucket that the provider reads itself.
fn source(source: &MediaSource, path: &dyn Fn() -> String) -> Result<Value, Fault> {
    match source {
        MediaSource::Base64 { data, .. } => Ok(json!({"bytes": data})),
        MediaSource::Text(text) => Ok(json!({"bytes": STANDARD.encode(text)})),
        MediaSource::Url(url) | MediaSource::FileId(url) if url.starts_with("s3://") => {
            Ok(json!({"s3Location": {"uri": url}}))
        }
        MediaSource::Url(_) => Err(refused("the target fetches no URLs: send the bytes inline", path)),
        MediaSource::FileId(_) => Err(refused("the target stores no files: send the bytes inline", path)),
    }
}

fn media_type(source: &MediaSource) -> &str {
    match source {
        MediaSource::Base64 { media_type, .. } => media_type,
        MediaSource::Text(_) => "text/plain",
        MediaSource::Url(_) | MediaSource::FileId(_) => "",
    }
}

impl Blocks {
    pub(super) fn new(caches: bool) -> Self {
        Self { caches, dropped: Vec::new(), names: HashSet::new() }
    }

    /// Adds a mark for the prompt cache, where the model takes them.
    pub(super) fn mark(&mut self, mark: Option<&Value>, out: &mut Vec<Value>, path: &dyn Fn() -> String) {
        let Some(mark) = mark else { return };
        if !self.caches {
            self.dropped.push(format!("{}.cache_control", path()));
        } else if !out.is_empty() {
            out.push(cache_point(mark));
        }
    }

    /// Writes a block.
    pub(super) fn block(
        &mut self,
        block: &Block,
        assistant: bool,
        out: &mut Vec<Value>,
        path: &dyn Fn() -> String,
    ) -> Result<(), Fault> {
        let mark = match block {
            // Blank text is refused.
            Block::Text { text, cache_control, .. } => {
                if !text.trim().is_empty() {
                    out.push(json!({"text": text}));
                }
                cache_control.as_ref()
            }
            Block::Refusal { text } => {
                out.push(json!({"text": text}));
                None
            }
            Block::Image { source, cache_control, .. } => {
                out.push(image(source, path)?);
                cache_control.as_ref()
            }
            Block::Audio { data, format } => {
                out.push(json!({"audio": {"format": format, "source": {"bytes": data}}}));
                None
            }
            Block::File { source, filename, cache_control, extra } => {
                let mut document = self.document(source, filename.as_deref(), path)?;
                if extra.get("citations").is_some_and(|citations| citations["enabled"] == true) {
                    document["document"]["citations"] = json!({"enabled": true});
                }
                if let Some(context) = extra.get("context").filter(|context| context.is_string()) {
                    document["document"]["context"] = context.clone();
                }
                out.push(document);
                cache_control.as_ref()
            }
            Block::Reasoning { text, signature } if assistant => {
                // Seals of Claude hold wherever Claude runs.
                match signature.as_deref().filter(|seal| seal::is_anthropic(seal)) {
                    Some(seal) => out.push(
                        json!({"reasoningContent": {"reasoningText": {"text": text, "signature": seal}}}),
                    ),
                    None => self.dropped.push(path()),
                }
                None
            }
            Block::RedactedReasoning { data } if assistant => {
                out.push(json!({"reasoningContent": {"redactedContent": data}}));
                None
            }
            Block::ToolCall { id, name, arguments, cache_control } if assistant => {
                let input = crate::anthropic::input(arguments);
                out.push(json!({"toolUse": {"toolUseId": tool_id(id), "name": name, "input": input}}));
                cache_control.as_ref()
            }
            Block::ToolResult { call_id, content, is_error, cache_control } if !assistant => {
                let mut inner = Vec::with_capacity(content.len());
                for block in content {
                    self.block(block, false, &mut inner, path)?;
                }
                // Marks stand beside results, not inside them.
                inner.retain(|block| block.get("cachePoint").is_none());
                let mut result = json!({"toolUseId": tool_id(call_id), "content": inner});
                if *is_error {
                    result["status"] = json!("error");
                }
                out.push(json!({"toolResult": result}));
                cache_control.as_ref()
            }
            Block::Other { dialect: Dialect::Bedrock, value } => {
                out.push(value.clone());
                None
            }
            Block::Reasoning { .. }
            | Block::RedactedReasoning { .. }
            | Block::ToolCall { .. }
            | Block::ToolResult { .. }
            | Block::Other { .. } => {
                self.dropped.push(path());
                None
            }
        };
        self.mark(mark, out, path);
        Ok(())
    }

    fn document(
        &mut self,
        from: &MediaSource,
        filename: Option<&str>,
        path: &dyn Fn() -> String,
    ) -> Result<Value, Fault> {
        let named = match from {
            MediaSource::Url(url) | MediaSource::FileId(url) => filename.or_else(|| url.rsplit('/').next()),
            _ => filename,
        };
        let source = source(from, path)?;
        // Other dialects send films and sound as files too.
        let (kind, ending) = media_type(from).split_once('/').unwrap_or_default();
        match (kind, film_format(ending)) {
            ("video", Some(format)) => return Ok(json!({"video": {"format": format, "source": source}})),
            ("audio", _) => {
                let format = if ending == "mpeg" { "mp3" } else { ending.trim_start_matches("x-") };
                return Ok(json!({"audio": {"format": format, "source": source}}));
            }
            _ => {}
        }
        let format = document_format(media_type(from), named)
            .ok_or_else(|| refused("the target does not take documents of this kind", path))?;
        let name = self.name(filename);
        Ok(json!({"document": {"format": format, "name": name, "source": source}}))
    }

    /// A document's name: letters, digits, single spaces, `-()[]`, and no other document's.
    fn name(&mut self, filename: Option<&str>) -> String {
        let name = filename.and_then(|name| name.rsplit(['/', '\\']).next()).unwrap_or_default();
        let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
        let plain = |c: char| if c.is_ascii_alphanumeric() || "-()[]".contains(c) { c } else { ' ' };
        let words: Vec<String> =
            stem.chars().map(plain).collect::<String>().split_whitespace().map(str::to_owned).collect();
        let mut base: String = words.join(" ").chars().take(180).collect();
        if base.is_empty() {
            "document".clone_into(&mut base);
        }
        let mut name = base.clone();
        let mut number = 2;
        while !self.names.insert(name.clone()) {
            name = format!("{base} {number}");
            number += 1;
        }
        name
    }
}

fn image(from: &MediaSource, path: &dyn Fn() -> String) -> Result<Value, Fault> {
    let bytes = source(from, path)?;
    let ending = match from {
        MediaSource::Url(url) | MediaSource::FileId(url) => {
            let ending = url.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
            format!("image/{ending}")
        }
        _ => media_type(from).to_owned(),
    };
    let format = image_format(&ending)
        .ok_or_else(|| refused("the target takes pictures as png, jpeg, gif or webp", path))?;
    Ok(json!({"image": {"format": format, "source": bytes}}))
}

/// `cachePoint`, of an Anthropic `cache_control`.
pub(super) fn cache_point(mark: &Value) -> Value {
    let mut point = json!({"type": "default"});
    if let Some(ttl) = mark.get("ttl").filter(|ttl| ttl.is_string()) {
        point["ttl"] = ttl.clone();
    }
    json!({"cachePoint": point})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_get_names_that_bedrock_takes() {
        let mut blocks = Blocks::new(false);
        let mut name = |text: Option<&str>| blocks.name(text);
        assert_eq!(name(Some("Q3 report_final.v2.pdf")), "Q3 report final v2");
        assert_eq!(name(Some("../../etc/passwd")), "passwd");
        assert_eq!(name(None), "document");
        assert_eq!(name(Some("???.txt")), "document 2");
        assert_eq!(name(Some("document 2.md")), "document 2 2");
    }

    #[test]
    fn formats_follow_from_the_media_type_or_the_name() {
        assert_eq!(document_format("application/pdf", None), Some("pdf"));
        assert_eq!(document_format("application/octet-stream", Some("a.DOCX")), Some("docx"));
        assert_eq!(document_format("text/x-rust", Some("lib.rs")), Some("txt"));
        assert_eq!(document_format("application/zip", Some("a.zip")), None);
        assert_eq!(image_format("image/svg+xml"), None);
    }

    #[test]
    fn films_and_sound_that_come_as_files_are_none() {
        let mut blocks = Blocks::new(false);
        let mut file = |media_type: &str| {
            let source = MediaSource::Base64 { media_type: media_type.to_owned(), data: "AAAA".to_owned() };
            blocks.document(&source, None, &|| "messages[0].content[0]".to_owned())
        };
        let source = json!({"bytes": "AAAA"});
        let film = json!({"video": {"format": "mov", "source": source}});
        assert_eq!(file("video/quicktime").unwrap(), film);
        assert_eq!(file("audio/mpeg").unwrap(), json!({"audio": {"format": "mp3", "source": source}}));
        assert!(file("video/of-the-future").is_err());
    }

    #[test]
    fn urls_are_refused_and_buckets_taken() {
        let path = || "messages[0].content[0]".to_owned();
        let fault = image(&MediaSource::Url("https://x.example/a.png".to_owned()), &path).unwrap_err();
        assert_eq!(fault.param.as_deref(), Some("messages[0].content[0]"));
        let value = image(&MediaSource::Url("s3://bucket/a.png".to_owned()), &path).unwrap();
        assert_eq!(
            value,
            json!({"image": {"format": "png", "source": {"s3Location": {"uri": "s3://bucket/a.png"}}}})
        );
    }
}
