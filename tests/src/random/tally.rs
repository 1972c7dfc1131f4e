//! What random blocks had in them: a test of nothing would be clean too.

use std::collections::BTreeMap;

use alloy_primitives::B256;
use preconf_chain::{Receipt, TxType};

use super::{kind::Kind, world::PRECOMPILE};

/// Counts of what was executed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Blocks.
    pub blocks: u64,
    /// Transactions in them, by their type.
    pub transactions: BTreeMap<u8, u64>,
    /// Of these, those that failed.
    pub failed: u64,
    /// Transactions that could not be in the block.
    pub refused: u64,
    /// Requests to the consensus layer, by their type.
    pub requests: BTreeMap<u8, u64>,
    /// Accounts that were gone after a block.
    pub destroyed: u64,
    /// Contracts that were there after a block and had not been before.
    pub created: u64,
    /// Slots that became zero.
    pub cleared: u64,
    /// Flashblocks that a consumer took.
    pub flashblocks: u64,
    /// Sessions that were abandoned.
    pub abandoned: u64,
    /// Blocks that were built on a block that was not canonical yet.
    pub ahead: u64,
    /// Times a block was built anew in the middle.
    pub rebuilds: u64,
    /// Times a consumer was started anew in the middle.
    pub restarts: u64,
    /// Transactions that were refused, and by the oracle too.
    pub doubted: u64,
    /// Blocks that the embedded execution client called valid.
    pub payloads: u64,
    /// What else there was.
    pub kinds: BTreeMap<Kind, u64>,
}

impl Tally {
    /// Counts something once.
    pub fn note(&mut self, kind: Kind) {
        *self.kinds.entry(kind).or_default() += 1;
    }

    /// Adds what somebody else counted.
    pub fn add(&mut self, other: &Self) {
        let Self {
            blocks,
            transactions,
            failed,
            refused,
            requests,
            destroyed,
            created,
            cleared,
            flashblocks,
            abandoned,
            ahead,
            rebuilds,
            restarts,
            doubted,
            payloads,
            kinds,
        } = other;
        for (sum, more) in [
            (&mut self.blocks, blocks),
            (&mut self.failed, failed),
            (&mut self.refused, refused),
            (&mut self.destroyed, destroyed),
            (&mut self.created, created),
            (&mut self.cleared, cleared),
            (&mut self.flashblocks, flashblocks),
            (&mut self.abandoned, abandoned),
            (&mut self.ahead, ahead),
            (&mut self.rebuilds, rebuilds),
            (&mut self.restarts, restarts),
            (&mut self.doubted, doubted),
            (&mut self.payloads, payloads),
        ] {
            *sum += more;
        }
        for (sums, counts) in
            [(&mut self.transactions, transactions), (&mut self.requests, requests)]
        {
            for (kind, count) in counts {
                *sums.entry(*kind).or_default() += count;
            }
        }
        for (kind, count) in kinds {
            *self.kinds.entry(*kind).or_default() += count;
        }
    }

    pub(super) fn count_receipts(&mut self, receipts: &[Receipt]) {
        for receipt in receipts {
            *self.transactions.entry(type_number(receipt.tx_type)).or_default() += 1;
            self.failed += u64::from(!receipt.success);
            for log in receipt.logs.iter().filter(|log| log.address == PRECOMPILE) {
                if let [number, succeeded] = log.topics() {
                    self.count_precompile(number, !succeeded.is_zero(), log.data.data.is_empty());
                }
            }
        }
    }

    fn count_precompile(&mut self, number: &B256, succeeded: bool, is_silent: bool) {
        let number = u16::from_be_bytes([number[30], number[31]]);
        self.note(match (succeeded, is_silent) {
            (false, _) => Kind::Failed(number),
            (true, true) => Kind::Silent(number),
            (true, false) => Kind::Answered(number),
        });
    }

    /// The counts in words.
    pub fn lines(&self) -> [String; 4] {
        let by_type = |counts: &BTreeMap<u8, u64>| {
            let words: Vec<String> =
                counts.iter().map(|(kind, count)| format!("{kind:#04x}: {count}")).collect();
            words.join(", ")
        };
        let kinds: Vec<String> =
            self.kinds.iter().map(|(kind, count)| format!("{kind}: {count}")).collect();
        let transactions: u64 = self.transactions.values().sum();
        [
            format!(
                "{transactions} transactions ({}), {} failed, {} refused; requests ({})",
                by_type(&self.transactions),
                self.failed,
                self.refused,
                by_type(&self.requests),
            ),
            format!(
                "{} contracts created, {} accounts destroyed, {} slots cleared",
                self.created, self.destroyed, self.cleared
            ),
            format!(
                "{} flashblocks, {} sessions abandoned, {} blocks built ahead, {} rebuilds, \
                 {} restarts, {} payloads, {} refused by the oracle too",
                self.flashblocks,
                self.abandoned,
                self.ahead,
                self.rebuilds,
                self.restarts,
                self.payloads,
                self.doubted,
            ),
            format!("kinds: {}", kinds.join(", ")),
        ]
    }
}

fn type_number(kind: TxType) -> u8 {
    kind.into()
}
