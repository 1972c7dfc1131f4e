//! New heads over a WebSocket.

use alloy_primitives::{Address, B256};
use jsonrpsee::core::ClientError;
use jsonrpsee::core::client::{ClientT, Subscription, SubscriptionClientT};
use jsonrpsee::rpc_params;
use jsonrpsee::ws_client::{WsClient, WsClientBuilder};
use preconf_chain::Header;
use serde::Deserialize;
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

async fn next(heads: &mut Subscription<Head>) -> Head {
    let head = timeout(DEADLINE, heads.next()).await.expect("a head comes in time");
    head.expect("the subscription goes on").unwrap()
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
async fn a_subscription_to_anything_else_is_refused() {
    let node = Node::start().await;
    let url = format!("ws://{}", node.running.rpc_addr);
    let connection = WsClientBuilder::new().build(url).await.unwrap();
    let refused: Result<Subscription<Head>, _> =
        connection.subscribe("eth_subscribe", rpc_params!["logs", ()], "eth_unsubscribe").await;
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
