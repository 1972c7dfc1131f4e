//! How long to wait before trying again.
//!
//! Doubles from 50 ms to 2 s; half of each delay is fixed and half is jitter, so that the clients
//! of a peer that restarts do not all return at once, and none returns at zero.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

/// The delays of one reconnect loop.
#[derive(Clone, Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The longest delay after a first failure.
    pub const MIN: Duration = Duration::from_millis(50);
    /// The longest delay of all.
    pub const MAX: Duration = Duration::from_secs(2);

    /// Begins with the shortest delay.
    #[must_use]
    pub const fn new() -> Self {
        Self { failures: 0 }
    }

    /// The delay after one more failure; `jitter` in `0.0..=1.0` chooses within its upper half.
    pub fn next_delay(&mut self, jitter: f64) -> Duration {
        let doubled =
            Self::MIN.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX));
        self.failures = self.failures.saturating_add(1).min(31);
        let half = doubled.min(Self::MAX) / 2;
        half + half.mul_f64(jitter.clamp(0.0, 1.0))
    }

    /// Waits for the next delay, with random jitter.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.next_delay(random_jitter())).await;
    }

    /// Starts again from the shortest delay, after a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Spread, not secrecy: the keys of a hash map are random enough.
fn random_jitter() -> f64 {
    let bits = (RandomState::new().hash_one(0_u8) >> 32) as u32;
    f64::from(bits) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest() {
        let mut backoff = Backoff::new();

        let delays: Vec<_> = (0..8).map(|_| backoff.next_delay(1.0).as_millis()).collect();

        assert_eq!(delays, [50, 100, 200, 400, 800, 1600, 2000, 2000]);
    }

    #[test]
    fn jitter_chooses_within_the_upper_half() {
        for (jitter, millis) in [(-1.0, 25.0), (0.0, 25.0), (0.5, 37.5), (1.0, 50.0), (7.0, 50.0)] {
            let delay = Backoff::new().next_delay(jitter);
            assert_eq!(delay, Duration::from_secs_f64(millis / 1000.0));
        }
    }

    #[test]
    fn many_failures_do_not_overflow_and_a_success_starts_again() {
        let mut backoff = Backoff::new();
        for _ in 0..100 {
            assert!(backoff.next_delay(1.0) <= Backoff::MAX);
        }

        backoff.reset();

        assert_eq!(backoff.next_delay(1.0), Backoff::MIN);
    }

    #[test]
    fn random_jitter_is_a_fraction() {
        for _ in 0..100 {
            assert!((0.0..=1.0).contains(&random_jitter()));
        }
    }
}
