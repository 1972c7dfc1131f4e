//! Spans, and where they go.
//!
//! Spans are exported over OTLP/gRPC only if the environment names a collector
//! (`OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`) and does not switch
//! them off (`OTEL_SDK_DISABLED`, `OTEL_TRACES_EXPORTER=none`); name, resource, sampling and
//! propagation follow `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER` (see
//! [`sampling`](crate::sampling)) and `OTEL_PROPAGATORS`. A span that ends is put into a queue of `OTEL_BSP_MAX_QUEUE_SIZE`
//! (2048), which a thread of its own empties; when the queue is full the span is dropped. So nobody
//! who works waits for a collector.
//!
//! Without a collector nothing is sampled that a caller has not sampled already, and the context of
//! such a caller is still passed on.
//!
//! Each layer has its own filter. A filter over the whole subscriber would also switch off the
//! spans below its level, and with them the propagation of context.

use std::{io, time::Duration};

use opentelemetry::{Key, Value, global, trace::TracerProvider};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracerProvider},
};
use tracing::{Level, Subscriber};
use tracing_subscriber::{
    Layer,
    filter::Targets,
    fmt::MakeWriter,
    layer::SubscriberExt,
    registry::Registry,
    util::{SubscriberInitExt, TryInitError},
};

use crate::{
    Exports, TelemetryArgs, environment::Environment, exports::Counted, faults::Faults, logs,
    propagation, sampling::Sampling,
};

/// Why a process cannot be observed as asked.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The exporter refused its settings, which come from `OTEL_EXPORTER_OTLP_*`.
    #[error("setting up the OTLP exporter from OTEL_EXPORTER_OTLP_*")]
    Exporter(#[source] ExporterBuildError),
    /// Spans are sent over gRPC, and another protocol is asked for.
    #[error("OTEL_EXPORTER_OTLP_PROTOCOL is {0}: only grpc is spoken")]
    Protocol(String),
    /// The process has a subscriber already.
    #[error("installing the log subscriber")]
    Install(#[source] TryInitError),
}

/// Holds the spans that are not yet exported.
///
/// Dropping it loses them; [`Guard::shutdown`] sends them first.
#[derive(Debug)]
#[must_use = "spans that were not flushed are lost"]
pub struct Guard {
    provider: SdkTracerProvider,
}

impl Guard {
    /// Sends what is left, for at most `timeout`. A collector that does not answer costs that much
    /// and no more.
    pub async fn shutdown(self, timeout: Duration) {
        let flush = tokio::task::spawn_blocking(move || {
            if let Err(error) = self.provider.shutdown_with_timeout(timeout) {
                tracing::warn!(%error, "spans were lost at shutdown");
            }
        });
        // The SDK keeps to the timeout; if it does not, the process ends all the same.
        let _ = tokio::time::timeout(timeout, flush).await;
    }
}

/// Installs logs and traces for the whole process.
///
/// Must be called inside a tokio runtime, which the exporter keeps using. What becomes of the spans is
/// counted in `exports`.
///
/// # Errors
///
/// If the exporter's environment is unusable, or if a subscriber was installed before.
pub fn init(
    service: &'static str,
    args: &TelemetryArgs,
    exports: &Exports,
) -> Result<Guard, TelemetryError> {
    let Environment { exports: is_exporting, propagates, sampling, ignored } = Environment::read()?;
    let sampling = is_exporting.then_some(sampling);
    let provider = provider(service, sampling, exports).map_err(TelemetryError::Exporter)?;
    propagation::decide(is_exporting, propagates);
    global::set_text_map_propagator(TraceContextPropagator::new());
    global::set_tracer_provider(provider.clone());
    subscriber(args, &provider, io::stderr).try_init().map_err(TelemetryError::Install)?;
    for (variable, value) in ignored {
        tracing::warn!(variable, value, "not understood, and as if it were not set");
    }
    Ok(Guard { provider })
}

/// Logs to `writer` and spans to `provider`, each behind its own filter.
pub(crate) fn subscriber<W>(
    args: &TelemetryArgs,
    provider: &SdkTracerProvider,
    writer: W,
) -> impl Subscriber + Send + Sync + use<W>
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    // Our own spans only: the exporter's client would otherwise trace its own requests.
    let ours = Targets::new().with_target("preconf", Level::DEBUG);
    let tracer = provider.tracer("preconf");
    let spans = tracing_opentelemetry::layer()
        .with_tracer(tracer.clone())
        .with_threads(false)
        .with_filter(ours.clone());
    let faults = Faults::new(tracer).with_filter(ours);
    Registry::default().with(spans).with(faults).with(logs::layer(args, writer))
}

/// Without sampling nothing is exported.
fn provider(
    service: &str,
    sampling: Option<Sampling>,
    exports: &Exports,
) -> Result<SdkTracerProvider, ExporterBuildError> {
    let builder = SdkTracerProvider::builder().with_resource(resource(service));
    let Some(sampling) = sampling else {
        let follow_the_caller = Sampler::ParentBased(Box::new(Sampler::AlwaysOff));
        return Ok(builder.with_sampler(follow_the_caller).build());
    };
    let exporter = SpanExporter::builder().with_tonic().build()?;
    let counted = Counted { exporter, exports: exports.clone() };
    Ok(builder.with_sampler(sampling).with_batch_exporter(counted).build())
}

/// What the environment says about this process; `service` is its name if the environment has none.
fn resource(service: &str) -> Resource {
    let detected = Resource::builder().build();
    match detected.get_ref(&Key::from_static_str("service.name")) {
        Some(Value::String(name)) if !name.as_str().starts_with("unknown_service") => detected,
        Some(_) | None => {
            Resource::builder().with_service_name(format!("preconf-{service}")).build()
        }
    }
}
