//! What is promised and not in a block that is known here.
//!
//! A promise stands between its builds too: while none runs, while the next one has not come to it,
//! and until the flashblock that takes it back is out. What its sender sends meanwhile comes after
//! it. Decides nothing else, and is made anew from the promises whenever they change.

use alloy_consensus::Transaction as _;
use alloy_primitives::{
    Address, B256,
    map::{AddressMap, HashSet},
};
use preconf_chain::Transaction;
use preconf_state::{Account, Overlay, StateReader};

use crate::build::Build;

/// Promises by sender and by hash.
#[derive(Debug, Default)]
pub(crate) struct Owed {
    /// The nonce after the last one of each sender.
    next: AddressMap<u64>,
    hashes: HashSet<B256>,
}

impl Owed {
    /// Adds promises.
    pub(crate) fn extend<'a>(&mut self, promises: impl IntoIterator<Item = &'a Transaction>) {
        for promise in promises {
            let after = promise.envelope().nonce().saturating_add(1);
            let next = self.next.entry(promise.signer()).or_default();
            *next = after.max(*next);
            self.hashes.insert(*promise.hash());
        }
    }

    /// The nonce after the last one of this sender; 0 if it is promised nothing.
    pub(crate) fn next_nonce(&self, sender: &Address) -> u64 {
        self.next.get(sender).copied().unwrap_or_default()
    }

    /// Whether this transaction is one of them.
    pub(crate) fn holds(&self, hash: &B256) -> bool {
        self.hashes.contains(hash)
    }
}

/// What nobody may replace: the block in the making, or the one that was built and is not canonical
/// yet, and what is promised besides.
pub(crate) struct Held<'a, R: StateReader> {
    pub(crate) build: Option<&'a Build<R>>,
    pub(crate) built: Option<&'a Overlay<R>>,
    pub(crate) owed: &'a Owed,
}

impl<R: StateReader + Clone> Held<'_, R> {
    /// An account after that block; none without such a block, or if it is not in memory.
    pub(crate) fn account(&self, address: Address) -> Option<Account> {
        let running = self.build.and_then(Build::state);
        let account = running.or(self.built)?.account(address);
        account.ok().map(Option::unwrap_or_default)
    }

    /// Whether this transaction is in that block, or promised besides.
    pub(crate) fn holds(&self, transaction: &Transaction) -> bool {
        let uses = |account: Account| account.nonce > transaction.envelope().nonce();
        self.owed.holds(transaction.hash()) || self.account(transaction.signer()).is_some_and(uses)
    }
}
