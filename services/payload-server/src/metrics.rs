//! What the payload server counts. The results of requests have beacon-kit's names.

use preconf_telemetry::{
    Registry,
    metrics::{Counter, Family, Histogram, LATENCY_SECONDS},
};

/// The metrics of a payload server.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    /// Requests for payloads, by result.
    pub(crate) requests: Family<Counter, 1>,
    /// How long their answers took, by result.
    pub(crate) request_seconds: Family<Histogram, 1>,
    /// How long the builder took.
    pub(crate) builder_seconds: Histogram,
    /// Questions whose turn it is, by answer.
    pub(crate) turns: Family<Counter, 1>,
    /// Proposers that were announced, by who did it.
    pub(crate) announced: Family<Counter, 1>,
    /// Files that were read anew, by file and outcome.
    pub(crate) reloaded: Family<Counter, 2>,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Self {
        Self {
            requests: registry.counters(
                "payload_requests",
                "Requests for payloads, by how they ended",
                ["result"],
            ),
            request_seconds: registry.histograms(
                "payload_request_seconds",
                "From the head of a request until its answer is ready, or it is given up",
                ["result"],
                LATENCY_SECONDS,
            ),
            builder_seconds: registry.histogram(
                "builder_seconds",
                "How long the builder took to answer, or was waited for",
                LATENCY_SECONDS,
            ),
            turns: registry.counters(
                "proposer_checks",
                "Requests whose validator was compared with the proposer of the slot",
                ["matched"],
            ),
            announced: registry.counters(
                "proposers_announced",
                "Proposers of a slot or of a later round of it that were news",
                ["by"],
            ),
            reloaded: registry.counters(
                "files_reloaded",
                "Files that were read anew",
                ["file", "outcome"],
            ),
        }
    }
}

/// Registers what this service counts, as it does when it serves: for documentation.
pub fn register(registry: &Registry) {
    let _ = Metrics::new(registry);
}
