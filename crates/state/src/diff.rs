//! What changed: the difference between two states, small enough to be handed around.
//!
//! A [`Diff`] holds absolute values, never increments, so applying one twice changes nothing and a
//! later one simply wins. Whatever it does not mention is unchanged. It never holds what was only
//! read.

use alloy_primitives::{
    Address, B256, U256,
    map::{HashMap, hash_map::Entry},
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
    pub accounts: HashMap<Address, AccountDiff>,
    /// The code that accounts were given, by hash.
    pub codes: HashMap<B256, Bytecode>,
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
    pub slots: HashMap<U256, U256>,
}

impl AccountDiff {
    /// What this says about a slot: its value, or `None` when it says nothing.
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

    /// What one execution did to one account; `None` when it changed nothing.
    fn of(touched: &TouchedAccount) -> Option<Self> {
        if !touched.is_touched() {
            return None;
        }
        let gone = touched.is_selfdestructed() || (touched.is_empty() && !touched.is_created());
        if gone {
            let existed = !touched.is_loaded_as_not_existing();
            return existed.then(|| Self { account: None, wiped: true, slots: HashMap::default() });
        }
        let slots: HashMap<U256, U256> = touched
            .changed_storage_slots()
            .map(|(slot, change)| (*slot, change.present_value()))
            .collect();
        if !touched.is_created() && slots.is_empty() && touched.info == touched.original_info() {
            return None;
        }
        let account = Some(Account::from(&touched.info));
        Some(Self { account, wiped: touched.is_created(), slots })
    }
}

impl Diff {
    /// Lets a later diff win over this one, account by account and slot by slot.
    pub fn merge(&mut self, later: &Self) {
        for (address, change) in &later.accounts {
            self.merge_account(*address, change.clone());
        }
        self.codes.extend(later.codes.iter().map(|(hash, code)| (*hash, code.clone())));
    }

    /// Adds what an execution hands over to be committed: accounts that self-destructed, that were
    /// created, that EIP-161 removes because they were touched and are empty, and those that
    /// changed. Accounts that were only read, or written to without effect, are left out.
    pub fn record(&mut self, state: EvmState) {
        for (address, touched) in state {
            let Some(change) = AccountDiff::of(&touched) else { continue };
            let gained_code = change.account.is_some_and(|account| account.has_code())
                && (change.wiped || touched.original_info().code_hash != touched.info.code_hash);
            if gained_code && let Some(code) = touched.info.code {
                self.codes.insert(touched.info.code_hash, code);
            }
            self.merge_account(address, change);
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

    fn merge_account(&mut self, address: Address, change: AccountDiff) {
        match self.accounts.entry(address) {
            Entry::Vacant(entry) => {
                entry.insert(change);
            }
            Entry::Occupied(mut entry) => entry.get_mut().merge(&change),
        }
    }
}
