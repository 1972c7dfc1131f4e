//! A block on its way from whoever built it to everybody.

use std::time::Duration;

use alloy_primitives::{B256, Bytes};
use alloy_rpc_types_engine::{ExecutionPayloadV3, PayloadId, PayloadStatus};
use preconf_chain::Block;
use preconf_engine::{
    EngineClient, EngineError,
    payload::{BesidePayload, PayloadError, from_payload, requests_hash, versioned_hashes},
};
use preconf_payload_api::FetchError;

use crate::client::Attributes;

/// A payload, and the block that it is.
#[derive(Clone, Debug)]
pub(super) struct Proposal {
    pub(super) block: Block,
    payload: ExecutionPayloadV3,
    requests: Vec<Bytes>,
    parent_beacon_block_root: B256,
}

/// Why a block is not proposed.
#[derive(Debug, thiserror::Error)]
pub enum Rejected {
    /// Nobody is building.
    #[error("no block is being built")]
    NotBuilding,
    /// Nobody knows whether the builder is building.
    #[error("the builder has not answered what it was told")]
    Silent,
    /// It was not handed out.
    #[error("the block was not handed out")]
    NotHandedOut(#[source] EngineError),
    /// The payload server had none, or did not answer.
    #[error("the block was not fetched")]
    NotFetched(#[source] Box<FetchError>),
    /// The payload server was not there, and is not known to be back.
    #[error("the payload server is not there")]
    Lost,
    /// It is no block.
    #[error("the payload is not a block")]
    NotABlock(#[source] PayloadError),
    /// It is not the block that was asked for.
    #[error("the block has another {0} than was asked for")]
    Other(&'static str),
    /// The validators' client did not say what it thinks of it.
    #[error("the block was not checked")]
    Unchecked(#[source] EngineError),
    /// The validators' client does not call it valid.
    #[error("the block is not valid: {0}")]
    Invalid(String),
}

impl Proposal {
    /// Asks for the block that was ordered on `parent` with `attributes`, and checks that it is
    /// that block.
    pub(super) async fn fetch(
        door: &EngineClient,
        id: PayloadId,
        parent: B256,
        attributes: &Attributes,
        deadline: Duration,
    ) -> Result<Self, Rejected> {
        let envelope = match attributes.prev_proposer_pubkey {
            Some(_) => door.get_payload_v4_p11(id, deadline).await,
            None => door.get_payload_v4(id, deadline).await,
        };
        let envelope = envelope.map_err(Rejected::NotHandedOut)?;
        let requests = envelope.execution_requests.iter().cloned().collect();
        let payload = envelope.envelope_inner.execution_payload;
        let proposal = Self::read(payload, requests, attributes)?;
        match proposal.difference(parent, attributes) {
            None => Ok(proposal),
            Some(field) => Err(Rejected::Other(field)),
        }
    }

    /// Makes a block of a payload and what its proposer knows besides; it must hash to what the payload
    /// says.
    pub(super) fn read(
        payload: ExecutionPayloadV3,
        requests: Vec<Bytes>,
        attributes: &Attributes,
    ) -> Result<Self, Rejected> {
        let Attributes { ethereum: attributes, prev_proposer_pubkey } = attributes;
        let beside = BesidePayload {
            parent_beacon_block_root: attributes.parent_beacon_block_root,
            requests_hash: Some(requests_hash(&requests).map_err(Rejected::NotABlock)?),
            prev_proposer_pubkey: *prev_proposer_pubkey,
        };
        let block = from_payload(payload.clone(), &beside).map_err(Rejected::NotABlock)?;
        let parent_beacon_block_root = attributes.parent_beacon_block_root.unwrap_or_default();
        Ok(Self { block, payload, requests, parent_beacon_block_root })
    }

    /// In what it differs from the block that was ordered, as far as every validator can tell.
    pub(super) fn difference(&self, parent: B256, attributes: &Attributes) -> Option<&'static str> {
        let (block, attributes) = (&self.block, &attributes.ethereum);
        let header = &block.header;
        let compared = [
            ("parent", header.parent_hash == parent),
            ("timestamp", header.timestamp == attributes.timestamp),
            ("fee recipient", header.beneficiary == attributes.suggested_fee_recipient),
            ("randomness", header.mix_hash == attributes.prev_randao),
            (
                "list of withdrawals",
                block.body.withdrawals.as_ref().map(|list| list.as_slice())
                    == attributes.withdrawals.as_deref(),
            ),
        ];
        compared.into_iter().find_map(|(field, is_same)| (!is_same).then_some(field))
    }

    /// Its hash.
    pub(super) const fn hash(&self) -> B256 {
        self.payload.payload_inner.payload_inner.block_hash
    }

    /// Gives it to a client.
    pub(super) async fn new_payload(
        &self,
        door: &EngineClient,
        deadline: Duration,
    ) -> Result<PayloadStatus, EngineError> {
        let blobs = versioned_hashes(&self.block);
        let root = self.parent_beacon_block_root;
        let (payload, requests) = (&self.payload, &self.requests);
        match &self.block.header.prev_proposer_pubkey {
            Some(key) => {
                door.new_payload_v4_p11(payload, &blobs, root, requests, key, deadline).await
            }
            None => door.new_payload_v4(payload, &blobs, root, requests, deadline).await,
        }
    }
}
