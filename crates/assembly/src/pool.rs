//! The transactions that wait: per sender in nonce order, across senders by effective tip.
//!
//! The pool decides what may wait and what is tried next; it never executes. What it knows of an
//! account is what the caller read at the head. Transactions whose nonce lies ahead are parked and
//! become candidates when the gap closes; a transaction in a running build stays in the pool until
//! a canonical block has used its nonce, so an abandoned build loses nothing.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BinaryHeap, HashMap},
};

use alloy_consensus::{Transaction as _, Typed2718 as _};
use alloy_primitives::{Address, B256, U256};
use preconf_chain::Transaction;
use preconf_primitives::{TransactionRefusal, TransactionRefusalReason as Reason};
use preconf_state::Account;

/// What the pool takes, and how much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolLimits {
    /// The most transactions in total. When full, the worst candidate's sender makes room for a
    /// better one; otherwise the newcomer is refused.
    pub transactions: usize,
    /// The most transactions of one sender.
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
    senders: HashMap<Address, Sender>,
    by_hash: HashMap<B256, (Address, u64)>,
    /// Numbers arrivals, so that of equal tips the earlier goes first.
    arrivals: u64,
}

#[derive(Debug, Default)]
struct Sender {
    /// The nonce of the account at the head.
    nonce: u64,
    waiting: BTreeMap<u64, Waiting>,
}

#[derive(Clone, Debug)]
struct Waiting {
    transaction: Transaction,
    arrival: u64,
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
        Some(&self.senders.get(sender)?.waiting.get(nonce)?.transaction)
    }

    /// The nonce after a sender's contiguous transactions, if it has any at its next nonce.
    pub fn next_nonce(&self, sender: &Address) -> Option<u64> {
        let sender = self.senders.get(sender)?;
        let contiguous =
            (sender.nonce..).take_while(|nonce| sender.waiting.contains_key(nonce)).count() as u64;
        (contiguous > 0).then(|| sender.nonce + contiguous)
    }

    /// Takes a transaction whose sender's account at the head is `account`.
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
        let account_nonce = account.map_or(0, |account| account.nonce);
        self.check(&transaction, account_nonce, account.map_or(U256::ZERO, |a| a.balance))?;
        self.make_room(&transaction, address)?;

        self.arrivals += 1;
        let sender = self.senders.entry(address).or_default();
        sender.nonce = sender.nonce.max(account_nonce);
        let waiting = Waiting { transaction, arrival: self.arrivals };
        if let Some(replaced) = sender.waiting.insert(nonce, waiting) {
            self.by_hash.remove(replaced.transaction.hash());
        }
        self.by_hash.insert(hash, (address, nonce));
        Ok(hash)
    }

    fn check(
        &self,
        transaction: &Transaction,
        account_nonce: u64,
        balance: U256,
    ) -> Result<(), TransactionRefusal> {
        let envelope = transaction.envelope();
        let refuse = |reason, detail: String| Err(TransactionRefusal::new(reason, detail));
        if self.by_hash.contains_key(transaction.hash()) {
            return refuse(Reason::AlreadyKnown, String::new());
        }
        if envelope.is_eip4844() {
            let detail = "blob transactions are not taken".to_owned();
            return refuse(Reason::UnsupportedType, detail);
        }
        let known = self.senders.get(&transaction.signer());
        let nonce = envelope.nonce();
        let next = known.map_or(account_nonce, |sender| sender.nonce.max(account_nonce));
        if nonce < next {
            return refuse(Reason::NonceTooLow, format!("next nonce {next}, tx nonce {nonce}"));
        }
        if nonce - next > self.limits.nonce_gap {
            let detail = format!("next nonce {next}, tx nonce {nonce}");
            return refuse(Reason::NonceGapTooLarge, detail);
        }
        let tip = tip_cap(transaction);
        if tip < self.limits.minimum_tip {
            let detail = format!("tip {tip}, minimum {}", self.limits.minimum_tip);
            return refuse(Reason::Underpriced, detail);
        }
        let cost = cost(transaction);
        if cost.is_none_or(|cost| cost > balance) {
            let cost = cost.unwrap_or(U256::MAX);
            let detail = format!("address {} have {balance} want {cost}", transaction.signer());
            return refuse(Reason::InsufficientFunds, detail);
        }
        match known.and_then(|sender| sender.waiting.get(&nonce)) {
            Some(held) if !self.replaces(transaction, &held.transaction) => {
                let bump = self.limits.replacement_bump_percent;
                refuse(Reason::ReplacementUnderpriced, format!("both fees must rise by {bump} %"))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn replaces(&self, new: &Transaction, old: &Transaction) -> bool {
        let percent = 100 + self.limits.replacement_bump_percent;
        let bumped = |old: u128| old.saturating_mul(percent).div_ceil(100);
        fee_cap(new) >= bumped(fee_cap(old)) && tip_cap(new) >= bumped(tip_cap(old))
    }

    /// Refuses, or evicts the last transaction of the sender that pays least.
    fn make_room(
        &mut self,
        transaction: &Transaction,
        address: Address,
    ) -> Result<(), TransactionRefusal> {
        let nonce = transaction.envelope().nonce();
        if let Some(sender) = self.senders.get(&address) {
            if sender.waiting.contains_key(&nonce) {
                return Ok(());
            }
            if sender.waiting.len() >= self.limits.per_sender {
                let detail = format!("{} transactions of {address} wait", sender.waiting.len());
                return Err(TransactionRefusal::new(Reason::PoolFull, detail));
            }
        }
        if self.len() < self.limits.transactions {
            return Ok(());
        }
        let worst = self.senders.iter().filter(|(other, _)| **other != address);
        let worst = worst
            .filter_map(|(other, sender)| Some((*other, sender.waiting.last_key_value()?)))
            .map(|(other, (nonce, waiting))| (tip_cap(&waiting.transaction), other, *nonce))
            .min();
        match worst {
            Some((tip, other, nonce)) if tip < tip_cap(transaction) => {
                self.remove(&other, nonce);
                Ok(())
            }
            Some(_) | None => Err(TransactionRefusal::new(Reason::PoolFull, String::new())),
        }
    }

    /// Takes note that a canonical block has used `nonce` of `sender`, and forgets what that ends.
    pub fn mined(&mut self, address: &Address, nonce: u64) {
        let Some(sender) = self.senders.get_mut(address) else { return };
        sender.nonce = sender.nonce.max(nonce + 1);
        let waiting = sender.waiting.split_off(&sender.nonce);
        for used in std::mem::replace(&mut sender.waiting, waiting).into_values() {
            self.by_hash.remove(used.transaction.hash());
        }
        if sender.waiting.is_empty() {
            self.senders.remove(address);
        }
    }

    /// Forgets one transaction that can never be executed.
    pub fn remove(&mut self, address: &Address, nonce: u64) {
        let Some(sender) = self.senders.get_mut(address) else { return };
        if let Some(removed) = sender.waiting.remove(&nonce) {
            self.by_hash.remove(removed.transaction.hash());
        }
        if sender.waiting.is_empty() {
            self.senders.remove(address);
        }
    }

    /// Begins a selection for a block with this base fee.
    pub fn select(&self, base_fee: u64) -> Selection {
        let mut selection = Selection { base_fee, ..Selection::default() };
        for (address, sender) in &self.senders {
            selection.next_nonce.insert(*address, sender.nonce);
            selection.offer(self, *address, sender.nonce);
        }
        selection
    }
}

/// One block's way through the pool: which transaction is tried next.
///
/// Lives beside the pool, so that the pool can go on taking transactions; tell it of each one that
/// is taken with [`Selection::arrived`].
#[derive(Debug, Default)]
pub struct Selection {
    base_fee: u64,
    candidates: BinaryHeap<Candidate>,
    /// The nonce this block would use next, by sender.
    next_nonce: HashMap<Address, u64>,
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
        let tip = waiting.transaction.envelope().effective_tip_per_gas(self.base_fee);
        let Some(tip) = tip else { return };
        self.candidates.push(Candidate { tip, arrival: waiting.arrival, sender, nonce });
    }
}

fn fee_cap(transaction: &Transaction) -> u128 {
    transaction.envelope().max_fee_per_gas()
}

fn tip_cap(transaction: &Transaction) -> u128 {
    let envelope = transaction.envelope();
    envelope.max_priority_fee_per_gas().unwrap_or_else(|| envelope.max_fee_per_gas())
}

/// The most a transaction can cost its sender; `None` above 2^256 − 1.
fn cost(transaction: &Transaction) -> Option<U256> {
    let envelope = transaction.envelope();
    let gas = U256::from(envelope.gas_limit()).checked_mul(U256::from(fee_cap(transaction)))?;
    gas.checked_add(envelope.value())
}
