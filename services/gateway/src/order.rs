//! What follows what: which verified messages are served, once and in order.
//!
//! Flashblocks follow the rule of [`Progress::succession`], and the first one of a session names the
//! last one before it. A session ends once, directly after the last flashblock that its end names: a
//! second end with another content contradicts the first, and so does a flashblock after it. What
//! names another past than ours shows that something was missed; it is served without that only
//! after the gap was stated. Whatever is refused here leaves no trace in what is served.

use std::collections::VecDeque;

use preconf_primitives::{Arrival, Digest, Position, Progress, Seq, Succession};

use crate::frame::{End, Subject};

/// How many statements, and last flashblocks of sessions, are remembered.
const REMEMBERED: usize = 256;

/// What has been served so far, as far as order goes.
#[derive(Debug, Default)]
pub(crate) struct Order {
    progress: Progress,
    /// The last flashblock that was served of each session before the current one.
    lasts: VecDeque<(Seq, Digest)>,
    ends: VecDeque<Ended>,
    retractions: VecDeque<Digest>,
}

/// An end that was served.
#[derive(Clone, Copy, Debug)]
struct Ended {
    seq: Seq,
    digest: Digest,
    /// Whether everything before it had been served.
    is_whole: bool,
}

/// What is to be done with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Serve it.
    Serve,
    /// It begins or ends a session, and names a flashblock as the one before it that was never
    /// received: something is missing from this position on. If that cannot be had, it is served
    /// after the gap was stated, see [`Order::admit_after_gap`].
    Follows(Position),
    /// It has been served before.
    Duplicate,
    /// Its session was replaced by a newer one.
    Stale,
    /// Something before it is missing.
    Missing,
    /// It contradicts what the same key signed before.
    Contradiction(Contradiction),
}

/// Two signed messages that cannot both be true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contradiction {
    /// Another flashblock at an accepted position, or one with another past.
    Equivocation,
    /// A flashblock after the last one of its session.
    AfterLast,
    /// Another end of the same session.
    SecondEnd,
}

impl Contradiction {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Equivocation => "equivocation",
            Self::AfterLast => "after_last",
            Self::SecondEnd => "second_end",
        }
    }
}

impl Order {
    /// Judges a verified message, and remembers it if it is to be served.
    pub(crate) fn admit(&mut self, subject: &Subject) -> Verdict {
        match subject {
            Subject::Flashblock(sealing) => self.flashblock(&sealing.arrival),
            Subject::End(end) => self.end(end),
            Subject::Retraction(digest) => self.retraction(*digest),
            // Gaps are stated by us, never received.
            Subject::Gap => Verdict::Duplicate,
        }
    }

    /// Remembers a message that was judged to [follow](Verdict::Follows) something, and is served
    /// without it.
    pub(crate) fn admit_after_gap(&mut self, subject: &Subject) {
        match subject {
            Subject::Flashblock(sealing) => self.accept(&sealing.arrival),
            Subject::End(end) => self.remember_end(end, false),
            Subject::Retraction(_) | Subject::Gap => {}
        }
    }

    fn flashblock(&mut self, arrival: &Arrival) -> Verdict {
        let succession = self.progress.succession(arrival);
        match succession {
            Succession::Next | Succession::NewSession | Succession::Rewind => {}
            Succession::Duplicate => return Verdict::Duplicate,
            Succession::Stale => return Verdict::Stale,
            Succession::Gap(_) => return Verdict::Missing,
            Succession::Equivocation => {
                return Verdict::Contradiction(Contradiction::Equivocation);
            }
            Succession::AfterLast => return Verdict::Contradiction(Contradiction::AfterLast),
        }
        match self.ended(arrival.position.seq) {
            Some(Ended { is_whole: true, .. }) => {
                return Verdict::Contradiction(Contradiction::AfterLast);
            }
            // What its end had waited for in vain.
            Some(Ended { is_whole: false, .. }) => return Verdict::Stale,
            None => {}
        }
        if let (true, Some((tip, digest))) = (succession != Succession::Next, self.tip())
            && digest != arrival.parent_digest
        {
            return Verdict::Follows(after(tip));
        }
        self.accept(arrival);
        Verdict::Serve
    }

    fn accept(&mut self, arrival: &Arrival) {
        if let Some((tip, digest)) = self.tip()
            && tip.seq != arrival.position.seq
        {
            remember(&mut self.lasts, (tip.seq, digest));
        }
        self.progress.accept(arrival);
    }

    fn end(&mut self, end: &End) -> Verdict {
        match self.ended(end.seq) {
            Some(Ended { digest, .. }) if digest == end.digest => return Verdict::Duplicate,
            Some(_) => return Verdict::Contradiction(Contradiction::SecondEnd),
            None => {}
        }
        if let Some((tip, digest)) = self.tip() {
            let is_direct = end.last_digest == digest;
            if end.seq < tip.seq {
                // It comes late, which is no harm if nothing is missing before it.
                if !self.lasts.contains(&(end.seq, end.last_digest)) {
                    return Verdict::Stale;
                }
            } else if !is_direct && end.seq == tip.seq && self.progress.is_ended() {
                return Verdict::Contradiction(Contradiction::SecondEnd);
            } else if !is_direct {
                return Verdict::Follows(after(tip));
            }
        }
        self.remember_end(end, true);
        Verdict::Serve
    }

    fn retraction(&mut self, digest: Digest) -> Verdict {
        if self.retractions.contains(&digest) {
            return Verdict::Duplicate;
        }
        remember(&mut self.retractions, digest);
        Verdict::Serve
    }

    fn tip(&self) -> Option<(Position, Digest)> {
        Some((self.progress.position()?, self.progress.digest()?))
    }

    fn ended(&self, seq: Seq) -> Option<Ended> {
        self.ends.iter().find(|ended| ended.seq == seq).copied()
    }

    fn remember_end(&mut self, end: &End, is_whole: bool) {
        let End { seq, digest, .. } = *end;
        remember(&mut self.ends, Ended { seq, digest, is_whole });
    }
}

const fn after(position: Position) -> Position {
    Position::new(position.seq, position.index + 1)
}

fn remember<T>(known: &mut VecDeque<T>, new: T) {
    if known.len() == REMEMBERED {
        known.pop_front();
    }
    known.push_back(new);
}

#[cfg(test)]
mod tests {
    use alloy_primitives::B256;
    use preconf_signing::Signature;

    use super::*;
    use crate::frame::Sealing;

    fn digest(byte: u8) -> Digest {
        Digest::new(B256::repeat_byte(byte))
    }

    fn flashblock(seq: u64, index: u64, own: u8, parent: u8) -> Subject {
        let arrival = Arrival {
            position: Position::new(Seq::new(seq), index),
            digest: digest(own),
            parent_digest: digest(parent),
            block_number: 100 + seq,
            is_last: false,
        };
        Subject::Flashblock(Sealing { arrival, seal: Signature::ZERO })
    }

    /// The end of a session whose last flashblock has the digest `last`.
    fn end(seq: u64, own: u8, last: u8) -> Subject {
        Subject::End(End { seq: Seq::new(seq), digest: digest(own), last_digest: digest(last) })
    }

    fn at(seq: u64, index: u64) -> Position {
        Position::new(Seq::new(seq), index)
    }

    #[test]
    fn what_is_refused_leaves_no_trace() {
        let mut order = Order::default();
        assert_eq!(order.admit(&flashblock(5, 0, 1, 0)), Verdict::Serve);
        for (refused, verdict) in [
            (flashblock(5, 0, 1, 0), Verdict::Duplicate),
            (flashblock(4, 0, 9, 0), Verdict::Stale),
            (flashblock(5, 2, 9, 1), Verdict::Missing),
            (flashblock(6, 1, 9, 1), Verdict::Missing),
            (flashblock(5, 0, 9, 0), Verdict::Contradiction(Contradiction::Equivocation)),
            (flashblock(5, 1, 9, 8), Verdict::Contradiction(Contradiction::Equivocation)),
        ] {
            assert_eq!(order.admit(&refused), verdict, "{refused:?}");
        }
        assert_eq!(order.admit(&flashblock(5, 1, 2, 1)), Verdict::Serve);
    }

    #[test]
    fn nothing_is_served_after_the_last_flashblock_of_a_session() {
        let mut order = Order::default();
        let Subject::Flashblock(mut last) = flashblock(5, 0, 1, 0) else { panic!() };
        last.arrival.is_last = true;
        assert_eq!(order.admit(&Subject::Flashblock(last)), Verdict::Serve);

        let after = order.admit(&flashblock(5, 1, 2, 1));
        assert_eq!(after, Verdict::Contradiction(Contradiction::AfterLast));
    }

    #[test]
    fn a_session_that_names_another_past_than_ours_follows_what_is_missing() {
        let mut order = Order::default();
        order.admit(&flashblock(5, 0, 1, 0));

        let next = flashblock(7, 0, 7, 6);
        assert_eq!(order.admit(&next), Verdict::Follows(at(5, 1)));
        assert_eq!(order.admit(&next), Verdict::Follows(at(5, 1)), "it left no trace");
        assert_eq!(order.admit(&flashblock(5, 1, 6, 1)), Verdict::Serve);
        assert_eq!(order.admit(&next), Verdict::Serve);
    }

    #[test]
    fn a_block_that_is_built_anew_names_its_past_too() {
        let mut order = Order::default();
        order.admit(&flashblock(5, 0, 1, 0));
        let Subject::Flashblock(mut rewind) = flashblock(6, 0, 7, 6) else { panic!() };
        rewind.arrival.block_number = 105;

        assert_eq!(order.admit(&Subject::Flashblock(rewind)), Verdict::Follows(at(5, 1)));
        rewind.arrival.parent_digest = digest(1);
        assert_eq!(order.admit(&Subject::Flashblock(rewind)), Verdict::Serve);
    }

    #[test]
    fn what_cannot_be_had_is_done_without_once_the_gap_was_stated() {
        let mut order = Order::default();
        order.admit(&flashblock(5, 0, 1, 0));
        let next = flashblock(7, 0, 7, 6);
        assert_eq!(order.admit(&next), Verdict::Follows(at(5, 1)));

        order.admit_after_gap(&next);

        assert_eq!(order.admit(&next), Verdict::Duplicate);
        assert_eq!(order.admit(&flashblock(8, 0, 8, 7)), Verdict::Serve);
    }

    #[test]
    fn the_first_session_that_is_seen_is_no_gap() {
        assert_eq!(Order::default().admit(&flashblock(7, 0, 7, 6)), Verdict::Serve);
    }

    #[test]
    fn a_session_ends_once() {
        let mut order = Order::default();
        order.admit(&flashblock(5, 0, 9, 0));
        assert_eq!(order.admit(&end(5, 1, 9)), Verdict::Serve);
        assert_eq!(order.admit(&end(5, 1, 9)), Verdict::Duplicate);
        let second = Verdict::Contradiction(Contradiction::SecondEnd);
        assert_eq!(order.admit(&end(5, 2, 9)), second);
        assert_eq!(order.admit(&end(6, 2, 9)), Verdict::Serve, "nothing was published in it");
    }

    #[test]
    fn an_end_directly_follows_the_flashblock_that_it_names() {
        let mut order = Order::default();
        order.admit(&flashblock(5, 0, 1, 0));

        assert_eq!(order.admit(&end(5, 20, 2)), Verdict::Follows(at(5, 1)));
        assert_eq!(order.admit(&end(6, 21, 2)), Verdict::Follows(at(5, 1)));
        assert_eq!(order.admit(&flashblock(5, 1, 2, 1)), Verdict::Serve);
        assert_eq!(order.admit(&end(5, 20, 2)), Verdict::Serve);
    }

    #[test]
    fn an_end_that_names_another_flashblock_than_the_last_one_contradicts_it() {
        let mut order = Order::default();
        let Subject::Flashblock(mut last) = flashblock(5, 0, 1, 0) else { panic!() };
        last.arrival.is_last = true;
        order.admit(&Subject::Flashblock(last));

        let second = Verdict::Contradiction(Contradiction::SecondEnd);
        assert_eq!(order.admit(&end(5, 20, 2)), second);
    }

    #[test]
    fn nothing_is_served_of_a_session_after_its_end() {
        let mut order = Order::default();
        order.admit(&flashblock(5, 0, 1, 0));
        order.admit(&end(5, 20, 1));
        let after = Verdict::Contradiction(Contradiction::AfterLast);
        assert_eq!(order.admit(&flashblock(5, 1, 2, 1)), after);

        let mut order = Order::default();
        order.admit(&flashblock(5, 0, 1, 0));
        order.admit_after_gap(&end(5, 20, 3));
        assert_eq!(order.admit(&flashblock(5, 1, 2, 1)), Verdict::Stale, "it was given up");
    }

    #[test]
    fn a_late_end_is_served_if_nothing_is_missing_before_it() {
        let mut order = Order::default();
        order.admit(&flashblock(5, 0, 1, 0));
        order.admit(&flashblock(6, 0, 2, 1));

        assert_eq!(order.admit(&end(4, 20, 0)), Verdict::Stale);
        assert_eq!(order.admit(&end(5, 21, 9)), Verdict::Stale);
        assert_eq!(order.admit(&end(5, 22, 1)), Verdict::Serve);
    }

    #[test]
    fn a_retraction_is_served_once_and_what_is_remembered_is_bounded() {
        let mut order = Order::default();
        assert_eq!(order.admit(&Subject::Retraction(digest(1))), Verdict::Serve);
        assert_eq!(order.admit(&Subject::Retraction(digest(1))), Verdict::Duplicate);
        for seq in 0..REMEMBERED as u64 + 10 {
            order.admit(&end(seq, 1, 0));
        }
        assert_eq!(order.ends.len(), REMEMBERED);
    }
}
