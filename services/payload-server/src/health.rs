//! Whether payloads can be served: what the builder says, asked twice a second.
//!
//! Anybody may ask for our health, and as often as he likes: he gets what was heard last.

use std::{convert::Infallible, time::Duration};

use preconf_chassis::{Chain, Check, Shutdown};
use preconf_payload_api::HealthBody;
use preconf_wire::payload::PayloadsClient;
use tokio::{sync::watch, time::interval};

const PERIOD: Duration = Duration::from_millis(500);
const DEADLINE: Duration = Duration::from_secs(1);

/// What the builder said last. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Healths(watch::Sender<HealthBody>);

impl Healths {
    /// Nothing has been heard yet.
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(HealthBody::default()))
    }

    pub(crate) fn now(&self) -> HealthBody {
        *self.0.borrow()
    }

    /// Asks the builder until shutdown.
    pub(crate) async fn follow(
        self,
        builder: PayloadsClient,
        check: Check,
        shutdown: Shutdown,
    ) -> Result<(), Infallible> {
        let mut ticks = interval(PERIOD);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                _ = ticks.tick() => {}
            }
            let health = match builder.health(DEADLINE).await {
                Ok(health) => {
                    check.ready();
                    health
                }
                Err(error) => {
                    check.not_ready(Chain(&error).to_string());
                    HealthBody::default()
                }
            };
            self.0.send_replace(health);
        }
    }
}
