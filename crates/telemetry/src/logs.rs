//! Log lines.
//!
//! A line written inside a sampled span says which trace it belongs to, so that logs and traces of
//! several processes can be read side by side. Everything goes to the writer it was given (stderr
//! in a process), filtered by this layer's own filter.

use std::{fmt, io::IsTerminal};

use tracing::{Event, Subscriber};
use tracing_subscriber::{
    Layer,
    fmt::{
        FmtContext, FormatEvent, FormatFields, MakeWriter,
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    registry::LookupSpan,
};

use crate::{LogFormat, TelemetryArgs, propagation};

/// Builds the layer that writes log lines.
pub(crate) fn layer<S, W>(args: &TelemetryArgs, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let filter = args.log_filter.compile();
    match args.log_format {
        LogFormat::Text => lines
            .with_ansi(std::io::stderr().is_terminal())
            .with_timer(TimeAndTrace)
            .with_filter(filter)
            .boxed(),
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .map_event_format(JsonWithTrace)
            .with_filter(filter)
            .boxed(),
    }
}

/// The timestamp of a text line, followed by the trace if there is one.
struct TimeAndTrace;

impl FormatTime for TimeAndTrace {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        SystemTime.format_time(writer)?;
        match propagation::current_sampled() {
            Some(span) => {
                write!(writer, " trace_id={} span_id={}", span.trace_id(), span.span_id())
            }
            None => Ok(()),
        }
    }
}

/// A JSON line with two more keys when there is a trace.
struct JsonWithTrace<F>(F);

impl<S, N, F> FormatEvent<S, N> for JsonWithTrace<F>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Some(span) = propagation::current_logged(*event.metadata().level()) else {
            return self.0.format_event(context, writer, event);
        };
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        let open = line.trim_end().strip_suffix('}').ok_or(fmt::Error)?;
        let (trace_id, span_id) = (span.trace_id(), span.span_id());
        writeln!(writer, r#"{open},"trace_id":"{trace_id}","span_id":"{span_id}"}}"#)
    }
}
