//! Finding the block that a method is asked about, and how it is shown.

use std::sync::Arc;

use alloy_eips::{BlockId, BlockNumberOrTag};
use alloy_primitives::{Address, B256};
use preconf_chain::Header;
use preconf_chain::rpc::Inclusion;
use preconf_engine::RpcError;
use preconf_engine::rpc::{Params, code};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::client::chain::{BlockState, ChainBlock};
use crate::client::{ClientError, ExecutionClient};

/// EIP-1898: there is no block with this hash.
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

/// A hash as parameter; it must have its 0x.
pub(super) fn hash(params: &Params, index: usize, name: &str) -> Result<B256, RpcError> {
    prefixed(params, index, name)
}

/// An address as parameter; it must have its 0x.
pub(super) fn address(params: &Params, index: usize) -> Result<Address, RpcError> {
    prefixed(params, index, "address")
}

fn prefixed<T: DeserializeOwned>(params: &Params, index: usize, name: &str) -> Result<T, RpcError> {
    let text: String = params.required(index, name)?;
    if !text.starts_with("0x") {
        let reason = format!("invalid argument {index}: {name} is a hex string without 0x prefix");
        return Err(RpcError::invalid_params(reason));
    }
    params.required(index, name)
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
    find(client, id)?.ok_or_else(|| match id {
        BlockId::Hash(wanted) => {
            let reason = format!("block not found: {}", wanted.block_hash);
            RpcError::new(RESOURCE_NOT_FOUND, reason)
        }
        BlockId::Number(_) => RpcError::new(code::SERVER_ERROR, "header not found"),
    })
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
