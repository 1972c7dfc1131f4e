//! The doors of the Engine API: the consensus client's requests come in, the execution client is
//! asked, and both links are authenticated by a shared secret.
//!
//! What this crate decides: who may speak (a JWT over HS256), what is forwarded byte for byte, and
//! which three calls a service may see and answer. What it never does: keep chain state, build
//! blocks, or stand between the two clients when our own code fails. A fault of ours always ends
//! in the request being answered by the execution client.

pub mod jwt;
pub mod rpc;

pub mod berachain;
pub mod client;
pub mod payload;
pub mod payload_id;
pub mod proxy;
pub mod server;
pub mod version;

mod door;
mod status;

pub use berachain::{BerachainAttributes, BerachainEnvelope};
pub use client::{EngineClient, EngineError};
pub use jwt::JwtSecret;
pub use proxy::{
    EngineHooks, EngineProxy, Passthrough, PassthroughCause, ProxyConfig, ProxyStatus,
};
pub use rpc::RpcError;
pub use server::JsonRpcServer;
pub use version::{ForkchoiceVersion, PayloadVersion};
