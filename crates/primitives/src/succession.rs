//! The one rule of order: what a flashblock is to those who have accepted others before it (D3).

use crate::{Digest, Flashblock, Position, Seq};

/// What the rule needs to know of a flashblock that arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Where it stands.
    pub position: Position,
    /// Its own digest.
    pub digest: Digest,
    /// The digest it names as the one before.
    pub parent_digest: Digest,
    /// The number of the block its session builds.
    pub block_number: u64,
    /// Whether it ends its session.
    pub is_last: bool,
}

impl Arrival {
    /// The arrival of `flashblock`, whose digest is `digest`.
    pub const fn of(flashblock: &Flashblock, digest: Digest) -> Self {
        Self {
            position: flashblock.position(),
            digest,
            parent_digest: flashblock.parent_digest(),
            block_number: flashblock.block_number(),
            is_last: flashblock.is_last(),
        }
    }
}

/// What an arriving flashblock is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Succession {
    /// It continues the session: accept it.
    Next,
    /// It opens a newer session for a higher block: accept it.
    NewSession,
    /// It opens a newer session for the same block or a lower one: accept it, what the session
    /// before promised for that block is void.
    Rewind,
    /// It has been accepted before.
    Duplicate,
    /// It contradicts what was signed before: another content at an accepted position, or another
    /// past. Both flashblocks together are proof.
    Equivocation,
    /// It continues a session that was ended by `is_last`.
    AfterLast,
    /// Something before it is missing, from this position on.
    Gap(Position),
    /// It belongs to a session that a newer one has replaced.
    Stale,
}

/// What has been accepted so far of the newest session.
///
/// Holds one digest for each accepted flashblock of that session, at most
/// [`MAX_INDEX`](crate::MAX_INDEX) + 1 of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    session: Option<Accepted>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Accepted {
    seq: Seq,
    block_number: u64,
    digests: Vec<Digest>,
    ended: bool,
}

impl Progress {
    /// Nothing accepted yet.
    pub const fn new() -> Self {
        Self { session: None }
    }

    /// The position of the last accepted flashblock.
    pub fn position(&self) -> Option<Position> {
        let accepted = self.session.as_ref()?;
        Some(Position::new(accepted.seq, accepted.digests.len() as u64 - 1))
    }

    /// The digest of the last accepted flashblock.
    pub fn digest(&self) -> Option<Digest> {
        self.session.as_ref()?.digests.last().copied()
    }

    /// The number of the block that the newest session builds.
    pub fn block_number(&self) -> Option<u64> {
        Some(self.session.as_ref()?.block_number)
    }

    /// Whether the newest session ended with `is_last`.
    pub fn is_ended(&self) -> bool {
        self.session.as_ref().is_some_and(|accepted| accepted.ended)
    }

    /// Says what `next` is. Changes nothing: see [`Progress::accept`].
    pub fn succession(&self, next: &Arrival) -> Succession {
        let Position { seq, index } = next.position;
        let Some(tip) = &self.session else {
            return if index == 0 {
                Succession::NewSession
            } else {
                Succession::Gap(Position::new(seq, 0))
            };
        };
        if seq < tip.seq {
            return Succession::Stale;
        }
        if seq > tip.seq {
            return match index {
                0 if next.block_number > tip.block_number => Succession::NewSession,
                0 => Succession::Rewind,
                _ => Succession::Gap(Position::new(seq, 0)),
            };
        }
        tip.within(next)
    }

    /// Accepts `next`.
    ///
    /// # Panics
    /// If its succession is none of `Next`, `NewSession`, `Rewind`: the caller asked first.
    pub fn accept(&mut self, next: &Arrival) {
        match (self.succession(next), &mut self.session) {
            (Succession::Next, Some(tip)) => {
                tip.digests.push(next.digest);
                tip.ended = next.is_last;
            }
            (Succession::NewSession | Succession::Rewind, session) => {
                *session = Some(Accepted {
                    seq: next.position.seq,
                    block_number: next.block_number,
                    digests: vec![next.digest],
                    ended: next.is_last,
                });
            }
            (succession, _) => panic!("{} cannot be accepted: {succession:?}", next.position),
        }
    }
}

impl Accepted {
    /// The rule inside one session.
    fn within(&self, next: &Arrival) -> Succession {
        let index = next.position.index;
        let tip = self.digests.len() as u64 - 1;
        if let Some(known) = usize::try_from(index).ok().and_then(|at| self.digests.get(at)) {
            return if *known == next.digest {
                Succession::Duplicate
            } else {
                Succession::Equivocation
            };
        }
        if self.ended {
            return Succession::AfterLast;
        }
        if index > tip + 1 {
            return Succession::Gap(Position::new(self.seq, tip + 1));
        }
        let linked = self.digests.last() == Some(&next.parent_digest)
            && next.block_number == self.block_number;
        if linked { Succession::Next } else { Succession::Equivocation }
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{B256, keccak256};
    use proptest::prelude::*;

    use super::*;

    fn digest(seq: u64, index: u64) -> Digest {
        let mut preimage = [0; 16];
        preimage[..8].copy_from_slice(&seq.to_be_bytes());
        preimage[8..].copy_from_slice(&index.to_be_bytes());
        Digest::new(keccak256(preimage))
    }

    fn at(seq: u64, index: u64) -> Arrival {
        Arrival {
            position: Position::new(Seq::new(seq), index),
            digest: digest(seq, index),
            parent_digest: index.checked_sub(1).map_or(Digest::ZERO, |before| digest(seq, before)),
            block_number: 100 + seq,
            is_last: false,
        }
    }

    fn progress(accepted: &[Arrival]) -> Progress {
        let mut progress = Progress::new();
        accepted.iter().for_each(|arrival| progress.accept(arrival));
        progress
    }

    fn position(seq: u64, index: u64) -> Position {
        Position::new(Seq::new(seq), index)
    }

    #[test]
    fn the_first_flashblock_must_open_a_session() {
        assert_eq!(Progress::new().succession(&at(9, 0)), Succession::NewSession);
        assert_eq!(Progress::new().succession(&at(9, 2)), Succession::Gap(position(9, 0)));
    }

    #[test]
    fn the_table_of_d3_holds() {
        let tip = progress(&[at(5, 0), at(5, 1)]);
        let rewind = Arrival { block_number: 105, ..at(6, 0) };
        let lower = Arrival { block_number: 1, ..at(6, 0) };
        let other_content = Arrival { digest: digest(0, 0), ..at(5, 1) };
        let other_past = Arrival { parent_digest: digest(0, 0), ..at(5, 2) };
        let other_block = Arrival { block_number: 7, ..at(5, 2) };
        for (next, expected) in [
            (at(5, 2), Succession::Next),
            (at(5, 1), Succession::Duplicate),
            (at(5, 0), Succession::Duplicate),
            (other_content, Succession::Equivocation),
            (other_past, Succession::Equivocation),
            (other_block, Succession::Equivocation),
            (at(5, 3), Succession::Gap(position(5, 2))),
            (at(5, u64::MAX), Succession::Gap(position(5, 2))),
            (at(6, 0), Succession::NewSession),
            (rewind, Succession::Rewind),
            (lower, Succession::Rewind),
            (at(6, 1), Succession::Gap(position(6, 0))),
            (at(4, 2), Succession::Stale),
            (at(4, 0), Succession::Stale),
        ] {
            assert_eq!(tip.succession(&next), expected, "{}", next.position);
        }
    }

    #[test]
    fn nothing_follows_the_last_flashblock_of_a_session() {
        let last = Arrival { is_last: true, ..at(5, 1) };
        let tip = progress(&[at(5, 0), last]);
        assert!(tip.is_ended());
        assert_eq!(tip.succession(&at(5, 2)), Succession::AfterLast);
        assert_eq!(tip.succession(&at(5, 9)), Succession::AfterLast);
        assert_eq!(tip.succession(&last), Succession::Duplicate);
        assert_eq!(tip.succession(&at(6, 0)), Succession::NewSession);
    }

    #[test]
    #[should_panic(expected = "cannot be accepted: Gap")]
    fn accepting_what_does_not_follow_is_a_bug() {
        progress(&[at(5, 0)]).accept(&at(5, 2));
    }

    #[test]
    fn progress_tells_where_it_is() {
        let tip = progress(&[at(5, 0), at(5, 1)]);
        assert_eq!(tip.position(), Some(position(5, 1)));
        assert_eq!(tip.digest(), Some(digest(5, 1)));
        assert_eq!(tip.block_number(), Some(105));
        assert_eq!(Progress::new().digest(), None);
    }

    proptest! {
        /// Whatever arrives, in whatever order: what is accepted is strictly increasing, without
        /// holes inside a session, and linked by digests.
        #[test]
        fn accepted_positions_never_go_back_and_never_skip(
            arrivals in prop::collection::vec((0u64..4, 0u64..5, any::<bool>(), any::<bool>()), 0..60)
        ) {
            let mut progress = Progress::new();
            let mut accepted: Vec<Arrival> = Vec::new();
            for (seq, index, is_last, forged) in arrivals {
                let mut next = Arrival { is_last, ..at(seq, index) };
                if forged {
                    next.digest = Digest::new(B256::repeat_byte(0xff));
                }
                match progress.succession(&next) {
                    Succession::Next => {
                        let tip = accepted.last().unwrap();
                        prop_assert_eq!(next.position.seq, tip.position.seq);
                        prop_assert_eq!(next.position.index, tip.position.index + 1);
                        prop_assert_eq!(next.parent_digest, tip.digest);
                        prop_assert!(!tip.is_last);
                    }
                    Succession::NewSession | Succession::Rewind => {
                        prop_assert_eq!(next.position.index, 0);
                        if let Some(tip) = accepted.last() {
                            prop_assert!(next.position.seq > tip.position.seq);
                        }
                    }
                    Succession::Duplicate
                    | Succession::Equivocation
                    | Succession::AfterLast
                    | Succession::Gap(_)
                    | Succession::Stale => continue,
                }
                progress.accept(&next);
                accepted.push(next);
            }
        }
    }
}
