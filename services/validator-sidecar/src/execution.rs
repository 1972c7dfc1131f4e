//! The validator's own execution client: the block that it builds on, and whether it calls another's
//! payload valid. Its own payload the door asks for.

use std::time::Duration;

use alloy_primitives::B256;
use alloy_rpc_types_engine::{PayloadStatus, PayloadStatusEnum};
use preconf_engine::{EngineClient, EngineError, PayloadVersion};
use serde::Deserialize;

use crate::{
    checks::Offer,
    wanted::{Job, Parent, Wanted},
};

/// Asks the execution client.
#[derive(Clone, Debug)]
pub(crate) struct Execution(EngineClient);

/// Why the execution client does not do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExecutionError {
    #[error("asking for the block to build on")]
    Parent(#[source] EngineError),
    #[error("it does not know block {0}")]
    UnknownParent(B256),
    #[error("asking whether the payload is valid")]
    Validate(#[source] EngineError),
    #[error("it does not call the payload valid: {0}")]
    NotValid(String),
}

#[derive(Debug, Deserialize)]
struct ParentBlock {
    hash: B256,
    #[serde(with = "alloy_serde::quantity")]
    number: u64,
    #[serde(with = "alloy_serde::quantity")]
    timestamp: u64,
}

impl Execution {
    pub(crate) fn new(client: EngineClient) -> Self {
        Self(client)
    }

    /// The block that a job follows. It is asked for once: who comes meanwhile waits for the
    /// answer, and asks again `within` this time only if there was none.
    pub(crate) async fn parent_of(
        &self,
        job: &Job,
        within: Duration,
    ) -> Result<Parent, ExecutionError> {
        job.parent.get_or_try_init(|| self.parent(job.head, within)).await.copied()
    }

    /// The block with this hash. It called it VALID a moment ago.
    async fn parent(&self, hash: B256, within: Duration) -> Result<Parent, ExecutionError> {
        let block = self.0.request("eth_getBlockByHash", &(hash, false), within).await;
        let block: Option<ParentBlock> = block.map_err(ExecutionError::Parent)?;
        let block = block.filter(|block| block.hash == hash);
        let ParentBlock { number, timestamp, .. } =
            block.ok_or(ExecutionError::UnknownParent(hash))?;
        Ok(Parent { number, timestamp })
    }

    /// Whether it calls a payload valid. Only VALID will do: a client that is still syncing says
    /// nothing about it.
    pub(crate) async fn validate(
        &self,
        offer: &Offer,
        wanted: &Wanted,
        within: Duration,
    ) -> Result<(), ExecutionError> {
        let (payload, hashes) = (&offer.payload, &offer.versioned_hashes);
        let (root, requests) = (wanted.parent_beacon_block_root, &offer.requests);
        let status = match (wanted.version, &wanted.parent_proposer_pubkey) {
            (PayloadVersion::V3, _) => self.0.new_payload_v3(payload, hashes, root, within).await,
            (_, None) => self.0.new_payload_v4(payload, hashes, root, requests, within).await,
            (_, Some(key)) => {
                self.0.new_payload_v4_p11(payload, hashes, root, requests, key, within).await
            }
        };
        judge(&status.map_err(ExecutionError::Validate)?, offer.hash())
    }
}

fn judge(status: &PayloadStatus, hash: B256) -> Result<(), ExecutionError> {
    let is_of_this = status.latest_valid_hash.is_none_or(|valid| valid == hash);
    if status.status == PayloadStatusEnum::Valid && is_of_this {
        return Ok(());
    }
    Err(ExecutionError::NotValid(status.status.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_valid_is_valid_and_only_of_the_block_that_was_asked_about() {
        let hash = B256::repeat_byte(1);
        let status = |status, latest_valid_hash| PayloadStatus { status, latest_valid_hash };
        let invalid = PayloadStatusEnum::Invalid { validation_error: "a root".to_owned() };
        assert!(judge(&status(PayloadStatusEnum::Valid, Some(hash)), hash).is_ok());
        assert!(judge(&status(PayloadStatusEnum::Valid, None), hash).is_ok());
        for refused in [
            status(PayloadStatusEnum::Valid, Some(B256::ZERO)),
            status(PayloadStatusEnum::Syncing, None),
            status(PayloadStatusEnum::Accepted, None),
            status(invalid, Some(hash)),
        ] {
            assert!(judge(&refused, hash).is_err(), "{refused:?}");
        }
    }
}
