//! The choice: the sequencer's payload if there is one in time and nothing is wrong with it, else
//! the execution client's.
//!
//! The door asks the execution client for its payload first, once, and keeps it while sequencers are
//! asked, so nothing that they do or leave undone delays the other: what is left when the budget is
//! spent is that answer, when it comes. The consensus client's id is the execution client's own:
//! whatever becomes of this process, it stands for a payload. The block to build on is looked up as
//! soon as the build is asked for, and the sequencers are connected to, so that getPayload need not
//! wait for it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use alloy_primitives::B256;
use alloy_rpc_types_engine::{ForkchoiceUpdated, PayloadId};
use preconf_engine::{
    EngineHooks, PayloadVersion,
    proxy::{ForkchoiceCall, HookFuture},
};
use preconf_payload_api::{PayloadResponse, SlotRule};
use serde_json::value::RawValue;
use tokio::{
    sync::OnceCell,
    task::{JoinError, spawn_blocking},
    time::timeout_at,
};
use tracing::{Instrument, debug, field, info, info_span, warn};

use crate::{
    checks::{self, Objection, Offer},
    execution::{Execution, ExecutionError},
    fetch::Sequencers,
    metrics::{Metrics, Source},
    wanted::{FeeRecipients, Job, Jobs, Wanted},
};

/// What is left of the budget, at least, for handing the payload over: timers and threads that are
/// late, and the way through the door.
const HANDING_OVER: Duration = Duration::from_millis(25);

/// The hooks of the sidecar.
#[derive(Debug)]
pub(crate) struct Sidecar {
    pub(crate) execution: Execution,
    pub(crate) sequencers: Arc<Sequencers>,
    pub(crate) jobs: Jobs,
    pub(crate) slots: SlotRule,
    pub(crate) fee_recipients: FeeRecipients,
    pub(crate) budget: Duration,
    pub(crate) metrics: Arc<Metrics>,
}

/// Why a block is left to the execution client.
#[derive(Debug, thiserror::Error)]
enum Fallback {
    /// Its attributes were not understood, or it is older than this process.
    #[error("the build that the payload is of was not seen")]
    UnknownBuild,
    #[error("looking up the block to build on")]
    Parent(#[source] ExecutionError),
    #[error("the call does not say which block is wanted")]
    NotUnderstood,
    #[error("no sequencer has a payload")]
    NothingFetched,
    #[error("no payload of a sequencer was any good")]
    NothingAccepted,
    #[error("the budget is spent")]
    OutOfTime,
}

/// Why a payload that was fetched is not handed out.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("there is something wrong with it")]
    Objection(#[source] Objection),
    #[error("the execution client refuses it")]
    Execution(#[source] ExecutionError),
    #[error("writing it")]
    Write(#[source] serde_json::Error),
    #[error("looking at it was not completed")]
    Unfinished(#[source] JoinError),
}

impl Sidecar {
    /// The sequencer's payload for the consensus client; none if it gets the execution client's.
    async fn choose(&self, version: PayloadVersion, id: PayloadId) -> Option<Box<RawValue>> {
        let began = Instant::now();
        let deadline = began + self.budget.saturating_sub(handing_over(self.budget));
        let preconfirmed = timeout_at(deadline.into(), self.preconfirmed(version, id, deadline));
        let fallback = match preconfirmed.await.unwrap_or(Err(Fallback::OutOfTime)) {
            Ok(payload) => {
                self.metrics.chosen(Source::Sequencer, began.elapsed());
                return Some(payload);
            }
            Err(fallback) => fallback,
        };
        self.metrics.fallback(fallback.reason());
        info!(
            error = &fallback as &dyn std::error::Error,
            "Failed to fetch from sequencer, falling back to local build"
        );
        self.metrics.chosen(Source::ExecutionClient, began.elapsed());
        None
    }

    /// The first payload of a sequencer that is good.
    async fn preconfirmed(
        &self,
        version: PayloadVersion,
        id: PayloadId,
        deadline: Instant,
    ) -> Result<Box<RawValue>, Fallback> {
        let job = self.jobs.get(id).ok_or(Fallback::UnknownBuild)?;
        let parent = self.execution.parent_of(&job, left(deadline)).await;
        let parent = parent.map_err(Fallback::Parent)?;
        let wanted = Wanted::new(version, &job, parent, self.slots, &self.fee_recipients);
        let wanted = Arc::new(wanted.ok_or(Fallback::NotUnderstood)?);
        let (slot, mut fallback) = (wanted.slot, Fallback::NothingFetched);
        let mut fetching = self.sequencers.ask(wanted.request(), deadline);
        while let Some((from, response)) = fetching.next().await {
            let sequencer = self.sequencers.host(from);
            let block_hash = response.execution_payload.payload_inner.payload_inner.block_hash;
            info!(slot, %block_hash, sequencer, "Successfully fetched payload from sequencer");
            let check = info_span!("check", %block_hash, sequencer);
            match self.accept(response, &wanted, deadline).instrument(check).await {
                Ok(payload) => {
                    info!(slot, %block_hash, sequencer, "Using payload from sequencer");
                    return Ok(payload);
                }
                Err(refusal) => {
                    let error = &refusal as &dyn std::error::Error;
                    warn!(error, slot, %block_hash, sequencer, "Sequencer payload refused");
                    self.metrics.refused(refusal.reason());
                    fallback = Fallback::NothingAccepted;
                }
            }
        }
        Err(fallback)
    }

    /// Checks a payload, has the execution client validate it, and writes it down.
    async fn accept(
        &self,
        response: PayloadResponse,
        wanted: &Arc<Wanted>,
        deadline: Instant,
    ) -> Result<Box<RawValue>, Refusal> {
        let expected = wanted.clone();
        let checked = spawn_blocking(move || checks::check(response, &expected)).await;
        let offer = checked.map_err(Refusal::Unfinished)?.map_err(Refusal::Objection)?;
        if let Some(boast) = offer.boast {
            warn!(%boast, "Sequencer payload is not worth what it says");
        }
        let offer = Arc::new(offer);
        let proving = spawn_blocking({
            let offer = offer.clone();
            move || offer.prove_blobs()
        });
        let proving =
            async { proving.await.map_err(Refusal::Unfinished)?.map_err(Refusal::Objection) };
        let validating = async {
            let validated = self.execution.validate(&offer, wanted, left(deadline)).await;
            validated.map_err(Refusal::Execution)
        };
        tokio::try_join!(proving, validating)?;
        let (offer, wanted): (Arc<Offer>, _) = (offer.clone(), wanted.clone());
        let written = spawn_blocking(move || offer.envelope(&wanted)).await;
        written.map_err(Refusal::Unfinished)?.map_err(Refusal::Write)
    }
}

/// The more there is to do, the more is kept back; of a small budget, no more than half.
fn handing_over(budget: Duration) -> Duration {
    HANDING_OVER.max(budget / 20).min(budget / 2)
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

impl EngineHooks for Sidecar {
    fn forkchoice_updated<'a>(
        &'a self,
        call: &'a ForkchoiceCall,
        answer: &'a ForkchoiceUpdated,
    ) -> HookFuture<'a, Option<PayloadId>> {
        if let (Some(id), Some(attributes)) = (answer.payload_id, &call.attributes) {
            let job = Job {
                head: call.state.head_block_hash,
                attributes: attributes.clone(),
                parent_proposer_pubkey: call.parent_proposer_pubkey,
                parent: OnceCell::new(),
            };
            let job = self.jobs.remember(id, job);
            let (execution, within) = (self.execution.clone(), self.budget);
            let early = async move {
                if let Err(error) = execution.parent_of(&job, within).await {
                    let error = &error as &dyn std::error::Error;
                    debug!(error, "the block to build on is looked up again at getPayload");
                }
            };
            // The consensus client does not wait for it. It ends within the budget.
            tokio::spawn(early.in_current_span());
            // Who asks for a build is about to propose.
            self.sequencers.connect();
        }
        // The id stays the execution client's, and its payload is asked for when ours is.
        let ours = answer.payload_id.filter(|_| call.attributes.is_some());
        Box::pin(std::future::ready(ours))
    }

    fn get_payload(
        &self,
        version: PayloadVersion,
        id: PayloadId,
    ) -> HookFuture<'_, Option<Box<RawValue>>> {
        let span = info_span!("getPayload", otel.kind = "server", source = field::Empty);
        Box::pin(self.choose(version, id).instrument(span))
    }

    fn forkchoice_unseen(&self, _head: Option<B256>) {}
}

impl Fallback {
    const fn reason(&self) -> &'static str {
        match self {
            Self::UnknownBuild => "build_unknown",
            Self::Parent(_) => "parent_unknown",
            Self::NotUnderstood => "not_understood",
            Self::NothingFetched => "nothing_fetched",
            Self::NothingAccepted => "nothing_accepted",
            Self::OutOfTime => "out_of_time",
        }
    }
}

impl Refusal {
    const fn reason(&self) -> &'static str {
        match self {
            Self::Objection(_) => "objection",
            Self::Execution(_) => "not_valid",
            Self::Write(_) | Self::Unfinished(_) => "unfinished",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_back_for_handing_over_grows_with_the_budget_and_leaves_half_of_it() {
        for (budget, kept) in [(50, 25), (100, 25), (500, 25), (2_000, 100), (10_000, 500)] {
            let budget = Duration::from_millis(budget);
            assert_eq!(handing_over(budget), Duration::from_millis(kept), "{budget:?}");
        }
        assert_eq!(handing_over(Duration::from_millis(20)), Duration::from_millis(10));
    }
}
