//! What is wrong with a payload that was fetched, before it costs the execution client anything.
//!
//! Each field that the consensus client will look at is compared with what it wants; then the block
//! is made of the payload and of what the payload leaves out, and has to have the hash that the
//! payload says. So another chain's block, or one on another beacon block, is refused here. Whether
//! the block is valid, the execution client says.
//!
//! Invariant: an [`Offer`] is a whole block with the hash that it says and all the blobs that it
//! names, but its proofs may not hold: looking at those takes as long as the execution client does,
//! and is done meanwhile.

use alloy_consensus::Transaction;
use alloy_eips::{eip4844::BlobTransactionSidecar, eip7594::BlobTransactionSidecarEip7594};
use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_rpc_types_engine::{BlobsBundleV1, BlobsBundleV2, ExecutionPayloadV3};
use preconf_assembly::{Sidecar, SidecarError, prove_blobs};
use preconf_chain::Block;
use preconf_engine::{
    PayloadVersion,
    payload::{
        BesidePayload, PayloadError, envelope_v3, envelope_v4, envelope_v4_p11, envelope_v5,
        from_payload, requests_hash, versioned_hashes,
    },
};
use preconf_payload_api::{BlobsBundle, ForkVersion, PayloadResponse};
use serde_json::value::{RawValue, to_raw_value};

use crate::wanted::{FeeRecipients, Wanted};

/// A payload with nothing wrong about it, as far as can be told without executing it.
#[derive(Debug)]
pub(crate) struct Offer {
    pub(crate) payload: ExecutionPayloadV3,
    pub(crate) requests: Vec<Bytes>,
    pub(crate) versioned_hashes: Vec<B256>,
    sidecar: Sidecar,
    /// What it is said to be worth, or the most that it can be, if that is less.
    value: U256,
    /// What it was said to be worth, if that is more than it can be.
    pub(crate) boast: Option<U256>,
}

/// What is wrong with a payload.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Objection {
    #[error("it is of fork {0}")]
    Fork(ForkVersion),
    #[error("it follows {got}, not {want}")]
    Parent { got: B256, want: B256 },
    #[error("it has number {got}, not {want}")]
    Number { got: u64, want: u64 },
    #[error("its time {got} is not in {earliest}..={latest}")]
    Timestamp { got: u64, earliest: u64, latest: u64 },
    #[error("it has another prevRandao")]
    Randao,
    #[error("it has other withdrawals")]
    Withdrawals,
    #[error("its fees go to {0}")]
    FeeRecipient(Address),
    #[error("it has execution requests before Prague")]
    EarlyRequests,
    #[error("making its block")]
    Block(#[source] PayloadError),
    #[error("it has {blobs} blobs, and names {named}")]
    BlobCount { blobs: usize, named: usize },
    #[error("looking at its blobs")]
    Blobs(#[source] SidecarError),
}

/// Compares a payload with what is wanted.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check(response: PayloadResponse, wanted: &Wanted) -> Result<Offer, Objection> {
    let PayloadResponse {
        fork_version,
        execution_payload: payload,
        blobs_bundle,
        block_value: value,
        execution_requests: requests,
    } = response;
    if !is_asked_for_with(fork_version, wanted.version) {
        return Err(Objection::Fork(fork_version));
    }
    compare(&payload, wanted)?;
    let beside = BesidePayload {
        parent_beacon_block_root: Some(wanted.parent_beacon_block_root),
        requests_hash: match wanted.version {
            PayloadVersion::V3 if requests.is_empty() => None,
            PayloadVersion::V3 => return Err(Objection::EarlyRequests),
            PayloadVersion::V4 | PayloadVersion::V5 | PayloadVersion::V4P11 => {
                Some(requests_hash(&requests).map_err(Objection::Block)?)
            }
        },
        prev_proposer_pubkey: wanted.parent_proposer_pubkey,
    };
    let block = from_payload(payload.clone(), &beside).map_err(Objection::Block)?;
    let versioned_hashes = versioned_hashes(&block);
    let (blobs, named) = (blobs_bundle.blobs.len(), versioned_hashes.len());
    if blobs != named {
        return Err(Objection::BlobCount { blobs, named });
    }
    let sidecar = sidecar(blobs_bundle, wanted.version);
    let most = most_that_is_paid(&block);
    let (value, boast) = (value.min(most), Some(value).filter(|value| *value > most));
    Ok(Offer { payload, requests, versioned_hashes, sidecar, value, boast })
}

/// What the transactions of a block pay its fee recipient if each burns all of its gas.
fn most_that_is_paid(block: &Block) -> U256 {
    let base_fee = block.header.base_fee_per_gas.unwrap_or_default();
    let paid = block.body.transactions.iter().map(|transaction| {
        let tip = transaction.effective_tip_per_gas(base_fee).unwrap_or_default();
        U256::from(tip) * U256::from(transaction.gas_limit())
    });
    paid.fold(U256::ZERO, U256::saturating_add)
}

/// Whether payloads of a fork are asked for with this version of the method.
fn is_asked_for_with(fork: ForkVersion, version: PayloadVersion) -> bool {
    let forks: &[ForkVersion] = match version {
        PayloadVersion::V3 => &[ForkVersion::DENEB, ForkVersion::DENEB1],
        PayloadVersion::V4 => &[ForkVersion::ELECTRA],
        PayloadVersion::V5 => &[ForkVersion::FULU],
        PayloadVersion::V4P11 => &[ForkVersion::ELECTRA1, ForkVersion::FULU],
    };
    forks.contains(&fork)
}

fn compare(payload: &ExecutionPayloadV3, wanted: &Wanted) -> Result<(), Objection> {
    let withdrawals = &payload.payload_inner.withdrawals;
    let payload = &payload.payload_inner.payload_inner;
    if payload.parent_hash != wanted.parent_hash {
        return Err(Objection::Parent { got: payload.parent_hash, want: wanted.parent_hash });
    }
    if payload.block_number != wanted.number {
        return Err(Objection::Number { got: payload.block_number, want: wanted.number });
    }
    if !wanted.timestamps.contains(&payload.timestamp) {
        let (earliest, latest) = wanted.timestamps.clone().into_inner();
        return Err(Objection::Timestamp { got: payload.timestamp, earliest, latest });
    }
    if payload.prev_randao != wanted.prev_randao {
        return Err(Objection::Randao);
    }
    if *withdrawals != wanted.withdrawals {
        return Err(Objection::Withdrawals);
    }
    let recipient = payload.fee_recipient;
    let is_paid_well = match &wanted.fee_recipients {
        FeeRecipients::Any => true,
        FeeRecipients::Own => recipient == wanted.fee_recipient,
        FeeRecipients::These(these) => these.contains(&recipient),
    };
    if is_paid_well { Ok(()) } else { Err(Objection::FeeRecipient(recipient)) }
}

fn sidecar(bundle: BlobsBundle, version: PayloadVersion) -> Sidecar {
    let BlobsBundle { commitments, proofs, blobs } = bundle;
    match version {
        PayloadVersion::V3 | PayloadVersion::V4 | PayloadVersion::V4P11 => {
            BlobTransactionSidecar { blobs, commitments, proofs }.into()
        }
        PayloadVersion::V5 => BlobTransactionSidecarEip7594::new(blobs, commitments, proofs).into(),
    }
}

impl Offer {
    /// Looks whether the blobs are those that the block names.
    ///
    /// # Errors
    /// If not, or their proofs do not hold.
    pub(crate) fn prove_blobs(&self) -> Result<(), Objection> {
        if self.versioned_hashes.is_empty() && self.sidecar.commitments().is_empty() {
            return Ok(());
        }
        prove_blobs(&self.sidecar, &self.versioned_hashes).map_err(Objection::Blobs)
    }

    /// The hash of the block.
    pub(crate) fn hash(&self) -> B256 {
        self.payload.payload_inner.payload_inner.block_hash
    }

    /// The answer to getPayload.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn envelope(&self, wanted: &Wanted) -> Result<Box<RawValue>, serde_json::Error> {
        let (payload, value) = (self.payload.clone(), self.value);
        let requests = || self.requests.clone();
        match wanted.version {
            PayloadVersion::V3 => to_raw_value(&envelope_v3(payload, value, self.blobs())),
            PayloadVersion::V4 => {
                to_raw_value(&envelope_v4(payload, value, self.blobs(), requests()))
            }
            PayloadVersion::V5 => {
                to_raw_value(&envelope_v5(payload, value, self.blobs_with_cells(), requests()))
            }
            PayloadVersion::V4P11 => {
                let key = wanted.parent_proposer_pubkey;
                to_raw_value(&envelope_v4_p11(payload, value, self.blobs(), requests(), key))
            }
        }
    }

    fn blobs(&self) -> BlobsBundleV1 {
        let sidecar = self.sidecar.as_eip4844().cloned().unwrap_or_default();
        let BlobTransactionSidecar { blobs, commitments, proofs } = sidecar;
        BlobsBundleV1 { blobs, commitments, proofs }
    }

    fn blobs_with_cells(&self) -> BlobsBundleV2 {
        let sidecar = self.sidecar.as_eip7594().cloned().unwrap_or_default();
        let BlobTransactionSidecarEip7594 { blobs, commitments, cell_proofs } = sidecar;
        BlobsBundleV2 { blobs, commitments, proofs: cell_proofs }
    }
}

#[cfg(test)]
mod tests;
