//! What the overlay counts.

use preconf_telemetry::{
    Registry,
    metrics::{Counter, Family, Gauge, Histogram, LATENCY_SECONDS},
};

/// The metrics of an overlay.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    /// Requests by method (those of the table, and `other`) and outcome.
    pub(crate) requests: Family<Counter, 2>,
    /// From the request to its answer, by method.
    pub(crate) seconds: Family<Histogram, 1>,
    /// Connections refused because their address had as many as it may.
    pub(crate) connections_refused: Counter,
    /// Requests given to the execution client, by outcome.
    pub(crate) forwarded: Family<Counter, 1>,
    /// Transactions given to the sequencer, by outcome.
    pub(crate) submitted: Family<Counter, 1>,
    /// Executions of one call until all its state was in memory.
    pub(crate) call_rounds: Histogram,
    /// Updates of the consumer, by what became of them.
    pub(crate) updates: Family<Counter, 1>,
    /// Preconfirmed transactions that were not kept.
    pub(crate) retracted: Counter,
    pub(crate) connected: Gauge,
    pub(crate) snapshot_id: Gauge,
    pub(crate) snapshot_received: Gauge,
    pub(crate) snapshot_blocks: Gauge,
    pub(crate) canonical_number: Gauge,
    /// From publication by the sequencer to the snapshot that serves it.
    pub(crate) flashblock_age: Histogram,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Self {
        let family = |name, help| registry.counters(name, help, ["outcome"]);
        Self {
            requests: registry.counters("requests", "Requests answered", ["method", "outcome"]),
            seconds: registry.histograms(
                "request_seconds",
                "From a request to its answer",
                ["method"],
                LATENCY_SECONDS,
            ),
            connections_refused: registry.counter(
                "json_rpc_connections_refused",
                "Connections refused because their address had as many as it may",
            ),
            forwarded: family("forwarded", "Requests given to the execution client"),
            submitted: family("submitted", "Transactions given to the sequencer"),
            call_rounds: registry.histogram(
                "call_rounds",
                "Executions of a call until all its state was in memory",
                &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0],
            ),
            updates: family("updates", "Updates received from the consumer"),
            retracted: registry.counter("retractions", "Retractions received from the consumer"),
            connected: registry.gauge("consumer_connected", "Whether the consumer is there"),
            snapshot_id: registry.gauge("snapshot_id", "The newest snapshot"),
            snapshot_received: registry.gauge(
                "snapshot_received_seconds",
                "When the newest snapshot was received, since the Unix epoch",
            ),
            snapshot_blocks: registry.gauge("snapshot_blocks", "Pending blocks of the snapshot"),
            canonical_number: registry.gauge(
                "snapshot_canonical_number",
                "The canonical block that the newest snapshot builds upon",
            ),
            flashblock_age: registry.histogram(
                "flashblock_age_seconds",
                "From publication by the sequencer until it is served",
                LATENCY_SECONDS,
            ),
        }
    }
}

/// Registers what this service counts, as it does when it serves: for documentation.
pub fn register(registry: &Registry) {
    let _ = Metrics::new(registry);
}
