//! The producing machine: transactions and orders to build go in, flashblocks and blocks come out.
//!
//! The driver calls [`Assembler::work`] until it says to wait, carries out what
//! [`Assembler::poll_effect`] yields, and tells the machine what became of it. There is at most one
//! build, and at most one flashblock on its way out: ticks that come meanwhile coalesce (D6).
//!
//! What was promised and is not yet in the canonical chain is kept in order, and goes first into
//! the next build (D5); it is promised until the chain holds it or the flashblock that takes it
//! back is out, whatever becomes of the builds between; and it is promised again if the block that
//! held it is replaced. It never awaits anything, and it lives on one thread.

use std::{collections::VecDeque, mem, sync::Arc, time::Instant};

use alloy_consensus::Transaction as _;
use alloy_primitives::{
    Address, B256,
    map::{AddressSet, HashSet},
};
use preconf_chain::{ChainSpec, Transaction};
use preconf_evm::{NextBlock, Paused};
use preconf_primitives::TransactionRefusal;
use preconf_state::{Account, Key, Overlay, StateReader};

use crate::{
    BoxError, DropCause, Located, Pool, PoolLimits, Promised, Sidecar, Submission,
    build::{Build, Cut, Exhausted, Failure, Finished, Step, Timing},
    owed::{Held, Owed},
    pool::Begun,
    settled::{CanonicalBlock, Settled},
};

/// How many promises of others are remembered while nothing is built: more than the blocks hold
/// whose fate is open. The oldest are forgotten first.
const REMEMBERED_PROMISES: usize = 1 << 17;
/// Of how many senders what they have left is asked for after a block. What others cannot pay is
/// found out when it is executed.
const RECHECKED: usize = 1_024;

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
    /// Read this state and say [`Assembler::state_arrived`], or [`Assembler::state_failed`] if it
    /// cannot be read in a time that the driver chooses.
    Need {
        /// For this build.
        build: BuildId,
        /// What is missing.
        keys: Vec<Key>,
    },
    /// Ask the execution client whether the canonical chain holds this promised transaction and say
    /// [`Assembler::located`].
    Locate {
        /// For this build.
        build: BuildId,
        /// The transaction.
        transaction: B256,
    },
    /// Read the accounts of these senders as they are after this canonical block, and say
    /// [`Assembler::recheck`]: they may have paid for something, and have more waiting.
    Recheck {
        /// The number of the newest canonical block.
        number: u64,
        /// Its hash.
        hash: B256,
        /// The senders.
        senders: Vec<Address>,
    },
    /// Sign and publish this flashblock and say [`Assembler::published`].
    Publish {
        /// Of this build.
        build: BuildId,
        /// What it adds.
        cut: Cut,
    },
    /// Seal this block; its last flashblock is published once the block is known to be valid, and
    /// then [`Assembler::published`] is said as well.
    Complete {
        /// The build, which is over.
        build: BuildId,
        /// The last flashblock.
        last: Cut,
        /// The block.
        block: Box<Paused<R>>,
        /// The blobs of its transactions, in their order.
        sidecars: Vec<Arc<Sidecar>>,
        /// Why it ended.
        completion: Completion,
    },
    /// The build failed and is over.
    Failed {
        /// The build.
        build: BuildId,
        /// What went wrong.
        failure: Failure,
    },
}

/// A promise until the flashblock that takes it back is out.
#[derive(Debug)]
struct Unsaid {
    build: BuildId,
    index: u64,
    transaction: Transaction,
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
    /// The same of the last build, if it ended with a block, until somebody asks.
    built: Promised,
    /// The state after it, until it or another one is canonical.
    state_built: Option<Overlay<R>>,
    /// The last canonical blocks.
    settled: Settled,
    /// Taken back by flashblocks of builds that ended with a block, but not out yet.
    unsaid: Vec<Unsaid>,
    /// Everything that is promised and in no block that is known here; none when it has changed.
    owed: Option<Owed>,
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
            built: Promised::default(),
            state_built: None,
            settled: Settled::default(),
            unsaid: Vec::new(),
            owed: None,
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

    /// How many transactions the pool has let go since this was asked before, by cause.
    pub fn take_drops(&mut self) -> impl Iterator<Item = (DropCause, u64)> + use<R> {
        self.pool.take_drops()
    }

    /// Offers a transaction whose sender's account at the head is `account`. What the block in the
    /// making has made of that account counts, if it is in memory, and nobody replaces a promise.
    ///
    /// # Errors
    /// If the pool refuses it.
    pub fn submit(
        &mut self,
        submission: impl Into<Submission>,
        account: Option<Account>,
    ) -> Result<B256, TransactionRefusal> {
        let submission = submission.into();
        let transaction = submission.transaction();
        let (sender, nonce) = (transaction.signer(), transaction.envelope().nonce());
        let hash = *transaction.hash();
        let (pool, held) = self.pool_and_held();
        // A promise itself may come again, with blobs that are not here.
        let owed = if held.owed.holds(&hash) { 0 } else { held.owed.next_nonce(&sender) };
        let begun = Begun { account: held.account(sender), owed };
        pool.insert_after(submission, account, begun, |other| held.holds(other))?;
        if let Some((_, build)) = &mut self.build {
            build.arrived(&self.pool, sender, nonce);
        }
        Ok(hash)
    }

    /// The pool, and what is not its own to replace.
    fn pool_and_held(&mut self) -> (&mut Pool, Held<'_, R>) {
        let build = self.build.as_ref().map(|(_, build)| build);
        let owed = self.owed.get_or_insert_with(|| {
            // What is in the block that was built is in the state after it.
            let mut owed = Owed::default();
            owed.extend(self.unsettled.iter().chain(self.built.open()));
            owed.extend(self.unsaid.iter().map(|unsaid| &unsaid.transaction));
            owed.extend(build.into_iter().flat_map(Build::owed));
            owed
        });
        (&mut self.pool, Held { build, built: self.state_built.as_ref(), owed })
    }

    /// Senders whose account after the canonical block with this hash is this: what they cannot pay
    /// for any more is forgotten. An answer about a block that is not the newest one says nothing.
    pub fn recheck(&mut self, hash: B256, accounts: Vec<(Address, Option<Account>)>) {
        if self.settled.newest().is_none_or(|(_, newest)| newest != hash) {
            return;
        }
        let (pool, held) = self.pool_and_held();
        for (address, account) in accounts {
            let owed = held.owed.next_nonce(&address);
            let begun = Begun { account: held.account(address), owed };
            pool.recheck(&address, account.unwrap_or_default(), begun);
        }
    }

    /// Lets go of what has waited too long.
    fn expire(&mut self, now: Instant) {
        if self.pool.is_time_to_expire(now) {
            let (pool, held) = self.pool_and_held();
            pool.expire(now, |old| held.holds(old));
        }
    }

    /// Takes note of canonical blocks, the oldest first: their transactions no longer wait, and
    /// promises about them are kept. Blocks from the oldest one's number on that were canonical
    /// before are not any more: what they had kept is promised again.
    pub fn canonical(&mut self, blocks: Vec<CanonicalBlock>, now: Instant) {
        let Some(oldest) = blocks.first().map(|block| block.number) else { return };
        let (reverted, mut promised) = self.settled.revert(oldest);
        for (sender, nonce) in reverted {
            self.pool.reverted(&sender, nonce);
        }
        if !promised.is_empty() {
            // The block that was built upon those came later.
            self.settle_built();
            promised.append(&mut self.unsettled);
            self.unsettled = promised;
        }
        self.state_built = None;
        let mut senders = AddressSet::default();
        for block in blocks {
            for (sender, nonce, hash) in &block.used {
                self.pool.settled(sender, *nonce, hash);
                senders.insert(*sender);
            }
            let (unsettled, built) = (mem::take(&mut self.unsettled), mem::take(&mut self.built));
            self.unsettled = self.settled.add(block, unsettled, built);
        }
        self.unsaid.retain(|unsaid| !self.settled.holds(unsaid.transaction.hash()));
        self.settle_sidecars();
        self.owed = None;
        self.expire(now);
        self.look_at(senders);
    }

    /// Asks what these have left, who have used a nonce, and those that the pool doubts.
    fn look_at(&mut self, users: AddressSet) {
        let mut senders: AddressSet = self.pool.doubted().take(RECHECKED / 2).collect();
        let users = users.into_iter().filter(|sender| self.pool.has_waiting(sender));
        senders.extend(users.take(RECHECKED - senders.len()));
        if let Some((number, hash)) = self.settled.newest().filter(|_| !senders.is_empty()) {
            let senders = senders.into_iter().collect();
            self.effects.push_back(Effect::Recheck { number, hash, senders });
        }
    }

    /// Begins to build `block` on the state that `overlay` reads. A running build ends without a
    /// block, and what it has promised goes first into this one.
    pub fn open(&mut self, id: BuildId, block: NextBlock, overlay: Overlay<R>, now: Instant) {
        self.drop_build();
        // What the block before, built and not canonical, promised is tried as well: it is void in
        // this chain if its block was replaced.
        self.settle_built();
        self.owed = None;
        self.expire(now);
        let mut promised = mem::take(&mut self.unsettled);
        promised.extend(self.unsaid.drain(..).map(|unsaid| unsaid.transaction));
        self.state_built = None;
        let build = Build::new(
            self.spec.clone(),
            block,
            overlay,
            promised,
            &mut self.pool,
            self.timing,
            now,
        );
        self.build = Some((id, build));
        self.in_flight = false;
        self.settle_sidecars();
    }

    /// Begins to build `block` as another builder publishes it: only what is
    /// [promised](Self::promise) goes in, and nothing is published before [`Assembler::lead`].
    pub fn follow(&mut self, id: BuildId, block: NextBlock, overlay: Overlay<R>, now: Instant) {
        self.open(id, block, overlay, now);
        if let Some((_, build)) = &mut self.build {
            build.follow();
        }
    }

    /// Publishes build `id` from here on. `false` if it does not run.
    pub fn lead(&mut self, id: BuildId, now: Instant) -> bool {
        let Some((_, build)) = self.build.as_mut().filter(|(running, _)| *running == id) else {
            return false;
        };
        build.lead(self.timing, now);
        true
    }

    /// Takes over promises that another builder has made, or this one before it was started again.
    pub fn promise(&mut self, transactions: Vec<Transaction>) {
        self.owed = None;
        match &mut self.build {
            Some((_, build)) => build.promise(transactions),
            None => {
                self.settle_built();
                self.unsettled.extend(transactions);
                let surplus = self.unsettled.len().saturating_sub(REMEMBERED_PROMISES);
                self.unsettled.drain(..surplus);
            }
        }
    }

    /// Whoever made these promises has taken them back.
    pub fn withdraw(&mut self, transactions: &HashSet<B256>) {
        self.owed = None;
        self.settle_built();
        self.unsettled.retain(|promise| !transactions.contains(promise.hash()));
        if let Some((_, build)) = &mut self.build {
            build.withdraw(transactions);
        }
    }

    /// Ends the running build without a block.
    pub fn drop_build(&mut self) -> Option<BuildId> {
        let (id, build) = self.build.take()?;
        self.unsettled.extend(build.unsettled());
        self.owed = None;
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

    /// State that was asked for cannot be read.
    pub fn state_failed(&mut self, id: BuildId, keys: &[Key], cause: BoxError) {
        if let Some((_, build)) = self.build.as_mut().filter(|(running, _)| *running == id) {
            build.state_failed(keys, cause);
        }
    }

    /// The execution client has said where a promised transaction is.
    pub fn located(&mut self, id: BuildId, transaction: &B256, located: Located) {
        if let Some((_, build)) = self.build.as_mut().filter(|(running, _)| *running == id) {
            build.located(transaction, located);
            self.owed = None;
        }
    }

    /// The flashblock of build `id` with this index is out; its retractions are now the
    /// publisher's to say.
    pub fn published(&mut self, id: BuildId, index: u64) {
        self.owed = None;
        self.unsaid.retain(|unsaid| unsaid.build != id || unsaid.index > index);
        if let Some((_, build)) = self.build.as_mut().filter(|(running, _)| *running == id) {
            build.published(index);
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
            Step::Idle => Wake::OnInput,
            Step::Need(keys) => {
                self.effects.push_back(Effect::Need { build: id, keys });
                Wake::Now
            }
            Step::Locate(transaction) => {
                self.effects.push_back(Effect::Locate { build: id, transaction });
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
            Step::Failed(failure) => {
                self.drop_build();
                self.effects.push_back(Effect::Failed { build: id, failure });
                Wake::Now
            }
        }
    }

    /// What the driver is to do next.
    pub fn poll_effect(&mut self) -> Option<Effect<R>> {
        self.effects.pop_front()
    }

    fn settle_built(&mut self) {
        self.unsettled.extend(mem::take(&mut self.built).into_all());
    }

    /// Lets go of the blobs of what is no longer promised.
    fn settle_sidecars(&mut self) {
        if !self.pool.keeps_sidecars() {
            return;
        }
        self.settle_built();
        let mut promised: HashSet<B256> =
            self.unsettled.iter().map(|promise| *promise.hash()).collect();
        let settled = &self.settled;
        promised.extend(self.unsaid.iter().map(|unsaid| *unsaid.transaction.hash()));
        if let Some((_, build)) = &self.build {
            promised.extend(build.keeps_sidecar());
        }
        self.pool.settle_sidecars(|hash| promised.contains(hash) || settled.holds(hash));
    }

    fn complete(&mut self, completion: Completion, now: Instant) {
        let Some((build, running)) = self.build.take() else { return };
        self.owed = None;
        let effect = match running.finish(now) {
            Ok(Finished { last, block, sidecars, promised, unsaid }) => {
                self.unsettled.clear();
                self.built = promised;
                self.state_built = Some(block.overlay().clone());
                let unsaid = unsaid.into_iter();
                let unsaid =
                    unsaid.map(|(index, transaction)| Unsaid { build, index, transaction });
                self.unsaid.extend(unsaid);
                Effect::Complete { build, last, block: Box::new(block), sidecars, completion }
            }
            Err(promised) => {
                self.unsettled = promised;
                let failure = Failure::NotOpened("its time was over before it had come".into());
                Effect::Failed { build, failure }
            }
        };
        self.effects.push_back(effect);
    }
}

#[cfg(test)]
mod tests;
