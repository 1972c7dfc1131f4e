//! The last sessions and what was signed in them.
//!
//! Bounded by the number of sessions and by that of flashblocks; when either bound is passed, the
//! oldest session is forgotten, but not the one that was signed in last, which the next one follows.
//! What is forgotten can no longer be proved, nor be signed again, but it cannot be contradicted
//! either: only the newest session can be continued.

use std::collections::VecDeque;

use preconf_primitives::{Abandoned, Digest, MAX_INDEX, Position, Sealed, Seq, Session};
use preconf_signing::SignerRefusalReason;

use super::{Contradiction, Entry, Opened, Record, Refused};

/// How many sessions are remembered.
pub const MAX_SESSIONS: usize = 64;
/// How many flashblocks are remembered, besides those of the newest session.
const MAX_ENTRIES: usize = 65_536;

/// The last sessions, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct History {
    sessions: VecDeque<SessionLog>,
}

/// One session, from its opening to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SessionLog {
    opened: Opened,
    entries: Vec<Entry>,
    end: Option<End>,
}

/// How a session ended, other than by `is_last`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    Abandoned(Abandoned),
    Sealed(Sealed),
}

impl History {
    pub(super) fn get(&self, seq: Seq) -> Option<&SessionLog> {
        let at = self.sessions.binary_search_by_key(&seq, |log| log.session().seq).ok()?;
        self.sessions.get(at)
    }

    pub(super) fn newest(&self) -> Option<&SessionLog> {
        self.sessions.back()
    }

    /// How many of the sessions are for this block.
    pub(super) fn sessions_for(&self, block_number: u64) -> usize {
        self.sessions.iter().filter(|log| log.session().block_number == block_number).count()
    }

    /// What leads an empty history to this one.
    pub(super) fn records(&self) -> impl Iterator<Item = Record> {
        self.sessions.iter().flat_map(|log| {
            let entries = log.entries.iter().map(|entry| Record::from(*entry));
            let end = log.end.clone().map(|end| match end {
                End::Abandoned(abandoned) => abandoned.into(),
                End::Sealed(sealed) => sealed.into(),
            });
            [Record::from(log.opened)].into_iter().chain(entries).chain(end)
        })
    }

    /// Opens a session, whose number is above that of all others.
    pub(super) fn open(&mut self, opened: Opened) {
        self.sessions.push_back(SessionLog { opened, entries: Vec::new(), end: None });
        let mut entries: usize = self.sessions.iter().map(|log| log.entries.len()).sum();
        while self.sessions.len() > MAX_SESSIONS || entries > MAX_ENTRIES {
            let signed_last = self.sessions.iter().rposition(|log| !log.entries.is_empty());
            let oldest = usize::from(signed_last == Some(0));
            entries -= self.sessions.remove(oldest).map_or(0, |log| log.entries.len());
        }
    }

    pub(super) fn append(&mut self, entry: Entry) -> Result<(), Contradiction> {
        let log = self.unended(entry.position.seq)?;
        let expected = log.next_position();
        if entry.position != expected {
            return Err(Contradiction::Hole { found: entry.position, expected });
        }
        log.entries.push(entry);
        Ok(())
    }

    pub(super) fn end(&mut self, seq: Seq, end: End) -> Result<(), Contradiction> {
        self.unended(seq)?.end = Some(end);
        Ok(())
    }

    /// The newest session, if it is this one.
    fn unended(&mut self, seq: Seq) -> Result<&mut SessionLog, Contradiction> {
        let newest = self.sessions.back_mut().filter(|log| log.session().seq == seq);
        let log = newest.ok_or(Contradiction::NotNewest(seq))?;
        if log.end.is_some() { Err(Contradiction::Ended(seq)) } else { Ok(log) }
    }
}

impl SessionLog {
    pub(super) const fn session(&self) -> &Session {
        &self.opened.session
    }

    pub(super) const fn opened(&self) -> Opened {
        self.opened
    }

    pub(super) fn entry(&self, index: u64) -> Option<&Entry> {
        self.entries.get(usize::try_from(index).ok()?)
    }

    pub(super) fn last(&self) -> Option<&Entry> {
        self.entries.last()
    }

    pub(super) const fn end_record(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// The last digest; of the session before, if nothing was signed in this one.
    pub(super) fn last_digest(&self) -> Digest {
        self.last().map_or(self.opened.parent_digest, |entry| entry.digest)
    }

    /// The position after the last one.
    pub(super) fn next_position(&self) -> Position {
        Position::new(self.session().seq, self.entries.len() as u64)
    }

    /// Whether nothing happened in it since it was opened.
    pub(super) const fn is_untouched(&self) -> bool {
        self.entries.is_empty() && self.end.is_none()
    }

    /// Whether no flashblock can follow: it was ended, ended itself, or is full.
    pub(super) fn has_ended(&self) -> bool {
        let is_full = self.entries.len() as u64 > MAX_INDEX;
        self.end.is_some() || is_full || self.last().is_some_and(|entry| entry.is_last)
    }

    /// A refusal that shows the last flashblock of this session.
    pub(super) fn refused(&self, reason: SignerRefusalReason) -> Refused {
        Refused { evidence: self.last().copied().map(Box::new), ..Refused::new(reason) }
    }
}
