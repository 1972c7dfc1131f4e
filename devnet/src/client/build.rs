//! Building blocks: of one's own for a payload, or of given transactions.
//!
//! A payload is built when it is fetched, from what waits by then, best tip first, and never
//! changes afterwards. A block of given transactions holds exactly these, in this order, or is not
//! built. Nothing that is built enters the chain unless it comes back as a payload.

use std::sync::Arc;

use alloy_consensus::Transaction as _;
use alloy_eips::eip7685::Requests;
use alloy_primitives::{B256, Bytes, U256};
use alloy_rpc_types_engine::{
    BlobsBundleV1, BlobsBundleV2, ExecutionPayloadEnvelopeV2, ExecutionPayloadEnvelopeV3,
    ExecutionPayloadEnvelopeV4, ExecutionPayloadEnvelopeV5, ExecutionPayloadFieldV2, PayloadId,
};
use preconf_chain::{Block, ChainSpec, Header, Receipt, Transaction};
use preconf_engine::BerachainEnvelope;
use preconf_engine::payload::{envelope_v3, envelope_v4, envelope_v4_p11, envelope_v5, to_payload};
use preconf_evm::{NextBlock, Paused, Running, TxError};
use preconf_state::MemoryState;

use super::attributes::Attributes;
use super::blobs::Sidecar;
use super::chain::ChainBlock;
use super::validate::{root_of, state_after};
use super::{ClientError, ExecutionClient};

/// Gas below which no transaction fits.
const LEAST_GAS: u64 = 21_000;

type State = Arc<MemoryState>;

/// A block that was built.
#[derive(Clone, Debug)]
pub struct BuiltBlock {
    /// The block.
    pub block: Block,
    /// Its hash.
    pub hash: B256,
    /// What its fee recipient gets for it, in wei.
    pub value: U256,
    /// Its requests to the consensus layer.
    pub requests: Requests,
    /// The blobs of its transactions, as far as they came through the pool.
    pub sidecars: Vec<Arc<Sidecar>>,
}

impl BuiltBlock {
    /// The answer to getPayloadV2, with V1's in it where the block is from before Shanghai.
    pub fn envelope_v2(&self) -> ExecutionPayloadEnvelopeV2 {
        let payload = to_payload(&self.block).payload_inner;
        let execution_payload = match self.block.body.withdrawals {
            Some(_) => ExecutionPayloadFieldV2::V2(payload),
            None => ExecutionPayloadFieldV2::V1(payload.payload_inner),
        };
        ExecutionPayloadEnvelopeV2 { execution_payload, block_value: self.value }
    }

    /// The answer to getPayloadV3.
    pub fn envelope_v3(&self) -> ExecutionPayloadEnvelopeV3 {
        envelope_v3(to_payload(&self.block), self.value, self.blobs_with_proofs())
    }

    /// The answer to getPayloadV4.
    pub fn envelope_v4(&self) -> ExecutionPayloadEnvelopeV4 {
        let (payload, blobs) = (to_payload(&self.block), self.blobs_with_proofs());
        envelope_v4(payload, self.value, blobs, self.list_requests())
    }

    /// The answer to getPayloadV5.
    pub fn envelope_v5(&self) -> ExecutionPayloadEnvelopeV5 {
        let (payload, blobs) = (to_payload(&self.block), self.blobs_with_cell_proofs());
        envelope_v5(payload, self.value, blobs, self.list_requests())
    }

    /// The answer to getPayloadV4P11.
    pub fn envelope_v4_p11(&self) -> BerachainEnvelope {
        let (payload, blobs) = (to_payload(&self.block), self.blobs_with_proofs());
        let key = self.block.header.prev_proposer_pubkey;
        envelope_v4_p11(payload, self.value, blobs, self.list_requests(), key)
    }

    fn list_requests(&self) -> Vec<Bytes> {
        self.requests.iter().cloned().collect()
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
        let mut bundle = BlobsBundleV2::default();
        for sidecar in self.sidecars.iter().filter_map(|sidecar| sidecar.as_eip7594()) {
            bundle.commitments.extend_from_slice(&sidecar.commitments);
            bundle.proofs.extend_from_slice(&sidecar.cell_proofs);
            bundle.blobs.extend_from_slice(&sidecar.blobs);
        }
        bundle
    }
}

/// Which transactions a block is built of.
#[derive(Clone, Debug)]
pub enum Contents {
    /// The best of what waits.
    Pool,
    /// These, in this order, and no others.
    Exactly(Vec<Transaction>),
}

impl ExecutionClient {
    /// The payload with this id; the same one however often it is fetched.
    ///
    /// # Errors
    ///
    /// If none was asked for under this id, or it cannot be built.
    pub fn payload(&self, id: PayloadId) -> Result<Arc<BuiltBlock>, ClientError> {
        let wanted = self.payloads.lock().get(id).cloned().ok_or(ClientError::UnknownPayload)?;
        if let Some(built) = wanted.built {
            return Ok(built);
        }
        let extra_data = self.config.extra_data.clone();
        let built = self.build(wanted.parent, wanted.attributes, Contents::Pool, extra_data)?;
        Ok(self.payloads.lock().keep(id, Arc::new(built)))
    }

    /// Builds a block on top of a known one.
    ///
    /// # Errors
    ///
    /// If the parent's state is not kept, the attributes do not fit the parent, or a transaction
    /// that must be in the block cannot be executed there.
    pub fn build(
        &self,
        parent: B256,
        attributes: impl Into<Attributes>,
        contents: Contents,
        extra_data: Bytes,
    ) -> Result<BuiltBlock, ClientError> {
        let attributes = attributes.into();
        let timestamp = attributes.ethereum.timestamp;
        self.spec.check_building(timestamp).map_err(ClientError::Building)?;
        let (parent, state) = {
            let tree = self.tree.read();
            let found = tree.block(&parent).cloned().zip(tree.state(&parent));
            found.ok_or(ClientError::NoState(parent))?
        };
        let next = self.next_block(&parent, &attributes, extra_data);
        let paused = Paused::begin(self.spec.clone(), next, state.clone());
        let mut running = paused.map_err(ClientError::Execution)?.resume();
        match contents {
            Contents::Pool => self.fill(&mut running),
            Contents::Exactly(transactions) => execute_all(&mut running, &transactions)?,
        }
        let outcome = running.pause().finish().map_err(ClientError::Execution)?;
        let block = outcome.block(root_of(&state_after(&state, &outcome.diff())));
        let hash = block.header.hash_slow();
        self.spec.validate_header(&block.header, parent.header()).map_err(ClientError::Header)?;
        let value = tips(&block.header, &outcome.transactions, &outcome.receipts);
        let sidecars = {
            let pool = self.pool.lock();
            let included = outcome.transactions.iter();
            included.filter_map(|transaction| pool.sidecar(transaction.hash())).collect()
        };
        Ok(BuiltBlock { block, hash, value, requests: outcome.requests, sidecars })
    }

    fn next_block(
        &self,
        parent: &ChainBlock,
        attributes: &Attributes,
        extra_data: Bytes,
    ) -> NextBlock {
        let Attributes { ethereum: attributes, prev_proposer_pubkey } = attributes;
        let timestamp = attributes.timestamp;
        let gas_target = attributes.target_gas_limit.unwrap_or(self.config.gas_limit_target);
        NextBlock {
            parent_hash: parent.hash,
            parent_beacon_block_root: attributes.parent_beacon_block_root,
            number: parent.number() + 1,
            timestamp,
            fee_recipient: attributes.suggested_fee_recipient,
            prev_randao: attributes.prev_randao,
            difficulty: U256::ZERO,
            gas_limit: ChainSpec::next_gas_limit(parent.header().gas_limit, gas_target),
            base_fee_per_gas: self.spec.next_base_fee(parent.header()),
            extra_data,
            withdrawals: attributes.withdrawals.clone().unwrap_or_default(),
            excess_blob_gas: self.spec.next_excess_blob_gas(parent.header(), timestamp),
            prev_proposer_pubkey: *prev_proposer_pubkey,
        }
    }

    /// Executes what waits, best tip first, until nothing more fits.
    fn fill(&self, running: &mut Running<State>) {
        let mut selection = self.pool.lock().select(running.block().base_fee_per_gas);
        while running.gas_used() + LEAST_GAS <= running.block().gas_limit {
            let next = self.pool.lock().next(&mut selection);
            let Some(transaction) = next else { break };
            let executed = running.execute(&transaction);
            let mut pool = self.pool.lock();
            match executed {
                Ok(_) => pool.included(&mut selection, &transaction),
                Err(TxError::NonceTooLow { state, .. }) => {
                    pool.used_below(&mut selection, &transaction.signer(), state);
                }
                // It may fit into another block.
                Err(
                    TxError::ExceedsBlockGas { .. }
                    | TxError::ExceedsBlobGas { .. }
                    | TxError::NonceTooHigh { .. }
                    | TxError::NeedState(_),
                ) => (),
                Err(TxError::Invalid(_) | TxError::Reserved(_) | TxError::Fatal(_)) => {
                    pool.remove(&transaction);
                }
            }
        }
        let with_blobs = self.pool.lock().blob_transactions();
        for transaction in with_blobs {
            // Whatever does not fit waits for another block, until its nonce is used.
            running.execute(&transaction).ok();
        }
    }
}

fn execute_all(
    running: &mut Running<State>,
    transactions: &[Transaction],
) -> Result<(), ClientError> {
    for (index, transaction) in transactions.iter().enumerate() {
        let hash = *transaction.hash();
        let fails = |source| ClientError::Transaction { index, hash, source };
        running.execute(transaction).map_err(fails)?;
    }
    Ok(())
}

/// What the fee recipient gets.
fn tips(header: &Header, transactions: &[Transaction], receipts: &[Receipt]) -> U256 {
    let base_fee = header.base_fee_per_gas.unwrap_or_default();
    let mut before = 0;
    let mut value = U256::ZERO;
    for (transaction, receipt) in transactions.iter().zip(receipts) {
        let gas_used = receipt.cumulative_gas_used - before;
        before = receipt.cumulative_gas_used;
        let tip = transaction.envelope().effective_tip_per_gas(base_fee).unwrap_or_default();
        value += U256::from(gas_used) * U256::from(tip);
    }
    value
}
