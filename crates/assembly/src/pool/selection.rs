//! One block's way through the pool: which transaction is tried next.

use std::{cmp::Ordering, collections::BinaryHeap};

use alloy_primitives::{Address, map::AddressMap};
use preconf_chain::Transaction;

use super::Pool;

/// One block's way through the pool: which transaction is tried next, by effective tip.
///
/// Lives beside the pool, so that the pool can go on taking transactions; tell it of each one that
/// is taken with [`Selection::arrived`].
#[derive(Debug, Default)]
pub struct Selection {
    base_fee: u64,
    candidates: BinaryHeap<Candidate>,
    /// The nonce this block would use next, by sender.
    next_nonce: AddressMap<u64>,
}

#[derive(Debug, PartialEq, Eq)]
struct Candidate {
    tip: u128,
    arrival: u64,
    sender: Address,
    nonce: u64,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        let earlier = other.arrival.cmp(&self.arrival);
        self.tip.cmp(&other.tip).then(earlier).then_with(|| self.sender.cmp(&other.sender))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Selection {
    /// Begins a selection for a block with this base fee.
    pub(super) fn new(pool: &Pool, base_fee: u64) -> Self {
        let mut selection = Self { base_fee, ..Self::default() };
        for (address, sender) in &pool.senders {
            selection.next_nonce.insert(*address, sender.nonce);
            selection.offer(pool, *address, sender.nonce);
        }
        selection
    }

    /// The best candidate. It is not offered again unless [`Selection::retry`] says so.
    pub fn next(&mut self, pool: &Pool) -> Option<Transaction> {
        while let Some(Candidate { arrival, sender, nonce, .. }) = self.candidates.pop() {
            let waiting = pool.senders.get(&sender).and_then(|known| known.waiting.get(&nonce));
            let current = self.next_nonce.get(&sender) == Some(&nonce);
            match waiting {
                // Replaced or removed since it became a candidate: the entry is old.
                Some(waiting) if current && waiting.arrival == arrival => {
                    return Some(waiting.transaction.clone());
                }
                Some(_) | None => {}
            }
        }
        None
    }

    /// The block now holds the transaction with `nonce` of `sender`: the one after it may follow.
    pub fn included(&mut self, pool: &Pool, sender: Address, nonce: u64) {
        self.next_nonce.insert(sender, nonce + 1);
        self.offer(pool, sender, nonce + 1);
    }

    /// Offers a transaction again that could not be executed yet.
    pub fn retry(&mut self, pool: &Pool, sender: Address, nonce: u64) {
        self.offer(pool, sender, nonce);
    }

    /// A transaction of `sender` was taken into the pool.
    pub fn arrived(&mut self, pool: &Pool, sender: Address, nonce: u64) {
        let known = pool.senders.get(&sender).map_or(0, |known| known.nonce);
        let next = *self.next_nonce.entry(sender).or_insert(known);
        if next == nonce {
            self.offer(pool, sender, nonce);
        }
    }

    fn offer(&mut self, pool: &Pool, sender: Address, nonce: u64) {
        let waiting = pool.senders.get(&sender).and_then(|known| known.waiting.get(&nonce));
        let Some(waiting) = waiting else { return };
        // Whoever does not pay the base fee waits for a block where it is lower.
        let Some(tip) = waiting.effective_tip(self.base_fee) else { return };
        self.candidates.push(Candidate { tip, arrival: waiting.arrival, sender, nonce });
    }
}
