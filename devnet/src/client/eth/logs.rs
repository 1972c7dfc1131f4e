//! Finding logs.

use std::sync::Arc;

use alloy_eips::{BlockId, BlockNumberOrTag};
use alloy_rpc_types_eth::{Filter, FilterBlockOption};
use preconf_chain::rpc::{RpcLog, RpcReceipt};
use preconf_engine::RpcError;
use preconf_engine::rpc::{Params, code};

use super::at::{find, inclusion};
use crate::client::ExecutionClient;
use crate::client::chain::{ChainBlock, HeadChange};
use crate::client::methods::{Answer, Method, answer};

/// The most blocks that are searched at once.
const MAX_BLOCKS: u64 = 10_000;

/// The most logs that are returned at once.
const MAX_LOGS: usize = 20_000;

pub(super) const METHODS: &[Method] = &[Method::new("eth_getLogs", get_logs)];

fn get_logs(client: &ExecutionClient, params: &Params) -> Answer {
    answer(&search(client, &params.required(0, "filter")?)?)
}

/// The logs of the chain that match.
pub(super) fn search(client: &ExecutionClient, filter: &Filter) -> Result<Vec<RpcLog>, RpcError> {
    let blocks = match filter.block_option {
        FilterBlockOption::AtBlockHash(hash) => {
            let block = find(client, BlockId::from(hash))?;
            vec![block.ok_or_else(|| RpcError::new(code::SERVER_ERROR, "unknown block"))?]
        }
        FilterBlockOption::Range { from_block, to_block } => range(client, from_block, to_block)?,
    };
    let mut found = Vec::new();
    for block in blocks {
        if filter.matches_bloom(block.header().logs_bloom) {
            found.extend(matching(client, &block, filter));
        }
        if found.len() > MAX_LOGS {
            let reason = format!("more than {MAX_LOGS} logs match: ask for fewer blocks");
            return Err(RpcError::new(code::TOO_LARGE_REQUEST, reason));
        }
    }
    Ok(found)
}

fn range(
    client: &ExecutionClient,
    from: Option<BlockNumberOrTag>,
    to: Option<BlockNumberOrTag>,
) -> Result<Vec<Arc<ChainBlock>>, RpcError> {
    let head = client.head().number();
    let number = |tag: Option<BlockNumberOrTag>| match tag.unwrap_or_default() {
        BlockNumberOrTag::Number(number) => Ok(number),
        tag @ (BlockNumberOrTag::Latest
        | BlockNumberOrTag::Pending
        | BlockNumberOrTag::Earliest
        | BlockNumberOrTag::Safe
        | BlockNumberOrTag::Finalized) => {
            let block = find(client, BlockId::Number(tag))?;
            let unknown = || RpcError::new(code::SERVER_ERROR, format!("there is no {tag} block"));
            block.map(|block| block.number()).ok_or_else(unknown)
        }
    };
    let (from, to) = (number(from)?, number(to)?);
    if from > to {
        return Err(RpcError::invalid_params("invalid block range params"));
    }
    if to > head {
        let reason = "block range extends beyond current head block";
        return Err(RpcError::invalid_params(reason));
    }
    if to.saturating_sub(from) >= MAX_BLOCKS {
        let reason = format!("at most {MAX_BLOCKS} blocks are searched at once");
        return Err(RpcError::new(code::TOO_LARGE_REQUEST, reason));
    }
    Ok((from..=to).filter_map(|number| client.block_by_number(number)).collect())
}

/// The logs that a change of the head took from the chain, and those it brought.
pub(crate) fn changed(
    client: &ExecutionClient,
    change: &HeadChange,
    filter: &Filter,
) -> Vec<RpcLog> {
    let removed = change.removed.iter().flat_map(|block| matching(client, block, filter));
    let removed = removed.map(|log| RpcLog { removed: true, ..log });
    removed.chain(change.added.iter().flat_map(|block| matching(client, block, filter))).collect()
}

fn matching<'a>(
    client: &ExecutionClient,
    block: &'a ChainBlock,
    filter: &'a Filter,
) -> impl Iterator<Item = RpcLog> + use<'a> {
    let inclusion = inclusion(client, block);
    let receipts = RpcReceipt::of_block(&inclusion, &block.transactions, &block.receipts);
    receipts
        .into_iter()
        .flat_map(|receipt| receipt.logs)
        .filter(|log| filter.matches_address(log.address) && filter.matches_topics(&log.topics))
}
