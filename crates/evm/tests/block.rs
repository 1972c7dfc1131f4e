//! What surrounds the transactions, and what keeps them out.

#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::sync::Arc;

use alloy_consensus::{TxEip1559, TxEip4844};
use alloy_eips::{eip2935, eip4788, eip4844::DATA_GAS_PER_BLOB};
use alloy_primitives::{Address, B256, TxKind, U256};
use preconf_chain::{PolTx, Transaction, TxEnvelope};
use preconf_evm::{
    BlockError, ExecutionError, Outcome, Paused, TxError, execute_block, execute_known_block,
};
use preconf_state::{Key, MemoryState, Overlay, StateCache, StateReader};

use common::{
    BURN, CHAIN_ID, FEE_RECIPIENT, GWEI, OBSERVE, World, fetch_all, root, sign, signer, traffic,
};

fn begin(world: &World) -> Paused<MemoryState> {
    Paused::begin(world.spec.clone(), world.next_block(), Overlay::new(world.state.clone()))
        .unwrap()
}

fn transfer(nonce: u64) -> TxEip1559 {
    TxEip1559 {
        chain_id: CHAIN_ID,
        nonce,
        gas_limit: 21_000,
        max_fee_per_gas: 3 * GWEI,
        max_priority_fee_per_gas: GWEI,
        to: TxKind::Call(Address::repeat_byte(9)),
        value: U256::from(1),
        ..TxEip1559::default()
    }
}

fn blobs(nonce: u64, count: usize) -> TxEip4844 {
    TxEip4844 {
        chain_id: CHAIN_ID,
        nonce,
        gas_limit: 21_000,
        max_fee_per_gas: 3 * GWEI,
        max_priority_fee_per_gas: GWEI,
        max_fee_per_blob_gas: GWEI,
        blob_versioned_hashes: vec![traffic::versioned_hash(); count],
        ..TxEip4844::default()
    }
}

#[test]
fn a_paused_block_can_be_sent_to_another_thread() {
    fn assert_sendable<T: Send + Sync + Clone>(_: &T) {}
    let world = World::new();
    let paused = begin(&world);
    assert_sendable(&paused);
    let outcome = std::thread::spawn(move || paused.finish().unwrap()).join().unwrap();
    assert_eq!(outcome.gas_used, 0);
}

#[test]
fn parent_hash_and_beacon_root_are_written_before_the_first_transaction() {
    let world = World::new();
    let paused = begin(&world);
    let block = paused.block().clone();
    let hash = paused.overlay().slot(eip2935::HISTORY_STORAGE_ADDRESS, U256::ZERO).unwrap();
    assert_eq!(B256::from(hash), block.parent_hash);
    let slot = U256::from(block.timestamp % 8_191 + 8_191);
    let beacon_root = paused.overlay().slot(eip4788::BEACON_ROOTS_ADDRESS, slot).unwrap();
    assert_eq!(Some(B256::from(beacon_root)), block.parent_beacon_block_root);
}

#[test]
fn withdrawals_are_paid_at_the_end_in_gwei() {
    let world = World::new();
    let outcome = begin(&world).finish().unwrap();
    let paid = outcome.overlay.account(Address::repeat_byte(0x77)).unwrap().unwrap();
    assert_eq!(paid.balance, U256::from(5 * GWEI));
    assert_eq!(outcome.overlay.account(Address::repeat_byte(0x78)), Ok(None));
    assert!(outcome.closing.accounts.contains_key(&Address::repeat_byte(0x77)));
}

#[test]
fn the_fee_recipient_gets_the_tip_and_the_receipt_the_gas() {
    let world = World::new();
    let mut running = begin(&world).resume();
    let executed = running.execute(&sign(&signer(1), transfer(0))).unwrap();
    assert_eq!((executed.gas_used, executed.success), (21_000, true));
    assert_eq!((running.gas_used(), running.receipts().len()), (21_000, 1));
    let tip = running.overlay().account(FEE_RECIPIENT).unwrap().unwrap().balance;
    assert_eq!(tip, U256::from(21_000 * GWEI));
}

#[test]
fn the_hash_of_a_pending_parent_is_known_to_its_child() {
    let world = World::new();
    let first = begin(&world).finish().unwrap();
    let mut after = world.state.clone();
    after.apply(&first.diff());
    let parent = first.header(root(&after));
    // The state has no hash for block 1: only the block on top of it says what it is.
    let next = World { parent, state: world.state.clone(), ..world };
    let paused = Paused::begin(next.spec.clone(), next.next_block(), first.overlay).unwrap();
    let mut running = paused.resume();
    let observe = TxEip1559 { to: TxKind::Call(OBSERVE), gas_limit: 100_000, ..transfer(0) };
    assert!(running.execute(&sign(&signer(1), observe)).unwrap().success);
    let seen = running.overlay().slot(OBSERVE, U256::from(2)).unwrap();
    assert_eq!(B256::from(seen), next.parent.hash_slow());
}

#[test]
fn nonces_that_do_not_fit_say_what_would() {
    let world = World::new();
    let mut running = begin(&world).resume();
    running.execute(&sign(&signer(1), transfer(0))).unwrap();
    let low = running.execute(&sign(&signer(1), transfer(0))).unwrap_err();
    assert!(matches!(low, TxError::NonceTooLow { tx: 0, state: 1 }), "{low:?}");
    let high = running.execute(&sign(&signer(1), transfer(3))).unwrap_err();
    assert!(matches!(high, TxError::NonceTooHigh { tx: 3, state: 1 }), "{high:?}");
}

#[test]
fn the_block_gas_limit_holds_for_limits_and_not_for_what_is_used() {
    let mut world = World::new();
    world.parent.gas_limit = 100_000;
    let mut running = begin(&world).resume();
    let burn = TxEip1559 { to: TxKind::Call(BURN), gas_limit: 79_001, ..transfer(0) };
    assert!(!running.execute(&sign(&signer(1), burn)).unwrap().success);
    let refused = running.execute(&sign(&signer(2), transfer(0))).unwrap_err();
    let TxError::ExceedsBlockGas { limit: 21_000, available: 20_999 } = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(running.transactions().len(), 1);
}

#[test]
fn the_block_has_room_for_six_blobs() {
    let world = World::new();
    let mut running = begin(&world).resume();
    running.execute(&sign(&signer(1), blobs(0, 4))).unwrap();
    let paused = running.pause();
    assert_eq!(paused.blob_gas_used(), 4 * DATA_GAS_PER_BLOB);
    let mut running = paused.resume();
    let refused = running.execute(&sign(&signer(2), blobs(0, 3))).unwrap_err();
    let TxError::ExceedsBlobGas { blob_gas, available } = refused else { panic!("{refused:?}") };
    assert_eq!((blob_gas, available), (3 * DATA_GAS_PER_BLOB, 2 * DATA_GAS_PER_BLOB));
    running.execute(&sign(&signer(2), blobs(0, 2))).unwrap();
    let outcome = running.pause().finish().unwrap();
    assert_eq!(outcome.header(B256::ZERO).blob_gas_used, Some(6 * DATA_GAS_PER_BLOB));
}

#[test]
fn a_proof_of_liquidity_transaction_is_not_taken_from_anybody() {
    let world = World::new();
    let mut running = begin(&world).resume();
    let pol = TxEnvelope::from(PolTx::for_block(CHAIN_ID, OBSERVE, 1, 1, &Default::default()));
    let transaction = Transaction::from_envelope(pol, alloy_eips::eip4788::SYSTEM_ADDRESS);
    let refused = running.execute(&transaction).unwrap_err();
    assert!(matches!(refused, TxError::Reserved(0x7e)));
    assert!(running.transactions().is_empty());
}

#[test]
fn a_block_without_its_beacon_root_cannot_begin() {
    let world = World::new();
    let mut block = world.next_block();
    block.parent_beacon_block_root = None;
    let refused = Paused::begin(world.spec, block, Overlay::new(world.state));
    assert!(matches!(refused, Err(ExecutionError::Failed(_))));
}

#[test]
fn an_empty_memory_is_filled_for_a_whole_empty_block_in_three_rounds() {
    let world = World::new();
    let cache = StateCache::new(0, world.spec.genesis_hash(), 10_000);
    let mut asked: Vec<Vec<Key>> = Vec::new();
    let outcome = loop {
        let overlay = Overlay::new(cache.clone());
        let paused = Paused::begin(world.spec.clone(), world.next_block(), overlay);
        match paused.and_then(Paused::finish) {
            Err(ExecutionError::NeedState(keys)) => {
                fetch_all(&cache, &world.state, &keys);
                asked.push(keys);
            }
            outcome => break outcome.unwrap(),
        }
    };
    assert!(asked.len() <= 3, "{asked:#?}");
    let complete = begin(&world).finish().unwrap();
    assert_eq!(outcome.diff(), complete.diff());
}

#[test]
fn each_fork_has_its_own_header_fields() {
    for forks in [&["pragueTime"][..], &["pragueTime", "cancunTime"]] {
        let world = World::with_config(|config| {
            for fork in forks {
                config.remove(*fork);
            }
        });
        let mut running = begin(&world).resume();
        running.execute(&sign(&signer(1), transfer(0))).unwrap();
        let outcome = running.pause().finish().unwrap();
        assert!(outcome.requests.is_empty());
        let block = built(&world, &outcome);
        let header = &block.header;
        assert!(header.requests_hash.is_none() && header.withdrawals_root.is_some());
        assert_eq!(header.blob_gas_used.is_some(), forks.len() == 1);
        assert_eq!(header.parent_beacon_block_root.is_some(), forks.len() == 1);
        let overlay = Overlay::new(world.state.clone());
        execute_block(&world.spec, &world.parent, &block, None, overlay).unwrap();
    }
}

fn built(world: &World, outcome: &Outcome<MemoryState>) -> preconf_chain::Block {
    let mut after = world.state.clone();
    after.apply(&outcome.diff());
    outcome.block(root(&after))
}

#[test]
fn senders_are_taken_as_known_and_recovered_where_they_are_not() {
    let world = World::new();
    let mut running = begin(&world).resume();
    for nonce in 0..5 {
        running.execute(&sign(&signer(1), transfer(nonce))).unwrap();
    }
    let outcome = running.pause().finish().unwrap();
    let block = built(&world, &outcome);
    let execute = |known: &dyn Fn(&B256) -> Option<Transaction>| {
        let overlay = Overlay::new(world.state.clone());
        execute_known_block(&world.spec, &world.parent, &block, None, overlay, known)
    };
    let known = |hash: &B256, sender| {
        let [_, second, _, fourth, _] = &outcome.transactions[..] else { panic!() };
        let known = [second, fourth].into_iter().find(|known| known.hash() == hash)?;
        Some(Transaction::from_envelope(known.envelope().clone(), sender))
    };
    let executed = execute(&|hash| known(hash, signer(1).address())).unwrap();
    assert_eq!(executed.transactions, outcome.transactions);
    assert_eq!(executed.diff(), outcome.diff());

    let lied_to = execute(&|hash| known(hash, signer(2).address()));
    let Err(BlockError::Transaction { index, .. }) = lied_to else { panic!("{lied_to:?}") };
    assert_eq!(index, 1);
}

#[test]
fn requests_that_the_execution_does_not_find_are_refused() {
    let world = World::new();
    let outcome = begin(&world).finish().unwrap();
    let block = built(&world, &outcome);
    let mut requests = outcome.requests;
    requests.push_request([0, 1].into());
    let overlay = Overlay::new(world.state.clone());
    let refused = execute_block(&world.spec, &world.parent, &block, Some(&requests), overlay);
    let Err(BlockError::Mismatch { field, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!(field, "requests");
}

#[test]
fn copies_of_a_paused_block_go_separate_ways() {
    let world = World::new();
    let mut running = begin(&world).resume();
    running.execute(&sign(&signer(1), transfer(0))).unwrap();
    let paused = running.pause();
    let mut left = paused.clone().resume();
    let mut right = paused.resume();
    left.execute(&sign(&signer(2), transfer(0))).unwrap();
    right.execute(&sign(&signer(3), transfer(0))).unwrap();
    let (left, right) = (left.pause(), right.pause());
    assert_eq!(left.transactions()[1].signer(), signer(2).address());
    assert_eq!(right.transactions()[1].signer(), signer(3).address());
    assert!(Arc::ptr_eq(left.spec(), right.spec()));
    let nonce = |paused: &Paused<MemoryState>, n| {
        paused.overlay().account(signer(n).address()).unwrap().unwrap().nonce
    };
    assert_eq!((nonce(&left, 2), nonce(&left, 3)), (1, 0));
    assert_eq!((nonce(&right, 2), nonce(&right, 3)), (0, 1));
}
