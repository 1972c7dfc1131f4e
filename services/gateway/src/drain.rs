//! How the gateway stops: its readers leave one after the other.
//!
//! If all of them were closed at once, all of them would come to the next gateway at once. Each has
//! its turn instead, spread over a part of the time that the process has to drain; until its turn
//! comes a reader is served as ever, so the feed goes on until the last one has left.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use preconf_chassis::Shutdown;
use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};

/// 2^64 divided by the golden ratio: its multiples fall evenly into any interval, however many they
/// are.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The end of a gateway.
#[derive(Debug)]
pub(crate) struct Drain {
    shutdown: Shutdown,
    spread: Duration,
    /// How many readers have asked for their turn.
    asked: AtomicU64,
}

impl Drain {
    /// Begins with `shutdown`; the last reader's turn comes within `spread`.
    pub(crate) const fn new(shutdown: Shutdown, spread: Duration) -> Self {
        Self { shutdown, spread, asked: AtomicU64::new(0) }
    }

    /// Whether nobody is let in any more.
    pub(crate) fn has_begun(&self) -> bool {
        self.shutdown.is_cancelled()
    }

    /// Waits until nobody is let in any more.
    pub(crate) async fn begun(&self) {
        self.shutdown.cancelled().await;
    }

    /// Waits until a reader has to leave. Each has a turn of its own, and asks once.
    pub(crate) async fn turn(&self) {
        self.begun().await;
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        sleep(self.spread.mul_f64(share(number))).await;
    }

    /// Waits until every reader has left, and given its place back.
    pub(crate) async fn over(&self, places: &Semaphore, all: usize) {
        self.begun().await;
        let all = u32::try_from(all).unwrap_or(u32::MAX);
        // Who has not left then is being told, and needs nothing more.
        let _ = timeout(self.spread, places.acquire_many(all)).await;
    }
}

/// Which part of the time is over when the reader with this number leaves.
fn share(number: u64) -> f64 {
    number.wrapping_mul(GOLDEN) as f64 / u64::MAX as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_many_leave_they_leave_evenly() {
        assert!(share(0) == 0.0, "one alone leaves at once");
        for readers in [10_u32, 100, 10_000] {
            let leaves = |from: f64, to: f64| {
                let shares = (0..u64::from(readers)).map(share);
                shares.filter(|share| (from..to).contains(share)).count()
            };
            for tenth in 0..10 {
                let from = f64::from(tenth) / 10.0;
                let left = leaves(from, from + 0.1) as f64;
                let fair = f64::from(readers) / 10.0;
                assert!((left - fair).abs() <= 2.0, "{left} of {readers} leave from {from} on");
            }
        }
    }
}
