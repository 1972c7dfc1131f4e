//! The producing machine: transactions and orders to build go in, flashblocks and blocks come out.
//!
//! The driver calls [`Assembler::work`] until it says to wait, carries out what
//! [`Assembler::poll_effect`] yields, and tells the machine what became of it. There is at most one
//! build, and at most one flashblock on its way out: ticks that come meanwhile coalesce (D6).
//!
//! What was promised and is not yet in the canonical chain is kept in order, and goes first into
//! the next build (D5). It never awaits anything, and it lives on one thread.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use alloy_consensus::Transaction as _;
use alloy_primitives::{Address, B256, map::HashSet};
use preconf_chain::{ChainSpec, Transaction};
use preconf_evm::{NextBlock, Paused};
use preconf_primitives::TransactionRefusal;
use preconf_state::{Account, Key, Overlay, StateReader};

use crate::{
    Pool, PoolLimits,
    build::{Build, Cut, Exhausted, Step, Timing},
};

/// Names a build. The driver numbers its builds; numbers are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BuildId(pub u64);

/// Why a build has come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Completion {
    /// The block was asked for.
    Requested,
    /// It takes no more transactions.
    Exhausted(Exhausted),
}

/// What the driver is to do.
#[derive(Debug)]
pub enum Effect<R: StateReader> {
    /// Read this state and say [`Assembler::state_arrived`].
    Need {
        /// For this build.
        build: BuildId,
        /// What is missing.
        keys: Vec<Key>,
    },
    /// Sign and publish this flashblock and say [`Assembler::published`].
    Publish {
        /// Of this build.
        build: BuildId,
        /// What it adds.
        cut: Cut,
    },
    /// Seal this block; its last flashblock is published once the block is known to be valid.
    Complete {
        /// The build, which is over.
        build: BuildId,
        /// The last flashblock.
        last: Cut,
        /// The block.
        block: Box<Paused<R>>,
        /// Why it ended.
        completion: Completion,
    },
    /// The build failed and is over.
    Failed {
        /// The build.
        build: BuildId,
        /// What went wrong.
        reason: String,
    },
}

/// When to call [`Assembler::work`] again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// At once.
    Now,
    /// At this time, or when something arrives.
    At(Instant),
    /// When something arrives.
    OnInput,
}

/// The producing machine.
pub struct Assembler<R: StateReader> {
    spec: Arc<ChainSpec>,
    timing: Timing,
    pool: Pool,
    build: Option<(BuildId, Build<R>)>,
    /// Promised, and not known to be in the canonical chain.
    unsettled: Vec<Transaction>,
    in_flight: bool,
    effects: VecDeque<Effect<R>>,
}

impl<R: StateReader + Clone> Assembler<R> {
    /// A machine without a build.
    pub fn new(spec: Arc<ChainSpec>, timing: Timing, limits: PoolLimits) -> Self {
        Self {
            spec,
            timing,
            pool: Pool::new(limits),
            build: None,
            unsettled: Vec::new(),
            in_flight: false,
            effects: VecDeque::new(),
        }
    }

    /// The transactions that wait.
    pub const fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The running build.
    pub fn building(&self) -> Option<BuildId> {
        self.build.as_ref().map(|(id, _)| *id)
    }

    /// Offers a transaction whose sender's account at the head is `account`.
    ///
    /// # Errors
    /// If the pool refuses it.
    pub fn submit(
        &mut self,
        transaction: Transaction,
        account: Option<Account>,
    ) -> Result<B256, TransactionRefusal> {
        let (sender, nonce) = (transaction.signer(), transaction.envelope().nonce());
        let hash = self.pool.insert(transaction, account)?;
        if let Some((_, build)) = &mut self.build {
            build.arrived(&self.pool, sender, nonce);
        }
        Ok(hash)
    }

    /// Takes note of the transactions of a canonical block: they no longer wait, and promises about
    /// them are kept.
    pub fn canonical<'a>(&mut self, used: impl Iterator<Item = (Address, u64, &'a B256)>) {
        let mut hashes = HashSet::<B256>::default();
        for (sender, nonce, hash) in used {
            self.pool.mined(&sender, nonce);
            hashes.insert(*hash);
        }
        self.unsettled.retain(|transaction| !hashes.contains(transaction.hash()));
    }

    /// Begins to build `block` on the state that `overlay` reads. A running build ends without a
    /// block, and what it has promised goes first into this one.
    pub fn open(&mut self, id: BuildId, block: NextBlock, overlay: Overlay<R>, now: Instant) {
        self.drop_build();
        // What the block before, built and not canonical, promised is tried as well: it is void in
        // this chain if its block was replaced.
        let promised = std::mem::take(&mut self.unsettled);
        let build =
            Build::new(self.spec.clone(), block, overlay, promised, &self.pool, self.timing, now);
        self.build = Some((id, build));
        self.in_flight = false;
    }

    /// Ends the running build without a block.
    pub fn drop_build(&mut self) -> Option<BuildId> {
        let (id, build) = self.build.take()?;
        self.unsettle(&build);
        Some(id)
    }

    /// Ends build `id` because its block was asked for. `false` if it does not run.
    pub fn finish(&mut self, id: BuildId, now: Instant) -> bool {
        if self.building() != Some(id) {
            return false;
        }
        self.complete(Completion::Requested, now);
        true
    }

    /// State that was asked for is in memory now.
    pub fn state_arrived(&mut self, id: BuildId, keys: &[Key]) {
        if let Some((_, build)) = self.build.as_mut().filter(|(running, _)| *running == id) {
            build.state_arrived(&self.pool, keys);
        }
    }

    /// The flashblock of build `id` that was on its way is out.
    pub fn published(&mut self, id: BuildId) {
        if self.building() == Some(id) {
            self.in_flight = false;
        }
    }

    /// Does one thing.
    pub fn work(&mut self, now: Instant) -> Wake {
        let Some((id, build)) = &mut self.build else { return Wake::OnInput };
        let id = *id;
        match build.step(&mut self.pool, !self.in_flight, now) {
            Step::Worked => Wake::Now,
            Step::Wait(until) => Wake::At(until),
            Step::Need(keys) => {
                self.effects.push_back(Effect::Need { build: id, keys });
                Wake::Now
            }
            Step::Cut(cut) => {
                self.in_flight = true;
                self.effects.push_back(Effect::Publish { build: id, cut });
                Wake::Now
            }
            Step::Full(exhausted) => {
                self.complete(Completion::Exhausted(exhausted), now);
                Wake::Now
            }
            Step::Failed(reason) => {
                self.drop_build();
                self.effects.push_back(Effect::Failed { build: id, reason });
                Wake::Now
            }
        }
    }

    /// What the driver is to do next.
    pub fn poll_effect(&mut self) -> Option<Effect<R>> {
        self.effects.pop_front()
    }

    fn complete(&mut self, completion: Completion, now: Instant) {
        let Some((build, running)) = self.build.take() else { return };
        // What was promised and not come to stays promised, whether or not there is a block.
        let waiting = running.promises_left();
        self.unsettle(&running);
        let effect = match running.finish(now) {
            Some((last, block)) => {
                self.unsettled = block.transactions().iter().cloned().chain(waiting).collect();
                Effect::Complete { build, last, block: Box::new(block), completion }
            }
            None => Effect::Failed { build, reason: "the block was never opened".to_owned() },
        };
        self.effects.push_back(effect);
    }

    fn unsettle(&mut self, build: &Build<R>) {
        self.unsettled = build.unsettled();
    }
}
