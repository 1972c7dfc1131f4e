//! One snapshot, ready to be asked.
//!
//! A view never changes, but for what is learnt about its canonical block. It holds, for each
//! pending block, the state after it: the diffs of the snapshot over what has been read of the
//! canonical block. What has been read is kept from view to view as long as the canonical block is
//! the same; views of different canonical blocks share nothing. Headers are computed when first
//! asked for.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use alloy_primitives::{Address, B256};
use preconf_chain::{ChainSpec, Header};
use preconf_pending::snapshot::{PendingBlock, Snapshot};
use preconf_state::{Overlay, StateCache};
use tokio::time::Instant;

use crate::answers::blocks;

/// How much is kept of what was read of one block: about 100 MB at the most.
const CACHE_CAPACITY: usize = 262_144;

/// The state after a pending block.
pub(crate) type PendingState = Overlay<StateCache>;

/// A snapshot and what answering from it needs.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) snapshot: Snapshot,
    pub(crate) received: Instant,
    cache: StateCache,
    states: Vec<PendingState>,
    headers: Vec<OnceLock<Header>>,
    reached: Arc<AtomicBool>,
}

impl View {
    /// Makes the view of a snapshot that was received after `previous`.
    pub(crate) fn new(snapshot: Snapshot, previous: Option<&Self>, received: Instant) -> Self {
        let canonical = snapshot.canonical;
        let (cache, reached) = match previous {
            Some(view) if view.cache.block() == (canonical.number, canonical.hash) => {
                (view.cache.clone(), Arc::clone(&view.reached))
            }
            _ => {
                let cache = StateCache::new(canonical.number, canonical.hash, CACHE_CAPACITY);
                (cache, Arc::default())
            }
        };
        let states = states(&snapshot, &cache);
        let headers = snapshot.blocks.iter().map(|_| OnceLock::new()).collect();
        Self { snapshot, received, cache, states, headers, reached }
    }

    /// The pending block at a place in the snapshot, which must come from this snapshot.
    pub(crate) fn block(&self, at: usize) -> &PendingBlock {
        &self.snapshot.blocks[at]
    }

    /// The state after the pending block at a place in the snapshot.
    pub(crate) fn state(&self, at: usize) -> &PendingState {
        &self.states[at]
    }

    /// The header of the pending block at a place in the snapshot. The first to ask computes it.
    pub(crate) fn header(&self, at: usize, spec: &ChainSpec) -> &Header {
        self.headers[at].get_or_init(|| blocks::header(spec, self.block(at)))
    }

    /// What has been read of the canonical block.
    pub(crate) const fn cache(&self) -> &StateCache {
        &self.cache
    }

    /// Whether the execution client was seen to have the canonical block: before that, it may not
    /// know of what it will.
    pub(crate) fn is_reached(&self) -> bool {
        self.reached.load(Ordering::Relaxed)
    }

    /// Notes that the execution client has the canonical block, for this view and for all others
    /// upon that block.
    pub(crate) fn note_reached(&self) {
        self.reached.store(true, Ordering::Relaxed);
    }

    /// An account that a pending block changed and that has this code.
    pub(crate) fn owner_of(&self, code: B256) -> Option<Address> {
        let diffs = self.snapshot.blocks.iter().flat_map(PendingBlock::diffs);
        let mut accounts = diffs.flat_map(|diff| &diff.accounts);
        let owner = accounts
            .find(|(_, change)| change.account.is_some_and(|account| account.code_hash == code));
        owner.map(|(address, _)| *address)
    }
}

fn states(snapshot: &Snapshot, cache: &StateCache) -> Vec<PendingState> {
    let mut state = Overlay::new(cache.clone());
    let mut states = Vec::with_capacity(snapshot.blocks.len());
    for block in &snapshot.blocks {
        let environment = &block.environment;
        // The reader knows no block above the canonical one.
        if let Some(parent) = environment.number.checked_sub(1) {
            state.set_block_hash(parent, environment.parent_hash);
        }
        for diff in block.diffs() {
            state.push_layer(Arc::clone(diff));
        }
        states.push(state.clone());
    }
    states
}
