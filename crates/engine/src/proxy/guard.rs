//! Keeping the faults of hooks away from the two clients.
//!
//! A hook runs on the runtime that the proxy was made in, which need not be the one that forwards:
//! a hook that blocks its thread blocks a thread of that runtime. It is waited for until its
//! deadline and no longer.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tracing::{Instrument, warn};

use super::ProxyConfig;
use super::passthrough::{PassthroughCause, Switch};

/// Counts faults, and leaves the hooks alone after too many.
#[derive(Debug)]
pub(super) struct Guard {
    deadline: Duration,
    fault_limit: usize,
    fault_window: Duration,
    runtime: Handle,
    switch: Arc<Switch>,
    faults: AtomicU64,
    /// When the newest faults were. Locked only by a fault.
    recent: Mutex<VecDeque<Instant>>,
}

/// Tells the switch when the hook that it belongs to is gone.
struct Ended(Arc<Switch>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.hook_ended();
    }
}

impl Guard {
    /// For hooks that run on the runtime that this is called in.
    pub(super) fn new(config: &ProxyConfig, switch: Arc<Switch>) -> Self {
        Self {
            deadline: config.hook_deadline,
            fault_limit: config.fault_limit.max(1),
            fault_window: config.fault_window,
            runtime: Handle::current(),
            switch,
            faults: AtomicU64::new(0),
            recent: Mutex::default(),
        }
    }

    /// Runs a hook on a task of its own, so that a panic or a thread that never yields stays there.
    /// The task ends when the returned future is dropped.
    pub(super) async fn apart<T: Send + 'static>(
        &self,
        hook: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, JoinError> {
        let ended = Ended(Arc::clone(&self.switch));
        let hook = async move {
            // Dropped after the hook.
            let _ended = ended;
            hook.await
        };
        let mut task = JoinSet::new();
        task.spawn_on(hook.in_current_span(), &self.runtime);
        task.join_next().await.expect("one task was spawned just above")
    }

    /// Has a hook told something, which nobody waits for.
    pub(super) fn tell(&self, told: impl Future<Output = ()> + Send + 'static) {
        drop(self.runtime.spawn(told.in_current_span()));
    }

    /// What the hook returned, or `None` if it is not to be asked or failed.
    pub(super) async fn call<T>(
        &self,
        name: &'static str,
        hook: impl Future<Output = Result<T, JoinError>>,
    ) -> Option<T> {
        if self.switch.is_on() {
            return None;
        }
        let fault = match tokio::time::timeout(self.deadline, hook).await {
            Ok(Ok(returned)) => return Some(returned),
            Ok(Err(_)) => "panicked",
            Err(_) => "ran out of time",
        };
        warn!(hook = name, fault, "a hook failed");
        self.fault(name, fault);
        None
    }

    fn fault(&self, name: &'static str, fault: &'static str) {
        self.faults.fetch_add(1, Ordering::Relaxed);
        let limit = self.fault_limit;
        let now = Instant::now();
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.push_back(now);
        if recent.len() > limit {
            recent.pop_front();
        }
        let is_repeated = recent.len() == limit
            && recent.front().is_some_and(|first| now - *first <= self.fault_window);
        if is_repeated {
            recent.clear();
            drop(recent);
            let within = self.fault_window;
            let reason = format!("{limit} faults within {within:?}, the last: {name} {fault}");
            self.switch.turn_on(PassthroughCause::Faults, reason);
        }
    }

    /// Forgets the faults so far: an operator has seen to them.
    pub(super) fn forgive(&self) {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(super) fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }
}
