//! How many spans reached the collector.
//!
//! A span that is not exported costs nobody who works anything, so nobody would notice. What is
//! dropped before, because the queue is full, is not counted here: it follows exports that fail or
//! are slow.

use std::time::Duration;

use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{SpanData, SpanExporter},
};

use crate::{
    Registry,
    metrics::{Counter, Family},
};

/// What became of the spans that were given to the exporter. Clones share it.
#[derive(Clone, Debug)]
pub struct Exports(Family<Counter, 1>);

impl Exports {
    /// Registers the counter.
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        let help = "Spans given to the collector, by whether it took them";
        Self(registry.counters("spans_exported", help, ["outcome"]))
    }

    fn count(&self, spans: usize, result: &OTelSdkResult) {
        let outcome = if result.is_ok() { "ok" } else { "failed" };
        self.0.get([outcome]).inc_by(spans as u64);
    }
}

/// An exporter whose spans are counted.
#[derive(Debug)]
pub(crate) struct Counted<E> {
    pub(crate) exporter: E,
    pub(crate) exports: Exports,
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let result = self.exporter.export(batch).await;
        self.exports.count(spans, &result);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{Tracer, TracerProvider};
    use opentelemetry_sdk::{error::OTelSdkError, trace::SdkTracerProvider};

    use super::*;

    /// Takes the spans whose name it is.
    #[derive(Debug)]
    struct Takes(&'static str);

    impl SpanExporter for Takes {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            match batch.iter().all(|span| span.name == self.0) {
                true => Ok(()),
                false => Err(OTelSdkError::InternalFailure("not taken".to_owned())),
            }
        }
    }

    #[test]
    fn spans_are_counted_by_whether_they_were_taken() {
        let registry = Registry::new("test");
        let counted = Counted { exporter: Takes("wanted"), exports: Exports::new(&registry) };
        let provider = SdkTracerProvider::builder().with_simple_exporter(counted).build();
        let tracer = provider.tracer("test");
        for name in ["wanted", "other", "wanted"] {
            drop(tracer.start(name));
        }
        let text = registry.encode();
        for line in [
            "preconf_test_spans_exported_total{outcome=\"ok\"} 2\n",
            "preconf_test_spans_exported_total{outcome=\"failed\"} 1\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
