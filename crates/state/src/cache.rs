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

use std::{
    collections::BTreeMap,
    hash::{Hash, Hasher},
    sync::Arc,
};

use alloy_primitives::{
    Address, B256, KECCAK256_EMPTY, U256,
    map::{AddressMap, B256Map, HashMap},
};
use parking_lot::{Mutex, RwLock};
use revm::bytecode::Bytecode;

use crate::{
    Account, Diff, Key, NeedState, StateReader, Value,
    key::{hash_number, hash_words},
    layers::Layers,
};

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
        let changes = &self.view.changes;
        match (key, value) {
            (Key::BlockHash(number), Value::BlockHash(hash)) => {
                let mut hashes = self.view.block_hashes.lock();
                // Its own hash is not for others to say.
                hashes.entry(number).or_insert(hash);
                prune(&mut hashes);
            }
            (Key::Account(address), Value::Account(account)) => {
                if changes.account(&address).is_none() {
                    self.view.store.insert(Entry::Account(address, account));
                }
            }
            (Key::Slot(address, slot), Value::Slot(value)) => {
                if changes.slot(&address, &slot).is_none() {
                    self.view.store.insert(Entry::Slot(Slot { address, slot }, value));
                }
            }
            (Key::Code(hash), Value::Code(code)) => {
                if changes.code(&hash).is_none() {
                    self.view.store.insert(Entry::Code(hash, code));
                }
            }
            (Key::Account(_) | Key::Slot(..) | Key::Code(_) | Key::BlockHash(_), _) => {}
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
}

impl StateReader for StateCache {
    fn account(&self, address: Address) -> Result<Option<Account>, NeedState> {
        match self.view.changes.account(&address) {
            Some(change) => Ok(change.account),
            None => self.view.store.account(address).ok_or(NeedState(Key::Account(address))),
        }
    }

    fn slot(&self, address: Address, slot: U256) -> Result<U256, NeedState> {
        match self.view.changes.slot(&address, &slot) {
            Some(value) => Ok(value),
            None => self.view.store.slot(address, slot).ok_or(NeedState(Key::Slot(address, slot))),
        }
    }

    fn code(&self, hash: B256) -> Result<Bytecode, NeedState> {
        if hash == KECCAK256_EMPTY || hash.is_zero() {
            return Ok(Bytecode::default());
        }
        match self.view.changes.code(&hash) {
            Some(code) => Ok(code.clone()),
            None => self.view.store.code(hash).ok_or(NeedState(Key::Code(hash))),
        }
    }

    fn block_hash(&self, number: u64) -> Result<B256, NeedState> {
        let hash = self.view.block_hashes.lock().get(&number).copied();
        hash.ok_or(NeedState(Key::BlockHash(number)))
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

/// Each kind in a map of its own: there are many, so what lies between them counts.
#[derive(Clone, Debug, Default)]
struct Generation {
    accounts: AddressMap<Option<Account>>,
    slots: HashMap<Slot, U256>,
    codes: B256Map<Bytecode>,
    weight: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    address: Address,
    slot: U256,
}

/// In words and not in bytes, as the derived one would.
impl Hash for Slot {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash_words(&self.address.0, state);
        hash_number(&self.slot, state);
    }
}

/// A value with its key.
#[derive(Debug)]
enum Entry {
    Account(Address, Option<Account>),
    Slot(Slot, U256),
    Code(B256, Bytecode),
}

impl Entry {
    fn weight(&self) -> usize {
        match self {
            Self::Account(..) | Self::Slot(..) => 1,
            Self::Code(_, code) => weight_of(code),
        }
    }
}

impl Store {
    fn new(capacity: usize) -> Self {
        Self { capacity, generations: RwLock::default() }
    }

    fn account(&self, address: Address) -> Option<Option<Account>> {
        let entry = |account: &_| Entry::Account(address, *account);
        self.read(|generation| generation.accounts.get(&address).copied(), entry)
    }

    fn slot(&self, address: Address, slot: U256) -> Option<U256> {
        let slot = Slot { address, slot };
        let entry = |value: &_| Entry::Slot(slot, *value);
        self.read(|generation| generation.slots.get(&slot).copied(), entry)
    }

    fn code(&self, hash: B256) -> Option<Bytecode> {
        let entry = |code: &Bytecode| Entry::Code(hash, code.clone());
        self.read(|generation| generation.codes.get(&hash).cloned(), entry)
    }

    /// What `pick` finds. What it finds in the old generation becomes young again.
    #[inline]
    fn read<T>(
        &self,
        pick: impl Fn(&Generation) -> Option<T>,
        entry: impl FnOnce(&T) -> Entry,
    ) -> Option<T> {
        let value = {
            let generations = self.generations.read();
            if let Some(value) = pick(&generations.young) {
                return Some(value);
            }
            pick(&generations.old)?
        };
        self.insert(entry(&value));
        Some(value)
    }

    fn insert(&self, entry: Entry) {
        self.generations.write().insert(entry, self.capacity / 2);
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
            let address = *address;
            generations.insert(Entry::Account(address, change.account), limit);
            for (slot, value) in &change.slots {
                generations.insert(Entry::Slot(Slot { address, slot: *slot }, *value), limit);
            }
        }
        for (hash, code) in &diff.codes {
            generations.insert(Entry::Code(*hash, code.clone()), limit);
        }
        Self { capacity: self.capacity, generations: RwLock::new(generations) }
    }
}

impl Generations {
    fn insert(&mut self, entry: Entry, limit: usize) {
        let weight = entry.weight();
        if weight > limit {
            return;
        }
        self.old.remove(&entry);
        self.young.remove(&entry);
        if self.young.weight + weight > limit {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(entry);
    }
}

impl Generation {
    /// Adds what it does not hold.
    fn insert(&mut self, entry: Entry) {
        self.weight += entry.weight();
        match entry {
            Entry::Account(address, account) => {
                self.accounts.insert(address, account);
            }
            Entry::Slot(slot, value) => {
                self.slots.insert(slot, value);
            }
            Entry::Code(hash, code) => {
                self.codes.insert(hash, code);
            }
        }
    }

    /// Drops what it holds under the key of `entry`.
    fn remove(&mut self, entry: &Entry) {
        let freed = match entry {
            Entry::Account(address, _) => self.accounts.remove(address).map(|_| 1),
            Entry::Slot(slot, _) => self.slots.remove(slot).map(|_| 1),
            Entry::Code(hash, _) => self.codes.remove(hash).map(|code| weight_of(&code)),
        };
        self.weight -= freed.unwrap_or_default();
    }

    fn retain_unchanged(&mut self, diff: &Diff) {
        let before = self.accounts.len() + self.slots.len();
        self.accounts.retain(|address, _| !diff.accounts.contains_key(address));
        self.slots.retain(|Slot { address, slot }, _| {
            diff.accounts.get(address).and_then(|change| change.slot(slot)).is_none()
        });
        self.weight -= before - self.accounts.len() - self.slots.len();
    }
}

fn weight_of(code: &Bytecode) -> usize {
    1 + code.len() / 128
}

fn prune(hashes: &mut BTreeMap<u64, B256>) {
    while hashes.len() > MAX_BLOCK_HASHES {
        hashes.pop_first();
    }
}
