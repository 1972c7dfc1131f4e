//! What changed: the difference between two states, small enough to be handed around.
//!
//! A [`Diff`] holds absolute values, never increments, so applying one twice changes nothing and a
//! later one simply wins. Whatever it does not mention is unchanged. It never holds what was only
//! read.

use alloy_primitives::{
    Address, U256,
    map::{AddressMap, B256Map, U256Map, hash_map::Entry},
};
use revm::{
    bytecode::Bytecode,
    state::{Account as TouchedAccount, EvmState},
};

use crate::Account;

/// A set of changes to accounts, their storage, and the code that became known with them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// The changed accounts.
    pub accounts: AddressMap<AccountDiff>,
    /// The code that accounts were given, by hash.
    pub codes: B256Map<Bytecode>,
}

/// What became of one account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccountDiff {
    /// The account afterwards (also when only its storage changed); `None` when it is gone.
    pub account: Option<Account>,
    /// Whether the whole storage was cleared before `slots` were written. True for an account
    /// that is gone and for one that was created.
    pub wiped: bool,
    /// The slots that were written, with their values afterwards.
    pub slots: U256Map<U256>,
}

impl AccountDiff {
    /// What this says about a slot: its value, or `None` when it says nothing.
    #[inline]
    pub fn slot(&self, slot: &U256) -> Option<U256> {
        match self.slots.get(slot) {
            Some(value) => Some(*value),
            None if self.wiped => Some(U256::ZERO),
            None => None,
        }
    }

    /// Lets a later change win over this one.
    pub fn merge(&mut self, later: &Self) {
        self.account = later.account;
        if later.wiped {
            self.wiped = true;
            self.slots.clone_from(&later.slots);
        } else {
            self.slots.extend(later.slots.iter().map(|(slot, value)| (*slot, *value)));
        }
    }
}

impl Diff {
    /// Lets a later diff win over this one, account by account and slot by slot.
    pub fn merge(&mut self, later: &Self) {
        self.accounts.reserve(later.accounts.len());
        for (address, change) in &later.accounts {
            match self.accounts.entry(*address) {
                Entry::Vacant(entry) => {
                    entry.insert(change.clone());
                }
                Entry::Occupied(mut entry) => entry.get_mut().merge(change),
            }
        }
        self.codes.extend(later.codes.iter().map(|(hash, code)| (*hash, code.clone())));
    }

    /// Adds what an execution hands over to be committed: accounts that self-destructed, that were
    /// created, that EIP-161 removes because they were touched and are empty, and those that
    /// changed. Accounts that were only read, or written to without effect, are left out.
    pub fn record(&mut self, state: EvmState) {
        for (address, touched) in &state {
            if touched.is_touched() {
                self.record_touched(*address, touched);
            }
        }
    }

    fn record_touched(&mut self, address: Address, touched: &TouchedAccount) {
        let created = touched.is_created();
        if touched.is_selfdestructed() || (touched.is_empty() && !created) {
            if !touched.is_loaded_as_not_existing() {
                let gone = AccountDiff { wiped: true, ..AccountDiff::default() };
                self.accounts.insert(address, gone);
            }
            return;
        }
        let changed = touched.is_changed();
        let mut slots = touched.changed_storage_slots().peekable();
        if !created && !changed && slots.peek().is_none() {
            return;
        }
        let change = self.accounts.entry(address).or_default();
        let account = Account::from(&touched.info);
        change.account = Some(account);
        if created {
            change.wiped = true;
            change.slots.clear();
        }
        change.slots.extend(slots.map(|(slot, change)| (*slot, change.present_value())));
        // The original is looked at last, because that copies it.
        let gained_code = account.has_code()
            && (created || changed && touched.original_info().code_hash != touched.info.code_hash);
        if gained_code && let Some(code) = &touched.info.code {
            self.codes.insert(touched.info.code_hash, code.clone());
        }
    }

    /// Tells whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty() && self.codes.is_empty()
    }

    /// Counts the entries: accounts, slots and codes.
    pub fn len(&self) -> usize {
        let slots: usize = self.accounts.values().map(|change| change.slots.len()).sum();
        self.accounts.len() + slots + self.codes.len()
    }
}
