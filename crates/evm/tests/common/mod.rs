//! A small Prague chain with contracts that do what contracts do, and a generator of transactions.

#![allow(dead_code, reason = "each test file uses its own part")]

pub(crate) mod traffic;

use std::sync::Arc;

use alloy_consensus::{EthereumTxEnvelope, SignableTransaction, Signed, TxEip4844};
use alloy_eips::{eip2718::Encodable2718, eip4895::Withdrawal};
use alloy_primitives::{Address, B256, Signature, U256, address, hex};
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use preconf_chain::{
    ChainSpec, Header, Transaction, TrieAccountParts, state_root, system_contracts,
};
use preconf_evm::NextBlock;
use preconf_state::{Account, Key, MemoryState, NeedState, StateCache, StateReader, Value};
use serde_json::{Map, json};

pub(crate) const GWEI: u128 = 1_000_000_000;
pub(crate) const CHAIN_ID: u64 = 7_777;
pub(crate) const SIGNERS: u8 = 8;
pub(crate) const FEE_RECIPIENT: Address = address!("0x00000000000000000000000000000000000000fe");

/// Writes slot `data[0..32]` to `data[32..64]` and logs it.
pub(crate) const STORE: Address = address!("0x00000000000000000000000000000000000000c1");
/// Writes a slot and reverts with 42.
pub(crate) const REVERT: Address = address!("0x00000000000000000000000000000000000000c2");
/// Loops until its gas is gone.
pub(crate) const BURN: Address = address!("0x00000000000000000000000000000000000000c3");
/// Self-destructs in favour of its caller.
pub(crate) const DESTRUCT: Address = address!("0x00000000000000000000000000000000000000c4");
/// Keeps the parent's hash under the block's number and the fee recipient's balance in slot 0.
pub(crate) const OBSERVE: Address = address!("0x00000000000000000000000000000000000000c5");
/// Creates a contract from its data with CREATE2, and calls it.
pub(crate) const FACTORY: Address = address!("0x00000000000000000000000000000000000000c6");
/// Logs its data as the deposit contract would.
pub(crate) const DEPOSIT: Address = address!("0x00000000000000000000000000000000000000c7");
/// Returns the base fee, the gas price, its caller's balance and the parent's hash.
pub(crate) const ENVIRONMENT: Address = address!("0x00000000000000000000000000000000000000c8");

/// Logs its data as Berachain's deposit contract would.
pub(crate) const BERACHAIN_DEPOSIT: Address =
    address!("0x00000000000000000000000000000000000000c9");
/// Keeps the gas that it is called with, less 2 for asking, in slot 0.
pub(crate) const GAUGE: Address = address!("0x00000000000000000000000000000000000000ca");

/// Code that `STORE` and the others have.
const CONTRACTS: [(Address, &str); 10] = [
    (STORE, "5f356020359055 60405f5f37 5f3560206020a1 00"),
    (REVERT, "60015f55 602a5f52 60205ffd"),
    (BURN, "5b5f56"),
    (DESTRUCT, "33ff"),
    (OBSERVE, "600143034043 55 41315f55"),
    (FACTORY, "365f5f37 5f365f5f f5 5f5f5f5f5f855af1 00"),
    (
        DEPOSIT,
        "365f5f37 7f649bbc62d0e31342afea4e5cd82d4049e7e1ee912fc0889aa790803be39038c5 365fa1 00",
    ),
    (
        BERACHAIN_DEPOSIT,
        "365f5f37 7f68af751683498a9f9be59fe8b0d52a64dd155255d85cdb29fea30b1e3f891d46 365fa1 00",
    ),
    (GAUGE, "5a5f55 00"),
    (ENVIRONMENT, "485f52 3a602052 3331604052 6001430340606052 60805ff3"),
];

/// Init code of a contract that writes a slot and, when it is called, self-destructs.
pub(crate) const EPHEMERAL: [u8; 14] = hex!("60075f55 6133ff5f52 6002601ef3");

pub(crate) fn genesis_json(
    change_config: impl FnOnce(&mut Map<String, serde_json::Value>),
) -> String {
    let mut alloc = Map::new();
    for n in 1..=SIGNERS {
        alloc.insert(signer(n).address().to_string(), json!({ "balance": "0x3635c9adc5dea00000" }));
    }
    for (address, code) in CONTRACTS {
        let code = format!("0x{}", code.replace(' ', ""));
        let storage = json!({ format!("{:#066x}", 1): format!("{:#066x}", 9) });
        let account = json!({ "balance": "0x5", "nonce": "0x1", "code": code, "storage": storage });
        alloc.insert(address.to_string(), account);
    }
    for (address, code) in system_contracts() {
        alloc
            .insert(address.to_string(), json!({ "balance": "0x0", "nonce": "0x1", "code": code }));
    }
    let blobs = json!({ "target": 3, "max": 6, "baseFeeUpdateFraction": 3_338_477 });
    let mut config = json!({
        "chainId": CHAIN_ID, "homesteadBlock": 0, "eip150Block": 0, "eip155Block": 0,
        "eip158Block": 0, "byzantiumBlock": 0, "constantinopleBlock": 0, "petersburgBlock": 0,
        "istanbulBlock": 0, "berlinBlock": 0, "londonBlock": 0, "terminalTotalDifficulty": 0,
        "terminalTotalDifficultyPassed": true, "mergeNetsplitBlock": 0, "shanghaiTime": 0,
        "cancunTime": 0, "pragueTime": 0, "depositContractAddress": DEPOSIT,
        "blobSchedule": { "cancun": blobs, "prague": blobs },
    });
    change_config(config.as_object_mut().expect("it was written as an object"));
    json!({
        "config": config, "alloc": alloc, "gasLimit": "0x1c9c380", "difficulty": "0x0",
        "timestamp": "0x1", "extraData": "0x", "nonce": "0x0",
        "mixHash": B256::ZERO, "coinbase": Address::ZERO, "baseFeePerGas": "0x3b9aca00",
    })
    .to_string()
}

/// A chain at its genesis.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) spec: Arc<ChainSpec>,
    pub(crate) state: MemoryState,
    pub(crate) parent: Header,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with_config(|_| ())
    }

    pub(crate) fn with_config(
        change_config: impl FnOnce(&mut Map<String, serde_json::Value>),
    ) -> Self {
        let spec = ChainSpec::from_genesis_json(&genesis_json(change_config));
        let spec = Arc::new(spec.expect("the genesis above is valid"));
        let mut state = MemoryState::from_genesis(&spec.genesis().alloc);
        state.set_block_hash(0, spec.genesis_hash());
        let parent = spec.genesis_header();
        assert_eq!(root(&state), parent.state_root);
        Self { spec, state, parent }
    }

    /// A block on top of the parent.
    pub(crate) fn next_block(&self) -> NextBlock {
        let timestamp = self.parent.timestamp + 2;
        NextBlock {
            parent_hash: self.parent.hash_slow(),
            parent_beacon_block_root: Some(B256::repeat_byte(0xbb)),
            number: self.parent.number + 1,
            timestamp,
            fee_recipient: FEE_RECIPIENT,
            prev_randao: B256::repeat_byte(0xaa),
            difficulty: U256::ZERO,
            gas_limit: self.parent.gas_limit,
            base_fee_per_gas: self.spec.next_base_fee(&self.parent),
            extra_data: "a block".into(),
            withdrawals: vec![
                withdrawal(0, signer(1).address(), 3),
                withdrawal(1, Address::repeat_byte(0x77), 5),
                withdrawal(2, Address::repeat_byte(0x78), 0),
            ],
            excess_blob_gas: self.spec.next_excess_blob_gas(&self.parent, timestamp),
            prev_proposer_pubkey: None,
        }
    }
}

fn withdrawal(index: u64, address: Address, amount: u64) -> Withdrawal {
    Withdrawal { index, validator_index: index, address, amount }
}

pub(crate) fn root(state: &MemoryState) -> B256 {
    state_root(state.iter().map(|(address, account, storage)| {
        let Account { nonce, balance, code_hash } = account;
        (address, TrieAccountParts { nonce, balance, code_hash, storage })
    }))
}

pub(crate) fn signer(n: u8) -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&B256::repeat_byte(n)).expect("the key is in the field")
}

pub(crate) fn sign<T>(key: &PrivateKeySigner, transaction: T) -> Transaction
where
    T: SignableTransaction<Signature>,
    EthereumTxEnvelope<TxEip4844>: From<Signed<T>>,
{
    let hash = transaction.signature_hash();
    let signature = key.sign_hash_sync(&hash).expect("the key is in memory");
    let envelope = EthereumTxEnvelope::from(transaction.into_signed(signature));
    Transaction::decode(envelope.encoded_2718().into()).expect("it was just signed")
}

pub(crate) fn word(value: u64) -> [u8; 32] {
    U256::from(value).to_be_bytes()
}

/// Reads a key of a state that never fails.
pub(crate) fn fetch(state: &MemoryState, key: Key) -> Value {
    let value = match key {
        Key::Account(address) => state.account(address).map(Value::Account),
        Key::Slot(address, slot) => state.slot(address, slot).map(Value::Slot),
        Key::Code(hash) => state.code(hash).map(Value::Code),
        Key::BlockHash(number) => state.block_hash(number).map(Value::BlockHash),
    };
    value.unwrap_or_else(|NeedState(key)| panic!("nobody has {key:?}"))
}

pub(crate) fn fetch_all(cache: &StateCache, state: &MemoryState, keys: &[Key]) {
    assert!(!keys.is_empty());
    for key in keys {
        cache.insert(*key, fetch(state, *key));
    }
}
