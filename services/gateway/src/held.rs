//! Ends of sessions that came before a flashblock that belongs before them.
//!
//! They wait while it is asked for, until a deadline; at most [`MAX_HELD`] of them. When there is
//! no room the oldest is let go, as if it had never come: a replay brings it again.

use std::{collections::VecDeque, time::Instant};

use tracing::Span;

use crate::frame::Frame;

/// How many ends wait: as many as one block may have sessions.
const MAX_HELD: usize = 16;

/// Ends that wait, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Held(VecDeque<HeldEnd>);

/// An end that waits.
#[derive(Debug)]
pub(crate) struct HeldEnd {
    pub(crate) frame: Frame,
    pub(crate) received_at: Instant,
    pub(crate) span: Span,
}

impl Held {
    /// Adds one; returns what had to go for it.
    pub(crate) fn push(&mut self, end: HeldEnd) -> Option<HeldEnd> {
        let evicted = if self.0.len() == MAX_HELD { self.0.pop_front() } else { None };
        self.0.push_back(end);
        evicted
    }

    /// Takes all of them, oldest first.
    pub(crate) fn take(&mut self) -> VecDeque<HeldEnd> {
        std::mem::take(&mut self.0)
    }

    /// Since when the oldest waits.
    pub(crate) fn since(&self) -> Option<Instant> {
        self.0.front().map(|end| end.received_at)
    }
}
