//! The feed: flashblocks and what is said about them, from the builder through any number of
//! gateways.

mod server;

use std::{pin::Pin, sync::Arc};

use futures_util::{Stream, StreamExt, future};
use preconf_primitives::{Abandoned, Position, Retracted, Sealed};
use preconf_signing::{SignedFlashblock, SignedStatement};
pub use server::{
    DecodeError, EncodedFeedService, EncodedFeedStream, EncodedItem, FeedGrpc, server,
};
use tonic::{Status, transport::Channel};

use crate::{
    MAX_MESSAGE_BYTES,
    convert::{Invalid, InvalidScope, required},
    generated::feed::v1 as proto,
};

/// One message of the feed. Nothing about its signatures is known yet.
#[expect(clippy::large_enum_variant, reason = "nearly all are of the largest kind")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedItem {
    /// A flashblock.
    Flashblock(SignedFlashblock),
    /// A session ended without a block.
    Abandoned(SignedStatement<Abandoned>),
    /// A session ended with a block.
    Sealed(SignedStatement<Sealed>),
    /// Transactions are no longer promised.
    Retracted(SignedStatement<Retracted>),
    /// What was asked for cannot be replayed; the feed goes on at `next`. A hint.
    Gap {
        /// The first position that was wanted.
        wanted: Position,
        /// The first position that follows.
        next: Position,
    },
    /// The server ends the stream. A hint.
    Goodbye {
        /// Why.
        reason: GoodbyeReason,
        /// Where to resume.
        cursor: Option<Position>,
    },
}

/// Why a server ends a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GoodbyeReason {
    /// It stops.
    Draining,
    /// The subscriber did not keep up.
    TooSlow,
}

impl GoodbyeReason {
    /// All reasons.
    pub const ALL: [Self; 2] = [Self::Draining, Self::TooSlow];

    /// The name used in JSON, logs and metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::TooSlow => "too_slow",
        }
    }
}

/// Why a subscription is not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// There is no room for another subscriber.
    #[error("the feed has no room for another subscriber")]
    Full,
    /// The server stops.
    #[error("the feed is draining")]
    Draining,
}

/// A stream of feed messages, shared with all other subscribers.
pub type FeedStream = Pin<Box<dyn Stream<Item = Arc<FeedItem>> + Send>>;

/// Whoever serves a feed.
pub trait FeedService: Send + Sync + 'static {
    /// The feed from `cursor` on, or from index 0 of the current session.
    ///
    /// # Errors
    /// If the subscriber cannot be taken.
    fn subscribe(&self, cursor: Option<Position>) -> Result<FeedStream, SubscribeError>;
}

/// Reads a feed over gRPC.
#[derive(Clone, Debug)]
pub struct FeedClient(proto::feed_client::FeedClient<Channel>);

/// What a subscription yields: a message, one that has no meaning, or the end of the stream.
pub type Received = Result<FeedItem, FeedError>;

/// Why a feed message could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// A message has no meaning. The stream goes on.
    #[error("a feed message is not valid")]
    Invalid(#[source] Invalid),
    /// The stream broke or could not be opened.
    #[error("the feed stream failed")]
    Stream(#[source] Box<Status>),
}

impl FeedClient {
    /// A client over a channel.
    pub fn new(channel: Channel) -> Self {
        let client = proto::feed_client::FeedClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        Self(client)
    }

    /// Subscribes from `cursor` on, or from index 0 of the current session.
    ///
    /// # Errors
    /// If the stream cannot be opened.
    pub async fn subscribe(
        &mut self,
        cursor: Option<Position>,
    ) -> Result<impl Stream<Item = Received> + Send + use<>, FeedError> {
        let failed = |status| FeedError::Stream(Box::new(status));
        let request = proto::SubscribeRequest { cursor: cursor.map(Into::into) };
        let stream = self.0.subscribe(request).await.map_err(failed)?.into_inner();
        Ok(stream.filter_map(move |message| {
            future::ready(match message {
                Err(status) => Some(Err(failed(status))),
                Ok(message) => FeedItem::known(message).map_err(FeedError::Invalid).transpose(),
            })
        }))
    }
}

impl From<&FeedItem> for proto::SubscribeResponse {
    fn from(item: &FeedItem) -> Self {
        use proto::subscribe_response::Item;
        let item = match item {
            FeedItem::Flashblock(signed) => Item::Flashblock(signed.into()),
            FeedItem::Abandoned(signed) => Item::Abandoned(signed.into()),
            FeedItem::Sealed(signed) => Item::Sealed(signed.into()),
            FeedItem::Retracted(signed) => Item::Retracted(signed.into()),
            FeedItem::Gap { wanted, next } => {
                Item::Gap(proto::Gap { wanted: Some((*wanted).into()), next: Some((*next).into()) })
            }
            FeedItem::Goodbye { reason, cursor } => Item::Goodbye(proto::Goodbye {
                reason: match reason {
                    GoodbyeReason::Draining => proto::GoodbyeReason::Draining.into(),
                    GoodbyeReason::TooSlow => proto::GoodbyeReason::TooSlow.into(),
                },
                cursor: cursor.map(Into::into),
            }),
        };
        Self { item: Some(item) }
    }
}

impl FeedItem {
    /// The item of a message; `None` for a kind that a newer peer knows and we do not.
    fn known(message: proto::SubscribeResponse) -> Result<Option<Self>, Invalid> {
        use proto::subscribe_response::Item;
        let proto::SubscribeResponse { item } = message;
        let Some(item) = item else { return Ok(None) };
        Ok(Some(match item {
            Item::Flashblock(message) => {
                Self::Flashblock(SignedFlashblock::try_from(message).within("flashblock")?)
            }
            Item::Abandoned(message) => {
                Self::Abandoned(SignedStatement::try_from(message).within("abandoned")?)
            }
            Item::Sealed(message) => {
                Self::Sealed(SignedStatement::try_from(message).within("sealed")?)
            }
            Item::Retracted(message) => {
                Self::Retracted(SignedStatement::try_from(message).within("retracted")?)
            }
            Item::Gap(proto::Gap { wanted, next }) => Self::Gap {
                wanted: required("gap.wanted", wanted)?.into(),
                next: required("gap.next", next)?.into(),
            },
            Item::Goodbye(proto::Goodbye { reason, cursor }) => Self::Goodbye {
                reason: match proto::GoodbyeReason::try_from(reason) {
                    Ok(proto::GoodbyeReason::TooSlow) => GoodbyeReason::TooSlow,
                    Ok(proto::GoodbyeReason::Draining | proto::GoodbyeReason::Unspecified)
                    | Err(_) => GoodbyeReason::Draining,
                },
                cursor: cursor.map(Position::from),
            },
        }))
    }
}
