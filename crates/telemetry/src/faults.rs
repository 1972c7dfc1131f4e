//! Faults as spans.
//!
//! A warning or an error of ours becomes a span of no length, a child of the span that it was logged
//! in. It is kept even if nothing else of its trace is, so whatever share of traces is sampled, what
//! went wrong is found among them, under the trace id that the log line carries.

use std::fmt;

use opentelemetry::{
    Context, KeyValue,
    trace::{Span as _, SpanBuilder, Status, Tracer},
};
use opentelemetry_sdk::trace::SdkTracer;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer};

use crate::sampling::FAULT;

/// How much of a field is kept.
const MAX_VALUE_BYTES: usize = 512;
/// How many fields are.
const MAX_FIELDS: usize = 16;

/// Makes spans of faults.
pub(crate) struct Faults {
    tracer: SdkTracer,
}

impl Faults {
    pub(crate) const fn new(tracer: SdkTracer) -> Self {
        Self { tracer }
    }
}

impl<S: Subscriber> Layer<S> for Faults {
    fn on_event(&self, event: &Event<'_>, _: layer::Context<'_, S>) {
        let metadata = event.metadata();
        if *metadata.level() > Level::WARN {
            return;
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        let Fields { message, mut attributes } = fields;
        attributes.push(KeyValue::new(FAULT, true));
        attributes.push(KeyValue::new("log.level", metadata.level().as_str()));
        attributes.push(KeyValue::new("code.namespace", metadata.target()));
        let fault = SpanBuilder::from_name("fault").with_attributes(attributes);
        let mut fault = self.tracer.build_with_context(fault, &Context::current());
        fault.set_status(Status::error(message));
        fault.end();
    }
}

/// What an event says.
#[derive(Default)]
struct Fields {
    message: String,
    attributes: Vec<KeyValue>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = format!("{value:?}");
        if text.len() > MAX_VALUE_BYTES {
            text.truncate(text.floor_char_boundary(MAX_VALUE_BYTES));
        }
        if field.name() == "message" {
            self.message = text;
        } else if self.attributes.len() < MAX_FIELDS {
            self.attributes.push(KeyValue::new(field.name(), text));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}
