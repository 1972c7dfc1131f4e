//! When the next flashblock is due: an absolute schedule, so that lateness never adds up (D6).

use std::time::{Duration, Instant};

/// The ticks `start + k × interval`, k ≥ 1. Ticks that pass unused coalesce into one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cadence {
    start: Instant,
    interval: Duration,
    /// The number of the next tick that counts.
    next: u32,
}

impl Cadence {
    /// A schedule that starts now.
    ///
    /// # Panics
    /// If `interval` is zero: the configuration refuses that.
    pub fn new(start: Instant, interval: Duration) -> Self {
        assert!(!interval.is_zero(), "a cadence has an interval");
        Self { start, interval, next: 1 }
    }

    /// When the next tick is due.
    pub fn next_tick(&self) -> Instant {
        self.start + self.interval * self.next
    }

    /// Whether a tick is due.
    pub fn is_due(&self, now: Instant) -> bool {
        now >= self.next_tick()
    }

    /// How long ago the next tick was due, if it was.
    pub fn lateness(&self, now: Instant) -> Option<Duration> {
        now.checked_duration_since(self.next_tick())
    }

    /// Uses up every tick until now; the next one is the first that is still to come.
    pub fn catch_up(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.start).as_nanos();
        let passed = elapsed / self.interval.as_nanos();
        self.next = u32::try_from(passed).unwrap_or(u32::MAX - 1) + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_millis(200);

    #[test]
    fn a_late_cut_does_not_move_the_ticks_after_it() {
        let start = Instant::now();
        let mut cadence = Cadence::new(start, INTERVAL);
        assert_eq!(cadence.next_tick(), start + INTERVAL);
        cadence.catch_up(start + Duration::from_millis(270));
        assert_eq!(cadence.next_tick(), start + 2 * INTERVAL);
    }

    #[test]
    fn ticks_that_were_missed_become_one() {
        let start = Instant::now();
        let mut cadence = Cadence::new(start, INTERVAL);
        let late = start + Duration::from_millis(1_050);
        assert!(cadence.is_due(late));
        cadence.catch_up(late);
        assert!(!cadence.is_due(late));
        assert_eq!(cadence.next_tick(), start + 6 * INTERVAL);
    }

    #[test]
    fn a_tick_used_on_time_is_not_due_again() {
        let start = Instant::now();
        let mut cadence = Cadence::new(start, INTERVAL);
        cadence.catch_up(start + INTERVAL);
        assert_eq!(cadence.next_tick(), start + 2 * INTERVAL);
    }
}
