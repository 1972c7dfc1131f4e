//! What a canonical block does to the pending chain, and what it shows about what was promised.

use std::collections::BTreeSet;

use alloy_primitives::B256;
use preconf_chain::Receipt;
use preconf_primitives::Seq;
use preconf_state::StateCache;

use super::{CanonicalHead, Effect, MAX_DEPTH, Machine};
use crate::{
    promises::{Audit, Contents},
    session::Session,
};

/// How many blocks below the canonical head are known by their hashes.
const MAX_ANCESTORS: usize = 64;

/// What a canonical block is to the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadRelation {
    /// It is the head already.
    Known,
    /// It is below the head: said by a client, one of several perhaps, that is behind. Taken for
    /// the head it would take back what is canonical; a chain that really goes back goes on with
    /// another block, which is then foreign.
    Ancestor,
    /// It is a block that was executed here before.
    Ours,
    /// It is another block than the one that was promised.
    Foreign,
    /// Nothing was promised for its place.
    Unpromised,
}

impl HeadRelation {
    /// The name used in logs and metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Known => "known",
            Self::Ancestor => "ancestor",
            Self::Ours => "ours",
            Self::Foreign => "foreign",
            Self::Unpromised => "unpromised",
        }
    }
}

/// What became of a canonical block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadReport {
    /// What it is.
    pub relation: HeadRelation,
    /// How promises turned out, as far as that is known without its content.
    pub audit: Audit,
}

impl Machine {
    /// Takes the head of the canonical chain.
    pub fn head(&mut self, head: CanonicalHead) -> HeadReport {
        let unchanged = |relation| HeadReport { relation, audit: Audit::default() };
        if self.canonical().is_some_and(|known| known.hash == head.hash) {
            return unchanged(HeadRelation::Known);
        }
        if self.ancestors.contains(&head.hash) {
            return unchanged(HeadRelation::Ancestor);
        }
        self.pass_below(&head);
        let (hash, number) = (head.hash, head.header.number);
        if self.canonical().is_some_and(|known| number <= known.header.number) {
            // Another block has taken the place of one that had kept its promises.
            self.promises.reopen(number);
        }
        for session in self.sessions.values_mut().filter(|session| session.number == number) {
            if session.parent_hash == head.header.parent_hash {
                session.recognise(hash, &head.header);
            }
        }
        let path = self.path_to(hash);
        let cache = self.state_after(&path, &head);
        let is_ours = self.ours(hash).is_some();
        self.remember_ancestors(&head);
        self.canonical = Some((head, cache));
        let (is_promised, audit) = self.settle_canonical(hash, number, &path);
        self.sessions.retain(|_, session| session.number > number);
        self.promises.forget_announced(number.saturating_sub(MAX_DEPTH as u64));
        self.publish();
        let relation = match (is_ours, is_promised) {
            (true, _) => HeadRelation::Ours,
            (false, true) => HeadRelation::Foreign,
            (false, false) => HeadRelation::Unpromised,
        };
        HeadReport { relation, audit }
    }

    /// Takes the transactions and receipts of a canonical block, in order, as
    /// [`Effect::FetchCanonical`] asked for; `None` if they cannot be had.
    pub fn content(&mut self, hash: B256, content: Option<&[(B256, Receipt)]>) -> Option<Audit> {
        let promises = self.promises.awaited(hash)?;
        let Some(content) = content else {
            return Some(Audit { unknown: promises.len() as u64, ..Audit::default() });
        };
        let mut before = 0;
        let canonical: Contents<'_> = content
            .iter()
            .map(|(transaction, receipt)| {
                let cumulative = receipt.cumulative_gas_used;
                let used = cumulative.saturating_sub(std::mem::replace(&mut before, cumulative));
                (*transaction, (receipt, used))
            })
            .collect();
        let shown = self.shown_transactions();
        let audit = self.promises.audit(&promises, &canonical, &shown);
        self.publish();
        Some(audit)
    }

    /// Goes to the block below a head first, if that is one of ours that was not told of: what it
    /// promised is compared with it, and not with what is built on it.
    fn pass_below(&mut self, head: &CanonicalHead) {
        let parent = head.header.parent_hash;
        let is_ours = self.sessions.values().any(|session| session.is_block(head.hash));
        if is_ours || self.canonical().is_some_and(|known| known.hash == parent) {
            return;
        }
        let below = self.ours(parent).and_then(Session::block).cloned();
        if let Some((hash, header)) = below {
            self.head(CanonicalHead { hash, header });
        }
    }

    /// Notes what is below the next head, as far as it is known.
    fn remember_ancestors(&mut self, head: &CanonicalHead) {
        let parent = head.header.parent_hash;
        match self.canonical().map(|known| known.hash) {
            Some(known) if known == parent => self.ancestors.push_back(known),
            Some(_) | None => match self.ancestors.iter().position(|hash| *hash == parent) {
                Some(at) => self.ancestors.truncate(at + 1),
                None => self.ancestors.clear(),
            },
        }
        if self.ancestors.len() > MAX_ANCESTORS {
            self.ancestors.pop_front();
        }
    }

    /// The session that is this block.
    fn ours(&self, hash: B256) -> Option<&Session> {
        self.sessions.values().find(|session| session.is_block(hash))
    }

    /// The sessions that lead from the canonical head to this block, lowest first; none if they do
    /// not reach it.
    fn path_to(&self, hash: B256) -> Vec<Seq> {
        let Some(canonical) = self.canonical() else { return Vec::new() };
        let mut path = Vec::new();
        let mut at = hash;
        while at != canonical.hash && path.len() < MAX_DEPTH {
            let Some(session) = self.ours(at) else { return Vec::new() };
            path.push(session.seq);
            at = session.parent_hash;
        }
        path.reverse();
        if at == canonical.hash { path } else { Vec::new() }
    }

    /// What is known of the state after a block: what was known before it and what it changed, if
    /// it was executed here; otherwise nothing.
    ///
    /// That the header is the same shows the same receipts, gas and requests; it does not show the
    /// same state, since no root is computed here.
    fn state_after(&self, path: &[Seq], head: &CanonicalHead) -> StateCache {
        let fresh = || StateCache::new(head.header.number, head.hash, self.limits.cache);
        let Some((_, cache)) = &self.canonical else { return fresh() };
        let mut cache = cache.clone();
        for session in path.iter().filter_map(|seq| self.sessions.get(seq)) {
            let (Some(closed), Some((hash, _))) = (session.closed(), session.block()) else {
                return fresh();
            };
            cache = cache.advance(&closed.diff, session.number, *hash);
        }
        if cache.block().1 == head.hash { cache } else { fresh() }
    }

    /// Compares what was promised up to this canonical block with it and with the blocks of ours
    /// that lead to it, at once if its content is known here. Says whether anything was promised.
    fn settle_canonical(&mut self, hash: B256, number: u64, path: &[Seq]) -> (bool, Audit) {
        let mut promises = self.promises.due(number);
        for session in self.sessions.values_mut().filter(|session| session.number <= number) {
            promises.extend(session.take_promises());
        }
        if promises.is_empty() {
            return (false, Audit::default());
        }
        let shown = self.shown_transactions();
        if let Some(head) = self.sessions.values().find(|session| session.is_block(hash)) {
            let below = path.iter().filter_map(|seq| self.sessions.get(seq));
            let canonical = below.flat_map(contents).chain(contents(head)).collect();
            let audit = self.promises.audit(&promises, &canonical, &shown);
            return (true, audit);
        }
        let given_up = self.promises.await_content(hash, promises);
        self.effects.push_back(Effect::FetchCanonical(hash));
        (true, given_up.unwrap_or_default())
    }

    /// The transactions that the pending chain above the canonical head promises.
    fn shown_transactions(&self) -> BTreeSet<B256> {
        let Some(canonical) = self.canonical() else { return BTreeSet::new() };
        let shown = self.sessions.values().filter(|session| {
            self.shown.has(session.seq) && session.number > canonical.header.number
        });
        shown.flat_map(|session| session.outcomes().map(|(transaction, ..)| transaction)).collect()
    }
}

/// What was executed of a session, by transaction.
pub(super) fn contents(session: &Session) -> Contents<'_> {
    session
        .outcomes()
        .map(|(transaction, receipt, gas_used)| (transaction, (receipt, gas_used)))
        .collect()
}
