//! Fetching canonical blocks that are not what was promised, to see what was kept.
//!
//! At most [`QUEUE`] blocks wait; what does not fit, and what cannot be had after [`ATTEMPTS`]
//! attempts, is counted as unknown. Receipts are believed only if they have the header's root.

use std::convert::Infallible;

use alloy_primitives::B256;
use preconf_chain::{Receipt, receipts_root, rpc::RpcReceipt};
use preconf_chassis::{Backoff, Chain, Shutdown};
use preconf_upstream::{FullBlock, Upstream, UpstreamError};
use tokio::{sync::mpsc, task::spawn_blocking};
use tracing::warn;

use crate::executor::Input;

/// How many blocks may wait to be fetched.
pub(crate) const QUEUE: usize = 16;
/// How often a block is asked for.
const ATTEMPTS: u32 = 5;

/// Transactions with their receipts, in order.
pub(crate) type Content = Vec<(B256, Receipt)>;

/// The task that fetches blocks.
pub(crate) struct Auditor {
    pub(crate) upstream: Upstream,
    pub(crate) wanted: mpsc::Receiver<B256>,
    pub(crate) executor: mpsc::Sender<Input>,
}

/// Why a block was not had.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the execution client was asked")]
    Upstream(#[source] UpstreamError),
    #[error("the execution client does not have the block")]
    Absent,
    #[error("the receipts are not those of the block")]
    OtherReceipts,
}

impl Auditor {
    /// Fetches until shutdown.
    pub(crate) async fn run(self, shutdown: Shutdown) -> Result<(), Infallible> {
        tokio::select! {
            () = self.fetch_all() => {}
            () = shutdown.cancelled() => {}
        }
        // If the executor is gone, its own end says why.
        shutdown.cancelled().await;
        Ok(())
    }

    async fn fetch_all(mut self) {
        while let Some(hash) = self.wanted.recv().await {
            let content = self.insist(hash).await;
            if self.executor.send(Input::Content { hash, content }).await.is_err() {
                return;
            }
        }
    }

    async fn insist(&self, hash: B256) -> Option<Content> {
        let mut backoff = Backoff::new();
        for attempt in 1..=ATTEMPTS {
            match self.fetch(hash).await {
                Ok(content) => return Some(content),
                Err(error) => {
                    let error = Chain(&error);
                    warn!(%hash, attempt, %error, "a canonical block cannot be compared");
                }
            }
            backoff.wait().await;
        }
        None
    }

    async fn fetch(&self, hash: B256) -> Result<Content, Failure> {
        let (block, receipts) =
            tokio::try_join!(self.upstream.block_by_hash(hash), self.upstream.block_receipts(hash))
                .map_err(Failure::Upstream)?;
        let block = block.ok_or(Failure::Absent)?;
        let receipts = receipts.ok_or(Failure::Absent)?;
        let content = spawn_blocking(move || content(&block, &receipts));
        content.await.expect("comparing roots does not panic and is not aborted")
    }
}

fn content(block: &FullBlock, receipts: &[RpcReceipt]) -> Result<Content, Failure> {
    let receipts: Vec<Receipt> = receipts.iter().map(RpcReceipt::to_receipt).collect();
    let is_whole = receipts.len() == block.transactions.len();
    if !is_whole || receipts_root(&receipts) != block.block.header.receipts_root {
        return Err(Failure::OtherReceipts);
    }
    let hashes = block.transactions.iter().map(|transaction| *transaction.hash());
    Ok(hashes.zip(receipts).collect())
}
