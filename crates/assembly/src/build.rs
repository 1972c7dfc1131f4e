//! One block being built: transactions go in one at a time, flashblocks come out.
//!
//! A build touches memory only. What it cannot read it asks for and goes on without: the
//! transaction is parked and tried again when the state has come, at most [`MAX_STATE_ROUNDS`]
//! times for one block. Only what the block opens with, and a promise, are waited for; if their
//! state cannot be read the build fails, or goes on without the promise, which stays one. Each
//! transaction is executed once; what was cut into a flashblock is never changed.
//!
//! A transaction with blobs is executed only while they are in the pool, in the form of the block's
//! fork.
//!
//! A promise is taken back only if its sender has not used its nonce, or if the execution client
//! says that the chain does not hold it: what cannot be executed may be canonical already.

mod blobs;

use std::{
    collections::HashMap,
    error::Error,
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use alloy_consensus::Transaction as _;
use alloy_primitives::{Address, B256, map::HashSet};
use preconf_chain::{ChainSpec, Transaction};
use preconf_evm::{ExecutionError, NextBlock, Paused, Running, TxError};
use preconf_primitives::{CUT_BYTES, MAX_INDEX, Retraction, RetractionCause};
use preconf_state::{Key, NeedState, Overlay, StateReader};
use revm::context::result::InvalidTransaction;

use crate::{
    Cadence, DropCause, Fees, Located, Pool, Selection, Sidecar,
    bytes::BytesLeft,
    promises::{Promised, Promises, with_others},
};

use blobs::{Blobs, Unfit};

/// How often a transaction is tried again for state that was missing, in one block.
pub const MAX_STATE_ROUNDS: u32 = 4;
/// Gas below which no transaction fits.
const LEAST_GAS: u64 = 21_000;

/// A cause that comes from the driver.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// What one step of a build did.
#[derive(Debug)]
pub enum Step {
    /// It may do more at once.
    Worked,
    /// It has nothing to do before this time, unless something arrives.
    Wait(Instant),
    /// It has nothing to do unless something arrives.
    Idle,
    /// State is missing.
    Need(Vec<Key>),
    /// The chain may hold this promised transaction.
    Locate(B256),
    /// A flashblock was cut.
    Cut(Cut),
    /// No transaction fits any more, or the time is over.
    Full(Exhausted),
    /// The block cannot be built.
    Failed(Failure),
}

/// Why a build takes no more transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exhausted {
    /// Less gas is left than any transaction needs.
    GasLimit,
    /// The block is as long as its fork allows.
    ByteLimit,
    /// Nobody asked for the block in time.
    Deadline,
}

/// Why a block cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// What the block opens with was not read in time.
    #[error("reading the state that the block opens with")]
    NotOpened(#[source] BoxError),
    /// What the chain itself adds to the block failed.
    #[error("opening the block")]
    Execution(#[source] ExecutionError),
}

/// What a flashblock adds to the block.
#[derive(Clone, Debug, Default)]
pub struct Cut {
    /// Its index in the session.
    pub index: u64,
    /// The transactions that are new in it.
    pub transactions: Vec<Transaction>,
    /// Transactions that were promised before and cannot be kept, each with its cause.
    pub retractions: Vec<Retraction>,
    /// Gas used by the block so far.
    pub gas_used: u64,
    /// How long after its tick it was cut; none if it was not a tick that it waited for.
    pub late: Option<Duration>,
}

/// The rhythm and the end of a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// From one flashblock to the next.
    pub interval: Duration,
    /// From the start of the build to its end, if nobody asks for the block before.
    pub deadline: Duration,
}

/// One block being built. Not `Send`: it lives on the thread that executes.
pub struct Build<R: StateReader> {
    stage: Stage<R>,
    cadence: Cadence,
    ends: Instant,
    selection: Selection,
    /// Promised before, to be included first and in order.
    promises: Promises,
    /// How many flashblocks were cut.
    flashblocks: u64,
    /// How many of the block's transactions, its first, are the chain's own. They are in no
    /// flashblock, and nobody is promised them.
    own: usize,
    /// How many of the block's transactions are in flashblocks, its own included.
    cut_transactions: usize,
    /// How many of the block's transactions were promised before it.
    kept_promises: usize,
    /// The transactions since then.
    since_cut: Vec<Transaction>,
    bytes_since_cut: usize,
    bytes_left: BytesLeft,
    blobs: Blobs,
    /// Transactions that wait for state, each with the keys that it waits for.
    parked: Vec<Parked>,
    /// What the next step needs and has not come.
    stalled: Vec<Key>,
    state_rounds: HashMap<B256, u32>,
    /// While another builder publishes this block: what it was heard to promise. Nothing else goes
    /// in, and nothing comes out.
    followed: Option<HashSet<B256>>,
}

/// A transaction that waits for state.
#[derive(Debug)]
struct Parked {
    sender: Address,
    nonce: u64,
    keys: Vec<Key>,
}

enum Stage<R: StateReader> {
    /// Before the first transaction: the block's own system calls wait for state.
    Opening { spec: Arc<ChainSpec>, block: Box<NextBlock>, overlay: Box<Overlay<R>> },
    /// Executing.
    Open(Box<Running<R>>),
    /// It was not opened, which the next step says.
    NotOpened(BoxError),
    /// A step failed and the parts are gone.
    Broken,
}

impl<R: StateReader + Clone> Build<R> {
    /// Begins a build on the state that `overlay` reads.
    ///
    /// `promised` are the transactions preconfirmed for this block before: they go first.
    pub fn new(
        spec: Arc<ChainSpec>,
        block: NextBlock,
        overlay: Overlay<R>,
        promised: Vec<Transaction>,
        pool: &mut Pool,
        timing: Timing,
        now: Instant,
    ) -> Self {
        let blob_fee =
            block.excess_blob_gas.and_then(|excess| spec.blob_base_fee(block.timestamp, excess));
        let fees = Fees { base: block.base_fee_per_gas, blob: blob_fee };
        pool.set_fees(fees);
        let selection = pool.select(fees);
        let blobs = Blobs::at(&spec, block.timestamp);
        let bytes_left = BytesLeft::of(&spec, &block);
        Self {
            stage: Stage::Opening { spec, block: Box::new(block), overlay: Box::new(overlay) },
            cadence: Cadence::new(now, timing.interval),
            ends: now + timing.deadline,
            selection,
            promises: Promises::new(promised),
            flashblocks: 0,
            own: 0,
            cut_transactions: 0,
            kept_promises: 0,
            since_cut: Vec::new(),
            bytes_since_cut: 0,
            bytes_left,
            blobs,
            parked: Vec::new(),
            stalled: Vec::new(),
            state_rounds: HashMap::new(),
            followed: None,
        }
    }

    /// The state after what is in the block; none before it is open.
    pub(crate) fn state(&self) -> Option<&Overlay<R>> {
        match &self.stage {
            Stage::Open(running) => Some(running.overlay()),
            Stage::Opening { .. } | Stage::NotOpened(_) | Stage::Broken => None,
        }
    }

    /// Takes up promises that were heard of, each once. They are tried after those before.
    pub fn promise(&mut self, transactions: Vec<Transaction>) {
        let followed = self.followed.take();
        let follows = followed.is_some();
        let mut known = followed.unwrap_or_else(|| self.promised());
        let new = transactions.into_iter().filter(|promise| known.insert(*promise.hash()));
        self.promises.add(new);
        self.followed = follows.then_some(known);
    }

    /// Lets another builder publish this block: what it promises goes in, and nothing comes out.
    pub fn follow(&mut self) {
        self.followed = Some(self.promised());
    }

    /// What is promised, and what is in the block and will be.
    fn promised(&self) -> HashSet<B256> {
        let included = match &self.stage {
            Stage::Open(running) => running.transactions(),
            Stage::Opening { .. } | Stage::NotOpened(_) | Stage::Broken => &[],
        };
        let promised = self.promises.owed().chain(included);
        promised.map(|promise| *promise.hash()).collect()
    }

    /// Publishes the block from here on. What was heard before is in its first flashblocks.
    pub fn lead(&mut self, timing: Timing, now: Instant) {
        self.followed = None;
        self.cadence = Cadence::new(now, timing.interval);
        self.ends = now + timing.deadline;
    }

    /// Whoever made these promises has taken them back.
    pub fn withdraw(&mut self, transactions: &HashSet<B256>) {
        self.promises.withdraw(transactions);
        if self.followed.is_some() {
            self.follow();
        }
    }

    /// Does one thing: opens the block, cuts a flashblock that is due, or executes a transaction.
    ///
    /// `may_cut` is false while the flashblock before is still on its way out.
    pub fn step(&mut self, pool: &mut Pool, may_cut: bool, now: Instant) -> Step {
        if let Some(failure) = self.take_failure() {
            return Step::Failed(failure);
        }
        let follows = self.followed.is_some();
        if now >= self.ends && !follows {
            return Step::Full(Exhausted::Deadline);
        }
        let idle = if follows { Step::Idle } else { Step::Wait(self.ends) };
        if !self.stalled.is_empty() {
            return idle;
        }
        if let Stage::Opening { .. } = &self.stage {
            return self.open_block(pool.len());
        }
        // The last index is kept for the flashblock that ends the session.
        let may_cut = may_cut && !follows && self.flashblocks < MAX_INDEX;
        if let Some(transaction) = self.promises.next().cloned() {
            // Promises may take several flashblocks, each within its bounds.
            if self.bytes_since_cut >= CUT_BYTES {
                return if may_cut { Step::Cut(self.cut(now)) } else { idle };
            }
            return self.keep_promise(pool, &transaction);
        }
        if follows {
            return idle;
        }
        if may_cut && self.is_cut_due(now) {
            return Step::Cut(self.cut(now));
        }
        if self.has_no_gas() {
            return Step::Full(Exhausted::GasLimit);
        }
        if self.bytes_left.are_none() {
            return Step::Full(Exhausted::ByteLimit);
        }
        if self.bytes_since_cut >= CUT_BYTES {
            // The flashblock before is still on its way; this one is full.
            return Step::Wait(self.ends);
        }
        match self.selection.next(pool) {
            Some(transaction) => self.try_one(pool, &transaction),
            // A tick means nothing while no flashblock may be cut: what ends that also wakes.
            None if may_cut => Step::Wait(self.cadence.next_tick().min(self.ends)),
            None => Step::Wait(self.ends),
        }
    }

    fn open_block(&mut self, waiting: usize) -> Step {
        let Stage::Opening { spec, block, overlay } = &self.stage else { return Step::Worked };
        match Paused::begin(spec.clone(), block.as_ref().clone(), overlay.as_ref().clone()) {
            Ok(paused) => {
                self.own = paused.transactions().len();
                for own in paused.transactions() {
                    self.bytes_left.take(own.encoded().len());
                }
                self.cut_transactions = self.own;
                let fitting = usize::try_from(block.gas_limit / LEAST_GAS).unwrap_or(usize::MAX);
                let mut running = paused.resume();
                running.reserve(waiting.min(fitting));
                self.stage = Stage::Open(Box::new(running));
                Step::Worked
            }
            Err(ExecutionError::NeedState(keys)) => self.stall(keys),
            Err(error @ ExecutionError::Failed(_)) => Step::Failed(Failure::Execution(error)),
        }
    }

    fn take_failure(&mut self) -> Option<Failure> {
        match mem::replace(&mut self.stage, Stage::Broken) {
            Stage::NotOpened(cause) => Some(Failure::NotOpened(cause)),
            stage @ (Stage::Opening { .. } | Stage::Open(_) | Stage::Broken) => {
                self.stage = stage;
                None
            }
        }
    }

    fn has_no_gas(&self) -> bool {
        match &self.stage {
            Stage::Open(running) => running.gas_used() + LEAST_GAS > running.block().gas_limit,
            Stage::Opening { .. } | Stage::NotOpened(_) | Stage::Broken => false,
        }
    }

    fn is_cut_due(&self, now: Instant) -> bool {
        // Index 0 goes out as soon as it can.
        self.flashblocks == 0 || self.cadence.is_due(now) || self.bytes_since_cut >= CUT_BYTES
    }

    fn keep_promise(&mut self, pool: &mut Pool, transaction: &Transaction) -> Step {
        if !self.bytes_left.fits(transaction.encoded().len()) {
            return self.break_promise(transaction, RetractionCause::NoRoom);
        }
        let Ok(sidecar) = self.blobs.find(pool, transaction) else {
            // A block with it could not be handed out.
            return self.break_promise(transaction, RetractionCause::NoLongerValid);
        };
        let cause = match self.execute(transaction) {
            Ok(()) => {
                self.include_blobs(pool, transaction, sidecar);
                self.promises.kept();
                self.kept_promises += 1;
                let nonce = transaction.envelope().nonce();
                self.selection.included(pool, transaction.signer(), nonce);
                return Step::Worked;
            }
            Err(TxError::NeedState(keys)) => return self.stall(keys),
            Err(TxError::ExceedsBlockGas { .. } | TxError::ExceedsBlobGas { .. }) => {
                RetractionCause::NoRoom
            }
            Err(
                TxError::NonceTooLow { .. }
                | TxError::NonceTooHigh { .. }
                | TxError::Reserved(_)
                | TxError::Invalid(_)
                | TxError::Fatal(_),
            ) => RetractionCause::NoLongerValid,
        };
        self.break_promise(transaction, cause)
    }

    /// The next promise cannot be kept. Unless its sender has used the nonce, it is taken back.
    fn break_promise(&mut self, transaction: &Transaction, cause: RetractionCause) -> Step {
        match self.has_used_nonce(transaction) {
            Err(NeedState(key)) => self.stall(vec![key]),
            // Gas and fees are looked at before the nonce, so any cause may hide this one.
            Ok(true) => {
                self.promises.question(cause);
                Step::Locate(*transaction.hash())
            }
            Ok(false) => {
                self.promises.take_back(cause);
                Step::Worked
            }
        }
    }

    /// Whether the sender is past the nonce of this transaction.
    fn has_used_nonce(&self, transaction: &Transaction) -> Result<bool, NeedState> {
        let Stage::Open(running) = &self.stage else { return Ok(false) };
        let account = running.overlay().account(transaction.signer())?;
        Ok(account.is_some_and(|account| account.nonce > transaction.envelope().nonce()))
    }

    /// Nothing can go on before this state has come.
    fn stall(&mut self, keys: Vec<Key>) -> Step {
        self.stalled.clone_from(&keys);
        Step::Need(keys)
    }

    fn try_one(&mut self, pool: &mut Pool, transaction: &Transaction) -> Step {
        let (sender, nonce) = (transaction.signer(), transaction.envelope().nonce());
        if !self.bytes_left.fits(transaction.encoded().len()) {
            // It may fit into the next block.
            return Step::Worked;
        }
        let sidecar = match self.blobs.find(pool, transaction) {
            Ok(sidecar) => sidecar,
            // It waits for a block of its fork.
            Err(Unfit::Early) => return Step::Worked,
            Err(Unfit::Late | Unfit::Missing) => {
                pool.remove(&sender, nonce, DropCause::Blobs);
                return Step::Worked;
            }
        };
        match self.execute(transaction) {
            Ok(()) => {
                self.include_blobs(pool, transaction, sidecar);
                self.selection.included(pool, sender, nonce);
            }
            Err(TxError::NeedState(keys)) => {
                let rounds = self.state_rounds.entry(*transaction.hash()).or_default();
                *rounds += 1;
                if *rounds <= MAX_STATE_ROUNDS {
                    self.parked.push(Parked { sender, nonce, keys: keys.clone() });
                    return Step::Need(keys);
                }
            }
            Err(TxError::NonceTooLow { state, .. }) => {
                let used = state.saturating_sub(1);
                pool.mined(&sender, used);
                self.selection.included(pool, sender, used);
            }
            // It may fit into the next block.
            Err(
                TxError::ExceedsBlockGas { .. }
                | TxError::ExceedsBlobGas { .. }
                | TxError::NonceTooHigh { .. },
            ) => {}
            // It may be paid for by another one that comes later, and nobody else may have it.
            Err(TxError::Invalid(invalid))
                if matches!(*invalid, InvalidTransaction::LackOfFundForMaxFee { .. }) =>
            {
                pool.doubt(&sender);
            }
            Err(TxError::Invalid(_) | TxError::Reserved(_) | TxError::Fatal(_)) => {
                pool.remove(&sender, nonce, DropCause::Invalid);
            }
        }
        Step::Worked
    }

    fn execute(&mut self, transaction: &Transaction) -> Result<(), TxError> {
        let Stage::Open(running) = &mut self.stage else {
            return Err(TxError::NeedState(Vec::new()));
        };
        running.execute(transaction)?;
        // Listed now and not when the cut is made, when it would have to be fetched again.
        self.since_cut.push(transaction.clone());
        let bytes = transaction.encoded().len();
        self.bytes_since_cut += bytes;
        self.bytes_left.take(bytes);
        Ok(())
    }

    /// The transaction is in the block, and its blobs, if it has any, go with it.
    fn include_blobs(
        &mut self,
        pool: &mut Pool,
        transaction: &Transaction,
        sidecar: Option<Arc<Sidecar>>,
    ) {
        if let Some(sidecar) = sidecar {
            pool.keep_sidecar(transaction.hash());
            self.blobs.include(*transaction.hash(), sidecar);
        }
    }

    /// The transactions with blobs that are in the block, and whatever is promised besides.
    pub(crate) fn keeps_sidecar(&self) -> HashSet<B256> {
        let owed = self.owed().map(Transaction::hash);
        self.blobs.hashes().chain(owed).copied().collect()
    }

    /// What was promised before and is not in the block, until its retraction is out.
    pub(crate) fn owed(&self) -> impl Iterator<Item = &Transaction> {
        self.promises.owed()
    }

    fn cut(&mut self, now: Instant) -> Cut {
        let Stage::Open(running) = &self.stage else { return Cut::default() };
        let next = Vec::with_capacity(self.since_cut.len());
        let cut = Cut {
            index: self.flashblocks,
            transactions: mem::replace(&mut self.since_cut, next),
            retractions: self.promises.cut(self.flashblocks),
            gas_used: running.gas_used(),
            late: self.cadence.lateness(now).filter(|_| self.flashblocks > 0),
        };
        self.cut_transactions = running.transactions().len();
        self.flashblocks += 1;
        self.bytes_since_cut = 0;
        self.cadence.catch_up(now);
        cut
    }

    /// The flashblock with this index is out.
    pub fn published(&mut self, index: u64) {
        self.promises.published(index);
    }

    /// These keys are in memory now: what waited for no others is tried again.
    pub fn state_arrived(&mut self, pool: &Pool, keys: &[Key]) {
        if self.stalled.iter().all(|key| keys.contains(key)) {
            self.stalled.clear();
        }
        let parked = mem::take(&mut self.parked);
        let has_all = |waiting: &Parked| waiting.keys.iter().all(|key| keys.contains(key));
        let (ready, parked) = parked.into_iter().partition(has_all);
        self.parked = parked;
        for Parked { sender, nonce, .. } in ready {
            self.selection.retry(pool, sender, nonce);
        }
    }

    /// These keys cannot be read: a block that opens with them has failed, a promise that needs
    /// them stays one for the next build, and a transaction that needs them waits for it.
    pub fn state_failed(&mut self, keys: &[Key], cause: BoxError) {
        let touches = |wanted: &[Key]| wanted.iter().any(|key| keys.contains(key));
        self.parked.retain(|parked| !touches(&parked.keys));
        if !touches(&self.stalled) {
            return;
        }
        self.stalled.clear();
        match &self.stage {
            Stage::Opening { .. } => self.stage = Stage::NotOpened(cause),
            Stage::Open(_) | Stage::NotOpened(_) | Stage::Broken => self.promises.put_off(),
        }
    }

    /// The execution client has said where a promised transaction is.
    pub fn located(&mut self, transaction: &B256, located: Located) {
        self.promises.located(transaction, located);
    }

    /// A transaction was taken into the pool.
    pub fn arrived(&mut self, pool: &Pool, sender: Address, nonce: u64) {
        self.selection.arrived(pool, sender, nonce);
    }

    /// Ends the build with a block.
    ///
    /// # Errors
    /// If not even the block's own system calls could be executed: what stays promised.
    pub fn finish(mut self, now: Instant) -> Result<Finished<R>, Vec<Transaction>> {
        let last = self.cut(now);
        let Stage::Open(running) = mem::replace(&mut self.stage, Stage::Broken) else {
            return Err(self.unsettled());
        };
        let unsaid = self.promises.unsaid().map(|(index, promise)| (index, promise.clone()));
        let unsaid = unsaid.collect();
        let open: Vec<_> = self.promises.open().cloned().collect();
        let block = running.pause();
        let promised = Promised::new(block.shared_transactions(), self.own, open);
        Ok(Finished { last, block, sidecars: self.blobs.into_sidecars(), promised, unsaid })
    }

    /// Every transaction that is promised: by a flashblock of this build, and by those before it
    /// unless this one has published that they are not.
    pub fn unsettled(&self) -> Vec<Transaction> {
        let included = match &self.stage {
            Stage::Open(running) => {
                let promised = self.cut_transactions.max(self.own + self.kept_promises);
                &running.transactions()[self.own..promised]
            }
            Stage::Opening { .. } | Stage::NotOpened(_) | Stage::Broken => &[],
        };
        with_others(included.to_vec(), self.promises.owed().cloned())
    }
}

/// A build that has ended with a block.
pub struct Finished<R> {
    /// The flashblock that ends its session.
    pub last: Cut,
    /// The block.
    pub block: Paused<R>,
    /// The blobs of its transactions, in their order.
    pub sidecars: Vec<Arc<Sidecar>>,
    /// What is promised if the block is not canonical, and what it did not come to.
    pub promised: Promised,
    /// What flashblocks take back that are not out yet, each with the index of its flashblock.
    pub unsaid: Vec<(u64, Transaction)>,
}
