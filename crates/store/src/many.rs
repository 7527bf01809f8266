//! Statements over many rows at a time: each one is a journey to the database and back.

use sqlx::{AnyConnection, AssertSqlSafe};

pub(crate) type AnyQuery<'q> = sqlx::query::Query<'q, sqlx::Any, sqlx::any::AnyArguments>;

/// How many rows one statement takes, the most first: whatever count there is, few of them do it. Only these texts
/// are ever sent: a statement is prepared once.
const COUNTS: [usize; 10] = [512, 256, 128, 64, 32, 16, 8, 4, 2, 1];

/// One statement, for each count of rows.
pub(crate) struct Many {
    sqlite: [String; COUNTS.len()],
    postgres: [String; COUNTS.len()],
}

impl Many {
    /// A statement that has rows of `width` parameters, as `VALUES` writes them, between `before` and `after`.
    pub(crate) fn new(before: &str, width: usize, after: &str) -> Self {
        let texts = |place: fn(usize) -> String| {
            COUNTS.map(|count| {
                let row = |row: usize| {
                    let places: Vec<_> = (1..=width).map(|column| place(row * width + column)).collect();
                    format!("({})", places.join(", "))
                };
                let rows: Vec<_> = (0..count).map(row).collect();
                format!("{before} {}{after}", rows.join(", "))
            })
        };
        // SQLite looks for a parameter with a name (`$1` is one) among all of a statement: many rows with names cost it
        // the square of their number.
        Self { sqlite: texts(|_| "?".to_owned()), postgres: texts(|number| format!("${number}")) }
    }

    /// Runs it over all `rows`, whose parameters `bind` gives.
    pub(crate) async fn run<R>(
        &'static self,
        connection: &mut AnyConnection,
        kind: &str,
        mut rows: &[R],
        bind: impl for<'q> Fn(AnyQuery<'q>, &'q R) -> AnyQuery<'q>,
    ) -> Result<(), sqlx::Error> {
        let texts = if kind == "sqlite" { &self.sqlite } else { &self.postgres };
        for (count, text) in COUNTS.iter().zip(texts) {
            while let Some((some, others)) = rows.split_at_checked(*count) {
                rows = others;
                let query = sqlx::query(AssertSqlSafe(text.as_str()));
                some.iter().fold(query, &bind).execute(&mut *connection).await?;
            }
        }
        Ok(())
    }
}
