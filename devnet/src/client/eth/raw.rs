//! What the chain is made of, as it is hashed: `debug_getRaw…`.

use std::sync::Arc;

use alloy_consensus::TxReceipt as _;
use alloy_eips::BlockId;
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::Bytes;
use preconf_engine::RpcError;
use preconf_engine::rpc::{Params, code};

use super::at::{find, hash};
use crate::client::ExecutionClient;
use crate::client::chain::ChainBlock;
use crate::client::import::with_roots;
use crate::client::methods::{Answer, Method, answer};

pub(super) const METHODS: &[Method] = &[
    Method::new("debug_getRawBlock", |client, params| answer(&rlp(&block(client, params)?.block))),
    Method::new("debug_getRawHeader", |client, params| {
        answer(&rlp(block(client, params)?.header()))
    }),
    Method::new("debug_getRawReceipts", |client, params| {
        answer(&receipts(&*block(client, params)?))
    }),
    Method::new("debug_getRawTransaction", transaction),
];

fn rlp(item: &impl alloy_rlp::Encodable) -> Bytes {
    alloy_rlp::encode(item).into()
}

/// The block that the first parameter names, which must be there.
pub(super) fn block(
    client: &ExecutionClient,
    params: &Params,
) -> Result<Arc<ChainBlock>, RpcError> {
    let id: BlockId = params.required(0, "block")?;
    find(client, id)?.ok_or_else(|| RpcError::new(code::SERVER_ERROR, "block not found"))
}

fn receipts(block: &ChainBlock) -> Vec<Bytes> {
    if block.intermediate_roots.is_empty() {
        let receipts = block.receipts.iter();
        return receipts.map(|receipt| receipt.with_bloom_ref().encoded_2718().into()).collect();
    }
    let receipts = with_roots(&block.receipts, &block.intermediate_roots);
    receipts.iter().map(rlp).collect()
}

fn transaction(client: &ExecutionClient, params: &Params) -> Answer {
    let hash = hash(params, 0, "transaction hash")?;
    if let Some((block, index)) = client.find_transaction(hash) {
        return answer(block.transactions[index].encoded());
    }
    let pool = client.pool.lock();
    // Nothing is what clients answer where there is no such transaction.
    answer(&pool.get(&hash).map(|transaction| transaction.encoded().clone()).unwrap_or_default())
}
