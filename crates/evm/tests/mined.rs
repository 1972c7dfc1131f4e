//! What was different before the merge, and before Homestead.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use alloy_consensus::{
    EthereumTxEnvelope, SignableTransaction, TxEip4844, TxLegacy,
    proofs::calculate_transaction_root,
};
use alloy_primitives::{Address, Signature, TxKind, U256, address, uint};
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use preconf_chain::{Block, ChainSpec, Header, TxEnvelope};
use preconf_evm::{BlockError, execute_mined};
use preconf_state::{MemoryState, Overlay, StateReader};
use serde_json::{Value, json};

/// Keeps the block's difficulty in slot 0.
const KEEPER: Address = address!("0x00000000000000000000000000000000000000d1");
/// The order of the curve.
const ORDER: U256 = uint!(0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141_U256);
/// A transaction, DIFFICULTY, PUSH1, and SSTORE of what was zero.
const GAS: u64 = 21_000 + 2 + 3 + 20_000;

fn signer() -> PrivateKeySigner {
    PrivateKeySigner::from_slice(&[7; 32]).unwrap()
}

fn chain(forks: Value) -> Arc<ChainSpec> {
    let mut config = json!({
        "chainId": 1, "terminalTotalDifficulty": 0x100_0000, "mergeNetsplitBlock": 100,
    });
    config.as_object_mut().unwrap().extend(forks.as_object().unwrap().clone());
    let alloc = json!({
        signer().address().to_string(): { "balance": "0xde0b6b3a7640000" },
        KEEPER.to_string(): { "balance": "0x0", "code": "0x44600055" },
    });
    let genesis = json!({
        "config": config, "alloc": alloc, "gasLimit": "0x47b760", "difficulty": "0x20000",
    });
    Arc::new(ChainSpec::from_genesis_json(&genesis.to_string()).unwrap())
}

fn signed(change: impl FnOnce(Signature) -> Signature) -> TxEnvelope {
    let unsigned = TxLegacy {
        gas_price: 1,
        gas_limit: 100_000,
        to: TxKind::Call(KEEPER),
        ..TxLegacy::default()
    };
    let signature = signer().sign_hash_sync(&unsigned.signature_hash()).unwrap();
    EthereumTxEnvelope::<TxEip4844>::from(unsigned.into_signed(change(signature))).into()
}

/// The same signature with the other `s`.
fn high(signature: Signature) -> Signature {
    Signature::new(signature.r(), ORDER - signature.s(), !signature.v())
}

/// What the keeper holds after the first block, with that one transaction.
fn kept(spec: &Arc<ChainSpec>, transaction: TxEnvelope) -> Result<U256, BlockError> {
    let parent = spec.genesis_header();
    let mut block = Block {
        header: Header {
            parent_hash: parent.hash_slow(),
            number: 1,
            timestamp: parent.timestamp + 5,
            difficulty: U256::from(0x2_0040),
            gas_limit: parent.gas_limit,
            gas_used: GAS,
            ommers_hash: parent.ommers_hash,
            transactions_root: calculate_transaction_root(std::slice::from_ref(&transaction)),
            ..Header::default()
        },
        body: Default::default(),
    };
    block.body.transactions.push(transaction);
    let mut state = MemoryState::from_genesis(&spec.genesis().alloc);
    let outcome = execute_mined(spec, &parent, &block, Overlay::new(state.clone()))?;
    state.apply(&outcome.diff());
    Ok(state.slot(KEEPER, U256::ZERO).unwrap())
}

#[test]
fn before_the_merge_a_contract_sees_the_difficulty() {
    let frontier = chain(json!({}));
    assert_eq!(kept(&frontier, signed(|signature| signature)).unwrap(), U256::from(0x2_0040));
}

#[test]
fn a_signature_with_a_high_s_is_good_until_homestead() {
    assert_eq!(kept(&chain(json!({})), signed(high)).unwrap(), U256::from(0x2_0040));
    let homestead = chain(json!({ "homesteadBlock": 0 }));
    assert!(matches!(kept(&homestead, signed(high)), Err(BlockError::Sender { index: 0, .. })));
    assert!(kept(&homestead, signed(|signature| signature)).is_ok());
}
