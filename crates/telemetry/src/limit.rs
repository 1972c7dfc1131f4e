//! How often the same complaint is logged.
//!
//! A peer that keeps sending what we refuse must not fill the disk with our answer: the first
//! complaint is logged, then at most one per interval, which says how many it stands for.
//! Reads no clock: time comes in.

use std::time::{Duration, Instant};

/// Lets one log line through per interval. One limit per source and reason.
#[derive(Clone, Debug)]
pub struct LogLimit {
    interval: Duration,
    logged_at: Option<Instant>,
    suppressed: u64,
}

impl LogLimit {
    /// Makes a limit that lets the next line through.
    #[must_use]
    pub const fn new(interval: Duration) -> Self {
        Self { interval, logged_at: None, suppressed: 0 }
    }

    /// Decides about a line at `now`: if it is to be logged, how many were not since the last one.
    #[must_use]
    pub fn admit(&mut self, now: Instant) -> Option<u64> {
        let too_soon =
            self.logged_at.is_some_and(|at| now.saturating_duration_since(at) < self.interval);
        if too_soon {
            self.suppressed += 1;
            return None;
        }
        self.logged_at = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_per_interval_says_how_many_it_stands_for() {
        let start = Instant::now();
        let second = |n| start + Duration::from_secs(n);
        let mut limit = LogLimit::new(Duration::from_secs(10));

        assert_eq!(limit.admit(second(0)), Some(0));
        assert_eq!(limit.admit(second(1)), None);
        assert_eq!(limit.admit(second(9)), None);
        assert_eq!(limit.admit(second(10)), Some(2));
        assert_eq!(limit.admit(second(11)), None);
    }
}
