//! The off switch: by signal and over gRPC.
//!
//! SIGUSR1 switches passthrough on, SIGUSR2 off; the gRPC service does the same with a reason. The
//! proxy switches it on by itself after repeated faults, and then only an operator switches it off.
//! While it is on the consensus client gets the execution client's own answers and payloads.

use std::{convert::Infallible, io};

use preconf_chassis::Shutdown;
use preconf_engine::{EngineProxy, Passthrough, PassthroughCause, ProxyStatus};
use preconf_telemetry::{Registry, metrics::Gauge};
use preconf_wire::admin::{self, AdminService, Status};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The admin service of a door.
pub(crate) struct Admin(EngineProxy);

impl Admin {
    pub(crate) fn new(proxy: EngineProxy) -> Self {
        Self(proxy)
    }
}

impl AdminService for Admin {
    async fn set_passthrough(&self, on: bool, reason: String) -> Status {
        if on {
            self.0.enter_passthrough(reason);
        } else {
            self.0.leave_passthrough();
        }
        told(self.0.status())
    }

    async fn status(&self) -> Status {
        told(self.0.status())
    }
}

fn told(status: ProxyStatus) -> Status {
    let ProxyStatus { passthrough, faults, not_understood, unanswered } = status;
    let passthrough = passthrough.map(|Passthrough { cause, reason, since }| {
        let cause = match cause {
            PassthroughCause::Operator => admin::PassthroughCause::Operator,
            PassthroughCause::Faults => admin::PassthroughCause::Faults,
        };
        admin::Passthrough { cause, reason, since }
    });
    Status { passthrough, faults, not_understood, unanswered }
}

/// The signals that switch. From the moment that they are taken they do not end the process.
pub(crate) struct Signals {
    on: Signal,
    off: Signal,
}

impl Signals {
    pub(crate) fn take() -> io::Result<Self> {
        Ok(Self {
            on: signal(SignalKind::user_defined1())?,
            off: signal(SignalKind::user_defined2())?,
        })
    }

    /// Obeys them until the process is told to stop.
    pub(crate) async fn obey(
        mut self,
        proxy: EngineProxy,
        shutdown: Shutdown,
    ) -> Result<(), Infallible> {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                sent = self.on.recv() => match sent {
                    Some(()) => proxy.enter_passthrough("SIGUSR1"),
                    None => return Ok(()),
                },
                sent = self.off.recv() => match sent {
                    Some(()) => proxy.leave_passthrough(),
                    None => return Ok(()),
                },
            }
        }
    }
}

/// What is shown of passthrough: that an operator asked for it is no fault, and that nobody did is.
pub(crate) struct Gauges {
    is_on: Gauge,
    by_faults: Gauge,
}

impl Gauges {
    pub(crate) fn register(registry: &Registry) -> Self {
        let is_on = "Whether all blocks are left to the execution client: 1, or 0 if not.";
        let by_faults = "Whether repeated faults did that, and no operator: 1, or 0 if not.";
        Self {
            is_on: registry.gauge("passthrough", is_on),
            by_faults: registry.gauge("passthrough_by_faults", by_faults),
        }
    }

    fn show(&self, passthrough: Option<&Passthrough>) {
        let cause = passthrough.map(|passthrough| passthrough.cause);
        self.is_on.set(cause.is_some().into());
        self.by_faults.set((cause == Some(PassthroughCause::Faults)).into());
    }
}

/// Shows whether passthrough is on, and says so to those whose hooks are left alone. When the process
/// is told to stop, nothing new is begun either; what was is ended elsewhere, as stopped.
pub(crate) async fn follow_passthrough(
    proxy: EngineProxy,
    gauges: Gauges,
    shutdown: Shutdown,
    left_alone: impl Fn(bool) + Send,
) -> Result<(), Infallible> {
    let mut passthrough = proxy.watch_passthrough();
    loop {
        let is_on = {
            let passthrough = passthrough.borrow_and_update();
            gauges.show(passthrough.as_ref());
            passthrough.is_some()
        };
        left_alone(is_on);
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {
                proxy.enter_passthrough("the process ends");
                return Ok(());
            }
            changed = passthrough.changed() => if changed.is_err() {
                return Ok(());
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn the_gauges_tell_what_faults_did_from_what_an_operator_asked_for() {
        let registry = Registry::new("door");
        let gauges = Gauges::register(&registry);
        let because =
            |cause| Passthrough { cause, reason: "test".to_owned(), since: SystemTime::UNIX_EPOCH };
        let faults = because(PassthroughCause::Faults);
        let operator = because(PassthroughCause::Operator);
        for (passthrough, is_on, by_faults) in
            [(Some(&faults), 1, 1), (Some(&operator), 1, 0), (None, 0, 0)]
        {
            gauges.show(passthrough);
            let text = registry.encode();
            assert!(text.contains(&format!("\npreconf_door_passthrough {is_on}\n")), "{text}");
            let line = format!("\npreconf_door_passthrough_by_faults {by_faults}\n");
            assert!(text.contains(&line), "{text}");
        }
    }
}
