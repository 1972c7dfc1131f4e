//! The build thread: it drives the [`Assembler`], and is the only one that executes.
//!
//! Orders come in through a bounded queue, effects go out through another. The thread sleeps until
//! the next flashblock is due or an order arrives; it never polls, and it waits for nobody else.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    time::Instant,
};

use alloy_primitives::{Address, B256, Bytes};
use preconf_assembly::{Assembler, BuildId, Effect, PoolLimits, Timing, Wake};
use preconf_chain::{ChainSpec, Transaction};
use preconf_evm::NextBlock;
use preconf_primitives::TransactionRefusal;
use preconf_state::{Account, Key, Overlay, StateCache};
use tokio::sync::{mpsc, oneshot};

/// How many orders may wait. Submissions are limited before they get here (see `ingress`), and
/// everything else comes a few times in a block, so the queue is never full unless the thread hangs;
/// then an order is refused.
const ORDERS: usize = 8_192;
/// How many effects may wait for the sequencer, which only hands them on.
const EFFECTS: usize = 256;
/// How many orders are taken before the build goes on.
const ORDERS_AT_ONCE: usize = 64;

/// What the build thread is told.
#[derive(Debug)]
pub(crate) enum Order {
    /// Take a transaction into the pool.
    Submit {
        transaction: Transaction,
        account: Option<Account>,
        answer: oneshot::Sender<Result<B256, TransactionRefusal>>,
    },
    /// Look up a transaction in the pool.
    Find { hash: B256, answer: oneshot::Sender<Option<Bytes>> },
    /// Tell the nonce after a sender's contiguous transactions.
    NextNonce { sender: Address, answer: oneshot::Sender<Option<u64>> },
    /// These transactions are canonical.
    Canonical { used: Vec<(Address, u64, B256)> },
    /// Build this block.
    Open { build: BuildId, block: Box<NextBlock>, overlay: Box<Overlay<StateCache>> },
    /// The block is asked for.
    Finish { build: BuildId },
    /// Give it up.
    Drop { build: BuildId },
    /// State that was missing is in memory.
    StateArrived { build: BuildId, keys: Vec<Key> },
    /// The flashblock that was on its way is out.
    Published { build: BuildId },
}

/// Gives orders to the build thread. Clones give orders to the same thread.
#[derive(Clone, Debug)]
pub(crate) struct Orders(SyncSender<Order>);

/// The build thread is gone, or hangs.
#[derive(Debug, thiserror::Error)]
#[error("the build thread does not take orders")]
pub(crate) struct NotTaken;

impl Orders {
    /// Gives an order. Does not wait.
    pub(crate) fn give(&self, order: Order) -> Result<(), NotTaken> {
        self.0.try_send(order).map_err(|error| match error {
            TrySendError::Full(_) | TrySendError::Disconnected(_) => NotTaken,
        })
    }
}

/// The build thread before it runs.
pub(crate) struct BuildThread {
    spec: Arc<ChainSpec>,
    timing: Timing,
    limits: PoolLimits,
    orders: Receiver<Order>,
    effects: mpsc::Sender<Effect<StateCache>>,
}

impl BuildThread {
    /// A thread to be run, the way to give it orders, and what it wants done.
    pub(crate) fn new(
        spec: Arc<ChainSpec>,
        timing: Timing,
        limits: PoolLimits,
    ) -> (Self, Orders, mpsc::Receiver<Effect<StateCache>>) {
        let (give, orders) = sync_channel(ORDERS);
        let (effects, wanted) = mpsc::channel(EFFECTS);
        (Self { spec, timing, limits, orders, effects }, Orders(give), wanted)
    }

    /// Runs until nobody can give orders or wants effects any more.
    pub(crate) fn run(self) -> Result<(), Infallible> {
        let Self { spec, timing, limits, orders, effects } = self;
        let mut assembler = Assembler::new(spec, timing, limits);
        let mut wake = Wake::OnInput;
        loop {
            let Ok(first) = wait(&orders, wake) else { return Ok(()) };
            let more = orders.try_iter().take(ORDERS_AT_ONCE);
            for order in first.into_iter().chain(more) {
                obey(&mut assembler, order);
            }
            wake = assembler.work(Instant::now());
            while let Some(effect) = assembler.poll_effect() {
                if effects.blocking_send(effect).is_err() {
                    return Ok(());
                }
            }
        }
    }
}

/// The next order, or none when it is time to work; an error when no order can come any more.
fn wait(orders: &Receiver<Order>, wake: Wake) -> Result<Option<Order>, ()> {
    match wake {
        Wake::Now => Ok(None),
        Wake::OnInput => orders.recv().map(Some).map_err(|_| ()),
        Wake::At(until) => {
            match orders.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(order) => Ok(Some(order)),
                Err(RecvTimeoutError::Timeout) => Ok(None),
                Err(RecvTimeoutError::Disconnected) => Err(()),
            }
        }
    }
}

/// Whoever asked may have gone: an answer that nobody waits for is dropped.
fn obey(assembler: &mut Assembler<StateCache>, order: Order) {
    match order {
        Order::Submit { transaction, account, answer } => {
            let _ = answer.send(assembler.submit(transaction, account));
        }
        Order::Find { hash, answer } => {
            let found = assembler.pool().get(&hash);
            let _ = answer.send(found.map(|transaction| transaction.encoded().clone()));
        }
        Order::NextNonce { sender, answer } => {
            let _ = answer.send(assembler.pool().next_nonce(&sender));
        }
        Order::Canonical { used } => {
            assembler.canonical(used.iter().map(|(sender, nonce, hash)| (*sender, *nonce, hash)));
        }
        Order::Open { build, block, overlay } => {
            assembler.open(build, *block, *overlay, Instant::now());
        }
        Order::Finish { build } => {
            assembler.finish(build, Instant::now());
        }
        Order::Drop { build } => {
            if assembler.building() == Some(build) {
                assembler.drop_build();
            }
        }
        Order::StateArrived { build, keys } => assembler.state_arrived(build, &keys),
        Order::Published { build } => assembler.published(build),
    }
}
