//! Whether what readers were shown is the block that it should be.
//!
//! Everything is computed anew from the snapshot: the tries of transactions, receipts and
//! withdrawals, the bloom, and the root of the whole state after the changes of its flashblocks.

use std::fmt;

use alloy_consensus::{TxReceipt, proofs::calculate_withdrawals_root};
use alloy_hardforks::EthereumHardforks;
use alloy_primitives::{B256, Bloom};
use preconf_chain::{ChainSpec, Header, Receipt, receipts_root, transactions_root};
use preconf_pending::snapshot::PendingBlock;
use preconf_state::MemoryState;

/// A value that is not what the header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The header's field.
    pub field: &'static str,
    /// What the header says.
    pub expected: String,
    /// What came out.
    pub got: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, expected, got } = self;
        write!(f, "{field}: the header says {expected}, execution says {got}")
    }
}

/// The state after a pending block that is shown to its end, given the state before it.
pub(super) fn state_after(before: &MemoryState, block: &PendingBlock) -> MemoryState {
    let mut state = before.clone();
    block.diffs().for_each(|diff| state.apply(diff));
    state
}

/// The header of a pending block that is shown to its end, given the root of the state after it.
pub fn header_of(spec: &ChainSpec, block: &PendingBlock, state_root: B256) -> Header {
    let environment = &block.environment;
    let time = environment.timestamp;
    let cancun = spec.is_cancun_active_at_timestamp(time);
    let encoded: Vec<_> =
        block.transactions().map(|executed| executed.transaction.encoded()).collect();
    let receipts: Vec<Receipt> =
        block.transactions().map(|executed| executed.receipt.clone()).collect();
    let closing = block.reference.closing.as_ref();
    Header {
        parent_hash: environment.parent_hash,
        beneficiary: environment.fee_recipient,
        state_root,
        transactions_root: transactions_root(&encoded),
        receipts_root: receipts_root(&receipts),
        logs_bloom: receipts.iter().fold(Bloom::ZERO, |all, receipt| all | receipt.bloom()),
        number: environment.number,
        gas_limit: environment.gas_limit,
        gas_used: block.gas_used(),
        timestamp: time,
        extra_data: environment.extra_data.clone(),
        mix_hash: environment.prev_randao,
        base_fee_per_gas: spec
            .is_london_active_at_block(environment.number)
            .then_some(environment.base_fee_per_gas),
        withdrawals_root: spec
            .is_shanghai_active_at_timestamp(time)
            .then(|| calculate_withdrawals_root(&environment.withdrawals)),
        blob_gas_used: cancun.then(|| block.blob_gas_used()),
        excess_blob_gas: environment.excess_blob_gas.filter(|_| cancun),
        parent_beacon_block_root: environment.parent_beacon_block_root.filter(|_| cancun),
        requests_hash: closing.and_then(|closing| closing.requests_hash),
        prev_proposer_pubkey: environment.prev_proposer_pubkey,
        ..Header::default()
    }
}

/// Compares a pending block that is shown to its end with the header that it should have, and
/// returns the state after it.
pub fn compare(
    spec: &ChainSpec,
    before: &MemoryState,
    block: &PendingBlock,
    expected: &Header,
) -> (MemoryState, Vec<Mismatch>) {
    let state = state_after(before, block);
    let got = header_of(spec, block, super::root_of(&state));
    let mut found = Vec::new();
    let mut differ = |field, expected: String, got: String| {
        if expected != got {
            found.push(Mismatch { field, expected, got });
        }
    };
    let text = |value: Option<B256>| value.map_or("nothing".to_owned(), |hash| hash.to_string());
    differ("state root", expected.state_root.to_string(), got.state_root.to_string());
    differ("receipts root", expected.receipts_root.to_string(), got.receipts_root.to_string());
    differ("logs bloom", expected.logs_bloom.to_string(), got.logs_bloom.to_string());
    differ("gas used", expected.gas_used.to_string(), got.gas_used.to_string());
    differ("requests hash", text(expected.requests_hash), text(got.requests_hash));
    differ("block hash", expected.hash_slow().to_string(), got.hash_slow().to_string());
    (state, found)
}
