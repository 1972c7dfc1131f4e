//! The payload servers' door: the block of a slot, sealed exactly as for the consensus client.
//!
//! A block is asked for by its slot and the beacon block before it. Both must fit: the root alone
//! would let the proposer of one slot ask for the next one's block, and asking seals. Asked again,
//! by whichever server, it is the same block.
//!
//! A build that is not there yet, or has no block yet, is waited for, as beacon-kit does it: a few
//! tries, no longer than the caller waits (who is gone, is not waited for). What has failed is not
//! tried again: the caller has something better to do with the time.

use std::{sync::Arc, time::Duration};

use alloy_eips::eip7685::Requests;
use alloy_rpc_types_engine::{
    ExecutionPayloadEnvelopeV3, ExecutionPayloadEnvelopeV4, ExecutionPayloadEnvelopeV5,
};
use preconf_engine::PayloadVersion;
use preconf_payload_api::{ForkVersion, HealthBody, PayloadRequest, PayloadResponse, SlotRule};
use preconf_wire::payload::{Absence, NoPayload, PayloadService};
use serde_json::value::RawValue;
use tokio::time::{sleep, timeout};
use tracing::{error, info};

use crate::sequencer::{Asker, Attributed, Lack, Sequencer};

/// How often a build is looked for.
pub(crate) const TRIES: u32 = 5;
/// From one try to the next.
pub(crate) const PAUSE: Duration = Duration::from_millis(50);
/// How long the execution client may take to say that it is there.
const HEALTH: Duration = Duration::from_millis(500);

/// Serves payload servers.
pub(crate) struct Payloads {
    sequencer: Arc<Sequencer>,
    slots: SlotRule,
}

impl Payloads {
    pub(crate) fn new(sequencer: &Arc<Sequencer>, slots: SlotRule) -> Self {
        Self { sequencer: sequencer.clone(), slots }
    }

    /// The newest build for this slot after this beacon block.
    async fn build(&self, request: &PayloadRequest) -> Option<Attributed> {
        let build = self.sequencer.builds.after_beacon_block(request.parent_block_root)?;
        let slot = match self.slots {
            SlotRule::Number => self.sequencer.number(&build).await,
            SlotRule::Time { .. } => self.slots.slot(0, build.timestamp),
        };
        (slot == Some(request.slot)).then_some(build)
    }

    async fn seal(&self, build: Attributed) -> Result<PayloadResponse, NoPayload> {
        let spec = &self.sequencer.spec;
        let version = PayloadVersion::of_get_payload(spec, build.timestamp);
        let fork = ForkVersion::at(spec, build.timestamp);
        let sealed = self.sequencer.payload(version, build.id, Asker::PayloadServer).await;
        let envelope = sealed.map_err(|lack| match lack {
            Lack::Absent => NoPayload::Absent(Absence::NotAvailable),
            Lack::Failed => NoPayload::Failed,
        })?;
        // Blobs make it megabytes: longer than a thread of the runtime may be held.
        let read = tokio::task::spawn_blocking(move || response(fork, version, &envelope)).await;
        read.map_err(|error| error.to_string())
            .and_then(|read| read.map_err(|error| error.to_string()))
            .map_err(|error| {
                error!(id = %build.id, error, "the execution client's payload was not understood");
                NoPayload::Failed
            })
    }
}

impl PayloadService for Payloads {
    async fn payload(&self, request: PayloadRequest) -> Result<PayloadResponse, NoPayload> {
        let mut absence = Absence::NoBuild;
        for attempt in 1..=TRIES {
            if let Some(build) = self.build(&request).await {
                match self.seal(build).await {
                    Ok(payload) => {
                        if attempt > 1 {
                            info!(
                                slot = request.slot,
                                attempt, "GetPayloadBySlot succeeded after retry"
                            );
                        }
                        return Ok(payload);
                    }
                    Err(NoPayload::Absent(reason)) => absence = reason,
                    Err(NoPayload::Failed) => {
                        error!(slot = request.slot, attempt, "GetPayloadBySlot failed");
                        return Err(NoPayload::Failed);
                    }
                }
            }
            if attempt < TRIES {
                sleep(PAUSE).await;
            }
        }
        info!(slot = request.slot, "GetPayloadBySlot failed after retries");
        Err(absence.into())
    }

    async fn health(&self) -> HealthBody {
        let head = self.sequencer.head.borrow().as_ref().map(|head| head.header.number);
        let theirs = timeout(HEALTH, self.sequencer.fetcher.upstream().latest()).await;
        let theirs = theirs.ok().and_then(Result::ok).map(|latest| latest.number);
        HealthBody {
            is_ready: head.is_some(),
            is_syncing: matches!((head, theirs), (Some(ours), Some(theirs)) if theirs < ours),
            el_connected: theirs.is_some(),
        }
    }
}

/// The answer to getPayload, as validators get it.
fn response(
    fork_version: ForkVersion,
    version: PayloadVersion,
    envelope: &RawValue,
) -> Result<PayloadResponse, serde_json::Error> {
    let text = envelope.get();
    let (execution_payload, blobs_bundle, block_value, requests) = match version {
        PayloadVersion::V3 => {
            let read: ExecutionPayloadEnvelopeV3 = serde_json::from_str(text)?;
            let bundle = read.blobs_bundle.into();
            (read.execution_payload, bundle, read.block_value, Requests::default())
        }
        PayloadVersion::V4 | PayloadVersion::V4P11 => {
            let read: ExecutionPayloadEnvelopeV4 = serde_json::from_str(text)?;
            let (read, requests) = (read.envelope_inner, read.execution_requests);
            (read.execution_payload, read.blobs_bundle.into(), read.block_value, requests)
        }
        PayloadVersion::V5 => {
            let read: ExecutionPayloadEnvelopeV5 = serde_json::from_str(text)?;
            let (bundle, requests) = (read.blobs_bundle.into(), read.execution_requests);
            (read.execution_payload, bundle, read.block_value, requests)
        }
    };
    let execution_requests = requests.take();
    Ok(PayloadResponse {
        fork_version,
        execution_payload,
        blobs_bundle,
        block_value,
        execution_requests,
    })
}
