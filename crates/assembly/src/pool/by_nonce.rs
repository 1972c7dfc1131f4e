//! The waiting transactions of one sender, in nonce order.
//!
//! They nearly always follow each other without a gap, so the first nonce says where a transaction
//! is, and it is looked for only if it is not there. They lie next to each other, and what the pool
//! decides by lies with them, so that no transaction itself is touched before it is executed.

use std::{collections::VecDeque, num::NonZeroU64};

use alloy_consensus::Transaction as _;
use alloy_primitives::U256;
use preconf_chain::Transaction;

use super::{
    Fees,
    sender::{blob_fee_cap, cost_of, fee_cap, tip_cap},
};

/// A transaction that waits, and what decides about it.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) transaction: Transaction,
    pub(super) arrival: u64,
    pub(super) nonce: u64,
    tip_cap: u128,
    fee_cap: u128,
    /// What its blobs pay at most for a unit of their gas, if it has any.
    blob_fee_cap: Option<NonZeroU64>,
    /// The most it can cost its sender.
    pub(super) cost: U256,
}

impl Waiting {
    pub(super) fn new(transaction: Transaction, arrival: u64) -> Self {
        let nonce = transaction.envelope().nonce();
        let (fee_cap, tip_cap) = (fee_cap(&transaction), tip_cap(&transaction));
        let cost = cost_of(&transaction);
        // Where this matters, no fee has more than 64 bits.
        let blob_fee_cap = u64::try_from(blob_fee_cap(&transaction)).unwrap_or(u64::MAX);
        let blob_fee_cap = NonZeroU64::new(blob_fee_cap);
        Self { transaction, arrival, nonce, tip_cap, fee_cap, blob_fee_cap, cost }
    }

    pub(super) fn has_blobs(&self) -> bool {
        self.blob_fee_cap.is_some()
    }

    /// What a unit of gas pays beyond the base fee; `None` if it does not even pay that, or not
    /// what its blobs cost.
    pub(super) fn effective_tip(&self, fees: Fees) -> Option<u128> {
        if let Some(cap) = self.blob_fee_cap
            && fees.blob.is_none_or(|fee| u128::from(cap.get()) < fee)
        {
            return None;
        }
        let most = self.fee_cap.checked_sub(u128::from(fees.base))?;
        Some(most.min(self.tip_cap))
    }
}

/// Transactions with ascending nonces.
#[derive(Debug, Default)]
pub(super) struct ByNonce(VecDeque<Waiting>);

impl ByNonce {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn get(&self, nonce: u64) -> Option<&Waiting> {
        self.0.get(self.find(nonce).ok()?)
    }

    pub(super) fn last(&self) -> Option<&Waiting> {
        self.0.back()
    }

    /// Those with this nonce or a later one.
    pub(super) fn from(&self, nonce: u64) -> impl Iterator<Item = &Waiting> {
        let (Ok(at) | Err(at)) = self.find(nonce);
        self.0.range(at..)
    }

    /// Puts one in its place; the one whose place that was is returned.
    pub(super) fn insert(&mut self, waiting: Waiting) -> Option<Waiting> {
        match self.find(waiting.nonce) {
            Ok(at) => Some(std::mem::replace(&mut self.0[at], waiting)),
            Err(at) => {
                self.0.insert(at, waiting);
                None
            }
        }
    }

    pub(super) fn remove(&mut self, nonce: u64) -> Option<Waiting> {
        self.0.remove(self.find(nonce).ok()?)
    }

    /// Takes out those before this nonce.
    pub(super) fn take_before(&mut self, nonce: u64) -> VecDeque<Waiting> {
        let kept = self.take_from(nonce);
        std::mem::replace(&mut self.0, kept)
    }

    /// Takes out those with this nonce or a later one.
    pub(super) fn take_from(&mut self, nonce: u64) -> VecDeque<Waiting> {
        let (Ok(at) | Err(at)) = self.find(nonce);
        self.0.split_off(at)
    }

    /// Where it is, or would be.
    fn find(&self, nonce: u64) -> Result<usize, usize> {
        let Some(first) = self.0.front() else { return Err(0) };
        let Some(ahead) = nonce.checked_sub(first.nonce) else { return Err(0) };
        // Of ascending nonces, none is farther back than this.
        let at = usize::try_from(ahead).unwrap_or(usize::MAX);
        match self.0.get(at) {
            Some(waiting) if waiting.nonce == nonce => Ok(at),
            Some(_) | None => self.0.binary_search_by_key(&nonce, |waiting| waiting.nonce),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{SENDER, transfer, unsigned};

    fn nonces<'a>(waiting: impl IntoIterator<Item = &'a Waiting>) -> Vec<u64> {
        waiting.into_iter().map(|waiting| waiting.nonce).collect()
    }

    fn with(nonces: &[u64]) -> ByNonce {
        let mut waiting = ByNonce::default();
        for nonce in nonces {
            waiting.insert(Waiting::new(unsigned(transfer(*nonce), SENDER), 1));
        }
        waiting
    }

    #[test]
    fn each_is_found_whether_or_not_there_are_gaps() {
        for wanted in [&[3, 4, 5][..], &[3, 5, 6, 90], &[90, 3, 6, 5], &[0, u64::MAX]] {
            let waiting = with(wanted);
            for nonce in 0..100 {
                let found = waiting.get(nonce).map(|waiting| waiting.nonce);
                assert_eq!(found, wanted.contains(&nonce).then_some(nonce), "{nonce} {wanted:?}");
                let mut from: Vec<u64> = wanted.iter().copied().filter(|n| *n >= nonce).collect();
                from.sort_unstable();
                assert_eq!(nonces(waiting.from(nonce)), from, "{nonce} {wanted:?}");
            }
        }
    }

    #[test]
    fn a_second_one_with_the_same_nonce_takes_its_place() {
        let mut waiting = with(&[1, 2]);
        let replaced = waiting.insert(Waiting::new(unsigned(transfer(2), SENDER), 7));
        assert_eq!(replaced.map(|replaced| replaced.arrival), Some(1));
        assert_eq!(waiting.get(2).map(|waiting| waiting.arrival), Some(7));
        assert_eq!(nonces(waiting.from(0)), [1, 2]);
    }

    #[test]
    fn what_is_taken_out_is_gone_and_the_rest_stays() {
        let mut waiting = with(&[1, 2, 4, 6]);
        assert_eq!(nonces(&waiting.take_before(2)), [1]);
        assert_eq!(nonces(&waiting.take_from(5)), [6]);
        assert_eq!(waiting.remove(2).map(|waiting| waiting.nonce), Some(2));
        assert!(waiting.remove(2).is_none());
        assert_eq!(nonces(waiting.from(0)), [4]);
    }
}
