//! State that is being changed: a reader below, the changes on top.
//!
//! An [`Overlay`] is the executor's database. It decides which value a read sees: the newest layer
//! that says something about the key, else the reader. What is committed goes to the head;
//! [`Overlay::freeze`] turns the head into an immutable layer that can be published and shared.
//!
//! Invariants: a layer that was handed out never changes; a clone shares what is frozen, and the
//! first freeze after it copies that once; clones never see each other's later changes; a read that
//! fails leaves its key in [`Overlay::take_missing`], since executors tend to turn the error into
//! text. It never fetches.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use alloy_primitives::{Address, B256, KECCAK256_EMPTY, U256};
use revm::{
    Database, DatabaseCommit,
    bytecode::Bytecode,
    state::{AccountInfo, EvmState},
};

use crate::{Account, Diff, Key, NeedState, StateReader, layers::Layers};

/// How many failed reads are remembered. An execution stops at its first one, so this is never
/// reached by a caller who takes them; beyond it they are dropped, to be found again by a retry.
const MAX_MISSING: usize = 1_024;

/// State of one block (the reader's) and every change made to it since.
#[derive(Clone, Debug)]
pub struct Overlay<R> {
    reader: R,
    /// What changed before [`Overlay::begin_block`].
    earlier: Layers,
    /// What changed since, up to the last freeze: one diff, so that a read looks once. Added to in
    /// place unless a clone shares it, which copies it once.
    frozen: Arc<Diff>,
    /// What changed since the last freeze.
    head: Diff,
    block_hashes: BTreeMap<u64, B256>,
    missing: BTreeSet<Key>,
}

impl<R> Overlay<R> {
    /// Starts without changes.
    pub fn new(reader: R) -> Self {
        Self {
            reader,
            earlier: Layers::default(),
            frozen: Arc::default(),
            head: Diff::default(),
            block_hashes: BTreeMap::new(),
            missing: BTreeSet::new(),
        }
    }

    /// Makes room for about this many more changed accounts.
    pub fn reserve(&mut self, accounts: usize) {
        self.head.accounts.reserve(accounts);
    }

    /// Closes the head: returns exactly what changed since the last freeze, which from now on is a
    /// layer of this overlay.
    pub fn freeze(&mut self) -> Arc<Diff> {
        let diff = Arc::new(std::mem::take(&mut self.head));
        // The next head will be about as large.
        self.head.accounts.reserve(diff.accounts.len());
        self.absorb(&diff);
        diff
    }

    /// Puts a diff that was made elsewhere on top of everything.
    pub fn push_layer(&mut self, diff: Arc<Diff>) {
        if !self.head.is_empty() {
            self.freeze();
        }
        self.absorb(&diff);
    }

    fn absorb(&mut self, diff: &Arc<Diff>) {
        if self.frozen.is_empty() {
            self.frozen = diff.clone();
        } else if !diff.is_empty() {
            Arc::make_mut(&mut self.frozen).merge(diff);
        }
    }

    /// Marks the border between two blocks: what changed so far is no longer part of
    /// [`Overlay::block_diff`].
    pub fn begin_block(&mut self) {
        self.freeze();
        self.earlier.push(std::mem::take(&mut self.frozen));
    }

    /// Makes the hash of a block known that the reader cannot know: one that is still pending.
    pub fn set_block_hash(&mut self, number: u64, hash: B256) {
        self.block_hashes.insert(number, hash);
    }

    /// Takes every key that the executor failed to read since the last call, in order.
    pub fn take_missing(&mut self) -> Vec<Key> {
        if self.missing.is_empty() {
            return Vec::new();
        }
        std::mem::take(&mut self.missing).into_iter().collect()
    }

    /// Everything that changed, as one diff over the reader.
    pub fn diff(&self) -> Diff {
        let mut merged = self.earlier.merged();
        merged.merge(&self.block_diff());
        merged
    }

    /// What changed since [`Overlay::begin_block`], as one diff.
    pub fn block_diff(&self) -> Diff {
        let mut merged = Diff::clone(&self.frozen);
        merged.merge(&self.head);
        merged
    }

    /// What changed since the last freeze.
    pub fn head(&self) -> &Diff {
        &self.head
    }

    /// The state below the changes.
    pub fn reader(&self) -> &R {
        &self.reader
    }

    fn remember<T>(&mut self, read: Result<T, NeedState>) -> Result<T, NeedState> {
        if let Err(NeedState(key)) = &read
            && self.missing.len() < MAX_MISSING
        {
            self.missing.insert(*key);
        }
        read
    }
}

impl<R: StateReader> StateReader for Overlay<R> {
    fn account(&self, address: Address) -> Result<Option<Account>, NeedState> {
        let change = self.head.accounts.get(&address);
        let change = change.or_else(|| self.frozen.accounts.get(&address));
        match change.or_else(|| self.earlier.account(&address)) {
            Some(change) => Ok(change.account),
            None => self.reader.account(address),
        }
    }

    fn slot(&self, address: Address, slot: U256) -> Result<U256, NeedState> {
        let slot_of = |diff: &Diff| diff.accounts.get(&address)?.slot(&slot);
        let value = slot_of(&self.head).or_else(|| slot_of(&self.frozen));
        match value.or_else(|| self.earlier.slot(&address, &slot)) {
            Some(value) => Ok(value),
            None => self.reader.slot(address, slot),
        }
    }

    fn code(&self, hash: B256) -> Result<Bytecode, NeedState> {
        if hash == KECCAK256_EMPTY || hash.is_zero() {
            return Ok(Bytecode::default());
        }
        let code = self.head.codes.get(&hash);
        let code = code.or_else(|| self.frozen.codes.get(&hash));
        match code.or_else(|| self.earlier.code(&hash)) {
            Some(code) => Ok(code.clone()),
            None => self.reader.code(hash),
        }
    }

    fn block_hash(&self, number: u64) -> Result<B256, NeedState> {
        match self.block_hashes.get(&number) {
            Some(hash) => Ok(*hash),
            None => self.reader.block_hash(number),
        }
    }
}

impl<R: StateReader> Database for Overlay<R> {
    type Error = NeedState;

    fn basic(&mut self, address: Address) -> Result<Option<AccountInfo>, NeedState> {
        let account = self.account(address);
        self.remember(account).map(|account| account.map(AccountInfo::from))
    }

    fn code_by_hash(&mut self, hash: B256) -> Result<Bytecode, NeedState> {
        let code = self.code(hash);
        self.remember(code)
    }

    fn storage(&mut self, address: Address, slot: U256) -> Result<U256, NeedState> {
        let value = self.slot(address, slot);
        self.remember(value)
    }

    fn block_hash(&mut self, number: u64) -> Result<B256, NeedState> {
        let hash = StateReader::block_hash(self, number);
        self.remember(hash)
    }
}

impl<R> DatabaseCommit for Overlay<R> {
    fn commit(&mut self, state: EvmState) {
        self.head.record(state);
    }
}
