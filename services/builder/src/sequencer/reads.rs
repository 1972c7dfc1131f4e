//! What the build thread wants to know of the chain, asked until it is answered.
//!
//! Each question is asked again, with growing pauses, until it is answered, the build is over, or
//! the bound is; the build thread learns of either end, and decides what it means.

use std::{error::Error, time::Duration};

use alloy_primitives::{Address, B256};
use preconf_assembly::{BoxError, BuildId, Located};
use preconf_chassis::Backoff;
use preconf_state::{Key, StateReader as _};
use preconf_upstream::UpstreamError;
use serde_json::value::to_raw_value;
use tokio::time::timeout;
use tracing::warn;

use crate::build::Order;

use super::{HeadState, Sequencer, builds::Stage};

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    #[error("asking the execution client")]
    Upstream(#[source] UpstreamError),
    #[error("reading the answer")]
    Answer(#[source] serde_json::Error),
    #[error("no answer within {0:?}")]
    Late(Duration),
}

impl Sequencer {
    /// Reads state that a build misses.
    pub(super) async fn read(&self, build: BuildId, keys: Vec<Key>) {
        let Some((cache, mut stage)) = self.builds.cache(build) else { return };
        let (wanted, into) = (&keys, &cache);
        let read = persistently(self.read_bound, || async move {
            self.urgent.ensure(into, wanted).await.map_err(Unanswered::Upstream)
        });
        let read = tokio::select! {
            read = read => read,
            _ = stage.wait_for(|stage| !matches!(stage, Stage::Building)) => return,
        };
        let order = match read {
            Ok(()) => Order::StateArrived { build, keys },
            Err(cause) => {
                let error = &cause as &dyn Error;
                warn!(build = build.0, keys = keys.len(), error, "state was not read");
                Order::StateFailed { build, keys, cause: BoxError::from(cause) }
            }
        };
        // A thread that takes no orders needs no state.
        let _ = self.orders.give(order);
    }

    /// Tells the build thread what these senders have after this canonical block.
    pub(super) async fn recheck(&self, number: u64, hash: B256, senders: Vec<Address>) {
        let mut head = self.head.subscribe();
        let read = async {
            // The thread has heard of it a moment before everybody else, who may still have one of
            // the same number that it replaces.
            let is_there = |head: &Option<HeadState>| {
                head.as_ref().is_some_and(|head| {
                    head.cache.block() == (number, hash) || head.header.number > number
                })
            };
            let cache = head.wait_for(is_there).await.ok()?.as_ref()?.cache.clone();
            let keys: Vec<Key> = senders.iter().copied().map(Key::Account).collect();
            let read = self.fetcher.ensure(&cache, &keys).await;
            (cache.block() == (number, hash) && read.is_ok()).then_some(cache)
        };
        // What they cannot pay any more is found out when it is executed, if not here.
        let Ok(Some(cache)) = timeout(self.read_bound, read).await else { return };
        let account = |sender| Some((sender, cache.account(sender).ok()?));
        let accounts = senders.into_iter().filter_map(account).collect();
        let _ = self.orders.give(Order::Recheck { hash, accounts });
    }

    /// Asks whether the canonical chain holds a promised transaction.
    pub(super) async fn locate(&self, build: BuildId, transaction: B256) {
        let located = match persistently(self.read_bound, || self.is_canonical(transaction)).await {
            Ok(true) => Located::Canonical,
            Ok(false) => Located::Absent,
            Err(error) => {
                warn!(%transaction, error = &error as &dyn Error, "a promise was not located");
                Located::Unknown
            }
        };
        // A thread that takes no orders keeps its promises in mind.
        let _ = self.orders.give(Order::Located { build, transaction, located });
    }

    async fn is_canonical(&self, transaction: B256) -> Result<bool, Unanswered> {
        let params = to_raw_value(&(transaction,)).map_err(Unanswered::Answer)?;
        let upstream = self.urgent.upstream();
        let answer = upstream.request("eth_getTransactionByHash", Some(params)).await;
        let answer = answer.map_err(Unanswered::Upstream)?;
        let seen: serde_json::Value =
            serde_json::from_str(answer.get()).map_err(Unanswered::Answer)?;
        Ok(seen.get("blockHash").is_some_and(serde_json::Value::is_string))
    }
}

/// Asks again, with growing pauses, until there is an answer or the time is over.
async fn persistently<T, F: Future<Output = Result<T, Unanswered>>>(
    bound: Duration,
    ask: impl Fn() -> F,
) -> Result<T, Unanswered> {
    let mut last = None;
    let asking = async {
        let mut backoff = Backoff::new();
        loop {
            match ask().await {
                Ok(answer) => return answer,
                Err(error) => last = Some(error),
            }
            backoff.wait().await;
        }
    };
    let answered = timeout(bound, asking).await;
    answered.map_err(|_| last.unwrap_or(Unanswered::Late(bound)))
}
