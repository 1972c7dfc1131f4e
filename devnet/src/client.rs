//! A small execution client that lives in this process: a whole chain in memory, for development.
//!
//! It is honest work: every block is executed, every field of its header compared, the state root
//! computed from the whole state. What makes it a development client is what it lacks: it keeps
//! nothing on disk, speaks to no peers, does not check proofs of work, and rebuilds its trie for
//! every block and every proof, which takes as long as there are accounts.
//!
//! * `chain` — the blocks that are known, and their states.
//! * `validate`, `forkchoice`, `build`, `attributes` — what a consensus client asks for.
//! * `import` — chains from a file, also from before the merge.
//! * `pool`, `blobs` — the transactions that wait.
//! * `filters` — what somebody wants to be told of when he asks again.
//! * `proof` — the trie of a state, and proofs of what is in it.
//! * `methods`, `engine`, `eth` — the methods, as JSON-RPC.
//! * `server`, `subscriptions` — the ports.

mod attributes;
mod blobs;
mod build;
mod chain;
mod engine;
mod error;
mod eth;
mod filters;
mod forkchoice;
mod import;
mod methods;
mod pool;
mod proof;
mod server;
mod subscriptions;
mod validate;

use std::sync::Arc;

use alloy_primitives::{Address, B256, Bytes, U256};
use parking_lot::{Mutex, RwLock};
use preconf_assembly::{PoolLimits, Submission};
use preconf_chain::{ChainSpec, Transaction};
use preconf_primitives::TransactionRefusal;
use preconf_state::{Account, MemoryState, StateReader};
use tokio::sync::broadcast;

pub use attributes::Attributes;
pub use blobs::{BlobSidecarError, Sidecar};
pub use build::{BuiltBlock, Contents};
pub use chain::{BlockState, ChainBlock, HeadChange, Kept, STATES_KEPT};
pub use error::ClientError;
pub(crate) use error::in_words;
pub use import::{ImportError, RlpBlocks};
pub use server::{Ports, Running, ServeError, serve, serve_on};
pub use validate::PayloadContext;

use chain::BlockTree;
use filters::Filters;
use forkchoice::Payloads;
use pool::TransactionPool;
use validate::InvalidBlocks;

/// How many heads, or changes of the head, somebody who follows the chain may be behind before he
/// loses some.
const HEADS_WAITING: usize = 256;

/// The same for transactions that arrive.
const ARRIVALS_WAITING: usize = 4_096;

/// What can be set.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Where the gas limit of its own blocks moves to.
    pub gas_limit_target: u64,
    /// What its own blocks say in `extraData`; at most 32 bytes.
    pub extra_data: Bytes,
    /// What its pool takes.
    pub pool: PoolLimits,
    /// How much of the chain is kept.
    pub kept: Kept,
    /// What `net_version` says; the chain's id if nothing else is known.
    pub network_id: Option<u64>,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            gas_limit_target: 36_000_000,
            extra_data: Bytes::from_static(b"preconf devnet"),
            pool: PoolLimits::default(),
            kept: Kept::default(),
            network_id: None,
        }
    }
}

/// The execution client. Everything it does is done on the caller's thread and may take as long as
/// executing a block does.
#[derive(Debug)]
pub struct ExecutionClient {
    spec: Arc<ChainSpec>,
    config: ClientConfig,
    tree: RwLock<BlockTree>,
    invalid: Mutex<InvalidBlocks>,
    pool: Mutex<TransactionPool>,
    payloads: Mutex<Payloads>,
    /// Held by whoever changes the tree, so that one change follows another.
    changes: Mutex<()>,
    heads: broadcast::Sender<Arc<ChainBlock>>,
    head_changes: broadcast::Sender<Arc<HeadChange>>,
    arrivals: broadcast::Sender<Transaction>,
    filters: Mutex<Filters>,
}

impl ExecutionClient {
    /// A client that knows nothing but the genesis.
    pub fn new(spec: Arc<ChainSpec>, config: ClientConfig) -> Arc<Self> {
        let state = MemoryState::from_genesis(&spec.genesis().alloc);
        let genesis = spec.genesis_block();
        let tree = BlockTree::new(genesis, spec.genesis_hash(), state, config.kept);
        let (heads, _) = broadcast::channel(HEADS_WAITING);
        let (head_changes, _) = broadcast::channel(HEADS_WAITING);
        let (arrivals, _) = broadcast::channel(ARRIVALS_WAITING);
        Arc::new(Self {
            tree: RwLock::new(tree),
            invalid: Mutex::default(),
            pool: Mutex::new(TransactionPool::new(config.pool)),
            payloads: Mutex::default(),
            changes: Mutex::default(),
            heads,
            head_changes,
            arrivals,
            filters: Mutex::default(),
            spec,
            config,
        })
    }

    /// The rules of its chain.
    pub fn spec(&self) -> &Arc<ChainSpec> {
        &self.spec
    }

    /// The head of the canonical chain.
    pub fn head(&self) -> Arc<ChainBlock> {
        self.tree.read().head().clone()
    }

    /// The last block that the consensus client called finalized.
    pub fn finalized(&self) -> Option<Arc<ChainBlock>> {
        self.tree.read().finalized().cloned()
    }

    /// A block that is known, canonical or not.
    pub fn block_by_hash(&self, hash: B256) -> Option<Arc<ChainBlock>> {
        self.tree.read().block(&hash).cloned()
    }

    /// The canonical block with this number.
    pub fn block_by_number(&self, number: u64) -> Option<Arc<ChainBlock>> {
        self.tree.read().block_by_number(number).cloned()
    }

    /// The receipts of a block that is known.
    pub fn receipts(&self, hash: B256) -> Option<Vec<preconf_chain::Receipt>> {
        Some(self.tree.read().block(&hash)?.receipts.clone())
    }

    /// The canonical block that holds a transaction, and its index there.
    pub fn find_transaction(&self, hash: B256) -> Option<(Arc<ChainBlock>, usize)> {
        let tree = self.tree.read();
        let (block, index) = tree.transaction(&hash)?;
        Some((block.clone(), index))
    }

    /// The state after a block; none if it is not known or its state is no longer kept.
    pub fn state(&self, hash: B256) -> Option<BlockState> {
        self.tree.read().state(&hash)
    }

    /// An account at the head.
    pub fn account(&self, address: Address) -> Option<Account> {
        forkchoice::account(&self.head_state(), address)
    }

    /// A balance at the head.
    pub fn balance(&self, address: Address) -> U256 {
        self.account(address).map_or(U256::ZERO, |account| account.balance)
    }

    /// A storage slot at the head.
    pub fn slot(&self, address: Address, slot: U256) -> U256 {
        self.head_state().slot(address, slot).expect("a complete state knows every slot")
    }

    /// How many transactions wait.
    pub fn waiting(&self) -> usize {
        self.pool.lock().waiting().count()
    }

    /// Takes a transaction into the pool.
    ///
    /// # Errors
    ///
    /// If it can be in no block, or the pool does not want it.
    pub fn submit(&self, submission: impl Into<Submission>) -> Result<B256, TransactionRefusal> {
        let (transaction, sidecar) = submission.into().into_parts();
        let head = self.head();
        let account = self.account(transaction.signer());
        let rules = pool::Rules::of(&self.spec, head.header());
        let hash = match sidecar {
            None => self.pool.lock().insert(transaction.clone(), account, rules)?,
            Some(sidecar) => {
                self.pool.lock().insert_blobs(transaction.clone(), sidecar, account, rules)?
            }
        };
        // Nobody listening is no failure.
        self.arrivals.send(transaction).ok();
        Ok(hash)
    }

    /// The blocks that become canonical from now on, in order. Whoever is too far behind is told
    /// how many he lost.
    pub fn heads(&self) -> broadcast::Receiver<Arc<ChainBlock>> {
        self.heads.subscribe()
    }

    /// What the changes of the head from now on do to the canonical chain, in order.
    pub fn head_changes(&self) -> broadcast::Receiver<Arc<HeadChange>> {
        self.head_changes.subscribe()
    }

    /// The transactions that the pool takes from now on, in order.
    pub fn arrivals(&self) -> broadcast::Receiver<Transaction> {
        self.arrivals.subscribe()
    }

    fn head_state(&self) -> BlockState {
        let tree = self.tree.read();
        tree.state(&tree.head().hash).expect("the state of the head is always kept")
    }
}
