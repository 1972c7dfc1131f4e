//! The transactions that wait: `txpool_…`.

use std::collections::BTreeMap;

use alloy_consensus::Transaction as _;
use alloy_primitives::{Address, U64};
use preconf_chain::Transaction;
use preconf_chain::rpc::RpcTransaction;
use preconf_engine::rpc::Params;
use serde::Serialize;
use serde_json::json;

use super::at::address;
use crate::client::ExecutionClient;
use crate::client::methods::{Answer, Method, answer};

pub(super) const METHODS: &[Method] = &[
    Method::new("txpool_content", |client, _| {
        answer(&listed(client, |_| true, RpcTransaction::pending))
    }),
    Method::new("txpool_contentFrom", content_from),
    Method::new("txpool_inspect", |client, _| answer(&listed(client, |_| true, summary))),
    Method::new("txpool_status", status),
];

/// Transactions by sender and nonce.
type List<T> = BTreeMap<Address, BTreeMap<String, T>>;

/// What waits.
#[derive(Serialize)]
struct Listed<T> {
    /// What a block could hold next.
    pending: List<T>,
    /// What lacks a nonce before it.
    queued: List<T>,
}

fn listed<T>(
    client: &ExecutionClient,
    wanted: impl Fn(Address) -> bool,
    show: impl Fn(&Transaction) -> T,
) -> Listed<T> {
    let mut listed = Listed { pending: List::new(), queued: List::new() };
    let pool = client.pool.lock();
    let mut next = BTreeMap::new();
    for transaction in pool.waiting().filter(|transaction| wanted(transaction.signer())) {
        let (sender, nonce) = (transaction.signer(), transaction.envelope().nonce());
        let next = next.entry(sender).or_insert_with(|| {
            let account = client.account(sender).unwrap_or_default();
            pool.next_nonce(sender, account.nonce)
        });
        let list = if nonce < *next { &mut listed.pending } else { &mut listed.queued };
        list.entry(sender).or_default().insert(nonce.to_string(), show(transaction));
    }
    listed
}

fn content_from(client: &ExecutionClient, params: &Params) -> Answer {
    let sender = address(params, 0)?;
    let mut listed = listed(client, |other| other == sender, RpcTransaction::pending);
    let of_sender = |list: &mut List<_>| list.remove(&sender).unwrap_or_default();
    let pending = of_sender(&mut listed.pending);
    let queued = of_sender(&mut listed.queued);
    answer(&json!({ "pending": pending, "queued": queued }))
}

/// A transaction in one line.
fn summary(transaction: &Transaction) -> String {
    let envelope = transaction.envelope();
    let to = envelope.to().map_or("contract creation".to_owned(), |to| to.to_string());
    let (value, gas, price) = (envelope.value(), envelope.gas_limit(), envelope.max_fee_per_gas());
    format!("{to}: {value} wei + {gas} gas × {price} wei")
}

fn status(client: &ExecutionClient, _: &Params) -> Answer {
    let listed = listed(client, |_| true, |_| ());
    let count = |list: &List<()>| U64::from(list.values().map(BTreeMap::len).sum::<usize>());
    answer(&json!({ "pending": count(&listed.pending), "queued": count(&listed.queued) }))
}
