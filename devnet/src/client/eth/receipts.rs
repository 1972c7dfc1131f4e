//! Receipts.

use alloy_primitives::B256;
use preconf_chain::rpc::RpcReceipt;
use preconf_engine::RpcError;
use preconf_engine::rpc::{self, Params};
use serde_json::Value;
use serde_json::value::RawValue;

use super::at::{find, hash, inclusion};
use crate::client::ExecutionClient;
use crate::client::chain::ChainBlock;
use crate::client::methods::{Answer, Method, answer};

pub(super) const METHODS: &[Method] = &[
    Method::new("eth_getBlockReceipts", of_block),
    Method::new("eth_getTransactionReceipt", of_transaction),
];

fn of_block(client: &ExecutionClient, params: &Params) -> Answer {
    let block = find(client, params.required(0, "block")?)?;
    let shown = block.map(|block| shown(client, &block, block.transactions.len()));
    answer(&shown.transpose()?)
}

fn of_transaction(client: &ExecutionClient, params: &Params) -> Answer {
    let hash = hash(params, 0, "transaction hash")?;
    let Some((block, index)) = client.find_transaction(hash) else { return answer(&()) };
    // A receipt counts the gas and the logs before it.
    let mut receipts = shown(client, &block, index + 1)?;
    answer(&receipts.pop())
}

/// The first receipts of a block.
fn shown(
    client: &ExecutionClient,
    block: &ChainBlock,
    count: usize,
) -> Result<Vec<Box<RawValue>>, RpcError> {
    let transactions = &block.transactions[..count];
    let receipts = RpcReceipt::of_block(&inclusion(client, block), transactions, &block.receipts);
    let mut roots = block.intermediate_roots.iter();
    receipts.iter().map(|receipt| show(receipt, roots.next())).collect()
}

/// A receipt; before Byzantium with the state root after it instead of a status.
fn show(receipt: &RpcReceipt, root: Option<&B256>) -> Answer {
    let Some(root) = root else { return answer(receipt) };
    let shown = serde_json::to_value(receipt);
    let mut shown = shown.map_err(|error| RpcError::internal(error.to_string()))?;
    if let Value::Object(fields) = &mut shown {
        fields.remove("status");
        fields.insert("root".to_owned(), root.to_string().into());
    }
    rpc::result(&shown)
}
