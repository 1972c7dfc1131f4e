//! Which sessions make up the pending chain, and which of it readers are shown.
//!
//! The two differ while a block is rebuilt: readers are shown the old chain until the new session
//! has executed what the old one had promised, or has come past what it promises first. What is then
//! absent is announced as a retraction. A chain that no longer stands on the canonical head is never
//! shown, not even for that long.

use std::{collections::BTreeSet, sync::Arc};

use preconf_primitives::Seq;

use super::{Effect, MAX_DEPTH, Machine, canonical::contents};
use crate::{
    promises::Contents,
    session::Session,
    snapshot::{BlockReference, Canonical, ExecutedFlashblock, Update},
};

/// The number of the first snapshot, less one. Above zero, so that whoever reconstructs a snapshot
/// piece by piece has numbers for the pieces.
const BEFORE_FIRST_SNAPSHOT: u64 = 1 << 32;

/// What readers were shown last.
#[derive(Debug)]
pub(super) struct Shown {
    snapshot_id: u64,
    canonical: Option<Canonical>,
    chain: Vec<BlockReference>,
}

impl Shown {
    pub(super) const fn new() -> Self {
        Self { snapshot_id: BEFORE_FIRST_SNAPSHOT, canonical: None, chain: Vec::new() }
    }

    pub(super) fn has(&self, seq: Seq) -> bool {
        self.block(seq).is_some()
    }

    fn block(&self, seq: Seq) -> Option<&BlockReference> {
        self.chain.iter().find(|block| block.seq == seq)
    }
}

impl Machine {
    /// The newest snapshot's id and how many pending blocks it has.
    pub fn shown(&self) -> (u64, usize) {
        (self.shown.snapshot_id, self.shown.chain.len())
    }

    /// The sessions that build on the canonical head and on each other, lowest first. All but the
    /// last are executed to their end.
    pub(super) fn line(&self) -> Vec<Seq> {
        let mut line = Vec::new();
        let Some(head) = self.canonical() else { return line };
        let (mut parent, mut number) = (head.hash, head.header.number);
        while line.len() < MAX_DEPTH {
            number = number.saturating_add(1);
            let next = self.sessions.values().rev().find(|session| {
                session.parent_hash == parent && session.number == number && session.is_candidate()
            });
            let Some(session) = next else { return line };
            line.push(session.seq);
            let Some((hash, _)) = session.block() else { return line };
            parent = *hash;
        }
        line
    }

    /// Tells readers what has changed for them, if anything has.
    pub(super) fn publish(&mut self) {
        let Some(head) = self.canonical() else { return };
        let canonical = Canonical {
            number: head.header.number,
            hash: head.hash,
            timestamp: head.header.timestamp,
        };
        let shown = self.to_show();
        self.carry_what_is_gone(&shown);
        self.settle(&shown);
        self.sessions.retain(|seq, session| !session.is_void || shown.contains(seq));
        let blocks = shown.iter().filter_map(|seq| self.sessions.get(seq));
        let chain: Vec<BlockReference> = blocks.map(Session::reference).collect();
        let is_news = self.shown.canonical != Some(canonical)
            || self.shown.chain != chain
            || self.promises.has_retractions();
        if !is_news {
            return;
        }
        let executed = self.unseen(&chain);
        for session in self.sessions.values_mut().filter(|session| shown.contains(&session.seq)) {
            session.promised = session.executed().len();
        }
        let snapshot_id = self.shown.snapshot_id + 1;
        let retracted = self.promises.take_retractions();
        for transaction in executed.iter().flat_map(|executed| &executed.transactions) {
            self.promises.promise_anew(transaction.transaction.hash());
        }
        self.shown = Shown { snapshot_id, canonical: Some(canonical), chain: chain.clone() };
        let is_part = false;
        let update = Update { snapshot_id, canonical, chain, executed, retracted, is_part };
        self.effects.push_back(Effect::Publish(Arc::new(update)));
    }

    /// The sessions to show now.
    fn to_show(&self) -> Vec<Seq> {
        let servable = |seq: &Seq| self.sessions.get(seq).is_some_and(Session::is_servable);
        let line: Vec<Seq> = self.line().into_iter().take_while(servable).collect();
        let standing = self.standing();
        let same = line.iter().zip(&standing).take_while(|(new, old)| new == old).count();
        let old = &standing[same..];
        let is_rebuilt = line.get(same).is_some_and(|new| self.is_ready(*new, old));
        if old.is_empty() || is_rebuilt { line } else { standing }
    }

    /// What is left of the chain shown last: the sessions that still build on the canonical head
    /// and on each other, whether or not a newer one has replaced them.
    fn standing(&self) -> Vec<Seq> {
        let mut standing = Vec::new();
        let Some(head) = self.canonical() else { return standing };
        let mut parent = Some(head.hash);
        for block in &self.shown.chain {
            // One that is gone has become canonical, or the next does not stand either.
            let Some(session) = self.sessions.get(&block.seq) else { continue };
            if Some(session.parent_hash) != parent || !session.is_servable() {
                break;
            }
            standing.push(session.seq);
            parent = session.block().map(|(hash, _)| *hash);
        }
        standing
    }

    /// Whether a session can be shown in place of others.
    fn is_ready(&self, new: Seq, old: &[Seq]) -> bool {
        let Some(new) = self.sessions.get(&new) else { return false };
        if new.is_past_promises() {
            return true;
        }
        let has: BTreeSet<_> = new.outcomes().map(|(transaction, ..)| transaction).collect();
        let old = old.iter().filter_map(|seq| self.sessions.get(seq));
        let mut promised = old.flat_map(|session| session.outcomes().map(|(hash, ..)| hash));
        promised.all(|transaction| has.contains(&transaction))
    }

    fn carry_what_is_gone(&mut self, shown: &[Seq]) {
        for session in self.sessions.values_mut() {
            if session.promised > 0 && !shown.contains(&session.seq) {
                self.promises.carry(session.take_promises());
            }
        }
    }

    /// Settles promises of replaced sessions against the chain that is shown.
    fn settle(&mut self, shown: &[Seq]) {
        if !self.promises.has_carried() {
            return;
        }
        let sessions: Vec<&Session> =
            shown.iter().filter_map(|seq| self.sessions.get(seq)).collect();
        let mut now = Contents::new();
        for session in &sessions {
            now.extend(contents(session));
        }
        let settled = sessions.iter().filter(|session| session.is_past_promises());
        let newest = settled.map(|session| session.seq).max();
        self.promises.settle(&now, |promise| newest.is_some_and(|newest| newest > promise.seq()));
    }

    /// What this chain names and the one shown last did not.
    fn unseen(&self, chain: &[BlockReference]) -> Vec<Arc<ExecutedFlashblock>> {
        let mut unseen = Vec::new();
        for block in chain {
            let known = self.shown.block(block.seq).map_or(0, |shown| shown.flashblocks);
            let executed = self.sessions.get(&block.seq).map_or(&[][..], Session::executed);
            let is_new = |executed: &&Arc<ExecutedFlashblock>| executed.position.index >= known;
            unseen.extend(executed.iter().filter(is_new).cloned());
        }
        unseen
    }
}
