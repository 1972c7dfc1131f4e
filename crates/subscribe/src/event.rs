//! What happens on a subscription.

use std::fmt;

use bytes::Bytes;
use preconf_wire::{
    Invalid,
    feed::FeedItem,
    json::{FrameError, UpstreamFlashblock},
};

/// One thing that happened.
#[derive(Debug)]
pub enum Event {
    /// A connection is there; what follows comes from it.
    Connected,
    /// The JSON of the message that the next event tells, if the owner asked for it.
    Raw(Bytes),
    /// A message of the feed. Nothing about its signatures is known.
    Item(FeedItem),
    /// A flashblock of a sequencer that knows neither sessions nor seals.
    Upstream(UpstreamFlashblock),
    /// A message without a meaning. The connection goes on.
    BadFrame(BadFrame),
    /// The connection is gone; another one is tried after a while. Also told of each attempt that
    /// fails.
    Disconnected(Disconnect),
}

/// A message that has no meaning.
#[derive(Debug, thiserror::Error)]
pub enum BadFrame {
    /// A message of the gRPC feed.
    #[error("a message is not valid")]
    Message(#[source] Invalid),
    /// A frame of the WebSocket feed.
    #[error("a frame is not valid")]
    Frame(#[source] FrameError),
}

/// The end of a connection, or of an attempt to have one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disconnect {
    /// What ended it.
    pub reason: DisconnectReason,
    /// What the other side or the operating system said.
    pub detail: String,
}

/// What ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DisconnectReason {
    /// There was none: the peer could not be reached.
    Unreachable,
    /// The peer answered that it does not serve us.
    Refused,
    /// The peer ended it.
    Closed,
    /// It broke.
    Broken,
    /// Nothing was heard for too long.
    Idle,
}

impl DisconnectReason {
    /// The name used in logs and metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::Closed => "closed",
            Self::Broken => "broken",
            Self::Idle => "idle",
        }
    }
}

impl Disconnect {
    pub(crate) fn new(reason: DisconnectReason, detail: impl fmt::Display) -> Self {
        Self { reason, detail: detail.to_string() }
    }
}

impl fmt::Display for Disconnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reason, detail } = self;
        if detail.is_empty() {
            return f.write_str(reason.as_str());
        }
        write!(f, "{}: {detail}", reason.as_str())
    }
}
