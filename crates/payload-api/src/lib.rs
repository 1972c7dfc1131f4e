//! The payload API: how a validator asks the sequencer for the block that it is to propose.
//!
//! The shape is beacon-kit's, byte for byte, so that its validators can ask our server and ours can
//! ask its sequencer. What both sides believe in is here: requests, answers, tokens, the files that
//! name the validators, and the client.
//!
//! Invariants: what is written is what beacon-kit writes (lists are never `null`, the block's value
//! is decimal, addresses have their checksum); what is read is bounded, and whatever it holds, it
//! is refused with an error, never with a panic. This crate does not decide who may have which
//! block: the server does. It does not decide whether a block is good: the validator does.

pub mod files;
pub mod jwt;
pub mod keys;

mod bounded;
pub mod error_body;
pub mod fork;
pub mod request;
pub mod response;
pub mod slot;

pub mod client;

pub use client::{
    Answer, Authorities, ClientConfig, FetchError, FetchFailure, PayloadClient, SequencerUrl,
};
pub use error_body::{ErrorBody, HealthBody};
pub use files::{FileError, ValidatorSecrets, Whitelist};
pub use fork::ForkVersion;
pub use jwt::{BearerError, TokenError, ValidatorSecret, bearer};
pub use keys::{ValidatorAddress, ValidatorPubkey};
pub use request::{PayloadRequest, RequestBody, RequestError};
pub use response::{BlobsBundle, PayloadResponse, ResponseError};
pub use slot::{SlotRule, SlotRuleError};

/// Where payloads are asked for, with POST.
pub const PAYLOAD_PATH: &str = "/eth/v1/preconf/payload";
/// Where the server says whether it can serve payloads, with GET.
pub const HEALTH_PATH: &str = "/eth/v1/preconf/health";
/// The largest body of a request.
pub const MAX_REQUEST_BYTES: usize = 2048;
/// The largest answer that a client reads, unless it is told otherwise.
pub const MAX_RESPONSE_BYTES: usize = 16 * 1024 * 1024;
