//! A pending chain of two blocks, written by hand: blocks 101 and 102 upon the canonical block 100.
//! Used by the tests of the crate and by those of the service.

#![allow(dead_code, reason = "each of the two uses a part")]

use std::sync::Arc;

use alloy_consensus::{
    EthereumTxEnvelope, SignableTransaction, TransactionEnvelope, TxEip1559, TxLegacy,
};
use alloy_primitives::{
    Address, B256, Bytes, Log, Signature, TxKind, U256, bytes, keccak256, map::U256Map,
};
use preconf_chain::{ChainSpec, Receipt, Transaction, TxEnvelope};
use preconf_evm::NextBlock;
use preconf_pending::snapshot::{
    BlockReference, Canonical, Closing, ExecutedFlashblock, ExecutedTransaction, Snapshot,
    SnapshotStore, Update,
};
use preconf_primitives::{Position, Seq};
use preconf_state::{Account, AccountDiff, Diff};
use revm::bytecode::Bytecode;

/// A chain with the rules of Prague from its beginning.
pub(crate) const GENESIS: &str = r#"{
    "config": {
        "chainId": 1337, "homesteadBlock": 0, "eip150Block": 0, "eip155Block": 0,
        "eip158Block": 0, "byzantiumBlock": 0, "constantinopleBlock": 0, "petersburgBlock": 0,
        "istanbulBlock": 0, "berlinBlock": 0, "londonBlock": 0, "mergeNetsplitBlock": 0,
        "terminalTotalDifficulty": 0, "terminalTotalDifficultyPassed": true,
        "shanghaiTime": 0, "cancunTime": 0, "pragueTime": 0,
        "blobSchedule": {
            "cancun": {"target": 3, "max": 6, "baseFeeUpdateFraction": 3338477},
            "prague": {"target": 6, "max": 9, "baseFeeUpdateFraction": 5007716}
        }
    },
    "nonce": "0x0", "timestamp": "0x64", "extraData": "0x", "gasLimit": "0x1c9c380",
    "difficulty": "0x0", "baseFeePerGas": "0x3b9aca00", "alloc": {}
}"#;

/// The canonical block.
pub(crate) const CANONICAL: Canonical =
    Canonical { number: 100, hash: B256::repeat_byte(0xa0), timestamp: 1_700_000_000 };

/// Has sent everything in the pending chain.
pub(crate) const SENDER: Address = Address::repeat_byte(0x51);
/// Has a balance in the pending chain, and nothing else.
pub(crate) const RICH: Address = Address::repeat_byte(0x52);
/// Is in no pending block.
pub(crate) const POOR: Address = Address::repeat_byte(0x53);
/// Was created in block 101, with [`COUNTER_CODE`] and 42 in its first slot.
pub(crate) const COUNTER: Address = Address::repeat_byte(0xc0);
/// Returns its first slot.
pub(crate) const COUNTER_CODE: Bytes = bytes!("5f545f5260205ff3");
/// Was there before, and got a balance: its code is not in the pending chain.
pub(crate) const OLD: Address = Address::repeat_byte(0xc1);
/// Returns its seventh slot.
pub(crate) const OLD_CODE: Bytes = bytes!("6007545f5260205ff3");

/// The nonce of the transaction of block 101 that creates [`COUNTER`].
pub(crate) const CREATION_NONCE: u64 = 12;

/// How far the sequencer is with the blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sealing {
    /// Both are being built, under provisional hashes.
    Provisional,
    /// Block 101 is sealed.
    Sealed,
}

pub(crate) fn spec() -> ChainSpec {
    ChainSpec::from_genesis_json(GENESIS).expect("the genesis above is valid")
}

pub(crate) fn two_blocks() -> Snapshot {
    two_blocks_sealed(Sealing::Provisional)
}

pub(crate) fn two_blocks_sealed(sealing: Sealing) -> Snapshot {
    SnapshotStore::new().apply(&update(7, sealing)).expect("the update below is complete")
}

pub(crate) fn nothing_pending() -> Snapshot {
    SnapshotStore::new().apply(&empty_update(7)).expect("nothing is missing from nothing")
}

/// Upon the canonical block there is nothing.
pub(crate) fn empty_update(snapshot_id: u64) -> Update {
    let (chain, executed, retracted) = (Vec::new(), Vec::new(), Vec::new());
    Update { snapshot_id, canonical: CANONICAL, chain, executed, retracted, is_part: false }
}

/// The two blocks as the first update of a subscription.
pub(crate) fn update(snapshot_id: u64, sealing: Sealing) -> Update {
    let sealed = sealing == Sealing::Sealed;
    let final_hash = B256::repeat_byte(0xb1);
    let closing = Closing {
        diff: Arc::new(diff([(RICH, account(0, 1_001))])),
        requests_hash: Some(B256::repeat_byte(0xe1)),
    };
    let lower = BlockReference {
        seq: Seq::new(5),
        number: 101,
        flashblocks: 3,
        hash: if sealed { final_hash } else { B256::repeat_byte(0xa1) },
        state_root: sealed.then(|| B256::repeat_byte(0xd1)),
        closing: sealed.then_some(closing),
    };
    let upper = BlockReference {
        seq: Seq::new(6),
        number: 102,
        flashblocks: 1,
        hash: B256::repeat_byte(0xa2),
        state_root: None,
        closing: None,
    };
    let mut executed = lower_flashblocks();
    executed.push(upper_flashblock(final_hash));
    Update {
        snapshot_id,
        canonical: CANONICAL,
        chain: vec![lower, upper],
        executed: executed.into_iter().map(Arc::new).collect(),
        retracted: Vec::new(),
        is_part: false,
    }
}

/// A transfer that failed, a call with two logs, a creation with one.
fn lower_flashblocks() -> Vec<ExecutedFlashblock> {
    let transfer = executed(dynamic(10, TxKind::Call(OLD)), false, 21_000, 0);
    let call = executed(legacy(11), true, 71_000, 2);
    let creation = executed(dynamic(CREATION_NONCE, TxKind::Create), true, 171_000, 1);
    let mut created = diff([(SENDER, account(13, 900)), (OLD, old_account())]);
    let counter = Account { nonce: 1, code_hash: keccak256(&COUNTER_CODE), ..account(1, 0) };
    let slots = U256Map::from_iter([(U256::ZERO, U256::from(42))]);
    let change = AccountDiff { account: Some(counter), wiped: true, slots };
    created.accounts.insert(COUNTER, change);
    created.codes.insert(counter.code_hash, Bytecode::new_raw(COUNTER_CODE));
    vec![
        flashblock(5, 0, Some(environment(101, CANONICAL.hash)), vec![transfer], Diff::default()),
        flashblock(5, 1, None, vec![call], diff([(SENDER, account(12, 950))])),
        flashblock(5, 2, None, vec![creation], created),
    ]
}

fn upper_flashblock(parent_hash: B256) -> ExecutedFlashblock {
    let call = executed(dynamic(13, TxKind::Call(COUNTER)), true, 50_000, 1);
    let changes = diff([(SENDER, account(14, 800)), (RICH, account(0, 5_000))]);
    flashblock(6, 0, Some(environment(102, parent_hash)), vec![call], changes)
}

fn environment(number: u64, parent_hash: B256) -> NextBlock {
    let withdrawal = alloy_rpc_types_eth::Withdrawal {
        index: number,
        validator_index: 1,
        address: RICH,
        amount: 1,
    };
    NextBlock {
        parent_hash,
        parent_beacon_block_root: Some(B256::repeat_byte(0xbb)),
        number,
        timestamp: CANONICAL.timestamp + 2 * (number - CANONICAL.number),
        fee_recipient: Address::repeat_byte(0xfe),
        prev_randao: B256::repeat_byte(0xaa),
        difficulty: U256::ZERO,
        gas_limit: 30_000_000,
        base_fee_per_gas: 7,
        extra_data: bytes!("c0ffee"),
        withdrawals: vec![withdrawal],
        excess_blob_gas: Some(131_072),
        prev_proposer_pubkey: None,
    }
}

fn flashblock(
    seq: u64,
    index: u64,
    environment: Option<NextBlock>,
    transactions: Vec<ExecutedTransaction>,
    diff: Diff,
) -> ExecutedFlashblock {
    let gas_used = transactions.last().map_or(0, |last| last.receipt.cumulative_gas_used);
    ExecutedFlashblock {
        position: Position::new(Seq::new(seq), index),
        environment: environment.map(Box::new),
        transactions,
        diff: Arc::new(diff),
        gas_used,
        blob_gas_used: 0,
        published_at_ms: 1_700_000_000_000,
        traceparent: None,
    }
}

fn executed(
    transaction: Transaction,
    success: bool,
    cumulative_gas_used: u64,
    logs: u64,
) -> ExecutedTransaction {
    let log = |topic| {
        Log::new_unchecked(COUNTER, vec![B256::with_last_byte(topic)], Bytes::from_static(&[1]))
    };
    let receipt = Receipt {
        tx_type: transaction.envelope().tx_type(),
        success,
        cumulative_gas_used,
        logs: (0..logs as u8).map(log).collect(),
    };
    ExecutedTransaction { transaction, receipt }
}

/// A transaction of [`SENDER`] with a tip of 1 gwei.
pub(crate) fn dynamic(nonce: u64, to: TxKind) -> Transaction {
    signed(TxEip1559 {
        chain_id: 1337,
        nonce,
        gas_limit: 200_000,
        max_fee_per_gas: 10_000_000_000,
        max_priority_fee_per_gas: 1_000_000_000,
        to,
        value: U256::from(1),
        access_list: Default::default(),
        input: Bytes::new(),
    })
}

/// A transaction of [`SENDER`] at 2 gwei.
fn legacy(nonce: u64) -> Transaction {
    signed(TxLegacy {
        chain_id: Some(1337),
        nonce,
        gas_price: 2_000_000_000,
        gas_limit: 200_000,
        to: TxKind::Call(OLD),
        value: U256::ZERO,
        input: bytes!("01"),
    })
}

/// Nobody checks the signature of what a consumer has executed.
fn signed<T>(transaction: T) -> Transaction
where
    T: SignableTransaction<Signature>,
    EthereumTxEnvelope<alloy_consensus::TxEip4844>: From<alloy_consensus::Signed<T>>,
{
    let signed = transaction.into_signed(Signature::test_signature());
    Transaction::from_envelope(TxEnvelope::Ethereum(signed.into()), SENDER)
}

fn account(nonce: u64, balance: u64) -> Account {
    Account { nonce, balance: U256::from(balance), ..Account::default() }
}

fn old_account() -> Account {
    Account { code_hash: keccak256(&OLD_CODE), ..account(1, 77) }
}

fn diff<const N: usize>(accounts: [(Address, Account); N]) -> Diff {
    let change = |account| AccountDiff { account: Some(account), ..AccountDiff::default() };
    let accounts = accounts.map(|(address, account)| (address, change(account)));
    Diff { accounts: accounts.into_iter().collect(), ..Diff::default() }
}
