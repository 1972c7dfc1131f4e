//! The blocks that are known, which of them are canonical, and the states after them.
//!
//! Every block in the tree was executed and found valid; its parent is in the tree. Canonical are
//! the head and its ancestors. A state is a complete one, shared by many blocks, with the changes
//! of the blocks since on top. It becomes complete again when those changes have grown as large as
//! the state below them, so that keeping every state costs a few times what the blocks changed.
//!
//! Bounds: states are kept from so many blocks below the head as [`Kept::states`] says, and so are
//! blocks that are not canonical; there are at most [`MAX_SIBLINGS`] blocks of one number.
//! Canonical blocks are kept within [`Kept`]; the genesis always is.
//!
//! Never executes, and never decides whether a block is valid.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use alloy_eips::eip7685::Requests;
use alloy_primitives::B256;
use preconf_chain::{Block, Header, Receipt, Transaction};
use preconf_state::{Diff, MemoryState, Overlay};

/// How far below the head states are kept by default: more than any reorg.
pub const STATES_KEPT: u64 = 256;

/// How many hashes of blocks below it a block can see with BLOCKHASH.
const VISIBLE_HASHES: u64 = 256;

/// The most blocks of one number. When there are more, one that is not canonical is forgotten.
const MAX_SIBLINGS: usize = 64;

/// The state after a block. Cloning it costs a few pointers.
pub type BlockState = Overlay<Arc<MemoryState>>;

/// A block that was executed and found valid.
#[derive(Debug)]
pub struct ChainBlock {
    /// Its hash.
    pub hash: B256,
    /// Its header and body.
    pub block: Block,
    /// Its transactions, with their senders.
    pub transactions: Vec<Transaction>,
    /// Their receipts.
    pub receipts: Vec<Receipt>,
    /// The state roots after each of them, which their receipts hold instead of a status; empty
    /// since Byzantium.
    pub intermediate_roots: Vec<B256>,
    /// Its requests to the consensus layer.
    pub requests: Requests,
}

impl ChainBlock {
    /// Its header.
    pub fn header(&self) -> &Header {
        &self.block.header
    }

    /// Its number.
    pub fn number(&self) -> u64 {
        self.block.header.number
    }
}

/// How much of the canonical chain is kept. The oldest blocks go first, but never those whose state
/// is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The most blocks.
    pub blocks: u64,
    /// The most transactions in them.
    pub transactions: usize,
    /// How far below the head states are kept.
    pub states: u64,
}

impl Kept {
    /// All there is.
    pub const EVERYTHING: Self =
        Self { blocks: u64::MAX, transactions: usize::MAX, states: u64::MAX };
}

impl Default for Kept {
    fn default() -> Self {
        Self { blocks: 50_000, transactions: 500_000, states: STATES_KEPT }
    }
}

/// What a change of the head did to the canonical chain.
#[derive(Clone, Debug, Default)]
pub struct HeadChange {
    /// No longer canonical, the highest first.
    pub removed: Vec<Arc<ChainBlock>>,
    /// Canonical from now on, the lowest first.
    pub added: Vec<Arc<ChainBlock>>,
}

/// The blocks that are known.
#[derive(Debug)]
pub(crate) struct BlockTree {
    kept: Kept,
    genesis: Arc<ChainBlock>,
    head: Arc<ChainBlock>,
    safe: Option<B256>,
    finalized: Option<B256>,
    blocks: HashMap<B256, Arc<ChainBlock>>,
    states: HashMap<B256, BlockState>,
    /// All blocks whose state is kept, in the order in which they came.
    recent: BTreeMap<u64, Vec<B256>>,
    canonical: BTreeMap<u64, B256>,
    /// Where the canonical transactions are.
    transactions: HashMap<B256, (B256, usize)>,
}

impl BlockTree {
    /// A tree of nothing but the first block.
    pub(crate) fn new(genesis: Block, hash: B256, state: MemoryState, kept: Kept) -> Self {
        let number = genesis.header.number;
        let genesis = Arc::new(ChainBlock {
            hash,
            block: genesis,
            transactions: Vec::new(),
            receipts: Vec::new(),
            intermediate_roots: Vec::new(),
            requests: Requests::default(),
        });
        Self {
            kept,
            genesis: genesis.clone(),
            head: genesis.clone(),
            safe: None,
            finalized: None,
            blocks: HashMap::from([(hash, genesis)]),
            states: HashMap::from([(hash, Overlay::new(Arc::new(state)))]),
            recent: BTreeMap::from([(number, vec![hash])]),
            canonical: BTreeMap::from([(number, hash)]),
            transactions: HashMap::new(),
        }
    }

    pub(crate) fn genesis(&self) -> &Arc<ChainBlock> {
        &self.genesis
    }

    pub(crate) fn head(&self) -> &Arc<ChainBlock> {
        &self.head
    }

    pub(crate) fn safe(&self) -> Option<&Arc<ChainBlock>> {
        self.blocks.get(&self.safe?)
    }

    pub(crate) fn finalized(&self) -> Option<&Arc<ChainBlock>> {
        self.blocks.get(&self.finalized?)
    }

    pub(crate) fn block(&self, hash: &B256) -> Option<&Arc<ChainBlock>> {
        self.blocks.get(hash)
    }

    pub(crate) fn block_by_number(&self, number: u64) -> Option<&Arc<ChainBlock>> {
        self.blocks.get(self.canonical.get(&number)?)
    }

    pub(crate) fn is_canonical(&self, block: &ChainBlock) -> bool {
        self.canonical.get(&block.number()) == Some(&block.hash)
    }

    /// The block of a canonical transaction, and its index there.
    pub(crate) fn transaction(&self, hash: &B256) -> Option<(&Arc<ChainBlock>, usize)> {
        let (block, index) = self.transactions.get(hash)?;
        Some((self.blocks.get(block)?, *index))
    }

    /// The state after a block, with the hashes of the blocks that BLOCKHASH can see from the next.
    pub(crate) fn state(&self, hash: &B256) -> Option<BlockState> {
        let mut state = self.states.get(hash)?.clone();
        let mut ancestor = self.blocks.get(hash);
        for _ in 0..VISIBLE_HASHES {
            let Some(block) = ancestor else { break };
            state.set_block_hash(block.number(), block.hash);
            ancestor = self.blocks.get(&block.header().parent_hash);
        }
        Some(state)
    }

    /// Adds a block whose parent's state is kept. `diff` is what it changed, `full` the state
    /// after it. One that is known already changes nothing.
    pub(crate) fn insert(&mut self, block: Arc<ChainBlock>, diff: Diff, full: MemoryState) {
        let (hash, number) = (block.hash, block.number());
        let Some(parent) = self.states.get(&block.header().parent_hash) else { return };
        if self.blocks.contains_key(&hash) {
            return;
        }
        let mut state = parent.clone();
        state.push_layer(Arc::new(diff));
        if entries_of_diff(&state.diff()) >= entries(&full) {
            state = Overlay::new(Arc::new(full));
        }
        self.states.insert(hash, state);
        self.blocks.insert(hash, block);
        let siblings = self.recent.entry(number).or_default();
        siblings.push(hash);
        if siblings.len() > MAX_SIBLINGS {
            let canonical = self.canonical.get(&number);
            let oldest = siblings.iter().position(|sibling| Some(sibling) != canonical);
            let forgotten = siblings.remove(oldest.unwrap_or_default());
            self.forget(&forgotten);
        }
    }

    /// Whether `tip`, or a block below it, is `ancestor`.
    pub(crate) fn descends(&self, tip: &B256, ancestor: &B256) -> bool {
        let Some(ancestor) = self.blocks.get(ancestor) else { return false };
        let mut block = self.blocks.get(tip);
        while let Some(candidate) = block
            && candidate.number() >= ancestor.number()
        {
            if candidate.hash == ancestor.hash {
                return true;
            }
            if self.is_canonical(candidate) {
                return self.is_canonical(ancestor);
            }
            block = self.blocks.get(&candidate.header().parent_hash);
        }
        false
    }

    /// Makes a block the head, and it and its ancestors canonical. `None` if it is not known or
    /// its state is no longer kept; then nothing changes.
    pub(crate) fn set_head(&mut self, hash: &B256) -> Option<HeadChange> {
        let head = self.blocks.get(hash)?.clone();
        if !self.states.contains_key(hash) {
            return None;
        }
        let mut change = HeadChange::default();
        let mut block = head.clone();
        while !self.is_canonical(&block) {
            change.added.push(block.clone());
            block = self.blocks.get(&block.header().parent_hash)?.clone();
        }
        change.added.reverse();
        let above = self.canonical.split_off(&(block.number() + 1));
        let above = above.into_values().rev().filter_map(|hash| self.blocks.get(&hash).cloned());
        change.removed = above.collect();
        for removed in &change.removed {
            for transaction in &removed.transactions {
                self.transactions.remove(transaction.hash());
            }
        }
        for added in &change.added {
            self.canonical.insert(added.number(), added.hash);
            for (index, transaction) in added.transactions.iter().enumerate() {
                self.transactions.insert(*transaction.hash(), (added.hash, index));
            }
        }
        self.head = head;
        self.prune();
        Some(change)
    }

    /// Takes note of the safe and the finalized block. Zero says nothing.
    pub(crate) fn set_final(&mut self, safe: B256, finalized: B256) {
        if !safe.is_zero() {
            self.safe = Some(safe);
        }
        if !finalized.is_zero() {
            self.finalized = Some(finalized);
        }
    }

    fn prune(&mut self) {
        let lowest = self.head.number().saturating_sub(self.kept.states);
        let recent = self.recent.split_off(&lowest);
        for (number, hashes) in std::mem::replace(&mut self.recent, recent) {
            for hash in hashes {
                if self.canonical.get(&number) == Some(&hash) {
                    self.states.remove(&hash);
                } else {
                    self.forget(&hash);
                }
            }
        }
        while self.canonical.len() as u64 > self.kept.blocks.max(1)
            || self.transactions.len() > self.kept.transactions
        {
            let genesis = self.genesis.number();
            let oldest = self.canonical.range(genesis + 1..lowest).next();
            let Some((number, hash)) = oldest.map(|(number, hash)| (*number, *hash)) else { break };
            self.canonical.remove(&number);
            self.forget(&hash);
        }
    }

    fn forget(&mut self, hash: &B256) {
        self.states.remove(hash);
        let Some(block) = self.blocks.remove(hash) else { return };
        for transaction in &block.transactions {
            // A block on another branch may hold the same transaction.
            let place = self.transactions.get(transaction.hash());
            if place.is_some_and(|(holder, _)| holder == hash) {
                self.transactions.remove(transaction.hash());
            }
        }
    }
}

/// How many accounts and slots a state has.
fn entries(state: &MemoryState) -> usize {
    state.iter().map(|(_, _, slots)| 1 + slots.count()).sum()
}

/// How many accounts and slots a diff names.
fn entries_of_diff(diff: &Diff) -> usize {
    diff.accounts.values().map(|change| 1 + change.slots.len()).sum()
}
