//! Reading what processes used, from /proc.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::Result;

/// Whether a GET is answered with 200.
pub(super) fn answers(port: u16, path: &str) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else { return false };
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let mut head = [0; 12];
    stream.write_all(request.as_bytes()).is_ok()
        && stream.read_exact(&mut head).is_ok()
        && &head[9..12] == b"200"
}

/// The body that a GET is answered with, whatever its status.
pub(super) fn get(port: u16, path: &str) -> Option<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer.split_once("\r\n\r\n")?.1.to_owned())
}

/// A process and all its descendants.
pub(super) fn tree(root: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| Some((pid, fields(pid)?.get(1)?.parse().ok()?)))
        .collect();
    let mut found = vec![root];
    let mut at = 0;
    while at < found.len() {
        let parent = found[at];
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    found
}

/// The fields of /proc/PID/stat after the name, beginning with the state.
fn fields(pid: u32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

/// CPU time of a process, all its threads and descendants, in microseconds.
pub(super) fn cpu_us(root: u32) -> u64 {
    tree(root).into_iter().map(own_cpu_us).sum()
}

/// CPU time of one process and its threads, in microseconds.
pub(super) fn own_cpu_us(pid: u32) -> u64 {
    // To the nanosecond, but only of the threads that are there; the other counts those that have ended, in hundredths of
    // a second.
    let exact = threads_ns(pid).map_or(0, |ns| ns / 1000);
    let coarse = sum_us(pid, &[11, 12]);
    if coarse > exact + 2 * TICK_US { coarse } else { exact }
}

fn threads_ns(pid: u32) -> Option<u64> {
    let mut sum = 0;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        sum += text.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    Some(sum)
}

/// The same with all its children that have ended.
pub(super) fn with_children_us(pid: u32) -> u64 {
    sum_us(pid, &[11, 12, 13, 14])
}

/// The kernel's unit here is 1/100 s on every Linux we know.
const TICK_US: u64 = 10_000;

fn sum_us(pid: u32, places: &[usize]) -> u64 {
    let fields = fields(pid).unwrap_or_default();
    let ticks = places.iter().filter_map(|at| fields.get(*at)?.parse::<u64>().ok());
    ticks.sum::<u64>() * TICK_US
}

/// Resident memory of a process and its descendants, in KiB.
pub(super) fn rss_kib(root: u32) -> u64 {
    let of = |pid: u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    tree(root).into_iter().filter_map(of).sum()
}

/// Memory that a process shares with nobody, in KiB.
pub(super) fn private_kib(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    text.lines()
        .filter(|line| line.starts_with("Private_Clean:") || line.starts_with("Private_Dirty:"))
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum()
}

/// Runs `work` and gives the CPU time that `root` used meanwhile, in microseconds.
pub(super) fn cpu_of<T>(root: u32, work: impl FnOnce() -> Result<T>) -> Result<(T, u64)> {
    let before = cpu_us(root);
    let result = work()?;
    // A log writer may be a little behind.
    std::thread::sleep(Duration::from_millis(100));
    Ok((result, cpu_us(root) - before))
}

/// The share of all CPU time that is in use, over two seconds in which we do nothing.
pub(super) fn busy() -> f64 {
    let look = || -> Option<(u64, u64)> {
        let text = std::fs::read_to_string("/proc/stat").ok()?;
        let line = text.lines().next()?;
        let times: Vec<u64> = line.split_whitespace().skip(1).filter_map(|time| time.parse().ok()).collect();
        // Idle, and idle while waiting for a disk.
        Some((times.iter().take(8).sum(), times.get(3)? + times.get(4)?))
    };
    let before = look();
    std::thread::sleep(Duration::from_secs(2));
    match (before, look()) {
        (Some((all, idle)), Some((all_now, idle_now))) if all_now > all => {
            1.0 - (idle_now - idle) as f64 / (all_now - all) as f64
        }
        _ => 0.0,
    }
}

pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => values[length / 2],
        length => f64::midpoint(values[length / 2 - 1], values[length / 2]),
    }
}
