//! Simulated blocks as `eth_simulateV1` shows them.

use alloy_primitives::{B256, Bytes, Log};
use preconf_chain::{
    Block, Transaction,
    rpc::{RpcBlock, RpcLog},
};
use serde::Serialize;

use crate::call::{CallOutcome, CallStatus, REVERTED, revert_text};

/// The code of a call that failed without reverting.
const VM_ERROR: i64 = -32_015;

/// A simulated block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SimulatedBlock {
    /// The block.
    #[serde(flatten)]
    pub block: RpcBlock,
    /// What its calls led to.
    pub calls: Vec<SimulatedCall>,
}

/// What one call led to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SimulatedCall {
    /// What it returned. What it reverted with is in the error.
    pub return_data: Bytes,
    /// What it logged.
    pub logs: Vec<RpcLog>,
    /// The gas it paid for.
    #[serde(with = "alloy_serde::quantity")]
    pub gas_used: u64,
    /// The most gas it had spent at any time.
    #[serde(with = "alloy_serde::quantity")]
    pub max_used_gas: u64,
    /// Whether it succeeded.
    #[serde(rename = "status", with = "alloy_serde::quantity")]
    pub success: bool,
    /// Why it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<CallFailure>,
}

/// Why a call did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CallFailure {
    /// In words.
    pub message: String,
    /// The code by which JSON-RPC says it.
    pub code: i64,
    /// What a revert came with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Bytes>,
}

/// A call that was executed in a block that has no hash yet.
pub(super) struct Done {
    pub(super) hash: B256,
    pub(super) index: u64,
    pub(super) outcome: CallOutcome,
    /// Each with its number in the block.
    pub(super) logs: Vec<(u64, Log)>,
}

impl SimulatedBlock {
    pub(super) fn new(
        block: &Block,
        hash: B256,
        transactions: &[Transaction],
        done: Vec<Done>,
        full: bool,
    ) -> Self {
        let calls = done.into_iter().map(|done| done.shown(block, hash)).collect();
        let block = if full {
            RpcBlock::with_transactions(block, hash, transactions)
        } else {
            RpcBlock::with_hashes(block, hash)
        };
        Self { block, calls }
    }
}

impl Done {
    fn shown(self, block: &Block, block_hash: B256) -> SimulatedCall {
        let Self { hash, index, outcome, logs } = self;
        let logs = logs.into_iter().map(|(position, log)| RpcLog {
            address: log.address,
            topics: log.topics().to_vec(),
            data: log.data.data,
            block_number: Some(block.header.number),
            transaction_hash: Some(hash),
            transaction_index: Some(index),
            block_hash: Some(block_hash),
            block_timestamp: Some(block.header.timestamp),
            log_index: Some(position),
            removed: false,
        });
        let success = outcome.status == CallStatus::Success;
        let error = outcome.failure().map(|message| match outcome.status {
            CallStatus::Reverted => {
                let message = revert_text(&outcome.output);
                CallFailure { message, code: REVERTED, data: Some(outcome.output.clone()) }
            }
            CallStatus::Success | CallStatus::Halted(_) => {
                CallFailure { message, code: VM_ERROR, data: None }
            }
        });
        SimulatedCall {
            return_data: if success { outcome.output } else { Bytes::new() },
            logs: logs.collect(),
            gas_used: outcome.gas_used,
            max_used_gas: outcome.gas_spent,
            success,
            error,
        }
    }
}
