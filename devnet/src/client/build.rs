//! Building blocks: of one's own for a payload, or of given transactions.
//!
//! A payload is built when it is fetched, from what waits by then, best tip first, and never
//! changes afterwards. A block of given transactions holds exactly these, in this order, or is not
//! built. Nothing that is built enters the chain unless it comes back as a payload.

use std::sync::Arc;

use alloy_consensus::Transaction as _;
use alloy_eips::eip7685::Requests;
use alloy_hardforks::EthereumHardforks;
use alloy_primitives::{B256, Bytes, U256};
use alloy_rpc_types_engine::{
    BlobsBundleV1, ExecutionPayloadEnvelopeV3, ExecutionPayloadEnvelopeV4, PayloadAttributes,
    PayloadId,
};
use preconf_chain::{Block, ChainSpec, Header, Receipt, Transaction};
use preconf_engine::payload::{envelope_v3, envelope_v4, to_payload};
use preconf_evm::{NextBlock, Paused, Running, TxError};
use preconf_state::MemoryState;

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
}

impl BuiltBlock {
    /// The answer to getPayloadV3.
    pub fn envelope_v3(&self) -> ExecutionPayloadEnvelopeV3 {
        envelope_v3(to_payload(&self.block), self.value, BlobsBundleV1::empty())
    }

    /// The answer to getPayloadV4.
    pub fn envelope_v4(&self) -> ExecutionPayloadEnvelopeV4 {
        let requests = self.requests.iter().cloned().collect();
        envelope_v4(to_payload(&self.block), self.value, BlobsBundleV1::empty(), requests)
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
        let built = self.build(wanted.parent, &wanted.attributes, Contents::Pool, extra_data)?;
        Ok(self.payloads.lock().keep(id, Arc::new(built)))
    }

    /// Whether the payload with this id is fetched with V4 rather than V3.
    pub(crate) fn has_requests(&self, built: &BuiltBlock) -> bool {
        self.spec.is_prague_active_at_timestamp(built.block.header.timestamp)
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
        attributes: &PayloadAttributes,
        contents: Contents,
        extra_data: Bytes,
    ) -> Result<BuiltBlock, ClientError> {
        let (parent, state) = {
            let tree = self.tree.read();
            let found = tree.block(&parent).cloned().zip(tree.state(&parent));
            found.ok_or(ClientError::NoState(parent))?
        };
        let next = self.next_block(&parent, attributes, extra_data);
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
        Ok(BuiltBlock { block, hash, value, requests: outcome.requests })
    }

    fn next_block(
        &self,
        parent: &ChainBlock,
        attributes: &PayloadAttributes,
        extra_data: Bytes,
    ) -> NextBlock {
        let timestamp = attributes.timestamp;
        let gas_target = attributes.target_gas_limit.unwrap_or(self.config.gas_limit_target);
        NextBlock {
            parent_hash: parent.hash,
            parent_beacon_block_root: attributes.parent_beacon_block_root,
            number: parent.number() + 1,
            timestamp,
            fee_recipient: attributes.suggested_fee_recipient,
            prev_randao: attributes.prev_randao,
            gas_limit: ChainSpec::next_gas_limit(parent.header().gas_limit, gas_target),
            base_fee_per_gas: self.spec.next_base_fee(parent.header()),
            extra_data,
            withdrawals: attributes.withdrawals.clone().unwrap_or_default(),
            excess_blob_gas: self.spec.next_excess_blob_gas(parent.header(), timestamp),
            prev_proposer_pubkey: None,
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
