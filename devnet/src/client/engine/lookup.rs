//! What a consensus client looks up: the bodies of blocks, to serve them to others, and the blobs
//! that wait here, so that it need not wait for its peers.
//!
//! Bounds: [`MAX_BODIES`] bodies and [`MAX_BLOBS`] blobs at a time; who asks for more is refused.

use alloy_eips::eip4844::{BlobAndProofV1, BlobAndProofV2};
use alloy_eips::eip7594::CELLS_PER_EXT_BLOB;
use alloy_primitives::{B256, U64};
use alloy_rpc_types_engine::ExecutionPayloadBodyV1;
use preconf_engine::RpcError;
use preconf_engine::rpc::{Params, code};

use crate::client::ExecutionClient;
use crate::client::blobs::BlobPlace;
use crate::client::chain::ChainBlock;
use crate::client::methods::{Answer, answer};

/// The most bodies in one answer.
const MAX_BODIES: usize = 1_024;

/// The most blobs in one answer: as many as the API demands.
const MAX_BLOBS: usize = 128;

/// `engine_getPayloadBodiesByHashV1`: `null` for a block that is not known.
pub(super) fn bodies_by_hash(client: &ExecutionClient, params: &Params) -> Answer {
    let hashes: Vec<B256> = params.required(0, "blockHashes")?;
    check_count(hashes.len(), MAX_BODIES, "bodies")?;
    let bodies =
        hashes.into_iter().map(|hash| client.block_by_hash(hash).map(|block| body(&block)));
    answer(&bodies.collect::<Vec<_>>())
}

/// `engine_getPayloadBodiesByRangeV1`: of the canonical chain, none beyond its head.
pub(super) fn bodies_by_range(client: &ExecutionClient, params: &Params) -> Answer {
    let start: U64 = params.required(0, "start")?;
    let count: U64 = params.required(1, "count")?;
    let (start, count): (u64, u64) = (start.to(), count.to());
    if start == 0 || count == 0 {
        return Err(RpcError::invalid_params("start and count begin at 1"));
    }
    check_count(usize::try_from(count).unwrap_or(usize::MAX), MAX_BODIES, "bodies")?;
    let end = start.saturating_add(count - 1).min(client.head().number());
    let blocks = (start..=end).map(|number| client.block_by_number(number));
    answer(&blocks.map(|block| block.map(|block| body(&block))).collect::<Vec<_>>())
}

/// `engine_getBlobsV1`: `null` for a blob that does not wait here.
pub(super) fn blobs_v1(client: &ExecutionClient, params: &Params) -> Answer {
    let wanted = wanted_blobs(client, params, false)?;
    let found = wanted.into_iter().map(|found| {
        let (sidecar, index) = found?;
        let sidecar = sidecar.as_eip4844()?;
        let (blob, proof) = (sidecar.blobs.get(index)?, sidecar.proofs.get(index)?);
        Some(BlobAndProofV1 { blob: Box::new(*blob), proof: *proof })
    });
    answer(&found.collect::<Vec<_>>())
}

/// `engine_getBlobsV2`: all blobs, or `null`.
pub(super) fn blobs_v2(client: &ExecutionClient, params: &Params) -> Answer {
    let wanted = wanted_blobs(client, params, true)?;
    let found = wanted.into_iter().map(|found| {
        let (sidecar, index) = found?;
        let sidecar = sidecar.as_eip7594()?;
        let proofs = sidecar.cell_proofs.chunks_exact(CELLS_PER_EXT_BLOB).nth(index)?;
        let blob = Box::new(*sidecar.blobs.get(index)?);
        Some(BlobAndProofV2 { blob, proofs: proofs.to_vec() })
    });
    answer(&found.collect::<Option<Vec<_>>>())
}

/// Where the blobs are, if the version is that of the head's fork.
fn wanted_blobs(
    client: &ExecutionClient,
    params: &Params,
    with_cells: bool,
) -> Result<Vec<Option<BlobPlace>>, RpcError> {
    let hashes: Vec<B256> = params.required(0, "blobVersionedHashes")?;
    check_count(hashes.len(), MAX_BLOBS, "blobs")?;
    if client.spec.has_cell_proofs_at(client.head().header().timestamp) != with_cells {
        let right = if with_cells { "engine_getBlobsV1" } else { "engine_getBlobsV2" };
        let reason = format!("Unsupported fork: at the head it is {right}");
        return Err(RpcError::new(code::UNSUPPORTED_FORK, reason));
    }
    let pool = client.pool.lock();
    Ok(hashes.iter().map(|hash| pool.blob(hash)).collect())
}

fn body(block: &ChainBlock) -> ExecutionPayloadBodyV1 {
    let body = &block.block.body;
    ExecutionPayloadBodyV1::new(body.withdrawals.clone(), &body.transactions)
}

fn check_count(count: usize, max: usize, what: &str) -> Result<(), RpcError> {
    if count <= max {
        return Ok(());
    }
    let reason = format!("Too large request: at most {max} {what} at a time");
    Err(RpcError::new(code::TOO_LARGE_REQUEST, reason))
}
