//! Sealing: from an executed block to one that the execution client calls VALID (D12).
//!
//! The state root comes from the execution client, which executes the same transactions
//! (`testing_buildBlockV1`); everything else is ours, and is compared with what the client found.
//! What comes out is checked by newPayload before anybody gets it. The blobs are handed out beside
//! the block; the client never sees them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use alloy_consensus::{BlockHeader as _, Transaction as _, TxReceipt as _};
use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_rpc_types_engine::{BlobsBundleV1, BlobsBundleV2, ExecutionPayloadV3, PayloadStatusEnum};
use preconf_assembly::Sidecar;
use preconf_chain::{Block, Header, Transaction};
use preconf_engine::{
    EngineClient, EngineError,
    payload::{
        envelope_v3, envelope_v4, envelope_v4_p11, envelope_v5, to_payload, versioned_hashes,
    },
    proxy::PayloadVersion,
};
use preconf_evm::{ExecutionError, Outcome, Paused};
use preconf_state::StateCache;
use preconf_upstream::{StateFetcher, UpstreamError};
use serde_json::value::{RawValue, to_raw_value};

use crate::sequencer::Attributes;

/// How often state that the end of a block needs is fetched before it is given up.
const STATE_ROUNDS: u32 = 16;

/// A block that the execution client has called VALID.
#[derive(Debug)]
pub(crate) struct SealedBlock {
    /// Its hash.
    pub(crate) hash: B256,
    /// Its header.
    pub(crate) header: Header,
    /// Its transactions.
    pub(crate) transactions: Arc<Vec<Transaction>>,
    /// The state after it, as far as it is in memory.
    pub(crate) cache: StateCache,
    payload: ExecutionPayloadV3,
    requests: Vec<Bytes>,
    /// The blobs of its transactions, in their order.
    sidecars: Vec<Arc<Sidecar>>,
    value: U256,
}

/// Why a block could not be sealed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SealError {
    #[error("executing the end of the block")]
    Execution(#[source] ExecutionError),
    #[error("reading the state that the end of the block needs")]
    State(#[source] UpstreamError),
    #[error("asking the execution client for the state root")]
    StateRoot(#[source] UpstreamError),
    #[error("the execution client finds {field} {theirs}, we find {ours}")]
    Divergence { field: &'static str, ours: String, theirs: String },
    #[error("the blobs are not those of the block's transactions")]
    Blobs,
    #[error("asking the execution client whether the block is valid")]
    NewPayload(#[source] EngineError),
    #[error("the execution client does not call the block valid: {0}")]
    NotValid(String),
    #[error("the executor panicked")]
    Panicked,
}

/// What sealing needs besides the block.
#[derive(Clone, Debug)]
pub(crate) struct Sealer {
    pub(crate) fetcher: StateFetcher,
    pub(crate) engine: EngineClient,
    pub(crate) deadline: Duration,
}

impl Sealer {
    /// Seals `block`, which was asked for with `attributes`. `sidecars` are the blobs of its
    /// transactions, in their order.
    pub(crate) async fn seal(
        &self,
        block: Paused<StateCache>,
        sidecars: Vec<Arc<Sidecar>>,
        attributes: &Attributes,
    ) -> Result<SealedBlock, SealError> {
        let outcome = Arc::new(self.finish(block).await?);
        // The chain's own transactions are added by whoever builds the block.
        let users = outcome.transactions.iter().filter(|sent| !sent.envelope().is_pol());
        let encoded: Vec<Bytes> = users.map(|transaction| transaction.encoded().clone()).collect();
        let theirs = self.fetcher.upstream().testing_build_block(
            outcome.block.parent_hash,
            attributes,
            &encoded,
            &outcome.block.extra_data,
        );
        let theirs = theirs.await.map_err(SealError::StateRoot)?;
        let payload = theirs.envelope_inner.execution_payload;
        let state_root = payload.payload_inner.payload_inner.state_root;

        let ours = blocking({
            let outcome = outcome.clone();
            move || outcome.block(state_root)
        });
        let ours = ours.await?;
        compare(&ours, &payload, &outcome.requests, &theirs.execution_requests)?;
        self.validate(&outcome, ours, sidecars).await
    }

    /// Executes what comes after the last transaction.
    async fn finish(&self, block: Paused<StateCache>) -> Result<Outcome<StateCache>, SealError> {
        let mut rounds = 0;
        loop {
            let attempt = block.clone();
            match blocking(move || attempt.finish()).await? {
                Ok(outcome) => return Ok(outcome),
                Err(ExecutionError::NeedState(keys)) if rounds < STATE_ROUNDS => {
                    rounds += 1;
                    let cache = block.overlay().reader();
                    self.fetcher.ensure(cache, &keys).await.map_err(SealError::State)?;
                }
                Err(error) => return Err(SealError::Execution(error)),
            }
        }
    }

    async fn validate(
        &self,
        outcome: &Outcome<StateCache>,
        block: Block,
        sidecars: Vec<Arc<Sidecar>>,
    ) -> Result<SealedBlock, SealError> {
        let hash = block.header.hash_slow();
        let payload = to_payload(&block);
        let requests: Vec<Bytes> = outcome.requests.iter().cloned().collect();
        let blobs = versioned_hashes(&block);
        let beside = sidecars.iter().flat_map(|sidecar| sidecar.versioned_hashes());
        if !beside.eq(blobs.iter().copied()) {
            return Err(SealError::Blobs);
        }
        let root = block.header.parent_beacon_block_root.unwrap_or_default();
        let (engine, deadline) = (&self.engine, self.deadline);
        let status = match &block.header.prev_proposer_pubkey {
            Some(key) => {
                engine.new_payload_v4_p11(&payload, &blobs, root, &requests, key, deadline).await
            }
            None if block.header.requests_hash.is_some() => {
                engine.new_payload_v4(&payload, &blobs, root, &requests, deadline).await
            }
            None => engine.new_payload_v3(&payload, &blobs, root, deadline).await,
        };
        let status = status.map_err(SealError::NewPayload)?;
        if status.status != PayloadStatusEnum::Valid {
            return Err(SealError::NotValid(status.status.to_string()));
        }
        let cache = outcome.overlay.reader().advance(&outcome.diff(), block.header.number, hash);
        Ok(SealedBlock {
            hash,
            transactions: outcome.transactions.clone(),
            cache,
            payload,
            requests,
            sidecars,
            value: value(outcome),
            header: block.header,
        })
    }
}

impl SealedBlock {
    /// This block on a state of which nothing is known, without blobs and requests.
    #[cfg(test)]
    pub(crate) fn of(block: &Block) -> Self {
        let hash = block.header.hash_slow();
        Self {
            hash,
            header: block.header.clone(),
            transactions: Arc::default(),
            cache: StateCache::new(block.header.number, hash, 0),
            payload: to_payload(block),
            requests: Vec::new(),
            sidecars: Vec::new(),
            value: U256::ZERO,
        }
    }

    /// Whether anybody's transaction is in it.
    pub(crate) fn is_used(&self) -> bool {
        self.transactions.iter().any(|transaction| !transaction.envelope().is_pol())
    }

    /// The answer to getPayload. Writing blobs takes longer than the runtime should wait.
    pub(crate) async fn envelope(
        self: Arc<Self>,
        version: PayloadVersion,
    ) -> Option<Box<RawValue>> {
        blocking(move || self.write(version)).await.ok()?.ok()
    }

    fn write(&self, version: PayloadVersion) -> Result<Box<RawValue>, serde_json::Error> {
        let payload = self.payload.clone();
        match version {
            PayloadVersion::V3 => {
                to_raw_value(&envelope_v3(payload, self.value, self.blobs_with_proofs()))
            }
            PayloadVersion::V4 => {
                let (bundle, requests) = (self.blobs_with_proofs(), self.requests.clone());
                to_raw_value(&envelope_v4(payload, self.value, bundle, requests))
            }
            PayloadVersion::V5 => {
                let (bundle, requests) = (self.blobs_with_cell_proofs(), self.requests.clone());
                to_raw_value(&envelope_v5(payload, self.value, bundle, requests))
            }
            PayloadVersion::V4P11 => {
                let (bundle, requests) = (self.blobs_with_proofs(), self.requests.clone());
                let key = self.header.prev_proposer_pubkey;
                to_raw_value(&envelope_v4_p11(payload, self.value, bundle, requests, key))
            }
        }
    }

    fn blobs_with_proofs(&self) -> BlobsBundleV1 {
        let mut bundle = BlobsBundleV1::empty();
        for sidecar in self.sidecars.iter().filter_map(|sidecar| sidecar.as_eip4844()) {
            bundle.commitments.extend_from_slice(&sidecar.commitments);
            bundle.proofs.extend_from_slice(&sidecar.proofs);
            bundle.blobs.extend_from_slice(&sidecar.blobs);
        }
        bundle
    }

    fn blobs_with_cell_proofs(&self) -> BlobsBundleV2 {
        let mut bundle = BlobsBundleV2::empty();
        for sidecar in self.sidecars.iter().filter_map(|sidecar| sidecar.as_eip7594()) {
            bundle.commitments.extend_from_slice(&sidecar.commitments);
            bundle.proofs.extend_from_slice(&sidecar.cell_proofs);
            bundle.blobs.extend_from_slice(&sidecar.blobs);
        }
        bundle
    }

    /// Sender, nonce and hash of each transaction that somebody sent.
    pub(crate) fn used(&self) -> Vec<(Address, u64, B256)> {
        used(&self.transactions)
    }
}

/// Sender, nonce and hash of each transaction that somebody sent.
pub(crate) fn used(transactions: &[Transaction]) -> Vec<(Address, u64, B256)> {
    let users = transactions.iter().filter(|sent| !sent.envelope().is_pol());
    let used = users.map(|transaction| {
        (transaction.signer(), transaction.envelope().nonce(), *transaction.hash())
    });
    used.collect()
}

/// What the execution client found for the same transactions must be what we found.
fn compare(
    ours: &Block,
    theirs: &ExecutionPayloadV3,
    our_requests: &alloy_eips::eip7685::Requests,
    their_requests: &alloy_eips::eip7685::Requests,
) -> Result<(), SealError> {
    let payload = &theirs.payload_inner.payload_inner;
    let header = &ours.header;
    let fields: BTreeMap<&'static str, (String, String)> = BTreeMap::from([
        (
            "transactions",
            (ours.body.transactions.len().to_string(), payload.transactions.len().to_string()),
        ),
        ("gasUsed", (header.gas_used.to_string(), payload.gas_used.to_string())),
        ("receiptsRoot", (header.receipts_root.to_string(), payload.receipts_root.to_string())),
        ("logsBloom", (header.logs_bloom().to_string(), payload.logs_bloom.to_string())),
        (
            "blobGasUsed",
            (
                header.blob_gas_used.unwrap_or_default().to_string(),
                theirs.blob_gas_used.to_string(),
            ),
        ),
        (
            "executionRequests",
            (our_requests.requests_hash().to_string(), their_requests.requests_hash().to_string()),
        ),
    ]);
    for (field, (ours, theirs)) in fields {
        if ours != theirs {
            return Err(SealError::Divergence { field, ours, theirs });
        }
    }
    Ok(())
}

/// What the fee recipient earns: the tips of all transactions, in wei.
fn value(outcome: &Outcome<StateCache>) -> U256 {
    let base_fee = outcome.block.base_fee_per_gas;
    let mut before = 0;
    let executed = outcome.transactions.iter().zip(&outcome.receipts);
    let tips = executed.map(|(transaction, receipt)| {
        let gas = receipt.cumulative_gas_used() - before;
        before = receipt.cumulative_gas_used();
        let tip = transaction.envelope().effective_tip_per_gas(base_fee).unwrap_or_default();
        U256::from(tip) * U256::from(gas)
    });
    tips.fold(U256::ZERO, U256::saturating_add)
}

/// Runs work that takes longer than the runtime should wait.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, SealError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| SealError::Panicked)
}
