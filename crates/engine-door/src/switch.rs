//! The off switch: by signal and over gRPC.
//!
//! SIGUSR1 switches passthrough on, SIGUSR2 off; the gRPC service does the same with a reason. The
//! proxy switches it on by itself after repeated faults, and then only an operator switches it off.
//! While it is on the consensus client gets the execution client's own answers and payloads.

use std::{convert::Infallible, io};

use preconf_chassis::Shutdown;
use preconf_engine::{EngineProxy, Passthrough, PassthroughCause, ProxyStatus};
use preconf_telemetry::metrics::Gauge;
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

/// Shows whether passthrough is on, and says so to those whose hooks are left alone. When the process
/// is told to stop, nothing new is begun either; what was is ended elsewhere, as stopped.
pub(crate) async fn follow_passthrough(
    proxy: EngineProxy,
    gauge: Gauge,
    shutdown: Shutdown,
    left_alone: impl Fn(bool) + Send,
) -> Result<(), Infallible> {
    let mut passthrough = proxy.watch_passthrough();
    loop {
        let is_on = passthrough.borrow_and_update().is_some();
        gauge.set(is_on.into());
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
