//! Transactions: those of the chain, and those that wait.

use std::collections::BTreeMap;

use alloy_consensus::Transaction as _;
use alloy_primitives::{Address, B256, Bytes, U64};
use preconf_chain::Transaction;
use preconf_chain::rpc::{RpcReceipt, RpcTransaction};
use preconf_engine::RpcError;
use preconf_engine::rpc::{Params, code};
use serde_json::json;

use super::at::inclusion;
use crate::client::ExecutionClient;
use crate::client::error::in_words;
use crate::client::methods::{Answer, Method, answer};

pub(super) const METHODS: &[Method] = &[
    Method::new("eth_sendRawTransaction", send),
    Method::new("eth_getTransactionByHash", by_hash),
    Method::new("eth_getTransactionReceipt", receipt),
    Method::new("txpool_content", content),
    Method::new("txpool_status", status),
];

fn send(client: &ExecutionClient, params: &Params) -> Answer {
    let encoded: Bytes = params.required(0, "transaction")?;
    let refused = |words| RpcError::new(code::SERVER_ERROR, words);
    let transaction = Transaction::decode(encoded).map_err(|error| refused(in_words(&error)))?;
    let hash = client.submit(transaction).map_err(|refusal| refused(refusal.to_string()))?;
    answer(&hash)
}

fn by_hash(client: &ExecutionClient, params: &Params) -> Answer {
    let hash: B256 = params.required(0, "transaction hash")?;
    if let Some((block, index)) = client.find_transaction(hash) {
        let inclusion = inclusion(client, &block);
        let transaction = &block.transactions[index];
        return answer(&RpcTransaction::included(transaction, &inclusion, index as u64));
    }
    answer(&client.pool.lock().get(&hash).map(RpcTransaction::pending))
}

fn receipt(client: &ExecutionClient, params: &Params) -> Answer {
    let hash: B256 = params.required(0, "transaction hash")?;
    let Some((block, index)) = client.find_transaction(hash) else { return answer(&()) };
    // A receipt counts the gas and the logs before it.
    let upto = &block.transactions[..=index];
    let mut receipts = RpcReceipt::of_block(&inclusion(client, &block), upto, &block.receipts);
    answer(&receipts.pop())
}

type Listed = BTreeMap<Address, BTreeMap<String, RpcTransaction>>;

fn content(client: &ExecutionClient, _: &Params) -> Answer {
    let (mut pending, mut queued) = (Listed::new(), Listed::new());
    for (transaction, ready) in client.pool.lock().waiting() {
        let list = if ready { &mut pending } else { &mut queued };
        let nonce = transaction.envelope().nonce().to_string();
        let shown = RpcTransaction::pending(transaction);
        list.entry(transaction.signer()).or_default().insert(nonce, shown);
    }
    answer(&json!({ "pending": pending, "queued": queued }))
}

fn status(client: &ExecutionClient, _: &Params) -> Answer {
    let pool = client.pool.lock();
    let (pending, queued): (Vec<_>, Vec<_>) = pool.waiting().partition(|(_, ready)| *ready);
    answer(&json!({ "pending": U64::from(pending.len()), "queued": U64::from(queued.len()) }))
}
