//! What readers were shown, and whether it was kept (D9).
//!
//! A transaction is promised for a block from the snapshot that first shows it. The promise ends
//! when the canonical block of that number is known, when another session of the sequencer's has
//! replaced the one that made it, or when the sequencer takes it back. What is not kept is
//! announced, once.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    mem,
    sync::Arc,
};

use alloy_primitives::B256;
use preconf_chain::Receipt;
use preconf_primitives::{Retraction, RetractionCause, Seq};

use crate::snapshot::ExecutedFlashblock;

/// How many canonical blocks may wait for their content. The oldest is given up first.
const MAX_AUDITS: usize = 16;
/// Of how many blocks below the highest one the kept promises are remembered, for the case that they
/// are replaced, and how many promises at most.
const REOPENED_BLOCKS: u64 = 8;
const MAX_KEPT: usize = 65_536;
/// How many announced retractions are remembered, so that none is announced twice.
const MAX_ANNOUNCED: usize = 65_536;

/// One transaction as readers were shown it.
#[derive(Clone, Debug)]
pub(crate) struct Promise {
    executed: Arc<ExecutedFlashblock>,
    offset: usize,
    number: u64,
    gas_used: u64,
}

/// How promises about one block turned out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// In the block, with the same receipt.
    pub kept: u64,
    /// In the block, with another receipt.
    pub altered: u64,
    /// Not in the block, and promised again for a later one.
    pub moved: u64,
    /// Not in the block.
    pub missing: u64,
    /// Taken back by the sequencer before.
    pub retracted: u64,
    /// Not compared, because the block could not be had.
    pub unknown: u64,
}

/// Transactions with their receipts and the gas that each used.
pub(crate) type Contents<'a> = BTreeMap<B256, (&'a Receipt, u64)>;

/// Promises that no session of the pending chain stands for any more, and what is to be said about
/// them.
#[derive(Debug, Default)]
pub(crate) struct Promises {
    /// Of replaced sessions, not settled yet.
    carried: Vec<Promise>,
    /// Of canonical blocks whose content is awaited.
    audits: VecDeque<(B256, Vec<Promise>)>,
    /// Kept by one of the newest canonical blocks, which may be replaced.
    kept: VecDeque<Promise>,
    /// What was announced, with the number of the block it was promised for.
    announced: BTreeMap<B256, u64>,
    /// To be announced with the next snapshot.
    retractions: Vec<Retraction>,
}

impl Promise {
    pub(crate) const fn new(
        executed: Arc<ExecutedFlashblock>,
        offset: usize,
        number: u64,
        gas_used: u64,
    ) -> Self {
        Self { executed, offset, number, gas_used }
    }

    pub(crate) fn transaction(&self) -> B256 {
        *self.executed.transactions[self.offset].transaction.hash()
    }

    pub(crate) fn seq(&self) -> Seq {
        self.executed.position.seq
    }

    fn receipt(&self) -> &Receipt {
        &self.executed.transactions[self.offset].receipt
    }

    /// Whether the transaction did the same, wherever in a block it is.
    fn did_the_same(&self, receipt: &Receipt, gas_used: u64) -> bool {
        let promised = self.receipt();
        promised.success == receipt.success
            && self.gas_used == gas_used
            && promised.logs == receipt.logs
    }
}

impl Promises {
    /// Takes over what a session has promised that readers are no longer shown.
    pub(crate) fn carry(&mut self, promises: Vec<Promise>) {
        self.carried.extend(promises);
    }

    pub(crate) const fn has_carried(&self) -> bool {
        !self.carried.is_empty()
    }

    /// Settles what is carried against the pending chain that readers are shown now. A promise ends
    /// when the chain holds the transaction, or when it `is_replaced` although it does not.
    pub(crate) fn settle(&mut self, shown: &Contents<'_>, is_replaced: impl Fn(&Promise) -> bool) {
        for promise in mem::take(&mut self.carried) {
            match shown.get(&promise.transaction()) {
                Some((receipt, gas_used)) if promise.did_the_same(receipt, *gas_used) => (),
                Some(_) => self.announce(&promise, RetractionCause::OutcomeChanged),
                None if is_replaced(&promise) => {
                    self.announce(&promise, RetractionCause::BlockReplaced);
                }
                None => self.carried.push(promise),
            }
        }
    }

    /// Takes what was carried for blocks up to this number: the canonical chain has decided.
    pub(crate) fn due(&mut self, number: u64) -> Vec<Promise> {
        let (due, carried) =
            mem::take(&mut self.carried).into_iter().partition(|promise| promise.number <= number);
        self.carried = carried;
        due
    }

    /// Keeps promises until the content of a canonical block is known. What had to be given up for
    /// it is counted in the audit that is returned.
    pub(crate) fn await_content(&mut self, hash: B256, promises: Vec<Promise>) -> Option<Audit> {
        self.audits.push_back((hash, promises));
        if self.audits.len() <= MAX_AUDITS {
            return None;
        }
        let (_, given_up) = self.audits.pop_front()?;
        Some(Audit { unknown: given_up.len() as u64, ..Audit::default() })
    }

    /// What waits for the content of this block.
    pub(crate) fn awaited(&mut self, hash: B256) -> Option<Vec<Promise>> {
        let at = self.audits.iter().position(|(awaited, _)| *awaited == hash)?;
        self.audits.remove(at).map(|(_, promises)| promises)
    }

    /// Compares promises with the canonical block, receipt by receipt. `shown` is what is promised
    /// now.
    pub(crate) fn audit(
        &mut self,
        promises: &[Promise],
        canonical: &Contents<'_>,
        shown: &BTreeSet<B256>,
    ) -> Audit {
        let mut audit = Audit::default();
        let mut seen = BTreeSet::new();
        for promise in promises {
            let transaction = promise.transaction();
            if !seen.insert(transaction) {
                continue;
            }
            match canonical.get(&transaction) {
                Some((receipt, _)) if *receipt == promise.receipt() => {
                    audit.kept += 1;
                    self.keep(promise);
                }
                Some(_) => {
                    audit.altered += 1;
                    self.announce(promise, RetractionCause::OutcomeChanged);
                }
                None if self.announced.contains_key(&transaction) => audit.retracted += 1,
                None if shown.contains(&transaction) => audit.moved += 1,
                None => {
                    audit.missing += 1;
                    self.announce(promise, RetractionCause::BlockReplaced);
                }
            }
        }
        // What was promised for later and is canonical already is kept.
        self.carried.retain(|promise| !canonical.contains_key(&promise.transaction()));
        audit
    }

    fn keep(&mut self, promise: &Promise) {
        let oldest = promise.number.saturating_sub(REOPENED_BLOCKS);
        while self.kept.front().is_some_and(|kept| kept.number < oldest)
            || self.kept.len() >= MAX_KEPT
        {
            self.kept.pop_front();
        }
        self.kept.push_back(promise.clone());
    }

    /// The blocks from this number on are replaced: what they had kept is open again.
    pub(crate) fn reopen(&mut self, number: u64) {
        let (open, kept) =
            mem::take(&mut self.kept).into_iter().partition(|kept| kept.number >= number);
        self.kept = kept;
        self.carried.extend::<VecDeque<_>>(open);
    }

    /// Takes what the sequencer says it does not keep. Returns how much of it is news.
    pub(crate) fn take_back(&mut self, retractions: &[Retraction], number: u64) -> usize {
        let before = self.retractions.len();
        for retraction in retractions {
            self.push(*retraction, number);
        }
        let taken_back: BTreeSet<B256> =
            retractions.iter().map(|retraction| retraction.transaction).collect();
        self.carried.retain(|promise| !taken_back.contains(&promise.transaction()));
        self.retractions.len() - before
    }

    /// Notes that a transaction is promised anew, so that it can be announced again.
    pub(crate) fn promise_anew(&mut self, transaction: &B256) {
        self.announced.remove(transaction);
    }

    /// Takes what is to be announced.
    pub(crate) fn take_retractions(&mut self) -> Vec<Retraction> {
        mem::take(&mut self.retractions)
    }

    pub(crate) const fn has_retractions(&self) -> bool {
        !self.retractions.is_empty()
    }

    /// Forgets what was announced about blocks up to this number.
    pub(crate) fn forget_announced(&mut self, number: u64) {
        self.announced.retain(|_, promised_for| *promised_for > number);
    }

    fn announce(&mut self, promise: &Promise, cause: RetractionCause) {
        let retraction = Retraction { transaction: promise.transaction(), cause };
        self.push(retraction, promise.number);
    }

    fn push(&mut self, retraction: Retraction, number: u64) {
        if self.announced.contains_key(&retraction.transaction) {
            return;
        }
        if self.announced.len() < MAX_ANNOUNCED {
            self.announced.insert(retraction.transaction, number);
        }
        self.retractions.push(retraction);
    }
}
