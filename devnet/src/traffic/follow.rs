//! One transaction after it was sent.

use std::{sync::Arc, time::Duration};

use alloy_primitives::B256;
use preconf_chain::rpc::RpcReceipt;
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use super::{
    AT_FULL_RATE, Difference, End, POLL,
    compare::{preconfirmed_and_canonical, same},
};
use crate::rpc::{Rpc, RpcFailure};

/// How long an answer may take that a comparison needs, failures included.
const CATCH_UP: Duration = Duration::from_secs(5);
/// How often it is asked for.
const CATCH_UP_POLL: Duration = Duration::from_millis(50);

/// Follows transactions.
#[derive(Clone, Debug)]
pub(super) struct Follower {
    pub(super) overlay: Rpc,
    pub(super) rpc_node: Rpc,
    pub(super) head: watch::Receiver<u64>,
    /// The last block that counts, once the traffic ends.
    pub(super) finish: watch::Receiver<Option<u64>>,
    /// Counts those who wait for a receipt: each holds a clone of this while he does.
    pub(super) waiting: Arc<()>,
    /// Turns to compare.
    pub(super) turns: Arc<Semaphore>,
}

/// A first receipt.
#[derive(Debug)]
pub(super) struct Seen {
    /// From sending to it.
    pub(super) latency: Duration,
    pub(super) verdict: Verdict,
}

/// What became of a first receipt.
#[derive(Debug)]
pub(super) enum Verdict {
    /// The RPC node may have had its block before: it would be compared with itself.
    Late,
    /// Its block did not become canonical before the end.
    Open,
    /// It was compared with the canonical one.
    Compared(Result<(), Difference>),
    /// The canonical one could not be had.
    NotCompared(RpcFailure),
}

/// Whether a receipt of this block was given before the client whose head was asked for afterwards
/// had the block. A head that is not known proves nothing.
fn is_early(block: u64, head_afterwards: Option<u64>) -> bool {
    head_afterwards.is_some_and(|head| head < block)
}

/// How long somebody waits before he asks again, if so many wait.
fn poll_interval(waiting: usize) -> Duration {
    POLL * u32::try_from(waiting.div_ceil(AT_FULL_RATE)).unwrap_or(u32::MAX).max(1)
}

impl Follower {
    /// Waits for the receipt, for its block to become canonical, and compares.
    pub(super) async fn follow(&self, hash: B256, sent_at: Instant, patience: Duration) -> End {
        let waiting = self.waiting.clone();
        let receipt = loop {
            // An answer that fails is no receipt; the next one may be.
            if let Ok(Some(receipt)) = self.overlay.receipt(hash).await {
                break receipt;
            }
            if self.finish.borrow().is_some() {
                return End::Open;
            }
            if sent_at.elapsed() > patience {
                return End::Unanswered;
            }
            // One is held by whoever lets them follow.
            sleep(poll_interval(Arc::strong_count(&waiting) - 1)).await;
        };
        drop(waiting);
        let latency = sent_at.elapsed();
        End::Seen(Seen { latency, verdict: self.judge(&receipt).await })
    }

    async fn judge(&self, first: &RpcReceipt) -> Verdict {
        let head = self.rpc_node.block_number().await;
        if !is_early(first.block_number, head.ok()) {
            return Verdict::Late;
        }
        if !self.until_canonical(first.block_number).await {
            return Verdict::Open;
        }
        let turn = self.turns.acquire().await;
        let _turn = turn.expect("nobody closes the semaphore");
        match self.compare(first).await {
            Ok(result) => Verdict::Compared(result),
            Err(failure) => Verdict::NotCompared(failure),
        }
    }

    /// Waits until there is a canonical block with this number; `false` if it will not count.
    async fn until_canonical(&self, number: u64) -> bool {
        let (mut head, mut finish) = (self.head.clone(), self.finish.clone());
        tokio::select! {
            biased;
            // Without a head there is no chain any more.
            reached = head.wait_for(|head| *head >= number) => reached.is_ok(),
            // Blocks up to the last one are canonical when the traffic is told which it is.
            _ = finish.wait_for(|last| last.is_some_and(|last| last < number)) => false,
        }
    }

    async fn compare(&self, first: &RpcReceipt) -> Result<Result<(), Difference>, RpcFailure> {
        let transaction = first.transaction_hash;
        let Some(canonical) = receipt(&self.rpc_node, transaction, |_| true).await? else {
            return Ok(Err(Difference::Absent { transaction, block: first.block_number }));
        };
        if let Err(difference) = preconfirmed_and_canonical(first, &canonical) {
            return Ok(Err(difference));
        }
        let is_final = |shown: &RpcReceipt| shown.block_hash == canonical.block_hash;
        Ok(match receipt(&self.overlay, transaction, is_final).await? {
            Some(shown) => same(&shown, &canonical),
            None => Err(Difference::Stale { transaction, waited: CATCH_UP }),
        })
    }
}

/// A receipt as it is wanted, if there is one within [`CATCH_UP`]; a failure if the last answer is
/// one.
async fn receipt(
    rpc: &Rpc,
    transaction: B256,
    is_wanted: impl Fn(&RpcReceipt) -> bool,
) -> Result<Option<RpcReceipt>, RpcFailure> {
    let started = Instant::now();
    let mut polls = interval(CATCH_UP_POLL);
    polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        polls.tick().await;
        let receipt = rpc.receipt(transaction).await.map(|receipt| receipt.filter(&is_wanted));
        if matches!(receipt, Ok(Some(_))) || started.elapsed() > CATCH_UP {
            return receipt;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_wait_the_less_often_each_asks() {
        assert_eq!([poll_interval(0), poll_interval(1), poll_interval(AT_FULL_RATE)], [POLL; 3]);
        assert_eq!(poll_interval(AT_FULL_RATE + 1), 2 * POLL);
        assert_eq!(poll_interval(10 * AT_FULL_RATE), 10 * POLL);
    }

    #[test]
    fn only_a_receipt_before_its_block_is_early() {
        assert!(is_early(7, Some(6)));
        for head in [Some(7), Some(8), None] {
            assert!(!is_early(7, head), "{head:?}");
        }
    }
}
