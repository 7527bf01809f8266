//! The page: what the cells came to, as tables.

use std::fmt::Write as _;

/// How a cell works.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Mark {
    Yes,
    /// Works; the schema is told in words.
    Words,
    /// Works for one text a call; the provider takes no more.
    OneText,
    /// The provider does not count; the gateway estimates.
    Estimated,
    /// Works without what is named.
    Less(String),
    /// Refused with this code before it is sent.
    Refused(String),
    /// There is no such thing, at the provider or in the caller's dialect.
    None,
}

pub(super) struct Table {
    pub(super) title: String,
    pub(super) columns: Vec<&'static str>,
    /// Titles and marks.
    pub(super) rows: Vec<(String, Vec<Mark>)>,
}

/// Footnotes, numbered as they come.
#[derive(Default)]
struct Notes(Vec<String>);

impl Notes {
    fn number(&mut self, text: String) -> usize {
        let known = self.0.iter().position(|known| *known == text);
        known.unwrap_or_else(|| {
            self.0.push(text);
            self.0.len() - 1
        }) + 1
    }

    fn show(&mut self, mark: &Mark) -> String {
        match mark {
            Mark::Yes => "yes".to_owned(),
            Mark::Words => "words".to_owned(),
            Mark::OneText => "one text".to_owned(),
            Mark::Estimated => "estimated".to_owned(),
            Mark::None => "-".to_owned(),
            Mark::Less(what) => {
                let mut fields: Vec<String> =
                    what.split(", ").map(|path| format!("`{}`", plain(path))).collect();
                fields.dedup();
                format!("less ({})", self.number(format!("without {}", fields.join(", "))))
            }
            Mark::Refused(code) => format!("refused ({})", self.number(format!("`{code}`"))),
        }
    }
}

/// A path without its numbers: `messages[].content[]`.
fn plain(path: &str) -> String {
    path.chars().filter(|c| !c.is_ascii_digit()).collect()
}

const INTRO: &str = "<!-- Written by `UPDATE=1 cargo test -p millgate-server matrix`; the test fails when it is not what it finds. -->
# Support

Which caller gets what from which provider. Every cell is a test that passes: a caller of the dialect calls a provider of
that kind through the gateway, over real sockets, and the test reads what the provider was sent, in the provider's own
API, and what the caller got, in the caller's. The providers are fakes that speak each API as it is recorded; that
a certain model may still refuse something (pictures, thinking) is not looked at here. The rows
are the catalogue (`crates/provider/catalog.yaml`), without those that have nothing of a table; the checks stand in `crates/server/tests/it/matrix`.

| mark | means |
|---|---|
| yes | works, nothing is lost |
| less (n) | works without what the note names; the answer's header `x-millgate-dropped` names it too |
| words | works; the provider takes no schema, so the model is told in words |
| one text | works for one text a call; lists are refused with a clear error before they are sent |
| estimated | the provider does not count; the gateway estimates and says so in `x-millgate-estimated` |
| refused (n) | refused before it is sent, in the caller's own form of error, with the code that the note names |
| - | there is no such thing: the provider's API or the caller's does not have it |

What the columns mean:

- **tools**: declared tools reach the provider, the model's call reaches the caller. **tool loop**: the answer goes back unchanged with
  the tool's result, under the provider's own ids and with its signatures. **parallel tools**: the same with two calls, streamed too.
- **thinking sent back**: the model's thinking returns to it in the next turn, with its signature where it is signed. **another's
  thinking**: a conversation that another provider began goes on here; its thinking goes on as text or is left out by name, and
  its signature reaches nobody else.
- **usage**: the caller reads the provider's own count, cached and thinking tokens included, by the caller's arithmetic.
- **errors**: a rate limit and a refused key, whole and streamed: the right status, the caller's form, `Retry-After`, no key shown.
  **error in a stream**: what came, then the dialect's error event, nothing that means success.
- **cancel**: the caller goes away in the middle of a stream; the provider's connection is closed.
";

/// The whole page.
pub(super) fn write(tables: &[Table], remarks: &[String]) -> String {
    let mut out = INTRO.to_owned();
    for remark in remarks {
        let _ = write!(out, "\n{remark}\n");
    }
    let mut notes = Notes::default();
    for table in tables {
        let _ = write!(out, "\n## {}\n\n| provider |", table.title);
        for column in &table.columns {
            let _ = write!(out, " {column} |");
        }
        out.push_str("\n|---|");
        out.push_str(&"---|".repeat(table.columns.len()));
        out.push('\n');
        // Who has nothing of it is not listed.
        let rows = table.rows.iter().filter(|(_, marks)| marks.iter().any(|mark| *mark != Mark::None));
        for (title, marks) in rows {
            let _ = write!(out, "| {title} |");
            for mark in marks {
                let _ = write!(out, " {} |", notes.show(mark));
            }
            out.push('\n');
        }
    }
    if !notes.0.is_empty() {
        out.push_str("\n## Notes\n\n");
        for (number, note) in notes.0.iter().enumerate() {
            let _ = writeln!(out, "{}. {note}", number + 1);
        }
    }
    out
}
