//! What becomes of waiting transactions as the chain and the time go on.
//!
//! A canonical block uses nonces, and what its senders have left may not pay for the rest; the fees
//! of the next block change what each transaction is worth; and nothing waits for ever. Each is
//! looked at when it may have changed, never for every transaction that comes.

use std::{
    collections::{BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use alloy_primitives::{Address, B256};
use preconf_chain::Transaction;
use preconf_state::Account;

use super::{
    Begun, DropCause, Fees, Pool,
    by_nonce::Waiting,
    drops::{Gone, for_cause},
};

/// Into how many steps a lifetime is divided: what waits is gone through that often.
const STEPS: u32 = 16;

/// Which arrivals came before which time.
#[derive(Debug, Default)]
pub(super) struct Ages(VecDeque<(Instant, u64)>);

impl Ages {
    fn is_time(&self, now: Instant, lifetime: Duration) -> bool {
        self.0.back().is_none_or(|(last, _)| now >= *last + lifetime / STEPS)
    }

    /// Notes how many have arrived by now. The last of those that have waited for `lifetime`, if
    /// there are any and it is time to look.
    fn step(&mut self, now: Instant, arrivals: u64, lifetime: Duration) -> Option<u64> {
        if !self.is_time(now, lifetime) {
            return None;
        }
        self.0.push_back((now, arrivals));
        let mut expired = None;
        while let Some((_, arrival)) = self.0.pop_front_if(|(at, _)| *at + lifetime <= now) {
            expired = Some(arrival);
        }
        expired
    }
}

impl Pool {
    /// Takes note that a canonical block has used `nonce` of `sender`, and forgets what that ends.
    pub fn mined(&mut self, address: &Address, nonce: u64) {
        self.advance(address, nonce, None);
    }

    /// The same, with the transaction that has used it: that one is not lost.
    pub(crate) fn settled(&mut self, address: &Address, nonce: u64, hash: &B256) {
        self.advance(address, nonce, Some(hash));
    }

    fn advance(&mut self, address: &Address, nonce: u64, included: Option<&B256>) {
        let gone = |waiting: Waiting| -> Gone {
            let is_included = included.is_some_and(|hash| waiting.transaction.hash() == hash);
            (waiting, (!is_included).then_some(DropCause::NonceUsed))
        };
        if self.numbers.contains_key(address) {
            self.change(*address, |sender| sender.advance(nonce + 1).into_iter().map(gone));
        }
    }

    /// Takes note that the block which had used `nonce` of `sender` is canonical no more.
    pub fn reverted(&mut self, address: &Address, nonce: u64) {
        if self.numbers.contains_key(address) {
            self.change(*address, |sender| {
                sender.nonce = sender.nonce.min(nonce);
                sender.begun = sender.begun.min(nonce);
                None
            });
        }
    }

    /// Forgets one transaction that can never be executed.
    pub fn remove(&mut self, address: &Address, nonce: u64, cause: DropCause) {
        if self.numbers.contains_key(address) {
            self.change(*address, |sender| for_cause(sender.waiting.remove(nonce), cause));
        }
    }

    /// A transaction of this sender could not be paid when it was tried.
    pub(crate) fn doubt(&mut self, address: &Address) {
        if let Some(number) = self.numbers.get(address) {
            self.senders[*number as usize].is_doubted = true;
        }
    }

    /// Those of whom one could not be paid, or for whom something has begun that no block is known
    /// to hold: they are to be [looked at](Self::recheck), though they have used no nonce.
    pub(crate) fn doubted(&self) -> impl Iterator<Item = Address> {
        let waiting = self.senders.iter().filter(|sender| sender.waiting.last().is_some());
        let doubted = waiting.filter(|sender| sender.is_doubted || sender.begun > sender.nonce);
        doubted.map(|sender| sender.address)
    }

    /// Forgets what a sender whose account at the head is `account` cannot pay for any more, and
    /// what waits behind that.
    pub(crate) fn recheck(&mut self, address: &Address, account: Account, begun: Begun) {
        if !self.numbers.contains_key(address) {
            return;
        }
        let (begun, balance) = begun.after(account);
        self.change(*address, |sender| {
            let used = sender.advance(account.nonce);
            (sender.begun, sender.is_doubted) = (begun, false);
            let unpaid = sender.unpaid_from(sender.nonce.max(begun), balance);
            let unpaid = unpaid.map(|from| sender.waiting.take_from(from));
            let used = for_cause(used, DropCause::NonceUsed);
            used.chain(for_cause(unpaid.into_iter().flatten(), DropCause::Unpaid))
        });
    }

    /// Whether [`Pool::expire`] may find anything.
    pub(crate) fn is_time_to_expire(&self, now: Instant) -> bool {
        self.ages.is_time(now, self.limits.lifetime)
    }

    /// Forgets what has waited for [`PoolLimits::lifetime`](super::PoolLimits::lifetime). What
    /// `is_held` by a block in the making or a promise is not lost.
    pub(crate) fn expire(&mut self, now: Instant, is_held: impl Fn(&Transaction) -> bool) {
        let lifetime = self.limits.lifetime;
        let Some(expired) = self.ages.step(now, self.arrivals, lifetime) else { return };
        let old = |waiting: &&Waiting| waiting.arrival <= expired;
        let affected = self.numbers.iter().filter(|(_, number)| {
            self.senders[**number as usize].waiting.from(0).any(|waiting| old(&waiting))
        });
        let affected: Vec<Address> = affected.map(|(address, _)| *address).collect();
        for address in affected {
            self.change(address, |sender| {
                let nonces: Vec<_> =
                    sender.waiting.from(0).filter(old).map(|waiting| waiting.nonce).collect();
                let gone = nonces.into_iter().filter_map(|nonce| sender.waiting.remove(nonce));
                let gone = gone.map(|old| unless_held(old, &is_held, DropCause::Expired));
                gone.collect::<Vec<_>>()
            });
        }
    }

    /// The next block has these fees.
    pub(crate) fn set_fees(&mut self, fees: Fees) {
        self.fees = fees;
    }

    /// Orders the last transactions of all senders by what they are worth at the fees of now.
    ///
    /// It takes time by how many senders there are, once for each change of fees while there is no
    /// room, and never otherwise.
    pub(super) fn reorder(&mut self) {
        if self.ordered_at == self.fees {
            return;
        }
        self.ordered_at = self.fees;
        let fees = self.fees;
        for sender in &mut self.senders {
            sender.indexed = sender.tail(fees);
        }
        self.tails =
            self.senders.iter().filter_map(|sender| sender.indexed).collect::<BTreeSet<_>>();
    }
}

/// It no longer waits, for this cause unless it is held.
pub(super) fn unless_held(
    waiting: Waiting,
    is_held: impl Fn(&Transaction) -> bool,
    cause: DropCause,
) -> Gone {
    let cause = (!is_held(&waiting.transaction)).then_some(cause);
    (waiting, cause)
}
