//! Asking the execution client to build a block, and handing it a transaction.

use alloy_primitives::{B256, Bytes};
use alloy_rpc_types_engine::ExecutionPayloadEnvelopeV4;
use serde::Serialize;

use crate::client::Upstream;
use crate::error::UpstreamError;

impl Upstream {
    /// `testing_buildBlockV1`: the block that follows `parent` with exactly these transactions.
    /// The attributes are those of forkchoiceUpdated, in the JSON of their fork.
    ///
    /// # Errors
    ///
    /// See [`UpstreamError`]; in particular a refusal if a transaction cannot be included.
    pub async fn testing_build_block(
        &self,
        parent: B256,
        attributes: &(impl Serialize + Sync),
        transactions: &[Bytes],
        extra_data: &Bytes,
    ) -> Result<ExecutionPayloadEnvelopeV4, UpstreamError> {
        let params = (parent, attributes, transactions, extra_data);
        self.call("testing_buildBlockV1", params, format!("on {parent}")).await
    }

    /// `eth_sendRawTransaction`: the hash of the transaction that the client took.
    ///
    /// # Errors
    ///
    /// See [`UpstreamError`]; in particular a refusal with the client's reason.
    pub async fn send_raw_transaction(&self, transaction: &Bytes) -> Result<B256, UpstreamError> {
        self.call("eth_sendRawTransaction", (transaction,), "").await
    }
}
