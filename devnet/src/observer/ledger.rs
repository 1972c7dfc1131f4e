//! What was promised, by whom and in which order, and what became of it.
//!
//! A promise belongs to the block that made it first. It is kept if the canonical block with that
//! number holds the transaction, whoever built that block; later promises of the same transaction
//! do not mend an earlier one that was broken. A promise that is taken back was broken, even if that
//! is said after its block was settled.
//!
//! A block of the builder has a signed end: it was sealed with the hash that it has, or the builder
//! gave it up and handed out its client's block. One without an end proves nothing and is counted.
//!
//! Bounds: what belongs to blocks that were settled is forgotten, kept promises after
//! [`REMEMBERED`] blocks.

use std::collections::{BTreeMap, HashMap, HashSet};

use alloy_primitives::B256;
use preconf_primitives::{AbandonReason, Arrival, Position, Progress, Succession};
use preconf_signing::{Checked, Refusal, SignedFlashblock, Verifier};
use preconf_wire::feed::FeedItem;
use tracing::warn;

use crate::{
    consensus::{CanonicalBlock, Source},
    samples::Samples,
};

/// For how many blocks a promise that was kept can still be taken back.
const REMEMBERED: u64 = 64;

/// The books of one reader of the feed.
#[derive(Debug)]
pub struct Ledger {
    verifier: Verifier,
    progress: Progress,
    /// By number, from the first that was not settled.
    blocks: BTreeMap<u64, Promised>,
    /// The block that promised a transaction first.
    promised: HashMap<B256, u64>,
    /// What was taken back by a signed statement.
    taken_back: HashSet<B256>,
    /// Promises that were kept, and the block that did; for a while.
    kept: HashMap<B256, u64>,
    /// Promises that their block did not keep, and of which nothing has been said.
    open: HashSet<B256>,
    /// Promises for blocks to come that a block before holds: one that was rebuilt.
    early: HashSet<B256>,
    /// How often promises were taken back, by cause.
    causes: BTreeMap<&'static str, u64>,
    /// From where on something is missing.
    missing: Option<Position>,
    /// The last flashblock and its time, if the session goes on.
    before: Option<(Position, u64)>,
    cadence: Samples,
    /// When whoever publishes was last silenced, in milliseconds since the epoch.
    silenced: Option<u64>,
    /// How long that lasted, each time.
    silences: Samples,
    totals: Totals,
}

/// What was promised for one block.
#[derive(Debug, Default)]
struct Promised {
    flashblocks: u64,
    transactions: Vec<B256>,
    end: Option<SessionEnd>,
}

/// How the newest session of a block ended, as the sequencer signed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEnd {
    /// It became the block with this hash.
    Sealed(B256),
    /// It was given up.
    Abandoned(AbandonReason),
}

/// What became of the promises for one block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Flashblocks that were published for it.
    pub flashblocks: u64,
    /// Transactions that it was the first to promise.
    pub preconfirmed: u64,
    /// Those of them that it holds.
    pub kept: u64,
    /// How its session ended, if that was said.
    pub end: Option<SessionEnd>,
}

/// The sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Blocks that were settled.
    pub blocks: u64,
    /// Flashblocks published for them.
    pub flashblocks: u64,
    /// Transactions promised by them.
    pub preconfirmed: u64,
    /// Transactions that are where they were promised.
    pub kept: u64,
    /// Transactions that are not, or were taken back.
    pub retracted: u64,
    /// Transactions that another block holds than the one that promised them first.
    pub moved: u64,
    /// Holes in the feed.
    pub gaps: u64,
    /// Signatures and seals that were not good.
    pub invalid_signatures: u64,
    /// Messages without a meaning, out of order, or contradicting others.
    pub contradictions: u64,
    /// Blocks of the builder that were sealed with another hash than they have.
    pub missealed: u64,
    /// Sealed blocks that did not reach their proposer in time, who proposed another.
    pub unused: u64,
    /// Blocks of the builder of which it never said how they ended.
    pub unsealed: u64,
    /// Blocks that an execution client built: the validators', or the builder's own.
    pub fallbacks: u64,
}

impl Ledger {
    /// Empty books.
    pub fn new(verifier: Verifier) -> Self {
        Self {
            verifier,
            progress: Progress::new(),
            blocks: BTreeMap::new(),
            promised: HashMap::new(),
            taken_back: HashSet::new(),
            kept: HashMap::new(),
            open: HashSet::new(),
            early: HashSet::new(),
            causes: BTreeMap::new(),
            missing: None,
            before: None,
            cadence: Samples::default(),
            silenced: None,
            silences: Samples::default(),
            totals: Totals::default(),
        }
    }

    /// The first position that is wanted after a reconnect.
    pub fn cursor(&self) -> Option<Position> {
        let next = |last: Position| Position::new(last.seq, last.index + 1);
        self.missing.or_else(|| self.progress.position().map(next))
    }

    /// Whether a hole is open.
    pub const fn misses_something(&self) -> bool {
        self.missing.is_some()
    }

    /// Whether anything was promised for a block.
    pub fn has_begun(&self, number: u64) -> bool {
        self.blocks.get(&number).is_some_and(|block| block.flashblocks > 0)
    }

    /// Whether it was said how the session of a block ended.
    pub fn has_ended(&self, number: u64) -> bool {
        self.end(number).is_some()
    }

    /// How the newest session of a block ended, if it was said and the block is not settled.
    pub fn end(&self, number: u64) -> Option<SessionEnd> {
        self.blocks.get(&number)?.end
    }

    /// Takes note of a frame that has no meaning.
    pub const fn bad_frame(&mut self) {
        self.totals.contradictions += 1;
    }

    /// Takes note of a message.
    pub fn read(&mut self, item: FeedItem) {
        match item {
            FeedItem::Flashblock(signed) => self.flashblock(signed),
            FeedItem::Abandoned(signed) => {
                let number = signed.statement.block_number;
                if let Some(signed) = self.good(|verifier| verifier.abandoned(signed)) {
                    self.before = None;
                    let reason = signed.get().statement.reason;
                    let block = self.blocks.entry(number).or_default();
                    block.end = Some(SessionEnd::Abandoned(reason));
                    warn!(number, reason = reason.as_str(), "a session was abandoned");
                }
            }
            FeedItem::Sealed(signed) => {
                if let Some(signed) = self.good(|verifier| verifier.sealed(signed)) {
                    let sealed = &signed.get().statement;
                    let block = self.blocks.entry(sealed.block_number).or_default();
                    block.end = Some(SessionEnd::Sealed(sealed.block_hash));
                }
            }
            FeedItem::Retracted(signed) => {
                if let Some(signed) = self.good(|verifier| verifier.retracted(signed)) {
                    for retraction in &signed.get().statement.retractions {
                        let (transaction, cause) = (retraction.transaction, retraction.cause);
                        warn!(%transaction, cause = cause.as_str(), "a promise was taken back");
                        *self.causes.entry(cause.as_str()).or_default() += 1;
                        self.take_back(transaction);
                    }
                }
            }
            FeedItem::Gap { wanted, next } => {
                warn!(%wanted, %next, "the gateway no longer has what was missed");
                self.totals.gaps += 1;
                self.missing = None;
            }
            FeedItem::Goodbye { .. } => {}
        }
    }

    fn take_back(&mut self, transaction: B256) {
        self.open.remove(&transaction);
        if self.promised.contains_key(&transaction) {
            self.taken_back.insert(transaction);
        } else if self.kept.remove(&transaction).is_some() {
            // Its block was settled. One that was not kept was counted then.
            self.totals.kept -= 1;
            self.totals.retracted += 1;
        }
    }

    fn flashblock(&mut self, signed: SignedFlashblock) {
        let verified = self.good(|verifier| verifier.flashblock(signed, Checked::Both));
        let Some(verified) = verified else { return };
        let flashblock = verified.flashblock();
        let arrival = Arrival::of(flashblock, verified.digest());
        let position = flashblock.position();
        match self.progress.succession(&arrival) {
            Succession::Next => {}
            Succession::NewSession | Succession::Rewind => {
                // It names the last digest before it: another one was not seen.
                let last = self.progress.digest();
                if last.is_some_and(|last| last != flashblock.parent_digest()) {
                    warn!(%position, "the end of the session before is missing");
                    self.totals.gaps += 1;
                }
                self.before = None;
            }
            Succession::Duplicate | Succession::Stale => return,
            Succession::Gap(from) => {
                // A hole that was reported stays one until its first flashblock has come.
                if self.missing.replace(from) != Some(from) {
                    warn!(%position, missing = %from, "flashblocks are missing");
                    self.totals.gaps += 1;
                }
                return;
            }
            succession @ (Succession::Equivocation | Succession::AfterLast) => {
                warn!(%position, ?succession, "a signed contradiction");
                self.totals.contradictions += 1;
                return;
            }
        }
        self.missing = None;
        self.progress.accept(&arrival);
        let number = flashblock.block_number();
        let block = self.blocks.entry(number).or_default();
        block.flashblocks += 1;
        // How an earlier session ended says nothing about this one.
        block.end = None;
        for transaction in flashblock.transactions() {
            let hash = alloy_primitives::keccak256(transaction);
            self.promised.entry(hash).or_insert_with(|| {
                block.transactions.push(hash);
                number
            });
        }
        let published = flashblock.published_at_ms();
        if let Some(silenced) = self.silenced.filter(|silenced| published > *silenced) {
            self.silences.add((published - silenced) as f64);
            self.silenced = None;
        }
        let before = self.before.replace((position, published));
        if flashblock.is_last() {
            // It comes when the block is asked for, not when it is due.
            self.before = None;
        } else if let Some((_, before)) = before {
            self.cadence.add(published.saturating_sub(before) as f64);
        }
    }

    /// What verifies; the rest is counted.
    fn good<T>(&mut self, check: impl FnOnce(&Verifier) -> Result<T, Refusal>) -> Option<T> {
        match check(&self.verifier) {
            Ok(verified) => Some(verified),
            Err(refusal) => {
                warn!(%refusal, "a signature that is not good");
                self.totals.invalid_signatures += 1;
                None
            }
        }
    }

    /// Compares what was promised for a block with what it holds, once.
    pub fn settle(&mut self, canonical: &CanonicalBlock) -> Settled {
        let promised = self.blocks.remove(&canonical.number).unwrap_or_default();
        let holds: HashSet<&B256> = canonical.transactions.iter().collect();
        let mut settled = Settled {
            flashblocks: promised.flashblocks,
            preconfirmed: 0,
            kept: 0,
            end: promised.end,
        };
        for transaction in promised.transactions {
            settled.preconfirmed += 1;
            self.promised.remove(&transaction);
            let taken_back = self.taken_back.remove(&transaction);
            if !holds.contains(&transaction) {
                let number = canonical.number;
                warn!(%transaction, number, "a promise was not kept by its block");
                if self.early.remove(&transaction) {
                    self.totals.moved += 1;
                } else if !taken_back {
                    self.open.insert(transaction);
                }
            } else if !taken_back {
                settled.kept += 1;
                self.kept.insert(transaction, canonical.number);
            }
        }
        for transaction in &canonical.transactions {
            self.totals.moved += u64::from(self.open.remove(transaction));
            if self.promised.contains_key(transaction) {
                self.early.insert(*transaction);
            }
        }
        // What is older can no longer become canonical.
        self.blocks.retain(|number, _| *number > canonical.number);
        self.promised.retain(|_, number| *number > canonical.number);
        self.taken_back.retain(|transaction| self.promised.contains_key(transaction));
        self.early.retain(|transaction| self.promised.contains_key(transaction));
        self.kept.retain(|_, number| *number + REMEMBERED > canonical.number);
        self.totals.blocks += 1;
        self.totals.flashblocks += settled.flashblocks;
        self.totals.preconfirmed += settled.preconfirmed;
        self.totals.kept += settled.kept;
        self.totals.retracted += settled.preconfirmed - settled.kept;
        self.compare_end(canonical, settled.end);
        settled
    }

    fn compare_end(&mut self, canonical: &CanonicalBlock, end: Option<SessionEnd>) {
        let (number, source) = (canonical.number, &canonical.source);
        match (source, end) {
            (Source::Builder, Some(SessionEnd::Sealed(hash))) if hash != canonical.hash => {
                warn!(number, "the block is not the one that was sealed");
                self.totals.missealed += 1;
            }
            (Source::Fallback(_), Some(SessionEnd::Sealed(hash))) if hash != canonical.hash => {
                warn!(number, "the block that was sealed did not reach its proposer");
                self.totals.unused += 1;
            }
            (Source::Builder, None) => {
                warn!(number, "it was never said how the session of the builder's block ended");
                self.totals.unsealed += 1;
            }
            (Source::Builder, Some(SessionEnd::Sealed(_) | SessionEnd::Abandoned(_)))
            | (Source::Fallback(_), _) => {}
        }
        let is_sealed = matches!(end, Some(SessionEnd::Sealed(_)) | None);
        self.totals.fallbacks += u64::from(*source != Source::Builder || !is_sealed);
    }

    /// The sums so far.
    pub const fn totals(&self) -> Totals {
        self.totals
    }

    /// Promises that were not kept, not even by another block, and never taken back.
    pub fn silent(&self) -> Vec<B256> {
        self.open.iter().copied().collect()
    }

    /// How often promises were taken back, by cause.
    pub const fn causes(&self) -> &BTreeMap<&'static str, u64> {
        &self.causes
    }

    /// Whoever publishes was silenced just now: what is published from now on ends that.
    pub fn silence(&mut self, now_ms: u64) {
        self.silenced.get_or_insert(now_ms);
    }

    /// How long each silence lasted that was announced.
    pub const fn silences(&self) -> &Samples {
        &self.silences
    }

    /// The times between flashblocks that followed each other, the last of a session apart.
    pub const fn cadence(&self) -> &Samples {
        &self.cadence
    }
}

#[cfg(test)]
mod tests;
