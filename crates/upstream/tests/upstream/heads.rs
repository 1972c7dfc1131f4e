//! Following the head: polled, subscribed, interrupted.

use std::sync::Arc;

use crate::execution::{Execution, PATIENCE, any_port, config, serve, start};
use alloy_primitives::B256;
use futures_util::{Stream, StreamExt};
use preconf_upstream::{Head, MAX_FILLED_HEADS, Upstream, UpstreamConfig};

async fn next(heads: &mut (impl Stream<Item = Head> + Unpin)) -> Head {
    tokio::time::timeout(PATIENCE, heads.next()).await.expect("a head comes").unwrap()
}

async fn next_hashes(heads: &mut (impl Stream<Item = Head> + Unpin), count: usize) -> Vec<B256> {
    let mut hashes = Vec::new();
    for _ in 0..count {
        hashes.push(next(heads).await.hash);
    }
    hashes
}

/// A client that is subscribed to over WebSocket; polling is so slow that it never helps.
async fn subscribed(
    execution: Execution,
) -> (Arc<Execution>, Upstream, jsonrpsee::server::ServerHandle, std::net::SocketAddr) {
    let execution = Arc::new(execution);
    let (address, server) = serve(&execution, any_port()).await;
    let upstream = Upstream::new(UpstreamConfig {
        ws: Some(format!("ws://{address}").parse().unwrap()),
        ..config(address)
    });
    (execution, upstream.unwrap(), server, address)
}

#[tokio::test]
async fn polling_hands_on_the_present_head_and_then_each_new_one_once() {
    let (execution, upstream, _server) = start(Execution::with_blocks(3)).await;
    let mut heads = upstream.heads();
    let first = next(&mut heads).await;
    assert_eq!((first.number, first.hash), (3, execution.head()));
    assert_eq!(first.timestamp, execution.header(first.hash).timestamp);
    for _ in 0..3 {
        let added = execution.extend(1, 0);
        assert_eq!(next_hashes(&mut heads, 1).await, added);
    }
}

#[tokio::test]
async fn heads_that_were_missed_are_filled_in_oldest_first() {
    let (execution, upstream, _server) = start(Execution::with_blocks(3)).await;
    let mut heads = upstream.heads();
    next(&mut heads).await;
    let added = execution.extend(10, 0);
    assert_eq!(next_hashes(&mut heads, 10).await, added);
    // Only those between were asked for by hash.
    assert_eq!(execution.count("eth_getBlockByHash"), 9);
}

#[tokio::test]
async fn no_more_than_the_limit_is_filled_in() {
    let (execution, upstream, _server) = start(Execution::with_blocks(1)).await;
    let mut heads = upstream.heads();
    next(&mut heads).await;
    let added = execution.extend(100, 0);
    let filled = next_hashes(&mut heads, MAX_FILLED_HEADS).await;
    assert_eq!(filled, added[100 - MAX_FILLED_HEADS..]);
}

#[tokio::test]
async fn after_a_reorg_the_new_branch_is_handed_on_from_the_common_ancestor() {
    let (execution, upstream, _server) = start(Execution::with_blocks(3)).await;
    let mut heads = upstream.heads();
    next(&mut heads).await;
    let old = execution.extend(3, 0);
    assert_eq!(next_hashes(&mut heads, 3).await, old);
    let new = execution.extend_from(execution.canonical(4).unwrap(), 2, 1);
    assert_eq!(next_hashes(&mut heads, 2).await, new);
    // And back again: the old head is the head once more.
    execution.set_head(old[2]);
    assert_eq!(next_hashes(&mut heads, 1).await, [old[2]]);
}

#[tokio::test]
async fn a_header_that_does_not_hash_to_its_name_is_not_handed_on() {
    let (execution, upstream, _server, _) = subscribed(Execution::with_blocks(3)).await;
    let mut heads = upstream.heads();
    next(&mut heads).await;
    let wait = tokio::spawn(async move {
        let head = next(&mut heads).await;
        (head, heads)
    });
    execution.until(|execution| execution.subscribers() == 1).await;
    let added = execution.extend(1, 0);
    // The notification lies about the timestamp; the block itself does not.
    execution.notify(added[0], |object| object["timestamp"] = "0x1".into());
    let (head, _heads) = wait.await.unwrap();
    assert_eq!(head.hash, added[0]);
    assert_eq!(head.header, execution.header(added[0]));
    assert_eq!(execution.count("eth_getBlockByHash"), 1);
}

#[tokio::test]
async fn a_subscription_hands_on_heads_without_asking_for_them() {
    let (execution, upstream, _server, _) = subscribed(Execution::with_blocks(3)).await;
    let mut heads = upstream.heads();
    assert_eq!(next(&mut heads).await.number, 3);
    execution.until(|execution| execution.subscribers() == 1).await;
    let asked = execution.count("eth_getBlockByNumber");
    for _ in 0..3 {
        let added = execution.extend(1, 0);
        execution.notify(added[0], |_| {});
        assert_eq!(next_hashes(&mut heads, 1).await, added);
    }
    assert_eq!(execution.count("eth_getBlockByHash"), 0);
    assert_eq!(execution.count("eth_getBlockByNumber"), asked);
}

#[tokio::test]
async fn a_notification_that_was_missed_is_filled_in() {
    let (execution, upstream, _server, _) = subscribed(Execution::with_blocks(3)).await;
    let mut heads = upstream.heads();
    next(&mut heads).await;
    execution.until(|execution| execution.subscribers() == 1).await;
    let added = execution.extend(4, 0);
    execution.notify(added[3], |_| {});
    assert_eq!(next_hashes(&mut heads, 4).await, added);
}

#[tokio::test]
async fn a_notification_that_waited_too_long_does_not_turn_the_head_back() {
    let (execution, upstream, _server, _) = subscribed(Execution::with_blocks(3)).await;
    let mut heads = upstream.heads();
    next(&mut heads).await;
    execution.until(|execution| execution.subscribers() == 1).await;
    let added = execution.extend(2, 0);
    execution.notify(added[1], |_| {});
    assert_eq!(next_hashes(&mut heads, 2).await, added);
    execution.notify(added[0], |_| {});
    let last = execution.extend(1, 0);
    execution.notify(last[0], |_| {});
    assert_eq!(next_hashes(&mut heads, 1).await, last);
}

#[tokio::test]
async fn heads_are_followed_again_after_the_client_was_restarted() {
    let (execution, upstream, server, address) = subscribed(Execution::with_blocks(3)).await;
    let mut heads = upstream.heads();
    next(&mut heads).await;
    execution.until(|execution| execution.subscribers() == 1).await;

    server.stop().unwrap();
    server.stopped().await;
    execution.until(|execution| execution.subscribers() == 0).await;
    let while_down = execution.extend(2, 0);
    // The stream is polled while nobody is there, and the client comes back.
    let waiting = tokio::spawn(async move {
        let hashes = next_hashes(&mut heads, 2).await;
        (hashes, heads)
    });
    let (_, _server) = serve(&execution, address).await;
    let (hashes, mut heads) = waiting.await.unwrap();
    assert_eq!(hashes, while_down);

    let follow = tokio::spawn(async move { next(&mut heads).await.hash });
    execution.until(|execution| execution.subscribers() == 1).await;
    let added = execution.extend(1, 0);
    execution.notify(added[0], |_| {});
    assert_eq!(follow.await.unwrap(), added[0]);
}

#[tokio::test]
async fn heads_are_polled_while_the_websocket_is_not_there() {
    let execution = Arc::new(Execution::with_blocks(3));
    let (address, _server) = serve(&execution, any_port()).await;
    let gone = tokio::net::TcpListener::bind(any_port()).await.unwrap().local_addr().unwrap();
    let upstream = Upstream::new(UpstreamConfig {
        ws: Some(format!("ws://{gone}").parse().unwrap()),
        ..config(address)
    });
    let mut heads = upstream.unwrap().heads();
    assert_eq!(next(&mut heads).await.number, 3);
    let added = execution.extend(1, 0);
    assert_eq!(next_hashes(&mut heads, 1).await, added);
}
