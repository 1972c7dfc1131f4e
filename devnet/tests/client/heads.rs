//! What happens, told over a WebSocket.

use alloy_primitives::{Address, B256};
use jsonrpsee::core::ClientError;
use jsonrpsee::core::client::{ClientT, Subscription, SubscriptionClientT};
use jsonrpsee::rpc_params;
use jsonrpsee::ws_client::{WsClient, WsClientBuilder};
use preconf_chain::Header;
use preconf_chain::rpc::{RpcLog, RpcTransaction};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::harness::*;

#[derive(Deserialize)]
struct Head {
    hash: B256,
    #[serde(flatten)]
    header: Header,
}

async fn subscribe(node: &Node) -> (WsClient, Subscription<Head>) {
    let url = format!("ws://{}", node.running.rpc_addr);
    let connection = WsClientBuilder::new().build(url).await.unwrap();
    let heads =
        connection.subscribe("eth_subscribe", rpc_params!["newHeads"], "eth_unsubscribe").await;
    (connection, heads.unwrap())
}

async fn next<T: DeserializeOwned>(news: &mut Subscription<T>) -> T {
    let item = timeout(DEADLINE, news.next()).await.expect("it comes in time");
    item.expect("the subscription goes on").unwrap()
}

#[tokio::test]
async fn every_block_that_becomes_canonical_is_announced_in_order() {
    let (node, other) = (Node::start().await, Node::start().await);
    let (_connection, mut heads) = subscribe(&node).await;
    node.send(&transfer(1, 0, Address::ZERO, 1)).await;
    node.advance().await;
    let head = next(&mut heads).await;
    assert_eq!((head.hash, head.header.number), (node.client.head().hash, 1));
    assert_eq!(head.header.hash_slow(), head.hash);

    // A longer branch, taken at once.
    let branch = [other.advance().await, other.advance().await];
    for envelope in &branch {
        assert!(node.new_payload(envelope, &[]).await.is_valid());
    }
    node.make_head(hash_of(&branch[1])).await;
    let announced = [next(&mut heads).await, next(&mut heads).await];
    assert_eq!(announced.map(|head| head.hash), [hash_of(&branch[0]), hash_of(&branch[1])]);
}

#[tokio::test]
async fn logs_are_told_when_they_come_and_when_they_go() {
    let (node, other) = (Node::start().await, Node::start().await);
    let url = format!("ws://{}", node.running.rpc_addr);
    let connection = WsClientBuilder::new().build(url).await.unwrap();
    let topic = B256::with_last_byte(42);
    let params = rpc_params!["logs", json!({ "topics": [topic] })];
    let logs = connection.subscribe("eth_subscribe", params, "eth_unsubscribe").await;
    let mut logs: Subscription<RpcLog> = logs.unwrap();

    let contract = signer(2).address().create(0);
    node.send(&create(2, 0, STORE)).await;
    node.send(&call(2, 1, contract, 9)).await;
    node.advance().await;
    let log = next(&mut logs).await;
    assert_eq!((log.address, log.removed), (contract, false));
    assert_eq!(log.block_hash, Some(node.client.head().hash));

    let branch = [other.advance().await, other.advance().await];
    for envelope in &branch {
        assert!(node.new_payload(envelope, &[]).await.is_valid());
    }
    node.make_head(hash_of(&branch[1])).await;
    assert_eq!(next(&mut logs).await, RpcLog { removed: true, ..log });
}

#[tokio::test]
async fn transactions_are_told_as_they_arrive() {
    let node = Node::start().await;
    let url = format!("ws://{}", node.running.rpc_addr);
    let connection = WsClientBuilder::new().build(url).await.unwrap();
    let kind = "newPendingTransactions";
    let subscribe = async |params| {
        connection.subscribe::<Value, _>("eth_subscribe", params, "eth_unsubscribe").await
    };
    let mut hashes = subscribe(rpc_params![kind]).await.unwrap();
    let mut whole = subscribe(rpc_params![kind, true]).await.unwrap();
    assert!(subscribe(rpc_params![kind, 1]).await.is_err());
    for nonce in 0..2 {
        let transaction = transfer(1, nonce, Address::ZERO, 1);
        node.send(&transaction).await;
        assert_eq!(next(&mut hashes).await, json!(transaction.hash()));
        let shown: RpcTransaction = serde_json::from_value(next(&mut whole).await).unwrap();
        assert_eq!(shown.to_transaction(), transaction);
    }
}

#[tokio::test]
async fn a_subscription_to_anything_else_is_refused() {
    let node = Node::start().await;
    let url = format!("ws://{}", node.running.rpc_addr);
    let connection = WsClientBuilder::new().build(url).await.unwrap();
    let refused: Result<Subscription<Head>, _> =
        connection.subscribe("eth_subscribe", rpc_params!["syncing"], "eth_unsubscribe").await;
    let Err(ClientError::Call(error)) = refused else { panic!("not refused") };
    assert_eq!(error.code(), -32602);
    // The connection goes on.
    let id: String = connection.request("eth_chainId", rpc_params![]).await.unwrap();
    assert_eq!(id, "0x539");
}

#[tokio::test]
async fn a_client_that_stops_closes_both_ports() {
    let node = Node::start().await;
    let (_connection, mut heads) = subscribe(&node).await;
    let (engine_addr, rpc_addr) = (node.running.engine_addr, node.running.rpc_addr);
    timeout(DEADLINE, node.running.stop()).await.expect("it stops in time");
    let ended = timeout(DEADLINE, heads.next()).await.expect("the subscription ends");
    assert!(ended.is_none_or(|head| head.is_err()));
    for address in [engine_addr, rpc_addr] {
        assert!(tokio::net::TcpStream::connect(address).await.is_err(), "{address}");
    }
}
