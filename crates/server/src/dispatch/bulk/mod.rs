//! Bulk scoring: rows are read while others are scored and their predictions leave, in order. What is held is bounded by the
//! batches under way, whatever the input's length: a caller who does not read is not read from either.

mod arrow;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{FuturesOrdered, Stream};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, header};
use http_body::Body as _;
use hyper::body::Incoming;
use millgate_scoring::Signature;
use millgate_scoring::bulk::{Batch, BatchLimits, Lines, answer_lines, renumber};
use millgate_types::{Dialect, Fault, Lane, Retry, code};
use tokio::time::{Instant, Sleep};

use super::graph::{Body, Input, Run};
use crate::flight::{Departures, Flight};
use crate::pipeline::{Planned, label};
use crate::reply::{Pieces, Reply, names};
use crate::snapshot::{Snapshot, TargetKind};

/// Predictions are held back up to here: until then an error is a real status, and a caller may send everything before it
/// reads.
const HELD: usize = 1 << 20;

/// How long the last line, an error, has to reach the caller before the connection breaks behind it.
const GRACE: Duration = Duration::from_millis(250);

/// How rows come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// A JSON value a line.
    Lines,
    /// An Arrow IPC stream.
    Arrow,
}

/// Whether a call of the scoring protocol is read and answered piece by piece.
pub(crate) fn form(dialect: Dialect, head: &Parts) -> Option<Form> {
    let kind = head.headers.get(header::CONTENT_TYPE)?.as_bytes();
    let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let is = |name: &str| kind.eq_ignore_ascii_case(name.as_bytes());
    let lines = ["application/x-ndjson", "application/ndjson", "application/jsonl", "application/jsonlines"];
    if dialect != Dialect::Scoring {
        return None;
    }
    if is("application/vnd.apache.arrow.stream") {
        return Some(Form::Arrow);
    }
    lines.into_iter().any(is).then_some(Form::Lines)
}

/// Scores rows that are still coming.
pub(crate) async fn bulk(
    snapshot: &Arc<Snapshot>,
    planned: Planned,
    form: Form,
    head: &Parts,
    body: Incoming,
    flight: &mut Flight,
) -> Result<Reply, Fault> {
    check_encoding(&head.headers)?;
    flight.record().lane = Some(Lane::Model);
    flight.record().attempts = 1;
    let limits = planned.call.endpoint.config.serving.bulk;
    let planned = Arc::new(planned);
    let mut rows = Rows {
        body: Some(body),
        idle: snapshot.body_limits.idle,
        timer: None,
        source: Source::new(
            form,
            BatchLimits { rows: limits.max_rows as usize, bytes: limits.max_bytes.0 as usize },
        ),
        under_way: FuturesOrdered::new(),
        most: limits.in_flight as usize,
        shared: Arc::new(Shared {
            snapshot: Arc::clone(snapshot),
            planned: Arc::clone(&planned),
            head: head.clone(),
            departures: flight.departures().merging(),
        }),
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
    let mut reply = Reply::stream(Box::new(rows))
        .with(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    if let Some(version) = only.and_then(|live| HeaderValue::from_str(live.version()).ok()) {
        reply = reply.with(names::MODEL_VERSION, version);
    }
    Ok(label(reply, &planned, step))
}

fn check_encoding(headers: &HeaderMap) -> Result<(), Fault> {
    let plain = headers
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .all(|coding| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity"));
    if plain {
        return Ok(());
    }
    Err(Fault::client(code::UNSUPPORTED_ENCODING, "rows that are scored piece by piece come uncompressed"))
}

/// Rows on their way in.
enum Source {
    Lines(Lines),
    Arrow(Box<arrow::ArrowRows>),
}

impl Source {
    fn new(form: Form, limits: BatchLimits) -> Self {
        match form {
            Form::Lines => Self::Lines(Lines::new(limits)),
            Form::Arrow => Self::Arrow(Box::new(arrow::ArrowRows::new(limits))),
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
}

type Scoring = Pin<Box<dyn Future<Output = Result<(usize, Vec<u8>), Fault>> + Send>>;

impl Shared {
    fn score(self: &Arc<Self>, batch: Batch) -> Scoring {
        let shared = Arc::clone(self);
        Box::pin(async move {
            let (first, rows) = (batch.first, batch.rows);
            let call = &shared.planned.call;
            let input = Body::json(batch.body);
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
            let lines = answer.and_then(|answer| answer_lines(&answer.into_body(), rows));
            lines.map(|lines| (rows, lines)).map_err(|fault| renumber(fault, first))
        })
    }
}

/// The rows of one request: those that come, those that are scored, those that leave.
struct Rows {
    /// `None`: all has come.
    body: Option<Incoming>,
    /// The longest pause inside it.
    idle: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    source: Source,
    under_way: FuturesOrdered<Scoring>,
    /// How many batches may be under way.
    most: usize,
    shared: Arc<Shared>,
    /// What went wrong with the input; told when the rows before it have been answered.
    failed: Option<Fault>,
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

    /// The next batch's predictions; `None` behind the last.
    fn poll_scored(
        &mut self,
        context: &mut Context<'_>,
        flight: &mut Flight,
    ) -> Poll<Option<Result<Vec<u8>, Fault>>> {
        self.fill(context, flight);
        let scored = match ready!(Pin::new(&mut self.under_way).poll_next(context)) {
            Some(Ok((rows, lines))) => {
                flight.record().rows += rows as u64;
                Some(Ok(lines))
            }
            Some(Err(fault)) => Some(Err(fault)),
            None => match self.failed.take() {
                Some(fault) => Some(Err(fault)),
                None if self.body.is_none() && self.source.is_empty() => None,
                // Nothing is under way and nothing has come: the body wakes us.
                None => return Poll::Pending,
            },
        };
        Poll::Ready(scored)
    }

    /// Begins batches while there are rows and places for them.
    fn fill(&mut self, context: &mut Context<'_>, flight: &mut Flight) {
        while self.failed.is_none() && self.under_way.len() < self.most {
            let waits =
                !self.source.is_full() && self.body.is_some() && self.poll_body(context, flight).is_pending();
            // A batch that is not full is scored when nothing else is to be done meanwhile.
            let ready = self.source.is_full() || self.body.is_none() || (waits && self.under_way.is_empty());
            if !ready {
                if waits {
                    return;
                }
                continue;
            }
            let live = self.first_live();
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

    /// The model that rows reach first, for rows that are lists: its columns' names are theirs.
    fn first_live(&self) -> Option<millgate_models::LiveModel> {
        let call = &self.shared.planned.call;
        let first = call.endpoint.route.first();
        match &first.first()?.kind {
            TargetKind::Model(deployment) => call.pins.as_ref()?.live(deployment),
            TargetKind::Provider { .. } | TargetKind::Chat(_) => None,
        }
    }

    /// Reads on. Ready when something has come, or all has, or it broke.
    fn poll_body(&mut self, context: &mut Context<'_>, flight: &mut Flight) -> Poll<()> {
        let Some(body) = &mut self.body else { return Poll::Ready(()) };
        let pushed = match Pin::new(body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                self.timer = None;
                let data = frame.into_data().unwrap_or_default();
                flight.record().bytes_in += data.len() as u64;
                self.source.push(&data, false)
            }
            Poll::Ready(Some(Err(error))) => {
                self.body = None;
                Err(Fault::client(code::BAD_FRAMING, "the body broke off or is framed badly")
                    .with_cause(error))
            }
            Poll::Ready(None) => {
                self.body = None;
                self.source.push(b"", true)
            }
            Poll::Pending => {
                let idle = self.idle;
                let timer = self
                    .timer
                    .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + idle)));
                ready!(timer.as_mut().poll(context));
                Err(Fault::client(code::BODY_TIMEOUT, "the next rows did not arrive in time"))
            }
        };
        if let Err(fault) = pushed {
            self.failed = Some(fault);
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
            Some(Ok(lines)) => Some(lines.into()),
            Some(Err(fault)) => {
                // What is under way is of no use any more.
                self.under_way = FuturesOrdered::new();
                self.body = None;
                self.broke = Some(Box::pin(tokio::time::sleep(GRACE)));
                flight.fail(&fault);
                let codec = millgate_dialect::codec(Dialect::Scoring);
                Some(codec.fault_event(&fault, flight.request_id()).into())
            }
            None => None,
        })
    }

    /// Behind an error the connection breaks: what came is not whole.
    fn broke(&self) -> bool {
        self.broke.is_some()
    }
}
