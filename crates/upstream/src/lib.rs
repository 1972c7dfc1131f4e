//! The execution client, read over JSON-RPC.
//!
//! What this crate decides: how a piece of state at one block is asked for (pinned by the block's
//! hash, batched, once however many ask), how new heads are noticed without a gap, and what an
//! operator reads when the client fails. What it never does: write anything but transactions,
//! execute, cache beyond the [`preconf_state::StateCache`] it is given, or believe a header whose
//! hash it has not computed.
//!
//! Every call has a deadline, every answer a size limit, and no error shows credentials of a URL.

mod blocks;
mod build;
mod client;
mod code_owners;
mod error;
mod fetcher;
mod heads;
mod other_chain;
mod pool;
mod reads;
mod subscription;

pub use blocks::{FullBlock, Head};
pub use client::{MAX_ANSWER_BYTES, Upstream, UpstreamConfig};
pub use error::{RpcError, UpstreamError};
pub use fetcher::StateFetcher;
pub use heads::MAX_FILLED_HEADS;
pub use other_chain::{OtherChain, warn_of_ignored_keys};
