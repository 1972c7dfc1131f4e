//! What crosses a wire, and nothing else: the only crate that names prost or a flashblock's JSON.
//!
//! Services implement the domain traits here ([`feed::FeedService`], [`signer::SignerService`],
//! [`ingress::IngressService`], [`pending::PendingService`], [`admin::AdminService`],
//! [`payload::PayloadService`], [`payload::ProposerService`]) and use the clients beside them; both
//! speak domain types. A message is checked once, on receipt: what is missing, too long or unknown
//! becomes an [`Invalid`] that names the path of the field. Sending cannot fail.
//!
//! This crate opens no sockets and retries nothing: it is given channels and gives back services.

pub mod admin;
mod convert;
pub mod feed;
mod generated;
pub mod ingress;
pub mod json;
#[cfg(feature = "payload")]
pub mod payload;
#[cfg(feature = "pending")]
pub mod pending;
pub mod signer;

pub use convert::Invalid;

/// The most bytes of one gRPC message, in either direction.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;
