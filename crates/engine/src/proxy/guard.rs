//! Keeping the faults of hooks away from the two clients.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tracing::{Instrument, error, info, warn};

/// Counts faults, and leaves the hooks alone after too many.
#[derive(Debug)]
pub(super) struct Guard {
    deadline: Duration,
    fault_limit: u32,
    passthrough: AtomicBool,
    faults: AtomicU64,
    in_a_row: AtomicU32,
}

/// Runs a hook on a task of its own, so that a panic or a thread that never yields stays there.
/// The task ends when the returned future is dropped.
pub(super) async fn apart<T: Send + 'static>(
    hook: impl Future<Output = T> + Send + 'static,
) -> Result<T, JoinError> {
    let mut task = JoinSet::new();
    task.spawn(hook.in_current_span());
    task.join_next().await.expect("one task was spawned just above")
}

impl Guard {
    pub(super) fn new(deadline: Duration, fault_limit: u32) -> Self {
        Self {
            deadline,
            fault_limit,
            passthrough: AtomicBool::new(false),
            faults: AtomicU64::new(0),
            in_a_row: AtomicU32::new(0),
        }
    }

    /// What the hook returned, or `None` if it is not to be asked or failed.
    pub(super) async fn call<T>(
        &self,
        name: &'static str,
        hook: impl Future<Output = Result<T, JoinError>>,
    ) -> Option<T> {
        if self.passthrough() {
            return None;
        }
        match tokio::time::timeout(self.deadline, hook).await {
            Ok(Ok(returned)) => {
                self.in_a_row.store(0, Ordering::Relaxed);
                return Some(returned);
            }
            Ok(Err(_)) => warn!(hook = name, "a hook panicked"),
            Err(_) => warn!(hook = name, deadline = ?self.deadline, "a hook ran out of time"),
        }
        self.faults.fetch_add(1, Ordering::Relaxed);
        if self.in_a_row.fetch_add(1, Ordering::Relaxed) + 1 == self.fault_limit {
            error!(faults = self.fault_limit, "passthrough: too many faults in a row");
            self.passthrough.store(true, Ordering::Relaxed);
        }
        None
    }

    pub(super) fn set_passthrough(&self, on: bool) {
        self.in_a_row.store(0, Ordering::Relaxed);
        if self.passthrough.swap(on, Ordering::Relaxed) != on {
            info!(passthrough = on, "passthrough was switched");
        }
    }

    pub(super) fn passthrough(&self) -> bool {
        self.passthrough.load(Ordering::Relaxed)
    }

    pub(super) fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }
}
