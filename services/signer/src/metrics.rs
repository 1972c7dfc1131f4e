//! What is counted about signing.

use preconf_telemetry::{
    Registry,
    metrics::{Counter, Family, Gauge, Histogram},
};

/// Buckets for two BLS signatures, in seconds: half a millisecond when nothing is in the way, and
/// for the disk that is waited for before them.
const SIGN_SECONDS: &[f64] =
    &[0.000_25, 0.000_5, 0.000_75, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5];

/// What a signature is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Flashblock,
    Abandoned,
    Sealed,
    Retracted,
}

impl Kind {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Flashblock => "flashblock",
            Self::Abandoned => "abandoned",
            Self::Sealed => "sealed",
            Self::Retracted => "retracted",
        }
    }
}

/// The metrics of a signer.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    /// Statements that were signed for the first time.
    pub(crate) signatures: Family<Counter, 1>,
    /// Statements that were signed before, and again on request.
    pub(crate) repeats: Family<Counter, 1>,
    /// Requests that were refused.
    pub(crate) refusals: Family<Counter, 1>,
    /// Sessions that were opened.
    pub(crate) sessions: Counter,
    /// From a request for a flashblock's signatures to the answer.
    pub(crate) sign_seconds: Histogram,
    /// The newest epoch.
    pub(crate) epoch: Gauge,
    /// The newest session.
    pub(crate) last_seq: Gauge,
    /// From decisions that wait to their being on the disk.
    pub(crate) record_sync_seconds: Histogram,
    /// The length of the record.
    pub(crate) record_bytes: Gauge,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Self {
        Self {
            signatures: registry.counters(
                "signatures",
                "Statements signed, each counted once",
                ["kind"],
            ),
            repeats: registry.counters(
                "repeats",
                "Statements signed again because the same request came again",
                ["kind"],
            ),
            refusals: registry.counters("refusals", "Requests refused", ["reason"]),
            sessions: registry.counter("sessions", "Sessions opened"),
            sign_seconds: registry.histogram(
                "sign_seconds",
                "Time from a request for a flashblock's signatures to the answer",
                SIGN_SECONDS,
            ),
            epoch: registry.gauge("epoch", "The newest epoch"),
            last_seq: registry.gauge("last_seq", "The newest session"),
            record_sync_seconds: registry.histogram(
                "record_sync_seconds",
                "Time until decisions are on the disk, those that wait together counted once",
                SIGN_SECONDS,
            ),
            record_bytes: registry.gauge("record_bytes", "Length of the record on the disk"),
        }
    }
}

/// Registers what this service counts, as it does when it serves: for documentation.
pub fn register(registry: &Registry) {
    let _ = Metrics::new(registry);
}
