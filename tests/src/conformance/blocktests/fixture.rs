//! The JSON of a test, as far as it is used. What the blocks decode to is not: their RLP decides.

use std::collections::BTreeMap;

use alloy_genesis::GenesisAccount;
use alloy_primitives::{Address, B256, Bytes};
use serde::Deserialize;

/// One test.
#[derive(Debug, Deserialize)]
pub(super) struct Fixture {
    pub(super) network: String,
    pub(super) pre: BTreeMap<Address, GenesisAccount>,
    #[serde(rename = "genesisRLP")]
    pub(super) genesis_rlp: Bytes,
    pub(super) blocks: Vec<FixtureBlock>,
    #[serde(rename = "lastblockhash")]
    pub(super) last_block_hash: B256,
    #[serde(default, rename = "postState")]
    pub(super) post_state: Option<BTreeMap<Address, GenesisAccount>>,
    /// In place of a large state, its root.
    #[serde(default, rename = "postStateHash")]
    pub(super) post_state_hash: Option<B256>,
}

/// One block of it.
#[derive(Debug, Deserialize)]
pub(super) struct FixtureBlock {
    pub(super) rlp: Bytes,
    /// Why it is not valid; several reasons, any of which will do, are separated by `|`.
    #[serde(default, rename = "expectException")]
    pub(super) expect_exception: Option<String>,
}
