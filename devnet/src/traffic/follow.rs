//! One transaction after it was sent.

use std::time::Duration;

use alloy_primitives::B256;
use preconf_chain::rpc::RpcReceipt;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};

use super::{
    Difference, End, POLL,
    compare::{preconfirmed_and_canonical, same},
};
use crate::rpc::{Rpc, RpcFailure};

/// How long the overlay may take to show a canonical block for what it is.
const CATCH_UP: Duration = Duration::from_secs(5);
/// How often it is asked.
const CATCH_UP_POLL: Duration = Duration::from_millis(50);

/// Follows transactions.
#[derive(Clone, Debug)]
pub(super) struct Follower {
    pub(super) overlay: Rpc,
    pub(super) rpc_node: Rpc,
    pub(super) head: watch::Receiver<u64>,
    /// The last block that counts, once the traffic ends.
    pub(super) finish: watch::Receiver<Option<u64>>,
}

impl Follower {
    /// Waits for the receipt, for its block to become canonical, and compares.
    pub(super) async fn follow(&self, hash: B256, sent_at: Instant, patience: Duration) -> End {
        let mut polls = interval(POLL);
        polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let preconfirmed = loop {
            polls.tick().await;
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
        };
        let latency = sent_at.elapsed();
        if !self.until_canonical(preconfirmed.block_number).await {
            return End::Promised { latency };
        }
        match self.compare(&preconfirmed).await {
            Ok(result) => End::Compared { latency, result },
            Err(failure) => End::NotCompared { latency, failure },
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

    async fn compare(
        &self,
        preconfirmed: &RpcReceipt,
    ) -> Result<Result<(), Difference>, RpcFailure> {
        let transaction = preconfirmed.transaction_hash;
        let Some(canonical) = self.rpc_node.receipt(transaction).await? else {
            let block = preconfirmed.block_number;
            return Ok(Err(Difference::Absent { transaction, block }));
        };
        if let Err(difference) = preconfirmed_and_canonical(preconfirmed, &canonical) {
            return Ok(Err(difference));
        }
        let started = Instant::now();
        let mut polls = interval(CATCH_UP_POLL);
        loop {
            polls.tick().await;
            let shown = self.overlay.receipt(transaction).await?;
            match shown.filter(|shown| shown.block_hash == canonical.block_hash) {
                Some(shown) => return Ok(same(&shown, &canonical)),
                None if started.elapsed() > CATCH_UP => {
                    return Ok(Err(Difference::Stale { transaction, waited: CATCH_UP }));
                }
                None => {}
            }
        }
    }
}
