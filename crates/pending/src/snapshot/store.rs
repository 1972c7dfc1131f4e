//! Folding updates into snapshots.

use std::{collections::BTreeMap, sync::Arc};

use preconf_evm::NextBlock;
use preconf_primitives::{Position, Seq};

use super::{BlockReference, ExecutedFlashblock, PendingBlock, Snapshot, Update, index::Index};

/// An update that does not fit to those before it: the sender's mistake.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadUpdate {
    /// A block names a flashblock that no update carried.
    #[error("flashblock {0} was never received")]
    Unknown(Position),
    /// A block has no flashblocks, or its first has no environment.
    #[error("the block of session {0} has no environment")]
    NoEnvironment(Seq),
    /// The numbers of the chain do not follow each other.
    #[error("block {number} does not follow block {parent}")]
    NotAChain {
        /// The block.
        number: u64,
        /// The block before it.
        parent: u64,
    },
}

/// Folds updates into snapshots. Holds what the newest one names and nothing else.
#[derive(Debug, Default)]
pub struct SnapshotStore {
    sessions: BTreeMap<Seq, Held>,
}

/// What was received of one session.
#[derive(Debug, Default)]
struct Held {
    environment: Option<Arc<NextBlock>>,
    /// Without a hole.
    flashblocks: Vec<Arc<ExecutedFlashblock>>,
    index: Index,
}

impl SnapshotStore {
    /// A store that has seen no update.
    pub const fn new() -> Self {
        Self { sessions: BTreeMap::new() }
    }

    /// The snapshot that an update describes.
    ///
    /// # Errors
    /// If it names what was never received or is not a chain. Nothing is lost by that: the sender's
    /// next subscription starts from nothing.
    pub fn apply(&mut self, update: &Update) -> Result<Snapshot, BadUpdate> {
        for executed in &update.executed {
            self.sessions.entry(executed.position.seq).or_default().push(executed.clone());
        }
        let mut parent = update.canonical.number;
        let mut blocks = Vec::with_capacity(update.chain.len());
        for reference in &update.chain {
            if parent.checked_add(1) != Some(reference.number) {
                return Err(BadUpdate::NotAChain { number: reference.number, parent });
            }
            parent = reference.number;
            let held = self.sessions.entry(reference.seq).or_default();
            blocks.push(held.block(reference)?);
        }
        self.sessions.retain(|seq, _| update.chain.iter().any(|block| block.seq == *seq));
        Ok(Snapshot { id: update.snapshot_id, canonical: update.canonical, blocks })
    }
}

impl Held {
    /// Adds the next flashblock. One that does not follow is left out, and missed when a block names
    /// it.
    fn push(&mut self, executed: Arc<ExecutedFlashblock>) {
        if executed.position.index != self.flashblocks.len() as u64 {
            return;
        }
        if let Some(environment) = executed.environment.as_deref() {
            self.environment = Some(Arc::new(environment.clone()));
        }
        self.index.push(&executed);
        self.flashblocks.push(executed);
    }

    fn block(&mut self, reference: &BlockReference) -> Result<PendingBlock, BadUpdate> {
        let wanted = usize::try_from(reference.flashblocks).unwrap_or(usize::MAX);
        if self.flashblocks.len() < wanted {
            let first = self.flashblocks.len() as u64;
            return Err(BadUpdate::Unknown(Position::new(reference.seq, first)));
        }
        if self.flashblocks.len() > wanted {
            self.flashblocks.truncate(wanted);
            self.index = Index::default();
            self.flashblocks.iter().for_each(|executed| self.index.push(executed));
        }
        let environment = self.environment.clone().filter(|_| wanted > 0);
        Ok(PendingBlock {
            reference: reference.clone(),
            environment: environment.ok_or(BadUpdate::NoEnvironment(reference.seq))?,
            flashblocks: self.flashblocks.clone(),
            transaction_count: self.index.transactions(),
            index: self.index.clone(),
        })
    }
}
