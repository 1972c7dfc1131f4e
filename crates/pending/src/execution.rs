//! Executing one session, one flashblock at a time, each transaction once.
//!
//! Invariants: an [`ExecutedFlashblock`] comes out only after all its transactions were executed;
//! after a failure nothing more comes out; what was missing from memory is asked for together, as
//! far as it can be foreseen.
//!
//! Never waits: a missing read ends the step, and the next step goes on where it ended.

use std::sync::Arc;

use alloy_consensus::Transaction as _;
use alloy_primitives::B256;
use preconf_chain::{ChainSpec, Header, HeaderError, Transaction};
use preconf_evm::{ExecutionError, Paused, TxError};
use preconf_primitives::Opening;
use preconf_state::{Diff, Key, Overlay, StateCache, StateReader};

use crate::{
    environment,
    received::{Received, Undecodable},
    snapshot::{Closing, ExecutedFlashblock, ExecutedTransaction},
};

/// How often what follows a transaction is executed just to learn what it will need. Reads that
/// depend on each other need many rounds; then only the transaction itself is tried again.
const MAX_REHEARSALS: u32 = 8;

/// Why a session is executed no further. What was executed before stands, unless it diverged.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refusal {
    /// Its environment cannot follow its parent.
    #[error("the environment does not follow from the parent")]
    Environment(#[source] HeaderError),
    /// A transaction is not one.
    #[error("a transaction does not decode")]
    Undecodable(#[source] Arc<Undecodable>),
    /// A transaction cannot be executed.
    #[error("transaction {transaction} cannot be executed")]
    Transaction {
        /// Its hash.
        transaction: B256,
        /// Why.
        #[source]
        source: Arc<TxError>,
    },
    /// What the chain itself does in every block failed.
    #[error("the block cannot be executed")]
    Block(#[source] Arc<ExecutionError>),
    /// The sequencer sealed another block than its flashblocks make.
    #[error("the sealed block is {sealed}, the flashblocks make {computed}")]
    Diverged {
        /// The hash that the sequencer sealed.
        sealed: B256,
        /// The hash of what was executed.
        computed: B256,
    },
    /// Its transactions are more bytes than any block holds.
    #[error("the session is larger than any block")]
    TooLarge,
}

impl Refusal {
    /// The name used in logs and metric labels.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Environment(_) => "environment",
            Self::Undecodable(_) => "undecodable",
            Self::Transaction { .. } => "transaction",
            Self::Block(_) => "block",
            Self::Diverged { .. } => "diverged",
            Self::TooLarge => "too_large",
        }
    }

    /// All names.
    pub const NAMES: [&'static str; 6] =
        ["environment", "undecodable", "transaction", "block", "diverged", "too_large"];
}

/// What one step of an execution came to.
#[derive(Debug)]
pub(crate) enum Progressed {
    /// The block was begun.
    Opened,
    /// A flashblock was executed.
    Executed(Arc<ExecutedFlashblock>),
    /// The block was ended.
    Closed,
    /// Nothing is left to do for now.
    Idle,
    /// State is missing from this cache.
    Need(StateCache, Vec<Key>),
    /// It goes no further.
    Refused(Refusal),
}

/// What a session is executed on: the block below it and the state after that.
#[derive(Debug)]
pub(crate) struct Below {
    pub(crate) header: Header,
    pub(crate) overlay: Overlay<StateCache>,
}

/// A session that was executed to its end.
#[derive(Debug)]
pub(crate) struct Closed {
    /// Its header, with a state root that is not known here.
    header: Header,
    /// Everything it changed.
    pub(crate) diff: Arc<Diff>,
    pub(crate) closing: Closing,
}

/// The execution of one session.
#[derive(Debug, Default)]
pub(crate) struct Execution {
    stage: Stage,
    /// How many transactions of the flashblock under way were executed.
    done: usize,
    /// How many transactions of the block are in executed flashblocks.
    executed: usize,
    /// Whether the state that the flashblock under way is known to need was asked for.
    foreseen: bool,
    /// How often the flashblock under way was rehearsed.
    rehearsals: u32,
}

#[derive(Debug, Default)]
enum Stage {
    #[default]
    Waiting,
    Open(Box<Paused<StateCache>>),
    Closed(Box<Closed>),
    Refused(Refusal),
}

impl Execution {
    pub(crate) const fn is_waiting(&self) -> bool {
        matches!(self.stage, Stage::Waiting)
    }

    pub(crate) const fn closed(&self) -> Option<&Closed> {
        match &self.stage {
            Stage::Closed(closed) => Some(closed),
            Stage::Waiting | Stage::Open(_) | Stage::Refused(_) => None,
        }
    }

    pub(crate) const fn refusal(&self) -> Option<&Refusal> {
        match &self.stage {
            Stage::Refused(refusal) => Some(refusal),
            Stage::Waiting | Stage::Open(_) | Stage::Closed(_) => None,
        }
    }

    pub(crate) fn refuse(&mut self, refusal: Refusal) {
        self.stage = Stage::Refused(refusal);
    }

    /// Begins the block. `first` is the flashblock that opens it.
    pub(crate) fn open(
        &mut self,
        spec: &Arc<ChainSpec>,
        opening: &Opening,
        first: &Received,
        below: Below,
    ) -> Progressed {
        let Below { header, overlay } = below;
        let block = match environment::follow(spec, &header, opening) {
            Ok(block) => block,
            Err(error) => return self.refused(Refusal::Environment(error)),
        };
        let cache = overlay.reader().clone();
        let transactions = first.transactions().map_or(&[][..], |transactions| transactions);
        if !self.foreseen {
            let mut missing = block.keys(spec);
            missing.retain(|key| is_missing(&overlay, key));
            let mut missing = self.foresee(&overlay, missing, transactions);
            if !missing.is_empty() {
                tidy(&mut missing);
                return Progressed::Need(cache, missing);
            }
        }
        match Paused::begin(spec.clone(), block, overlay) {
            Ok(paused) => {
                self.stage = Stage::Open(Box::new(paused));
                Progressed::Opened
            }
            Err(ExecutionError::NeedState(keys)) => Progressed::Need(cache, keys),
            Err(error @ ExecutionError::Failed(_)) => self.refused(Refusal::Block(Arc::new(error))),
        }
    }

    /// Executes what is left of a flashblock.
    pub(crate) fn extend(&mut self, received: &Received) -> Progressed {
        let transactions = match received.transactions() {
            Ok(transactions) => transactions.clone(),
            Err(error) => return self.refused(Refusal::Undecodable(error.clone())),
        };
        let paused = match std::mem::take(&mut self.stage) {
            Stage::Open(paused) => paused,
            other @ (Stage::Waiting | Stage::Closed(_) | Stage::Refused(_)) => {
                self.stage = other;
                return Progressed::Idle;
            }
        };
        let mut running = paused.resume();
        while let Some(transaction) = transactions.get(self.done) {
            match running.execute(transaction) {
                Ok(_) => self.done += 1,
                Err(TxError::NeedState(keys)) => {
                    let paused = running.pause();
                    let cache = paused.overlay().reader().clone();
                    let left = &transactions[self.done..];
                    let missing = self.foresee(paused.overlay(), keys, left);
                    let keys = self.rehearse(&paused, &left[1..], missing);
                    self.stage = Stage::Open(Box::new(paused));
                    return Progressed::Need(cache, keys);
                }
                Err(error) => {
                    let (transaction, source) = (*transaction.hash(), Arc::new(error));
                    return self.refused(Refusal::Transaction { transaction, source });
                }
            }
        }
        let diff = running.freeze();
        let paused = running.pause();
        let executed = self.executed(received, &paused, diff);
        self.stage = Stage::Open(Box::new(paused));
        Progressed::Executed(Arc::new(executed))
    }

    /// Ends the block.
    pub(crate) fn close(&mut self) -> Progressed {
        let Stage::Open(paused) = &self.stage else { return Progressed::Idle };
        match paused.as_ref().clone().finish() {
            Ok(outcome) => {
                let header = outcome.header(B256::ZERO);
                let closing =
                    Closing { diff: outcome.closing.clone(), requests_hash: header.requests_hash };
                let diff = Arc::new(outcome.diff());
                self.stage = Stage::Closed(Box::new(Closed { header, diff, closing }));
                Progressed::Closed
            }
            Err(ExecutionError::NeedState(keys)) => {
                Progressed::Need(paused.overlay().reader().clone(), keys)
            }
            Err(error @ ExecutionError::Failed(_)) => self.refused(Refusal::Block(Arc::new(error))),
        }
    }

    fn refused(&mut self, refusal: Refusal) -> Progressed {
        self.stage = Stage::Refused(refusal.clone());
        Progressed::Refused(refusal)
    }

    /// What a flashblock has added to the block; the first one also what the chain itself puts
    /// before all transactions that somebody sent.
    fn executed(
        &mut self,
        received: &Received,
        paused: &Paused<StateCache>,
        diff: Arc<Diff>,
    ) -> ExecutedFlashblock {
        let flashblock = received.flashblock();
        let receipts = &paused.receipts()[self.executed..];
        let transactions = paused.transactions()[self.executed..].iter().zip(receipts);
        self.executed = paused.receipts().len();
        self.done = 0;
        self.foreseen = false;
        self.rehearsals = 0;
        ExecutedFlashblock {
            position: flashblock.position(),
            environment: flashblock.opening().map(|_| Box::new(paused.block().clone())),
            transactions: transactions
                .map(|(transaction, receipt)| ExecutedTransaction {
                    transaction: transaction.clone(),
                    receipt: receipt.clone(),
                })
                .collect(),
            diff,
            gas_used: paused.gas_used(),
            blob_gas_used: paused.blob_gas_used(),
            published_at_ms: flashblock.published_at_ms(),
            traceparent: flashblock.traceparent().cloned(),
        }
    }

    /// Adds to what is missing what these transactions will read for certain and is not in memory,
    /// once for each flashblock. Nothing is looked up as long as nothing is missing.
    fn foresee(
        &mut self,
        state: &impl StateReader,
        mut missing: Vec<Key>,
        transactions: &[Transaction],
    ) -> Vec<Key> {
        if std::mem::replace(&mut self.foreseen, true) {
            return missing;
        }
        for transaction in transactions {
            keys_of(transaction, |key| {
                if is_missing(state, &key) {
                    missing.push(key);
                }
            });
        }
        missing
    }

    /// Executes the rest of a flashblock on a copy, only to learn what else is missing.
    fn rehearse(
        &mut self,
        paused: &Paused<StateCache>,
        rest: &[Transaction],
        mut missing: Vec<Key>,
    ) -> Vec<Key> {
        self.rehearsals += 1;
        if self.rehearsals <= MAX_REHEARSALS {
            let mut running = paused.clone().resume();
            for transaction in rest {
                if let Err(TxError::NeedState(keys)) = running.execute(transaction) {
                    missing.extend(keys);
                }
            }
        }
        tidy(&mut missing);
        missing
    }
}

impl Closed {
    /// Its header, given the root of the state after it.
    pub(crate) fn header(&self, state_root: B256) -> Header {
        Header { state_root, ..self.header.clone() }
    }
}

/// Names what a transaction reads whatever it does.
fn keys_of(transaction: &Transaction, mut name: impl FnMut(Key)) {
    let envelope = transaction.envelope();
    name(Key::Account(transaction.signer()));
    envelope.to().map(Key::Account).into_iter().for_each(&mut name);
    for item in envelope.access_list().iter().flat_map(|list| &list.0) {
        name(Key::Account(item.address));
        let slots = item.storage_keys.iter().map(|slot| Key::Slot(item.address, (*slot).into()));
        slots.for_each(&mut name);
    }
}

fn is_missing(state: &impl StateReader, key: &Key) -> bool {
    match *key {
        Key::Account(address) => state.account(address).is_err(),
        Key::Slot(address, slot) => state.slot(address, slot).is_err(),
        Key::Code(hash) => state.code(hash).is_err(),
        Key::BlockHash(number) => state.block_hash(number).is_err(),
    }
}

fn tidy(keys: &mut Vec<Key>) {
    keys.sort_unstable();
    keys.dedup();
}
