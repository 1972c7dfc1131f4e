//! The transactions that wait: per sender in nonce order, across senders by effective tip.
//!
//! The pool decides what may wait and what is tried next; it never executes. What it knows of an
//! account is what the caller read at the head. Transactions whose nonce lies ahead are parked and
//! become candidates when the gap closes; a transaction in a running build stays in the pool until
//! a canonical block has used its nonce, so an abandoned build loses nothing.
//!
//! Invariants: what a sender's executable transactions may cost together is covered by the balance
//! known when the last of them came; and the index holds the last transaction of every sender, so
//! taking one in or making room costs the logarithm of what waits, however much that is.

mod by_nonce;
mod selection;
mod sender;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use alloy_consensus::{Transaction as _, Typed2718 as _};
use alloy_primitives::{
    Address, B256, U256,
    map::{AddressMap, B256Map},
};
use preconf_chain::Transaction;
use preconf_primitives::{TransactionRefusal, TransactionRefusalReason as Reason};
use preconf_state::Account;

pub use selection::Selection;

use by_nonce::Waiting;
use sender::{Affordable, Sender, Tail, cost_of, fee_cap, tip_cap};

/// What the pool takes, and how much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolLimits {
    /// The most transactions in total. When full, a sender's last transaction makes room for a
    /// better one: first what cannot be executed, then what pays the least tip, the latest first.
    /// If nothing is worse than the newcomer, it is refused.
    pub transactions: usize,
    /// The most transactions of one sender. When reached, the newcomer is refused.
    pub per_sender: usize,
    /// How far ahead of the sender's nonce a transaction may be.
    pub nonce_gap: u64,
    /// The least priority fee, in wei per gas.
    pub minimum_tip: u128,
    /// By how many percent both fees must rise to replace a transaction.
    pub replacement_bump_percent: u128,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            transactions: 100_000,
            per_sender: 64,
            nonce_gap: 64,
            minimum_tip: 0,
            replacement_bump_percent: 10,
        }
    }
}

/// The transactions that wait.
#[derive(Debug, Default)]
pub struct Pool {
    limits: PoolLimits,
    /// Where each sender is in `senders`.
    numbers: AddressMap<u32>,
    /// Who has something waiting, and places to be used again.
    senders: Vec<Sender>,
    unused: Vec<u32>,
    by_hash: B256Map<(Address, u64)>,
    /// The last transaction of each sender, the one worth least first.
    tails: BTreeSet<Tail>,
    /// Numbers arrivals, so that of equal tips the earlier goes first.
    arrivals: u64,
}

impl Pool {
    /// An empty pool.
    pub fn new(limits: PoolLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// How many transactions wait.
    pub fn len(&self) -> usize {
        self.by_hash.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.by_hash.is_empty()
    }

    /// A transaction by its hash.
    pub fn get(&self, hash: &B256) -> Option<&Transaction> {
        let (sender, nonce) = self.by_hash.get(hash)?;
        Some(&self.sender(sender)?.waiting.get(*nonce)?.transaction)
    }

    /// The nonce after a sender's contiguous transactions, if it has any at its next nonce.
    pub fn next_nonce(&self, sender: &Address) -> Option<u64> {
        self.sender(sender)?.next_nonce()
    }

    fn sender(&self, address: &Address) -> Option<&Sender> {
        self.senders.get(*self.numbers.get(address)? as usize)
    }

    /// Takes a transaction whose sender's account at the head is `account`.
    ///
    /// If it closes a gap, what was parked behind it and cannot be paid together with it is
    /// forgotten: what can be executed comes first.
    ///
    /// # Errors
    /// If it cannot be executed at the head, is worse than what it would replace, or there is no
    /// room. A refused transaction changes nothing.
    pub fn insert(
        &mut self,
        transaction: Transaction,
        account: Option<Account>,
    ) -> Result<B256, TransactionRefusal> {
        let hash = *transaction.hash();
        let (address, nonce) = (transaction.signer(), transaction.envelope().nonce());
        let account = account.unwrap_or_default();
        let none = Sender::default();
        let sender = self.sender(&address).unwrap_or(&none);
        let next = sender.nonce.max(account.nonce);
        self.check(&transaction, next)?;
        self.check_replacement(&transaction, sender)?;
        let unpaid = check_funds(&transaction, sender, next, account.balance)?;
        let worst = self.make_room(&transaction, sender, next)?;

        if let Some(Tail { sender, nonce, .. }) = worst {
            self.remove(&sender, nonce);
        }
        self.arrivals += 1;
        let waiting = Waiting::new(transaction, self.arrivals);
        self.change(address, |sender| {
            let mut dropped = sender.advance(account.nonce);
            if let Some(from) = unpaid {
                dropped.extend(sender.waiting.take_from(from));
            }
            dropped.extend(sender.waiting.insert(waiting));
            dropped
        });
        self.by_hash.insert(hash, (address, nonce));
        Ok(hash)
    }

    /// What can be said without looking at the sender's other transactions.
    fn check(&self, transaction: &Transaction, next: u64) -> Result<(), TransactionRefusal> {
        let envelope = transaction.envelope();
        let refuse = |reason, detail: String| Err(TransactionRefusal::new(reason, detail));
        if self.by_hash.contains_key(transaction.hash()) {
            return refuse(Reason::AlreadyKnown, String::new());
        }
        if envelope.is_eip4844() {
            let detail = "blob transactions are not taken".to_owned();
            return refuse(Reason::UnsupportedType, detail);
        }
        let nonce = envelope.nonce();
        if nonce < next {
            return refuse(Reason::NonceTooLow, format!("next nonce {next}, tx nonce {nonce}"));
        }
        if nonce - next > self.limits.nonce_gap {
            let detail = format!("next nonce {next}, tx nonce {nonce}");
            return refuse(Reason::NonceGapTooLarge, detail);
        }
        let (tip, fee) = (tip_cap(transaction), fee_cap(transaction));
        if tip > fee {
            let detail = format!("max priority fee {tip} is above max fee {fee}");
            return refuse(Reason::Malformed, detail);
        }
        if tip < self.limits.minimum_tip {
            let detail = format!("tip {tip}, minimum {}", self.limits.minimum_tip);
            return refuse(Reason::Underpriced, detail);
        }
        Ok(())
    }

    fn check_replacement(
        &self,
        new: &Transaction,
        sender: &Sender,
    ) -> Result<(), TransactionRefusal> {
        let Some(old) = sender.waiting.get(new.envelope().nonce()) else { return Ok(()) };
        let old = &old.transaction;
        let percent = 100 + self.limits.replacement_bump_percent;
        let bumped = |old: u128| old.saturating_mul(percent).div_ceil(100);
        if fee_cap(new) >= bumped(fee_cap(old)) && tip_cap(new) >= bumped(tip_cap(old)) {
            return Ok(());
        }
        let bump = self.limits.replacement_bump_percent;
        let detail = format!("both fees must rise by {bump} %");
        Err(TransactionRefusal::new(Reason::ReplacementUnderpriced, detail))
    }

    /// Says who has to go, if anybody, or refuses.
    fn make_room(
        &self,
        transaction: &Transaction,
        sender: &Sender,
        next: u64,
    ) -> Result<Option<Tail>, TransactionRefusal> {
        let (address, nonce) = (transaction.signer(), transaction.envelope().nonce());
        if sender.waiting.get(nonce).is_some() {
            return Ok(None);
        }
        if sender.waiting.len() >= self.limits.per_sender {
            let detail = format!("{} transactions of {address} wait", sender.waiting.len());
            return Err(TransactionRefusal::new(Reason::PoolFull, detail));
        }
        if self.len() < self.limits.transactions {
            return Ok(None);
        }
        // Its own last one is at most the first of the index, so at most two are looked at.
        let worst = self.tails.iter().find(|tail| tail.sender != address);
        let worth = sender.worth_of(next, nonce, tip_cap(transaction));
        match worst.filter(|worst| worst.worth < worth) {
            Some(worst) => Ok(Some(*worst)),
            None => Err(TransactionRefusal::new(Reason::PoolFull, String::new())),
        }
    }

    /// Takes note that a canonical block has used `nonce` of `sender`, and forgets what that ends.
    pub fn mined(&mut self, address: &Address, nonce: u64) {
        if self.numbers.contains_key(address) {
            self.change(*address, |sender| sender.advance(nonce + 1));
        }
    }

    /// Forgets one transaction that can never be executed.
    pub fn remove(&mut self, address: &Address, nonce: u64) {
        if self.numbers.contains_key(address) {
            self.change(*address, |sender| sender.waiting.remove(nonce));
        }
    }

    /// Begins a selection for a block with this base fee.
    pub fn select(&self, base_fee: u64) -> Selection {
        Selection::new(self, base_fee)
    }

    /// Changes a sender, and after it what is known of it elsewhere. `change` returns what no
    /// longer waits.
    fn change<Dropped>(&mut self, address: Address, change: impl FnOnce(&mut Sender) -> Dropped)
    where
        Dropped: IntoIterator<Item = Waiting>,
    {
        let number = self.number_of(address);
        let sender = &mut self.senders[number as usize];
        for dropped in change(sender) {
            self.by_hash.remove(dropped.transaction.hash());
        }
        let tail = sender.tail();
        let indexed = std::mem::replace(&mut sender.indexed, tail);
        if tail.is_none() {
            *sender = Sender::default();
            self.numbers.remove(&address);
            self.unused.push(number);
        }
        if tail != indexed {
            if let Some(indexed) = indexed {
                self.tails.remove(&indexed);
            }
            self.tails.extend(tail);
        }
    }

    /// The sender's place in `senders`, a new one if it has none.
    fn number_of(&mut self, address: Address) -> u32 {
        *self.numbers.entry(address).or_insert_with(|| {
            let number = self.unused.pop().unwrap_or_else(|| {
                self.senders.push(Sender::default());
                u32::try_from(self.senders.len() - 1).expect("memory ends before the numbers do")
            });
            self.senders[number as usize].address = address;
            number
        })
    }
}

/// The nonce from which on the sender's parked transactions cannot be paid any more, if any.
fn check_funds(
    transaction: &Transaction,
    sender: &Sender,
    next: u64,
    balance: U256,
) -> Result<Option<u64>, TransactionRefusal> {
    let (nonce, cost) = (transaction.envelope().nonce(), cost_of(transaction));
    match sender.affordable(next, nonce, cost, balance) {
        Affordable::Yes => Ok(None),
        Affordable::WithoutThoseFrom(later) => Ok(Some(later)),
        Affordable::No(want) => {
            let detail = format!("address {} have {balance} want {want}", transaction.signer());
            Err(TransactionRefusal::new(Reason::InsufficientFunds, detail))
        }
    }
}
