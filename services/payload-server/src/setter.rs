//! The door for consensus clients that say whose turn it is.

use preconf_telemetry::metrics::Counter;
use preconf_wire::payload::{NotAPoint, Proposer, ProposerService};
use tracing::info;

use crate::turns::{Source, Turns};

/// Takes announcements.
pub(crate) struct Setter {
    pub(crate) turns: Turns,
    pub(crate) announced: Counter,
}

impl ProposerService for Setter {
    async fn set_proposer(&self, proposer: Proposer) -> Result<(), NotAPoint> {
        let Proposer { slot, round, pubkey } = proposer;
        let address = pubkey.address().map_err(|_| NotAPoint)?;
        if self.turns.announce(Source::Announcer, slot, round, address) {
            self.announced.inc();
            info!(slot, round, %pubkey, "proposer announced");
        }
        Ok(())
    }
}
