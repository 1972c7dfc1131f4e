//! What a proposer does when its slot comes, by how it gets the sequencer's block.
//!
//! Directly or natively: it takes the sequencer's block if its own client calls it valid, else its own
//! client's. Behind a sidecar: it takes what its Engine API says. What the other validators do not
//! accept is no block, and the round is lost: that is counted as a miss of its proposer.

use std::time::Duration;

use alloy_rpc_types_engine::PayloadId;
use preconf_chassis::Chain;
use preconf_engine::EngineClient;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::warn;

use super::{
    ConsensusError, DEADLINE, Driver, Source,
    proposal::{Proposal, Rejected},
    ways::{Native, Way},
};

/// How much longer than for a sequencer a proposer waits for its own Engine API, before it has missed
/// its turn.
const GRACE: Duration = Duration::from_millis(500);
/// From one try to the next of an Engine API that does not answer.
const PAUSE: Duration = Duration::from_millis(20);

/// What a proposer comes up with.
#[derive(Debug)]
pub(super) enum Proposed {
    /// A block that everybody accepts.
    Block(Box<Proposal>, Source),
    /// Nothing, or what nobody accepts, because of this.
    Nothing(String),
}

impl Driver {
    pub(super) async fn propose(&mut self) -> Result<Proposed, ConsensusError> {
        let theirs = match self.way() {
            Way::Sidecar(door) => return Ok(self.propose_from(&door).await),
            Way::Native(native) => self.fetch_from(&native).await,
            Way::Direct => match self.wanted.sequencer {
                None if self.sequencer.is_silent() => Err(Rejected::Silent),
                id => self.fetch(&self.doors.sequencer, id, self.config.patience).await,
            },
        };
        let reason = match self.accept(theirs).await {
            // Its own client does not know what the others compare.
            Ok(proposal) => {
                return Ok(match proposal.difference(self.head.hash, &self.wanted.attributes) {
                    None => Proposed::Block(Box::new(proposal), Source::Builder),
                    Some(field) => Proposed::Nothing(Rejected::Other(field).to_string()),
                });
            }
            Err(rejected) => Chain(&rejected).to_string(),
        };
        warn!(reason, number = self.head.number + 1, "the builder's block is not proposed");
        let own = self.fetch(&self.doors.validators, self.wanted.validators, DEADLINE).await;
        let own = self.accept(own).await;
        let own = own.map_err(|rejected| ConsensusError::OwnBlock(Box::new(rejected)))?;
        Ok(Proposed::Block(Box::new(own), Source::Fallback(reason)))
    }

    /// From the payload server: only what makes it a block is looked at.
    async fn fetch_from(&self, native: &Native) -> Result<Proposal, Rejected> {
        let attributes = &self.wanted.attributes;
        let ethereum = &attributes.ethereum;
        let root = ethereum.parent_beacon_block_root.unwrap_or_default();
        let number = self.head.number + 1;
        let request = self.announcer.as_ref();
        let request = request.and_then(|it| it.request(number, ethereum.timestamp, root));
        let request = request.ok_or(Rejected::NotBuilding)?;
        let response = native.fetch(&request, self.config.patience).await?;
        Proposal::read(response.execution_payload, response.execution_requests, attributes)
    }

    /// From an Engine API behind which there is somebody else's choice.
    async fn propose_from(&mut self, door: &EngineClient) -> Proposed {
        let deadline = Instant::now() + self.config.patience + GRACE;
        let ordered = timeout_at(deadline, self.ordering.join_next()).await;
        let Ok(Some(Ok(Some(id)))) = ordered else {
            return Proposed::Nothing("the sidecar did not order a block".to_owned());
        };
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let fetched = self.fetch(door, Some(id), left).await;
            match self.accept(fetched).await {
                Ok(proposal) => {
                    let source = self.origin(&proposal, id).await;
                    return Proposed::Block(Box::new(proposal), source);
                }
                // It may be started again in time.
                Err(Rejected::NotHandedOut(_)) if Instant::now() + PAUSE < deadline => {
                    sleep(PAUSE).await;
                }
                Err(rejected) => return Proposed::Nothing(Chain(&rejected).to_string()),
            }
        }
    }

    /// Whose block a sidecar has handed out: the execution client gives its own again.
    async fn origin(&self, proposal: &Proposal, id: PayloadId) -> Source {
        match self.fetch(&self.doors.validators, Some(id), DEADLINE).await {
            Ok(own) if own.hash() == proposal.hash() => {
                Source::Fallback("the sidecar handed out the execution client's block".to_owned())
            }
            Ok(_) | Err(_) => Source::Builder,
        }
    }

    async fn fetch(
        &self,
        door: &EngineClient,
        id: Option<PayloadId>,
        deadline: Duration,
    ) -> Result<Proposal, Rejected> {
        let id = id.ok_or(Rejected::NotBuilding)?;
        Proposal::fetch(door, id, self.head.hash, &self.wanted.attributes, deadline).await
    }

    /// Asks the validators' client, as every validator does before it accepts a block.
    async fn accept(&self, proposal: Result<Proposal, Rejected>) -> Result<Proposal, Rejected> {
        let proposal = proposal?;
        let status = proposal.new_payload(&self.doors.validators, DEADLINE).await;
        let status = status.map_err(Rejected::Unchecked)?;
        if status.is_valid() { Ok(proposal) } else { Err(Rejected::Invalid(status.to_string())) }
    }
}
