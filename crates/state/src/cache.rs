//! What has been read of one block, kept across blocks.
//!
//! A [`StateCache`] is a *view*: the state of exactly one block. Views of neighbouring blocks share
//! one store of values read at an older block (the store's), and each view knows what changed
//! since: its own changes win, and only what they do not mention comes from the store. So a value
//! fetched for any view serves all of them, advancing costs what changed and not what is cached, a
//! holder of an old view never sees a newer block's value, and two children of one block cannot
//! disturb each other.
//!
//! Bounds: the store holds at most `capacity` units (a unit is one account or slot; code weighs one
//! per started 128 bytes); when a generation, half of that, is full, everything not read since the
//! one before is dropped (an approximation of least-recently-used). A view's changes are folded
//! into a new store of its own when they exceed a quarter of the capacity. Dropping is always
//! allowed: the next read says [`NeedState`].

use std::{collections::BTreeMap, sync::Arc};

use alloy_primitives::{Address, B256, KECCAK256_EMPTY, U256, map::HashMap};
use parking_lot::{Mutex, RwLock};
use revm::bytecode::Bytecode;

use crate::{Account, Diff, Key, NeedState, StateReader, Value, layers::Layers};

/// The least capacity. Below it, the keys of one large transaction could evict each other for ever.
pub const MIN_CAPACITY: usize = 4_096;

/// How many block hashes a view keeps: twice what BLOCKHASH can reach. The oldest go first.
const MAX_BLOCK_HASHES: usize = 512;

/// The state of one block, as far as it was read. Cloning copies a handle.
#[derive(Clone, Debug)]
pub struct StateCache {
    view: Arc<View>,
}

#[derive(Debug)]
struct View {
    number: u64,
    hash: B256,
    /// What changed between the store's block and this one.
    changes: Layers,
    /// Not shared with other views, because on another branch a number has another hash.
    block_hashes: Mutex<BTreeMap<u64, B256>>,
    store: Arc<Store>,
}

impl StateCache {
    /// Starts empty, at the block with this number and hash. A capacity under [`MIN_CAPACITY`] is
    /// raised to it.
    pub fn new(number: u64, hash: B256, capacity: usize) -> Self {
        let store = Arc::new(Store::new(capacity.max(MIN_CAPACITY)));
        Self::view(number, hash, Layers::default(), BTreeMap::new(), store)
    }

    /// Adds the answer to a key, as it is *at this view's block*. A value of another kind than the
    /// key asks for is ignored. Code must have been checked against its hash by the caller.
    pub fn insert(&self, key: Key, value: Value) {
        if !value.answers(&key) {
            return;
        }
        if let (Key::BlockHash(number), Value::BlockHash(hash)) = (key, &value) {
            let mut hashes = self.view.block_hashes.lock();
            // Its own hash is not for others to say.
            hashes.entry(number).or_insert(*hash);
            prune(&mut hashes);
        } else if self.changed(&key).is_none() {
            self.view.store.insert(key, value);
        }
    }

    /// The number and hash of the block whose state this is.
    pub fn block(&self) -> (u64, B256) {
        (self.view.number, self.view.hash)
    }

    /// The view one block later, given everything that block changed. This view stays as it is.
    #[must_use]
    pub fn advance(&self, diff: &Diff, number: u64, hash: B256) -> Self {
        let mut changes = self.view.changes.clone();
        changes.push(Arc::new(diff.clone()));
        let hashes = self.view.block_hashes.lock().clone();
        let store = &self.view.store;
        if changes.len() > store.capacity / 4 {
            let store = Arc::new(store.folded(&changes.merged()));
            return Self::view(number, hash, Layers::default(), hashes, store);
        }
        Self::view(number, hash, changes, hashes, store.clone())
    }

    /// Counts the units held: those of the store, and those of this view's changes.
    pub fn len(&self) -> usize {
        self.view.store.len() + self.view.changes.len()
    }

    /// Tells whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn view(
        number: u64,
        hash: B256,
        changes: Layers,
        mut block_hashes: BTreeMap<u64, B256>,
        store: Arc<Store>,
    ) -> Self {
        block_hashes.insert(number, hash);
        prune(&mut block_hashes);
        let block_hashes = Mutex::new(block_hashes);
        Self { view: Arc::new(View { number, hash, changes, block_hashes, store }) }
    }

    /// What this view's changes say about a key.
    fn changed(&self, key: &Key) -> Option<Value> {
        let changes = &self.view.changes;
        match key {
            Key::Account(address) => {
                changes.account(address).map(|change| Value::Account(change.account))
            }
            Key::Slot(address, slot) => changes.slot(address, slot).map(Value::Slot),
            Key::Code(hash) => changes.code(hash).cloned().map(Value::Code),
            Key::BlockHash(number) => {
                self.view.block_hashes.lock().get(number).copied().map(Value::BlockHash)
            }
        }
    }

    fn read(&self, key: Key) -> Result<Value, NeedState> {
        self.changed(&key).or_else(|| self.view.store.get(&key)).ok_or(NeedState(key))
    }
}

impl StateReader for StateCache {
    fn account(&self, address: Address) -> Result<Option<Account>, NeedState> {
        if let Some(change) = self.view.changes.account(&address) {
            return Ok(change.account);
        }
        let key = Key::Account(address);
        let account = |value: &Value| match value {
            Value::Account(account) => Some(*account),
            Value::Slot(_) | Value::Code(_) | Value::BlockHash(_) => None,
        };
        self.view.store.read(&key, account).ok_or(NeedState(key))
    }

    fn slot(&self, address: Address, slot: U256) -> Result<U256, NeedState> {
        if let Some(value) = self.view.changes.slot(&address, &slot) {
            return Ok(value);
        }
        let key = Key::Slot(address, slot);
        let value = |value: &Value| match value {
            Value::Slot(value) => Some(*value),
            Value::Account(_) | Value::Code(_) | Value::BlockHash(_) => None,
        };
        self.view.store.read(&key, value).ok_or(NeedState(key))
    }

    fn code(&self, hash: B256) -> Result<Bytecode, NeedState> {
        if hash == KECCAK256_EMPTY || hash.is_zero() {
            return Ok(Bytecode::default());
        }
        let key = Key::Code(hash);
        let Value::Code(code) = self.read(key)? else { return Err(NeedState(key)) };
        Ok(code)
    }

    fn block_hash(&self, number: u64) -> Result<B256, NeedState> {
        let key = Key::BlockHash(number);
        let Value::BlockHash(hash) = self.read(key)? else { return Err(NeedState(key)) };
        Ok(hash)
    }
}

/// Values as they were at one block. Holds no block hashes.
#[derive(Debug)]
struct Store {
    capacity: usize,
    generations: RwLock<Generations>,
}

#[derive(Clone, Debug, Default)]
struct Generations {
    young: Generation,
    old: Generation,
}

#[derive(Clone, Debug, Default)]
struct Generation {
    values: HashMap<Key, Value>,
    weight: usize,
}

impl Store {
    fn new(capacity: usize) -> Self {
        Self { capacity, generations: RwLock::default() }
    }

    fn get(&self, key: &Key) -> Option<Value> {
        self.read(key, |value| Some(value.clone()))
    }

    /// What `pick` takes of a value, without copying the rest of it.
    fn read<T>(&self, key: &Key, pick: impl Fn(&Value) -> Option<T>) -> Option<T> {
        let value = {
            let generations = self.generations.read();
            if let Some(value) = generations.young.values.get(key) {
                return pick(value);
            }
            generations.old.values.get(key)?.clone()
        };
        let picked = pick(&value);
        self.insert(*key, value);
        picked
    }

    fn insert(&self, key: Key, value: Value) {
        self.generations.write().insert(key, value, self.capacity / 2);
    }

    fn len(&self) -> usize {
        let generations = self.generations.read();
        generations.young.weight + generations.old.weight
    }

    /// The store as it is after a diff; this one stays as it is.
    fn folded(&self, diff: &Diff) -> Self {
        let mut generations = self.generations.read().clone();
        generations.young.retain_unchanged(diff);
        generations.old.retain_unchanged(diff);
        let limit = self.capacity / 2;
        for (address, change) in &diff.accounts {
            generations.insert(Key::Account(*address), Value::Account(change.account), limit);
            for (slot, value) in &change.slots {
                generations.insert(Key::Slot(*address, *slot), Value::Slot(*value), limit);
            }
        }
        for (hash, code) in &diff.codes {
            generations.insert(Key::Code(*hash), Value::Code(code.clone()), limit);
        }
        Self { capacity: self.capacity, generations: RwLock::new(generations) }
    }
}

impl Generations {
    fn insert(&mut self, key: Key, value: Value, limit: usize) {
        let weight = weight(&value);
        if weight > limit {
            return;
        }
        self.old.remove(&key);
        self.young.remove(&key);
        if self.young.weight + weight > limit {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.weight += weight;
        self.young.values.insert(key, value);
    }
}

impl Generation {
    fn remove(&mut self, key: &Key) {
        if let Some(value) = self.values.remove(key) {
            self.weight -= weight(&value);
        }
    }

    fn retain_unchanged(&mut self, diff: &Diff) {
        let weights = &mut self.weight;
        self.values.retain(|key, value| {
            let changed = match key {
                Key::Account(address) => diff.accounts.contains_key(address),
                Key::Slot(address, slot) => {
                    diff.accounts.get(address).is_some_and(|change| change.slot(slot).is_some())
                }
                Key::Code(_) | Key::BlockHash(_) => false,
            };
            if changed {
                *weights -= weight(value);
            }
            !changed
        });
    }
}

fn weight(value: &Value) -> usize {
    match value {
        Value::Account(_) | Value::Slot(_) | Value::BlockHash(_) => 1,
        Value::Code(code) => 1 + code.len() / 128,
    }
}

fn prune(hashes: &mut BTreeMap<u64, B256>) {
    while hashes.len() > MAX_BLOCK_HASHES {
        hashes.pop_first();
    }
}
