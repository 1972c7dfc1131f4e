//! What follows what: which verified messages are served, once and in order.
//!
//! Flashblocks follow the rule of [`Progress::succession`]. A session ends once: a second statement
//! about its end with another content contradicts the first. Whatever is refused here leaves no
//! trace in what is served.

use std::collections::VecDeque;

use preconf_primitives::{Arrival, Digest, Position, Progress, Seq, Succession};

use crate::frame::Subject;

/// How many statements are remembered, to know them again.
const STATEMENTS: usize = 256;

/// What has been served so far, as far as order goes.
#[derive(Debug, Default)]
pub(crate) struct Order {
    progress: Progress,
    ends: VecDeque<(Seq, Digest)>,
    retractions: VecDeque<Digest>,
}

/// What is to be done with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Serve it.
    Serve,
    /// Serve it, and say before it that something from this position on was never received: it
    /// names another flashblock as the one before it than the last one there was.
    ServeAfterGap(Position),
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
            Subject::End { seq, digest } => self.end(*seq, *digest),
            Subject::Retraction(digest) => self.retraction(*digest),
            // Gaps are stated by us, never received.
            Subject::Gap => Verdict::Duplicate,
        }
    }

    fn flashblock(&mut self, arrival: &Arrival) -> Verdict {
        let verdict = match self.progress.succession(arrival) {
            Succession::Next => Verdict::Serve,
            Succession::NewSession | Succession::Rewind => self.opening(arrival),
            Succession::Duplicate => return Verdict::Duplicate,
            Succession::Stale => return Verdict::Stale,
            Succession::Gap(_) => return Verdict::Missing,
            Succession::Equivocation => {
                return Verdict::Contradiction(Contradiction::Equivocation);
            }
            Succession::AfterLast => return Verdict::Contradiction(Contradiction::AfterLast),
        };
        self.progress.accept(arrival);
        verdict
    }

    /// Index 0 names the last flashblock of the session before: that one must be ours.
    fn opening(&self, arrival: &Arrival) -> Verdict {
        match (self.progress.digest(), self.progress.position()) {
            (Some(digest), Some(tip)) if digest != arrival.parent_digest => {
                Verdict::ServeAfterGap(Position::new(tip.seq, tip.index + 1))
            }
            (Some(_) | None, Some(_) | None) => Verdict::Serve,
        }
    }

    fn end(&mut self, seq: Seq, digest: Digest) -> Verdict {
        match self.ends.iter().find(|(ended, _)| *ended == seq) {
            Some((_, known)) if *known == digest => Verdict::Duplicate,
            Some(_) => Verdict::Contradiction(Contradiction::SecondEnd),
            None => {
                remember(&mut self.ends, (seq, digest));
                Verdict::Serve
            }
        }
    }

    fn retraction(&mut self, digest: Digest) -> Verdict {
        if self.retractions.contains(&digest) {
            return Verdict::Duplicate;
        }
        remember(&mut self.retractions, digest);
        Verdict::Serve
    }
}

fn remember<T>(statements: &mut VecDeque<T>, statement: T) {
    if statements.len() == STATEMENTS {
        statements.pop_front();
    }
    statements.push_back(statement);
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

    fn end(seq: u64, own: u8) -> Subject {
        Subject::End { seq: Seq::new(seq), digest: digest(own) }
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
    fn a_session_that_names_another_past_than_ours_begins_after_a_gap() {
        let mut order = Order::default();
        order.admit(&flashblock(5, 0, 1, 0));

        let missed = Position::new(Seq::new(5), 1);
        assert_eq!(order.admit(&flashblock(7, 0, 7, 6)), Verdict::ServeAfterGap(missed));
        assert_eq!(order.admit(&flashblock(8, 0, 8, 7)), Verdict::Serve);
    }

    #[test]
    fn the_first_session_that_is_seen_is_no_gap() {
        assert_eq!(Order::default().admit(&flashblock(7, 0, 7, 6)), Verdict::Serve);
    }

    #[test]
    fn a_session_ends_once() {
        let mut order = Order::default();
        assert_eq!(order.admit(&end(5, 1)), Verdict::Serve);
        assert_eq!(order.admit(&end(5, 1)), Verdict::Duplicate);
        let second = Verdict::Contradiction(Contradiction::SecondEnd);
        assert_eq!(order.admit(&end(5, 2)), second);
        assert_eq!(order.admit(&end(6, 2)), Verdict::Serve);
    }

    #[test]
    fn a_retraction_is_served_once_and_what_is_remembered_is_bounded() {
        let mut order = Order::default();
        assert_eq!(order.admit(&Subject::Retraction(digest(1))), Verdict::Serve);
        assert_eq!(order.admit(&Subject::Retraction(digest(1))), Verdict::Duplicate);
        for seq in 0..STATEMENTS as u64 + 10 {
            order.admit(&end(seq, 1));
        }
        assert_eq!(order.ends.len(), STATEMENTS);
    }
}
