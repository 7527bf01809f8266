//! How rows come and how predictions go, told by the request's head.

use http::header::{self, HeaderName};
use http::request::Parts;
use http::{HeaderMap, HeaderValue};
use millgate_types::{Dialect, Fault};

use crate::surface;

pub(super) const LINES: &str = "application/x-ndjson";
pub(super) const ARROW: &str = "application/vnd.apache.arrow.stream";
const PARQUET: &str = "application/vnd.apache.parquet";
/// Other names of [`LINES`].
const ALSO_LINES: [&str; 3] = ["application/ndjson", "application/jsonl", "application/jsonlines"];

/// How a request is read and answered piece by piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    pub(super) rows: RowForm,
    pub(super) answer: AnswerForm,
}

/// How rows come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RowForm {
    /// A JSON value a line.
    Lines,
    /// An Arrow IPC stream.
    Arrow,
    /// A Parquet file.
    Parquet,
}

/// How predictions go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AnswerForm {
    /// A JSON value a line.
    Lines,
    /// An Arrow IPC stream.
    Arrow,
}

/// Whether a call of the scoring protocol is read and answered piece by piece. A Parquet file is so only where the answer is
/// asked for as one of the forms that go so: otherwise it is one of the scoring protocol's own bodies.
pub(crate) fn form(dialect: Dialect, head: &Parts) -> Option<Form> {
    if dialect != Dialect::Scoring {
        return None;
    }
    let kind = media_type(head.headers.get(header::CONTENT_TYPE)?.as_bytes());
    let is = |name: &str| kind.eq_ignore_ascii_case(name.as_bytes());
    let wanted = wanted(&head.headers);
    let rows = if is(ARROW) {
        RowForm::Arrow
    } else if is(PARQUET) && wanted.is_some() {
        RowForm::Parquet
    } else if is(LINES) || ALSO_LINES.into_iter().any(is) {
        RowForm::Lines
    } else {
        return None;
    };
    Some(Form { rows, answer: wanted.unwrap_or(AnswerForm::Lines) })
}

fn media_type(value: &[u8]) -> &[u8] {
    value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii()
}

/// The form that `Accept` names; `None` where it names none of ours.
fn wanted(headers: &HeaderMap) -> Option<AnswerForm> {
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let (mut lines, mut arrow) = (0.0_f32, 0.0_f32);
    for range in values.flat_map(|value| value.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let quality = parts.find_map(|part| part.strip_prefix("q=")).map_or(Some(1.0), |q| q.parse().ok());
        let quality = quality.filter(|quality: &f32| quality.is_finite()).unwrap_or(0.0);
        if name.eq_ignore_ascii_case(ARROW) {
            arrow = arrow.max(quality);
        } else if name.eq_ignore_ascii_case(LINES)
            || ALSO_LINES.iter().any(|also| name.eq_ignore_ascii_case(also))
        {
            lines = lines.max(quality);
        }
    }
    if arrow > 0.0 && arrow >= lines {
        return Some(AnswerForm::Arrow);
    }
    (lines > 0.0).then_some(AnswerForm::Lines)
}

impl AnswerForm {
    pub(super) fn content_type(self) -> (HeaderName, HeaderValue) {
        let kind = match self {
            Self::Lines => LINES,
            Self::Arrow => ARROW,
        };
        (header::CONTENT_TYPE, HeaderValue::from_static(kind))
    }
}

/// The query's `params`: a JSON object that holds for all rows. Faults: `invalid_json`, `duplicate_member`,
/// `schema_mismatch`.
pub(super) fn params(head: &Parts) -> Result<Option<String>, Fault> {
    let Some(text) = surface::query(head.uri.path_and_query(), "params") else { return Ok(None) };
    // Forms write a space as `+`; a plus sign itself is `%2B` there.
    let text = text.replace('+', " ");
    let text = surface::decoded(&text);
    millgate_scoring::bulk::params(&text).map(Some)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn read(content: &str, accept: Option<&str>) -> Option<Form> {
        let mut request = Request::post("/x").header("content-type", content);
        if let Some(accept) = accept {
            request = request.header("accept", accept);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        form(Dialect::Scoring, &head)
    }

    #[test]
    fn the_head_says_how_rows_come_and_predictions_go() {
        use AnswerForm::{Arrow, Lines};
        let answer = |content, accept| read(content, accept).map(|form| form.answer);
        assert_eq!(answer("application/x-ndjson", None), Some(Lines));
        assert_eq!(answer("Application/JSONL; charset=utf-8", Some("*/*")), Some(Lines));
        assert_eq!(answer(ARROW, Some(ARROW)), Some(Arrow));
        assert_eq!(
            answer(LINES, Some("application/x-ndjson;q=0.9, application/vnd.apache.arrow.stream")),
            Some(Arrow)
        );
        assert_eq!(
            answer(LINES, Some("application/vnd.apache.arrow.stream; q=0.1, application/ndjson")),
            Some(Lines)
        );
        assert_eq!(answer(LINES, Some("application/vnd.apache.arrow.stream;q=0")), Some(Lines));
        assert_eq!(answer(PARQUET, None), None);
        assert_eq!(answer(PARQUET, Some("application/json")), None);
        assert_eq!(answer(PARQUET, Some(ARROW)), Some(Arrow));
        assert_eq!(answer(PARQUET, Some(LINES)), Some(Lines));
        assert_eq!(answer("application/json", Some(ARROW)), None);
    }
}
