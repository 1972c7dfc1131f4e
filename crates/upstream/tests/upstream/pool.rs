//! Following the client's pool: read as a whole, subscribed to, silent.

use std::sync::Arc;
use std::time::Duration;

use crate::execution::{Execution, PATIENCE, any_port, config, serve};
use alloy_consensus::{EthereumTxEnvelope, SignableTransaction as _, TxEip1559, TxEip4844};
use alloy_eips::eip2718::Encodable2718 as _;
use alloy_primitives::{Address, Bytes, Signature, U256};
use futures_util::{Stream, StreamExt};
use preconf_chain::{TxEnvelope, rpc::RpcTransaction};
use preconf_upstream::{Upstream, UpstreamConfig};
use serde_json::json;

/// A transaction, as it is encoded and as it is shown.
fn shown(nonce: u64) -> (Bytes, RpcTransaction) {
    let transaction =
        TxEip1559 { chain_id: 1337, nonce, gas_limit: 21_000, ..TxEip1559::default() };
    let signed = transaction.into_signed(Signature::new(U256::ONE, U256::ONE, false));
    let transaction: TxEnvelope = EthereumTxEnvelope::<TxEip4844>::from(signed).into();
    let shown = RpcTransaction {
        transaction: transaction.clone(),
        from: Address::ZERO,
        block_hash: None,
        block_number: None,
        block_timestamp: None,
        transaction_index: None,
        gas_price: 0,
    };
    (transaction.encoded_2718().into(), shown)
}

/// A transaction, and a pool that holds it.
fn pooled() -> (Bytes, serde_json::Value) {
    let (encoded, shown) = shown(0);
    (encoded, json!({ "pending": { "0x00": { "0": shown } }, "queued": {} }))
}

async fn next(pool: &mut (impl Stream<Item = Bytes> + Unpin)) -> Bytes {
    tokio::time::timeout(PATIENCE, pool.next()).await.expect("a transaction comes").unwrap()
}

#[tokio::test]
async fn a_pool_that_takes_longer_than_other_answers_is_read() {
    let execution = Arc::new(Execution::new());
    let (address, _server) = serve(&execution, any_port()).await;
    let timeout = Duration::from_millis(100);
    let upstream = Upstream::new(UpstreamConfig { timeout, ..config(address) }).unwrap();
    let (encoded, content) = pooled();
    execution.script("txpool_content", content);
    *execution.slow_pool.lock().unwrap() = 3 * timeout;
    assert_eq!(next(&mut upstream.pool()).await, encoded);
    assert_eq!(execution.count("txpool_content"), 1);
}

#[tokio::test]
async fn what_comes_while_the_pool_is_read_does_not_wait_for_that_and_comes_once() {
    let execution = Arc::new(Execution::new());
    let (address, _server) = serve(&execution, any_port()).await;
    let ws = Some(format!("ws://{address}").parse().unwrap());
    let upstream = Upstream::new(UpstreamConfig { ws, ..config(address) }).unwrap();
    let [(first, a), (told, b), (last, c)] = [0, 1, 2].map(shown);
    let notification = json!(b);
    let content = json!({ "pending": { "0x00": { "0": a, "1": b, "2": c } }, "queued": {} });
    execution.script("txpool_content", content);
    *execution.slow_pool.lock().unwrap() = Duration::from_millis(500);
    let mut pool = upstream.pool();
    let came = tokio::spawn(async move {
        [next(&mut pool).await, next(&mut pool).await, next(&mut pool).await]
    });
    execution.until(|execution| execution.count("txpool_content") > 0).await;
    execution.tell(notification);
    assert_eq!(came.await.unwrap(), [told, first, last]);
}

#[tokio::test]
async fn beside_a_subscription_that_says_nothing_the_pool_is_read_again() {
    let execution = Arc::new(Execution::new());
    let (address, _server) = serve(&execution, any_port()).await;
    let upstream = Upstream::new(UpstreamConfig {
        ws: Some(format!("ws://{address}").parse().unwrap()),
        reread_interval: Duration::from_millis(20),
        ..config(address)
    });
    execution.script("txpool_content", json!({ "pending": {}, "queued": {} }));
    let mut pool = upstream.unwrap().pool();
    let told = tokio::spawn(async move { next(&mut pool).await });
    // It comes after the pool was read, and nobody is notified of it.
    execution.until(|execution| execution.count("txpool_content") > 0).await;
    let (encoded, content) = pooled();
    execution.script("txpool_content", content);
    assert_eq!(told.await.unwrap(), encoded);
    assert_eq!(execution.subscribers(), 1);
}
