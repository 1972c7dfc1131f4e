//! Executing what comes into the pool once, to have in memory what it reads (D7).
//!
//! A transaction whose state is missing costs a build a round to the execution client, and its
//! sender an interval. So it is executed when it comes, on the state of the head and apart from any
//! build; what it asks for is read, for a few rounds. What comes of the execution is thrown away.
//!
//! Bounds: one at a time; a share of one core, over which nothing is executed; a queue, and what does
//! not fit into it is not executed ahead. Nobody waits for it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use alloy_consensus::Transaction as _;
use preconf_chain::{ChainSpec, Transaction};
use preconf_evm::call::{BlockContext, CallError, CallRequest, call};
use preconf_state::{Key, Overlay};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tracing::debug;

use crate::sequencer::{HeadState, Sequencer};

/// How many transactions wait to be executed.
const WAITING: usize = 1_024;
/// How often one is executed again for state that was missing.
const ROUNDS: usize = 4;
/// The most gas it is executed with: it reads most of what it reads early.
const GAS: u64 = 5_000_000;
/// How long reading may take: by then it is no help.
const READ: Duration = Duration::from_millis(500);

/// Takes transactions to be executed ahead. Clones share the queue.
#[derive(Clone, Debug)]
pub(crate) struct Speculation(Option<mpsc::Sender<Transaction>>);

impl Speculation {
    /// A queue, and the other end of it. `percent` of a core is 0: there is none.
    pub(crate) fn new(percent: u8) -> (Self, Option<Speculator>) {
        if percent == 0 {
            return (Self(None), None);
        }
        let (give, queue) = mpsc::channel(WAITING);
        (Self(Some(give)), Some(Speculator { queue, percent }))
    }

    /// Executes a transaction soon, or not, if there is much to do.
    pub(crate) fn consider(&self, transaction: &Transaction) {
        if let Some(queue) = &self.0 {
            // Full: builds read what they miss.
            let _ = queue.try_send(transaction.clone());
        }
    }
}

/// Executes what was given.
pub(crate) struct Speculator {
    queue: mpsc::Receiver<Transaction>,
    percent: u8,
}

impl Speculator {
    /// Runs until nobody gives anything any more.
    pub(crate) async fn run(mut self, sequencer: Arc<Sequencer>) {
        while let Some(transaction) = self.queue.recv().await {
            let Some(head) = sequencer.head.borrow().clone() else { continue };
            let worked = sequencer.warm(&head, &transaction).await;
            sequencer.metrics.speculated(worked);
            sleep(pause(worked, self.percent)).await;
        }
    }
}

/// How long to rest after so much work, for work to be this share of the time.
fn pause(worked: Duration, percent: u8) -> Duration {
    worked * u32::from(100_u8.saturating_sub(percent)) / u32::from(percent.max(1))
}

impl Sequencer {
    /// Executes a transaction until it misses nothing; how long the executions took.
    async fn warm(&self, head: &HeadState, transaction: &Transaction) -> Duration {
        let mut worked = Duration::ZERO;
        for _ in 0..ROUNDS {
            let (spec, head, sent) = (self.spec.clone(), head.clone(), transaction.clone());
            let cache = head.cache.clone();
            let executed = tokio::task::spawn_blocking(move || {
                let started = Instant::now();
                (missing(&spec, &head, &sent), started.elapsed())
            });
            let Ok((missing, took)) = executed.await else { return worked };
            worked += took;
            if missing.is_empty() {
                return worked;
            }
            if !matches!(timeout(READ, self.fetcher.ensure(&cache, &missing)).await, Ok(Ok(()))) {
                debug!(transaction = %transaction.hash(), "its state was not read ahead");
                return worked;
            }
        }
        worked
    }
}

/// What a transaction reads first that is not in memory.
fn missing(spec: &ChainSpec, head: &HeadState, transaction: &Transaction) -> Vec<Key> {
    let envelope = transaction.envelope();
    let request = CallRequest {
        from: Some(transaction.signer()),
        to: envelope.to(),
        gas: Some(envelope.gas_limit().min(GAS)),
        value: Some(envelope.value()),
        data: envelope.input().clone(),
        access_list: envelope.access_list().cloned(),
        authorization_list: envelope.authorization_list().map(<[_]>::to_vec),
        ..CallRequest::default()
    };
    let context = BlockContext::from(&*head.header);
    match call(spec, &context, Overlay::new(head.cache.clone()), &request) {
        Err(CallError::NeedState(keys)) => keys,
        // It may fail here and not in a block; what it would read is not known then.
        Ok(_) | Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_its_share_of_the_time() {
        let worked = Duration::from_millis(10);
        assert_eq!(pause(worked, 25), Duration::from_millis(30));
        assert_eq!(pause(worked, 100), Duration::ZERO);
        assert_eq!(pause(worked, 1), Duration::from_millis(990));
    }
}
