//! Pages of lists: `limit` says how many, `cursor` goes on where the page before ended.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use millgate_types::Fault;

use super::Context;

/// Query parameters of every list that has pages.
pub(super) const LIMIT: (&str, &str) = ("limit", "Entries of a page, 1 to 1000; default 100");
pub(super) const CURSOR: (&str, &str) = ("cursor", "What the page before gave as `next_cursor`");

/// Which part of a list is asked for.
pub(super) struct Page {
    pub(super) limit: usize,
    /// Where the page before ended, in the words of the list.
    pub(super) after: Option<String>,
}

impl Page {
    /// Reads `limit` and `cursor`. Faults name the one at fault.
    pub(super) fn of(context: &Context) -> Result<Self, Fault> {
        let limit = match context.query("limit") {
            None => 100,
            Some(text) => {
                let limit = text.parse().ok().filter(|limit| (1..=1000).contains(limit));
                limit
                    .ok_or_else(|| Fault::invalid_value("limit", "`limit` must be a number from 1 to 1000"))?
            }
        };
        let after = context.query("cursor").map(|text| {
            let bytes = URL_SAFE_NO_PAD.decode(text.as_bytes()).ok();
            bytes.and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(foreign)
        });
        Ok(Self { limit, after: after.transpose()? })
    }

    /// Where the page before ended, where lists count their entries.
    pub(super) fn number<T: std::str::FromStr>(&self) -> Result<Option<T>, Fault> {
        self.after.as_deref().map(|after| after.parse().map_err(|_| foreign())).transpose()
    }
}

/// The cursor that goes on behind `place`.
pub(super) fn cursor(place: &str) -> String {
    URL_SAFE_NO_PAD.encode(place)
}

pub(super) fn foreign() -> Fault {
    Fault::invalid_value("cursor", "`cursor` must be what the page before gave as `next_cursor`")
}
