//! A block with the complete state after it, and the root of such a state.

use std::sync::Arc;

use alloy_primitives::B256;
use preconf_chain::{ChainSpec, Header, TrieAccountParts, state_root};
use preconf_state::{Account, MemoryState};

/// A block that was executed, with everything there is after it.
#[derive(Clone, Debug)]
pub struct Known {
    /// Its hash.
    pub hash: B256,
    /// Its header.
    pub header: Header,
    /// The state after it, with the hashes of the blocks up to it.
    pub state: Arc<MemoryState>,
}

impl Known {
    /// The first block of a chain.
    pub fn genesis(spec: &ChainSpec) -> Self {
        let state = MemoryState::from_genesis(&spec.genesis().alloc);
        Self::new(spec.genesis_header(), state)
    }

    /// A block with the state after it.
    pub fn new(header: Header, mut state: MemoryState) -> Self {
        let hash = header.hash_slow();
        state.set_block_hash(header.number, hash);
        Self { hash, header, state: Arc::new(state) }
    }
}

/// The root of a complete state, built anew.
pub fn root_of(state: &MemoryState) -> B256 {
    state_root(state.iter().map(|(address, account, storage)| {
        let Account { nonce, balance, code_hash } = account;
        (address, TrieAccountParts { nonce, balance, code_hash, storage })
    }))
}
