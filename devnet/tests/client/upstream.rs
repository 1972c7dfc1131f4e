//! Our own services read this client as they read any other.

use std::pin::pin;

use alloy_primitives::{Address, U256, keccak256};
use futures_util::StreamExt;
use preconf_state::{Account, Key, Value};
use preconf_upstream::{Upstream, UpstreamConfig};
use tokio::time::timeout;

use crate::harness::*;

fn upstream(node: &Node) -> Upstream {
    let url = |scheme| format!("{scheme}://{}", node.running.rpc_addr).parse().unwrap();
    let config = UpstreamConfig { ws: Some(url("ws")), ..UpstreamConfig::new(url("http")) };
    Upstream::new(config).unwrap()
}

#[tokio::test]
async fn state_is_fetched_at_a_block_by_its_hash() {
    let node = Node::start().await;
    let upstream = upstream(&node);
    let contract = signer(1).address().create(0);
    node.send(&create(1, 0, STORE)).await;
    node.advance().await;
    let first = node.client.head();
    node.send(&call(1, 1, contract, 9)).await;
    node.advance().await;
    let second = node.client.head();

    let nobody = Address::repeat_byte(0x99);
    let keys = [Key::Account(contract), Key::Slot(contract, U256::ZERO), Key::Account(nobody)];
    for (block, stored) in [(&first, 0), (&second, 9)] {
        let values = upstream.fetch((block.number(), block.hash), &keys).await.unwrap();
        let value = |key: &Key| &values.iter().find(|(found, _)| found == key).unwrap().1;
        let code_hash = keccak256(STORE.slice(10..));
        let account = Account { nonce: 1, balance: U256::ZERO, code_hash };
        assert_eq!(*value(&keys[0]), Value::Account(Some(account)));
        assert_eq!(*value(&keys[1]), Value::Slot(U256::from(stored)));
        assert_eq!(*value(&keys[2]), Value::Account(None));
        assert!(matches!(value(&Key::Code(code_hash)), Value::Code(code)
            if code.original_bytes() == STORE.slice(10..)));
    }
}

#[tokio::test]
async fn blocks_and_heads_are_believed() {
    let node = Node::start().await;
    let upstream = upstream(&node);
    let mut heads = pin!(upstream.heads());
    let first = timeout(DEADLINE, heads.next()).await.unwrap().unwrap();
    assert_eq!(first.hash, node.genesis());
    node.send(&transfer(1, 0, Address::ZERO, 1)).await;
    node.advance().await;
    let next = timeout(DEADLINE, heads.next()).await.unwrap().unwrap();
    let head = node.client.head();
    assert_eq!((next.hash, &next.header), (head.hash, head.header()));
    let block = upstream.block_by_hash(head.hash).await.unwrap().unwrap();
    assert_eq!(block.block, head.block);
    let receipts = upstream.block_receipts(head.hash).await.unwrap().unwrap();
    assert_eq!(receipts.len(), 1);
    assert_eq!(upstream.chain_id().await.unwrap(), CHAIN_ID);
    assert_eq!(upstream.genesis_hash().await.unwrap(), node.genesis());
}
