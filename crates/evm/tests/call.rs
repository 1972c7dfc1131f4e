//! Calls and estimates answer as geth does.

mod common;

use alloy_consensus::TxEip1559;
use alloy_eips::{
    eip2930::{AccessList, AccessListItem},
    eip7702::Authorization,
};
use alloy_primitives::{Address, B256, Bytes, TxKind, U256};
use alloy_signer::SignerSync;
use preconf_evm::{
    BlockContext, CallError, Paused,
    call::{CallOutcome, CallRequest, CallStatus, GAS_CAP, Refusal, call, estimate_gas},
};
use preconf_state::{Diff, Overlay, StateCache};

use common::{
    BURN, CHAIN_ID, ENVIRONMENT, EPHEMERAL, FACTORY, GWEI, REVERT, STORE, World, fetch_all, sign,
    signer, word,
};

fn context(world: &World) -> BlockContext {
    BlockContext::from(&world.next_block())
}

fn ask(world: &World, request: &CallRequest) -> Result<CallOutcome, CallError> {
    call(&world.spec, &context(world), Overlay::new(world.state.clone()), request)
}

fn estimate(world: &World, request: &CallRequest) -> Result<u64, CallError> {
    estimate_gas(&world.spec, &context(world), Overlay::new(world.state.clone()), request)
}

fn to(contract: Address) -> CallRequest {
    CallRequest { to: Some(contract), ..CallRequest::default() }
}

fn store(slot: u64, value: u64) -> CallRequest {
    CallRequest { data: [word(slot), word(value)].concat().into(), ..to(STORE) }
}

fn words(output: &Bytes) -> Vec<U256> {
    output.chunks(32).map(U256::from_be_slice).collect()
}

#[test]
fn a_call_without_a_price_is_free_and_sees_a_base_fee_of_zero() {
    let world = World::new();
    let outcome = ask(&world, &to(ENVIRONMENT)).unwrap();
    assert_eq!(outcome.status, CallStatus::Success);
    let parent = U256::from_be_bytes(world.parent.hash_slow().0);
    assert_eq!(words(&outcome.output), [U256::ZERO, U256::ZERO, U256::ZERO, parent]);
}

#[test]
fn a_call_with_a_price_sees_the_base_fee_and_pays() {
    let world = World::new();
    let base_fee = U256::from(world.next_block().base_fee_per_gas);
    let request = CallRequest {
        from: Some(signer(1).address()),
        max_fee_per_gas: Some(2 * GWEI),
        max_priority_fee_per_gas: Some(1),
        gas: Some(100_000),
        ..to(ENVIRONMENT)
    };
    let seen = words(&ask(&world, &request).unwrap().output);
    let bought = U256::from(100_000) * (base_fee + U256::ONE);
    let balance = U256::from(10).pow(U256::from(21)) - bought;
    assert_eq!(seen[..3], [base_fee, base_fee + U256::ONE, balance]);

    let penniless = CallRequest { from: Some(Address::repeat_byte(9)), ..request.clone() };
    let refused = ask(&world, &penniless).unwrap_err();
    let CallError::Refused(refusal) = refused else { panic!("{refused:?}") };
    assert!(matches!(refusal, Refusal::InsufficientFunds { .. }));

    let cheap = CallRequest { max_fee_per_gas: Some(1), ..request.clone() };
    let refused = ask(&world, &cheap).unwrap_err();
    let CallError::Refused(refusal) = refused else { panic!("{refused:?}") };
    assert!(matches!(refusal, Refusal::MaxFeeTooLow { max: 1, .. }));

    let both = CallRequest { gas_price: Some(GWEI), ..request };
    assert!(matches!(ask(&world, &both), Err(CallError::ConflictingFees)));
}

#[test]
fn what_a_call_cannot_transfer_is_an_error() {
    let world = World::new();
    let request = CallRequest { value: Some(U256::ONE), ..to(STORE) };
    assert!(matches!(ask(&world, &request), Err(CallError::Refused(_))));
}

#[test]
fn a_revert_keeps_its_data_and_a_halt_has_geths_words() {
    let world = World::new();
    let reverted = ask(&world, &to(REVERT)).unwrap();
    assert_eq!(reverted.status, CallStatus::Reverted);
    assert_eq!(words(&reverted.output), [U256::from(42)]);
    assert_eq!(reverted.failure().unwrap(), "execution reverted");

    let burnt = ask(&world, &to(BURN)).unwrap();
    assert!(matches!(burnt.status, CallStatus::Halted(_)));
    assert_eq!(burnt.failure().unwrap(), "out of gas");
    assert_eq!(burnt.gas_used, GAS_CAP);

    let greedy = CallRequest { gas: Some(u64::MAX), ..to(BURN) };
    assert_eq!(ask(&world, &greedy).unwrap().gas_used, GAS_CAP);
}

#[test]
fn a_call_logs_and_changes_nothing() {
    let world = World::new();
    let overlay = Overlay::new(world.state.clone());
    let kept = overlay.clone();
    let outcome = call(&world.spec, &context(&world), overlay, &store(1, 2)).unwrap();
    assert_eq!(outcome.logs.len(), 1);
    assert_eq!(outcome.logs[0].topics(), [B256::from(word(1))]);
    assert_eq!(kept.diff(), Diff::default());
}

#[test]
fn a_creation_returns_the_code() {
    let world = World::new();
    let request = CallRequest { data: EPHEMERAL.into(), ..CallRequest::default() };
    let outcome = ask(&world, &request).unwrap();
    assert_eq!((outcome.status, outcome.output), (CallStatus::Success, [0x33, 0xff].into()));
}

#[test]
fn a_contract_may_call_although_it_could_not_send() {
    let world = World::new();
    let request = CallRequest { from: Some(FACTORY), nonce: Some(99), ..to(ENVIRONMENT) };
    assert_eq!(ask(&world, &request).unwrap().status, CallStatus::Success);
}

#[test]
fn an_access_list_and_an_authorization_have_their_effect() {
    let world = World::new();
    let cold = ask(&world, &store(1, 2)).unwrap().gas_used;
    let item = AccessListItem { address: STORE, storage_keys: vec![B256::with_last_byte(1)] };
    let list = CallRequest { access_list: Some(AccessList(vec![item])), ..store(1, 2) };
    let warm = ask(&world, &list).unwrap().gas_used;
    // 2400 for the address, 1900 for the slot; warm, the slot is 2100 cheaper.
    assert_eq!(warm, cold + 2_400 + 1_900 - 2_100);

    let authority = signer(2);
    let delegation =
        Authorization { chain_id: U256::from(CHAIN_ID), address: ENVIRONMENT, nonce: 0 };
    let signature = authority.sign_hash_sync(&delegation.signature_hash()).unwrap();
    let request = CallRequest {
        authorization_list: Some(vec![delegation.into_signed(signature)]),
        ..to(authority.address())
    };
    assert_eq!(words(&ask(&world, &request).unwrap().output).len(), 4);
}

#[test]
fn a_call_asks_for_state_until_it_has_it() {
    let world = World::new();
    let cache = StateCache::new(0, world.spec.genesis_hash(), 10_000);
    let run = |request: &CallRequest| {
        let mut rounds = 0;
        loop {
            let overlay = Overlay::new(cache.clone());
            match call(&world.spec, &context(&world), overlay, request) {
                Err(CallError::NeedState(keys)) => fetch_all(&cache, &world.state, &keys),
                result => break (rounds, result.unwrap()),
            }
            rounds += 1;
        }
    };
    let (rounds, outcome) = run(&store(1, 2));
    assert!(rounds > 0);
    assert_eq!(outcome, ask(&world, &store(1, 2)).unwrap());
    assert_eq!(run(&store(1, 2)), (0, outcome));
}

#[test]
fn a_call_on_a_block_that_is_being_executed_sees_its_transactions() {
    let world = World::new();
    let paused =
        Paused::begin(world.spec.clone(), world.next_block(), Overlay::new(world.state.clone()));
    let mut running = paused.unwrap().resume();
    let transfer = TxEip1559 {
        chain_id: CHAIN_ID,
        gas_limit: 21_000,
        max_fee_per_gas: 2 * GWEI,
        to: TxKind::Call(Address::repeat_byte(9)),
        value: U256::from(11),
        ..TxEip1559::default()
    };
    running.execute(&sign(&signer(1), transfer)).unwrap();
    let paused = running.pause();
    let request = CallRequest { from: Some(Address::repeat_byte(9)), ..to(ENVIRONMENT) };
    let context = BlockContext::from(paused.block());
    let outcome = call(&world.spec, &context, paused.overlay().clone(), &request).unwrap();
    assert_eq!(words(&outcome.output)[2], U256::from(11));
}

#[test]
fn a_plain_transfer_needs_21000_gas() {
    let world = World::new();
    let request = CallRequest {
        from: Some(signer(1).address()),
        value: Some(U256::ONE),
        ..to(Address::repeat_byte(9))
    };
    assert_eq!(estimate(&world, &request).unwrap(), 21_000);
}

#[test]
fn an_estimate_is_enough_and_hardly_more() {
    let world = World::new();
    let create = CallRequest { data: EPHEMERAL.into(), ..CallRequest::default() };
    for request in [store(1, 2), store(1, 0), store(7, 7), create, to(ENVIRONMENT)] {
        let estimated = estimate(&world, &request).unwrap();
        let succeeds = |gas| {
            let request = CallRequest { gas: Some(gas), ..request.clone() };
            ask(&world, &request).is_ok_and(|outcome| outcome.status == CallStatus::Success)
        };
        assert!(succeeds(estimated), "{request:?}");
        assert!(!succeeds(estimated - estimated * 3 / 100), "{request:?}");
    }
}

#[test]
fn an_estimate_of_what_never_succeeds_says_why() {
    let world = World::new();
    let reverted = estimate(&world, &to(REVERT)).unwrap_err();
    let CallError::Reverted(data) = reverted else { panic!("{reverted:?}") };
    assert_eq!(words(&data), [U256::from(42)]);

    let block_gas = world.next_block().gas_limit;
    let burnt = estimate(&world, &to(BURN)).unwrap_err();
    assert_eq!(burnt.to_string(), format!("gas required exceeds allowance ({block_gas})"));

    let limited = CallRequest { gas: Some(30_000), ..store(7, 7) };
    let refused = estimate(&world, &limited).unwrap_err();
    assert_eq!(refused.to_string(), "gas required exceeds allowance (30000)");
}

#[test]
fn an_estimate_stays_within_what_the_sender_can_pay() {
    let world = World::new();
    let balance = U256::from(10).pow(U256::from(21));
    let leaves = |wei: u128| CallRequest {
        from: Some(signer(1).address()),
        value: Some(balance - U256::from(wei)),
        gas_price: Some(2 * GWEI),
        ..to(Address::repeat_byte(9))
    };
    assert_eq!(estimate(&world, &leaves(21_000 * 2 * GWEI)).unwrap(), 21_000);
    let refused = estimate(&world, &leaves(20_999 * 2 * GWEI)).unwrap_err();
    assert!(matches!(refused, CallError::GasExceedsAllowance(20_999)), "{refused:?}");
    let broke = CallRequest { value: Some(balance + U256::ONE), ..leaves(0) };
    assert!(matches!(estimate(&world, &broke), Err(CallError::InsufficientFunds)));
}
