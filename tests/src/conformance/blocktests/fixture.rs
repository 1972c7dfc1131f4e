//! The JSON of a test, as far as it is used: as ethereum/tests has it, and execution-spec-tests.
//! What the blocks decode to is not: their RLP decides.

use std::collections::BTreeMap;

use alloy_genesis::GenesisAccount;
use alloy_primitives::{Address, B256, Bytes, U64, U128};
use serde::Deserialize;

/// One test.
#[derive(Debug, Deserialize)]
pub(super) struct Fixture {
    pub(super) network: String,
    /// What newer tests say beyond the network's name.
    #[serde(default)]
    pub(super) config: Option<Configuration>,
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

/// The chain of a test.
#[derive(Debug, Deserialize)]
pub(super) struct Configuration {
    #[serde(default, rename = "chainid")]
    pub(super) chain_id: Option<U64>,
    /// By the forks' names.
    #[serde(default, rename = "blobSchedule")]
    pub(super) blob_schedule: Option<BTreeMap<String, Blobs>>,
}

/// How many blobs a block may have.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Blobs {
    pub(super) target: U64,
    pub(super) max: U64,
    pub(super) base_fee_update_fraction: U128,
}

/// One block of it.
#[derive(Debug, Deserialize)]
pub(super) struct FixtureBlock {
    pub(super) rlp: Bytes,
    /// Why it is not valid; several reasons, any of which will do, are separated by `|`.
    #[serde(default, rename = "expectException")]
    pub(super) expect_exception: Option<String>,
}
