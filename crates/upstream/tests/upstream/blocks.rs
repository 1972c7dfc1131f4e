//! Whole blocks, receipts, and a block built by the client.

use alloy_consensus::proofs::calculate_transaction_root;
use alloy_consensus::{
    EthereumTxEnvelope, SignableTransaction, Transaction as _, TxEip1559, TxLegacy,
};
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256, address, bytes};
use preconf_chain::rpc::{RpcBlock, RpcBlockError};
use preconf_chain::{
    Block, ChainSpec, Header, HeaderError, PolTx, ProposerPublicKey, Transaction, TxEnvelope,
};
use preconf_upstream::{OtherChain, UpstreamError};
use serde_json::{Value, json};

use crate::execution::{Execution, start};

/// A block with two transactions, and its object.
fn block() -> (Block, Vec<Transaction>, Value) {
    let to = TxKind::Call(Address::repeat_byte(9));
    let legacy = TxLegacy { nonce: 1, gas_limit: 21_000, to, ..TxLegacy::default() };
    let eip1559 = TxEip1559 { chain_id: 1, nonce: 2, to, ..TxEip1559::default() };
    let envelopes: Vec<TxEnvelope> = vec![
        EthereumTxEnvelope::from(legacy.into_signed(Signature::test_signature())).into(),
        EthereumTxEnvelope::from(eip1559.into_signed(Signature::test_signature())).into(),
    ];
    let transactions: Vec<_> = envelopes
        .iter()
        .map(|envelope| Transaction::from_envelope(envelope.clone(), Address::repeat_byte(7)))
        .collect();
    let header = Header {
        number: 5,
        transactions_root: calculate_transaction_root(&envelopes),
        base_fee_per_gas: Some(7),
        ..Header::default()
    };
    let mut block = Block { header, body: Default::default() };
    block.body.transactions = envelopes;
    let hash = block.header.hash_slow();
    let object = RpcBlock::with_transactions(&block, hash, &transactions);
    (block, transactions, serde_json::to_value(object).unwrap())
}

#[tokio::test]
async fn a_whole_block_is_read_by_hash_and_by_number() {
    let (execution, upstream, _server) = start(Execution::new()).await;
    let (block, transactions, object) = block();
    let hash = block.header.hash_slow();
    execution.script("eth_getBlockByHash", &object);
    execution.script("eth_getBlockByNumber", &object);

    let by_hash = upstream.block_by_hash(hash).await.unwrap().unwrap();
    assert_eq!((by_hash.hash, &by_hash.block), (hash, &block));
    assert_eq!(by_hash.transactions, transactions);
    assert_eq!(execution.last_params("eth_getBlockByHash"), json!([hash, true]));
    let by_number = upstream.block_by_number(5).await.unwrap().unwrap();
    assert_eq!(by_number, by_hash);
    assert_eq!(execution.last_params("eth_getBlockByNumber"), json!(["0x5", true]));

    execution.script("eth_getBlockByHash", "null");
    assert_eq!(upstream.block_by_hash(hash).await.unwrap(), None);
}

/// A Berachain block in the words of its execution client.
fn berachain_object() -> Value {
    let [hash, root] = [1, 2].map(B256::repeat_byte);
    let pol = PolTx::for_block(
        80_094,
        address!("0xd2f19a79b026fb636a7c300bf5947df113940761"),
        100,
        1_000_000_000,
        &ProposerPublicKey::repeat_byte(0x95),
    );
    let pol = TxEnvelope::from(pol);
    let header = Header {
        parent_hash: hash,
        state_root: root,
        transactions_root: calculate_transaction_root(std::slice::from_ref(&pol)),
        number: 100,
        gas_limit: 36_000_000,
        timestamp: 1_800_000_000,
        base_fee_per_gas: Some(1_000_000_000),
        withdrawals_root: Some(Header::default().transactions_root),
        blob_gas_used: Some(0),
        excess_blob_gas: Some(0),
        parent_beacon_block_root: Some(hash),
        requests_hash: Some(root),
        prev_proposer_pubkey: Some(ProposerPublicKey::repeat_byte(0x95)),
        ..Header::default()
    };
    let empty = format!("{:#x}", Header::default().transactions_root);
    let transaction = json!({
        "type": "0x7e", "chainId": "0x138de", "nonce": "0x63", "gas": "0x1c9c380",
        "gasPrice": "0x3b9aca00", "to": "0xd2f19a79b026fb636a7c300bf5947df113940761",
        "value": "0x0", "input": pol.input(), "r": "0x0", "s": "0x0", "v": "0x0",
        "hash": pol.hash(), "blockHash": header.hash_slow(), "blockNumber": "0x64",
        "transactionIndex": "0x0", "from": "0xfffffffffffffffffffffffffffffffffffffffe",
    });
    let mut block = json!({
        "hash": header.hash_slow(), "parentHash": hash,
        "sha3Uncles": "0x1dcc4de8dec75d7aab85b567b6ccd41ad312451b948a7413f0a142fd40d49347",
        "miner": Address::ZERO, "stateRoot": root, "transactionsRoot": header.transactions_root,
        "receiptsRoot": empty, "logsBloom": format!("0x{}", "00".repeat(256)),
        "difficulty": "0x0", "number": "0x64", "gasLimit": "0x2255100", "gasUsed": "0x0",
        "timestamp": "0x6b49d200", "extraData": "0x", "mixHash": B256::ZERO,
        "nonce": "0x0000000000000000", "baseFeePerGas": "0x3b9aca00", "withdrawalsRoot": empty,
    });
    let later = json!({
        "blobGasUsed": "0x0", "excessBlobGas": "0x0", "parentBeaconBlockRoot": hash,
        "requestsHash": root, "parentProposerPubkey": format!("0x{}", "95".repeat(48)),
        "size": "0x400", "uncles": [], "withdrawals": [], "transactions": [transaction],
    });
    block.as_object_mut().unwrap().extend(later.as_object().unwrap().clone());
    block
}

#[tokio::test]
async fn a_berachain_block_is_read_with_its_key_and_its_first_transaction() {
    let (execution, upstream, _server) = start(Execution::new()).await;
    let object = berachain_object();
    let hash: B256 = serde_json::from_value(object["hash"].clone()).unwrap();
    execution.script("eth_getBlockByHash", &object);
    let read = upstream.block_by_hash(hash).await.unwrap().unwrap();
    assert_eq!(read.block.header.prev_proposer_pubkey, Some(ProposerPublicKey::repeat_byte(0x95)));
    assert!(matches!(read.transactions[0].envelope(), TxEnvelope::Pol(_)));
    let system = address!("0xfffffffffffffffffffffffffffffffffffffffe");
    assert_eq!(read.transactions[0].signer(), system);
    let head = upstream.header(hash).await.unwrap().unwrap();
    assert_eq!(head.header, read.block.header);

    // What we would show of it says the same.
    let shown = RpcBlock::with_transactions(&read.block, hash, &read.transactions);
    execution.script("eth_getBlockByHash", serde_json::to_value(shown).unwrap());
    assert_eq!(upstream.block_by_hash(hash).await.unwrap().unwrap(), read);

    // The hash covers the key.
    let mut altered = object;
    altered["parentProposerPubkey"] = json!(ProposerPublicKey::ZERO);
    execution.script("eth_getBlockByHash", &altered);
    let error = upstream.header(hash).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Unbelievable { .. }), "{error}");
}

#[tokio::test]
async fn a_client_with_another_base_fee_shows_in_its_head() {
    let spec = |section: Value| {
        let mut config = json!({
            "chainId": 80_087, "homesteadBlock": 0, "eip150Block": 0, "eip155Block": 0,
            "eip158Block": 0, "byzantiumBlock": 0, "constantinopleBlock": 0,
            "petersburgBlock": 0, "istanbulBlock": 0, "berlinBlock": 0, "londonBlock": 0,
            "terminalTotalDifficulty": 0, "shanghaiTime": 0, "cancunTime": 0, "pragueTime": 0,
        });
        config["berachain"] = section;
        let genesis = json!({
            "config": config, "gasLimit": "0x1c9c380", "difficulty": "0x0", "alloc": {},
        });
        ChainSpec::from_genesis_json(&genesis.to_string()).unwrap()
    };
    let section = |floor: u64| {
        json!({
            "prague1": {
                "time": 0, "baseFeeChangeDenominator": 48, "minimumBaseFeeWei": 0,
                "polDistributorAddress": Address::repeat_byte(0x42),
            },
            "prague2": { "time": 0, "minimumBaseFeeWei": floor },
        })
    };
    let ours = spec(section(1_000_000_000));
    let parent = ours.genesis_header();
    let head = Header {
        parent_hash: parent.hash_slow(),
        number: 1,
        timestamp: 2,
        base_fee_per_gas: Some(ours.next_base_fee(&parent)),
        ..parent.clone()
    };
    let (execution, upstream, _server) = start(Execution::with_genesis(parent)).await;
    execution.script("eth_chainId", json!("0x138d7"));
    let other = spec(section(0));
    assert_eq!(other.genesis_hash(), ours.genesis_hash());
    // Nothing shows it yet.
    assert_eq!(upstream.other_chain(&other).await.unwrap(), None);

    execution.add(head);
    assert_eq!(upstream.other_chain(&ours).await.unwrap(), None);
    let rules = async |spec: &ChainSpec| match upstream.other_chain(spec).await.unwrap() {
        Some(OtherChain::Rules { number: 1, source, .. }) => source,
        other => panic!("{other:?}"),
    };
    let error = rules(&other).await;
    assert!(matches!(error, HeaderError::BaseFee { got: 1_000_000_000, .. }), "{error}");
    let ethereum = upstream.other_chain(&spec(Value::Null)).await.unwrap();
    assert!(matches!(ethereum, Some(OtherChain::Chain { what: "genesis", .. })));
    execution.script("eth_chainId", json!("0x1"));
    let error = upstream.other_chain(&ours).await.unwrap().unwrap().to_string();
    assert!(error.contains("chain id is 1, the genesis file gives 80087"), "{error}");
}

#[tokio::test]
async fn a_block_that_is_not_what_it_says_is_refused() {
    let (execution, upstream, _server) = start(Execution::new()).await;
    let (block, _, object) = block();
    let hash = block.header.hash_slow();
    let refuse = async |object: Value, asked: B256| {
        execution.script("eth_getBlockByHash", &object);
        let error = upstream.block_by_hash(asked).await.unwrap_err();
        let UpstreamError::Unbelievable { source, .. } = error else { panic!("{error}") };
        source
    };
    let mut altered = object.clone();
    altered["gasUsed"] = json!("0x1");
    assert!(matches!(refuse(altered, hash).await, RpcBlockError::Hash { .. }));
    let mut fewer = object.clone();
    fewer["transactions"].as_array_mut().unwrap().pop();
    assert_eq!(refuse(fewer, hash).await, RpcBlockError::Transactions);
    // Another block than was asked for, though it is a good one.
    assert!(matches!(refuse(object, B256::ZERO).await, RpcBlockError::Hash { .. }));
}

#[tokio::test]
async fn receipts_are_read_by_the_hash_of_their_block() {
    let (execution, upstream, _server) = start(Execution::new()).await;
    let hash = B256::repeat_byte(3);
    execution.script(
        "eth_getBlockReceipts",
        json!([{
            "blockHash": hash, "blockNumber": "0x5", "contractAddress": null,
            "cumulativeGasUsed": "0x5208", "effectiveGasPrice": "0x7",
            "from": Address::repeat_byte(1), "to": Address::repeat_byte(2), "gasUsed": "0x5208",
            "logs": [], "logsBloom": format!("0x{}", "00".repeat(256)), "status": "0x1",
            "transactionHash": hash, "transactionIndex": "0x0", "type": "0x2",
        }]),
    );
    let receipts = upstream.block_receipts(hash).await.unwrap().unwrap();
    assert_eq!(receipts.len(), 1);
    assert_eq!(receipts[0].cumulative_gas_used, 21_000);
    assert_eq!(execution.last_params("eth_getBlockReceipts"), json!([hash]));
    execution.script("eth_getBlockReceipts", "null");
    assert_eq!(upstream.block_receipts(hash).await.unwrap(), None);
}

#[tokio::test]
async fn the_client_builds_a_block_from_exactly_these_transactions() {
    let (execution, upstream, _server) = start(Execution::new()).await;
    let hash = B256::repeat_byte(2);
    execution.script(
        "testing_buildBlockV1",
        json!({
            "executionPayload": {
                "parentHash": hash, "feeRecipient": Address::repeat_byte(3), "stateRoot": hash,
                "receiptsRoot": hash, "logsBloom": format!("0x{}", "00".repeat(256)),
                "prevRandao": hash, "blockNumber": "0x64", "gasLimit": "0x1c9c380",
                "gasUsed": "0x0", "timestamp": "0x5", "extraData": "0x", "baseFeePerGas": "0x7",
                "blockHash": hash, "transactions": [], "withdrawals": [], "blobGasUsed": "0x0",
                "excessBlobGas": "0x0",
            },
            "blockValue": "0x5", "shouldOverrideBuilder": false,
            "blobsBundle": { "commitments": [], "proofs": [], "blobs": [] },
            "executionRequests": ["0x0001"],
        }),
    );
    let attributes = json!({ "timestamp": "0x5", "prevRandao": hash });
    let transactions = [bytes!("02c0"), bytes!("f800")];
    let envelope = upstream
        .testing_build_block(hash, &attributes, &transactions, &Bytes::from_static(b"x"))
        .await
        .unwrap();
    assert_eq!(envelope.block_value, U256::from(5));
    assert_eq!(envelope.execution_requests.to_vec(), [bytes!("0001")]);
    assert_eq!(
        execution.last_params("testing_buildBlockV1"),
        json!([hash, attributes, ["0x02c0", "0xf800"], "0x78"])
    );
}
