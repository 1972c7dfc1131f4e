//! What the gateway counts.

use preconf_telemetry::{
    Registry,
    metrics::{Counter, Family, Gauge, Histogram, LATENCY_SECONDS},
};
use preconf_wire::feed::FeedItem;

/// Buckets for the time from receipt to the last reader's queue, in seconds.
const FANOUT_SECONDS: &[f64] =
    &[0.000_5, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0];

/// The metrics of a gateway.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    /// Readers that are being served, by what they read with.
    pub(crate) readers: Family<Gauge, 1>,
    /// Readers that were taken.
    pub(crate) accepted: Family<Counter, 1>,
    /// Readers that were not, by reason.
    pub(crate) refused: Family<Counter, 1>,
    /// Readers that are gone, by reason; `too_slow` are those that lagged.
    pub(crate) ended: Family<Counter, 1>,
    /// Readers that wanted more replayed than their source is given, by what became of them.
    pub(crate) over_budget: Family<Counter, 1>,
    pub(crate) replayed_bytes: Counter,
    /// Messages served, by kind.
    pub(crate) served: Family<Counter, 1>,
    /// Good messages not served, by reason.
    pub(crate) dropped: Family<Counter, 1>,
    /// Bad messages, by reason.
    pub(crate) invalid: Family<Counter, 1>,
    /// Connections to the upstream that ended, by reason.
    pub(crate) disconnected: Family<Counter, 1>,
    pub(crate) upstream_connected: Gauge,
    pub(crate) fanout_seconds: Histogram,
    pub(crate) age_seconds: Histogram,
    pub(crate) window_messages: Gauge,
    pub(crate) window_bytes: Gauge,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Self {
        let family = |name, help, label| registry.counters(name, help, [label]);
        let readers = registry.gauges("readers", "Readers that are being served", ["via"]);
        // An autoscaler takes a gateway that says nothing for one that is full.
        let _ = readers.get(["websocket"]);
        Self {
            readers,
            accepted: family("readers_accepted", "Readers that were taken", "via"),
            refused: family("readers_refused", "Readers that were not taken", "reason"),
            ended: family("readers_ended", "Readers that are gone", "reason"),
            over_budget: family(
                "readers_over_budget",
                "Readers whose source had no budget left for a replay",
                "outcome",
            ),
            replayed_bytes: registry.counter("replayed_bytes", "Bytes replayed to newcomers"),
            served: family("messages_served", "Messages given to all readers", "kind"),
            dropped: family("messages_dropped", "Good messages that were not served", "reason"),
            invalid: family("messages_invalid", "Messages that must not be served", "reason"),
            disconnected: family(
                "upstream_disconnected",
                "Ended connections and failed attempts",
                "reason",
            ),
            upstream_connected: registry.gauge("upstream_connected", "Whether the feed is there"),
            fanout_seconds: registry.histogram(
                "fanout_seconds",
                "From receipt of a message until it is queued for all readers",
                FANOUT_SECONDS,
            ),
            age_seconds: registry.histogram(
                "flashblock_age_seconds",
                "From publication by the sequencer until queued for all readers",
                LATENCY_SECONDS,
            ),
            window_messages: registry.gauge("window_messages", "Messages kept for replay"),
            window_bytes: registry.gauge("window_bytes", "Bytes kept for replay"),
        }
    }
}

/// The label of a message's kind.
pub(crate) const fn kind(item: &FeedItem) -> &'static str {
    match item {
        FeedItem::Flashblock(_) => "flashblock",
        FeedItem::Abandoned(_) => "abandoned",
        FeedItem::Sealed(_) => "sealed",
        FeedItem::Retracted(_) => "retracted",
        FeedItem::Gap { .. } => "gap",
        FeedItem::Goodbye { .. } => "goodbye",
    }
}

/// A reader in the gauge, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Counted(Gauge);

impl Counted {
    pub(crate) fn new(metrics: &Metrics, via: &'static str) -> Self {
        metrics.accepted.get([via]).inc();
        let gauge = metrics.readers.get([via]);
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Registers what this service counts, as it does when it serves: for documentation.
pub fn register(registry: &Registry) {
    let _ = Metrics::new(registry);
}

#[cfg(test)]
mod tests {
    use preconf_chassis::Context;

    use super::*;

    #[test]
    fn a_gateway_without_readers_says_that_there_are_none() {
        let registry = Context::for_test().registry;
        register(&registry);
        let metrics = registry.encode();
        assert!(
            metrics.lines().any(|line| line.ends_with(r#"_readers{via="websocket"} 0"#)),
            "{metrics}"
        );
    }
}
