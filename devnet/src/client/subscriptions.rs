//! `eth_subscribe`: what happens, told as it happens.
//!
//! | kind | told |
//! |---|---|
//! | `newHeads` | every block that becomes canonical, in order |
//! | `logs` | its logs that match, and those of blocks that no longer are canonical as removed |
//! | `newPendingTransactions` | what the pool takes: hashes, or with `true` whole transactions |
//!
//! A reader who is too slow loses his subscription, so that he never takes something with holes
//! for the whole.

use std::sync::Arc;
use std::time::Duration;

use alloy_rpc_types_eth::Filter;
use jsonrpsee::core::server::{PendingSubscriptionSink, SubscriptionSink};
use jsonrpsee::types::ErrorObjectOwned;
use preconf_chain::Transaction;
use preconf_chain::rpc::RpcTransaction;
use preconf_engine::RpcError;
use preconf_engine::rpc::Params;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};
use tokio::sync::broadcast::Receiver;

use super::ExecutionClient;
use super::chain::{ChainBlock, HeadChange};
use super::eth::{HeadNotification, changed_logs};
use super::server::error_object;

/// How long a notification waits for its reader.
const PATIENCE: Duration = Duration::from_secs(10);

/// What somebody wants to be told, from when he asked.
enum Wanted {
    Heads(Receiver<Arc<ChainBlock>>),
    Logs(Box<Filter>, Receiver<Arc<HeadChange>>),
    Transactions { full: bool, arrivals: Receiver<Transaction> },
}

/// Serves a subscription until its reader goes away or is too slow.
pub(super) async fn subscribe(
    params: Result<Params, ErrorObjectOwned>,
    pending: PendingSubscriptionSink,
    client: &ExecutionClient,
) {
    let wanted = params.and_then(|params| wanted(client, &params).map_err(error_object));
    let wanted = match wanted {
        Ok(wanted) => wanted,
        Err(refusal) => return pending.reject(refusal).await,
    };
    // Whoever has gone away before the answer wants no notifications.
    let Ok(sink) = pending.accept().await else { return };
    match wanted {
        Wanted::Heads(heads) => {
            notify(&sink, heads, |block| written(&HeadNotification::from(&**block))).await;
        }
        Wanted::Logs(filter, changes) => {
            let logs = |change: &Arc<HeadChange>| {
                let logs = changed_logs(client, change, &filter);
                logs.iter().flat_map(written).collect()
            };
            notify(&sink, changes, logs).await;
        }
        Wanted::Transactions { full: true, arrivals } => {
            let shown = |transaction: &_| written(&RpcTransaction::pending(transaction));
            notify(&sink, arrivals, shown).await;
        }
        Wanted::Transactions { full: false, arrivals } => {
            notify(&sink, arrivals, |transaction| written(transaction.hash())).await;
        }
    }
}

fn wanted(client: &ExecutionClient, params: &Params) -> Result<Wanted, RpcError> {
    let kind: String = params.required(0, "kind")?;
    match kind.as_str() {
        "newHeads" => Ok(Wanted::Heads(client.heads())),
        "logs" => {
            let filter: Filter = params.optional(1, "filter")?.unwrap_or_default();
            Ok(Wanted::Logs(Box::new(filter), client.head_changes()))
        }
        "newPendingTransactions" => {
            let full = match params.optional::<Value>(1, "full transactions")? {
                None => false,
                Some(Value::Bool(full)) => full,
                Some(_) => return Err(RpcError::invalid_params("expected true or false")),
            };
            Ok(Wanted::Transactions { full, arrivals: client.arrivals() })
        }
        _ => Err(RpcError::invalid_params(
            "only newHeads, logs and newPendingTransactions can be subscribed to",
        )),
    }
}

async fn notify<T: Clone>(
    sink: &SubscriptionSink,
    mut news: Receiver<T>,
    write: impl Fn(&T) -> Vec<Box<RawValue>>,
) {
    loop {
        let item = tokio::select! {
            item = news.recv() => item,
            () = sink.closed() => return,
        };
        let Ok(item) = item else { return };
        for message in write(&item) {
            if sink.send_timeout(message, PATIENCE).await.is_err() {
                return;
            }
        }
    }
}

fn written<T: Serialize>(item: &T) -> Vec<Box<RawValue>> {
    to_raw_value(item).into_iter().collect()
}
