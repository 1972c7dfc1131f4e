//! Blocks.

use std::sync::Arc;

use alloy_eips::{BlockId, BlockNumberOrTag};
use alloy_primitives::U64;
use preconf_chain::rpc::RpcBlock;
use preconf_engine::RpcError;
use preconf_engine::rpc::Params;

use super::at::{find, hash};
use crate::client::ExecutionClient;
use crate::client::chain::ChainBlock;
use crate::client::methods::{Answer, Method, answer};

pub(super) const METHODS: &[Method] = &[
    Method::new("eth_blockNumber", |client, _| answer(&U64::from(client.head().number()))),
    Method::new("eth_getBlockByNumber", |client, params| show(by_number(client, params)?, params)),
    Method::new("eth_getBlockByHash", |client, params| show(by_hash(client, params)?, params)),
    Method::new("eth_getBlockTransactionCountByNumber", |client, params| {
        count(by_number(client, params)?)
    }),
    Method::new("eth_getBlockTransactionCountByHash", |client, params| {
        count(by_hash(client, params)?)
    }),
    Method::new("eth_getUncleCountByBlockNumber", |client, params| {
        uncles(by_number(client, params)?)
    }),
    Method::new("eth_getUncleCountByBlockHash", |client, params| uncles(by_hash(client, params)?)),
];

pub(super) fn by_number(
    client: &ExecutionClient,
    params: &Params,
) -> Result<Option<Arc<ChainBlock>>, RpcError> {
    let tag: BlockNumberOrTag = params.required(0, "block number or tag")?;
    find(client, BlockId::Number(tag))
}

pub(super) fn by_hash(
    client: &ExecutionClient,
    params: &Params,
) -> Result<Option<Arc<ChainBlock>>, RpcError> {
    find(client, BlockId::from(hash(params, 0, "block hash")?))
}

fn show(block: Option<Arc<ChainBlock>>, params: &Params) -> Answer {
    let full = params.optional(1, "full transactions")?.unwrap_or(false);
    let shown = block.map(|found| {
        let ChainBlock { hash, block, transactions, .. } = &*found;
        if full {
            RpcBlock::with_transactions(block, *hash, transactions)
        } else {
            RpcBlock::with_hashes(block, *hash)
        }
    });
    answer(&shown)
}

fn count(block: Option<Arc<ChainBlock>>) -> Answer {
    answer(&block.map(|block| U64::from(block.transactions.len())))
}

fn uncles(block: Option<Arc<ChainBlock>>) -> Answer {
    answer(&block.map(|block| U64::from(block.block.body.ommers.len())))
}
