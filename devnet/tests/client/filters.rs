//! Filters that are asked from time to time.

use alloy_primitives::{Address, B256};
use preconf_chain::rpc::RpcLog;
use serde_json::{Value, json};

use crate::harness::*;

#[tokio::test]
async fn each_filter_tells_what_happened_since_it_was_asked() {
    let (node, other) = (Node::start().await, Node::start().await);
    let logs: Value = node.call("eth_newFilter", [json!({})]).await;
    let blocks: Value = node.call("eth_newBlockFilter", [(); 0]).await;
    let arrivals: Value = node.call("eth_newPendingTransactionFilter", [(); 0]).await;
    let contract = signer(2).address().create(0);
    let sent = [create(2, 0, STORE), call(2, 1, contract, 9)];
    for transaction in &sent {
        node.send(transaction).await;
    }
    node.advance().await;
    let arrived: Vec<B256> = node.call("eth_getFilterChanges", [&arrivals]).await;
    assert_eq!(arrived, sent.each_ref().map(|transaction| *transaction.hash()));
    let found: Vec<RpcLog> = node.call("eth_getFilterChanges", [&logs]).await;
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].address, found[0].removed), (contract, false));
    let all: Vec<RpcLog> = node.call("eth_getFilterLogs", [&logs]).await;
    assert_eq!(all, found);
    let hashes: Vec<B256> = node.call("eth_getFilterChanges", [&blocks]).await;
    assert_eq!(hashes, [node.client.head().hash]);

    let branch = [other.advance().await, other.advance().await];
    for envelope in &branch {
        assert!(node.new_payload(envelope, &[]).await.is_valid());
    }
    node.make_head(hash_of(&branch[1])).await;
    let gone: Vec<RpcLog> = node.call("eth_getFilterChanges", [&logs]).await;
    assert_eq!(gone, [RpcLog { removed: true, ..found[0].clone() }]);
    let hashes: Vec<B256> = node.call("eth_getFilterChanges", [&blocks]).await;
    assert_eq!(hashes, branch.each_ref().map(hash_of));
    let nothing: Vec<B256> = node.call("eth_getFilterChanges", [&blocks]).await;
    assert!(nothing.is_empty());
}

#[tokio::test]
async fn a_filter_that_is_not_there_is_not_found() {
    let node = Node::start().await;
    let id: Value = node.call("eth_newBlockFilter", [(); 0]).await;
    for expected in [true, false] {
        let removed: bool = node.call("eth_uninstallFilter", [&id]).await;
        assert_eq!(removed, expected);
    }
    let refusal = node.refusal("eth_getFilterChanges", [&id]).await;
    assert_eq!((refusal.code, refusal.message.as_str()), (-32000, "filter not found"));
    let named = json!({ "address": Address::ZERO, "blockHash": B256::ZERO });
    assert_eq!(node.refusal("eth_newFilter", [named]).await.code, -32602);
}
