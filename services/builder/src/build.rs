//! The build thread: it drives the [`Assembler`], and is the only one that executes.
//!
//! Orders come in through a bounded queue, effects go out through another. The thread sleeps until
//! the next flashblock is due or an order arrives; it never polls, and it waits for nobody else.
//! What the ingress offers can fill half of the queue; the rest is kept for the orders that builds
//! depend on.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    time::Instant,
};

use alloy_primitives::{Address, B256, Bytes, map::HashSet};
use preconf_assembly::{
    Assembler, BoxError, BuildId, CanonicalBlock, Effect, Located, PoolLimits, Submission, Timing,
    Wake,
};
use preconf_chain::{ChainSpec, Transaction};
use preconf_evm::NextBlock;
use preconf_primitives::TransactionRefusal;
use preconf_state::{Account, Key, Overlay, StateCache};
use tokio::sync::{mpsc, oneshot};

use crate::metrics::Metrics;

/// How many orders may wait. When [`OFFERS`] of the ingress wait, further ones are refused; all
/// other orders come a few times in a block, so for them the queue is never full unless the thread
/// hangs.
const ORDERS: usize = 8_192;
/// How many orders of the ingress may wait.
const OFFERS: usize = ORDERS / 2;
/// How many effects may wait for the sequencer, which only hands them on.
const EFFECTS: usize = 256;
/// How many orders are taken before the build goes on.
const ORDERS_AT_ONCE: usize = 64;

/// What the build thread is told.
#[derive(Debug)]
pub(crate) enum Order {
    /// Take a transaction into the pool.
    Submit {
        submission: Submission,
        account: Option<Account>,
        answer: oneshot::Sender<Result<B256, TransactionRefusal>>,
    },
    /// Look up a transaction in the pool.
    Find { hash: B256, answer: oneshot::Sender<Option<Bytes>> },
    /// Tell the nonce after a sender's contiguous transactions.
    NextNonce { sender: Address, answer: oneshot::Sender<Option<u64>> },
    /// These blocks are canonical, and none of those that were from the first one's number on.
    Canonical { blocks: Vec<CanonicalBlock> },
    /// Build this block.
    Open { build: BuildId, block: Box<NextBlock>, overlay: Box<Overlay<StateCache>> },
    /// Build this block as another builder publishes it.
    Follow { build: BuildId, block: Box<NextBlock>, overlay: Box<Overlay<StateCache>> },
    /// Publish it from here on.
    Lead { build: BuildId },
    /// Another builder has promised these.
    Promise { transactions: Vec<Transaction> },
    /// It has taken these back.
    Withdraw { transactions: HashSet<B256> },
    /// The block is asked for.
    Finish { build: BuildId },
    /// Give it up.
    Drop { build: BuildId },
    /// State that was missing is in memory.
    StateArrived { build: BuildId, keys: Vec<Key> },
    /// State that was missing cannot be read.
    StateFailed { build: BuildId, keys: Vec<Key>, cause: BoxError },
    /// Where the execution client sees a promised transaction.
    Located { build: BuildId, transaction: B256, located: Located },
    /// What senders have after the canonical block with this hash.
    Recheck { hash: B256, accounts: Vec<(Address, Option<Account>)> },
    /// The flashblock that was on its way is out.
    Published { build: BuildId, index: u64 },
}

/// Gives orders to the build thread. Clones give orders to the same thread.
#[derive(Clone, Debug)]
pub(crate) struct Orders {
    queue: SyncSender<Queued>,
    offers: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Queued {
    order: Order,
    is_offer: bool,
}

/// The build thread is gone, or hangs, or has more offers than it can look at.
#[derive(Debug, thiserror::Error)]
#[error("the build thread does not take orders")]
pub(crate) struct NotTaken;

impl Orders {
    /// Gives an order that a build depends on. Does not wait.
    pub(crate) fn give(&self, order: Order) -> Result<(), NotTaken> {
        self.queue(Queued { order, is_offer: false })
    }

    /// Gives an order for somebody outside. Does not wait.
    pub(crate) fn offer(&self, order: Order) -> Result<(), NotTaken> {
        if self.offers.fetch_add(1, Ordering::Relaxed) >= OFFERS {
            self.offers.fetch_sub(1, Ordering::Relaxed);
            return Err(NotTaken);
        }
        let queued = self.queue(Queued { order, is_offer: true });
        if queued.is_err() {
            self.offers.fetch_sub(1, Ordering::Relaxed);
        }
        queued
    }

    fn queue(&self, queued: Queued) -> Result<(), NotTaken> {
        self.queue.try_send(queued).map_err(|error| match error {
            TrySendError::Full(_) | TrySendError::Disconnected(_) => NotTaken,
        })
    }
}

/// The other end of [`Orders`].
pub(crate) struct OrderQueue {
    queue: Receiver<Queued>,
    offers: Arc<AtomicUsize>,
}

impl OrderQueue {
    fn new() -> (Orders, Self) {
        let (give, queue) = sync_channel(ORDERS);
        let offers = Arc::<AtomicUsize>::default();
        (Orders { queue: give, offers: offers.clone() }, Self { queue, offers })
    }

    /// The next order, or none when it is time to work; an error when no order can come any more.
    fn wait(&self, wake: Wake) -> Result<Option<Order>, ()> {
        match wake {
            Wake::Now => Ok(None),
            Wake::OnInput => {
                self.queue.recv().map(|queued| Some(self.taken(queued))).map_err(|_| ())
            }
            Wake::At(until) => {
                match self.queue.recv_timeout(until.saturating_duration_since(Instant::now())) {
                    Ok(queued) => Ok(Some(self.taken(queued))),
                    Err(RecvTimeoutError::Timeout) => Ok(None),
                    Err(RecvTimeoutError::Disconnected) => Err(()),
                }
            }
        }
    }

    /// An order that waits already.
    pub(crate) fn take(&self) -> Option<Order> {
        self.queue.try_recv().ok().map(|queued| self.taken(queued))
    }

    fn taken(&self, Queued { order, is_offer }: Queued) -> Order {
        if is_offer {
            self.offers.fetch_sub(1, Ordering::Relaxed);
        }
        order
    }
}

/// The build thread before it runs.
pub(crate) struct BuildThread {
    spec: Arc<ChainSpec>,
    timing: Timing,
    limits: PoolLimits,
    metrics: Arc<Metrics>,
    pub(crate) orders: OrderQueue,
    effects: mpsc::Sender<Effect<StateCache>>,
}

impl BuildThread {
    /// A thread to be run, the way to give it orders, and what it wants done.
    pub(crate) fn new(
        spec: Arc<ChainSpec>,
        timing: Timing,
        limits: PoolLimits,
        metrics: Arc<Metrics>,
    ) -> (Self, Orders, mpsc::Receiver<Effect<StateCache>>) {
        let (give, orders) = OrderQueue::new();
        let (effects, wanted) = mpsc::channel(EFFECTS);
        (Self { spec, timing, limits, metrics, orders, effects }, give, wanted)
    }

    /// Runs until nobody can give orders or wants effects any more.
    pub(crate) fn run(self) -> Result<(), Infallible> {
        let Self { spec, timing, limits, metrics, orders, effects } = self;
        let mut assembler = Assembler::new(spec, timing, limits);
        let mut wake = Wake::OnInput;
        loop {
            let Ok(first) = orders.wait(wake) else { return Ok(()) };
            let more = std::iter::from_fn(|| orders.take()).take(ORDERS_AT_ONCE);
            for order in first.into_iter().chain(more) {
                obey(&mut assembler, order);
            }
            wake = assembler.work(Instant::now());
            while let Some(effect) = assembler.poll_effect() {
                if effects.blocking_send(effect).is_err() {
                    return Ok(());
                }
            }
            for (cause, count) in assembler.take_drops() {
                metrics.dropped(cause, count);
            }
        }
    }
}

/// Whoever asked may have gone: an answer that nobody waits for is dropped, and a transaction whose
/// sender was told that it was not taken is not.
fn obey(assembler: &mut Assembler<StateCache>, order: Order) {
    match order {
        Order::Submit { answer, .. } if answer.is_closed() => {}
        Order::Submit { submission, account, answer } => {
            let _ = answer.send(assembler.submit(submission, account));
        }
        Order::Find { hash, answer } => {
            let found = assembler.pool().get(&hash);
            let _ = answer.send(found.map(|transaction| transaction.encoded().clone()));
        }
        Order::NextNonce { sender, answer } => {
            let _ = answer.send(assembler.pool().next_nonce(&sender));
        }
        Order::Canonical { blocks } => assembler.canonical(blocks, Instant::now()),
        Order::Open { build, block, overlay } => {
            assembler.open(build, *block, *overlay, Instant::now());
        }
        Order::Follow { build, block, overlay } => {
            assembler.follow(build, *block, *overlay, Instant::now());
        }
        Order::Lead { build } => {
            assembler.lead(build, Instant::now());
        }
        Order::Promise { transactions } => assembler.promise(transactions),
        Order::Withdraw { transactions } => assembler.withdraw(&transactions),
        Order::Finish { build } => {
            assembler.finish(build, Instant::now());
        }
        Order::Drop { build } => {
            if assembler.building() == Some(build) {
                assembler.drop_build();
            }
        }
        Order::StateArrived { build, keys } => assembler.state_arrived(build, &keys),
        Order::StateFailed { build, keys, cause } => assembler.state_failed(build, &keys, cause),
        Order::Located { build, transaction, located } => {
            assembler.located(build, &transaction, located);
        }
        Order::Recheck { hash, accounts } => assembler.recheck(hash, accounts),
        Order::Published { build, index } => assembler.published(build, index),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find() -> Order {
        Order::Find { hash: B256::ZERO, answer: oneshot::channel().0 }
    }

    #[test]
    fn however_much_is_offered_an_order_that_a_build_depends_on_is_taken() {
        let (orders, queue) = OrderQueue::new();
        for _ in 0..OFFERS {
            orders.offer(find()).unwrap();
        }
        assert!(orders.offer(find()).is_err());
        orders.give(Order::Drop { build: BuildId(1) }).unwrap();

        assert!(matches!(queue.take(), Some(Order::Find { .. })));
        orders.offer(find()).unwrap();
        assert!(orders.offer(find()).is_err());
    }
}
