//! One sender: its waiting transactions, and what can be said of all of them.
//!
//! Decides what of them can be executed (the *chain*: from the account's nonce on, without a gap),
//! what that may cost, and what the last one is worth. All of it takes time by how many
//! transactions the sender has, which [`PoolLimits::per_sender`](super::PoolLimits) bounds.

use std::{cmp::Reverse, collections::VecDeque};

use alloy_consensus::Transaction as _;
use alloy_primitives::{Address, U256};
use preconf_chain::Transaction;

use super::{
    Fees,
    by_nonce::{ByNonce, Waiting},
};

/// One sender's transactions.
#[derive(Debug, Default)]
pub(super) struct Sender {
    pub(super) address: Address,
    /// The nonce of the account at the head.
    pub(super) nonce: u64,
    /// The one after what the block in the making held, and what was promised, when the last of them
    /// came or the sender was last looked at.
    pub(super) begun: u64,
    /// Whether one of them could not be paid when it was tried.
    pub(super) is_doubted: bool,
    pub(super) waiting: ByNonce,
    /// Where the pool's index has the last of them.
    pub(super) indexed: Option<Tail>,
}

/// What a transaction is worth to the pool; the least goes first when room is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Worth {
    /// Whether nothing is missing before it, and all of that pays the fees.
    executable: bool,
    /// The least tip beyond the base fee of the chain up to it: it cannot go in before those.
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
    fn chain(&self, next: u64) -> impl Iterator<Item = &Waiting> {
        let in_order = self.waiting.from(next).zip(next..);
        in_order
            .take_while(|(waiting, expected)| waiting.nonce == *expected)
            .map(|(waiting, _)| waiting)
    }

    /// The nonce after the chain, if there is one. What the block in the making holds need not wait
    /// here.
    pub(super) fn next_nonce(&self) -> Option<u64> {
        let chains = [self.nonce, self.begun.max(self.nonce)].map(|next| self.chain(next).last());
        chains.into_iter().flatten().map(|waiting| waiting.nonce + 1).max()
    }

    /// Says whether `balance` pays for the chain with one transaction more, or instead, at `nonce`.
    pub(super) fn affordable(
        &self,
        next: u64,
        nonce: u64,
        cost: U256,
        balance: U256,
    ) -> Affordable {
        let before = self.chain(next).take_while(|other| other.nonce < nonce);
        let (mut end, mut total) = (next, cost);
        for waiting in before {
            total = total.saturating_add(waiting.cost);
            end += 1;
        }
        if total > balance {
            return Affordable::No(total);
        }
        if end < nonce {
            return Affordable::Yes;
        }
        let replaces = self.waiting.get(nonce).is_some();
        for waiting in self.chain(nonce + 1) {
            total = total.saturating_add(waiting.cost);
            if total > balance {
                let gap_closed = Affordable::WithoutThoseFrom(waiting.nonce);
                return if replaces { Affordable::No(total) } else { gap_closed };
            }
        }
        Affordable::Yes
    }

    /// The nonce of the first of the chain that `balance` does not pay for by itself. What they cost
    /// together is at most what they offer, and may come in between.
    pub(super) fn unpaid_from(&self, next: u64, balance: U256) -> Option<u64> {
        let unpaid = self.chain(next).find(|waiting| waiting.cost > balance);
        unpaid.map(|waiting| waiting.nonce)
    }

    /// What a transaction would be worth, or is, at these fees.
    pub(super) fn worth_of(&self, next: u64, transaction: &Waiting, fees: Fees) -> Worth {
        // What waits for a block with blobs is worth what it pays for gas.
        let fees = Fees { blob: Some(fees.blob.unwrap_or_default()), ..fees };
        let before = self.chain(next).take_while(|other| other.nonce < transaction.nonce);
        let (mut end, mut least) = (next, transaction.effective_tip(fees));
        for waiting in before {
            least = least.zip(waiting.effective_tip(fees)).map(|(one, other)| one.min(other));
            end += 1;
        }
        let executable = end == transaction.nonce && least.is_some();
        Worth { executable, tip: least.unwrap_or_default() }
    }

    /// The last of them, as the pool's index orders it.
    pub(super) fn tail(&self, fees: Fees) -> Option<Tail> {
        let last = self.waiting.last()?;
        // What is before it may be in the block in the making, and not wait here.
        let next = if last.nonce < self.begun { self.nonce } else { self.nonce.max(self.begun) };
        let worth = self.worth_of(next, last, fees);
        let (arrival, nonce) = (Reverse(last.arrival), last.nonce);
        Some(Tail { worth, arrival, sender: self.address, nonce })
    }

    /// Moves on to a nonce; what is left behind is returned.
    pub(super) fn advance(&mut self, nonce: u64) -> VecDeque<Waiting> {
        self.nonce = self.nonce.max(nonce);
        self.waiting.take_before(self.nonce)
    }
}

pub(super) fn fee_cap(transaction: &Transaction) -> u128 {
    transaction.envelope().max_fee_per_gas()
}

pub(super) fn tip_cap(transaction: &Transaction) -> u128 {
    let envelope = transaction.envelope();
    envelope.max_priority_fee_per_gas().unwrap_or_else(|| envelope.max_fee_per_gas())
}

/// What a unit of blob gas may cost; 0 without blobs.
pub(super) fn blob_fee_cap(transaction: &Transaction) -> u128 {
    transaction.envelope().max_fee_per_blob_gas().unwrap_or_default()
}

/// The most a transaction can cost its sender. What does not fit into 256 bits is more than anyone
/// has.
pub(super) fn cost_of(transaction: &Transaction) -> U256 {
    let envelope = transaction.envelope();
    let gas = U256::from(envelope.gas_limit()).saturating_mul(U256::from(fee_cap(transaction)));
    let blob_gas = U256::from(envelope.blob_gas_used().unwrap_or_default());
    let blobs = blob_gas.saturating_mul(U256::from(blob_fee_cap(transaction)));
    gas.saturating_add(blobs).saturating_add(envelope.value())
}
