//! Logs, traces and metrics of a process.
//!
//! Decides how a process is observed: log lines go to stderr, spans go to an OpenTelemetry collector
//! when the environment names one, numbers are read from a [`Registry`]. Trace context is carried
//! between processes whether or not this process exports, and whatever the log filter says.
//!
//! Invariants: the log filter never decides what is traced; a span's remote parent is set before
//! the span is entered; a metric's labels are constants.
//!
//! This is the only crate that names opentelemetry. It knows nothing of blocks or flashblocks, it
//! opens no listening socket, and it never ends the process.

pub mod args;
mod environment;
mod exports;
mod faults;
pub mod limit;
mod logs;
pub mod metrics;
pub mod propagation;
mod sampling;
#[cfg(test)]
mod testing;
pub mod trace;
mod traces;
mod version;

pub use args::{LogFilter, LogFormat, TelemetryArgs};
pub use exports::Exports;
pub use limit::LogLimit;
pub use metrics::Registry;
pub use propagation::{
    ExtractContext, Propagate, current_traceparent, inject, inject_headers, span_with_headers,
    span_with_parent,
};
pub use trace::{Remembered, Trace};
pub use traces::{Guard, TelemetryError, init};
pub use version::version;
