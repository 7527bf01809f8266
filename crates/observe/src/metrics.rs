//! Prometheus metrics. Labels are names from the configuration or words from closed tables, so the number of
//! series is bounded; no prompt, key or path becomes a label.

mod labels;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use millgate_types::{Exchange, Usage};
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use labels::{
    AlertLabels, AsideLabels, DependencyLabels, EndpointLabels, HopLabels, KeyLabels, LimitLabels,
    ProviderLabels, RegistryLabels, RequestLabels, TargetLabels, TokenLabels, WaitingLabels,
};

/// The content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What became of a call that did not fit a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitOutcome {
    /// It was refused.
    Refused,
    /// The limit only counts.
    Counted,
    /// It waited for its turn, whatever came of it.
    Waited,
}

/// Counts one who waits until it is dropped.
#[derive(Debug)]
pub struct Waits(Gauge<i64, std::sync::atomic::AtomicI64>);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.dec();
    }
}

type Seconds = Family<EndpointLabels, Histogram, fn() -> Histogram>;

/// All metrics of a gateway.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    duration: Seconds,
    first_byte: Seconds,
    tokens: Family<TokenLabels, Counter>,
    rows: Family<TargetLabels, Counter>,
    cost: Family<TargetLabels, Counter>,
    unpriced: Family<TargetLabels, Counter>,
    estimated: Family<TargetLabels, Counter>,
    attempts: Family<TargetLabels, Counter>,
    hops: Family<HopLabels, Counter>,
    records_dropped: Counter,
    handles: Mutex<foldhash::HashMap<Key, Handles>>,
    /// Requests that are being served.
    pub requests_in_flight: Gauge<i64, std::sync::atomic::AtomicI64>,
    /// Open client connections.
    pub connections: Gauge<i64, std::sync::atomic::AtomicI64>,
    /// Connections refused because a limit was reached.
    pub connections_refused: Counter<u64, AtomicU64>,
    /// Handlers that panicked; every one is a defect.
    pub panics: Counter<u64, AtomicU64>,
    /// The number of the configuration that is being served; counts from 1.
    pub config_generation: Gauge<i64, std::sync::atomic::AtomicI64>,
    /// 1 while the file holds a configuration that was refused.
    pub config_reload_failed: Gauge<i64, std::sync::atomic::AtomicI64>,
    limits_exceeded: Family<LimitLabels, Counter>,
    limits_waiting: Family<WaitingLabels, Gauge<i64, std::sync::atomic::AtomicI64>>,
    budget_alerts: Family<AlertLabels, Counter>,
    provider_state: Family<ProviderLabels, Gauge>,
    key_usable: Family<KeyLabels, Gauge>,
    keys_set_aside: Family<AsideLabels, Counter>,
    breakers_opened: Family<ProviderLabels, Counter>,
    retries: Family<ProviderLabels, Counter>,
    dependency_up: Family<DependencyLabels, Gauge>,
    registry_age: Family<RegistryLabels, Gauge<f64, AtomicU64>>,
    /// 0 while the audit log cannot be written.
    pub audit_healthy: Gauge<i64, std::sync::atomic::AtomicI64>,
    /// Requests that are missing in the audit log.
    pub audit_lost: Counter<u64, AtomicU64>,
    /// Records that sinks of the audit log lost.
    pub audit_dropped: Counter<u64, AtomicU64>,
}

fn histogram() -> Histogram {
    Histogram::new([
        0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
        120.0,
    ])
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Metrics without any history.
    #[must_use]
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("millgate"),
            requests: Family::default(),
            duration: Family::new_with_constructor(histogram),
            first_byte: Family::new_with_constructor(histogram),
            tokens: Family::default(),
            rows: Family::default(),
            cost: Family::default(),
            unpriced: Family::default(),
            estimated: Family::default(),
            attempts: Family::default(),
            hops: Family::default(),
            records_dropped: Counter::default(),
            handles: Mutex::default(),
            requests_in_flight: Gauge::default(),
            connections: Gauge::default(),
            connections_refused: Counter::default(),
            panics: Counter::default(),
            config_generation: Gauge::default(),
            config_reload_failed: Gauge::default(),
            limits_exceeded: Family::default(),
            limits_waiting: Family::default(),
            budget_alerts: Family::default(),
            provider_state: Family::default(),
            key_usable: Family::default(),
            keys_set_aside: Family::default(),
            breakers_opened: Family::default(),
            retries: Family::default(),
            dependency_up: Family::default(),
            registry_age: Family::default(),
            audit_healthy: Gauge::default(),
            audit_lost: Counter::default(),
            audit_dropped: Counter::default(),
        };
        let registry = &mut metrics.registry;
        registry.register("requests", "Finished requests", metrics.requests.clone());
        registry.register_with_unit(
            "request_duration",
            "From the first byte of a request to the last of its answer",
            Unit::Seconds,
            metrics.duration.clone(),
        );
        registry.register_with_unit(
            "first_byte",
            "From the first byte of a request to the first byte of the provider's or model's answer",
            Unit::Seconds,
            metrics.first_byte.clone(),
        );
        registry.register("tokens", "Tokens consumed, in disjoint classes", metrics.tokens.clone());
        registry.register("rows", "Rows predicted", metrics.rows.clone());
        registry.register("cost_nano_usd", "Cost of the tokens consumed, in 10^-9 USD", metrics.cost.clone());
        registry.register(
            "unpriced_requests",
            "Requests that consumed tokens whose price is not known",
            metrics.unpriced.clone(),
        );
        registry.register(
            "estimated_requests",
            "Requests whose tokens the provider did not count, or not to the end",
            metrics.estimated.clone(),
        );
        registry.register("attempts", "Targets tried", metrics.attempts.clone());
        registry.register(
            "hops",
            "Targets asked inside chains, ensembles and switches",
            metrics.hops.clone(),
        );
        registry.register(
            "records_dropped",
            "Records of requests lost because the observer was behind",
            metrics.records_dropped.clone(),
        );
        registry.register("requests_in_flight", "Requests being served", metrics.requests_in_flight.clone());
        registry.register("connections", "Open client connections", metrics.connections.clone());
        registry.register(
            "connections_refused",
            "Connections refused because a limit was reached",
            metrics.connections_refused.clone(),
        );
        registry.register("panics", "Handlers that panicked", metrics.panics.clone());
        registry.register(
            "config_generation",
            "Number of the configuration that is being served",
            metrics.config_generation.clone(),
        );
        registry.register(
            "config_reload_failed",
            "1 while the file holds a configuration that was refused",
            metrics.config_reload_failed.clone(),
        );
        registry.register(
            "limit_exceeded",
            "Calls that did not fit a limit or budget: refused, only counted, or made to wait",
            metrics.limits_exceeded.clone(),
        );
        registry.register("limit_waiting", "Calls that wait for a limit", metrics.limits_waiting.clone());
        registry.register(
            "budget_alerts",
            "Steps of budgets that were reached",
            metrics.budget_alerts.clone(),
        );
        registry.register(
            "provider_state",
            "0: the provider is called, 1: one call tries whether it is back, 2: it is not called",
            metrics.provider_state.clone(),
        );
        registry.register(
            "provider_key_usable",
            "0 while a provider's key is set aside for all models",
            metrics.key_usable.clone(),
        );
        registry.register(
            "provider_key_set_aside",
            "Times that a provider's key was set aside",
            metrics.keys_set_aside.clone(),
        );
        registry.register(
            "provider_breaker_opened",
            "Times that a provider was not called any more for a while",
            metrics.breakers_opened.clone(),
        );
        registry.register(
            "upstream_retries",
            "Calls that were made again at the same target",
            metrics.retries.clone(),
        );
        registry.register(
            "dependency_up",
            "0 while the store or the shared counts cannot be reached",
            metrics.dependency_up.clone(),
        );
        registry.register_with_unit(
            "registry_age",
            "How old what is known of a registry's models is: the time since it last answered",
            Unit::Seconds,
            metrics.registry_age.clone(),
        );
        metrics.audit_healthy.set(1);
        registry.register(
            "audit_healthy",
            "0 while the audit log cannot be written",
            metrics.audit_healthy.clone(),
        );
        registry.register(
            "audit_lost_records",
            "Requests that are missing in the audit log",
            metrics.audit_lost.clone(),
        );
        registry.register(
            "audit_sink_dropped_records",
            "Records that a sink of the audit log lost; the files have them",
            metrics.audit_dropped.clone(),
        );
        metrics
    }

    /// Notes whether what the gateway leans on, by its name, can be reached.
    pub fn dependency(&self, name: &'static str, up: bool) {
        self.dependency_up.get_or_create(&DependencyLabels { name }).set(i64::from(up));
    }

    /// The OpenMetrics text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = String::new();
        // Writing into a String cannot fail.
        let _infallible = text::encode(&mut out, &self.registry);
        out
    }

    /// A call did not fit a limit.
    pub fn limit_exceeded(&self, limit: &Arc<str>, outcome: LimitOutcome) {
        let outcome = match outcome {
            LimitOutcome::Refused => "refused",
            LimitOutcome::Counted => "counted",
            LimitOutcome::Waited => "waited",
        };
        self.limits_exceeded.get_or_create(&LimitLabels { limit: Arc::clone(limit), outcome }).inc();
    }

    /// A call waits for a limit as long as it holds what this gives.
    #[must_use]
    pub fn limit_waiting(&self, limit: &Arc<str>) -> Waits {
        self.limit_exceeded(limit, LimitOutcome::Waited);
        let gauge = self.limits_waiting.get_or_create(&WaitingLabels { limit: Arc::clone(limit) }).clone();
        gauge.inc();
        Waits(gauge)
    }

    /// A step of a budget was reached.
    pub fn budget_alert(&self, budget: &Arc<str>, percent: u8) {
        self.budget_alerts.get_or_create(&AlertLabels { budget: Arc::clone(budget), percent }).inc();
    }

    /// Begins to say anew how providers stand: those that are gone say nothing.
    pub fn forget_providers(&self) {
        self.provider_state.clear();
        self.key_usable.clear();
    }

    /// Says anew how old what is known of the registries' models is: those that are gone say nothing.
    pub fn registry_ages<'a>(&self, ages: impl Iterator<Item = (&'a str, Duration)>) {
        self.registry_age.clear();
        for (registry, age) in ages {
            let labels = RegistryLabels { registry: registry.to_owned() };
            self.registry_age.get_or_create(&labels).set(age.as_secs_f64());
        }
    }

    /// How a provider stands: 0, 1 or 2 as the metric says.
    pub fn provider_state(&self, provider: &Arc<str>, state: i64) {
        self.provider_state.get_or_create(&ProviderLabels { provider: Arc::clone(provider) }).set(state);
    }

    /// Whether a provider's key is in use, by the name that the configuration gives it.
    pub fn key_usable(&self, provider: &Arc<str>, key: &Arc<str>, usable: bool) {
        let labels = KeyLabels { provider: Arc::clone(provider), key: Arc::clone(key) };
        self.key_usable.get_or_create(&labels).set(i64::from(usable));
    }

    /// A provider's key was set aside.
    pub fn set_aside(&self, provider: &Arc<str>, key: &Arc<str>, reason: &'static str) {
        let labels = AsideLabels { provider: Arc::clone(provider), key: Arc::clone(key), reason };
        self.keys_set_aside.get_or_create(&labels).inc();
    }

    /// A provider is not called for a while.
    pub fn breaker_opened(&self, provider: &Arc<str>) {
        self.breakers_opened.get_or_create(&ProviderLabels { provider: Arc::clone(provider) }).inc();
    }

    /// A call is made again at the same target.
    pub fn retried(&self, provider: &Arc<str>) {
        self.retries.get_or_create(&ProviderLabels { provider: Arc::clone(provider) }).inc();
    }

    pub(crate) fn records_dropped(&self, count: u64) {
        self.records_dropped.inc_by(count);
    }

    pub(crate) fn observe(&self, exchange: &Exchange) {
        let mut cache = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= CACHED {
            cache.clear();
        }
        let handles = cache.entry(Key::of(exchange)).or_insert_with(|| self.handles_for(exchange));
        handles.requests.inc();
        handles.duration.observe(exchange.duration.as_secs_f64());
        if let Some(first) = exchange.time_to_first_byte {
            let series = || self.first_byte.get_or_create(&handles.of_endpoint).clone();
            handles.first_byte.get_or_insert_with(series).observe(first.as_secs_f64());
        }
        handles.attempts.inc_by(u64::from(exchange.attempts));
        if !exchange.hops.is_empty() {
            // What the parts consumed is theirs: counted here too it would stand there twice.
            return exchange.hops.iter().for_each(|hop| self.observe_hop(hop));
        }
        if exchange.rows > 0 {
            self.rows.get_or_create(&handles.of_target).inc_by(exchange.rows);
        }
        let usage = &exchange.usage;
        if usage.estimated {
            self.estimated.get_or_create(&handles.of_target).inc();
        }
        match exchange.cost {
            Some(cost) => {
                let series = || self.cost.get_or_create(&handles.of_target).clone();
                handles.cost.get_or_insert_with(series).inc_by(u64::try_from(cost.0).unwrap_or(0));
            }
            None if usage.total() > 0 || usage.billed.is_some() => {
                self.unpriced.get_or_create(&handles.of_target).inc();
            }
            None => {}
        }
        for (index, count) in counts(usage).into_iter().enumerate().filter(|(_, count)| *count > 0) {
            let counter = handles.tokens[index].get_or_insert_with(|| {
                let labels = TokenLabels {
                    endpoint: Arc::clone(&handles.of_target.endpoint),
                    target: Arc::clone(&handles.of_target.target),
                    class: CLASSES[index],
                };
                self.tokens.get_or_create(&labels).clone()
            });
            counter.inc_by(count);
        }
    }

    /// A target asked inside a chain, ensemble or switch.
    fn observe_hop(&self, hop: &Exchange) {
        let none = || Arc::from("");
        let of_target = TargetLabels {
            endpoint: hop.endpoint.clone().unwrap_or_else(none),
            target: hop.target.clone().unwrap_or_else(none),
        };
        self.hops
            .get_or_create(&HopLabels {
                endpoint: Arc::clone(&of_target.endpoint),
                target: Arc::clone(&of_target.target),
                code: hop.code.map_or("", |code| code.name),
                outcome: hop.outcome.name(),
            })
            .inc();
        if hop.rows > 0 {
            self.rows.get_or_create(&of_target).inc_by(hop.rows);
        }
        let usage = &hop.usage;
        if usage.estimated {
            self.estimated.get_or_create(&of_target).inc();
        }
        match hop.cost {
            Some(cost) => {
                self.cost.get_or_create(&of_target).inc_by(u64::try_from(cost.0).unwrap_or(0));
            }
            None if usage.total() > 0 || usage.billed.is_some() => {
                self.unpriced.get_or_create(&of_target).inc();
            }
            None => {}
        }
        for (class, count) in CLASSES.into_iter().zip(counts(usage)).filter(|(_, count)| *count > 0) {
            let labels = TokenLabels {
                endpoint: Arc::clone(&of_target.endpoint),
                target: Arc::clone(&of_target.target),
                class,
            };
            self.tokens.get_or_create(&labels).inc_by(count);
        }
    }

    fn handles_for(&self, exchange: &Exchange) -> Handles {
        let none: Arc<str> = Arc::from("");
        let endpoint = exchange.endpoint.clone().unwrap_or_else(|| Arc::clone(&none));
        let target = exchange.target.clone().unwrap_or(none);
        let operation = exchange.operation.map_or("", millgate_types::Operation::name);
        let of_endpoint = EndpointLabels { endpoint: Arc::clone(&endpoint), operation };
        let of_target = TargetLabels { endpoint: Arc::clone(&endpoint), target: Arc::clone(&target) };
        let labels = RequestLabels {
            endpoint,
            target,
            operation,
            status: exchange.status,
            code: exchange.code.map_or("", |code| code.name),
            outcome: exchange.outcome.name(),
        };
        Handles {
            requests: self.requests.get_or_create(&labels).clone(),
            duration: self.duration.get_or_create(&of_endpoint).clone(),
            attempts: self.attempts.get_or_create(&of_target).clone(),
            first_byte: None,
            cost: None,
            tokens: Default::default(),
            of_endpoint,
            of_target,
            _alive: (exchange.endpoint.clone(), exchange.target.clone()),
        }
    }
}

/// Kinds of requests whose handles are remembered.
const CACHED: usize = 1024;

/// Tokens by class.
fn counts(usage: &Usage) -> [u64; 8] {
    [
        usage.input,
        usage.cache_read,
        usage.cache_write,
        usage.output,
        usage.reasoning,
        usage.audio_input,
        usage.audio_output,
        usage.image_input,
    ]
}

/// Names of the classes of tokens.
const CLASSES: [&str; 8] = [
    "input",
    "cache_read",
    "cache_write",
    "output",
    "reasoning",
    "audio_input",
    "audio_output",
    "image_input",
];

/// What tells kinds of requests apart. Names are compared by address, which is why [`Handles`] keeps them alive.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    endpoint: usize,
    target: usize,
    operation: Option<millgate_types::Operation>,
    status: u16,
    code: Option<&'static str>,
    outcome: &'static str,
}

impl Key {
    fn of(exchange: &Exchange) -> Self {
        let address = |name: &Option<Arc<str>>| name.as_ref().map_or(0, |name| name.as_ptr() as usize);
        Self {
            endpoint: address(&exchange.endpoint),
            target: address(&exchange.target),
            operation: exchange.operation,
            status: exchange.status,
            code: exchange.code.map(|code| code.name),
            outcome: exchange.outcome.name(),
        }
    }
}

/// The series of one kind of request, found once.
struct Handles {
    requests: Counter,
    duration: Histogram,
    attempts: Counter,
    first_byte: Option<Histogram>,
    cost: Option<Counter>,
    tokens: [Option<Counter>; 8],
    of_endpoint: EndpointLabels,
    of_target: TargetLabels,
    _alive: (Option<Arc<str>>, Option<Arc<str>>),
}
