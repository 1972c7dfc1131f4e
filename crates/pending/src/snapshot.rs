//! One immutable view of the pending chain, and how it is passed on piece by piece (D8).
//!
//! A consumer describes each snapshot by an [`Update`]: the whole pending chain by reference, and
//! only what is new in full. A [`SnapshotStore`] on the other side folds updates into
//! [`Snapshot`]s. Every answer a reader gives is computed from exactly one of them.

mod index;
mod store;

use std::sync::Arc;

use alloy_primitives::B256;
use preconf_chain::{Receipt, Transaction};
use preconf_evm::NextBlock;
use preconf_primitives::{Position, Retraction, Seq, Traceparent};
use preconf_state::Diff;

use self::index::Index;
pub use self::store::{BadUpdate, SnapshotStore};

/// The canonical block that a pending chain builds upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Canonical {
    /// Its number.
    pub number: u64,
    /// Its hash.
    pub hash: B256,
    /// Its time in seconds since the Unix epoch.
    pub timestamp: u64,
}

/// A transaction with what executing it gave.
#[derive(Clone, Debug)]
pub struct ExecutedTransaction {
    /// The transaction.
    pub transaction: Transaction,
    /// Its receipt.
    pub receipt: Receipt,
}

/// A flashblock that was verified and executed.
#[derive(Clone, Debug)]
pub struct ExecutedFlashblock {
    /// Session and index.
    pub position: Position,
    /// The environment of its block, at index 0.
    pub environment: Option<Box<NextBlock>>,
    /// The transactions that are new in it.
    pub transactions: Vec<ExecutedTransaction>,
    /// What executing it changed; at index 0 with what came before the first transaction.
    pub diff: Arc<Diff>,
    /// Gas used by the block so far.
    pub gas_used: u64,
    /// Blob gas used by the block so far.
    pub blob_gas_used: u64,
    /// When the sequencer published it, in milliseconds since the Unix epoch.
    pub published_at_ms: u64,
    /// The trace it belongs to.
    pub traceparent: Option<Traceparent>,
}

/// What the end of a block adds to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closing {
    /// What withdrawals and requests changed.
    pub diff: Arc<Diff>,
    /// The hash of the requests (EIP-7685), from Prague on.
    pub requests_hash: Option<B256>,
}

/// One block of the pending chain, by reference to its executed flashblocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockReference {
    /// The session that builds it.
    pub seq: Seq,
    /// Its number.
    pub number: u64,
    /// How many flashblocks of the session are executed; at least 1.
    pub flashblocks: u64,
    /// Its hash: provisional until the sequencer has sealed it.
    pub hash: B256,
    /// Its state root, once sealed.
    pub state_root: Option<B256>,
    /// What its end adds, once the session has ended.
    pub closing: Option<Closing>,
}

/// The next snapshot: the whole chain by reference, what is new in full.
#[derive(Clone, Debug)]
pub struct Update {
    /// Grows with each update of a consumer.
    pub snapshot_id: u64,
    /// What the pending chain builds upon.
    pub canonical: Canonical,
    /// The pending blocks, lowest first.
    pub chain: Vec<BlockReference>,
    /// Executed flashblocks that no earlier update carried.
    pub executed: Vec<Arc<ExecutedFlashblock>>,
    /// What was preconfirmed and has not been kept.
    pub retracted: Vec<Retraction>,
    /// Whether it shows only a part of the chain, and the rest follows at once. A part is not to be
    /// shown to anybody: it is less than readers were shown before.
    pub is_part: bool,
}

/// One block of a snapshot.
#[derive(Clone, Debug)]
pub struct PendingBlock {
    /// What the update said of it.
    pub reference: BlockReference,
    /// The environment it executes in.
    pub environment: Arc<NextBlock>,
    /// Its executed flashblocks, in order.
    pub flashblocks: Vec<Arc<ExecutedFlashblock>>,
    /// How many transactions it has.
    pub transaction_count: usize,
    index: Index,
}

/// Where a transaction of a snapshot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// The place of its block in [`Snapshot::blocks`].
    pub block: usize,
    /// Its place in the block.
    pub index: usize,
    flashblock: usize,
    offset: usize,
}

/// One immutable view of the pending chain.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The update it came from.
    pub id: u64,
    /// What it builds upon.
    pub canonical: Canonical,
    /// The pending blocks, lowest first.
    pub blocks: Vec<PendingBlock>,
}

impl PendingBlock {
    /// Its transactions, in order.
    pub fn transactions(&self) -> impl Iterator<Item = &ExecutedTransaction> {
        self.flashblocks.iter().flat_map(|flashblock| &flashblock.transactions)
    }

    /// Gas used so far.
    pub fn gas_used(&self) -> u64 {
        self.flashblocks.last().map_or(0, |last| last.gas_used)
    }

    /// Blob gas used so far.
    pub fn blob_gas_used(&self) -> u64 {
        self.flashblocks.last().map_or(0, |last| last.blob_gas_used)
    }

    /// What the block has changed so far, in order.
    pub fn diffs(&self) -> impl Iterator<Item = &Arc<Diff>> {
        let executed = self.flashblocks.iter().map(|flashblock| &flashblock.diff);
        executed.chain(self.reference.closing.as_ref().map(|closing| &closing.diff))
    }
}

impl Snapshot {
    /// The newest pending block.
    pub fn tip(&self) -> Option<&PendingBlock> {
        self.blocks.last()
    }

    /// The number of the newest block, pending or canonical.
    pub fn tip_number(&self) -> u64 {
        self.tip().map_or(self.canonical.number, |block| block.reference.number)
    }

    /// The pending block with this number.
    pub fn block(&self, number: u64) -> Option<&PendingBlock> {
        self.blocks.iter().find(|block| block.reference.number == number)
    }

    /// The pending block with this hash, provisional or final.
    pub fn block_by_hash(&self, hash: &B256) -> Option<&PendingBlock> {
        self.blocks.iter().find(|block| block.reference.hash == *hash)
    }

    /// Where a transaction is.
    pub fn locate(&self, hash: &B256) -> Option<Location> {
        let mut blocks = self.blocks.iter().enumerate();
        let (block, place) =
            blocks.find_map(|(block, pending)| Some((block, pending.index.find(hash)?)))?;
        let index::Place { index, flashblock, offset } = place;
        Some(Location { block, index, flashblock, offset })
    }

    /// The block and the transaction at a location of this snapshot.
    pub fn at(&self, location: Location) -> Option<(&PendingBlock, &ExecutedTransaction)> {
        let block = self.blocks.get(location.block)?;
        let flashblock = block.flashblocks.get(location.flashblock)?;
        Some((block, flashblock.transactions.get(location.offset)?))
    }

    /// What all blocks up to and including the one at `block` have changed, in order.
    pub fn diffs_through(&self, block: usize) -> impl Iterator<Item = &Arc<Diff>> {
        self.blocks.iter().take(block + 1).flat_map(PendingBlock::diffs)
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use alloy_consensus::TransactionEnvelope;
    use alloy_primitives::hex;

    use super::*;

    /// Two signed transactions.
    const TRANSACTIONS: [&str; 2] = [
        "02f86d830138de80843b9aca00847735940082520894bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb0180c001a0e9c80f18672e39b69305aeae4e13e40091cdfb4ded87a25f8808b3eac7491c96a018e049d8eaaf49bf01f6f20d12a4b546b325fd847384621d6f0cb7d445e12b1e",
        "f86c098504a817c800825208943535353535353535353535353535353535353535880de0b6b3a76400008025a028ef61340bd939bc2195fe537567866003e1a15d3c71ff63e1590620aa636276a067cbe9d8997f761aecb703304b3800ccf555c9f3dc64214b297fb1966a3b6d83",
    ];

    fn transaction(at: usize) -> ExecutedTransaction {
        let bytes = hex::decode(TRANSACTIONS[at]).unwrap();
        let transaction = Transaction::decode(bytes.into()).unwrap();
        let receipt = Receipt {
            tx_type: transaction.envelope().tx_type(),
            success: true,
            cumulative_gas_used: 21_000,
            logs: Vec::new(),
        };
        ExecutedTransaction { transaction, receipt }
    }

    pub(super) fn executed(position: &str, transactions: &[usize]) -> Arc<ExecutedFlashblock> {
        let position = Position::from_str(position).unwrap();
        Arc::new(ExecutedFlashblock {
            position,
            environment: (position.index == 0).then(Box::default),
            transactions: transactions.iter().map(|at| transaction(*at)).collect(),
            diff: Arc::default(),
            gas_used: 21_000 * (position.index + 1),
            blob_gas_used: 0,
            published_at_ms: 0,
            traceparent: None,
        })
    }

    fn block(seq: u64, number: u64, flashblocks: u64) -> BlockReference {
        BlockReference {
            seq: Seq::new(seq),
            number,
            flashblocks,
            hash: B256::with_last_byte(seq as u8),
            state_root: None,
            closing: None,
        }
    }

    fn update(chain: &[BlockReference], executed: &[Arc<ExecutedFlashblock>]) -> Update {
        Update {
            snapshot_id: 1,
            canonical: Canonical { number: 10, hash: B256::ZERO, timestamp: 100 },
            chain: chain.to_vec(),
            executed: executed.to_vec(),
            retracted: Vec::new(),
            is_part: false,
        }
    }

    #[test]
    fn a_snapshot_is_made_of_what_came_before_and_what_is_new() {
        let mut store = SnapshotStore::new();
        store.apply(&update(&[block(5, 11, 1)], &[executed("5:0", &[0])])).unwrap();

        let chain = [block(5, 11, 2), block(6, 12, 1)];
        let new = [executed("5:1", &[1]), executed("6:0", &[])];
        let snapshot = store.apply(&update(&chain, &new)).unwrap();

        assert_eq!(snapshot.tip_number(), 12);
        let lower = snapshot.block(11).unwrap();
        assert_eq!((lower.transaction_count, lower.gas_used()), (2, 42_000));
        assert_eq!(snapshot.block_by_hash(&chain[1].hash).unwrap().reference, chain[1]);
        let wanted = transaction(1).transaction;
        let location = snapshot.locate(wanted.hash()).unwrap();
        assert_eq!((location.block, location.index), (0, 1));
        let (found, executed) = snapshot.at(location).unwrap();
        assert_eq!(found.reference, chain[0]);
        assert_eq!(executed.transaction.hash(), wanted.hash());
        assert_eq!(snapshot.diffs_through(0).count(), 2);
        assert_eq!(snapshot.diffs_through(1).count(), 3);
    }

    #[test]
    fn without_pending_blocks_the_tip_is_canonical() {
        let snapshot = SnapshotStore::new().apply(&update(&[], &[])).unwrap();
        assert_eq!(snapshot.tip_number(), 10);
        assert!(snapshot.tip().is_none() && snapshot.locate(&B256::ZERO).is_none());
    }

    #[test]
    fn the_end_of_a_block_adds_its_diff() {
        let closing = Closing { diff: Arc::default(), requests_hash: None };
        let closed = BlockReference { closing: Some(closing), ..block(5, 11, 1) };
        let update = update(&[closed], &[executed("5:0", &[])]);
        let snapshot = SnapshotStore::new().apply(&update).unwrap();
        assert_eq!(snapshot.blocks[0].diffs().count(), 2);
    }

    #[test]
    fn what_was_never_received_is_named() {
        let refused =
            SnapshotStore::new().apply(&update(&[block(5, 11, 2)], &[executed("5:0", &[])]));
        assert_eq!(refused.unwrap_err(), BadUpdate::Unknown("5:1".parse().unwrap()));
    }

    #[test]
    fn what_no_update_names_any_more_is_forgotten() {
        let mut store = SnapshotStore::new();
        store.apply(&update(&[block(5, 11, 1)], &[executed("5:0", &[])])).unwrap();
        store.apply(&update(&[block(6, 11, 1)], &[executed("6:0", &[])])).unwrap();

        let refused = store.apply(&update(&[block(5, 11, 1)], &[]));
        assert_eq!(refused.unwrap_err(), BadUpdate::Unknown("5:0".parse().unwrap()));
    }

    #[test]
    fn numbers_that_do_not_follow_are_no_chain() {
        let executed = [executed("5:0", &[]), executed("6:0", &[])];
        for (first, second, number, parent) in
            [(12, 13, 12, 10), (11, 13, 13, 11), (11, 11, 11, 11)]
        {
            let chain = [block(5, first, 1), block(6, second, 1)];
            let refused = SnapshotStore::new().apply(&update(&chain, &executed));
            assert_eq!(refused.unwrap_err(), BadUpdate::NotAChain { number, parent });
        }
    }

    #[test]
    fn a_block_without_an_environment_is_none() {
        let refused = SnapshotStore::new().apply(&update(&[block(5, 11, 0)], &[]));
        assert_eq!(refused.unwrap_err(), BadUpdate::NoEnvironment(Seq::new(5)));
    }

    #[test]
    fn numbers_at_the_end_of_their_range_are_no_reason_to_panic() {
        let mut update = update(&[block(5, 0, 1)], &[executed("5:0", &[])]);
        update.canonical.number = u64::MAX;
        assert!(SnapshotStore::new().apply(&update).is_err());
    }
}
