//! The off switch: by signal, over gRPC, and what follows from it in this builder.
//!
//! SIGUSR1 switches passthrough on, SIGUSR2 off; the gRPC service does the same with a reason. The
//! proxy switches it on by itself after repeated faults, and then only an operator switches it off.
//! While it is on the consensus client gets the execution client's own answers and payloads; what
//! was being built is abandoned, and the feed says so.
//!
//! Never decides anything about a block: it gives up what there is, and the sequencer says how.

use std::{io, sync::Arc};

use preconf_chassis::Shutdown;
use preconf_engine::{EngineProxy, Passthrough, PassthroughCause, ProxyStatus};
use preconf_primitives::AbandonReason;
use preconf_telemetry::metrics::Gauge;
use preconf_wire::admin::{self, AdminService, Status};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::sequencer::Sequencer;

/// The admin service of a builder.
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

    /// Obeys them.
    pub(crate) async fn obey(mut self, proxy: EngineProxy) {
        loop {
            tokio::select! {
                sent = self.on.recv() => match sent {
                    Some(()) => proxy.enter_passthrough("SIGUSR1"),
                    None => return,
                },
                sent = self.off.recv() => match sent {
                    Some(()) => proxy.leave_passthrough(),
                    None => return,
                },
            }
        }
    }
}

/// Gives up what is being built while passthrough is on. When the process is told to stop, nothing
/// new is begun either; what was is ended elsewhere, as stopped.
pub(crate) async fn give_up_in_passthrough(
    proxy: EngineProxy,
    sequencer: Arc<Sequencer>,
    gauge: Gauge,
    shutdown: Shutdown,
) {
    let mut passthrough = proxy.watch_passthrough();
    loop {
        let is_on = passthrough.borrow_and_update().is_some();
        gauge.set(is_on.into());
        if is_on {
            sequencer.give_up_all(AbandonReason::Passthrough);
        }
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return proxy.enter_passthrough("the process ends"),
            changed = passthrough.changed() => if changed.is_err() {
                return;
            },
        }
    }
}
