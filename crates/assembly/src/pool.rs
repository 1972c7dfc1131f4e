//! The transactions that wait: per sender in nonce order, across senders by effective tip.
//!
//! The pool decides what may wait and what is tried next; it never executes. What it knows of an
//! account is what the caller read at the head, and what the block in the making has made of it.
//! Transactions whose nonce lies ahead are parked and become candidates when the gap closes; a
//! transaction in a running build stays in the pool until a canonical block has used its nonce, so an
//! abandoned build loses nothing, and no other takes its place.
//!
//! A transaction with blobs waits with its sidecar, which it loses when it no longer waits, unless it
//! is promised.
//!
//! Invariants: what a sender's executable transactions may cost together is covered by the balance
//! known when the last of them came, and what each may cost by itself when the sender was last
//! [looked at](upkeep); and the index holds the last transaction of every sender, so taking one in or
//! making room costs the logarithm of what waits, however much that is. Whatever leaves, and is in no
//! block, canonical or in the making, nor promised, is counted with its [cause](DropCause).

mod by_nonce;
mod drops;
mod selection;
mod sender;
mod sidecars;
#[cfg(test)]
mod tests;
mod upkeep;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use alloy_consensus::{Transaction as _, Typed2718 as _};
use alloy_primitives::{
    Address, B256, U256,
    map::{AddressMap, B256Map},
};
use preconf_chain::Transaction;
use preconf_primitives::{TransactionRefusal, TransactionRefusalReason as Reason};
use preconf_state::Account;

pub use drops::DropCause;
pub use selection::Selection;

use by_nonce::Waiting;
use drops::{Drops, Gone, for_cause};
use sender::{Affordable, Sender, Tail, blob_fee_cap, cost_of, fee_cap, tip_cap};
use sidecars::Sidecars;
use upkeep::Ages;

use crate::sidecar::{Sidecar, Submission, bytes_of};

/// What the pool takes, and how much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolLimits {
    /// The most transactions in total. When full, a sender's last transaction makes room for a
    /// better one: first what cannot be executed or does not pay the base fee, then what pays the
    /// least tip beyond it, the latest first. If nothing is worse than the newcomer, it is refused.
    pub transactions: usize,
    /// The most transactions of one sender. When reached, the newcomer is refused.
    pub per_sender: usize,
    /// How far ahead of the sender's nonce a transaction may be.
    pub nonce_gap: u64,
    /// The least priority fee, in wei per gas.
    pub minimum_tip: u128,
    /// By how many percent both fees must rise to replace a transaction.
    pub replacement_bump_percent: u128,
    /// The most bytes of blobs and their proofs in total. When reached, last transactions with
    /// blobs make room as for [`Self::transactions`].
    pub sidecar_bytes: usize,
    /// The most transactions with blobs of one sender. When reached, the newcomer is refused.
    pub blobs_per_sender: usize,
    /// By how many percent all three fees must rise to replace a transaction with blobs, which only
    /// another one can.
    pub blob_replacement_bump_percent: u128,
    /// How long a transaction may wait, or a sixteenth longer.
    pub lifetime: Duration,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            transactions: 100_000,
            per_sender: 64,
            nonce_gap: 64,
            minimum_tip: 0,
            replacement_bump_percent: 10,
            sidecar_bytes: 256 * 1024 * 1024,
            blobs_per_sender: 16,
            blob_replacement_bump_percent: 100,
            lifetime: Duration::from_secs(3 * 3_600),
        }
    }
}

/// What a block asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fees {
    /// For a unit of gas.
    pub base: u64,
    /// For a unit of blob gas; without it the block takes no blobs.
    pub blob: Option<u128>,
}

/// What has begun for a sender and is not canonical yet.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Begun {
    /// Its account after the block in the making, if known.
    pub(crate) account: Option<Account>,
    /// The nonce after what it is promised besides.
    pub(crate) owed: u64,
}

impl Begun {
    /// The nonce after all of that, and what its account, which is this one at the head, has then.
    fn after(self, head: Account) -> (u64, U256) {
        // One of a block before the head says nothing.
        let pending = self.account.filter(|pending| pending.nonce >= head.nonce);
        let Account { nonce, balance, .. } = pending.unwrap_or(head);
        (nonce.max(self.owed), balance)
    }
}

/// Of a block that takes no blobs.
impl From<u64> for Fees {
    fn from(base: u64) -> Self {
        Self { base, blob: None }
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
    sidecars: Sidecars,
    /// The last transaction of each sender, the one worth least first.
    tails: BTreeSet<Tail>,
    /// At which fees they are worth that.
    ordered_at: Fees,
    /// Those of the next block.
    fees: Fees,
    /// Numbers arrivals, so that of equal tips the earlier goes first.
    arrivals: u64,
    ages: Ages,
    drops: Drops,
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

    /// The blobs of a transaction that waits or is promised.
    pub fn sidecar(&self, hash: &B256) -> Option<&Arc<Sidecar>> {
        self.sidecars.get(hash)
    }

    /// Whether anything of this sender waits.
    pub(crate) fn has_waiting(&self, sender: &Address) -> bool {
        self.numbers.contains_key(sender)
    }

    /// The nonce after a sender's contiguous transactions, if it has any at its next nonce.
    pub fn next_nonce(&self, sender: &Address) -> Option<u64> {
        self.sender(sender)?.next_nonce()
    }

    fn sender(&self, address: &Address) -> Option<&Sender> {
        self.senders.get(*self.numbers.get(address)? as usize)
    }

    /// How many were let go since this was asked before, by cause.
    pub fn take_drops(&mut self) -> impl Iterator<Item = (DropCause, u64)> + use<> {
        self.drops.take()
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
        submission: impl Into<Submission>,
        account: Option<Account>,
    ) -> Result<B256, TransactionRefusal> {
        self.insert_after(submission.into(), account, Begun::default(), |_| false)
    }

    /// The same if this has begun for the sender: a nonce that the block in the making has used is
    /// used, what it has paid is paid, and what is promised comes first. What `is_held` in one of
    /// these ways and has to make room is not lost.
    pub(crate) fn insert_after(
        &mut self,
        submission: Submission,
        account: Option<Account>,
        begun: Begun,
        is_held: impl Fn(&Transaction) -> bool,
    ) -> Result<B256, TransactionRefusal> {
        let (transaction, sidecar) = submission.into_parts();
        let hash = *transaction.hash();
        let (address, nonce) = (transaction.signer(), transaction.envelope().nonce());
        let account = account.unwrap_or_default();
        let (begun, balance) = begun.after(account);
        if self.is_full_for(sidecar.as_deref()) {
            self.reorder();
        }
        let none = Sender::default();
        let sender = self.sender(&address).unwrap_or(&none);
        let next = sender.nonce.max(begun);
        self.check(&transaction, next)?;
        if transaction.envelope().is_eip4844() && sidecar.is_none() {
            let detail = "the blob transaction comes without its sidecar";
            return Err(TransactionRefusal::new(Reason::UnsupportedType, detail));
        }
        self.check_replacement(&transaction, sender)?;
        let unpaid = check_funds(&transaction, sender, next, balance)?;
        let waiting = Waiting::new(transaction, self.arrivals + 1);
        let worst = self.make_room(&waiting, sender, next)?;
        let worst_with_blobs = match &sidecar {
            Some(sidecar) => self.make_room_for(sidecar, &waiting, sender, next)?,
            None => Vec::new(),
        };

        for Tail { sender, nonce, .. } in worst.into_iter().chain(worst_with_blobs) {
            let gone = |waiting| upkeep::unless_held(waiting, &is_held, DropCause::Evicted);
            self.change(sender, |sender| sender.waiting.remove(nonce).map(gone));
        }
        self.arrivals += 1;
        self.change(address, |sender| {
            sender.begun = begun;
            let used = for_cause(sender.advance(account.nonce), DropCause::NonceUsed);
            let unpaid = unpaid.map(|from| sender.waiting.take_from(from));
            let unpaid = for_cause(unpaid.into_iter().flatten(), DropCause::Unpaid);
            let replaced = for_cause(sender.waiting.insert(waiting), DropCause::Replaced);
            used.chain(unpaid).chain(replaced)
        });
        self.by_hash.insert(hash, (address, nonce));
        if let Some(sidecar) = sidecar {
            self.sidecars.insert(hash, (address, nonce), sidecar);
        }
        Ok(hash)
    }

    /// Whether something has to go for one more.
    fn is_full_for(&self, sidecar: Option<&Sidecar>) -> bool {
        let bytes = sidecar.map_or(0, |sidecar| self.sidecars.bytes() + bytes_of(sidecar));
        self.len() >= self.limits.transactions || bytes > self.limits.sidecar_bytes
    }

    /// What can be said without looking at the sender's other transactions.
    fn check(&self, transaction: &Transaction, next: u64) -> Result<(), TransactionRefusal> {
        let envelope = transaction.envelope();
        let refuse = |reason, detail: String| Err(TransactionRefusal::new(reason, detail));
        if self.by_hash.contains_key(transaction.hash()) {
            return refuse(Reason::AlreadyKnown, String::new());
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
        if envelope.is_eip4844() && blob_fee_cap(transaction) == 0 {
            return refuse(Reason::Underpriced, "max blob fee 0".to_owned());
        }
        Ok(())
    }

    fn check_replacement(
        &self,
        new: &Transaction,
        sender: &Sender,
    ) -> Result<(), TransactionRefusal> {
        let Some(old) = sender.waiting.get(new.envelope().nonce()) else { return Ok(()) };
        let refuse = |detail| Err(TransactionRefusal::new(Reason::ReplacementUnderpriced, detail));
        if old.has_blobs() != new.envelope().is_eip4844() {
            return refuse("one of both has blobs".to_owned());
        }
        let bump = if old.has_blobs() {
            self.limits.blob_replacement_bump_percent
        } else {
            self.limits.replacement_bump_percent
        };
        let rises = |fee: fn(&Transaction) -> u128| {
            fee(new) >= fee(&old.transaction).saturating_mul(100 + bump).div_ceil(100)
        };
        if rises(fee_cap) && rises(tip_cap) && rises(blob_fee_cap) {
            return Ok(());
        }
        refuse(format!("all fees must rise by {bump} %"))
    }

    /// Says who has to go, if anybody, or refuses.
    fn make_room(
        &self,
        newcomer: &Waiting,
        sender: &Sender,
        next: u64,
    ) -> Result<Option<Tail>, TransactionRefusal> {
        let (address, nonce) = (newcomer.transaction.signer(), newcomer.nonce);
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
        let worth = sender.worth_of(next, newcomer, self.ordered_at);
        match worst.filter(|worst| worst.worth < worth) {
            Some(worst) => Ok(Some(*worst)),
            None => Err(TransactionRefusal::new(Reason::PoolFull, String::new())),
        }
    }

    /// Says whose blobs have to go for these, or refuses.
    fn make_room_for(
        &self,
        sidecar: &Sidecar,
        newcomer: &Waiting,
        sender: &Sender,
        next: u64,
    ) -> Result<Vec<Tail>, TransactionRefusal> {
        let (address, nonce) = (newcomer.transaction.signer(), newcomer.nonce);
        let full = |detail| Err(TransactionRefusal::new(Reason::PoolFull, detail));
        let replaced = sender.waiting.get(nonce).map(|old| old.transaction.hash());
        let with_blobs = sender.waiting.from(0).filter(|waiting| waiting.has_blobs()).count();
        if replaced.is_none() && with_blobs >= self.limits.blobs_per_sender {
            return full(format!("{with_blobs} blob transactions of {address} wait"));
        }
        let replaced = replaced.map_or(0, |hash| self.sidecars.bytes_of(hash));
        let wanted = self.sidecars.bytes() - replaced + bytes_of(sidecar);
        let mut missing = wanted.saturating_sub(self.limits.sidecar_bytes);
        if missing == 0 {
            return Ok(Vec::new());
        }
        let worth = sender.worth_of(next, newcomer, self.ordered_at);
        // There are few, as each is large.
        let tails = self.sidecars.waiting().filter_map(|(sender, nonce)| {
            let tail = self.sender(sender)?.indexed?;
            (tail.nonce == nonce && *sender != address && tail.worth < worth).then_some(tail)
        });
        let worst_first: BTreeSet<Tail> = tails.collect();
        let mut worst = Vec::new();
        for tail in worst_first {
            if missing == 0 {
                break;
            }
            let waiting = self.sender(&tail.sender).and_then(|known| known.waiting.last());
            let bytes = waiting.map_or(0, |last| self.sidecars.bytes_of(last.transaction.hash()));
            missing = missing.saturating_sub(bytes);
            worst.push(tail);
        }
        if missing > 0 { full("there is no room for more blobs".to_owned()) } else { Ok(worst) }
    }

    /// Begins a selection for a block with these fees.
    pub fn select(&self, fees: impl Into<Fees>) -> Selection {
        Selection::new(self, fees.into())
    }

    /// A transaction is in a block that is being built: its blobs are kept, though it may no longer
    /// wait.
    pub(crate) fn keep_sidecar(&mut self, hash: &B256) {
        self.sidecars.promise(hash);
    }

    /// Whether blobs are kept for promises.
    pub(crate) fn keeps_sidecars(&self) -> bool {
        self.sidecars.has_promised()
    }

    /// Lets go of blobs that were kept for promises which are none any more.
    pub(crate) fn settle_sidecars(&mut self, is_promised: impl Fn(&B256) -> bool) {
        self.sidecars.settle(is_promised);
    }

    /// Changes a sender, and after it what is known of it elsewhere. `change` returns what no
    /// longer waits.
    fn change<Dropped>(&mut self, address: Address, change: impl FnOnce(&mut Sender) -> Dropped)
    where
        Dropped: IntoIterator<Item = Gone>,
    {
        let number = self.number_of(address);
        let sender = &mut self.senders[number as usize];
        for (dropped, cause) in change(sender) {
            let hash = dropped.transaction.hash();
            self.by_hash.remove(hash);
            if dropped.has_blobs() {
                self.sidecars.leave(hash);
            }
            if let Some(cause) = cause {
                self.drops.count(cause);
            }
        }
        let tail = sender.tail(self.ordered_at);
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

/// What can be said of a transaction with its sender's account at the head, before any pool is
/// asked.
///
/// # Errors
/// If its nonce is used, or the account does not pay for it.
pub fn check_sender(
    transaction: &Transaction,
    account: Option<&Account>,
) -> Result<(), TransactionRefusal> {
    let (next, balance) = account.map_or((0, U256::ZERO), |known| (known.nonce, known.balance));
    let (nonce, want) = (transaction.envelope().nonce(), cost_of(transaction));
    if nonce < next {
        let detail = format!("next nonce {next}, tx nonce {nonce}");
        return Err(TransactionRefusal::new(Reason::NonceTooLow, detail));
    }
    if want > balance {
        let detail = format!("address {} have {balance} want {want}", transaction.signer());
        return Err(TransactionRefusal::new(Reason::InsufficientFunds, detail));
    }
    Ok(())
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
