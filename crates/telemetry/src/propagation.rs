//! Trace context between processes, as W3C `traceparent` and `tracestate`.
//!
//! A request carries it in its metadata: [`Propagate`] writes it in the client, [`ExtractContext`]
//! reads it in the server; over plain HTTP [`inject_headers`] and [`span_with_headers`] do. The items of a stream are polled outside the request that opened it, so
//! there it travels inside the message: [`current_traceparent`] and [`span_with_parent`].
//!
//! A remote parent is set before the span is entered, because it cannot be changed afterwards.
//! A malformed context is ignored, never an error: it comes from a peer and means nothing to us.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context as Poller, Poll},
};

use http::{HeaderMap, HeaderValue, Request};
use opentelemetry::{
    Context,
    propagation::{Extractor, TextMapPropagator},
    trace::{SpanContext, TraceContextExt},
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tonic::metadata::MetadataMap;
use tower::{Layer, Service};
use tracing::{Instrument, Span, instrument::Instrumented};
use tracing_opentelemetry::OpenTelemetrySpanExt;

const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

static W3C: LazyLock<TraceContextPropagator> = LazyLock::new(TraceContextPropagator::new);

/// Whether this process decides which traces are sampled. One that does not export has no opinion:
/// if it said "not sampled", the processes behind it would believe it.
static DECIDES_SAMPLING: AtomicBool = AtomicBool::new(true);

/// Whether context is taken from other processes and given to them.
static PROPAGATES: AtomicBool = AtomicBool::new(true);

pub(crate) fn decide(decides_sampling: bool, propagates: bool) {
    DECIDES_SAMPLING.store(decides_sampling, Ordering::Relaxed);
    PROPAGATES.store(propagates, Ordering::Relaxed);
}

/// Writes the context of the current span into the metadata of a request.
pub fn inject(metadata: &mut MetadataMap) {
    inject_headers(metadata.as_mut());
}

/// Writes the context of the current span into the headers of a request.
pub fn inject_headers(headers: &mut HeaderMap) {
    let Some(span) = current_span().filter(|_| PROPAGATES.load(Ordering::Relaxed)) else { return };
    if !span.is_sampled() && !DECIDES_SAMPLING.load(Ordering::Relaxed) {
        return;
    }
    if let Ok(traceparent) = HeaderValue::try_from(traceparent(&span)) {
        headers.insert(TRACEPARENT, traceparent);
    }
    let state = span.trace_state().header();
    if let (false, Ok(state)) = (state.is_empty(), HeaderValue::try_from(state)) {
        headers.insert(TRACESTATE, state);
    }
}

/// The W3C `traceparent` of the current span, if its trace is sampled and may be known to others.
#[must_use]
pub fn current_traceparent() -> Option<String> {
    let span = current_sampled().filter(|_| PROPAGATES.load(Ordering::Relaxed));
    span.map(|span| traceparent(&span))
}

/// Makes `span` a child of the remote span that the headers of a request name, and says whether it
/// did; see [`span_with_parent`].
pub fn span_with_headers(span: &Span, headers: &HeaderMap) -> bool {
    adopt(span, &Headers(headers))
}

/// Makes `span` a child of the remote span that `traceparent` names, and says whether it did.
///
/// Call it before the span is first entered; afterwards, or if `traceparent` is malformed, the span
/// stays where it was.
pub fn span_with_parent(span: &Span, traceparent: &str) -> bool {
    adopt(span, &Message { traceparent })
}

fn adopt(span: &Span, carrier: &dyn Extractor) -> bool {
    if !PROPAGATES.load(Ordering::Relaxed) {
        return false;
    }
    let parent = W3C.extract_with_context(&Context::new(), carrier);
    parent.span().span_context().is_valid() && span.set_parent(parent).is_ok()
}

/// The current span, if it is part of a trace that somebody records.
pub(crate) fn current_sampled() -> Option<SpanContext> {
    current_span().filter(SpanContext::is_sampled)
}

/// The trace that a line of this level is logged under: one that somebody records, or that holds a
/// span for this very line because it tells of a fault.
pub(crate) fn current_logged(level: tracing::Level) -> Option<SpanContext> {
    let is_fault = level <= tracing::Level::WARN && DECIDES_SAMPLING.load(Ordering::Relaxed);
    current_span().filter(|span| span.is_sampled() || is_fault)
}

pub(crate) fn current_span() -> Option<SpanContext> {
    Context::map_current(|context| {
        let span = context.span();
        span.span_context().is_valid().then(|| span.span_context().clone())
    })
}

fn traceparent(span: &SpanContext) -> String {
    format!("00-{}-{}-{:02x}", span.trace_id(), span.span_id(), u8::from(span.is_sampled()))
}

/// A client interceptor that sends the caller's trace context with each request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Propagate;

impl tonic::service::Interceptor for Propagate {
    fn call(
        &mut self,
        mut request: tonic::Request<()>,
    ) -> Result<tonic::Request<()>, tonic::Status> {
        inject(request.metadata_mut());
        Ok(request)
    }
}

/// A server layer that runs each request in a span named after its path, as a child of the
/// caller's span.
///
/// The span covers the handler. It does not cover the messages of a streaming response.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExtractContext;

impl<S> Layer<S> for ExtractContext {
    type Service = InContext<S>;

    fn layer(&self, inner: S) -> InContext<S> {
        InContext { inner }
    }
}

/// The service that [`ExtractContext`] makes.
#[derive(Clone, Debug)]
pub struct InContext<S> {
    inner: S,
}

impl<S, B> Service<Request<B>> for InContext<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Instrumented<S::Future>;

    fn poll_ready(&mut self, poller: &mut Poller<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(poller)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let path = request.uri().path().trim_start_matches('/');
        let span = tracing::info_span!("grpc", otel.name = path, otel.kind = "server");
        span_with_headers(&span, request.headers());
        let response = span.in_scope(|| self.inner.call(request));
        response.instrument(span)
    }
}

struct Message<'a> {
    traceparent: &'a str,
}

impl Extractor for Message<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        (key == TRACEPARENT).then_some(self.traceparent)
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT]
    }
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        future::Ready,
        io,
        sync::{Arc, Mutex},
    };

    use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
    use tonic::service::Interceptor;
    use tower::ServiceExt;

    use super::*;
    use crate::{LogFormat, TelemetryArgs, traces};

    const REMOTE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const REMOTE_TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn what_a_client_sends_a_server_continues() {
        observed(&TelemetryArgs::default(), Sampler::AlwaysOn, || {
            let client = tracing::info_span!("client");
            let (sent, metadata) = client.in_scope(|| {
                let request = Propagate.call(tonic::Request::new(())).unwrap();
                (current_traceparent().unwrap(), request.into_parts().0)
            });

            let seen = serve(metadata.into_headers()).unwrap();

            assert_eq!(trace_of(&seen), trace_of(&sent));
            assert_ne!(seen, sent, "the server has a span of its own");
        });
    }

    #[test]
    fn a_log_filter_of_warn_does_not_break_propagation() {
        let args = TelemetryArgs { log_filter: "warn".parse().unwrap(), ..Default::default() };
        observed(&args, Sampler::AlwaysOn, || {
            let seen = serve(headers(REMOTE)).unwrap();

            assert_eq!(trace_of(&seen), REMOTE_TRACE);
        });
    }

    #[test]
    fn without_an_exporter_a_sampled_caller_is_followed_and_nothing_else_is_sampled() {
        let sampler = Sampler::ParentBased(Box::new(Sampler::AlwaysOff));
        observed(&TelemetryArgs::default(), sampler, || {
            assert_eq!(trace_of(&serve(headers(REMOTE)).unwrap()), REMOTE_TRACE);
            assert_eq!(serve(HeaderMap::new()), None);
        });
    }

    #[test]
    fn context_travels_inside_a_message() {
        observed(&TelemetryArgs::default(), Sampler::AlwaysOn, || {
            let span = tracing::info_span!("flashblock");

            assert!(span_with_parent(&span, REMOTE));

            let inside = span.in_scope(current_traceparent).unwrap();
            assert_eq!(trace_of(&inside), REMOTE_TRACE);
        });
    }

    #[test]
    fn a_malformed_context_is_ignored() {
        observed(&TelemetryArgs::default(), Sampler::AlwaysOn, || {
            for malformed in ["", "00-", "00-xyz-00f067aa0ba902b7-01", &REMOTE.replace('4', "0é")]
            {
                let span = tracing::info_span!("flashblock");
                assert!(!span_with_parent(&span, malformed), "{malformed}");
            }
        });
    }

    #[test]
    fn a_parent_cannot_be_set_once_the_span_was_entered() {
        observed(&TelemetryArgs::default(), Sampler::AlwaysOn, || {
            let span = tracing::info_span!("flashblock");
            span.in_scope(|| ());

            assert!(!span_with_parent(&span, REMOTE));
        });
    }

    #[test]
    fn a_log_line_in_a_sampled_span_names_its_trace() {
        for log_format in [LogFormat::Text, LogFormat::Json] {
            let args = TelemetryArgs { log_format, ..Default::default() };
            let lines = observed(&args, Sampler::AlwaysOn, || {
                let span = tracing::info_span!("flashblock");
                span_with_parent(&span, REMOTE);
                span.in_scope(|| tracing::info!(index = 3, "flashblock published"));
                tracing::info!("outside");
            });

            let (inside, outside) = lines.split_once('\n').unwrap();
            assert!(inside.contains(REMOTE_TRACE), "{inside}");
            assert!(!outside.contains("trace_id"), "{outside}");
            if log_format == LogFormat::Json {
                assert!(inside.starts_with('{') && inside.ends_with("\"}"), "{inside}");
                assert!(inside.contains(r#""message":"flashblock published","index":3"#));
            }
        }
    }

    /// Runs `scene` under a subscriber of its own and returns what was logged.
    fn observed(args: &TelemetryArgs, sampler: Sampler, scene: impl FnOnce()) -> String {
        let provider = SdkTracerProvider::builder().with_sampler(sampler).build();
        let lines = Lines::default();
        let written = lines.clone();
        let subscriber = traces::subscriber(args, &provider, move || written.clone());
        tracing::subscriber::with_default(subscriber, scene);
        String::from_utf8(lines.0.lock().unwrap().clone()).unwrap()
    }

    /// Sends one request through the server layer; returns the context its handler saw.
    fn serve(headers: HeaderMap) -> Option<String> {
        let handler = tower::service_fn(|_: Request<()>| -> Ready<Result<_, Infallible>> {
            std::future::ready(Ok(current_traceparent()))
        });
        let mut request = Request::new(());
        *request.uri_mut() = http::Uri::from_static("/preconf.feed.v1.Feed/Subscribe");
        *request.headers_mut() = headers;
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(ExtractContext.layer(handler).oneshot(request)).unwrap()
    }

    fn headers(traceparent: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(
            http::HeaderName::from_static(TRACEPARENT),
            http::HeaderValue::from_static(traceparent),
        )])
    }

    fn trace_of(traceparent: &str) -> &str {
        traceparent.split('-').nth(1).unwrap()
    }

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}
