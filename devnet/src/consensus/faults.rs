//! What goes wrong in the consensus itself, by block or by validator: ordered from outside, taken by the
//! driver.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;

/// What goes wrong while a block is agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoundFault {
    /// The proposer does not propose: the round is lost, and the next proposer builds on the same
    /// head.
    FailProposer,
    /// The proposer is on no whitelist: the sequencer is told of the head and asked for no block.
    Outsider,
    /// The sequencer learns so much later of the block before.
    LateHead(Duration),
    /// The sequencer is told that the block before is the head so much earlier than it gets that
    /// block: its client cannot follow until then.
    LatePayload(Duration),
    /// The sequencer does not process the proposal of the block before: it learns of it when it is
    /// final, so much later, first that it is the head, and then what is to be built upon it.
    SkippedProposal(Duration),
    /// The block is shown to the sequencer, which builds upon it, and is then not agreed on: the
    /// next proposer proposes on the same head.
    Reorg,
}

/// The faults that are to come, and the validators that are stopped. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    by_block: BTreeMap<u64, Vec<RoundFault>>,
    stopped: BTreeSet<usize>,
}

impl Faults {
    /// Orders a fault for a block. It has to be ordered before the block before is agreed on.
    pub fn order(&self, block: u64, fault: RoundFault) {
        self.0.lock().by_block.entry(block).or_default().push(fault);
    }

    /// Stops a validator: each of its rounds is lost until it is started again.
    pub fn stop(&self, validator: usize) {
        self.0.lock().stopped.insert(validator);
    }

    /// Starts a validator that was stopped.
    pub fn start(&self, validator: usize) {
        self.0.lock().stopped.remove(&validator);
    }

    pub(super) fn has_stopped(&self, validator: usize) -> bool {
        self.0.lock().stopped.contains(&validator)
    }

    /// Takes a fault of this block that is wanted; each happens once.
    pub(super) fn take<T>(
        &self,
        block: u64,
        wanted: impl Fn(&RoundFault) -> Option<T>,
    ) -> Option<T> {
        let mut known = self.0.lock();
        let of_block = known.by_block.get_mut(&block)?;
        let at = of_block.iter().position(|fault| wanted(fault).is_some())?;
        wanted(&of_block.remove(at))
    }

    /// The same, for one that has nothing to say.
    pub(super) fn takes(&self, block: u64, wanted: RoundFault) -> bool {
        self.take(block, |fault| (*fault == wanted).then_some(())).is_some()
    }
}
