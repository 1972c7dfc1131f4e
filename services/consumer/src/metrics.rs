//! What an operator wants to know of a consumer.

use preconf_pending::{Audit, snapshot::Update};
use preconf_telemetry::{
    Registry,
    metrics::{Counter, Family, Gauge, Histogram, LATENCY_SECONDS},
};

/// Buckets for work on one flashblock, in seconds.
const WORK_SECONDS: &[f64] =
    &[0.000_1, 0.000_25, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0];

/// The metrics of a consumer.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    pub(crate) feed_connected: Gauge,
    pub(crate) feed_disconnected: Family<Counter, 1>,
    /// Messages that have no meaning or are not signed.
    pub(crate) invalid: Family<Counter, 1>,
    /// Flashblocks taken although their payload id does not bind them.
    pub(crate) unbound: Counter,
    pub(crate) verify_seconds: Histogram,
    /// Verified flashblocks, by what became of them.
    pub(crate) flashblocks: Family<Counter, 1>,
    pub(crate) statements: Family<Counter, 2>,
    pub(crate) replays: Counter,
    pub(crate) executed: Counter,
    pub(crate) transactions: Counter,
    pub(crate) execution_seconds: Histogram,
    /// From publication by the sequencer to the snapshot that shows it.
    pub(crate) age_seconds: Histogram,
    /// Sessions that were executed no further.
    pub(crate) refused: Family<Counter, 1>,
    pub(crate) state_reads: Family<Counter, 1>,
    pub(crate) state_keys: Counter,
    pub(crate) state_seconds: Histogram,
    pub(crate) heads: Family<Counter, 1>,
    pub(crate) head_number: Gauge,
    pub(crate) head_lag_blocks: Gauge,
    promises: Family<Counter, 1>,
    retractions: Family<Counter, 1>,
    snapshot_id: Gauge,
    pub(crate) pending_depth: Gauge,
    pub(crate) sessions: Gauge,
    pub(crate) session_bytes: Gauge,
    pub(crate) overlays: Gauge,
    pub(crate) overlays_dropped: Counter,
    pub(crate) overlays_refused: Counter,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Self {
        let counter = |name, help| registry.counter(name, help);
        let gauge = |name, help| registry.gauge(name, help);
        let by = |name, help, label| registry.counters(name, help, [label]);
        Self {
            feed_connected: gauge("feed_connected", "Whether there is a connection to the feed"),
            feed_disconnected: by("feed_disconnected", "Ends of connections to the feed", "reason"),
            invalid: by("invalid", "Messages dropped unverified", "reason"),
            unbound: counter(
                "unbound",
                "First flashblocks taken although their payload id does not bind their base",
            ),
            verify_seconds: registry.histogram(
                "verify_seconds",
                "Checking the seal of a message and recovering the senders in it",
                WORK_SECONDS,
            ),
            flashblocks: by("flashblocks", "Verified flashblocks, by what they were", "reception"),
            statements: registry.counters(
                "statements",
                "Verified statements about sessions, by what they were",
                ["kind", "reception"],
            ),
            replays: counter("replays", "Replays asked for because something was missing"),
            executed: counter("executed", "Flashblocks executed"),
            transactions: counter("transactions", "Transactions executed"),
            execution_seconds: registry.histogram(
                "execution_seconds",
                "Executing a flashblock, without waiting for state",
                WORK_SECONDS,
            ),
            age_seconds: registry.histogram(
                "age_seconds",
                "From a flashblock's publication to the snapshot that shows it",
                LATENCY_SECONDS,
            ),
            refused: by("refused", "Sessions that were executed no further", "reason"),
            state_reads: by("state_reads", "Reads of state that execution waited for", "outcome"),
            state_keys: counter("state_keys", "Accounts, slots and codes read"),
            state_seconds: registry.histogram(
                "state_seconds",
                "Waiting for state that was not in memory",
                LATENCY_SECONDS,
            ),
            heads: by("heads", "Canonical blocks, by what they were to us", "relation"),
            head_number: gauge("head_number", "The number of the canonical head"),
            head_lag_blocks: gauge(
                "head_lag_blocks",
                "How many blocks the sequencer is ahead of the canonical head",
            ),
            promises: by("promises", "Preconfirmed transactions, by how they ended", "end"),
            retractions: by("retractions", "Retractions told to overlays", "cause"),
            snapshot_id: gauge("snapshot_id", "The number of the newest snapshot"),
            pending_depth: gauge("pending_depth", "How many blocks are pending"),
            sessions: gauge("sessions", "Sessions held"),
            session_bytes: gauge("session_bytes", "Bytes of transactions in sessions held"),
            overlays: gauge("overlays", "Overlays that follow"),
            overlays_dropped: counter("overlays_dropped", "Overlays let go as too slow"),
            overlays_refused: counter("overlays_refused", "Overlays for which there was no room"),
        }
    }

    /// Counts how promises ended.
    pub(crate) fn audited(&self, audit: Audit) {
        let Audit { kept, altered, moved, missing, retracted, unknown } = audit;
        for (end, count) in [
            ("kept", kept),
            ("altered", altered),
            ("moved", moved),
            ("missing", missing),
            ("retracted", retracted),
            ("unknown", unknown),
        ] {
            self.promises.get([end]).inc_by(count);
        }
    }

    /// Counts what overlays are told.
    pub(crate) fn published(&self, update: &Update) {
        self.snapshot_id.set(as_gauge(update.snapshot_id));
        self.pending_depth.set(as_gauge(update.chain.len() as u64));
        for retraction in &update.retracted {
            self.retractions.get([retraction.cause.as_str()]).inc();
        }
    }
}

pub(crate) fn as_gauge(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Registers what this service counts, as it does when it serves: for documentation.
pub fn register(registry: &Registry) {
    let _ = Metrics::new(registry);
}
