//! Why transactions stopped waiting without a canonical block that holds them, counted.

use super::by_nonce::Waiting;

/// Why a transaction was let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropCause {
    /// Its sender has sent another one instead.
    Replaced,
    /// It had to make room for a better one.
    Evicted,
    /// Its sender has used the nonce, with another one or without our having seen the block.
    NonceUsed,
    /// Its sender cannot pay for it any more, or for one before it.
    Unpaid,
    /// It has waited for as long as anything may.
    Expired,
    /// No block of this fork can hold it.
    Invalid,
    /// Its blobs are gone, or proved in the form of a fork before.
    Blobs,
}

impl DropCause {
    /// All causes.
    pub const ALL: [Self; 7] = [
        Self::Replaced,
        Self::Evicted,
        Self::NonceUsed,
        Self::Unpaid,
        Self::Expired,
        Self::Invalid,
        Self::Blobs,
    ];

    /// The label of metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Replaced => "replaced",
            Self::Evicted => "evicted",
            Self::NonceUsed => "nonce_used",
            Self::Unpaid => "unpaid",
            Self::Expired => "expired",
            Self::Invalid => "invalid",
            Self::Blobs => "blobs",
        }
    }
}

/// How many were let go since somebody asked, by cause.
#[derive(Debug, Default)]
pub(super) struct Drops([u64; DropCause::ALL.len()]);

impl Drops {
    pub(super) fn count(&mut self, cause: DropCause) {
        self.0[cause as usize] += 1;
    }

    pub(super) fn take(&mut self) -> impl Iterator<Item = (DropCause, u64)> + use<> {
        let counts = std::mem::take(&mut self.0);
        DropCause::ALL.into_iter().zip(counts).filter(|(_, count)| *count > 0)
    }
}

/// A transaction that no longer waits, and why; no cause: a block holds it, or a promise.
pub(super) type Gone = (Waiting, Option<DropCause>);

/// All of them for one cause.
pub(super) fn for_cause(
    dropped: impl IntoIterator<Item = Waiting>,
    cause: DropCause,
) -> impl Iterator<Item = Gone> {
    dropped.into_iter().map(move |waiting| (waiting, Some(cause)))
}
