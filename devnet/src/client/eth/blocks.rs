//! Blocks and their receipts.

use std::sync::Arc;

use alloy_eips::{BlockId, BlockNumberOrTag};
use alloy_primitives::{B256, U64};
use preconf_chain::rpc::{RpcBlock, RpcReceipt};
use preconf_engine::RpcError;
use preconf_engine::rpc::Params;

use super::at::{find, inclusion};
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
    Method::new("eth_getBlockReceipts", receipts),
];

fn by_number(
    client: &ExecutionClient,
    params: &Params,
) -> Result<Option<Arc<ChainBlock>>, RpcError> {
    let tag: BlockNumberOrTag = params.required(0, "block number or tag")?;
    find(client, BlockId::Number(tag))
}

fn by_hash(client: &ExecutionClient, params: &Params) -> Result<Option<Arc<ChainBlock>>, RpcError> {
    let hash: B256 = params.required(0, "block hash")?;
    find(client, BlockId::from(hash))
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

fn receipts(client: &ExecutionClient, params: &Params) -> Answer {
    let block = find(client, params.required(0, "block")?)?;
    let shown = block.map(|block| {
        RpcReceipt::of_block(&inclusion(client, &block), &block.transactions, &block.receipts)
    });
    answer(&shown)
}
