//! What an operator wants to know of a builder.

use std::time::Duration;

use preconf_assembly::{Completion, DropCause, Exhausted};
use preconf_primitives::{AbandonReason, Epoch, Flashblock, Retraction};
use preconf_telemetry::{
    Registry, Trace,
    metrics::{Counter, Family, Gauge, Histogram, LATENCY_SECONDS},
};

/// Counts of transactions in a flashblock.
const TRANSACTIONS: &[f64] = &[0., 1., 2., 5., 10., 20., 50., 100., 200., 500., 1000.];

/// Sizes of what is in a flashblock.
const BYTES: &[f64] = &[0., 1e3, 3e3, 1e4, 3e4, 1e5, 3e5, 1e6, 3e6, 1e7];

/// How late a cut is: fine below the 3 ms that are aimed at.
const LATENESS_SECONDS: &[f64] =
    &[0.000_1, 0.000_25, 0.000_5, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5];

/// How a build ended. Each build ends in exactly one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BuildEnd {
    /// Its block was sealed, after it was complete for this reason.
    Sealed(Completion),
    /// It followed another builder's block, and was not published here.
    Followed,
    /// It ended without a block of ours.
    Abandoned(AbandonReason),
    /// The state that its block opens with could not be read.
    NotOpened,
}

/// The metrics of a builder.
pub(crate) struct Metrics {
    flashblocks: Family<Counter, 1>,
    transactions: Histogram,
    bytes: Histogram,
    signing: Histogram,
    builds: Family<Counter, 1>,
    payloads: Family<Counter, 1>,
    sealing: Histogram,
    retractions: Family<Counter, 1>,
    lost_statements: Family<Counter, 2>,
    heads: Family<Counter, 1>,
    foreign_blocks: Family<Counter, 1>,
    submissions: Family<Counter, 2>,
    dropped: Family<Counter, 1>,
    shared: Family<Counter, 1>,
    epoch: Gauge,
    heard: Family<Counter, 1>,
    speculation: Histogram,
    late: Histogram,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Self {
        Self {
            flashblocks: registry.counters(
                "flashblocks",
                "Flashblocks published, by whether they end their session.",
                ["is_last"],
            ),
            transactions: registry.histogram(
                "flashblock_transactions",
                "Transactions in a flashblock.",
                TRANSACTIONS,
            ),
            bytes: registry.histogram(
                "flashblock_bytes",
                "Bytes of the transactions in a flashblock.",
                BYTES,
            ),
            signing: registry.histogram(
                "publish_seconds",
                "From a cut to its publication, signing included.",
                LATENCY_SECONDS,
            ),
            builds: registry.counters("builds", "Builds, by how they ended.", ["end"]),
            payloads: registry.counters(
                "payloads",
                "Answers to getPayload, by whose block it was.",
                ["source"],
            ),
            sealing: registry.histogram(
                "seal_seconds",
                "From the order to finish to a sealed block.",
                LATENCY_SECONDS,
            ),
            retractions: registry.counters(
                "retractions",
                "Preconfirmed transactions taken back, by cause.",
                ["cause"],
            ),
            lost_statements: registry.counters(
                "lost_statements",
                "Statements that the signer did not sign, by what they say and why not.",
                ["statement", "cause"],
            ),
            heads: registry.counters(
                "heads",
                "Heads moved to, by whether the chain was followed back to the head before.",
                ["followed"],
            ),
            foreign_blocks: registry.counters(
                "foreign_blocks",
                "Heads that were built by others, by whether the state in memory was kept.",
                ["kept"],
            ),
            submissions: registry.counters(
                "submissions",
                "Transactions offered to the pool, by where they came from and outcome.",
                ["source", "outcome"],
            ),
            dropped: registry.counters(
                "dropped_transactions",
                "Transactions that the pool let go without a block that holds them, by cause.",
                ["cause"],
            ),
            shared: registry.counters(
                "shared_transactions",
                "Transactions handed to the execution client's pool as well, by outcome.",
                ["outcome"],
            ),
            epoch: registry
                .gauge("lease_epoch", "The epoch of the lease held; 0 before the first."),
            speculation: registry.histogram(
                "speculation_seconds",
                "Executing a transaction ahead of any build, to read what it reads.",
                LATENCY_SECONDS,
            ),
            late: registry.histogram(
                "cut_late_seconds",
                "From the tick at which a flashblock was due to its cut.",
                LATENESS_SECONDS,
            ),
            heard: registry.counters(
                "heard",
                "Messages of the feed that a standby listened to, by what became of them.",
                ["outcome"],
            ),
        }
    }

    pub(crate) fn flashblock(&self, flashblock: &Flashblock, published_in: Duration) {
        let is_last = if flashblock.is_last() { "true" } else { "false" };
        self.flashblocks.get([is_last]).inc();
        self.transactions.observe(flashblock.transactions().len() as f64);
        let bytes = flashblock.transactions().iter().map(|encoded| encoded.len()).sum::<usize>();
        self.bytes.observe(bytes as f64);
        self.signing.observe(published_in.as_secs_f64());
    }

    pub(crate) fn retracted(&self, retractions: &[Retraction]) {
        for retraction in retractions {
            self.retractions.get([retraction.cause.as_str()]).inc();
        }
    }

    pub(crate) fn lost_statement(&self, statement: &'static str, cause: &'static str) {
        self.lost_statements.get([statement, cause]).inc();
    }

    pub(crate) fn head(&self, is_followed: bool) {
        self.heads.get([if is_followed { "true" } else { "false" }]).inc();
    }

    pub(crate) fn foreign_block(&self, is_kept: bool) {
        self.foreign_blocks.get([if is_kept { "true" } else { "false" }]).inc();
    }

    pub(crate) fn build_ended(&self, end: BuildEnd) {
        let label = match end {
            BuildEnd::Sealed(Completion::Requested) => "sealed_on_request",
            BuildEnd::Sealed(Completion::Exhausted(Exhausted::Deadline)) => "sealed_at_deadline",
            BuildEnd::Sealed(Completion::Exhausted(Exhausted::GasLimit)) => "sealed_at_gas_limit",
            BuildEnd::Sealed(Completion::Exhausted(Exhausted::ByteLimit)) => "sealed_at_byte_limit",
            BuildEnd::Followed => "followed",
            BuildEnd::Abandoned(reason) => reason.as_str(),
            BuildEnd::NotOpened => "not_opened",
        };
        self.builds.get([label]).inc();
    }

    pub(crate) fn sealed(&self, took: Duration) {
        self.sealing.observe(took.as_secs_f64());
    }

    pub(crate) fn payload(&self, source: &'static str) {
        self.payloads.get([source]).inc();
    }

    pub(crate) fn submission(&self, source: &'static str, outcome: &'static str) {
        self.submissions.get([source, outcome]).inc();
    }

    pub(crate) fn dropped(&self, cause: DropCause, count: u64) {
        self.dropped.get([cause.as_str()]).inc_by(count);
    }

    pub(crate) fn shared(&self, outcome: &'static str) {
        self.shared.get([outcome]).inc();
    }

    pub(crate) fn speculated(&self, took: Duration) {
        self.speculation.observe(took.as_secs_f64());
    }

    pub(crate) fn cut(&self, late: Duration, build: &Trace) {
        self.late.observe_in(late.as_secs_f64(), build);
    }

    pub(crate) fn heard(&self, outcome: &'static str) {
        self.heard.get([outcome]).inc();
    }

    pub(crate) fn epoch(&self, epoch: Epoch) {
        self.epoch.set(i64::try_from(epoch.get()).unwrap_or(i64::MAX));
    }
}

/// Registers what this service counts, as it does when it serves: for documentation.
pub fn register(registry: &Registry) {
    let _ = Metrics::new(registry);
    preconf_engine_door::register_metrics(registry);
}
