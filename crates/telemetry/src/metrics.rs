//! Numbers about a process, in the OpenMetrics text format.
//!
//! A service makes one struct of its metrics from the [`Registry`] of its process and passes it
//! to whoever counts. Names are `preconf_<service>_<name>`; a name ends in its unit, and the format
//! adds `_total` to counters.
//!
//! Label values are `&'static str`, so they come from enums and never from a peer: the number of
//! series is bounded by what the source code says. Registering a name twice is a mistake of ours
//! and panics.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeMetric, LabelSetEncoder, text},
    metrics::{TypedMetric, family},
    registry,
};

pub use prometheus_client::metrics::{counter::Counter, gauge::Gauge, histogram::Histogram};

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
    names: BTreeSet<String>,
    metrics: registry::Registry,
}

impl Registry {
    /// Makes the registry of `service`, with the version of the build already in it.
    #[must_use]
    pub fn new(service: &str) -> Self {
        let prefix = format!("preconf_{}", service.replace('-', "_"));
        let registered =
            Registered { names: BTreeSet::new(), metrics: registry::Registry::with_prefix(prefix) };
        let registry = Self { registered: Arc::new(Mutex::new(registered)) };
        registry
            .gauges("build_info", "What runs; the value is always 1", ["version"])
            .get([env!("CARGO_PKG_VERSION")])
            .set(1);
        registry
    }

    /// Registers a counter.
    #[must_use]
    pub fn counter(&self, name: &str, help: &str) -> Counter {
        self.register(name, help, Counter::default())
    }

    /// Registers a gauge.
    #[must_use]
    pub fn gauge(&self, name: &str, help: &str) -> Gauge {
        self.register(name, help, Gauge::default())
    }

    /// Registers a histogram with the given upper bounds.
    #[must_use]
    pub fn histogram(&self, name: &str, help: &str, buckets: &'static [f64]) -> Histogram {
        self.register(name, help, Histogram::new(buckets.iter().copied()))
    }

    /// Registers a counter for each combination of label values.
    #[must_use]
    pub fn counters<const N: usize>(
        &self,
        name: &str,
        help: &str,
        labels: [&'static str; N],
    ) -> Family<Counter, N> {
        self.family(name, help, labels, Counter::default)
    }

    /// Registers a gauge for each combination of label values.
    #[must_use]
    pub fn gauges<const N: usize>(
        &self,
        name: &str,
        help: &str,
        labels: [&'static str; N],
    ) -> Family<Gauge, N> {
        self.family(name, help, labels, Gauge::default)
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
        self.family(name, help, labels, move || Histogram::new(buckets.iter().copied()))
    }

    /// Writes all metrics as text.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        text::encode(&mut text, &self.lock().metrics).expect("writing to a String cannot fail");
        text
    }

    fn family<M, const N: usize>(
        &self,
        name: &str,
        help: &str,
        labels: [&'static str; N],
        make: impl Fn() -> M + Send + Sync + 'static,
    ) -> Family<M, N>
    where
        M: Clone + EncodeMetric + TypedMetric + fmt::Debug + Send + Sync + 'static,
    {
        let family = family::Family::new_with_constructor(Make(Arc::new(make)));
        Family { labels, family: self.register(name, help, family) }
    }

    fn register<M>(&self, name: &str, help: &str, metric: M) -> M
    where
        M: Clone + registry::Metric,
    {
        let mut registered = self.lock();
        assert!(registered.names.insert(name.to_owned()), "metric {name} is registered twice");
        registered.metrics.register(name, help, metric.clone());
        metric
    }

    fn lock(&self) -> MutexGuard<'_, Registered> {
        self.registered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("names", &self.lock().names).finish()
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
        let version = env!("CARGO_PKG_VERSION");
        for line in [
            format!("preconf_rpc_overlay_build_info{{version=\"{version}\"}} 1"),
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
