//! The support matrix: every caller's dialect against every provider of the catalogue, feature by feature. The page
//! `docs/reference/support.md` is what this test finds: `UPDATE=1 cargo test -p millgate-server matrix` rewrites it.

mod caller;
mod checks;
mod others;
mod page;
mod rows;
mod seen;
mod sent;

use std::path::Path;
use std::sync::Arc;

use millgate_testkit::{FakeProvider, TestGateway};
use tokio::sync::Semaphore;

use caller::Caller;
use checks::{CHAT, COMPLETIONS, Cell};
use page::{Mark, Table};
use rows::Row;

const ROWS_AT_ONCE: usize = 12;
const PAGE: &str = "../../docs/reference/support.md";

/// Tables for callers: their title and columns.
const TABLES: [Caller; 7] = [
    Caller::OpenAi,
    Caller::Responses,
    Caller::Anthropic,
    Caller::Gemini,
    Caller::Mlflow,
    Caller::Completions,
    Caller::MlflowCompletions,
];

fn columns(caller: Caller) -> &'static [&'static str] {
    if caller.completes() { &COMPLETIONS } else { &CHAT }
}

/// All cells of a row, table by table, and what is wrong.
async fn walk(gateway: Arc<TestGateway>, row: Row) -> (Row, Vec<Vec<Mark>>, Vec<String>) {
    let (mut tables, mut wrong) = (Vec::new(), Vec::new());
    for caller in TABLES {
        let cell = Cell { gateway: &gateway, row: &row, caller };
        let mut marks = Vec::new();
        for feature in columns(caller) {
            marks.push(cell.check(feature).await.unwrap_or_else(|why| {
                wrong.push(format!("{} | {} | {feature}: {why}", row.title, caller.title()));
                Mark::None
            }));
        }
        tables.push(marks);
    }
    let mut marks = Vec::new();
    for column in others::COLUMNS {
        marks.push(others::check(&gateway, &row, column).await.unwrap_or_else(|why| {
            wrong.push(format!("{} | {column}: {why}", row.title));
            Mark::None
        }));
    }
    tables.push(marks);
    (row, tables, wrong)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_cell_of_the_support_page_is_what_the_gateway_does() {
    let (rows, remarks) = rows::all();
    let makers = FakeProvider::start().unwrap();
    let gateway = Arc::new(TestGateway::start(&rows::config(&rows, &makers)).await);
    // More at once would make each so slow that what a provider sends apart is read together.
    let turns = Arc::new(Semaphore::new(ROWS_AT_ONCE));
    let mut running = tokio::task::JoinSet::new();
    let count = rows.len();
    for (place, row) in rows.into_iter().enumerate() {
        let (gateway, turns) = (Arc::clone(&gateway), Arc::clone(&turns));
        running.spawn(async move {
            let _turn = turns.acquire_owned().await;
            (place, walk(gateway, row).await)
        });
    }
    let mut done: Vec<_> = running.join_all().await;
    done.sort_by_key(|(place, _)| *place);
    assert_eq!(done.len(), count);
    let wrong: Vec<&str> = done.iter().flat_map(|(_, (_, _, wrong))| wrong).map(String::as_str).collect();
    assert!(wrong.is_empty(), "{} cells are wrong:\n{}", wrong.len(), wrong.join("\n"));
    let heads = TABLES.iter().map(|caller| (caller.title(), columns(*caller)));
    let tables: Vec<Table> = heads
        .chain([("Other operations", &others::COLUMNS[..])])
        .enumerate()
        .map(|(place, (title, columns))| Table {
            title: title.to_owned(),
            columns: columns.to_vec(),
            rows: done.iter().map(|(_, (row, marks, _))| (row.title.clone(), marks[place].clone())).collect(),
        })
        .collect();
    let page = page::write(&tables, &remarks);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == page,
        "docs/reference/support.md is out of date; look at the difference with UPDATE=1 and git diff"
    );
}
