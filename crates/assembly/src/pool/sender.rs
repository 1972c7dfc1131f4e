//! The waiting transactions of one sender, in nonce order.
//!
//! Decides what of them can be executed (the *chain*: from the account's nonce on, without a gap),
//! what that may cost, and what the last one is worth. All of it takes time by how many
//! transactions the sender has, which [`PoolLimits::per_sender`](super::PoolLimits) bounds.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, btree_map},
};

use alloy_consensus::Transaction as _;
use alloy_primitives::{Address, U256};
use preconf_chain::Transaction;

/// One sender's transactions.
#[derive(Debug, Default)]
pub(super) struct Sender {
    /// The nonce of the account at the head.
    pub(super) nonce: u64,
    pub(super) waiting: BTreeMap<u64, Waiting>,
    /// Where the pool's index has the last of them.
    pub(super) indexed: Option<Tail>,
}

/// A transaction that waits, and its fees, so that ordering does not touch the transaction itself.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) transaction: Transaction,
    pub(super) arrival: u64,
    fee_cap: u128,
    tip_cap: u128,
}

impl Waiting {
    pub(super) fn new(transaction: Transaction, arrival: u64) -> Self {
        let (fee_cap, tip_cap) = (fee_cap(&transaction), tip_cap(&transaction));
        Self { transaction, arrival, fee_cap, tip_cap }
    }

    /// What a unit of gas pays beyond the base fee; `None` if it does not even pay that.
    pub(super) fn effective_tip(&self, base_fee: u64) -> Option<u128> {
        let most = self.fee_cap.checked_sub(u128::from(base_fee))?;
        Some(most.min(self.tip_cap))
    }
}

/// What a transaction is worth to the pool; the least goes first when room is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Worth {
    /// Whether nothing is missing before it.
    executable: bool,
    /// The least tip of the chain up to it: it cannot go in before those.
    tip: u128,
}

/// The last transaction of a sender, ordered by what it is worth; of equals the later goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tail {
    pub(super) worth: Worth,
    arrival: Reverse<u64>,
    pub(super) sender: Address,
    pub(super) nonce: u64,
}

/// Whether a sender can pay for one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Affordable {
    /// It can.
    Yes,
    /// It can, but not for what was waiting behind the gap that is closed now, from this nonce on.
    WithoutThoseFrom(u64),
    /// It can not; the chain would cost this much.
    No(U256),
}

impl Sender {
    /// The chain of a sender whose next nonce is `next`.
    fn chain(&self, next: u64) -> impl Iterator<Item = (u64, &Waiting)> {
        self.waiting
            .range(next..)
            .zip(next..)
            .take_while(|((nonce, _), expected)| *nonce == expected)
            .map(|((nonce, waiting), _)| (*nonce, waiting))
    }

    /// The nonce after the chain, if there is one.
    pub(super) fn next_nonce(&self) -> Option<u64> {
        self.chain(self.nonce).last().map(|(nonce, _)| nonce + 1)
    }

    /// Says whether `balance` pays for the chain with one transaction more, or instead, at `nonce`.
    pub(super) fn affordable(
        &self,
        next: u64,
        nonce: u64,
        cost: U256,
        balance: U256,
    ) -> Affordable {
        let before = self.chain(next).take_while(|(other, _)| *other < nonce);
        let (mut end, mut total) = (next, cost);
        for (_, waiting) in before {
            total = total.saturating_add(cost_of(&waiting.transaction));
            end += 1;
        }
        if total > balance {
            return Affordable::No(total);
        }
        if end < nonce {
            return Affordable::Yes;
        }
        let replaces = self.waiting.contains_key(&nonce);
        for (later, waiting) in self.chain(nonce + 1) {
            total = total.saturating_add(cost_of(&waiting.transaction));
            if total > balance {
                let gap_closed = Affordable::WithoutThoseFrom(later);
                return if replaces { Affordable::No(total) } else { gap_closed };
            }
        }
        Affordable::Yes
    }

    /// What a transaction at `nonce` with this tip would be worth.
    pub(super) fn worth_of(&self, next: u64, nonce: u64, tip: u128) -> Worth {
        let before = self.chain(next).take_while(|(other, _)| *other < nonce);
        let (mut end, mut least) = (next, tip);
        for (_, waiting) in before {
            least = least.min(waiting.tip_cap);
            end += 1;
        }
        Worth { executable: end == nonce, tip: least }
    }

    /// The last of them, as the pool's index orders it.
    pub(super) fn tail(&self, sender: Address) -> Option<Tail> {
        let (nonce, waiting) = self.waiting.last_key_value()?;
        let worth = self.worth_of(self.nonce, *nonce, waiting.tip_cap);
        Some(Tail { worth, arrival: Reverse(waiting.arrival), sender, nonce: *nonce })
    }

    /// Moves on to a nonce; what is left behind is returned.
    pub(super) fn advance(&mut self, nonce: u64) -> btree_map::IntoValues<u64, Waiting> {
        self.nonce = self.nonce.max(nonce);
        let waiting = self.waiting.split_off(&self.nonce);
        std::mem::replace(&mut self.waiting, waiting).into_values()
    }
}

pub(super) fn fee_cap(transaction: &Transaction) -> u128 {
    transaction.envelope().max_fee_per_gas()
}

pub(super) fn tip_cap(transaction: &Transaction) -> u128 {
    let envelope = transaction.envelope();
    envelope.max_priority_fee_per_gas().unwrap_or_else(|| envelope.max_fee_per_gas())
}

/// The most a transaction can cost its sender. What does not fit into 256 bits is more than anyone
/// has.
pub(super) fn cost_of(transaction: &Transaction) -> U256 {
    let envelope = transaction.envelope();
    let gas = U256::from(envelope.gas_limit()).saturating_mul(U256::from(fee_cap(transaction)));
    gas.saturating_add(envelope.value())
}
