//! One place for an instance: it starts a worker while the pool wants that many, serves with it, and replaces it when
//! it breaks.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::call::{call, over_memory};
use super::frame::kind;
use super::process::{self, Process};
use super::queue::Job;
use super::{BREAKER, Inner, crashed};

/// Back-off between two starts of a worker that died.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));
/// A worker that lived this long starts again with a clean record.
const CLEAN_AFTER: Duration = Duration::from_mins(1);
/// Pause between two looks at an idle worker.
const PING_EVERY: Duration = Duration::from_secs(10);
/// Pause between two looks at the memory of a busy one, against `max_rss`.
const LEAK_EVERY: Duration = Duration::from_secs(1);

/// Why a worker serves no longer.
enum End {
    /// The pool is closed and empty.
    Closed,
    /// Fewer instances are wanted.
    Retired,
    /// It grew: a fresh one takes its place.
    Recycled,
    Broken(String),
}

/// Keeps the instance `index` running while it is wanted, for as long as the pool lives. `first` hears how the first
/// start went; after a failure there is no second.
pub(super) async fn run(inner: Arc<Inner>, index: usize, first: Option<mpsc::Sender<Result<(), String>>>) {
    let mut first = first;
    let mut pause = BACKOFF.0;
    let mut recycling = false;
    while wanted(&inner, index).await {
        let started = Instant::now();
        let started_with = Process::start(&inner.plan, &inner.nursery).await;
        if std::mem::take(&mut recycling) {
            inner.recycling.store(false, Ordering::Relaxed);
        }
        let end = match started_with {
            Ok((process, facts)) => {
                inner.learn(facts);
                if let Some(first) = first.take() {
                    let _ = first.send(Ok(())).await;
                }
                inner.ready.send_modify(|ready| *ready += 1);
                let end = serve(&inner, index, process).await;
                inner.ready.send_modify(|ready| *ready -= 1);
                end
            }
            Err(reason) => End::Broken(reason),
        };
        let reason = match end {
            End::Closed => return,
            End::Retired => continue,
            End::Recycled => {
                inner.recycled.fetch_add(1, Ordering::Relaxed);
                recycling = true;
                continue;
            }
            End::Broken(reason) => reason,
        };
        tracing::warn!(endpoint = %inner.plan.label, reason, "worker ended");
        if let Ok(mut failure) = inner.failure.lock() {
            *failure = Some(reason.clone());
        }
        if let Some(first) = first.take() {
            // The version never came up: the deployment decides when to try again.
            let _ = first.send(Err(reason)).await;
            return;
        }
        inner.restarts.fetch_add(1, Ordering::Relaxed);
        if started.elapsed() > CLEAN_AFTER {
            pause = BACKOFF.0;
        }
        let deaths = inner.deaths_in_a_row.fetch_add(1, Ordering::Relaxed) + 1;
        if deaths >= BREAKER && *inner.ready.borrow() == 0 {
            for job in inner.queue.drain() {
                let _ = job.reply.send(Err(crashed("the model's workers keep dying")));
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(BACKOFF.1);
    }
}

/// Waits until the instance is wanted; `false` when the pool is closed.
async fn wanted(inner: &Inner, index: usize) -> bool {
    let mut wanted = inner.wanted.subscribe();
    let asked = wanted.wait_for(|wanted| inner.queue.is_closed() || *wanted > index).await;
    // Nobody holds a closed pool, so nobody waits for what is left in its queue.
    asked.is_ok() && !inner.queue.is_closed()
}

async fn retired(inner: &Inner, wanted: &mut watch::Receiver<usize>, index: usize) {
    let _ = wanted.wait_for(|wanted| *wanted <= index && !inner.queue.is_closed()).await;
}

/// Serves jobs until something ends it.
async fn serve(inner: &Inner, index: usize, mut process: Process) -> End {
    let mut id = 0_u64;
    let mut wanted = inner.wanted.subscribe();
    let mut ping = tokio::time::interval(PING_EVERY);
    ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ping.tick().await;
    let mut looked = Instant::now();
    loop {
        let job = tokio::select! {
            biased;
            () = retired(inner, &mut wanted, index) => {
                process.stop(inner.plan.kill_after).await;
                return End::Retired;
            }
            job = inner.queue.pop() => job,
            () = process.ended() => {
                return End::Broken(process.epitaph("the worker died while idle").await);
            }
            _ = ping.tick() => {
                id += 1;
                match check_idle(inner, &mut process, id).await {
                    Ok(()) => continue,
                    Err(reason) => return End::Broken(reason),
                }
            }
        };
        let Some(job) = job else {
            process.stop(inner.plan.kill_after).await;
            return End::Closed;
        };
        id += 1;
        let jobs = gather(inner, job).await;
        let working = inner.meter.begin();
        let done = call(inner, &mut process, jobs, id).await;
        drop(working);
        match done {
            Ok(()) => inner.deaths_in_a_row.store(0, Ordering::Relaxed),
            Err(reason) => return End::Broken(reason),
        }
        if inner.plan.max_rss.is_some() && looked.elapsed() >= LEAK_EVERY {
            looked = Instant::now();
            if has_grown(inner, &process) && !inner.recycling.swap(true, Ordering::Relaxed) {
                tracing::info!(endpoint = %inner.plan.label, "a worker grew over max_rss and is replaced");
                process.stop(inner.plan.kill_after).await;
                return End::Recycled;
            }
        }
    }
}

/// The job, and what else may share its call.
async fn gather(inner: &Inner, job: Job) -> Vec<Job> {
    let mut jobs = vec![job];
    let Some(room) = inner.room() else { return jobs };
    inner.queue.gather(&mut jobs, room);
    let wait = inner.plan.batching.max_wait;
    if !wait.is_zero() && !jobs.iter().any(|job| job.alone || job.ask.columns.is_none()) {
        let rows = |jobs: &[Job]| {
            jobs.iter().filter_map(|job| job.ask.columns.as_ref()).map(|c| c.rows).sum::<u32>()
        };
        let end = Instant::now() + wait;
        while rows(&jobs) < room.rows && Instant::now() < end {
            let _ = tokio::time::timeout_at(end, inner.queue.arrival()).await;
            inner.queue.gather(&mut jobs, room);
        }
    }
    jobs
}

async fn check_idle(inner: &Inner, process: &mut Process, id: u64) -> Result<(), String> {
    over_memory(inner.plan.memory_limit, process.pid())?;
    let answer = async {
        process.send(kind::PING, id, &[]).await?;
        process.receive().await
    };
    match tokio::time::timeout(PING_EVERY, answer).await {
        Ok(Ok(frame)) if frame.kind == kind::PONG && frame.id == id => Ok(()),
        Ok(_) => Err("the worker sent something unasked".to_owned()),
        Err(_) => Err("the idle worker does not answer".to_owned()),
    }
}

fn has_grown(inner: &Inner, process: &Process) -> bool {
    let used = process::memory(process.pid());
    matches!((inner.plan.max_rss, used), (Some(limit), Some(used)) if used > limit)
}
