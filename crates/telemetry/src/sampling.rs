//! Which spans are kept.
//!
//! The decision is made where a trace begins, by what `OTEL_TRACES_SAMPLER` says, and followed by
//! what comes after. From another process only a "no" is simply believed: a "yes" counts if this
//! process would have kept that trace by itself. As a ratio is a function of the trace's id,
//! processes with the same ratio keep the same traces; nobody else's flag raises the rate, and who
//! chooses the ids of its traces is limited by [`REMOTE_PER_SECOND`].
//!
//! Faults are kept whatever was decided for their trace, up to [`FAULTS_PER_SECOND`].

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use opentelemetry::{
    Context, KeyValue,
    trace::{Link, SpanKind, TraceContextExt, TraceId, TraceState},
};
use opentelemetry_sdk::trace::{Sampler, SamplingDecision, SamplingResult, ShouldSample};

/// How many spans whose parent is in another process are kept in a second.
const REMOTE_PER_SECOND: u32 = 200;
/// How many faults are kept in a second.
const FAULTS_PER_SECOND: u32 = 20;

/// The attribute of a span that stands for a fault.
pub(crate) const FAULT: &str = "preconf.fault";

/// Decides what is kept.
#[derive(Clone, Debug)]
pub(crate) struct Sampling {
    /// Decides about traces that begin here.
    root: Sampler,
    /// Whether what was decided before is followed at all.
    follows: bool,
    remote: Arc<Mutex<Budget>>,
    faults: Arc<Mutex<Budget>>,
}

impl Sampling {
    /// What is said by `OTEL_TRACES_SAMPLER` and its argument, and which of the two is not
    /// understood: it is as if it were not set.
    pub(crate) fn parse(name: &str, argument: &str) -> (Self, Option<(&'static str, String)>) {
        let ratio = argument.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
        let kept = ratio.map_or(Sampler::AlwaysOn, Sampler::TraceIdRatioBased);
        let (follows, root) = match name {
            "always_on" => (false, Sampler::AlwaysOn),
            "always_off" => (false, Sampler::AlwaysOff),
            "traceidratio" => (false, kept),
            "parentbased_always_off" => (true, Sampler::AlwaysOff),
            "parentbased_traceidratio" => (true, kept),
            _ => (true, Sampler::AlwaysOn),
        };
        let complaint = match name {
            ""
            | "always_on"
            | "always_off"
            | "parentbased_always_on"
            | "parentbased_always_off" => None,
            "traceidratio" | "parentbased_traceidratio" => {
                let is_bad = ratio.is_none() && !argument.is_empty();
                is_bad.then(|| ("OTEL_TRACES_SAMPLER_ARG", argument.to_owned()))
            }
            _ => Some(("OTEL_TRACES_SAMPLER", name.to_owned())),
        };
        let budget = |per_second| Arc::new(Mutex::new(Budget::new(per_second)));
        let (remote, faults) = (budget(REMOTE_PER_SECOND), budget(FAULTS_PER_SECOND));
        (Self { root, follows, remote, faults }, complaint)
    }
}

impl ShouldSample for Sampling {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let parent = parent.map(|context| context.span().span_context().clone());
        let parent = parent.filter(|span| span.is_valid());
        // Without the parent, which it would not look at.
        let root = || {
            let result = self.root.should_sample(None, trace_id, name, kind, attributes, links);
            result.decision == SamplingDecision::RecordAndSample
        };
        let keep = match &parent {
            _ if attributes.iter().any(|attribute| attribute.key.as_str() == FAULT) => {
                take(&self.faults)
            }
            Some(parent) if self.follows && !parent.is_remote() => parent.is_sampled(),
            Some(parent) if self.follows => parent.is_sampled() && root() && take(&self.remote),
            Some(_) | None => root(),
        };
        let decision =
            if keep { SamplingDecision::RecordAndSample } else { SamplingDecision::Drop };
        let trace_state =
            parent.map_or_else(TraceState::default, |parent| parent.trace_state().clone());
        SamplingResult { decision, attributes: Vec::new(), trace_state }
    }
}

fn take(budget: &Mutex<Budget>) -> bool {
    // A budget that a panic left half-way is still a budget.
    budget.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now())
}

/// So many in a second, and no more at once.
#[derive(Debug)]
struct Budget {
    per_second: u32,
    left: u32,
    since: Option<Instant>,
}

impl Budget {
    const fn new(per_second: u32) -> Self {
        Self { per_second, left: 0, since: None }
    }

    fn take(&mut self, now: Instant) -> bool {
        let is_over = |since| now.saturating_duration_since(since) >= Duration::from_secs(1);
        if self.since.is_none_or(is_over) {
            (self.left, self.since) = (self.per_second, Some(now));
        }
        self.left = match self.left.checked_sub(1) {
            Some(left) => left,
            None => return false,
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{SpanContext, SpanId, TraceFlags};

    use super::*;

    const LOW: TraceId = TraceId::from_bytes([0; 16]);
    const HIGH: TraceId = TraceId::from_bytes([0xff; 16]);

    #[test]
    fn the_flag_of_another_process_lowers_the_rate_and_never_raises_it() {
        let sampling = Sampling::parse("parentbased_traceidratio", "0.5").0;
        let low = TraceId::from_bytes([1; 16]);
        for (name, parent, trace_id, kept) in [
            ("ours, below the ratio", None, low, true),
            ("ours, above it", None, HIGH, false),
            ("kept here before", Some((false, true)), HIGH, true),
            ("not kept here before", Some((false, false)), low, false),
            ("kept there, and by us too", Some((true, true)), low, true),
            ("kept there, not by us", Some((true, true)), HIGH, false),
            ("not kept there", Some((true, false)), low, false),
        ] {
            assert_eq!(keeps(&sampling, parent, trace_id, &[]), kept, "{name}");
        }
    }

    #[test]
    fn whoever_chooses_the_ids_of_its_traces_is_kept_as_often_as_the_budget_says() {
        let sampling = Sampling::parse("parentbased_traceidratio", "0.5").0;
        let low = TraceId::from_bytes([1; 16]);

        let kept = (0..10_000).filter(|_| keeps(&sampling, Some((true, true)), low, &[])).count();

        // It takes less than three seconds even where everything is slow.
        assert!((1..=4 * REMOTE_PER_SECOND as usize).contains(&kept), "{kept}");
        assert!(keeps(&sampling, None, low, &[]), "what begins here has no part in it");
    }

    #[test]
    fn a_fault_is_kept_in_a_trace_that_is_not() {
        let sampling = Sampling::parse("parentbased_always_off", "").0;
        let fault = [KeyValue::new(FAULT, true)];

        assert!(keeps(&sampling, None, LOW, &fault));
        assert!(keeps(&sampling, Some((true, false)), LOW, &fault));
        assert!(!keeps(&sampling, Some((true, false)), LOW, &[]));
    }

    #[test]
    fn the_environment_is_read_as_the_specification_has_it() {
        for (name, argument, begins) in [
            ("", "", true),
            ("always_on", "", true),
            ("always_off", "", false),
            ("traceidratio", "0", false),
            ("parentbased_traceidratio", "1.0", true),
            ("parentbased_traceidratio", "a lot", true),
            ("parentbased_always_off", "", false),
            ("parentbased_jaeger_remote", "", true),
        ] {
            let sampling = Sampling::parse(name, argument).0;
            assert_eq!(keeps(&sampling, None, HIGH, &[]), begins, "{name} {argument}");
        }
        let deaf = Sampling::parse("always_on", "").0;
        assert!(keeps(&deaf, Some((true, false)), HIGH, &[]), "not based on the parent");
    }

    /// Whether a span is kept whose parent is remote or not, and sampled or not.
    fn keeps(
        sampling: &Sampling,
        parent: Option<(bool, bool)>,
        trace_id: TraceId,
        attributes: &[KeyValue],
    ) -> bool {
        let parent = parent.map(|(is_remote, is_sampled)| {
            let flags = TraceFlags::default().with_sampled(is_sampled);
            let id = SpanId::from_bytes([1; 8]);
            let trace_id = TraceId::from_bytes([1; 16]);
            let span = SpanContext::new(trace_id, id, flags, is_remote, TraceState::default());
            Context::new().with_remote_span_context(span)
        });
        let kind = SpanKind::Internal;
        let result = sampling.should_sample(parent.as_ref(), trace_id, "x", &kind, attributes, &[]);
        result.decision == SamplingDecision::RecordAndSample
    }
}
