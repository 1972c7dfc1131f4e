//! What a service sees of the calls between the two clients, and where it may speak.

use std::future::Future;
use std::pin::Pin;

use alloy_primitives::{B256, Bytes as Data};
use alloy_rpc_types_engine::{
    ExecutionPayloadV3, ForkchoiceState, ForkchoiceUpdated, PayloadAttributes, PayloadId,
};
use bytes::Bytes;
use preconf_chain::ProposerPublicKey;
use serde_json::value::RawValue;

use crate::rpc::{Params, Request, RpcError};
use crate::version::{ForkchoiceVersion, PayloadVersion};

/// What a hook returns: a boxed future that may borrow from the hook and its arguments.
pub type HookFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A service that looks at the calls of a consensus client.
///
/// Each call runs on a task of its own with a deadline; it may panic or hang without harm to the
/// two clients, but after several such faults it is no longer called. It is dropped half-way if the
/// consensus client hangs up, so it must leave nothing inconsistent at an await.
pub trait EngineHooks: Send + Sync + 'static {
    /// The execution client has answered a forkchoice update. `Some` replaces the payload id in
    /// that answer, if it was VALID; the status is never ours to change.
    fn forkchoice_updated<'a>(
        &'a self,
        call: &'a ForkchoiceCall,
        answer: &'a ForkchoiceUpdated,
    ) -> HookFuture<'a, Option<PayloadId>>;

    /// The consensus client asks for a payload; nothing has been forwarded yet. `Some` is the
    /// result as JSON; with `None` the execution client is asked for its own.
    fn get_payload(
        &self,
        version: PayloadVersion,
        id: PayloadId,
    ) -> HookFuture<'_, Option<Box<RawValue>>>;

    /// The execution client has answered VALID to a new payload. Must return at once: parsing the
    /// payload belongs on another thread.
    fn new_payload_valid(&self, call: NewPayloadCall);
}

/// A forkchoice update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForkchoiceCall {
    /// The version that was called.
    pub version: ForkchoiceVersion,
    /// The head, safe and finalized block.
    pub state: ForkchoiceState,
    /// What to build on the head, if anything.
    pub attributes: Option<PayloadAttributes>,
    /// The key of the previous block's proposer; with every attributes of V3P11, and no others.
    pub parent_proposer_pubkey: Option<ProposerPublicKey>,
}

/// A new payload that is VALID, not yet parsed: it can be many megabytes.
#[derive(Clone, Debug)]
pub struct NewPayloadCall {
    version: PayloadVersion,
    body: Bytes,
}

/// The parameters of a newPayload call.
#[derive(Clone, Debug)]
pub struct NewPayload {
    /// The payload.
    pub payload: ExecutionPayloadV3,
    /// The versioned hashes of its blobs.
    pub versioned_hashes: Vec<B256>,
    /// The root of the parent beacon block.
    pub parent_beacon_block_root: B256,
    /// The EIP-7685 requests, each with its type byte; `None` before Prague.
    pub requests: Option<Vec<Data>>,
    /// The key of the previous block's proposer; in V4P11 only.
    pub parent_proposer_pubkey: Option<ProposerPublicKey>,
}

impl NewPayloadCall {
    pub(super) fn new(version: PayloadVersion, body: Bytes) -> Self {
        Self { version, body }
    }

    /// The version that was called.
    pub fn version(&self) -> PayloadVersion {
        self.version
    }

    /// Reads the parameters.
    ///
    /// # Errors
    ///
    /// Names the parameter that does not fit, though the execution client took it.
    pub fn parse(&self) -> Result<NewPayload, RpcError> {
        let request: Request<'_> =
            serde_json::from_slice(&self.body).map_err(|_| RpcError::parse_error())?;
        let params = Params::parse(request.params)?;
        Ok(NewPayload {
            payload: params.required(0, "executionPayload")?,
            versioned_hashes: params.required(1, "expectedBlobVersionedHashes")?,
            parent_beacon_block_root: params.required(2, "parentBeaconBlockRoot")?,
            requests: match self.version {
                PayloadVersion::V3 => None,
                PayloadVersion::V4 | PayloadVersion::V5 | PayloadVersion::V4P11 => {
                    Some(params.required(3, "executionRequests")?)
                }
            },
            parent_proposer_pubkey: match self.version {
                PayloadVersion::V3 | PayloadVersion::V4 | PayloadVersion::V5 => None,
                PayloadVersion::V4P11 => Some(params.required(4, "parentProposerPubKey")?),
            },
        })
    }
}
