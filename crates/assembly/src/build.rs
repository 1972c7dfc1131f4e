//! One block being built: transactions go in one at a time, flashblocks come out.
//!
//! A build touches memory only. What it cannot read it asks for and goes on without: the
//! transaction is parked and tried again when the state has come, at most [`MAX_STATE_ROUNDS`]
//! times for one block. Each transaction is executed once; what was cut into a flashblock is never
//! changed.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use alloy_consensus::Transaction as _;
use alloy_primitives::{Address, B256};
use preconf_chain::{ChainSpec, Transaction};
use preconf_evm::{ExecutionError, NextBlock, Paused, Running, TxError};
use preconf_primitives::{Retraction, RetractionCause};
use preconf_state::{Key, Overlay, StateReader};

use crate::{Cadence, Pool, Selection};

/// How often a transaction is tried again for state that was missing, in one block.
pub const MAX_STATE_ROUNDS: u32 = 4;
/// A flashblock is cut early when its transactions have this many bytes.
pub const CUT_BYTES: usize = 2 * 1024 * 1024;
/// Gas below which no transaction fits.
const LEAST_GAS: u64 = 21_000;

/// What one step of a build did.
#[derive(Debug)]
pub enum Step {
    /// It may do more at once.
    Worked,
    /// It has nothing to do before this time, unless something arrives.
    Wait(Instant),
    /// State is missing.
    Need(Vec<Key>),
    /// A flashblock was cut.
    Cut(Cut),
    /// No transaction fits any more, or the time is over.
    Full(Exhausted),
    /// The block cannot be built.
    Failed(String),
}

/// Why a build takes no more transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exhausted {
    /// Less gas is left than any transaction needs.
    GasLimit,
    /// Nobody asked for the block in time.
    Deadline,
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
    promised: VecDeque<Transaction>,
    retractions: Vec<Retraction>,
    /// How many flashblocks were cut.
    flashblocks: u64,
    /// How many of the block's transactions are in them.
    cut_transactions: usize,
    /// How many of the block's transactions were promised before it.
    kept_promises: usize,
    bytes_since_cut: usize,
    /// Transactions that wait for state, each with the keys that it waits for.
    parked: Vec<Parked>,
    /// What the next step needs and has not come.
    stalled: Vec<Key>,
    state_rounds: HashMap<B256, u32>,
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
        pool: &Pool,
        timing: Timing,
        now: Instant,
    ) -> Self {
        let selection = pool.select(block.base_fee_per_gas);
        Self {
            stage: Stage::Opening { spec, block: Box::new(block), overlay: Box::new(overlay) },
            cadence: Cadence::new(now, timing.interval),
            ends: now + timing.deadline,
            selection,
            promised: promised.into(),
            retractions: Vec::new(),
            flashblocks: 0,
            cut_transactions: 0,
            kept_promises: 0,
            bytes_since_cut: 0,
            parked: Vec::new(),
            stalled: Vec::new(),
            state_rounds: HashMap::new(),
        }
    }

    /// Does one thing: opens the block, cuts a flashblock that is due, or executes a transaction.
    ///
    /// `may_cut` is false while the flashblock before is still on its way out.
    pub fn step(&mut self, pool: &mut Pool, may_cut: bool, now: Instant) -> Step {
        if now >= self.ends {
            return Step::Full(Exhausted::Deadline);
        }
        if !self.stalled.is_empty() {
            return Step::Wait(self.ends);
        }
        if let Stage::Opening { spec, block, overlay } = &self.stage {
            let opened =
                Paused::begin(spec.clone(), block.as_ref().clone(), overlay.as_ref().clone());
            return match opened {
                Ok(paused) => {
                    self.stage = Stage::Open(Box::new(paused.resume()));
                    Step::Worked
                }
                Err(ExecutionError::NeedState(keys)) => self.stall(keys),
                Err(error) => Step::Failed(error.to_string()),
            };
        }
        if let Some(transaction) = self.promised.front().cloned() {
            // Promises may take several flashblocks, each within its bounds.
            if self.bytes_since_cut >= CUT_BYTES {
                return if may_cut { Step::Cut(self.cut(now)) } else { Step::Wait(self.ends) };
            }
            return self.keep_promise(pool, &transaction);
        }
        if may_cut && self.is_cut_due(now) {
            return Step::Cut(self.cut(now));
        }
        let Stage::Open(running) = &self.stage else {
            return Step::Failed("the build has ended".to_owned());
        };
        if running.gas_used() + LEAST_GAS > running.block().gas_limit {
            return Step::Full(Exhausted::GasLimit);
        }
        if self.bytes_since_cut >= CUT_BYTES {
            // The flashblock before is still on its way; this one is full.
            return Step::Wait(self.ends);
        }
        match self.selection.next(pool) {
            Some(transaction) => self.try_one(pool, &transaction),
            None => Step::Wait(self.cadence.next_tick().min(self.ends)),
        }
    }

    fn is_cut_due(&self, now: Instant) -> bool {
        // Index 0 goes out as soon as it can.
        self.flashblocks == 0 || self.cadence.is_due(now) || self.bytes_since_cut >= CUT_BYTES
    }

    fn keep_promise(&mut self, pool: &Pool, transaction: &Transaction) -> Step {
        let cause = match self.execute(transaction) {
            Ok(()) => None,
            Err(TxError::NeedState(keys)) => return self.stall(keys),
            Err(TxError::ExceedsBlockGas { .. } | TxError::ExceedsBlobGas { .. }) => {
                Some(RetractionCause::NoRoom)
            }
            Err(
                TxError::NonceTooLow { .. }
                | TxError::NonceTooHigh { .. }
                | TxError::Reserved(_)
                | TxError::Invalid(_)
                | TxError::Fatal(_),
            ) => Some(RetractionCause::NoLongerValid),
        };
        self.promised.pop_front();
        match cause {
            None => {
                self.kept_promises += 1;
                let nonce = transaction.envelope().nonce();
                self.selection.included(pool, transaction.signer(), nonce);
            }
            Some(cause) => {
                self.retractions.push(Retraction { transaction: *transaction.hash(), cause });
            }
        }
        Step::Worked
    }

    /// Nothing can go on before this state has come.
    fn stall(&mut self, keys: Vec<Key>) -> Step {
        self.stalled.clone_from(&keys);
        Step::Need(keys)
    }

    fn try_one(&mut self, pool: &mut Pool, transaction: &Transaction) -> Step {
        let (sender, nonce) = (transaction.signer(), transaction.envelope().nonce());
        match self.execute(transaction) {
            Ok(()) => self.selection.included(pool, sender, nonce),
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
            Err(TxError::Reserved(_) | TxError::Invalid(_) | TxError::Fatal(_)) => {
                pool.remove(&sender, nonce);
            }
        }
        Step::Worked
    }

    fn execute(&mut self, transaction: &Transaction) -> Result<(), TxError> {
        let Stage::Open(running) = &mut self.stage else {
            return Err(TxError::NeedState(Vec::new()));
        };
        running.execute(transaction)?;
        self.bytes_since_cut += transaction.encoded().len();
        Ok(())
    }

    fn cut(&mut self, now: Instant) -> Cut {
        let Stage::Open(running) = &mut self.stage else { return Cut::default() };
        running.freeze();
        let transactions = running.transactions()[self.cut_transactions..].to_vec();
        let cut = Cut {
            index: self.flashblocks,
            transactions,
            retractions: std::mem::take(&mut self.retractions),
            gas_used: running.gas_used(),
        };
        self.cut_transactions = running.transactions().len();
        self.flashblocks += 1;
        self.bytes_since_cut = 0;
        self.cadence.catch_up(now);
        cut
    }

    /// These keys are in memory now: what waited for no others is tried again.
    pub fn state_arrived(&mut self, pool: &Pool, keys: &[Key]) {
        if self.stalled.iter().all(|key| keys.contains(key)) {
            self.stalled.clear();
        }
        let parked = std::mem::take(&mut self.parked);
        let has_all = |waiting: &Parked| waiting.keys.iter().all(|key| keys.contains(key));
        let (ready, parked) = parked.into_iter().partition(has_all);
        self.parked = parked;
        for Parked { sender, nonce, .. } in ready {
            self.selection.retry(pool, sender, nonce);
        }
    }

    /// A transaction was taken into the pool.
    pub fn arrived(&mut self, pool: &Pool, sender: Address, nonce: u64) {
        self.selection.arrived(pool, sender, nonce);
    }

    /// Ends the build: the last flashblock, and the block as it stands. `None` if not even the
    /// block's own system calls could be executed.
    pub fn finish(mut self, now: Instant) -> Option<(Cut, Paused<R>)> {
        let cut = match &self.stage {
            Stage::Open(_) => self.cut(now),
            Stage::Opening { .. } | Stage::Broken => return None,
        };
        match std::mem::replace(&mut self.stage, Stage::Broken) {
            Stage::Open(running) => Some((cut, running.pause())),
            Stage::Opening { .. } | Stage::Broken => None,
        }
    }

    /// What was promised before this build and has not been come to.
    pub fn promises_left(&self) -> Vec<Transaction> {
        self.promised.iter().cloned().collect()
    }

    /// Every transaction that is promised: by a flashblock of this build, and by those before it
    /// that this build has not come to yet.
    pub fn unsettled(&self) -> Vec<Transaction> {
        let mut promised = match &self.stage {
            Stage::Open(running) => {
                let promised = self.cut_transactions.max(self.kept_promises);
                running.transactions()[..promised].to_vec()
            }
            Stage::Opening { .. } | Stage::Broken => Vec::new(),
        };
        promised.extend(self.promised.iter().cloned());
        promised
    }
}
