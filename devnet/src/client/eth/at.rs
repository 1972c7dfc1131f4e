//! Finding the block that a method is asked about, and how it is shown.

use std::sync::Arc;

use alloy_eips::{BlockId, BlockNumberOrTag};
use alloy_primitives::B256;
use preconf_chain::Header;
use preconf_chain::rpc::Inclusion;
use preconf_engine::RpcError;
use preconf_engine::rpc::{Params, code};
use serde::Serialize;

use crate::client::chain::{BlockState, ChainBlock};
use crate::client::{ClientError, ExecutionClient};

/// EIP-1898: the block is not there.
const RESOURCE_NOT_FOUND: i64 = -32001;

/// A header as `newHeads` shows it.
#[derive(Serialize)]
pub(crate) struct HeadNotification<'a> {
    hash: B256,
    #[serde(flatten)]
    header: &'a Header,
}

impl<'a> From<&'a ChainBlock> for HeadNotification<'a> {
    fn from(block: &'a ChainBlock) -> Self {
        Self { hash: block.hash, header: block.header() }
    }
}

/// The block that is named, if it is known.
pub(super) fn find(
    client: &ExecutionClient,
    id: BlockId,
) -> Result<Option<Arc<ChainBlock>>, RpcError> {
    let tree = client.tree.read();
    let block = match id {
        BlockId::Number(tag) => match tag {
            BlockNumberOrTag::Latest | BlockNumberOrTag::Pending => Some(tree.head()),
            BlockNumberOrTag::Earliest => Some(tree.genesis()),
            BlockNumberOrTag::Safe => tree.safe(),
            BlockNumberOrTag::Finalized => tree.finalized(),
            BlockNumberOrTag::Number(number) => tree.block_by_number(number),
        },
        BlockId::Hash(wanted) => {
            let block = tree.block(&wanted.block_hash);
            let canonical = block.is_none_or(|block| tree.is_canonical(block));
            if wanted.require_canonical == Some(true) && !canonical {
                let reason = format!("hash {} is not currently canonical", wanted.block_hash);
                return Err(RpcError::new(code::SERVER_ERROR, reason));
            }
            block
        }
    };
    Ok(block.cloned())
}

/// The block that the parameter names; the latest if it is absent.
pub(super) fn block(
    client: &ExecutionClient,
    params: &Params,
    index: usize,
) -> Result<Arc<ChainBlock>, RpcError> {
    let id = params.optional::<BlockId>(index, "block")?.unwrap_or_default();
    let found = find(client, id)?;
    found.ok_or_else(|| RpcError::new(RESOURCE_NOT_FOUND, format!("block not found: {}", name(id))))
}

/// The block that the parameter names and the state after it.
pub(super) fn state(
    client: &ExecutionClient,
    params: &Params,
    index: usize,
) -> Result<(Arc<ChainBlock>, BlockState), RpcError> {
    let block = block(client, params, index)?;
    let state = client.state(block.hash).ok_or(ClientError::NoState(block.hash))?;
    Ok((block, state))
}

/// Where the transactions of a block are shown to be.
pub(super) fn inclusion(client: &ExecutionClient, block: &ChainBlock) -> Inclusion {
    let header = block.header();
    let excess = header.excess_blob_gas;
    Inclusion {
        block_hash: Some(block.hash),
        block_number: header.number,
        block_timestamp: header.timestamp,
        base_fee_per_gas: header.base_fee_per_gas,
        blob_base_fee: excess
            .and_then(|excess| client.spec.blob_base_fee(header.timestamp, excess)),
    }
}

fn name(id: BlockId) -> String {
    match id {
        BlockId::Number(tag) => tag.to_string(),
        BlockId::Hash(wanted) => wanted.block_hash.to_string(),
    }
}
