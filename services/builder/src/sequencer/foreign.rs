//! The state after a block that somebody else has built.
//!
//! What is in memory of the block before it is worth keeping: the next block reads much of the same.
//! So a block of others is executed on that, away from the build thread, and what it changed is
//! applied. It counts only if its header comes out; else, or if it takes longer than [`PATIENCE`],
//! the next block begins with nothing in memory, and reads what it needs.
//!
//! A header does not tell whether the state in memory is right: its state root is not computed here.
//! So when the execution client finds another block than ours, or does not call ours valid, nothing
//! is kept: neither of the head, nor over the next block of others, which may be under way already.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use preconf_chain::{ChainSpec, Transaction};
use preconf_evm::{ExecutionError, NextBlock, Outcome, Paused, TxError};
use preconf_state::{Key, Overlay, StateCache};
use preconf_upstream::FullBlock;
use tokio::{task::spawn_blocking, time::timeout};
use tracing::debug;

use super::{HeadState, Sequencer};

/// How long the next block may wait for this.
const PATIENCE: Duration = Duration::from_millis(150);
/// How often state that is missing is read.
const ROUNDS: usize = 16;

/// How far a block has been executed.
enum Progress {
    /// Not begun: its own system calls come first.
    Unopened,
    /// Up to this transaction.
    Open(Box<Paused<StateCache>>, usize),
}

/// Where executing it stopped.
enum Stop {
    /// State is missing.
    Missing(Progress, Vec<Key>),
    /// At the end.
    Done(Box<Outcome<StateCache>>),
    /// It cannot be executed on this state, by our rules.
    Failed,
}

impl Sequencer {
    /// The state after a block, as far as it is in memory.
    pub(super) async fn state_after(&self, block: &FullBlock) -> StateCache {
        let before = self.head.borrow().as_ref().map(|head| head.cache.clone());
        let before = before.filter(|cache| cache.block().1 == block.block.header.parent_hash);
        let kept = match before {
            Some(before) => {
                timeout(PATIENCE, self.follow_block(before, block)).await.ok().flatten()
            }
            None => None,
        };
        let is_doubted = self.doubts_state.swap(false, Ordering::Relaxed);
        let kept = kept.filter(|_| !is_doubted);
        self.metrics.foreign_block(kept.is_some());
        let number = block.block.header.number;
        kept.unwrap_or_else(|| StateCache::new(number, block.hash, self.cache_entries))
    }

    /// Forgets what is in memory of the head, and does not keep it over the next block of others.
    pub(super) fn doubt_state(&self) {
        self.doubts_state.store(true, Ordering::Relaxed);
        self.head.send_if_modified(|head| {
            let Some(HeadState { cache, .. }) = head else { return false };
            let (number, hash) = cache.block();
            *cache = StateCache::new(number, hash, self.cache_entries);
            true
        });
    }

    async fn follow_block(&self, before: StateCache, block: &FullBlock) -> Option<StateCache> {
        let FullBlock { hash, block, transactions } = block;
        let withdrawals = block.body.withdrawals.clone().unwrap_or_default().into_inner();
        let header = &block.header;
        let task = Arc::new(Task {
            spec: self.spec.clone(),
            block: NextBlock::from_header(header, withdrawals),
            before: before.clone(),
            transactions: transactions.clone(),
        });
        let mut progress = Progress::Unopened;
        for _ in 0..ROUNDS {
            let task = task.clone();
            match spawn_blocking(move || task.execute(progress)).await.ok()? {
                Stop::Missing(so_far, keys) => {
                    self.urgent.ensure(&before, &keys).await.ok()?;
                    progress = so_far;
                }
                Stop::Done(outcome) => {
                    let found = outcome.block(header.state_root).header.hash_slow();
                    if found == *hash {
                        return Some(before.advance(&outcome.diff(), header.number, *hash));
                    }
                    debug!(%hash, %found, "a block of others is not what we find");
                    return None;
                }
                Stop::Failed => return None,
            }
        }
        None
    }
}

/// A block, and what it is executed on.
struct Task {
    spec: Arc<ChainSpec>,
    block: NextBlock,
    before: StateCache,
    transactions: Vec<Transaction>,
}

impl Task {
    /// Goes on until the end, or until state is missing.
    fn execute(&self, progress: Progress) -> Stop {
        let (paused, from) = match progress {
            Progress::Open(paused, from) => (paused, from),
            Progress::Unopened => {
                let overlay = Overlay::new(self.before.clone());
                match Paused::begin(self.spec.clone(), self.block.clone(), overlay) {
                    // The chain's own come first, and are there already.
                    Ok(paused) => {
                        let own = paused.transactions().len();
                        (Box::new(paused), own)
                    }
                    Err(ExecutionError::NeedState(keys)) => {
                        return Stop::Missing(Progress::Unopened, keys);
                    }
                    Err(ExecutionError::Failed(_)) => return Stop::Failed,
                }
            }
        };
        let mut running = paused.resume();
        for (at, transaction) in self.transactions.iter().enumerate().skip(from) {
            match running.execute(transaction) {
                Ok(_) => {}
                Err(TxError::NeedState(keys)) => {
                    return Stop::Missing(Progress::Open(Box::new(running.pause()), at), keys);
                }
                Err(
                    TxError::NonceTooLow { .. }
                    | TxError::NonceTooHigh { .. }
                    | TxError::ExceedsBlockGas { .. }
                    | TxError::ExceedsBlobGas { .. }
                    | TxError::Reserved(_)
                    | TxError::Invalid(_)
                    | TxError::Fatal(_),
                ) => return Stop::Failed,
            }
        }
        let paused = Box::new(running.pause());
        match Paused::clone(&paused).finish() {
            Ok(outcome) => Stop::Done(Box::new(outcome)),
            Err(ExecutionError::NeedState(keys)) => {
                Stop::Missing(Progress::Open(paused, self.transactions.len()), keys)
            }
            Err(ExecutionError::Failed(_)) => Stop::Failed,
        }
    }
}
