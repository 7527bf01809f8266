//! A log is written, damaged in every way, and found out.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may stop")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use millgate_audit::{Audit, AuditError, Query, Report, Settings, search, verify};

const KEY: &[u8] = b"the key of the tests";

fn settings(folder: &Path, segment_bytes: u64) -> Settings {
    Settings { folder: folder.to_owned(), segment_bytes, retention: None }
}

fn open(folder: &Path, segment_bytes: u64) -> Arc<Audit> {
    Audit::open(settings(folder, segment_bytes), KEY).unwrap()
}

async fn write(audit: &Audit, from: u64, to: u64) {
    for number in from..to {
        audit.record(format!("{{\"number\":{number}}}").into_bytes()).await.unwrap();
    }
}

fn check(folder: &Path) -> Result<(Report, Vec<String>), AuditError> {
    let mut records = Vec::new();
    verify(folder, KEY, |_, record| records.push(record.to_owned())).map(|report| (report, records))
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    found.sort();
    found
}

#[tokio::test]
async fn what_is_told_to_be_written_is_there_over_segments_and_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let audit = open(folder.path(), 500);
    write(&audit, 0, 10).await;
    audit.close();
    let audit = open(folder.path(), 500);
    write(&audit, 10, 12).await;
    let (report, records) = check(folder.path()).unwrap();
    assert_eq!((report.records, report.first, report.last, report.torn), (12, Some(1), Some(12), 0));
    assert!(report.segments > 2, "{report:?}");
    assert_eq!(records[11], "{\"number\":11}");
    audit.close();
    assert!(matches!(audit.record(b"{}".to_vec()).await, Err(AuditError::Stopped)));
}

#[tokio::test]
async fn records_of_many_writers_share_writes_and_none_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let audit = open(folder.path(), 1 << 20);
    let writers = (0..50).map(|writer| {
        let audit = Arc::clone(&audit);
        tokio::spawn(async move { write(&audit, writer * 10, writer * 10 + 10).await })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    for number in 0..10_000 {
        audit.submit(format!("{{\"call\":{number}}}").into_bytes());
    }
    audit.close();
    let (report, _) = check(folder.path()).unwrap();
    assert_eq!((report.records, audit.lost()), (10_500, 0));
}

/// Every single byte changed, every line removed, doubled or moved, every cut: found, or nothing that was told is gone.
#[tokio::test]
async fn no_change_goes_unseen() {
    let folder = tempfile::tempdir().unwrap();
    let audit = open(folder.path(), 400);
    write(&audit, 0, 9).await;
    audit.close();
    let files = segments(folder.path());
    assert!(files.len() >= 3);
    let whole = check(folder.path()).unwrap();
    for file in &files {
        let good = fs::read(file).unwrap();
        let mut seen = 0;
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(file, &bad).unwrap();
            assert!(check(folder.path()).is_err(), "{} byte {at}", file.display());
            // A cut anywhere loses what was told to be written.
            fs::write(file, &good[..at]).unwrap();
            assert!(check(folder.path()).is_err(), "{} cut at {at}", file.display());
            seen += 1;
        }
        assert!(seen > 100);
        let text = String::from_utf8(good.clone()).unwrap();
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        for at in 0..lines.len() {
            let mut fewer = lines.clone();
            fewer.remove(at);
            let mut more = lines.clone();
            more.insert(at, lines[at]);
            let mut moved = lines.clone();
            moved.rotate_left(1);
            for changed in [fewer, more, moved].iter().filter(|changed| **changed != lines) {
                fs::write(file, changed.concat()).unwrap();
                assert!(check(folder.path()).is_err(), "{} line {at}", file.display());
            }
        }
        fs::remove_file(file).unwrap();
        assert!(check(folder.path()).is_err(), "{} is gone", file.display());
        fs::write(file, &good).unwrap();
    }
    let head = folder.path().join("head.json");
    let good = fs::read_to_string(&head).unwrap();
    fs::write(&head, good.replace("\"seq\":9", "\"seq\":1")).unwrap();
    assert!(check(folder.path()).is_err(), "the place in the chain was changed");
    fs::write(&head, good).unwrap();
    assert_eq!(check(folder.path()).unwrap(), whole);
    assert!(verify(folder.path(), b"another key", |_, _| {}).is_err());
    // Nothing is written behind what was changed.
    fs::write(&files[0], "{}\n").unwrap();
    assert!(matches!(Audit::open(settings(folder.path(), 400), KEY), Err(AuditError::Broken(_))));
}

/// What a crash leaves of a record that nobody was told of is cut off, and the chain goes on.
#[tokio::test]
async fn a_torn_last_line_is_cut_and_the_log_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let audit = open(folder.path(), 1 << 20);
    write(&audit, 0, 3).await;
    audit.close();
    let file = segments(folder.path()).pop().unwrap();
    let good = fs::read(&file).unwrap();
    let line = good.split_inclusive(|byte| *byte == b'\n').next().unwrap();
    for length in 1..line.len() {
        fs::write(&file, [&good[..], &line[..length]].concat()).unwrap();
        assert_eq!(check(folder.path()).unwrap().0.torn, length as u64);
        let audit = open(folder.path(), 1 << 20);
        audit.close();
        assert_eq!(fs::read(&file).unwrap(), good);
    }
    let audit = open(folder.path(), 1 << 20);
    write(&audit, 3, 4).await;
    audit.close();
    assert_eq!(check(folder.path()).unwrap().0.records, 4);
}

#[tokio::test]
async fn old_segments_are_let_go_and_the_rest_still_verifies() {
    let folder = tempfile::tempdir().unwrap();
    let kept = Settings { retention: Some(Duration::from_millis(50)), ..settings(folder.path(), 300) };
    let audit = Audit::open(kept, KEY).unwrap();
    write(&audit, 0, 6).await;
    tokio::time::sleep(Duration::from_millis(120)).await;
    write(&audit, 6, 12).await;
    audit.close();
    let (report, records) = check(folder.path()).unwrap();
    assert!(report.first.unwrap() > 3, "{report:?}");
    assert_eq!((report.last, records.last().map(String::as_str)), (Some(12), Some("{\"number\":11}")));
    // One file less than was let go by us is a cut.
    fs::remove_file(&segments(folder.path())[0]).unwrap();
    assert!(check(folder.path()).is_err());
}

#[tokio::test]
async fn a_disk_that_takes_nothing_is_told_and_healed() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let audit = open(&log, 1 << 20);
    write(&audit, 0, 2).await;
    let aside = folder.path().join("aside");
    fs::rename(&log, &aside).unwrap();
    assert!(audit.record(b"{\"lost\":1}".to_vec()).await.is_err());
    assert!(!audit.is_healthy());
    fs::rename(&aside, &log).unwrap();
    let mut tries = 0;
    while audit.record(b"{\"number\":2}".to_vec()).await.is_err() {
        tries += 1;
        assert!(tries < 100, "it does not heal");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    audit.close();
    let (_, records) = check(&log).unwrap();
    assert_eq!(records.last().map(String::as_str), Some("{\"number\":2}"));
}

#[tokio::test]
async fn a_start_reads_again_only_what_was_touched() {
    let folder = tempfile::tempdir().unwrap();
    let audit = open(folder.path(), 400);
    write(&audit, 0, 40).await;
    audit.close();
    let files = segments(folder.path());
    assert!(files.len() > 5, "{files:?}");
    // A byte of an old segment, its time of change put back: the start does not see it, and verification does.
    let (old, at) = (&files[1], fs::metadata(&files[1]).unwrap().modified().unwrap());
    let text = fs::read_to_string(old).unwrap();
    fs::write(old, text.replace("\"number\":", "\"nUmber\":")).unwrap();
    fs::File::options().write(true).open(old).unwrap().set_modified(at).unwrap();
    open(folder.path(), 400).close();
    assert!(matches!(check(folder.path()), Err(AuditError::Broken(_))));
    // With its true time the start sees it too.
    fs::write(old, text.replace("\"number\":", "\"nUmber\":")).unwrap();
    assert!(matches!(Audit::open(settings(folder.path(), 400), KEY), Err(AuditError::Broken(_))));
    // What is known is sealed: without it everything is read.
    fs::write(old, &text).unwrap();
    open(folder.path(), 400).close();
    let known = fs::read_to_string(folder.path().join("known.json")).unwrap();
    fs::write(folder.path().join("known.json"), known.replace("\"first\":1,", "\"first\":2,")).unwrap();
    open(folder.path(), 400).close();
    assert_eq!(check(folder.path()).unwrap().0.records, 40);
}

#[tokio::test]
async fn records_are_found_by_number_time_caller_and_kind() {
    let folder = tempfile::tempdir().unwrap();
    let audit = open(folder.path(), 500);
    for number in 0..30 {
        let (kind, who) = if number % 3 == 0 { ("change", "owner") } else { ("call", "app") };
        let time = 1000 + number;
        let record =
            format!(r#"{{"kind":"{kind}","time_ms":{time},"principal":"{who}","path":"/v1/{number}"}}"#);
        audit.record(record.into_bytes()).await.unwrap();
    }
    let find = |query: Query| {
        let found = search(folder.path(), &query, &|_| None).unwrap();
        (found.records.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), found.next)
    };
    let all = Query { limit: 100, ..Query::default() };
    assert_eq!(find(all.clone()), ((1..=30).collect(), None));
    assert_eq!(find(Query { after: 20, limit: 4, ..all.clone() }), (vec![21, 22, 23, 24], Some(24)));
    assert_eq!(find(Query { after: 28, ..all.clone() }), (vec![29, 30], None));
    let owner = Query { principal: Some("owner".to_owned()), ..all.clone() };
    assert_eq!(find(owner), ((1..=30).step_by(3).collect(), None));
    let calls =
        Query { kind: Some("call".to_owned()), since_ms: Some(1004), until_ms: Some(1009), ..all.clone() };
    assert_eq!(find(calls), (vec![5, 6, 8, 9], None));
    assert_eq!(
        find(Query { path: Some("/v1/2".to_owned()), ..all }).0,
        [3, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30]
    );
    audit.close();
}
