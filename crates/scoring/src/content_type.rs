//! The three media types of the scoring protocol.

use millgate_types::{Fault, code};

/// How a body is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentType {
    /// `application/json`
    Json,
    /// `text/csv`
    Csv,
    /// `application/vnd.apache.parquet`; only Python workers read it.
    Parquet,
}

impl ContentType {
    /// Reads the header's value. Names are compared without regard to case; besides the type only
    /// `charset=utf-8` may stand. Anything else, and a missing header, answers `unsupported_media_type`.
    pub fn parse(header: Option<&str>) -> Result<Self, Fault> {
        const TAKEN: &str = "application/json, text/csv or application/vnd.apache.parquet";
        let Some(header) = header else {
            return Err(Fault::client(
                code::UNSUPPORTED_MEDIA_TYPE,
                format!("the Content-Type header is missing; expected {TAKEN}"),
            ));
        };
        let mut parts = header.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        let found = match name.as_str() {
            "application/json" => Self::Json,
            "text/csv" => Self::Csv,
            "application/vnd.apache.parquet" => Self::Parquet,
            _ => {
                return Err(Fault::client(
                    code::UNSUPPORTED_MEDIA_TYPE,
                    format!("the Content-Type is not one of {TAKEN}"),
                ));
            }
        };
        for part in parts.filter(|part| !part.is_empty()) {
            match part.split_once('=') {
                Some((key, value)) if key.trim().eq_ignore_ascii_case("charset") => {
                    if !value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8") {
                        return Err(Fault::client(code::UNSUPPORTED_MEDIA_TYPE, "only UTF-8 is supported"));
                    }
                }
                _ => {
                    return Err(Fault::client(
                        code::UNSUPPORTED_MEDIA_TYPE,
                        "the Content-Type has a parameter other than charset",
                    ));
                }
            }
        }
        Ok(found)
    }

    /// The name MLflow's scoring server compares with.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Csv => "text/csv",
            Self::Parquet => "application/vnd.apache.parquet",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_read_without_regard_to_case_and_only_utf8_is_taken() {
        assert_eq!(ContentType::parse(Some("Application/JSON; charset=UTF-8")).unwrap(), ContentType::Json);
        assert_eq!(ContentType::parse(Some("text/csv")).unwrap(), ContentType::Csv);
        for header in [
            None,
            Some("text/plain"),
            Some("application/json; charset=latin1"),
            Some("text/csv; header=present"),
        ] {
            assert_eq!(ContentType::parse(header).unwrap_err().code, code::UNSUPPORTED_MEDIA_TYPE);
        }
    }
}
