//! What an operator wants to know of a sidecar.

use std::time::Duration;

use preconf_telemetry::{
    Registry,
    metrics::{Counter, Family, Gauge, Histogram, LATENCY_SECONDS},
};

/// The metrics of a sidecar.
#[derive(Debug)]
pub(crate) struct Metrics {
    payloads: Family<Counter, 1>,
    fetches: Family<Counter, 1>,
    refusals: Family<Counter, 1>,
    fallbacks: Family<Counter, 1>,
    choice: Histogram,
    pub(crate) sequencers_lost: Gauge,
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

/// Whose payload a consensus client got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Sequencer,
    ExecutionClient,
    /// The execution client's too, but it was too slow to be asked ahead.
    Forwarded,
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
                "From getPayload to the payload that was chosen.",
                LATENCY_SECONDS,
            ),
            sequencers_lost: registry
                .gauge("sequencers_lost", "Sequencers that do not answer and are left alone."),
        }
    }

    pub(crate) fn fetch(&self, outcome: Outcome) {
        let outcome = match outcome {
            Outcome::Fetched => "ok",
            Outcome::Unavailable => "unavailable",
            Outcome::NotFound => "not_found",
            Outcome::Refused => "refused",
        };
        self.fetches.get([outcome]).inc();
    }

    pub(crate) fn refused(&self, reason: &'static str) {
        self.refusals.get([reason]).inc();
    }

    pub(crate) fn fallback(&self, reason: &'static str) {
        self.fallbacks.get([reason]).inc();
    }

    pub(crate) fn chosen(&self, source: Source, within: Duration) {
        let source = match source {
            Source::Sequencer => "sequencer",
            Source::ExecutionClient => "execution_client",
            Source::Forwarded => "forwarded",
        };
        self.payloads.get([source]).inc();
        self.choice.observe(within.as_secs_f64());
    }
}

/// Registers what this service counts, as it does when it serves: for documentation.
pub fn register(registry: &Registry) {
    let _ = Metrics::new(registry);
    preconf_engine_door::register_metrics(registry);
}
