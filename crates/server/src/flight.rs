//! A request under way: the record it fills in, sent when the last byte has left or the caller is gone.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use http::request::Parts;
use http::{HeaderName, HeaderValue};
use millgate_config::PredictionPrice;
use millgate_policy::{Amounts, Measure, Now, Reservation};
use millgate_provider::Price;
use millgate_types::{Dialect, Exchange, Fault, Money, Operation, Outcome, RequestId, Settlement, Usage};

use crate::keys::unix_ms;
use crate::shared::Holding;
use crate::{Gateway, admit};

/// Tokens of a stream that are reserved at a time.
const STEP: u64 = 256;
/// Tokens of a stream that are written down before they come, where nothing may be lost: they last until that is done.
const AHEAD: u64 = 256;
/// Longest path kept in a record, in bytes.
const PATH_LIMIT: usize = 256;

/// Owns the record of one request. Dropping it sends the record; without [`Flight::land`] before, the outcome
/// is a cancelled request.
pub(crate) struct Flight {
    record: Option<Box<Exchange>>,
    gateway: Arc<Gateway>,
    /// Where the record goes when it is that of a hop, and whether it becomes one with others of its kind.
    parent: Option<(Arc<Hops>, bool)>,
    /// The records of this request's hops, from the first one on.
    hops: Option<Arc<Hops>>,
    began: Instant,
    /// The same by the wall clock, in milliseconds since 1970.
    began_ms: i64,
    /// Headers that a refusal carries: `Allow`, `x-ratelimit-*`.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// What the target's tokens cost.
    pub(crate) price: Option<Arc<Price>>,
    /// What is held in limits until it is known what was used.
    reservation: Reservation,
    /// The same at the shared counts.
    holding: Holding,
    /// How much of it that is at most.
    bounds: Amounts,
    /// Tokens of an answer of which nobody said how long it may be, and the call's cost in nano-USD with them, that are
    /// written down or about to be.
    announced: (u64, u64),
}

impl Flight {
    /// Boxed: it goes from the request to the body of its answer, by way of everything between them.
    pub(crate) fn begin(gateway: &Arc<Gateway>, head: &Parts, peer: IpAddr, generation: u64) -> Box<Self> {
        let path = head.uri.path();
        let cut = (0..=PATH_LIMIT.min(path.len())).rev().find(|at| path.is_char_boundary(*at)).unwrap_or(0);
        gateway.metrics.requests_in_flight.inc();
        let mut record = Box::new(blank(RequestId::random(), head.method.clone(), generation));
        record.path = path[..cut].into();
        record.peer = Some(peer);
        Box::new(Self {
            began_ms: unix_ms(record.started),
            record: Some(record),
            gateway: Arc::clone(gateway),
            parent: None,
            hops: None,
            began: Instant::now(),
            headers: Vec::new(),
            price: None,
            reservation: Reservation::default(),
            holding: Holding::default(),
            bounds: Amounts::default(),
            announced: (0, 0),
        })
    }

    /// What makes records of targets that are asked on the way, several at a time perhaps.
    pub(crate) fn departures(&mut self) -> Departures {
        let hops = Arc::clone(self.hops.get_or_insert_with(Arc::default));
        let gateway = Arc::clone(&self.gateway);
        let record = self.record();
        Departures {
            hops,
            gateway,
            request_id: record.request_id,
            method: record.method.clone(),
            endpoint: record.endpoint.clone(),
            generation: record.config_generation,
            merge: false,
        }
    }

    /// Puts the records of hops that have ended into this one.
    pub(crate) fn gather(&mut self) {
        if let Some(hops) = &self.hops {
            let ended = std::mem::take(&mut *hops.0.lock().unwrap_or_else(PoisonError::into_inner));
            self.record().hops.extend(ended);
        }
    }

    /// The record to fill in.
    pub(crate) fn record(&mut self) -> &mut Exchange {
        self.record.as_mut().expect("the record leaves only with the flight itself")
    }

    pub(crate) fn request_id(&self) -> RequestId {
        self.record.as_ref().expect("the record leaves only with the flight itself").request_id
    }

    /// The present, as limits see it. The wall clock was read when the request came.
    pub(crate) fn clock(&self) -> Now {
        self.clock_at(Instant::now())
    }

    fn clock_at(&self, now: Instant) -> Now {
        let since = now.duration_since(self.began).as_millis() as i64;
        self.gateway.clock_at(now, self.began_ms + since)
    }

    /// Notes the first byte from the upstream or model; later calls change nothing.
    pub(crate) fn first_byte(&mut self) {
        let began = self.began;
        self.record().time_to_first_byte.get_or_insert_with(|| began.elapsed());
    }

    /// Notes what was consumed so far, and what it cost.
    pub(crate) fn consumed(&mut self, usage: Usage) {
        let price = self.price.as_ref();
        let record = self.record.as_mut().expect("the record leaves only with the flight itself");
        if record.usage == usage {
            return;
        }
        record.usage = usage;
        record.cost = usage.reported_cost.or_else(|| price?.cost(&usage));
    }

    /// Notes the price once the model is known, for what was consumed already too.
    pub(crate) fn priced(&mut self, price: Option<Arc<Price>>) {
        self.price = price;
        let usage = std::mem::take(&mut self.record().usage);
        self.consumed(usage);
    }

    /// Takes over what is held in limits, for a call that uses `bounds` at most.
    pub(crate) fn reserve(&mut self, held: Reservation, holding: Holding, bounds: &Amounts) {
        self.bounds = *bounds;
        let cost = held.reserved(Measure::Cost);
        if let (true, Some(ledger)) = (cost > 0 && self.parent.is_none(), &self.gateway.ledger) {
            let record = self.record.as_ref().expect("the record leaves only with the flight itself");
            ledger.begin(record, cost);
        }
        self.reservation.join(held);
        self.holding.join(holding);
    }

    /// Writes down what the call may cost at most, in nano-USD, and waits until that is done. `false`: it cannot be.
    /// `assumed`: nobody said how long its answer may be.
    pub(crate) async fn announce(&mut self, cost: u64, assumed: bool) -> bool {
        let Some(ledger) = self.gateway.ledger.clone() else { return true };
        if assumed {
            self.announced = (self.bounds.output_tokens, cost);
        }
        let record = self.record.as_ref().expect("the record leaves only with the flight itself");
        ledger.begin(record, cost);
        ledger.known().await
    }

    /// How much is held: what comes behind can be let go again.
    pub(crate) fn held(&self) -> (usize, usize) {
        (self.reservation.len(), self.holding.len())
    }

    /// Lets go what was reserved since, for a try that used nothing.
    pub(crate) fn let_go(&mut self, (here, shared): (usize, usize)) {
        let now = self.clock();
        self.holding.split_off(shared).settle(&Amounts::default());
        let mut tried = self.reservation.split_off(here);
        tried.landed(now);
        let _nothing = tried.settle(&Amounts::default(), now);
    }

    pub(crate) fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
    }

    /// Notes what a registered model predicted, and what that costs.
    pub(crate) fn predicted(&mut self, rows: u64, took: Duration, price: Option<&PredictionPrice>) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let cost = price.and_then(|price| i64::try_from(price.nanos(rows, micros)).ok());
        let record = self.record();
        record.rows = rows;
        if let Some(cost) = cost.map(Money) {
            record.cost = record.cost.unwrap_or_default().checked_add(cost);
        }
    }

    /// Notes how many tokens of an answer have streamed by. Where that is more than is reserved, more is; a limit that has
    /// no more is the fault that cuts the stream.
    pub(crate) fn streamed(&mut self, tokens: u64) -> Result<(), Fault> {
        self.announce_ahead(tokens);
        if self.reservation.is_empty() || tokens <= self.bounds.output_tokens {
            return Ok(());
        }
        let more = tokens + STEP - self.bounds.output_tokens;
        self.bounds.output_tokens += more;
        let cost = self.price.as_ref().and_then(|price| price.most(0, more));
        self.bounds.cost += cost.and_then(|cost| u64::try_from(cost.0).ok()).unwrap_or(0);
        let now = self.clock();
        let extended = self.reservation.extend(&self.bounds, now);
        extended.map_err(|refused| admit::exceeded(&refused, self))
    }

    /// Has more written down before it comes, where nothing may be lost.
    fn announce_ahead(&mut self, tokens: u64) {
        let (written, cost) = self.announced;
        // Another call costs nothing, may be lost, or is written down with all that it may cost.
        if cost == 0 || tokens + AHEAD <= written {
            return;
        }
        let more = tokens + AHEAD + STEP - written;
        let dearer = self.price.as_ref().and_then(|price| price.most(0, more));
        let dearer = dearer.and_then(|cost| u64::try_from(cost.0).ok()).unwrap_or(0);
        self.announced = (written + more, cost + dearer);
        if let Some(ledger) = &self.gateway.ledger {
            ledger.raise(self.request_id(), self.announced.1);
        }
    }

    /// Notes a fault that the caller gets to see.
    pub(crate) fn fail(&mut self, fault: &Fault) {
        let record = self.record();
        record.code = Some(fault.code);
        record.fault_source = Some(fault.source);
        record.fault_detail = Some(fault.detail().into());
        record.outcome = Outcome::Failed;
    }

    /// The answer left whole.
    pub(crate) fn land(&mut self) {
        let record = self.record();
        if record.outcome == Outcome::Cancelled {
            record.outcome = Outcome::Completed;
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.gather();
        if let Some(mut record) = self.record.take() {
            let now = Instant::now();
            record.duration = now.duration_since(self.began);
            self.reservation.landed(self.clock_at(now));
            self.holding.landed();
            if !self.reservation.is_empty() {
                let (held, gateway) = (std::mem::take(&mut self.reservation), Arc::downgrade(&self.gateway));
                let holding = std::mem::take(&mut self.holding);
                record.settlement = Some(Settlement::new(move |record| {
                    // Without a gateway nobody counts any more.
                    if let Some(gateway) = gateway.upgrade() {
                        admit::settle(&gateway, held, holding, record);
                    }
                }));
            }
            if let Some((parent, merge)) = &self.parent {
                parent.add(*record, *merge);
                return;
            }
            self.gateway.metrics.requests_in_flight.dec();
            self.gateway.recorder.send(record);
        }
    }
}

/// The records of a request's hops that have ended.
#[derive(Default)]
struct Hops(Mutex<Vec<Exchange>>);

impl Hops {
    fn add(&self, mut hop: Exchange, merge: bool) {
        let mut hops = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |other: &&mut Exchange| {
            (&other.target, &other.model_version, other.code, other.outcome)
                == (&hop.target, &hop.model_version, hop.code, hop.outcome)
        };
        match hops.iter_mut().find(same).filter(|_| merge && hop.unsettled.is_none()) {
            Some(known) => {
                hop.tell();
                known.usage = known.usage.plus(&hop.usage);
                known.cost = known.cost.zip(hop.cost).and_then(|(one, other)| one.checked_add(other));
                known.rows += hop.rows;
                known.attempts += hop.attempts;
                known.duration += hop.duration;
            }
            None => hops.push(hop),
        }
    }
}

/// Makes a flight for each target that is asked inside a request.
#[derive(Clone)]
pub(crate) struct Departures {
    hops: Arc<Hops>,
    gateway: Arc<Gateway>,
    request_id: RequestId,
    method: http::Method,
    endpoint: Option<Arc<str>>,
    generation: u64,
    merge: bool,
}

impl Departures {
    /// Hops of the same kind become one record: there may be very many of them.
    pub(crate) fn merging(self) -> Self {
        Self { merge: true, ..self }
    }

    /// A flight whose record ends up in the request's.
    pub(crate) fn hop(&self, target: &Arc<str>, dialect: Dialect, operation: Operation) -> Flight {
        let mut record = blank(self.request_id, self.method.clone(), self.generation);
        record.endpoint.clone_from(&self.endpoint);
        record.target = Some(Arc::clone(target));
        record.dialect = Some(dialect);
        record.operation = Some(operation);
        record.attempts = 1;
        Flight {
            began_ms: unix_ms(record.started),
            record: Some(Box::new(record)),
            gateway: Arc::clone(&self.gateway),
            parent: Some((Arc::clone(&self.hops), self.merge)),
            hops: None,
            began: Instant::now(),
            headers: Vec::new(),
            price: None,
            reservation: Reservation::default(),
            holding: Holding::default(),
            bounds: Amounts::default(),
            announced: (0, 0),
        }
    }
}

/// A record of which nothing else is known.
fn blank(request_id: RequestId, method: http::Method, generation: u64) -> Exchange {
    Exchange {
        request_id,
        started: SystemTime::now(),
        method,
        path: Box::default(),
        peer: None,
        principal: None,
        owner: None,
        endpoint: None,
        target: None,
        model_version: None,
        dialect: None,
        operation: None,
        lane: None,
        status: 0,
        code: None,
        fault_source: None,
        fault_detail: None,
        stream: false,
        attempts: 0,
        bytes_in: 0,
        bytes_out: 0,
        rows: 0,
        usage: Usage::default(),
        cost: None,
        waited: Duration::ZERO,
        duration: Duration::ZERO,
        time_to_first_byte: None,
        config_generation: generation,
        outcome: Outcome::Cancelled,
        unsettled: None,
        captured: None,
        settlement: None,
        hops: Vec::new(),
    }
}
