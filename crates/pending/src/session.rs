//! One session as it is received and executed.
//!
//! Invariants: flashblocks are in order and without a hole; no more of them are executed than were
//! received; the final hash is known only of a block that was executed to its end and whose own
//! header has that hash.

use std::sync::Arc;

use alloy_primitives::B256;
use preconf_chain::{ChainSpec, Header, Receipt};
use preconf_primitives::{CUT_BYTES, Digest, Opening, Position, Sealed, Seq};

use crate::{
    execution::{Below, Closed, Execution, Progressed, Refusal},
    promises::Promise,
    received::Received,
    snapshot::{BlockReference, ExecutedFlashblock},
};

/// A session that may become part of the pending chain.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) seq: Seq,
    pub(crate) number: u64,
    pub(crate) parent_hash: B256,
    opening: Opening,
    flashblocks: Vec<Received>,
    executed: Vec<Arc<ExecutedFlashblock>>,
    execution: Execution,
    sealed: Option<Sealed>,
    is_ended: bool,
    is_abandoned: bool,
    /// Whether a newer session has taken back the block below it.
    pub(crate) is_void: bool,
    sealed_header: Option<(B256, Header)>,
    /// How many of its flashblocks readers were shown and are still promised.
    pub(crate) promised: usize,
    /// The bytes of its transactions.
    pub(crate) bytes: usize,
}

/// What became of a sealed statement.
#[derive(Clone, Debug)]
pub(crate) enum Finality {
    /// The flashblocks make the block that was sealed.
    Confirmed,
    /// They have not all been executed.
    Open,
    /// They make another block.
    Diverged(Refusal),
}

impl Session {
    /// The session that a first flashblock opens; `None` if it is none.
    pub(crate) fn open(first: Received) -> Option<Self> {
        let flashblock = first.flashblock();
        let opening = flashblock.opening()?.clone();
        let mut session = Self {
            seq: flashblock.seq(),
            number: flashblock.block_number(),
            parent_hash: opening.base.parent_hash,
            opening,
            flashblocks: Vec::new(),
            executed: Vec::new(),
            execution: Execution::default(),
            sealed: None,
            is_ended: false,
            is_abandoned: false,
            is_void: false,
            sealed_header: None,
            promised: 0,
            bytes: 0,
        };
        session.push(first);
        Some(session)
    }

    /// Adds the next flashblock.
    pub(crate) fn push(&mut self, received: Received) {
        self.bytes += received.flashblock().transaction_bytes();
        self.is_ended = received.flashblock().is_last();
        self.flashblocks.push(received);
    }

    /// The flashblock that was received at this index.
    pub(crate) fn flashblock(&self, index: u64) -> Option<&Received> {
        self.flashblocks.get(usize::try_from(index).ok()?)
    }

    pub(crate) fn last_digest(&self) -> Option<Digest> {
        self.flashblocks.last().map(Received::digest)
    }

    pub(crate) const fn is_ended(&self) -> bool {
        self.is_ended
    }

    /// Whether its sequencer has said how it ended.
    pub(crate) const fn is_settled(&self) -> bool {
        self.sealed.is_some() || self.is_abandoned
    }

    /// The block that its sequencer says it became.
    pub(crate) const fn sealed(&self) -> Option<&Sealed> {
        self.sealed.as_ref()
    }

    /// Whether so much of it is executed that what was promised before and is not in it was left
    /// out: promises come first, and fill flashblocks up to their size while there are any.
    pub(crate) fn is_past_promises(&self) -> bool {
        let executed = &self.flashblocks[..self.executed.len()];
        let short = |received: &Received| received.flashblock().transaction_bytes() < CUT_BYTES;
        self.is_complete() || (executed.len() >= 2 && executed.iter().any(short))
    }

    /// The transactions of it that were executed after this position.
    pub(crate) fn executed_after(&self, at: Position) -> impl Iterator<Item = B256> {
        let later = self.executed.iter().filter(move |executed| executed.position > at);
        let transactions = later.flat_map(|executed| &executed.transactions);
        transactions.map(|executed| *executed.transaction.hash())
    }

    pub(crate) fn abandon(&mut self) {
        self.is_abandoned = true;
    }

    pub(crate) fn refuse(&mut self, refusal: Refusal) {
        self.execution.refuse(refusal);
    }

    pub(crate) const fn is_waiting(&self) -> bool {
        self.execution.is_waiting()
    }

    pub(crate) const fn closed(&self) -> Option<&Closed> {
        self.execution.closed()
    }

    /// The hash and the header of the block, once both are certain.
    pub(crate) const fn block(&self) -> Option<&(B256, Header)> {
        self.sealed_header.as_ref()
    }

    /// Whether this is certainly its hash.
    pub(crate) fn is_block(&self, hash: B256) -> bool {
        self.sealed_header.as_ref().is_some_and(|(own, _)| *own == hash)
    }

    pub(crate) fn executed(&self) -> &[Arc<ExecutedFlashblock>] {
        &self.executed
    }

    /// Whether it can be part of the pending chain.
    pub(crate) fn is_candidate(&self) -> bool {
        !self.is_void && !self.has_diverged() && !self.is_refused_unexecuted()
    }

    /// Whether readers can be shown any of it.
    pub(crate) fn is_servable(&self) -> bool {
        !self.executed.is_empty() && !self.has_diverged()
    }

    /// Whether everything that its sequencer published in it is executed, and no more will come.
    pub(crate) fn is_complete(&self) -> bool {
        self.is_ended && self.executed.len() == self.flashblocks.len()
    }

    fn has_diverged(&self) -> bool {
        matches!(self.execution.refusal(), Some(Refusal::Diverged { .. }))
    }

    fn is_refused_unexecuted(&self) -> bool {
        self.execution.refusal().is_some() && self.executed.is_empty()
    }

    /// Does one thing. `below` is what it builds upon, needed as long as it waits.
    pub(crate) fn step(&mut self, spec: &Arc<ChainSpec>, below: Option<Below>) -> Progressed {
        if self.execution.closed().is_some() || self.execution.refusal().is_some() {
            return Progressed::Idle;
        }
        if let Some(below) = below.filter(|_| self.is_waiting()) {
            return self.execution.open(spec, &self.opening, &self.flashblocks[0], below);
        }
        let progressed = match self.flashblocks.get(self.executed.len()) {
            Some(received) => self.execution.extend(received),
            None if self.is_ended => self.execution.close(),
            None => Progressed::Idle,
        };
        if let Progressed::Executed(executed) = &progressed {
            self.executed.push(executed.clone());
        }
        progressed
    }

    /// Notes what block its sequencer says it became.
    pub(crate) fn seal(&mut self, sealed: Sealed) -> Finality {
        self.sealed = Some(sealed);
        self.confirm()
    }

    /// Compares the block that was sealed with the one that was executed, once both are known.
    pub(crate) fn confirm(&mut self) -> Finality {
        let (Some(sealed), Some(closed)) = (&self.sealed, self.execution.closed()) else {
            return Finality::Open;
        };
        let (sealed, header) = (sealed.block_hash, closed.header(sealed.state_root));
        let computed = header.hash_slow();
        if computed == sealed {
            self.sealed_header = Some((computed, header));
            return Finality::Confirmed;
        }
        let refusal = Refusal::Diverged { sealed, computed };
        self.execution.refuse(refusal.clone());
        Finality::Diverged(refusal)
    }

    /// Whether this canonical header is that of the block executed here. If so it is final.
    pub(crate) fn recognise(&mut self, hash: B256, canonical: &Header) -> bool {
        if let Some((known, _)) = &self.sealed_header {
            return *known == hash;
        }
        let Some(closed) = self.execution.closed() else { return false };
        let header = closed.header(canonical.state_root);
        if header.hash_slow() != hash {
            return false;
        }
        self.sealed_header = Some((hash, header));
        true
    }

    /// How a snapshot names what was executed of it.
    pub(crate) fn reference(&self) -> BlockReference {
        let last = self.executed.len().saturating_sub(1);
        let provisional = self.flashblocks[last].digest().get();
        let block = self.sealed_header.as_ref();
        BlockReference {
            seq: self.seq,
            number: self.number,
            flashblocks: self.executed.len() as u64,
            hash: block.map_or(provisional, |(hash, _)| *hash),
            state_root: block.map(|(_, header)| header.state_root),
            closing: self.execution.closed().map(|closed| closed.closing.clone()),
        }
    }

    /// The executed transactions that somebody sent, with their receipts and the gas that each
    /// used. The chain's own uses none, and differs from one build of a block to the next.
    pub(crate) fn outcomes(&self) -> impl Iterator<Item = (B256, &Receipt, u64)> {
        let mut before = 0;
        let transactions = self.executed.iter().flat_map(|executed| &executed.transactions);
        let sent = transactions.filter(|executed| !executed.transaction.envelope().is_pol());
        sent.map(move |executed| {
            let cumulative = executed.receipt.cumulative_gas_used;
            let gas_used = cumulative - std::mem::replace(&mut before, cumulative);
            (*executed.transaction.hash(), &executed.receipt, gas_used)
        })
    }

    /// Hands over what readers were promised of it.
    pub(crate) fn take_promises(&mut self) -> Vec<Promise> {
        let shown = std::mem::take(&mut self.promised);
        let mut promises = Vec::new();
        let mut before = 0;
        for executed in &self.executed[..shown] {
            let transactions = executed.transactions.iter().enumerate();
            let sent = transactions.filter(|(_, sent)| !sent.transaction.envelope().is_pol());
            for (offset, transaction) in sent {
                let cumulative = transaction.receipt.cumulative_gas_used;
                let gas_used = cumulative - std::mem::replace(&mut before, cumulative);
                promises.push(Promise::new(executed.clone(), offset, self.number, gas_used));
            }
        }
        promises
    }
}
