//! A public chain that other clients made, from Frontier to the blob schedules after Osaka:
//! executing its blocks must lead to the state roots in their headers.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use alloy_hardforks::EthereumHardforks;
use alloy_primitives::B256;
use alloy_rlp::Decodable;
use preconf_chain::{Block, ChainSpec, Header, TrieAccountParts, state_root};
use preconf_evm::{BlockError, execute_block, execute_mined};
use preconf_state::{MemoryState, Overlay};

const GENESIS: &str = include_str!("../../chain/testdata/chain_genesis.json");
const CHAIN: &[u8] = include_bytes!("../../chain/testdata/chain.rlp");

fn chain() -> Vec<Block> {
    let mut rest = CHAIN;
    let mut blocks = Vec::new();
    while !rest.is_empty() {
        blocks.push(Block::decode(&mut rest).unwrap());
    }
    blocks
}

fn root(state: &MemoryState) -> B256 {
    state_root(state.iter().map(|(address, account, storage)| {
        let (nonce, balance, code_hash) = (account.nonce, account.balance, account.code_hash);
        (address, TrieAccountParts { nonce, balance, code_hash, storage })
    }))
}

/// Applies the next block to the state after `parent`.
fn advance(spec: &Arc<ChainSpec>, parent: &Header, block: &Block, state: &mut MemoryState) {
    let number = block.header.number;
    state.set_block_hash(parent.number, parent.hash_slow());
    let overlay = Overlay::new(state.clone());
    let executed = if spec.is_paris_active_at_block(number) {
        execute_block(spec, parent, block, None, overlay)
    } else {
        execute_mined(spec, parent, block, overlay)
    };
    let outcome = executed.unwrap_or_else(|error| panic!("block {number}: {error:?}"));
    if spec.is_paris_active_at_block(number) {
        assert_eq!(outcome.block(block.header.state_root), *block);
    }
    state.apply(&outcome.diff());
    assert_eq!(root(state), block.header.state_root, "block {number}");
}

#[test]
fn the_blocks_of_a_foreign_chain_lead_to_their_state_roots() {
    let spec = Arc::new(ChainSpec::from_genesis_json(GENESIS).unwrap());
    let mut state = MemoryState::from_genesis(&spec.genesis().alloc);
    let mut parent = spec.genesis_header();
    assert_eq!(root(&state), parent.state_root);
    for block in chain() {
        advance(&spec, &parent, &block, &mut state);
        parent = block.header;
    }
    assert_eq!(parent.number, 54);
}

/// A way to lie about a block.
type Lie = fn(&mut Block);

#[test]
fn a_block_that_claims_what_its_execution_does_not_show_is_refused() {
    let spec = Arc::new(ChainSpec::from_genesis_json(GENESIS).unwrap());
    let mut state = MemoryState::from_genesis(&spec.genesis().alloc);
    let mut parent = spec.genesis_header();
    let mut blocks = chain().into_iter();
    let block = loop {
        let block = blocks.next().unwrap();
        let prague = spec.is_prague_active_at_timestamp(block.header.timestamp);
        if prague && !block.body.transactions.is_empty() {
            break block;
        }
        advance(&spec, &parent, &block, &mut state);
        parent = block.header;
    };
    state.set_block_hash(parent.number, parent.hash_slow());
    let lies: [(&str, Lie); 7] = [
        ("gas used", |block| block.header.gas_used += 1),
        ("receipts root", |block| block.header.receipts_root.0[0] ^= 1),
        ("logs bloom", |block| block.header.logs_bloom.0[0] ^= 1),
        ("transactions root", |block| block.header.transactions_root.0[0] ^= 1),
        ("withdrawals root", |block| block.header.withdrawals_root = Some(B256::ZERO)),
        ("blob gas used", |block| {
            block.header.blob_gas_used = block.header.blob_gas_used.map(|gas| gas ^ (1 << 17));
        }),
        ("requests hash", |block| block.header.requests_hash = Some(B256::ZERO)),
    ];
    for (name, lie) in lies {
        let mut block = block.clone();
        lie(&mut block);
        let refused =
            execute_block(&spec, &parent, &block, None, Overlay::new(state.clone())).unwrap_err();
        let BlockError::Mismatch { field, .. } = refused else { panic!("{name}: {refused:?}") };
        assert_eq!(field, name);
    }
    let mut orphan = block.clone();
    orphan.header.parent_hash = B256::ZERO;
    let refused = execute_block(&spec, &parent, &orphan, None, Overlay::new(state.clone()));
    assert!(matches!(refused, Err(BlockError::Header(_))));
    let mut reordered = block;
    reordered.body.transactions.insert(0, reordered.body.transactions[0].clone());
    let refused = execute_block(&spec, &parent, &reordered, None, Overlay::new(state));
    assert!(matches!(refused, Err(BlockError::Transaction { index: 1, .. })));
}
