//! The choice: the sequencer's payload if there is one in time and nothing is wrong with it, else
//! the execution client's.
//!
//! The execution client is asked first and its payload kept, while sequencers are asked, so nothing
//! that they do or leave undone delays the other. The consensus client's id is the execution
//! client's own: whatever becomes of this process, it stands for a payload.

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
    pin,
    task::{JoinError, spawn_blocking},
    time::timeout_at,
};
use tracing::{debug, info, warn};

use crate::{
    checks::{self, Objection, Offer},
    execution::{Execution, ExecutionError},
    fetch::Sequencers,
    metrics::{Metrics, Source},
    wanted::{FeeRecipients, Job, Jobs, Wanted},
};

/// What is left of the budget for handing the payload over.
const HANDING_OVER: Duration = Duration::from_millis(10);

/// The hooks of the sidecar.
#[derive(Debug)]
pub(crate) struct Sidecar {
    pub(crate) execution: Execution,
    pub(crate) sequencers: Sequencers,
    pub(crate) jobs: Jobs,
    pub(crate) slots: SlotRule,
    pub(crate) fee_recipients: FeeRecipients,
    pub(crate) budget: Duration,
    pub(crate) metrics: Arc<Metrics>,
}

/// Why a block is left to the execution client.
#[derive(Debug, thiserror::Error)]
enum Fallback {
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
    /// The payload for the consensus client; none if it is to be asked of the execution client.
    async fn choose(&self, version: PayloadVersion, id: PayloadId) -> Option<Box<RawValue>> {
        // Without a job: its attributes were not understood, or it is older than this process.
        let job = self.jobs.get(id)?;
        let began = Instant::now();
        let deadline = began + self.budget.saturating_sub(HANDING_OVER);
        let own = self.execution.payload(version, id, self.budget);
        let theirs = async {
            let preconfirmed = self.preconfirmed(version, &job, deadline);
            let in_time = timeout_at(deadline.into(), preconfirmed).await;
            in_time.unwrap_or(Err(Fallback::OutOfTime))
        };
        pin!(own, theirs);
        // In this order: the execution client is asked first.
        let (theirs, kept) = tokio::select! {
            biased;
            kept = &mut own => (theirs.await, Some(kept)),
            theirs = &mut theirs => (theirs, None),
        };
        let fallback = match theirs {
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
        let kept = match kept {
            Some(kept) => kept,
            None => timeout_at(deadline.into(), own).await.unwrap_or(Err(ExecutionError::Late)),
        };
        let source = if kept.is_ok() { Source::ExecutionClient } else { Source::Forwarded };
        self.metrics.chosen(source, began.elapsed());
        kept.map_err(|error| {
            let error = &error as &dyn std::error::Error;
            debug!(error, "the execution client's payload was not kept: the call is forwarded");
        })
        .ok()
    }

    /// The first payload of a sequencer that is good.
    async fn preconfirmed(
        &self,
        version: PayloadVersion,
        job: &Job,
        deadline: Instant,
    ) -> Result<Box<RawValue>, Fallback> {
        let parent = self.execution.parent(job.head, left(deadline)).await;
        let parent = parent.map_err(Fallback::Parent)?;
        let wanted = Wanted::new(version, job, parent, self.slots, &self.fee_recipients);
        let wanted = Arc::new(wanted.ok_or(Fallback::NotUnderstood)?);
        let (slot, mut fallback) = (wanted.slot, Fallback::NothingFetched);
        let mut fetching = self.sequencers.ask(wanted.request(), deadline);
        while let Some((from, response)) = fetching.next().await {
            let sequencer = self.sequencers.host(from);
            let block_hash = response.execution_payload.payload_inner.payload_inner.block_hash;
            debug!(slot, %block_hash, sequencer, "Successfully fetched payload from sequencer");
            match self.accept(response, &wanted, deadline).await {
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
            };
            self.jobs.remember(id, job);
        }
        // The id stays the execution client's.
        Box::pin(std::future::ready(None))
    }

    fn get_payload(
        &self,
        version: PayloadVersion,
        id: PayloadId,
    ) -> HookFuture<'_, Option<Box<RawValue>>> {
        Box::pin(self.choose(version, id))
    }

    fn forkchoice_unseen(&self, _head: Option<B256>) {}
}

impl Fallback {
    const fn reason(&self) -> &'static str {
        match self {
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
