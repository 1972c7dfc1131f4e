//! The WebSocket feed: one JSON object per frame.
//!
//! A frame without a `type` key is a flashblock in the upstream format (bera-reth), byte for byte;
//! our additions are optional extra keys, which its parser ignores: `session`, `parent_digest`,
//! `seal`, `published_at_ms`, `traceparent` (D1). A frame with a `type` key is one of our other feed
//! messages and goes only to clients that asked for the sub-protocol [`SUBPROTOCOL`].
//!
//! Frames arrive as text or as brotli in a binary frame; they are told apart as the upstream does:
//! what starts with `{`, white space aside, is JSON, and everything else is brotli.

mod compression;
mod flashblock;
mod statement;

use std::str;

pub use compression::{MAX_FRAME_BYTES, compress, decompress};
pub use flashblock::{Extension, UpstreamFlashblock, encode_flashblock};
use serde::Deserialize;

use crate::feed::FeedItem;

/// The WebSocket sub-protocol of clients that understand all feed messages.
pub const SUBPROTOCOL: &str = "preconf.v1";

/// Why a frame is not a feed message.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// It is larger than [`MAX_FRAME_BYTES`], before or after decompression.
    #[error("the frame is larger than {MAX_FRAME_BYTES} bytes")]
    TooLarge,
    /// It is neither JSON nor brotli.
    #[error("the frame is neither a JSON object nor brotli")]
    NotBrotli(#[source] std::io::Error),
    /// It is not JSON of a known shape.
    #[error("the frame is not a feed message")]
    Json(#[source] serde_json::Error),
    /// It is a flashblock that contradicts itself.
    #[error("the flashblock is not consistent")]
    Flashblock(#[source] preconf_primitives::InvalidFlashblock),
    /// It is a flashblock without a seal, and a seal is required.
    #[error("the flashblock has no {0}")]
    Unsealed(&'static str),
    /// A number has no meaning in this version.
    #[error("{field} {value:?} is not known")]
    Unknown {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
    },
}

/// Writes a feed message.
pub fn encode(item: &FeedItem) -> String {
    match item {
        FeedItem::Flashblock(signed) => encode_flashblock(signed),
        FeedItem::Abandoned(_)
        | FeedItem::Sealed(_)
        | FeedItem::Retracted(_)
        | FeedItem::Gap { .. }
        | FeedItem::Goodbye { .. } => statement::encode(item),
    }
}

/// Reads a frame, compressed or not, that must carry a seal where it is a flashblock.
///
/// # Errors
/// If the frame is too large, malformed, inconsistent or unsealed.
pub fn decode(frame: &[u8]) -> Result<FeedItem, FrameError> {
    let json = decompress(frame)?;
    let kind: Kind<'_> = serde_json::from_slice(&json).map_err(FrameError::Json)?;
    match kind.kind {
        None => Ok(FeedItem::Flashblock(UpstreamFlashblock::from_json(&json)?.into_signed()?)),
        Some(_) => statement::decode(&json),
    }
}

/// Reads a flashblock frame, compressed or not, with or without our additions.
///
/// # Errors
/// If the frame is too large, malformed or inconsistent.
pub fn decode_upstream(frame: &[u8]) -> Result<UpstreamFlashblock, FrameError> {
    UpstreamFlashblock::from_json(&decompress(frame)?)
}

#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(rename = "type", borrow, default)]
    kind: Option<std::borrow::Cow<'a, str>>,
}
