//! What canonical blocks hold, for as long as they may still be replaced.
//!
//! A promise that the chain holds is kept; if its block is replaced it is a promise again, and comes
//! before those that were made later. Nobody else has it then: the pool has let go of it. Only the
//! last [`REPLACEABLE`] blocks are remembered.

use std::collections::VecDeque;

use alloy_primitives::{Address, B256, map::HashSet};
use preconf_chain::Transaction;

use crate::Promised;

/// How many canonical blocks may be replaced without promises being forgotten. Chains that are
/// preconfirmed replace one at most before it is final, or two.
const REPLACEABLE: usize = 8;

/// What a canonical block holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanonicalBlock {
    /// Its number.
    pub number: u64,
    /// Its hash.
    pub hash: B256,
    /// Sender, nonce and hash of each of its transactions.
    pub used: Vec<(Address, u64, B256)>,
}

/// The last canonical blocks, the newest last.
#[derive(Debug, Default)]
pub(crate) struct Settled(VecDeque<SettledBlock>);

#[derive(Debug)]
struct SettledBlock {
    block: CanonicalBlock,
    hashes: HashSet<B256>,
    /// Promises that it keeps, and that were made for other blocks.
    kept: Vec<Transaction>,
    /// What was promised for it, if it was built here. Not all of that need be in it.
    built: Promised,
}

impl Settled {
    /// Takes out the blocks with this number and above: what they had used, and the promises that
    /// they kept, in the order in which these were made.
    pub(crate) fn revert(&mut self, number: u64) -> (Vec<(Address, u64)>, Vec<Transaction>) {
        let stay = self.0.iter().take_while(|settled| settled.block.number < number).count();
        let (mut used, mut promised) = (Vec::new(), Vec::new());
        for SettledBlock { block, hashes, kept, built } in self.0.drain(stay..) {
            used.extend(block.used.iter().map(|(sender, nonce, _)| (*sender, *nonce)));
            promised.extend(kept);
            promised.extend(built.without(|transaction| !hashes.contains(transaction.hash())));
        }
        (used, promised)
    }

    /// Adds a block on top. `unsettled` are all promises made for others, `built` those for the
    /// block that was built here; what is still promised then is returned.
    pub(crate) fn add(
        &mut self,
        block: CanonicalBlock,
        unsettled: Vec<Transaction>,
        built: Promised,
    ) -> Vec<Transaction> {
        let hashes: HashSet<B256> = block.used.iter().map(|(_, _, hash)| *hash).collect();
        let is_kept = |transaction: &Transaction| hashes.contains(transaction.hash());
        let (kept, mut open): (Vec<_>, Vec<_>) = unsettled.into_iter().partition(&is_kept);
        open.extend(built.clone().without(is_kept));
        if self.0.len() >= REPLACEABLE {
            self.0.pop_front();
        }
        self.0.push_back(SettledBlock { block, hashes, kept, built });
        open
    }

    /// The number and the hash of the newest one.
    pub(crate) fn newest(&self) -> Option<(u64, B256)> {
        self.0.back().map(|settled| (settled.block.number, settled.block.hash))
    }

    /// Whether one of the blocks holds this transaction.
    pub(crate) fn holds(&self, hash: &B256) -> bool {
        self.0.iter().any(|settled| settled.hashes.contains(hash))
    }
}
