//! What `eth_simulateV1` is given, and the blocks that it means.

use std::borrow::Cow;

use alloy_eips::eip4895::Withdrawal;
use alloy_primitives::{Address, B256};
use alloy_rpc_types_eth::{BlockOverrides, TransactionRequest, state::StateOverride};
use preconf_chain::{ChainSpec, Header};
use serde::Deserialize;

use super::SimulateError;
use crate::{
    NextBlock,
    call::{CallError, small},
};

/// The most blocks of one simulation, gaps included.
pub const MAX_BLOCKS: u64 = 256;

/// How much later than its parent a block is that names no time.
const BLOCK_INTERVAL: u64 = 12;

/// The parameters of `eth_simulateV1`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SimulateRequest {
    /// The blocks, in order.
    pub block_state_calls: Vec<BlockStateCalls>,
    /// Whether moving the chain's coin is logged as moving a token is (ERC-7528).
    pub trace_transfers: bool,
    /// Whether nonces and fees must be those of real transactions.
    pub validation: bool,
    /// Whether the blocks are shown with their transactions, not only their hashes.
    pub return_full_transactions: bool,
}

/// One block of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct BlockStateCalls {
    /// What the block is to be.
    pub block_overrides: Option<HeaderOverrides>,
    /// What the state is to be before it.
    pub state_overrides: Option<StateOverride>,
    /// Its transactions, which nobody signed.
    pub calls: Option<Vec<TransactionRequest>>,
}

/// What a block is to be, instead of what would follow from its parent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct HeaderOverrides {
    /// What calls can override too.
    #[serde(flatten)]
    pub block: BlockOverrides,
    /// The withdrawals.
    pub withdrawals: Option<Vec<Withdrawal>>,
}

/// A block that will be simulated.
#[derive(Clone, Debug, Default)]
pub(super) struct Planned<'a> {
    pub(super) number: u64,
    pub(super) timestamp: u64,
    pub(super) overrides: Cow<'a, HeaderOverrides>,
    pub(super) state: Option<&'a StateOverride>,
    pub(super) calls: &'a [TransactionRequest],
}

/// Numbers the blocks after `base` and fills the gaps between them.
pub(super) fn plan<'a>(
    base: &Header,
    blocks: &'a [BlockStateCalls],
) -> Result<Vec<Planned<'a>>, SimulateError> {
    if blocks.is_empty() {
        return Err(SimulateError::Empty);
    }
    if blocks.len() as u64 > MAX_BLOCKS {
        return Err(SimulateError::TooManyBlocks);
    }
    let mut planned = Vec::new();
    let (mut last, mut last_timestamp) = (base.number, base.timestamp);
    for BlockStateCalls { block_overrides, state_overrides, calls } in blocks {
        let overrides = block_overrides.as_ref().map_or_else(Cow::default, Cow::Borrowed);
        let wanted = overrides.block.number.map(|number| number.saturating_to::<u64>());
        let number = wanted.unwrap_or(last.saturating_add(1));
        if number <= last {
            return Err(SimulateError::NumberOrder { number, last });
        }
        if number - base.number > MAX_BLOCKS {
            return Err(SimulateError::TooManyBlocks);
        }
        for number in last + 1..number {
            last_timestamp = last_timestamp.saturating_add(BLOCK_INTERVAL);
            planned.push(Planned { number, timestamp: last_timestamp, ..Planned::default() });
        }
        let follows = last_timestamp.saturating_add(BLOCK_INTERVAL);
        let timestamp = overrides.block.time.unwrap_or(follows);
        if timestamp <= last_timestamp {
            return Err(SimulateError::TimestampOrder { timestamp, last: last_timestamp });
        }
        let (state, calls) = (state_overrides.as_ref(), calls.as_deref().unwrap_or_default());
        planned.push(Planned { number, timestamp, overrides, state, calls });
        (last, last_timestamp) = (number, timestamp);
    }
    Ok(planned)
}

impl Planned<'_> {
    /// The block's environment after `parent`. Without validation, gas is free unless the block is
    /// to have a price.
    pub(super) fn environment(
        &self,
        spec: &ChainSpec,
        parent: &Header,
        parent_hash: B256,
        validation: bool,
    ) -> Result<NextBlock, CallError> {
        let HeaderOverrides { block, withdrawals } = self.overrides.as_ref();
        let base_fee_per_gas = match block.base_fee {
            Some(fee) => small("baseFeePerGas", fee)?,
            None if validation => spec.next_base_fee(parent),
            None => 0,
        };
        // Who proposed a block that never was: whoever proposed the last one that was.
        let proposer = parent.prev_proposer_pubkey.unwrap_or_default();
        let has_proposer = spec.is_prague1_active_at_timestamp(self.timestamp);
        Ok(NextBlock {
            parent_hash,
            parent_beacon_block_root: Some(block.beacon_root.unwrap_or_default()),
            number: self.number,
            timestamp: self.timestamp,
            fee_recipient: block.coinbase.unwrap_or(parent.beneficiary),
            prev_randao: block.random.unwrap_or_default(),
            gas_limit: block.gas_limit.unwrap_or(parent.gas_limit),
            base_fee_per_gas,
            withdrawals: withdrawals.clone().unwrap_or_default(),
            excess_blob_gas: spec.next_excess_blob_gas(parent, self.timestamp),
            prev_proposer_pubkey: has_proposer.then_some(proposer),
            ..NextBlock::default()
        })
    }

    /// What a unit of blob gas is to cost.
    pub(super) fn blob_base_fee(&self) -> Result<Option<u128>, CallError> {
        let fee = self.overrides.block.blob_base_fee;
        Ok(fee.map(|fee| small("blobBaseFee", fee)).transpose()?)
    }
}

/// Who sends a call that names nobody.
pub(super) fn sender(call: &TransactionRequest) -> Address {
    call.from.unwrap_or_default()
}
