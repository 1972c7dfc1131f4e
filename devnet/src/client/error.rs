//! Why a call fails, and the code it fails with.

use std::error::Error;

use alloy_primitives::B256;
use preconf_chain::{BuildingRefused, HeaderError};
use preconf_engine::RpcError;
use preconf_engine::payload::PayloadError;
use preconf_engine::rpc::code;
use preconf_evm::{ExecutionError, TxError};
use preconf_state::NeedState;

/// Why a call to the execution client fails. A payload that is not valid is no failure.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The method's version is not that of the payload's or the attributes' fork.
    #[error("{}", .0.message)]
    Version(RpcError),
    /// No block may be built for this time.
    #[error("building a block")]
    Building(#[source] BuildingRefused),
    /// No payload is being built under the id.
    #[error("Unknown payload")]
    UnknownPayload,
    /// The forkchoice state contradicts itself or the chain.
    #[error("Invalid forkchoice state: {reason}")]
    InvalidForkchoice {
        /// What is wrong.
        reason: &'static str,
    },
    /// The payload attributes contradict the block they are to be built on, or their version.
    #[error("Invalid payload attributes: {reason}")]
    InvalidAttributes {
        /// What is wrong.
        reason: String,
    },
    /// The execution requests are not a list of such.
    #[error("reading the execution requests")]
    Requests(#[source] PayloadError),
    /// The block to build on is not known, or its state is no longer kept.
    #[error("no state is kept of the block {0}")]
    NoState(B256),
    /// The bytes of a transaction that is to be in the block are none.
    #[error("decoding transaction {index}")]
    Malformed {
        /// Its index in the list.
        index: usize,
        /// Why they are none.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// A transaction that is to be in the block cannot be executed there.
    #[error("executing transaction {index} ({hash})")]
    Transaction {
        /// Its index in the list.
        index: usize,
        /// Its hash.
        hash: B256,
        /// Why not.
        #[source]
        source: TxError,
    },
    /// The block's own steps fail, so there can be no block.
    #[error("executing the block's own steps")]
    Execution(#[source] ExecutionError),
    /// What was built is not a block of this chain.
    #[error("checking the header that was built")]
    Header(#[source] HeaderError),
    /// The state after a block lacks something that a complete state has.
    #[error("reading a complete state")]
    Incomplete(#[source] NeedState),
}

impl From<ClientError> for RpcError {
    fn from(error: ClientError) -> Self {
        let code = match &error {
            ClientError::Version(refusal) => refusal.code,
            ClientError::UnknownPayload => code::UNKNOWN_PAYLOAD,
            ClientError::InvalidForkchoice { .. } => code::INVALID_FORKCHOICE_STATE,
            ClientError::InvalidAttributes { .. } => code::INVALID_PAYLOAD_ATTRIBUTES,
            ClientError::Requests(_) => code::INVALID_PARAMS,
            ClientError::Building(_)
            | ClientError::NoState(_)
            | ClientError::Malformed { .. }
            | ClientError::Transaction { .. }
            | ClientError::Header(_) => code::SERVER_ERROR,
            ClientError::Execution(_) | ClientError::Incomplete(_) => code::INTERNAL_ERROR,
        };
        Self::new(code, in_words(&error))
    }
}

/// An error and its causes in one line, for a reader who gets no more.
pub(crate) fn in_words(error: &dyn Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words.push_str(": ");
        words.push_str(&error.to_string());
        cause = error.source();
    }
    words
}
