//! Order on a feed that knows neither sessions nor seals: what a bera-reth sequencer sends.
//!
//! Its flashblocks carry a payload id, an index, and a signature over these and the transactions.
//! Sessions are numbered here, on arrival:
//!
//! * Index 0 of a payload id that is new opens a session. So does index 0 of the current one if its
//!   content is another, or if the session had ended: the sequencer started again.
//! * A payload id that another one has replaced is never taken again, for that build goes on for a
//!   while beside the new one; neither is a block far below the newest, which was recorded and is
//!   played again.
//! * There is no replay. What comes after a hole waits for what is missing, which comes only if the
//!   sequencer repeats it; what was taken before the hole stays, and the next session goes on.
//!
//! Nobody signs `is_last`, so it ends a session here and proves nothing: who alters it on the way can
//! cut a session short, as who drops messages can.
//!
//! [`Numbering::place`] changes nothing, so that it may be asked about what is not verified yet;
//! only what was verified is [accepted](Numbering::accept).

use std::collections::VecDeque;

use alloy_primitives::B256;
use preconf_primitives::{
    Digest, Flashblock, FlashblockParts, InvalidFlashblock, PayloadId, Position, Seq,
};
use preconf_signing::{v1, v2};
use preconf_wire::json::UpstreamFlashblock;

/// How many replaced payload ids are known.
const REPLACED: usize = 256;
/// How far below the newest block another one may be built.
const MAX_REWIND: u64 = 8;

/// What has been accepted of a feed without sessions.
#[derive(Debug)]
pub(crate) struct Numbering {
    next_seq: Seq,
    current: Option<Current>,
    /// Payload ids that were current, oldest first.
    replaced: VecDeque<PayloadId>,
}

#[derive(Debug)]
struct Current {
    position: Position,
    payload_id: PayloadId,
    block_number: u64,
    /// What was accepted at each index.
    contents: Vec<Content>,
    last_digest: Digest,
    is_ended: bool,
}

/// What a flashblock says besides where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Content {
    base: B256,
    withdrawals: B256,
    transactions: B256,
}

/// Where a flashblock belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) position: Position,
    pub(crate) parent_digest: Digest,
}

/// Why a flashblock belongs nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unplaced {
    /// It was accepted before.
    Duplicate,
    /// Another session has replaced its own.
    Stale,
    /// It comes after the end of its session.
    AfterLast,
    /// Another content was accepted at its place.
    Equivocation,
    /// Something before it is missing.
    Gap,
}

impl Unplaced {
    /// The label of a metric.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Duplicate => "duplicate",
            Self::Stale => "stale",
            Self::AfterLast => "after_last",
            Self::Equivocation => "equivocation",
            Self::Gap => "gap",
        }
    }
}

impl Numbering {
    /// Numbers sessions from here on.
    pub(crate) const fn from(next_seq: Seq) -> Self {
        Self { next_seq, current: None, replaced: VecDeque::new() }
    }

    /// Says where a flashblock belongs.
    pub(crate) fn place(&self, flashblock: &UpstreamFlashblock) -> Result<Place, Unplaced> {
        let Some(current) = &self.current else {
            return self.opening(flashblock.index);
        };
        if flashblock.payload_id == current.payload_id {
            return current.place(flashblock).unwrap_or_else(|| self.opening(0));
        }
        let is_old = self.replaced.contains(&flashblock.payload_id)
            || flashblock.block_number.saturating_add(MAX_REWIND) < current.block_number;
        if is_old {
            return Err(Unplaced::Stale);
        }
        self.opening(flashblock.index)
    }

    /// Remembers a flashblock that stands where it was placed.
    pub(crate) fn accept(&mut self, flashblock: &Flashblock, digest: Digest) {
        let content = Content::of_flashblock(flashblock);
        let position = flashblock.position();
        match &mut self.current {
            Some(current) if current.position.seq == position.seq => {
                current.position = position;
                current.contents.push(content);
                current.last_digest = digest;
                current.is_ended = flashblock.is_last();
            }
            Some(_) | None => self.open(flashblock, content, digest),
        }
    }

    fn opening(&self, index: u64) -> Result<Place, Unplaced> {
        if index > 0 {
            return Err(Unplaced::Gap);
        }
        let parent_digest = self.current.as_ref().map_or(Digest::ZERO, |last| last.last_digest);
        Ok(Place { position: Position::new(self.next_seq, 0), parent_digest })
    }

    fn open(&mut self, flashblock: &Flashblock, content: Content, digest: Digest) {
        let opened = Current {
            position: flashblock.position(),
            payload_id: flashblock.payload_id(),
            block_number: flashblock.block_number(),
            contents: vec![content],
            last_digest: digest,
            is_ended: flashblock.is_last(),
        };
        self.next_seq = Seq::new(self.next_seq.get().saturating_add(1));
        let replaced = self.current.replace(opened);
        let is_other = |last: &Current| last.payload_id != flashblock.payload_id();
        if let Some(last) = replaced.filter(is_other) {
            if self.replaced.len() == REPLACED {
                self.replaced.pop_front();
            }
            self.replaced.push_back(last.payload_id);
        }
    }
}

impl Current {
    /// Where a flashblock with our payload id belongs; `None` if it starts the session anew.
    fn place(&self, flashblock: &UpstreamFlashblock) -> Option<Result<Place, Unplaced>> {
        let Position { seq, index } = self.position;
        let known = usize::try_from(flashblock.index).ok().and_then(|at| self.contents.get(at));
        if let Some(known) = known {
            let is_same =
                *known == Content::of(flashblock) && flashblock.block_number == self.block_number;
            return match (flashblock.index, is_same) {
                (0, true) if self.is_ended => None,
                (_, true) => Some(Err(Unplaced::Duplicate)),
                (0, false) => None,
                (_, false) => Some(Err(Unplaced::Equivocation)),
            };
        }
        if self.is_ended {
            return Some(Err(Unplaced::AfterLast));
        }
        if flashblock.index > index + 1 {
            return Some(Err(Unplaced::Gap));
        }
        if flashblock.block_number != self.block_number {
            return Some(Err(Unplaced::Equivocation));
        }
        let position = Position::new(seq, flashblock.index);
        Some(Ok(Place { position, parent_digest: self.last_digest }))
    }
}

impl Content {
    fn of(flashblock: &UpstreamFlashblock) -> Self {
        let opening = flashblock.opening.as_ref();
        Self {
            base: opening.map_or(B256::ZERO, |opening| v2::base_hash(&opening.base)),
            withdrawals: v2::withdrawals_hash(opening.map_or(&[], |opening| &opening.withdrawals)),
            transactions: v1::transactions_hash(&flashblock.transactions),
        }
    }

    fn of_flashblock(flashblock: &Flashblock) -> Self {
        let v2::ContentHashes { base, transactions, withdrawals, traceparent: _ } =
            v2::ContentHashes::of(flashblock);
        Self { base, withdrawals, transactions }
    }
}

/// The flashblock at its place, received at this time: nobody signs when it was published.
///
/// # Errors
/// If its fields contradict each other.
pub(crate) fn flashblock(
    upstream: UpstreamFlashblock,
    Place { position, parent_digest }: Place,
    received_at_ms: u64,
) -> Result<Flashblock, InvalidFlashblock> {
    let UpstreamFlashblock {
        payload_id,
        index: _,
        block_number,
        opening,
        transactions,
        is_last,
        signature: _,
        extension: _,
    } = upstream;
    Flashblock::new(FlashblockParts {
        payload_id,
        position,
        block_number,
        opening,
        transactions,
        is_last,
        published_at_ms: received_at_ms,
        traceparent: None,
        parent_digest,
    })
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{Address, Bytes};
    use preconf_primitives::{Base, Opening};
    use preconf_signing::Signature;

    use super::*;

    const FIRST: Seq = Seq::new(7);

    /// A flashblock of block `number` under this id, which holds one transaction.
    fn sent(id: u8, number: u64, index: u64, transaction: u8) -> UpstreamFlashblock {
        let base = || Base {
            parent_beacon_block_root: B256::ZERO,
            parent_hash: B256::ZERO,
            fee_recipient: Address::ZERO,
            prev_randao: B256::ZERO,
            block_number: number,
            gas_limit: 1,
            timestamp: 1,
            extra_data: Bytes::new(),
            base_fee_per_gas: 1,
            prev_proposer_pubkey: None,
        };
        UpstreamFlashblock {
            payload_id: PayloadId::repeat_byte(id),
            index,
            block_number: number,
            opening: (index == 0).then(|| Opening { base: base(), withdrawals: vec![] }),
            transactions: vec![vec![transaction].into()],
            is_last: false,
            signature: Signature::ZERO,
            extension: None,
        }
    }

    fn last(flashblock: UpstreamFlashblock) -> UpstreamFlashblock {
        UpstreamFlashblock { is_last: true, ..flashblock }
    }

    /// Takes what can be placed, and says where.
    fn take(numbering: &mut Numbering, sent: UpstreamFlashblock) -> Result<String, Unplaced> {
        let place = numbering.place(&sent)?;
        let flashblock = flashblock(sent, place, 0).unwrap();
        numbering.accept(&flashblock, v2::flashblock_digest(&flashblock));
        Ok(place.position.to_string())
    }

    fn ok(position: &str) -> Result<String, Unplaced> {
        Ok(position.to_owned())
    }

    #[test]
    fn sessions_are_numbered_as_they_arrive_and_linked() {
        let mut numbering = Numbering::from(FIRST);
        assert_eq!(take(&mut numbering, sent(1, 100, 0, 1)), ok("7:0"));
        assert_eq!(take(&mut numbering, last(sent(1, 100, 1, 2))), ok("7:1"));
        let before = numbering.current.as_ref().map(|current| current.last_digest);
        let next = sent(2, 101, 0, 1);
        assert_eq!(numbering.place(&next).ok().map(|place| place.parent_digest), before);
        assert_eq!(take(&mut numbering, next), ok("8:0"));
    }

    #[test]
    fn what_does_not_follow_is_told_apart_and_changes_nothing() {
        let mut numbering = Numbering::from(FIRST);
        take(&mut numbering, sent(1, 100, 0, 1)).unwrap();
        take(&mut numbering, sent(2, 101, 0, 1)).unwrap();
        take(&mut numbering, sent(2, 101, 1, 2)).unwrap();
        for (refused, why) in [
            (sent(2, 101, 0, 1), Unplaced::Duplicate),
            (sent(2, 101, 1, 2), Unplaced::Duplicate),
            (sent(2, 101, 1, 3), Unplaced::Equivocation),
            (sent(2, 102, 2, 3), Unplaced::Equivocation),
            (sent(2, 101, 3, 3), Unplaced::Gap),
            (sent(2, 101, u64::MAX, 3), Unplaced::Gap),
            (sent(3, 102, 1, 3), Unplaced::Gap),
            (sent(1, 100, 1, 3), Unplaced::Stale),
            (sent(1, 100, 0, 9), Unplaced::Stale),
            (sent(3, 92, 0, 3), Unplaced::Stale),
        ] {
            assert_eq!(numbering.place(&refused), Err(why), "{refused:?}");
        }
        assert_eq!(take(&mut numbering, last(sent(2, 101, 2, 3))), ok("8:2"));
        assert_eq!(numbering.place(&sent(2, 101, 3, 4)), Err(Unplaced::AfterLast));
    }

    #[test]
    fn the_same_id_with_another_first_flashblock_or_after_its_end_is_a_restart() {
        let mut numbering = Numbering::from(FIRST);
        take(&mut numbering, sent(1, 100, 0, 1)).unwrap();
        assert_eq!(take(&mut numbering, sent(1, 100, 0, 2)), ok("8:0"));
        assert_eq!(take(&mut numbering, last(sent(1, 100, 1, 3))), ok("8:1"));
        assert_eq!(take(&mut numbering, sent(1, 100, 0, 2)), ok("9:0"));
        assert_eq!(take(&mut numbering, sent(1, 100, 1, 4)), ok("9:1"));
    }

    #[test]
    fn a_missing_flashblock_that_comes_after_all_is_taken() {
        let mut numbering = Numbering::from(FIRST);
        take(&mut numbering, sent(1, 100, 0, 1)).unwrap();
        assert_eq!(take(&mut numbering, sent(1, 100, 2, 3)), Err(Unplaced::Gap));
        assert_eq!(take(&mut numbering, sent(1, 100, 1, 2)), ok("7:1"));
        assert_eq!(take(&mut numbering, sent(1, 100, 2, 3)), ok("7:2"));
    }

    #[test]
    fn who_comes_in_the_middle_waits_for_the_next_session() {
        let mut numbering = Numbering::from(FIRST);
        assert_eq!(take(&mut numbering, sent(1, 100, 3, 1)), Err(Unplaced::Gap));
        assert_eq!(take(&mut numbering, sent(2, 101, 0, 1)), ok("7:0"));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut numbering = Numbering::from(FIRST);
        for number in 1..=1000_u64 {
            let id = PayloadId::from(number.to_be_bytes());
            let flashblock = UpstreamFlashblock { payload_id: id, ..sent(0, number, 0, 1) };
            take(&mut numbering, flashblock).unwrap();
        }
        assert_eq!(numbering.replaced.len(), REPLACED);
    }
}
