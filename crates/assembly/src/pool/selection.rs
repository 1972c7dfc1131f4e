//! One block's way through the pool: which transaction is tried next.

use std::{cmp::Ordering, collections::BinaryHeap};

use alloy_primitives::{Address, map::AddressMap};
use preconf_chain::Transaction;

use super::{Fees, Pool};

/// One block's way through the pool: which transaction is tried next, by effective tip.
///
/// Lives beside the pool, so that the pool can go on taking transactions; tell it of each one that
/// is taken with [`Selection::arrived`].
#[derive(Debug, Default)]
pub struct Selection {
    fees: Fees,
    candidates: BinaryHeap<Candidate>,
    /// The nonce this block would use next, by sender.
    next_nonce: AddressMap<u64>,
    /// The number of the sender whose transaction was given last.
    last: u32,
}

/// The next transaction of a sender. Small, because there is one for each sender and they are
/// moved about; which transaction it was tells the arrival, which is never used again.
#[derive(Debug, PartialEq, Eq)]
struct Candidate {
    tip: u128,
    arrival: u64,
    /// The sender's number in the pool when this became a candidate.
    sender: u32,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        let earlier = other.arrival.cmp(&self.arrival);
        self.tip.cmp(&other.tip).then(earlier).then(self.sender.cmp(&other.sender))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Selection {
    /// Begins a selection for a block with these fees.
    pub(super) fn new(pool: &Pool, fees: Fees) -> Self {
        let mut selection = Self { fees, ..Self::default() };
        selection.next_nonce.reserve(pool.numbers.len());
        for (address, number) in &pool.numbers {
            let sender = &pool.senders[*number as usize];
            selection.next_nonce.insert(*address, sender.nonce);
            selection.offer(pool, *number, sender.nonce);
        }
        selection
    }

    /// The best candidate. It is not offered again unless [`Selection::retry`] says so.
    pub fn next(&mut self, pool: &Pool) -> Option<Transaction> {
        while let Some(Candidate { arrival, sender: number, .. }) = self.candidates.pop() {
            let sender = pool.senders.get(number as usize);
            let waiting = sender.and_then(|sender| {
                let nonce = self.next_nonce.get(&sender.address)?;
                sender.waiting.get(*nonce)
            });
            match waiting {
                // Replaced, removed or included since it became a candidate: the entry is old.
                Some(waiting) if waiting.arrival == arrival => {
                    self.last = number;
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
        self.offer_of(pool, sender, nonce + 1);
    }

    /// Offers a transaction again that could not be executed yet.
    pub fn retry(&mut self, pool: &Pool, sender: Address, nonce: u64) {
        self.offer_of(pool, sender, nonce);
    }

    /// A transaction of `sender` was taken into the pool.
    pub fn arrived(&mut self, pool: &Pool, sender: Address, nonce: u64) {
        // The block may have used a nonce without a transaction of the sender (EIP-7702).
        let known = pool.sender(&sender).map_or(0, |known| known.nonce.max(known.begun));
        let next = self.next_nonce.entry(sender).or_default();
        *next = known.max(*next);
        if *next == nonce {
            self.offer_of(pool, sender, nonce);
        }
    }

    fn offer_of(&mut self, pool: &Pool, sender: Address, nonce: u64) {
        // Mostly it is the one whose transaction was given last.
        let given = pool.senders.get(self.last as usize);
        let number = match given {
            Some(given) if given.address == sender => Some(self.last),
            Some(_) | None => pool.numbers.get(&sender).copied(),
        };
        if let Some(number) = number {
            self.offer(pool, number, nonce);
        }
    }

    fn offer(&mut self, pool: &Pool, number: u32, nonce: u64) {
        let waiting = pool.senders.get(number as usize).and_then(|known| known.waiting.get(nonce));
        let Some(waiting) = waiting else { return };
        // Whoever does not pay the fees waits for a block where they are lower.
        let Some(tip) = waiting.effective_tip(self.fees) else { return };
        self.candidates.push(Candidate { tip, arrival: waiting.arrival, sender: number });
    }
}
