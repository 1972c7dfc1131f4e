//! A complete state in memory, for a small embedded chain and for tests.
//!
//! Because it is complete, what it does not hold does not exist: reads never fail, except for a
//! code or block hash that nothing in this state refers to.

use std::{collections::BTreeMap, sync::Arc};

use alloy_genesis::GenesisAccount;
use alloy_primitives::{Address, B256, Bytes, KECCAK256_EMPTY, U256, keccak256, map::HashMap};
use revm::bytecode::Bytecode;

use crate::{Account, Diff, Key, NeedState, StateReader};

/// Every account, slot and code of one block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryState {
    accounts: BTreeMap<Address, StoredAccount>,
    codes: HashMap<B256, Bytecode>,
    block_hashes: BTreeMap<u64, B256>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct StoredAccount {
    account: Account,
    /// Shared between clones until it is written; never holds a zero.
    slots: Arc<BTreeMap<U256, U256>>,
}

impl MemoryState {
    /// The state that a genesis file describes.
    pub fn from_genesis<'a>(
        alloc: impl IntoIterator<Item = (&'a Address, &'a GenesisAccount)>,
    ) -> Self {
        let mut state = Self::default();
        for (address, genesis) in alloc {
            let code_hash = match &genesis.code {
                Some(code) if !code.is_empty() => state.add_code(code.clone()),
                Some(_) | None => KECCAK256_EMPTY,
            };
            let nonce = genesis.nonce.unwrap_or_default();
            let account = Account { nonce, balance: genesis.balance, code_hash };
            let slots = genesis
                .storage
                .iter()
                .flatten()
                .map(|(slot, value)| (U256::from_be_bytes(slot.0), U256::from_be_bytes(value.0)))
                .filter(|(_, value)| !value.is_zero())
                .collect();
            state.accounts.insert(*address, StoredAccount { account, slots: Arc::new(slots) });
        }
        state
    }

    /// Moves to the state after a diff.
    pub fn apply(&mut self, diff: &Diff) {
        for (address, change) in &diff.accounts {
            let Some(account) = change.account else {
                self.accounts.remove(address);
                continue;
            };
            let stored = self.accounts.entry(*address).or_default();
            stored.account = account;
            if change.wiped {
                stored.slots = Arc::default();
            }
            if !change.slots.is_empty() {
                let slots = Arc::make_mut(&mut stored.slots);
                for (slot, value) in &change.slots {
                    if value.is_zero() {
                        slots.remove(slot);
                    } else {
                        slots.insert(*slot, *value);
                    }
                }
            }
        }
        self.codes.extend(diff.codes.iter().map(|(hash, code)| (*hash, code.clone())));
    }

    /// Makes the hash of an ancestor known.
    pub fn set_block_hash(&mut self, number: u64, hash: B256) {
        self.block_hashes.insert(number, hash);
    }

    /// Every account with its slots (zeros left out), ordered: what a state root is made from.
    pub fn iter(
        &self,
    ) -> impl Iterator<Item = (Address, Account, impl Iterator<Item = (U256, U256)> + '_)> {
        self.accounts.iter().map(|(address, stored)| {
            let slots = stored.slots.iter().map(|(slot, value)| (*slot, *value));
            (*address, stored.account, slots)
        })
    }

    fn add_code(&mut self, code: Bytes) -> B256 {
        let hash = keccak256(&code);
        // Bytes that only look like a delegation are code that stops at its first byte.
        let code =
            Bytecode::new_raw_checked(code.clone()).unwrap_or_else(|_| Bytecode::new_legacy(code));
        self.codes.insert(hash, code);
        hash
    }
}

impl StateReader for MemoryState {
    fn account(&self, address: Address) -> Result<Option<Account>, NeedState> {
        Ok(self.accounts.get(&address).map(|stored| stored.account))
    }

    fn slot(&self, address: Address, slot: U256) -> Result<U256, NeedState> {
        let value = self.accounts.get(&address).and_then(|stored| stored.slots.get(&slot));
        Ok(value.copied().unwrap_or_default())
    }

    fn code(&self, hash: B256) -> Result<Bytecode, NeedState> {
        if hash == KECCAK256_EMPTY || hash.is_zero() {
            return Ok(Bytecode::default());
        }
        self.codes.get(&hash).cloned().ok_or(NeedState(Key::Code(hash)))
    }

    fn block_hash(&self, number: u64) -> Result<B256, NeedState> {
        self.block_hashes.get(&number).copied().ok_or(NeedState(Key::BlockHash(number)))
    }
}
