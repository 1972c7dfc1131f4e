//! The newest snapshot, kept for those who come later.

use std::{collections::BTreeMap, sync::Arc};

use preconf_primitives::Position;

use crate::snapshot::{BlockReference, ExecutedFlashblock, Update};

/// What makes up the newest snapshot. Holds what the newest update names and nothing else.
#[derive(Debug, Default)]
pub struct Current {
    newest: Option<Arc<Update>>,
    flashblocks: BTreeMap<Position, Arc<ExecutedFlashblock>>,
}

impl Current {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self { newest: None, flashblocks: BTreeMap::new() }
    }

    /// Takes note of the next update.
    pub fn apply(&mut self, update: Arc<Update>) {
        for executed in &update.executed {
            self.flashblocks.insert(executed.position, executed.clone());
        }
        self.flashblocks.retain(|position, _| {
            let block = update.chain.iter().find(|block| block.seq == position.seq);
            block.is_some_and(|block| position.index < block.flashblocks)
        });
        self.newest = Some(update);
    }

    /// The updates that lead somebody who knows nothing to the newest snapshot, each with at most
    /// one flashblock, so that none is larger than a message may be. The last one has the id of the
    /// newest snapshot; those before it show earlier parts of the same chain under lower ids.
    pub fn updates(&self) -> Vec<Arc<Update>> {
        let Some(newest) = &self.newest else { return Vec::new() };
        let mut chain: Vec<BlockReference> = Vec::new();
        let mut steps = Vec::new();
        for block in &newest.chain {
            chain.push(BlockReference { flashblocks: 0, closing: None, ..block.clone() });
            for index in 0..block.flashblocks {
                let executed = self.flashblocks.get(&Position::new(block.seq, index)).cloned();
                let is_whole = index + 1 == block.flashblocks;
                if let Some(last) = chain.last_mut() {
                    last.flashblocks = index + 1;
                    last.closing = block.closing.clone().filter(|_| is_whole);
                }
                steps.push((chain.clone(), executed));
            }
        }
        if steps.is_empty() {
            steps.push((chain, None));
        }
        let first_id = newest.snapshot_id.saturating_sub(steps.len() as u64 - 1);
        let last_id = newest.snapshot_id;
        let numbered = (first_id..).zip(steps);
        numbered
            .map(|(snapshot_id, (chain, executed))| {
                Arc::new(Update {
                    snapshot_id,
                    canonical: newest.canonical,
                    chain,
                    executed: executed.into_iter().collect(),
                    retracted: Vec::new(),
                    is_part: snapshot_id != last_id,
                })
            })
            .collect()
    }
}
