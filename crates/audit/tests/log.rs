//! A log is written, damaged in every way, and found out.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may stop")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use millgate_audit::{
    Audit, AuditError, Query, Report, Settings, Sink, SinkKind, SyslogAddress, Webhook, search, verify,
};

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

/// Heads and bodies.
type Taken = Arc<std::sync::Mutex<Vec<(String, String)>>>;

/// Answers each request with the next status, the last one for ever, and keeps heads and bodies.
fn receiver(statuses: &'static [u16]) -> (String, Taken) {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/audit", listener.local_addr().unwrap());
    let taken = Arc::new(std::sync::Mutex::new(Vec::new()));
    let kept = Arc::clone(&taken);
    std::thread::spawn(move || {
        for (count, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let (mut text, mut piece) = (Vec::new(), [0; 4096]);
            let (head, length) = loop {
                let read = stream.read(&mut piece).unwrap();
                text.extend_from_slice(&piece[..read]);
                let head = String::from_utf8_lossy(&text).to_string();
                let Some((head, _)) = head.split_once("\r\n\r\n") else { continue };
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
                break (head.to_owned(), length.parse::<usize>().unwrap());
            };
            while text.len() < head.len() + 4 + length {
                let read = stream.read(&mut piece).unwrap();
                text.extend_from_slice(&piece[..read]);
            }
            let body = String::from_utf8_lossy(&text[head.len() + 4..]).to_string();
            kept.lock().unwrap().push((head, body));
            let status = statuses[count.min(statuses.len() - 1)];
            let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    (url, taken)
}

#[tokio::test(flavor = "multi_thread")]
async fn sinks_are_given_what_is_written_signed_and_again_where_it_failed() {
    use base64::Engine as _;
    let _first = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let audit = open(folder.path(), 1 << 20);
    let (url, taken) = receiver(&[503, 200]);
    let syslog = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    syslog.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let socket = folder.path().join("log.sock");
    let local = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
    local.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let stream = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = |text: String| SinkKind::Syslog(SyslogAddress::parse(&text).unwrap());
    let webhook = SinkKind::Webhook(Webhook { url, secret: "hook secret".to_owned() });
    let kinds = [
        webhook,
        at(format!("udp://{}", syslog.local_addr().unwrap())),
        at(format!("unix://{}", socket.display())),
        at(format!("tcp://{}", stream.local_addr().unwrap())),
    ];
    audit.send_to(kinds.into_iter().map(|kind| Sink::open(kind).unwrap()).collect());
    write(&audit, 0, 3).await;

    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let written = lines(&fs::read_to_string(&segments(folder.path())[0]).unwrap());
    // Datagrams: one record each, with the audit facility.
    let mut buffer = [0; 4096];
    let length = syslog.recv(&mut buffer).unwrap();
    let message = String::from_utf8_lossy(&buffer[..length]).to_string();
    assert!(
        message.starts_with("<110>1 20") && message.ends_with(&format!(" audit - {}", written[0])),
        "{message}"
    );
    let length = local.recv(&mut buffer).unwrap();
    assert!(String::from_utf8_lossy(&buffer[..length]).ends_with(&written[0]));
    // A stream: framed by length.
    let (mut connection, _) = stream.accept().unwrap();
    connection.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut text = String::new();
    while text.matches("<110>1 ").count() < 3 || !text.ends_with(&written[2]) {
        use std::io::Read as _;
        let read = connection.read(&mut buffer).unwrap();
        text.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
    let (first, rest) = text.split_once(' ').unwrap();
    assert!(rest[..first.parse::<usize>().unwrap()].ends_with(&written[0]), "{text}");
    // By HTTP: the delivery that failed comes again, the same, and nothing is missing.
    let all = |taken: &[(String, String)]| {
        taken.iter().skip(1).flat_map(|(_, body)| lines(body)).collect::<Vec<_>>()
    };
    let until = std::time::Instant::now() + Duration::from_secs(15);
    while all(&taken.lock().unwrap()) != written {
        assert!(std::time::Instant::now() < until, "{:?}", taken.lock().unwrap());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let taken = taken.lock().unwrap();
    assert_eq!(taken[0].1, taken[1].1);
    let header = |name: &str| {
        let line = taken[1].0.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_start_matches(": ").to_owned()
    };
    let signed =
        format!("{}.{}.{}", header("x-millgate-delivery-id"), header("x-millgate-timestamp"), taken[1].1);
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, b"hook secret");
    let signature = header("x-millgate-signature").trim_start_matches("v1,").to_owned();
    let signature = base64::engine::general_purpose::STANDARD.decode(signature).unwrap();
    assert!(aws_lc_rs::hmac::verify(&key, signed.as_bytes(), &signature).is_ok());
    assert_eq!(audit.dropped(), 0);
    drop(taken);
    audit.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_takes_nothing_holds_up_nothing_and_is_counted() {
    let _first = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let audit = open(folder.path(), 1 << 30);
    let (url, _taken) = receiver(&[503]);
    audit.send_to(vec![Sink::open(SinkKind::Webhook(Webhook { url, secret: "s".to_owned() })).unwrap()]);
    let (count, began) = (60_000, std::time::Instant::now());
    for number in 0..count {
        audit.submit(format!("{{\"call\":{number}}}").into_bytes());
    }
    audit.record(b"{}".to_vec()).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert!(audit.dropped() > 30_000 && audit.lost() == 0, "{} {}", audit.dropped(), audit.lost());
    let closed = std::time::Instant::now();
    audit.close();
    assert!(closed.elapsed() < Duration::from_secs(5), "{:?}", closed.elapsed());
    assert_eq!(check(folder.path()).unwrap().0.records, count + 1);
}

/// The rate that is promised: records of a usual size, on the disk.
#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_records_a_second_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let audit = open(folder.path(), 64 << 20);
    let padding = "x".repeat(500);
    let (seconds, rate) = (3, 20_000);
    let began = std::time::Instant::now();
    let mut sent = 0;
    while began.elapsed() < Duration::from_secs(seconds) {
        let due = (began.elapsed().as_secs_f64() * f64::from(rate)) as u64;
        while sent < due {
            audit.submit(
                format!("{{\"kind\":\"call\",\"number\":{sent},\"padding\":\"{padding}\"}}").into_bytes(),
            );
            sent += 1;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    audit.record(b"{}".to_vec()).await.unwrap();
    let behind = began.elapsed().saturating_sub(Duration::from_secs(seconds));
    eprintln!(
        "{sent} records in {seconds} s, {} lost, the last one on the disk {behind:?} later",
        audit.lost()
    );
    assert_eq!(audit.lost(), 0, "of {sent}");
    audit.close();
    assert_eq!(check(folder.path()).unwrap().0.records, sent + 1);
}
