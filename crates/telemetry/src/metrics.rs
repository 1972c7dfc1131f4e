//! Numbers about a process, in the OpenMetrics text format.
//!
//! A service makes one struct of its metrics from the [`Registry`] of its process and passes it
//! to whoever counts. Names are `preconf_<service>_<name>`; a name ends in its unit, and the format
//! adds `_total` to counters.
//!
//! Label values are `&'static str`, so they come from enums and never from a peer: the number of
//! series is bounded by what the source code says. Registering a name twice is a mistake of ours
//! and panics. What is registered can be listed ([`Registry::described`]): documentation is written
//! from that.
//!
//! What is observed inside a recorded span becomes the exemplar of its bucket: a dashboard leads
//! from a slow one to its trace.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeMetric, LabelSetEncoder, MetricEncoder, text},
    metrics::{MetricType, TypedMetric, exemplar::HistogramWithExemplars, family},
    registry,
};

pub use prometheus_client::metrics::{counter::Counter, gauge::Gauge};

use crate::{Trace, version};

/// The content type of what [`Registry::encode`] returns.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Buckets for latencies from 1 ms to 10 s, in seconds.
pub const LATENCY_SECONDS: &[f64] =
    &[0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0];

/// The metrics of one process. Clones share them.
#[derive(Clone)]
pub struct Registry {
    registered: Arc<Mutex<Registered>>,
}

struct Registered {
    prefix: String,
    described: Vec<Described>,
    metrics: registry::Registry,
}

/// A metric as it is documented.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Described {
    /// The name of its series; those of a histogram have a suffix besides.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: Vec<&'static str>,
    /// What it means.
    pub help: String,
}

/// What a metric is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Goes up only.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts observations by size.
    Histogram,
}

impl Kind {
    /// As Prometheus calls it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// How often something took how long, or was how large. Clones share it.
#[derive(Clone, Debug)]
pub struct Histogram(HistogramWithExemplars<TraceId>);

impl Histogram {
    fn new(buckets: &'static [f64]) -> Self {
        Self(HistogramWithExemplars::new(buckets.iter().copied()))
    }

    /// Counts a value, with the current span's trace as an example of it if that is recorded.
    pub fn observe(&self, value: f64) {
        self.observe_in(value, &Trace::current());
    }

    /// Counts a value, with this trace as an example of it if that is recorded.
    pub fn observe_in(&self, value: f64, trace: &Trace) {
        let trace = trace.sampled_id().map(TraceId);
        let now = trace.as_ref().map(|_| SystemTime::now());
        self.0.observe(value, trace, now);
    }
}

impl TypedMetric for Histogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Histogram {
    fn encode(&self, encoder: MetricEncoder<'_>) -> fmt::Result {
        self.0.encode(encoder)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

/// The label of an exemplar.
#[derive(Clone, Debug)]
struct TraceId(String);

impl EncodeLabelSet for TraceId {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        [("trace_id", self.0.as_str())].encode(encoder)
    }
}

impl Registry {
    /// Makes the registry of `service`, with the version of the build already in it.
    #[must_use]
    pub fn new(service: &str) -> Self {
        let prefix = format!("preconf_{}", service.replace('-', "_"));
        let metrics = registry::Registry::with_prefix(prefix.clone());
        let registered = Registered { prefix, described: Vec::new(), metrics };
        let registry = Self { registered: Arc::new(Mutex::new(registered)) };
        registry
            .gauges("build_info", "What runs; the value is always 1", ["version", "revision"])
            .get([env!("CARGO_PKG_VERSION"), version::REVISION])
            .set(1);
        registry
    }

    /// Registers a counter.
    #[must_use]
    pub fn counter(&self, name: &str, help: &str) -> Counter {
        self.register(name, help, (Kind::Counter, &[]), Counter::default())
    }

    /// Registers a gauge.
    #[must_use]
    pub fn gauge(&self, name: &str, help: &str) -> Gauge {
        self.register(name, help, (Kind::Gauge, &[]), Gauge::default())
    }

    /// Registers a histogram with the given upper bounds.
    #[must_use]
    pub fn histogram(&self, name: &str, help: &str, buckets: &'static [f64]) -> Histogram {
        self.register(name, help, (Kind::Histogram, &[]), Histogram::new(buckets))
    }

    /// Registers a counter for each combination of label values.
    #[must_use]
    pub fn counters<const N: usize>(
        &self,
        name: &str,
        help: &str,
        labels: [&'static str; N],
    ) -> Family<Counter, N> {
        self.family(name, help, (Kind::Counter, labels), Counter::default)
    }

    /// Registers a gauge for each combination of label values.
    #[must_use]
    pub fn gauges<const N: usize>(
        &self,
        name: &str,
        help: &str,
        labels: [&'static str; N],
    ) -> Family<Gauge, N> {
        self.family(name, help, (Kind::Gauge, labels), Gauge::default)
    }

    /// Registers a histogram for each combination of label values.
    #[must_use]
    pub fn histograms<const N: usize>(
        &self,
        name: &str,
        help: &str,
        labels: [&'static str; N],
        buckets: &'static [f64],
    ) -> Family<Histogram, N> {
        self.family(name, help, (Kind::Histogram, labels), move || Histogram::new(buckets))
    }

    /// Writes all metrics as text.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        text::encode(&mut text, &self.lock().metrics).expect("writing to a String cannot fail");
        text
    }

    /// What is registered, in that order.
    #[must_use]
    pub fn described(&self) -> Vec<Described> {
        self.lock().described.clone()
    }

    fn family<M, const N: usize>(
        &self,
        name: &str,
        help: &str,
        (kind, labels): (Kind, [&'static str; N]),
        make: impl Fn() -> M + Send + Sync + 'static,
    ) -> Family<M, N>
    where
        M: Clone + EncodeMetric + TypedMetric + fmt::Debug + Send + Sync + 'static,
    {
        let family = family::Family::new_with_constructor(Make(Arc::new(make)));
        Family { labels, family: self.register(name, help, (kind, &labels), family) }
    }

    fn register<M>(
        &self,
        name: &str,
        help: &str,
        (kind, labels): (Kind, &[&'static str]),
        metric: M,
    ) -> M
    where
        M: Clone + registry::Metric,
    {
        let mut registered = self.lock();
        let suffix = if kind == Kind::Counter { "_total" } else { "" };
        let series = format!("{}_{name}{suffix}", registered.prefix);
        let is_known = registered.described.iter().any(|described| described.name == series);
        assert!(!is_known, "metric {name} is registered twice");
        let (labels, help_text) = (labels.to_vec(), help.trim_end_matches('.').to_owned());
        let described = Described { name: series, kind, labels, help: help_text };
        registered.described.push(described);
        registered.metrics.register(name, help, metric.clone());
        metric
    }

    fn lock(&self) -> MutexGuard<'_, Registered> {
        self.registered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("described", &self.lock().described).finish()
    }
}

/// One metric per combination of label values. Clones share them.
#[derive(Clone)]
pub struct Family<M, const N: usize> {
    labels: [&'static str; N],
    family: family::Family<Labelled<N>, M, Make<M>>,
}

impl<M: Clone, const N: usize> Family<M, N> {
    /// The metric with these label values, made at zero if it is new.
    ///
    /// Takes a lock: on a hot path, get it once and keep it.
    #[must_use]
    pub fn get(&self, values: [&'static str; N]) -> M {
        self.family.get_or_create_owned(&Labelled { names: self.labels, values })
    }
}

impl<M, const N: usize> fmt::Debug for Family<M, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Family").field("labels", &self.labels).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Labelled<const N: usize> {
    names: [&'static str; N],
    values: [&'static str; N],
}

impl<const N: usize> EncodeLabelSet for Labelled<N> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        std::array::from_fn::<_, N, _>(|at| (self.names[at], self.values[at])).encode(encoder)
    }
}

struct Make<M>(Arc<dyn Fn() -> M + Send + Sync>);

impl<M> Clone for Make<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M> fmt::Debug for Make<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Make")
    }
}

impl<M> family::MetricConstructor<M> for Make<M> {
    fn new_metric(&self) -> M {
        (self.0)()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::observed;

    #[test]
    fn what_is_registered_is_encoded_under_the_name_of_the_service() {
        let registry = Registry::new("rpc-overlay");
        let requests = registry.counter("requests", "Requests answered");
        let refused = registry.counters("refused", "Requests refused", ["reason", "peer"]);
        let age = registry.histogram("snapshot_age_seconds", "Age", LATENCY_SECONDS);

        requests.inc_by(3);
        refused.get(["too_large", "public"]).inc();
        age.observe(0.004);

        let text = registry.encode();
        let build =
            format!("version=\"{}\",revision=\"{}\"", env!("CARGO_PKG_VERSION"), version::REVISION);
        for line in [
            format!("preconf_rpc_overlay_build_info{{{build}}} 1"),
            "# HELP preconf_rpc_overlay_requests Requests answered.".to_owned(),
            "preconf_rpc_overlay_requests_total 3".to_owned(),
            "preconf_rpc_overlay_refused_total{reason=\"too_large\",peer=\"public\"} 1".to_owned(),
            "preconf_rpc_overlay_snapshot_age_seconds_bucket{le=\"0.002\"} 0".to_owned(),
            "preconf_rpc_overlay_snapshot_age_seconds_bucket{le=\"0.005\"} 1".to_owned(),
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn what_is_registered_is_described_under_the_name_of_its_series() {
        let registry = Registry::new("gateway");
        let _frames = registry.counters("frames", "Frames, by outcome.", ["outcome"]);
        let _age = registry.histogram("age_seconds", "Age", LATENCY_SECONDS);

        let [_build_info, frames, age] = &registry.described()[..] else {
            panic!("{registry:?}");
        };
        assert_eq!(
            (frames.name.as_str(), frames.kind),
            ("preconf_gateway_frames_total", Kind::Counter)
        );
        assert_eq!(
            (frames.help.as_str(), &frames.labels[..]),
            ("Frames, by outcome", &["outcome"][..])
        );
        assert_eq!((age.name.as_str(), age.kind), ("preconf_gateway_age_seconds", Kind::Histogram));
    }

    #[test]
    fn what_is_observed_in_a_recorded_span_has_its_trace_as_an_example() {
        observed(|| {
            let registry = Registry::new("gateway");
            let age = registry.histogram("age_seconds", "Age", &[1.0, 2.0]);
            let span = tracing::info_span!("flashblock");

            age.observe(0.5);
            let trace = span.in_scope(|| {
                age.observe(1.5);
                crate::current_traceparent().unwrap()[3..35].to_owned()
            });

            let text = registry.encode();
            let bucket =
                |le| text.lines().find(|line| line.contains(&format!("le=\"{le}\""))).unwrap();
            assert!(!bucket("1.0").contains('#'), "{text}");
            let example = format!("2 # {{trace_id=\"{trace}\"}} 1.5 ");
            assert!(bucket("2.0").contains(&example), "{text}");
        });
    }

    #[test]
    fn a_family_gives_the_same_metric_for_the_same_labels() {
        let registry = Registry::new("gateway");
        let frames = registry.counters("frames", "Frames", ["outcome"]);

        frames.get(["accepted"]).inc();
        frames.get(["accepted"]).inc();

        assert_eq!(frames.get(["accepted"]).get(), 2);
        assert_eq!(frames.get(["dropped"]).get(), 0);
    }

    #[test]
    #[should_panic(expected = "metric frames is registered twice")]
    fn a_name_is_registered_once() {
        let registry = Registry::new("gateway");
        let _first = registry.counter("frames", "Frames");
        let _second = registry.counter("frames", "Frames");
    }
}
