//! What was promised before a build began, and where each promise stands in it.
//!
//! Decides nothing about execution: the build tries the promises in order and says here what came
//! of each. Invariant: until a promise is in the block, known to be in the canonical chain, or its
//! retraction is published, it is among those that [`Promises::owed`] names, so whatever way the
//! build ends, the next one gets it.

use std::{collections::VecDeque, sync::Arc};

use alloy_primitives::{B256, map::HashSet};
use preconf_chain::Transaction;
use preconf_primitives::{Retraction, RetractionCause};

/// Where the execution client sees a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Located {
    /// In a block of the canonical chain.
    Canonical,
    /// In none.
    Absent,
    /// It did not say.
    Unknown,
}

/// What was promised before a build, by where it stands.
#[derive(Debug, Default)]
pub(crate) struct Promises {
    /// To be tried, in order.
    to_come: VecDeque<Transaction>,
    /// The sender has used the nonce: the chain may hold it. Until that is known, neither kept nor
    /// taken back.
    questioned: Vec<Broken>,
    /// Not to be tried in this build.
    put_off: Vec<Transaction>,
    /// Not to be kept. Each is promised until the flashblock that says otherwise is out.
    taken_back: Vec<TakenBack>,
}

#[derive(Clone, Debug)]
struct Broken {
    transaction: Transaction,
    cause: RetractionCause,
}

#[derive(Clone, Debug)]
struct TakenBack {
    broken: Broken,
    /// The flashblock that says so, once it is cut.
    index: Option<u64>,
}

impl Promises {
    /// Promises to be kept in this order; a repeated one counts once.
    pub(crate) fn new(promised: Vec<Transaction>) -> Self {
        let mut seen = HashSet::<B256>::default();
        let to_come = promised.into_iter().filter(|promise| seen.insert(*promise.hash()));
        Self { to_come: to_come.collect(), ..Self::default() }
    }

    /// Further promises, to be tried after the others.
    pub(crate) fn add(&mut self, promised: impl IntoIterator<Item = Transaction>) {
        self.to_come.extend(promised);
    }

    /// Whoever made these has said that they are none any more.
    pub(crate) fn withdraw(&mut self, withdrawn: &HashSet<B256>) {
        let stays = |promise: &Transaction| !withdrawn.contains(promise.hash());
        self.to_come.retain(stays);
        self.put_off.retain(stays);
        self.questioned.retain(|broken| stays(&broken.transaction));
        self.taken_back.retain(|taken_back| stays(&taken_back.broken.transaction));
    }

    /// The one to be tried next.
    pub(crate) fn next(&self) -> Option<&Transaction> {
        self.to_come.front()
    }

    /// The next one is in the block.
    pub(crate) fn kept(&mut self) {
        self.to_come.pop_front();
    }

    /// The next one cannot be executed, but the chain may hold it already.
    pub(crate) fn question(&mut self, cause: RetractionCause) {
        let next = self.to_come.pop_front();
        self.questioned.extend(next.map(|transaction| Broken { transaction, cause }));
    }

    /// The next one cannot be kept.
    pub(crate) fn take_back(&mut self, cause: RetractionCause) {
        let next = self.to_come.pop_front();
        let broken = next.map(|transaction| Broken { transaction, cause });
        self.taken_back.extend(broken.map(|broken| TakenBack { broken, index: None }));
    }

    /// The next one cannot be tried in this build, and so nothing after it of the same sender.
    pub(crate) fn put_off(&mut self) {
        let Some(sender) = self.to_come.front().map(Transaction::signer) else { return };
        let (put_off, to_come): (Vec<_>, Vec<_>) =
            self.to_come.drain(..).partition(|promise| promise.signer() == sender);
        self.put_off.extend(put_off);
        self.to_come.extend(to_come);
    }

    /// The execution client has said where a questioned one is.
    pub(crate) fn located(&mut self, hash: &B256, located: Located) {
        let found = self.questioned.iter().position(|broken| broken.transaction.hash() == hash);
        let Some(broken) = found.map(|at| self.questioned.remove(at)) else { return };
        match located {
            Located::Canonical => {}
            Located::Absent => self.taken_back.push(TakenBack { broken, index: None }),
            Located::Unknown => self.put_off.push(broken.transaction),
        }
    }

    /// What the flashblock with this index, which is being cut, takes back.
    pub(crate) fn cut(&mut self, index: u64) -> Vec<Retraction> {
        let unsaid = self.taken_back.iter_mut().filter(|taken_back| taken_back.index.is_none());
        let said = unsaid.map(|taken_back| {
            taken_back.index = Some(index);
            let Broken { transaction, cause } = &taken_back.broken;
            Retraction { transaction: *transaction.hash(), cause: *cause }
        });
        said.collect()
    }

    /// The flashblock with this index is out, and those before it.
    pub(crate) fn published(&mut self, index: u64) {
        self.taken_back.retain(|taken_back| taken_back.index.is_none_or(|said| said > index));
    }

    /// What is taken back by flashblocks that are cut and not out, each with its index.
    pub(crate) fn unsaid(&self) -> impl Iterator<Item = (u64, &Transaction)> {
        let said = self.taken_back.iter();
        said.filter_map(|taken_back| Some((taken_back.index?, &taken_back.broken.transaction)))
    }

    /// What is still promised and neither in the block nor taken back.
    pub(crate) fn open(&self) -> impl Iterator<Item = &Transaction> {
        let questioned = self.questioned.iter().map(|broken| &broken.transaction);
        questioned.chain(&self.put_off).chain(&self.to_come)
    }

    /// Everything that is still promised and not in the block.
    pub(crate) fn owed(&self) -> impl Iterator<Item = &Transaction> {
        let taken_back = self.taken_back.iter().map(|taken_back| &taken_back.broken.transaction);
        taken_back.chain(self.open())
    }
}

/// What is promised when a build has ended with a block. Shares the block's list, because there is
/// seldom a need to go through it.
#[derive(Clone, Debug, Default)]
pub struct Promised {
    block: Arc<Vec<Transaction>>,
    own: usize,
    open: Vec<Transaction>,
}

impl Promised {
    /// The first `own` transactions of the block are the chain's own, and no promises.
    pub(crate) fn new(block: Arc<Vec<Transaction>>, own: usize, open: Vec<Transaction>) -> Self {
        Self { block, own, open }
    }

    /// Those that did not come into the block.
    pub(crate) fn open(&self) -> &[Transaction] {
        &self.open
    }

    /// Those that are still promised if the chain holds what `is_kept` says.
    pub fn without(self, is_kept: impl Fn(&Transaction) -> bool) -> Vec<Transaction> {
        let included = self.block.iter().skip(self.own).filter(|promise| !is_kept(promise));
        with_others(
            included.cloned().collect(),
            self.open.into_iter().filter(|promise| !is_kept(promise)),
        )
    }

    /// All of them.
    pub fn into_all(self) -> Vec<Transaction> {
        self.without(|_| false)
    }
}

/// The transactions of a block and those of `others` that are not among them: what was put off may
/// have come in from the pool after all.
pub(crate) fn with_others(
    mut included: Vec<Transaction>,
    others: impl IntoIterator<Item = Transaction>,
) -> Vec<Transaction> {
    let mut others = others.into_iter().peekable();
    // There rarely are any, and there may be many thousand hashes.
    if others.peek().is_some() {
        let held: HashSet<B256> = included.iter().map(|transaction| *transaction.hash()).collect();
        included.extend(others.filter(|other| !held.contains(other.hash())));
    }
    included
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{OTHER, SENDER, transfer, unsigned};

    fn promise(sender: alloy_primitives::Address, nonce: u64) -> Transaction {
        unsigned(transfer(nonce), sender)
    }

    #[test]
    fn a_repeated_promise_counts_once() {
        let promises = Promises::new(vec![promise(SENDER, 0), promise(SENDER, 0)]);
        assert_eq!(promises.owed().count(), 1);
    }

    #[test]
    fn what_is_put_off_takes_its_senders_later_promises_along() {
        let (first, other) = (promise(SENDER, 0), promise(OTHER, 0));
        let mut promises = Promises::new(vec![first.clone(), other.clone(), promise(SENDER, 1)]);
        promises.put_off();
        assert_eq!(promises.next(), Some(&other));
        promises.kept();
        assert_eq!(promises.next(), None);
        assert_eq!(promises.owed().cloned().collect::<Vec<_>>(), [first, promise(SENDER, 1)]);
    }
}
