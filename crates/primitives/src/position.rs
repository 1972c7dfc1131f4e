//! Where a flashblock stands: epochs, sessions, positions and digests.

use std::{fmt, str::FromStr};

use alloy_primitives::{B64, B256};

/// The highest index a flashblock may have in its session.
///
/// At one flashblock every 200 ms this is more than half an hour of one block; it bounds what a
/// reader keeps of a session.
pub const MAX_INDEX: u64 = 9_999;

/// The 8 bytes by which a session is known on the wire (`payload_id` of the upstream format).
pub type PayloadId = B64;

/// A right to build, numbered by the signer: a higher epoch ends all lower ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(u64);

impl Epoch {
    /// Wraps the number of an epoch.
    pub const fn new(epoch: u64) -> Self {
        Self(epoch)
    }

    /// The number of the epoch.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The epoch that follows, or `None` after 2^64 − 1 of them.
    pub const fn next(self) -> Option<Self> {
        match self.0.checked_add(1) {
            Some(epoch) => Some(Self(epoch)),
            None => None,
        }
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a session. The signer assigns it when a session opens and never uses it again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(u64);

impl Seq {
    /// Wraps the number of a session.
    pub const fn new(seq: u64) -> Self {
        Self(seq)
    }

    /// The number of the session.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number of the next session, or `None` after 2^64 − 1 of them.
    pub const fn next(self) -> Option<Self> {
        match self.0.checked_add(1) {
            Some(seq) => Some(Self(seq)),
            None => None,
        }
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The digest of a signed statement: what its seal covers.
///
/// Of a flashblock it covers every field; chained by `parent_digest` it covers all before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(B256);

impl Digest {
    /// The parent digest of the first flashblock that a signer ever signs.
    pub const ZERO: Self = Self(B256::ZERO);

    /// Wraps the 32 bytes of a digest.
    pub const fn new(digest: B256) -> Self {
        Self(digest)
    }

    /// The 32 bytes of the digest.
    pub const fn get(self) -> B256 {
        self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One attempt to build one block, opened by the signer for the holder of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Session {
    /// The right under which it was opened.
    pub epoch: Epoch,
    /// Its number; never used twice.
    pub seq: Seq,
    /// The number of the block it builds.
    pub block_number: u64,
    /// The hash of the block it builds upon.
    pub parent_hash: B256,
    /// The id it carries on the wire.
    pub payload_id: PayloadId,
}

/// The place of a flashblock: totally ordered across rebuilds, restarts and failovers.
///
/// Written `seq:index`, which is also the form of a resume cursor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The session.
    pub seq: Seq,
    /// The index inside the session, from 0.
    pub index: u64,
}

impl Position {
    /// The position of flashblock `index` of session `seq`.
    pub const fn new(seq: Seq, index: u64) -> Self {
        Self { seq, index }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.seq, self.index)
    }
}

/// A resume cursor that is not two decimal numbers with a colon between them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a cursor is written seq:index, two decimal numbers, not {0:?}")]
pub struct InvalidCursor(String);

impl FromStr for Position {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidCursor(text.chars().take(64).collect());
        let (seq, index) = text.split_once(':').ok_or_else(invalid)?;
        Ok(Self {
            seq: Seq(seq.parse().map_err(|_| invalid())?),
            index: index.parse().map_err(|_| invalid())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_what_a_position_writes() {
        let position = Position::new(Seq::new(7), 42);
        assert_eq!(position.to_string(), "7:42");
        assert_eq!("7:42".parse(), Ok(position));
    }

    #[test]
    fn a_cursor_that_is_not_two_numbers_is_refused() {
        for text in ["", ":", "7", "7:", ":1", "7:1:2", "a:1", "-1:0", "18446744073709551616:0"] {
            assert!(text.parse::<Position>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn a_later_session_is_above_every_index_of_an_earlier_one() {
        let early = Position::new(Seq::new(1), MAX_INDEX);
        let late = Position::new(Seq::new(2), 0);
        assert!(early < late);
    }

    #[test]
    fn the_last_number_has_no_successor() {
        assert_eq!(Seq::new(u64::MAX).next(), None);
        assert_eq!(Epoch::new(u64::MAX).next(), None);
    }
}
