//! What several tests of this crate need: the public chain of 54 blocks, from Frontier to the blob
//! schedules after Osaka, and one signed transaction of each type.

use alloy_consensus::{
    EthereumTxEnvelope, SignableTransaction, Signed, TxEip1559, TxEip2930, TxEip4844, TxEip7702,
    TxLegacy,
};
use alloy_eips::{
    eip2930::{AccessList, AccessListItem},
    eip7702::Authorization,
};
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256, address, b256, bytes};
use alloy_rlp::Decodable;
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use serde::de::DeserializeOwned;

use crate::{Block, ChainSpec, PolTx, ProposerPublicKey, TxEnvelope};

/// The 54 blocks after the genesis of [`chain_spec`].
pub(crate) fn chain() -> Vec<Block> {
    let mut rest = include_bytes!("../testdata/chain.rlp").as_slice();
    let mut blocks = Vec::new();
    while !rest.is_empty() {
        blocks.push(Block::decode(&mut rest).unwrap());
    }
    blocks
}

/// The rules of [`chain`].
pub(crate) fn chain_spec() -> ChainSpec {
    ChainSpec::from_genesis_json(include_str!("../testdata/chain_genesis.json")).unwrap()
}

/// A field of a frozen vector.
pub(crate) fn field<T: DeserializeOwned>(vector: &serde_json::Value, name: &str) -> T {
    serde_json::from_value(vector[name].clone()).unwrap()
}

/// Who signs [`signed`].
pub(crate) fn signer() -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&B256::repeat_byte(0x46)).unwrap()
}

const CALLEE: Address = address!("0x00000000000000000000000000000000000000c0");

/// Names, and one transaction of each type that can be signed, some with a twist.
pub(crate) fn signed() -> Vec<(&'static str, TxEnvelope)> {
    let legacy = TxLegacy {
        chain_id: Some(80_094),
        nonce: 7,
        gas_price: 3_000_000_000,
        gas_limit: 50_000,
        to: TxKind::Call(CALLEE),
        value: U256::from(5),
        input: bytes!("0xc0ffee"),
    };
    let unprotected = TxLegacy { chain_id: None, to: TxKind::Create, ..legacy.clone() };
    let dynamic = TxEip1559 {
        chain_id: 80_094,
        nonce: 0,
        gas_limit: 21_000,
        max_fee_per_gas: 9,
        max_priority_fee_per_gas: 2,
        to: TxKind::Call(CALLEE),
        value: U256::MAX,
        access_list: AccessList::default(),
        input: Bytes::new(),
    };
    let create = TxEip1559 { to: TxKind::Create, input: bytes!("0x00"), ..dynamic.clone() };
    vec![
        ("legacy", sign(legacy)),
        ("legacy without a chain id", sign(unprotected)),
        ("access list", sign(access_list())),
        ("dynamic fee", sign(dynamic)),
        ("dynamic fee, creating", sign(create)),
        ("blob", sign(blob())),
        ("set code", sign(set_code())),
    ]
}

/// A proof-of-liquidity transaction.
pub(crate) fn pol() -> PolTx {
    let distributor = address!("0xd2f19a79b026fb636a7c300bf5947df113940761");
    PolTx::for_block(80_094, distributor, 100, 1_000_000_000, &ProposerPublicKey::repeat_byte(7))
}

/// A blob transaction with two blobs.
pub(crate) fn blob() -> TxEip4844 {
    TxEip4844 {
        chain_id: 80_094,
        nonce: 1,
        gas_limit: 30_000,
        max_fee_per_gas: 20,
        max_priority_fee_per_gas: 1,
        to: CALLEE,
        value: U256::ZERO,
        access_list: AccessList::default(),
        blob_versioned_hashes: vec![
            b256!("0x0100000000000000000000000000000000000000000000000000000000000001"),
            b256!("0x0100000000000000000000000000000000000000000000000000000000000002"),
        ],
        max_fee_per_blob_gas: 11,
        input: bytes!("0x01"),
    }
}

fn access_list() -> TxEip2930 {
    TxEip2930 {
        chain_id: 80_094,
        nonce: u64::MAX - 1,
        gas_price: 1,
        gas_limit: 100_000,
        to: TxKind::Call(CALLEE),
        value: U256::from(1),
        access_list: AccessList(vec![AccessListItem {
            address: CALLEE,
            storage_keys: vec![B256::ZERO, B256::repeat_byte(0xff)],
        }]),
        input: bytes!("0x0102"),
    }
}

fn set_code() -> TxEip7702 {
    let authorization = Authorization { chain_id: U256::ZERO, address: CALLEE, nonce: 3 };
    let signature = sign_hash(authorization.signature_hash());
    TxEip7702 {
        chain_id: 80_094,
        nonce: 2,
        gas_limit: 90_000,
        max_fee_per_gas: 30,
        max_priority_fee_per_gas: 3,
        to: CALLEE,
        value: U256::ZERO,
        access_list: AccessList::default(),
        authorization_list: vec![authorization.into_signed(signature)],
        input: Bytes::new(),
    }
}

/// Signs a transaction as [`signer`].
pub(crate) fn sign<T>(transaction: T) -> TxEnvelope
where
    T: SignableTransaction<Signature>,
    EthereumTxEnvelope<TxEip4844>: From<Signed<T>>,
{
    let signature = sign_hash(transaction.signature_hash());
    TxEnvelope::Ethereum(transaction.into_signed(signature).into())
}

fn sign_hash(hash: B256) -> Signature {
    signer().sign_hash_sync(&hash).unwrap()
}

/// A genesis with every fork up to Prague in it, as JSON to be changed.
pub(crate) fn prague_genesis() -> serde_json::Value {
    serde_json::json!({
        "config": {
            "chainId": 1337,
            "homesteadBlock": 0, "eip150Block": 0, "eip155Block": 0, "eip158Block": 0,
            "byzantiumBlock": 0, "constantinopleBlock": 0, "petersburgBlock": 0,
            "istanbulBlock": 0, "berlinBlock": 0, "londonBlock": 0,
            "terminalTotalDifficulty": 0,
            "shanghaiTime": 0, "cancunTime": 0, "pragueTime": 0,
            "depositContractAddress": "0x4242424242424242424242424242424242424242"
        },
        "timestamp": "0x64", "gasLimit": "0x1c9c380", "difficulty": "0x0", "alloc": {}
    })
}

/// A Berachain genesis with every fork up to Osaka1 in it, as JSON to be changed.
pub(crate) fn berachain_genesis() -> serde_json::Value {
    let mut genesis = prague_genesis();
    genesis["config"]["chainId"] = 80_087.into();
    genesis["config"]["osakaTime"] = 0.into();
    genesis["config"]["berachain"] = serde_json::json!({
        "prague1": {
            "time": 0, "baseFeeChangeDenominator": 48, "minimumBaseFeeWei": 1_000_000_000,
            "polDistributorAddress": "0x4200000000000000000000000000000000000042"
        },
        "prague2": { "time": 0, "minimumBaseFeeWei": 0 },
        "osaka1": {
            "time": 0, "minimumBaseFeeWei": 1_000_000_000,
            "minimumBlobBaseFeeWei": 1_000_000_000
        }
    });
    genesis
}

/// The rules of a changed genesis.
pub(crate) fn spec_of(genesis: &serde_json::Value) -> Result<ChainSpec, crate::GenesisError> {
    ChainSpec::from_genesis_json(&genesis.to_string())
}
