//! What random blocks had in them: a test of nothing would be clean too.

use std::collections::BTreeMap;

use preconf_chain::{Receipt, TxType};

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
    /// Times a consumer was started anew in the middle.
    pub restarts: u64,
    /// Blocks that the embedded execution client called valid.
    pub payloads: u64,
}

impl Tally {
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
            restarts,
            payloads,
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
            (&mut self.restarts, restarts),
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
    }

    pub(super) fn count_receipts(&mut self, receipts: &[Receipt]) {
        for receipt in receipts {
            *self.transactions.entry(type_number(receipt.tx_type)).or_default() += 1;
            self.failed += u64::from(!receipt.success);
        }
    }

    /// The counts in words.
    pub fn lines(&self) -> [String; 3] {
        let by_type = |counts: &BTreeMap<u8, u64>| {
            let words: Vec<String> =
                counts.iter().map(|(kind, count)| format!("{kind:#04x}: {count}")).collect();
            words.join(", ")
        };
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
                "{} flashblocks, {} sessions abandoned, {} blocks built ahead, {} restarts, \
                 {} payloads",
                self.flashblocks, self.abandoned, self.ahead, self.restarts, self.payloads
            ),
        ]
    }
}

fn type_number(kind: TxType) -> u8 {
    kind.into()
}
