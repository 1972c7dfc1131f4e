//! Requests and questions while they are under way. Whatever becomes of one, it is counted once.
//!
//! A validator that has waited long enough closes its connection, and then whoever was answering it
//! is dropped where it stands. So it is not what comes after the answer that counts, but the end of
//! a guard: a request that nobody has said the end of was given up.

use std::time::{Duration, Instant};

use preconf_telemetry::metrics::Histogram;
use tracing::{Span, warn};

use crate::metrics::Metrics;

/// What a request is counted as that its validator did not wait for.
const GAVE_UP: &str = "gave_up";

/// A request that is being answered.
pub(crate) struct Asked<'a> {
    metrics: &'a Metrics,
    began: Instant,
    /// Its span, if it is a validator's: strangers have no part in our traces.
    pub(crate) span: Span,
    end: End,
}

#[derive(Clone, Copy)]
enum End {
    /// The payload is ready; how its way ends, the answer counts itself.
    Served,
    Refused(&'static str),
    /// Nothing was said of it.
    Unsaid,
}

impl<'a> Asked<'a> {
    pub(crate) fn new(metrics: &'a Metrics) -> Self {
        Self { metrics, began: Instant::now(), span: Span::none(), end: End::Unsaid }
    }

    /// The payload is ready to be sent.
    pub(crate) fn served(mut self) {
        self.end = End::Served;
    }

    /// It is refused, and counted as this.
    pub(crate) fn refused(mut self, result: &'static str) {
        self.end = End::Refused(result);
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let (result, is_counted) = match self.end {
            End::Served => ("ok", false),
            End::Refused(result) => (result, true),
            End::Unsaid if std::thread::panicking() => ("internal_error", true),
            End::Unsaid => (GAVE_UP, true),
        };
        if is_counted {
            self.metrics.requests.get([result]).inc();
        }
        self.span.record("result", result);
        let seconds = self.metrics.request_seconds.get([result]);
        self.span.in_scope(|| seconds.observe(self.began.elapsed().as_secs_f64()));
    }
}

/// A payload that the builder is being asked for.
pub(crate) struct Question<'a> {
    seconds: &'a Histogram,
    slot: u64,
    began: Instant,
    is_answered: bool,
}

impl<'a> Question<'a> {
    pub(crate) fn new(seconds: &'a Histogram, slot: u64) -> Self {
        Self { seconds, slot, began: Instant::now(), is_answered: false }
    }

    /// The builder has answered, after this time.
    pub(crate) fn answered(mut self) -> Duration {
        self.is_answered = true;
        self.began.elapsed()
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        let elapsed = self.began.elapsed();
        self.seconds.observe(elapsed.as_secs_f64());
        if !self.is_answered {
            let error = "the validator did not wait for it";
            warn!(slot = self.slot, ?elapsed, error, "Failed to get payload");
        }
    }
}
