//! What an operator wants to know of a sidecar.

use std::time::Duration;

use preconf_telemetry::{
    Registry,
    metrics::{Counter, Family, Gauge, Histogram, LATENCY_SECONDS},
};
use tracing::Span;

/// The metrics of a sidecar.
#[derive(Debug)]
pub(crate) struct Metrics {
    payloads: Family<Counter, 1>,
    fetches: Family<Counter, 1>,
    refusals: Family<Counter, 1>,
    fallbacks: Family<Counter, 1>,
    choice: Histogram,
    pub(crate) sequencers_lost: Gauge,
    /// Files that were read anew, by file and outcome.
    pub(crate) reloaded: Family<Counter, 2>,
}

/// How a request to a sequencer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// With a payload.
    Fetched,
    /// Without an answer.
    Unavailable,
    /// It has none.
    NotFound,
    /// It refuses, or what it says cannot be read.
    Refused,
}

impl Outcome {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Fetched => "ok",
            Self::Unavailable => "unavailable",
            Self::NotFound => "not_found",
            Self::Refused => "refused",
        }
    }
}

/// Whose payload a consensus client got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Sequencer,
    ExecutionClient,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Self {
        Self {
            payloads: registry.counters(
                "payloads",
                "Answers to getPayload, by whose block it was.",
                ["source"],
            ),
            fetches: registry.counters(
                "fetches",
                "Requests to sequencers, by how they ended.",
                ["outcome"],
            ),
            refusals: registry.counters(
                "refusals",
                "Payloads that were fetched and not handed out, by why.",
                ["reason"],
            ),
            fallbacks: registry.counters(
                "fallbacks",
                "Blocks left to the execution client, by why.",
                ["reason"],
            ),
            choice: registry.histogram(
                "choice_seconds",
                "From getPayload until it was chosen whose payload it is.",
                LATENCY_SECONDS,
            ),
            sequencers_lost: registry
                .gauge("sequencers_lost", "Sequencers that do not answer and are left alone."),
            reloaded: registry.counters(
                "files_reloaded",
                "Files that were read anew.",
                ["file", "outcome"],
            ),
        }
    }

    pub(crate) fn fetch(&self, outcome: Outcome) {
        self.fetches.get([outcome.as_str()]).inc();
    }

    pub(crate) fn refused(&self, reason: &'static str) {
        self.refusals.get([reason]).inc();
    }

    pub(crate) fn fallback(&self, reason: &'static str) {
        self.fallbacks.get([reason]).inc();
    }

    /// Within the span of the call.
    pub(crate) fn chosen(&self, source: Source, within: Duration) {
        let source = match source {
            Source::Sequencer => "sequencer",
            Source::ExecutionClient => "execution_client",
        };
        self.payloads.get([source]).inc();
        Span::current().record("source", source);
        self.choice.observe(within.as_secs_f64());
    }
}

/// Registers what this service counts, as it does when it serves: for documentation.
pub fn register(registry: &Registry) {
    let _ = Metrics::new(registry);
    preconf_engine_door::register_metrics(registry);
}
