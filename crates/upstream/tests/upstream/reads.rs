//! Reading state: batches, pins, and one request for many who ask.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use crate::execution::{Execution, PATIENCE, any_port, config, serve, start};
use alloy_primitives::{Address, B256, KECCAK256_EMPTY, U256, keccak256};
use futures_util::future::join_all;
use preconf_state::{Account, Key, StateCache, StateReader, Value};
use preconf_upstream::{StateFetcher, Upstream, UpstreamError};
use serde_json::json;

fn address(last: u8) -> Address {
    Address::with_last_byte(last)
}

fn slots(count: u64) -> Vec<Key> {
    (0..count).map(|n| Key::Slot(address(2), U256::from(n))).collect()
}

fn head(execution: &Execution) -> (u64, B256) {
    (execution.header(execution.head()).number, execution.head())
}

// ---- one read -------------------------------------------------------------------------------

#[tokio::test]
async fn every_kind_of_key_is_read_at_the_block() {
    let (execution, upstream, _server) = start(Execution::with_blocks(5)).await;
    let block = head(&execution);
    let keys = [
        Key::Account(address(7)),
        Key::Account(address(4)),
        Key::Account(address(0)),
        Key::Slot(address(7), U256::from(3)),
        Key::BlockHash(2),
        Key::BlockHash(5),
    ];
    let code = crate::execution::code(address(7));
    let code_hash = keccak256(&code);
    let values = upstream.fetch(block, &keys).await.unwrap();
    let find = |key: Key| values.iter().find(|(found, _)| *found == key).unwrap().1.clone();

    let account = |nonce, balance, code_hash| {
        Value::Account(Some(Account { nonce, balance: U256::from(balance), code_hash }))
    };
    assert_eq!(find(keys[0]), account(3, 7, code_hash));
    assert_eq!(find(keys[1]), account(2, 4, KECCAK256_EMPTY));
    assert_eq!(find(keys[2]), Value::Account(None));
    assert_eq!(find(keys[3]), Value::Slot(U256::from(10)));
    assert_eq!(find(keys[4]), Value::BlockHash(execution.canonical(2).unwrap()));
    assert_eq!(find(keys[5]), Value::BlockHash(block.1));
    let Value::Code(bytecode) = find(Key::Code(code_hash)) else { panic!("not code") };
    assert_eq!(bytecode.original_bytes(), code);
    assert_eq!(values.len(), 7);
}

#[tokio::test]
async fn reads_are_pinned_by_hash_even_when_the_block_is_not_canonical() {
    let (execution, upstream, _server) = start(Execution::with_blocks(3)).await;
    let orphan = head(&execution);
    execution.extend_from(execution.canonical(2).unwrap(), 2, 1);
    upstream.fetch(orphan, &slots(1)).await.unwrap();
    let asked = execution.asked.lock().unwrap().clone();
    let pin = json!({ "blockHash": orphan.1, "requireCanonical": false });
    let slot = json!(B256::ZERO);
    assert_eq!(asked, [("eth_getStorageAt".to_owned(), json!([address(2), slot, pin]))]);
}

#[tokio::test]
async fn reads_are_batched_up_to_the_limit() {
    let (execution, upstream, _server) = start(Execution::with_blocks(1)).await;
    let keys = slots(25);
    let values = upstream.fetch(head(&execution), &keys).await.unwrap();
    let expected = keys.iter().map(|key| {
        let Key::Slot(owner, slot) = key else { unreachable!() };
        (*key, Value::Slot(crate::execution::value(*owner, *slot)))
    });
    assert_eq!(values, expected.collect::<Vec<_>>());
    assert_eq!(execution.count("eth_getStorageAt"), 25);
    assert_eq!(execution.http_requests(), 3, "25 reads in batches of 10");
}

#[tokio::test]
async fn nothing_is_asked_for_no_keys() {
    let (execution, upstream, _server) = start(Execution::with_blocks(1)).await;
    assert_eq!(upstream.fetch(head(&execution), &[]).await.unwrap(), []);
    let own = [Key::BlockHash(1)];
    assert_eq!(upstream.fetch(head(&execution), &own).await.unwrap().len(), 1);
    assert_eq!(execution.count("eth_getBalance"), 0);
}

#[tokio::test]
async fn no_more_requests_are_under_way_than_allowed() {
    let execution = Arc::new(Execution::with_blocks(1).gated());
    let (at, _server) = serve(&execution, any_port()).await;
    let mut config = config(at);
    config.max_batch = NonZeroUsize::MIN;
    config.max_concurrent = NonZeroUsize::new(3).unwrap();
    let upstream = Upstream::new(config).unwrap();
    let block = head(&execution);
    let read = tokio::spawn(async move { upstream.fetch(block, &slots(10)).await });
    execution.until(|execution| execution.count("eth_getStorageAt") == 3).await;
    for released in 1..=7 {
        execution.gate.as_ref().unwrap().add_permits(1);
        execution.until(|execution| execution.count("eth_getStorageAt") == 3 + released).await;
    }
    execution.gate.as_ref().unwrap().add_permits(3);
    assert_eq!(read.await.unwrap().unwrap().len(), 10);
}

// ---- clients that know no EIP-1898 -----------------------------------------------------------

#[tokio::test]
async fn a_client_that_refuses_pins_is_read_by_number_and_that_is_remembered() {
    let (execution, upstream, _server) = start(Execution::with_blocks(3)).await;
    execution.refuses_pins.store(true, Ordering::Relaxed);
    let block = head(&execution);
    let values = upstream.fetch(block, &slots(2)).await.unwrap();
    assert_eq!(values.len(), 2);
    // Two refused, two read by number, and the block looked at before and after.
    assert_eq!(execution.count("eth_getStorageAt"), 4);
    assert_eq!(execution.count("eth_getBlockByNumber"), 2);

    upstream.fetch(block, &slots(2)).await.unwrap();
    assert_eq!(execution.count("eth_getStorageAt"), 6);
    assert_eq!(execution.count("eth_getBlockByNumber"), 4);
    assert_eq!(execution.last_params("eth_getStorageAt")[2], "0x3");
}

#[tokio::test]
async fn a_client_that_once_took_a_pin_is_never_read_by_number() {
    let (execution, upstream, _server) = start(Execution::with_blocks(3)).await;
    upstream.fetch(head(&execution), &slots(1)).await.unwrap();
    execution.refuses_pins.store(true, Ordering::Relaxed);
    let error = upstream.fetch(head(&execution), &slots(1)).await.unwrap_err();
    assert_eq!(error.refusal().unwrap().code(), -32602);
    assert_eq!(execution.count("eth_getBlockByNumber"), 0);
}

#[tokio::test]
async fn a_block_that_is_replaced_while_it_is_read_by_number_is_an_error() {
    for replaced_at in ["eth_getStorageAt", "eth_getBlockByNumber"] {
        let (execution, upstream, _server) = start(Execution::with_blocks(3)).await;
        execution.refuses_pins.store(true, Ordering::Relaxed);
        let block = head(&execution);
        upstream.fetch(block, &slots(1)).await.unwrap();
        *execution.on_call.lock().unwrap() = Some(Box::new(move |execution, method| {
            if method == replaced_at {
                execution.extend_from(execution.canonical(2).unwrap(), 1, 1);
            }
        }));
        let error = upstream.fetch(block, &slots(1)).await.unwrap_err();
        assert!(
            matches!(error, UpstreamError::NotCanonical { number: 3, hash, .. } if hash == block.1),
            "{error}"
        );
    }
}

#[tokio::test]
async fn ancestors_are_only_read_of_a_canonical_block() {
    let (execution, upstream, _server) = start(Execution::with_blocks(3)).await;
    let orphan = head(&execution);
    execution.extend_from(execution.canonical(1).unwrap(), 3, 1);
    let error = upstream.fetch(orphan, &[Key::BlockHash(2)]).await.unwrap_err();
    assert!(matches!(error, UpstreamError::NotCanonical { .. }), "{error}");
}

// ---- errors ---------------------------------------------------------------------------------

#[tokio::test]
async fn an_error_names_the_method_the_block_and_the_host() {
    let (_execution, upstream, _server) = start(Execution::with_blocks(3)).await;
    let unknown = B256::repeat_byte(0xab);
    let keys = [Key::Slot(address(1), U256::ZERO), Key::Account(address(1))];
    let error = upstream.fetch((9, unknown), &keys).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "{} refused eth_getStorageAt of state at block 9 ({unknown}): header not found (code -32000)",
            upstream.host()
        )
    );
}

#[tokio::test]
async fn code_that_is_known_by_hash_is_found_by_the_account_that_had_it() {
    let (execution, upstream, _server) = start(Execution::with_blocks(1)).await;
    let code = crate::execution::code(address(9));
    let key = Key::Code(keccak256(&code));
    let error = upstream.fetch(head(&execution), &[key]).await.unwrap_err();
    assert!(matches!(error, UpstreamError::CodeWithoutOwner { .. }), "{error}");

    upstream.fetch(head(&execution), &[Key::Account(address(9))]).await.unwrap();
    let values = upstream.fetch(head(&execution), &[key]).await.unwrap();
    let [(found, Value::Code(bytecode))] = &values[..] else { panic!("{values:?}") };
    assert_eq!((*found, bytecode.original_bytes()), (key, code));
}

// ---- one request for many who ask -----------------------------------------------------------

fn gated() -> Execution {
    Execution::with_blocks(1).gated()
}

fn cache(execution: &Execution) -> StateCache {
    let (number, hash) = head(execution);
    StateCache::new(number, hash, 10_000)
}

#[tokio::test]
async fn many_who_need_the_same_share_one_request() {
    let (execution, upstream, _server) = start(gated()).await;
    let (fetcher, cache) = (StateFetcher::new(upstream), cache(&execution));
    let keys = [Key::Account(address(7)), slots(1)[0], slots(1)[0]];
    let callers = (0..50).map(|_| {
        let (fetcher, cache) = (fetcher.clone(), cache.clone());
        tokio::spawn(async move { fetcher.ensure(&cache, &keys).await })
    });
    let callers: Vec<_> = callers.collect();
    execution.until(|execution| execution.count("eth_getBalance") == 1).await;
    execution.gate.as_ref().unwrap().add_permits(100);
    for done in join_all(callers).await {
        done.unwrap().unwrap();
    }
    assert_eq!(execution.http_requests(), 1);
    assert_eq!(execution.count("eth_getStorageAt"), 1);
    assert_eq!(cache.slot(address(2), U256::ZERO).unwrap(), U256::from(2));
    let account = cache.account(address(7)).unwrap().unwrap();
    assert!(cache.code(account.code_hash).is_ok());
    // What is in the cache is not asked for again.
    fetcher.ensure(&cache, &keys).await.unwrap();
    assert_eq!(execution.http_requests(), 1);
}

#[tokio::test]
async fn callers_that_overlap_ask_for_the_rest_only() {
    let (execution, upstream, _server) = start(gated()).await;
    let (fetcher, cache) = (StateFetcher::new(upstream), cache(&execution));
    let spawn = |keys: Vec<Key>| {
        let (fetcher, cache) = (fetcher.clone(), cache.clone());
        tokio::spawn(async move { fetcher.ensure(&cache, &keys).await })
    };
    let first = spawn(slots(3));
    execution.until(|execution| execution.http_requests() == 1).await;
    let second = spawn(slots(5));
    execution.until(|execution| execution.http_requests() == 2).await;
    execution.gate.as_ref().unwrap().add_permits(100);
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    assert_eq!(execution.count("eth_getStorageAt"), 5);
}

#[tokio::test]
async fn who_waits_for_a_read_that_fails_learns_why() {
    let (execution, upstream, _server) = start(gated()).await;
    let fetcher = StateFetcher::new(upstream);
    let unknown = StateCache::new(9, B256::repeat_byte(0xab), 10_000);
    let keys = slots(1);
    let mut first = Box::pin(fetcher.ensure(&unknown, &keys));
    let mut second = Box::pin(fetcher.ensure(&unknown, &keys));
    // One step puts the first in front of the second.
    std::future::poll_fn(|cx| Poll::Ready(first.as_mut().poll(cx).is_pending())).await;
    std::future::poll_fn(|cx| Poll::Ready(second.as_mut().poll(cx).is_pending())).await;
    execution.gate.as_ref().unwrap().add_permits(100);
    let (first, second) = tokio::join!(first, second);
    assert!(second.as_ref().is_err_and(|error| matches!(error, UpstreamError::Shared { .. })));
    for error in [first.unwrap_err(), second.unwrap_err()] {
        assert_eq!(error.refusal().unwrap().message(), "header not found");
    }
    assert_eq!(execution.count("eth_getStorageAt"), 1);
    // The failure is not remembered.
    assert!(fetcher.ensure(&unknown, &keys).await.is_err());
    assert_eq!(execution.count("eth_getStorageAt"), 2);
}

#[tokio::test]
async fn a_reader_that_goes_away_is_replaced_by_one_who_waits() {
    let (execution, upstream, _server) = start(gated()).await;
    let (fetcher, cache) = (StateFetcher::new(upstream), cache(&execution));
    let spawn = || {
        let (fetcher, cache) = (fetcher.clone(), cache.clone());
        tokio::spawn(async move { fetcher.ensure(&cache, &slots(1)).await })
    };
    let first = spawn();
    execution.until(|execution| execution.count("eth_getStorageAt") == 1).await;
    let others = [spawn(), spawn()];
    first.abort();
    execution.until(|execution| execution.count("eth_getStorageAt") == 2).await;
    execution.gate.as_ref().unwrap().add_permits(100);
    for other in others {
        tokio::time::timeout(PATIENCE, other).await.unwrap().unwrap().unwrap();
    }
    assert_eq!(execution.count("eth_getStorageAt"), 2);
}

#[tokio::test]
async fn the_same_key_at_another_block_is_another_read() {
    let (execution, upstream, _server) = start(Execution::with_blocks(2)).await;
    let fetcher = StateFetcher::new(upstream);
    for number in [1, 2] {
        let hash = execution.canonical(number).unwrap();
        let cache = StateCache::new(number, hash, 10_000);
        fetcher.ensure(&cache, &slots(1)).await.unwrap();
    }
    assert_eq!(execution.count("eth_getStorageAt"), 2);
}
