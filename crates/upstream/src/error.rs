//! What can go wrong between us and the execution client.

use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::B256;
use jsonrpsee::core::client::Error as ClientError;

/// A JSON-RPC error as the execution client wrote it, data included.
pub type RpcError = jsonrpsee::types::ErrorObjectOwned;

/// Why a call to the execution client failed. `call` names the method and what it was about.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The URL cannot be used.
    #[error("the URL of the execution client at {host} cannot be used")]
    Url {
        /// The host it names, or its scheme.
        host: String,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The parameters cannot be written.
    #[error("writing the parameters of {call}")]
    Encode {
        /// What was asked.
        call: String,
        /// What the serializer said.
        #[source]
        source: serde_json::Error,
    },
    /// The request could not be sent or its answer not be read.
    #[error("asking {host} for {call}")]
    Transport {
        /// What was asked.
        call: String,
        /// The execution client.
        host: String,
        /// What the connection said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The answer did not come in time, or there was no turn to ask.
    #[error("{call} at {host} took longer than {deadline:?}")]
    Timeout {
        /// What was asked.
        call: String,
        /// The execution client.
        host: String,
        /// How long it was given.
        deadline: Duration,
    },
    /// The execution client answered with an error.
    #[error("{host} refused {call}: {} (code {})", error.message(), error.code())]
    Refused {
        /// What was asked.
        call: String,
        /// The execution client.
        host: String,
        /// Its error, as it came.
        error: RpcError,
    },
    /// The answer is not what the method returns.
    #[error("reading the answer of {host} to {call}")]
    Decode {
        /// What was asked.
        call: String,
        /// The execution client.
        host: String,
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
    /// The execution client left a part of a batch unanswered.
    #[error("{host} answered {answered} of {asked} requests for {call}")]
    Incomplete {
        /// What was asked.
        call: String,
        /// The execution client.
        host: String,
        /// How many requests the batch held.
        asked: usize,
        /// How many answers came.
        answered: usize,
    },
    /// The block is not part of the client's chain, or no longer.
    #[error("block {number} ({hash}) is not canonical at {host}")]
    NotCanonical {
        /// The block's number.
        number: u64,
        /// The block's hash.
        hash: B256,
        /// The execution client.
        host: String,
    },
    /// A header or block contradicts itself: it holds something that we do not know, or a lie.
    #[error("{host} answered {call} with a block that is not what it says")]
    Unbelievable {
        /// What was asked.
        call: String,
        /// The execution client.
        host: String,
        /// What does not fit.
        #[source]
        source: preconf_chain::rpc::RpcBlockError,
    },
    /// Code is known by its hash only, and no account that was read has it.
    #[error("no account that was read from {host} has the code {hash}")]
    CodeWithoutOwner {
        /// The hash of the code.
        hash: B256,
        /// The execution client.
        host: String,
    },
    /// Another caller was already asking for the same, and failed.
    #[error("the same state was being read for another caller")]
    Shared {
        /// Why that failed.
        #[source]
        source: Arc<UpstreamError>,
    },
}

impl UpstreamError {
    /// The client's own error, if it answered with one.
    pub fn refusal(&self) -> Option<&RpcError> {
        match self {
            Self::Refused { error, .. } => Some(error),
            Self::Shared { source } => source.refusal(),
            Self::Url { .. }
            | Self::Encode { .. }
            | Self::Transport { .. }
            | Self::Timeout { .. }
            | Self::Decode { .. }
            | Self::Incomplete { .. }
            | Self::NotCanonical { .. }
            | Self::Unbelievable { .. }
            | Self::CodeWithoutOwner { .. } => None,
        }
    }

    /// Sorts what the JSON-RPC library says.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the rest of the library's errors is one")]
    pub(crate) fn from_client(
        error: ClientError,
        call: &str,
        host: &str,
        deadline: Duration,
    ) -> Self {
        let (call, host) = (call.to_owned(), host.to_owned());
        match error {
            ClientError::Call(error) => Self::Refused { call, host, error },
            ClientError::RequestTimeout => Self::Timeout { call, host, deadline },
            ClientError::ParseError(source) => Self::Decode { call, host, source },
            ClientError::Transport(source) => Self::Transport { call, host, source },
            other => Self::Transport { call, host, source: Box::new(other) },
        }
    }
}
