//! Whole blocks, receipts, and a block built by the client.

use alloy_consensus::proofs::calculate_transaction_root;
use alloy_consensus::{EthereumTxEnvelope, SignableTransaction, TxEip1559, TxLegacy};
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256, bytes};
use preconf_chain::rpc::{RpcBlock, RpcBlockError};
use preconf_chain::{Block, Header, Transaction, TxEnvelope};
use preconf_upstream::UpstreamError;
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
