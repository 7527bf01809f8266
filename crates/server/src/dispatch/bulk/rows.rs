//! The rows of one request: those that come, those that are scored, those that leave.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use arrow_array::RecordBatch;
use bytes::{Bytes, BytesMut};
use futures_util::stream::{FuturesOrdered, Stream};
use http::HeaderValue;
use http::request::Parts;
use millgate_models::LiveModel;
use millgate_policy::Step;
use millgate_scoring::Signature;
use millgate_scoring::bulk::{Batch, BatchLimits, Lines, renumber};
use millgate_types::{Fault, Lane, Retry, code};
use tokio::time::Sleep;

use super::answer::Answer;
use super::arrow::ArrowRows;
use super::feed::Feed;
use super::form::{self, Form, RowForm};
use super::parquet::Batches;
use super::spool;
use crate::Gateway;
use crate::body::RequestBody;
use crate::dispatch::graph::{Body, Input, Run};
use crate::flight::{Departures, Flight};
use crate::pipeline::{Planned, label};
use crate::reply::{Pieces, Reply, names};
use crate::snapshot::{Snapshot, Target, TargetKind};

/// Predictions are held back up to here: until then an error is a real status, and a caller may send everything before it
/// reads.
const HELD: usize = 1 << 20;

/// How long the last line, an error, has to reach the caller before the connection breaks behind it.
const GRACE: Duration = Duration::from_millis(250);

/// Scores rows that are still coming.
pub(crate) async fn bulk(
    gateway: &Gateway,
    snapshot: &Arc<Snapshot>,
    planned: Planned,
    form: Form,
    head: &Parts,
    body: RequestBody,
    flight: &mut Flight,
) -> Result<Reply, Fault> {
    let params = form::params(head)?;
    let mut feed = Feed::new(&head.headers, body, snapshot.body_limits.idle)?;
    flight.record().lane = Some(Lane::Model);
    flight.record().attempts = 1;
    let limits = planned.call.endpoint.config.serving.bulk;
    let planned = Arc::new(planned);
    let most = BatchLimits { rows: limits.max_rows as usize, bytes: limits.max_bytes.0 as usize };
    let coming = match form.rows {
        RowForm::Lines | RowForm::Arrow => Coming::Bytes(feed),
        RowForm::Parquet => {
            let data = &gateway.models().settings().data_dir;
            let came = &mut flight.record().bytes_in;
            let spooled = spool::spool(&mut feed, data, limits.max_file.0, came).await?;
            Coming::Batches(Batches::open(spooled, most).await?)
        }
    };
    let mut rows = Rows {
        coming,
        source: Source::new(form.rows, most),
        answer: Answer::new(form.answer),
        under_way: FuturesOrdered::new(),
        most: limits.in_flight as usize,
        shared: Arc::new(Shared {
            snapshot: Arc::clone(snapshot),
            planned: Arc::clone(&planned),
            head: head.clone(),
            departures: flight.departures().merging(),
            params,
        }),
        ended: false,
        failed: None,
        held: BytesMut::new(),
        broke: None,
    };
    // Whatever goes wrong before the first prediction leaves is a real status.
    poll_fn(|context| rows.poll_begin(context, flight)).await?;
    let step = planned
        .steps
        .first()
        .ok_or_else(|| Fault::gateway(code::NO_HEALTHY_TARGET, "the route has no target"))?;
    let only = planned.call.pins.as_ref().and_then(|pins| pins.only());
    let (name, value) = form.answer.content_type();
    let mut reply = Reply::stream(Box::new(rows)).with(name, value);
    if let Some(version) = only.and_then(|live| HeaderValue::from_str(live.version()).ok()) {
        reply = reply.with(names::MODEL_VERSION, version);
    }
    Ok(label(reply, &planned, step))
}

/// Rows on their way in.
enum Source {
    Lines(Lines),
    Arrow(Box<ArrowRows>),
}

impl Source {
    fn new(form: RowForm, limits: BatchLimits) -> Self {
        match form {
            RowForm::Lines => Self::Lines(Lines::new(limits)),
            RowForm::Arrow | RowForm::Parquet => Self::Arrow(Box::new(ArrowRows::new(limits))),
        }
    }

    fn push_batch(&mut self, batch: RecordBatch) {
        if let Self::Arrow(rows) = self {
            rows.push_batch(batch);
        }
    }

    fn push(&mut self, bytes: &[u8], last: bool) -> Result<(), Fault> {
        match self {
            Self::Lines(lines) => lines.push(bytes, last),
            Self::Arrow(rows) => rows.push(bytes, last),
        }
    }

    fn is_full(&self) -> bool {
        match self {
            Self::Lines(lines) => lines.is_full(),
            Self::Arrow(rows) => rows.is_full(),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Lines(lines) => lines.is_empty(),
            Self::Arrow(rows) => rows.is_empty(),
        }
    }

    fn take(&mut self, signature: Option<&Signature>) -> Option<Result<Batch, Fault>> {
        match self {
            Self::Lines(lines) => lines.take(signature),
            Self::Arrow(rows) => rows.take(signature),
        }
    }
}

/// What every batch needs.
struct Shared {
    snapshot: Arc<Snapshot>,
    planned: Arc<Planned>,
    head: Parts,
    departures: Departures,
    /// For all rows, as JSON text.
    params: Option<String>,
}

/// What was answered to a batch.
struct Scored {
    /// The number of its first row.
    first: u64,
    rows: usize,
    /// A body of the scoring protocol.
    body: Bytes,
}

type Scoring = Pin<Box<dyn Future<Output = Result<Scored, Fault>> + Send>>;

impl Shared {
    /// The model that rows reach first, for rows that are lists: its columns' names are theirs.
    fn first_live(&self) -> Option<LiveModel> {
        let call = &self.planned.call;
        let first = call.endpoint.route.first();
        match &first.first()?.kind {
            TargetKind::Model(deployment) => call.pins.as_ref()?.live(deployment),
            TargetKind::Provider { .. } | TargetKind::Chat(_) => None,
        }
    }

    /// The model that answers, where nothing else may: its signature says what it answers.
    fn only_live(&self) -> Option<LiveModel> {
        let alone = |step: &Step<Target>| matches!(step, Step::Target(target) if matches!(target.kind, TargetKind::Model(_)));
        let models = self.planned.steps.iter().all(alone);
        self.planned.call.pins.as_ref().filter(|_| models)?.only()
    }

    fn score(self: &Arc<Self>, batch: Batch) -> Scoring {
        let shared = Arc::clone(self);
        Box::pin(async move {
            let (first, rows) = (batch.first, batch.rows);
            let call = &shared.planned.call;
            let input = Body::json(batch.with_params(shared.params.as_deref()).body);
            let departures = shared.departures.clone();
            let run = Run::of(&shared.snapshot, call, &shared.head, departures, input.clone());
            let limit = call.endpoint.config.serving.timeout.0;
            // The plan is drawn once: no split inside it mixes two models' answers.
            let tried = run.try_all(&shared.planned.steps, Input::Body(&input));
            let asked = tokio::time::timeout(limit, tried).await;
            let answer = asked.unwrap_or_else(|_| {
                let public =
                    format!("rows from {first} on were not answered within {} s", limit.as_secs_f64());
                Err(Fault::worker(code::WORKER_TIMEOUT, Retry::Never, public))
            });
            let scored = answer.map(|answer| Scored { first, rows, body: answer.into_body() });
            scored.map_err(|fault| renumber(fault, first))
        })
    }
}

/// What rows are made of.
enum Coming {
    Bytes(Feed),
    Batches(Batches),
    /// All has come.
    Nothing,
}

/// The rows of one request: those that come, those that are scored, those that leave.
struct Rows {
    coming: Coming,
    source: Source,
    answer: Answer,
    under_way: FuturesOrdered<Scoring>,
    /// How many batches may be under way.
    most: usize,
    shared: Arc<Shared>,
    /// What went wrong with the input; told when the rows before it have been answered.
    failed: Option<Fault>,
    /// What stands behind the last prediction has been given out.
    ended: bool,
    /// Predictions that wait for the answer to begin.
    held: BytesMut,
    /// An error was told. The connection breaks when this is over.
    broke: Option<Pin<Box<Sleep>>>,
}

impl Rows {
    /// Scores until enough is there for the answer to begin, or all of it.
    fn poll_begin(&mut self, context: &mut Context<'_>, flight: &mut Flight) -> Poll<Result<(), Fault>> {
        while self.held.len() < HELD {
            match ready!(self.poll_scored(context, flight)) {
                Some(Ok(lines)) => self.held.extend_from_slice(&lines),
                Some(Err(fault)) => return Poll::Ready(Err(fault)),
                None => break,
            }
        }
        flight.first_byte();
        Poll::Ready(Ok(()))
    }

    /// The next bytes of the answer; `None` behind the last.
    fn poll_scored(
        &mut self,
        context: &mut Context<'_>,
        flight: &mut Flight,
    ) -> Poll<Option<Result<Vec<u8>, Fault>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        self.fill(context, flight);
        let scored = match ready!(Pin::new(&mut self.under_way).poll_next(context)) {
            Some(Ok(scored)) => {
                let live = || self.shared.only_live();
                let written = self.answer.write(&scored.body, scored.rows, live);
                flight.record().rows += if written.is_ok() { scored.rows as u64 } else { 0 };
                Some(written.map_err(|fault| renumber(fault, scored.first)))
            }
            Some(Err(fault)) => Some(Err(fault)),
            None => match self.failed.take() {
                Some(fault) => Some(Err(fault)),
                None if self.has_come() && self.source.is_empty() => {
                    self.ended = true;
                    let live = || self.shared.first_live();
                    Some(self.answer.finish(live))
                }
                // Nothing is under way and nothing has come: the body wakes us.
                None => return Poll::Pending,
            },
        };
        Poll::Ready(scored)
    }

    fn has_come(&self) -> bool {
        matches!(self.coming, Coming::Nothing)
    }

    /// Begins batches while there are rows and places for them.
    fn fill(&mut self, context: &mut Context<'_>, flight: &mut Flight) {
        while self.failed.is_none() && self.under_way.len() < self.most {
            let waits =
                !self.source.is_full() && !self.has_come() && self.poll_coming(context, flight).is_pending();
            // A batch that is not full is scored when nothing else is to be done meanwhile.
            let ready = self.source.is_full() || self.has_come() || (waits && self.under_way.is_empty());
            if !ready {
                if waits {
                    return;
                }
                continue;
            }
            let live = self.shared.first_live();
            match self.source.take(live.as_ref().map(millgate_models::LiveModel::signature)) {
                Some(Ok(batch)) => {
                    let scoring = self.shared.score(batch);
                    self.under_way.push_back(scoring);
                }
                Some(Err(fault)) => self.failed = Some(fault),
                None => return,
            }
        }
    }

    /// Reads on. Ready when something has come, or all has, or it broke.
    fn poll_coming(&mut self, context: &mut Context<'_>, flight: &mut Flight) -> Poll<()> {
        let came = match &mut self.coming {
            Coming::Bytes(feed) => match ready!(feed.poll(context, &mut flight.record().bytes_in)) {
                Some(Ok(bytes)) => self.source.push(&bytes, false),
                Some(Err(fault)) => Err(fault),
                None => {
                    self.coming = Coming::Nothing;
                    self.source.push(b"", true)
                }
            },
            Coming::Batches(batches) => match ready!(batches.poll(context)) {
                Some(Ok(batch)) => {
                    self.source.push_batch(batch);
                    Ok(())
                }
                Some(Err(fault)) => Err(fault),
                None => {
                    self.coming = Coming::Nothing;
                    Ok(())
                }
            },
            Coming::Nothing => Ok(()),
        };
        if let Err(fault) = came {
            (self.coming, self.failed) = (Coming::Nothing, Some(fault));
        }
        Poll::Ready(())
    }
}

impl Pieces for Rows {
    fn poll_piece(&mut self, context: &mut Context<'_>, flight: &mut Flight) -> Poll<Option<Bytes>> {
        if !self.held.is_empty() {
            return Poll::Ready(Some(self.held.split().freeze()));
        }
        if let Some(grace) = &mut self.broke {
            ready!(grace.as_mut().poll(context));
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(self.poll_scored(context, flight)) {
            // The end of lines has no bytes.
            Some(Ok(lines)) => Some(lines.into()).filter(|lines: &Bytes| !(self.ended && lines.is_empty())),
            Some(Err(fault)) => {
                // What is under way is of no use any more.
                self.under_way = FuturesOrdered::new();
                self.coming = Coming::Nothing;
                self.broke = Some(Box::pin(tokio::time::sleep(GRACE)));
                flight.fail(&fault);
                Some(self.answer.fail(&fault, flight.request_id()).into())
            }
            None => None,
        })
    }

    /// Behind an error the connection breaks: what came is not whole.
    fn broke(&self) -> bool {
        self.broke.is_some()
    }
}
