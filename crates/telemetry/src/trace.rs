//! Traces that are carried by hand, where no call and no message carries them.
//!
//! A task that works on a queue, or a table that is asked later, keeps the [`Trace`] of what it was
//! given, and makes its own spans children of it.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    sync::{Mutex, PoisonError},
};

use opentelemetry::{
    Context,
    trace::{SpanContext, TraceContextExt},
};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::propagation::current_span;

/// A place in a trace: what a later span can be a child of. The default is no place.
#[derive(Clone, Debug, Default)]
pub struct Trace(Option<SpanContext>);

impl Trace {
    /// Where the current span is.
    #[must_use]
    pub fn current() -> Self {
        Self(current_span())
    }

    /// Where `span` is. It begins now, if it has not yet.
    #[must_use]
    pub fn of(span: &Span) -> Self {
        span.in_scope(Self::current)
    }

    /// Whether it is recorded.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.0.as_ref().is_some_and(SpanContext::is_sampled)
    }

    /// The id of its trace, if that is recorded.
    pub(crate) fn sampled_id(&self) -> Option<String> {
        self.0.as_ref().filter(|span| span.is_sampled()).map(|span| span.trace_id().to_string())
    }

    /// Makes `span` a child of this place. Call it before the span is first entered.
    pub fn adopt(&self, span: &Span) {
        if let Some(parent) = &self.0 {
            // A span that no filter lets through has no place either.
            let _ = span.set_parent(Context::new().with_remote_span_context(parent.clone()));
        }
    }

    /// Notes in `span` that it has to do with this place, which may be in another trace.
    pub fn link(&self, span: &Span) {
        if let Some(other) = self.0.as_ref().filter(|other| other.is_sampled()) {
            span.add_link(other.clone());
        }
    }
}

/// Traces by key, as many as there is room for: the oldest is forgotten first. Only those that are
/// recorded are remembered.
#[derive(Debug)]
pub struct Remembered<K> {
    capacity: usize,
    known: Mutex<Known<K>>,
}

#[derive(Debug)]
struct Known<K> {
    traces: HashMap<K, Trace>,
    order: VecDeque<K>,
}

impl<K: Copy + Eq + Hash> Remembered<K> {
    /// Room for `capacity` traces.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let known = Known { traces: HashMap::new(), order: VecDeque::new() };
        Self { capacity, known: Mutex::new(known) }
    }

    /// Remembers the current trace under `key`, if it is recorded.
    pub fn remember(&self, key: K) {
        let trace = Trace::current();
        if !trace.is_sampled() {
            return;
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.traces.insert(key, trace).is_none() {
            known.order.push_back(key);
        }
        while known.order.len() > self.capacity {
            let oldest = known.order.pop_front();
            oldest.and_then(|oldest| known.traces.remove(&oldest));
        }
    }

    /// The trace under `key`, which is forgotten.
    #[must_use]
    pub fn take(&self, key: &K) -> Option<Trace> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.traces.remove(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::observed;

    #[test]
    fn what_is_remembered_is_bounded_and_given_out_once() {
        observed(|| {
            let traces = Remembered::new(2);
            traces.remember(0);
            assert!(traces.take(&0).is_none(), "there is no trace to remember");

            let span = tracing::info_span!("request");
            span.in_scope(|| (1..=3).for_each(|key| traces.remember(key)));

            assert!(traces.take(&1).is_none(), "the oldest is forgotten");
            assert!(traces.take(&2).is_some() && traces.take(&2).is_none());
            assert!(traces.take(&3).is_some());
        });
    }

    #[test]
    fn a_span_that_begins_later_elsewhere_is_in_the_trace() {
        observed(|| {
            let trace = Trace::of(&tracing::info_span!("build"));
            let later = std::thread::scope(|scope| {
                let later = tracing::info_span!("flashblock");
                trace.adopt(&later);
                scope.spawn(move || later).join().unwrap()
            });

            let [built, published] = [trace, Trace::of(&later)].map(|trace| trace.0.unwrap());
            assert_eq!(built.trace_id(), published.trace_id());
            assert_ne!(built.span_id(), published.span_id());
        });
    }
}
