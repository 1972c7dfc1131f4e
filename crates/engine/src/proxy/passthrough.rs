//! The off switch: whether the hooks are left alone, why, and since when.
//!
//! Asking costs one atomic load and waits for nobody. Those who must act upon a change (a gauge, a
//! service that gives up what it builds) watch; they are told once more whenever a hook ends that
//! was under way when the switch was thrown, because it may have begun something meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use tokio::sync::watch;
use tracing::{error, info, warn};

/// Why the hooks are left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passthrough {
    /// Who decided it.
    pub cause: PassthroughCause,
    /// In words, for people.
    pub reason: String,
    /// When it began.
    pub since: SystemTime,
}

/// Who decided that the hooks are left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassthroughCause {
    /// An operator.
    Operator,
    /// The proxy itself, after repeated faults of hooks.
    Faults,
}

/// The switch. It is thrown by itself, and by operators.
#[derive(Debug, Default)]
pub(super) struct Switch {
    is_on: AtomicBool,
    state: watch::Sender<Option<Passthrough>>,
}

impl Switch {
    pub(super) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    pub(super) fn state(&self) -> Option<Passthrough> {
        self.state.borrow().clone()
    }

    pub(super) fn watch(&self) -> watch::Receiver<Option<Passthrough>> {
        self.state.subscribe()
    }

    /// Leaves the hooks alone. What an operator says replaces what was said before, but the time
    /// stays; the proxy itself contradicts nobody.
    pub(super) fn turn_on(&self, cause: PassthroughCause, reason: String) {
        self.state.send_if_modified(|state| {
            let since = match (&*state, cause) {
                (Some(_), PassthroughCause::Faults) => return false,
                (Some(before), PassthroughCause::Operator) => before.since,
                (None, PassthroughCause::Operator | PassthroughCause::Faults) => SystemTime::now(),
            };
            match cause {
                PassthroughCause::Operator => warn!(reason, "passthrough is on"),
                PassthroughCause::Faults => error!(reason, "passthrough is on"),
            }
            self.is_on.store(true, Ordering::Relaxed);
            *state = Some(Passthrough { cause, reason, since });
            true
        });
    }

    /// Asks the hooks again.
    pub(super) fn turn_off(&self) {
        self.state.send_if_modified(|state| {
            let was_on = state.take().is_some();
            if was_on {
                info!("passthrough is off");
            }
            self.is_on.store(false, Ordering::Relaxed);
            was_on
        });
    }

    /// A hook has ended that was asked before.
    pub(super) fn hook_ended(&self) {
        if self.is_on() {
            self.state.send_modify(|_| ());
        }
    }
}
