//! State and blocks as a caller wants them to be: overrides, access lists, simulated blocks.

#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use alloy_primitives::{Address, B256, Bytes, U256, address, hex};
use alloy_rpc_types_eth::{BlockOverrides, state::StateOverride};
use preconf_evm::{
    BlockContext, CallError,
    access_list::create_access_list,
    call::{CallRequest, InvalidOverride, call},
    simulate::{SimulateError, SimulateRequest, SimulatedBlock, simulate},
};
use preconf_state::{MemoryState, Overlay, StateCache};
use serde_json::{Value, json};

use common::{FACTORY, GAUGE, GWEI, REVERT, STORE, World, fetch_all, root, signer, word};

const WHO: Address = Address::repeat_byte(0x99);
const SHA256: Address = address!("0x0000000000000000000000000000000000000002");
/// Returns NUMBER, the hash of block 0, that of block 1, and BLOBBASEFEE.
const BLOCK: Bytes = Bytes::from_static(&hex!("435f52 5f40602052 600140604052 4a606052 60805ff3"));

fn overlay(world: &World) -> Overlay<MemoryState> {
    Overlay::new(world.state.clone())
}

fn ask(
    world: &World,
    request: &CallRequest,
    state: Value,
    block: Value,
) -> Result<Bytes, CallError> {
    let mut context = BlockContext::from(&world.parent);
    let mut overlay = overlay(world);
    let state: StateOverride = serde_json::from_value(state).unwrap();
    let block: BlockOverrides = serde_json::from_value(block).unwrap();
    context.override_state(&world.spec, &state, &mut overlay)?;
    context.override_block(&block)?;
    call(&world.spec, &context, overlay, request)?.into_output()
}

fn to(contract: Address) -> CallRequest {
    CallRequest { to: Some(contract), ..CallRequest::default() }
}

fn words(output: &Bytes) -> Vec<U256> {
    output.chunks(32).map(U256::from_be_slice).collect()
}

#[test]
fn a_call_sees_the_block_that_its_caller_wants() {
    let world = World::new();
    let code = json!({ WHO.to_string(): { "code": BLOCK } });
    let wanted = json!({ "number": "0x5", "blobBaseFee": "0x7" });
    let seen = words(&ask(&world, &to(WHO), code.clone(), wanted).unwrap());
    // The chain ends with block 0: nobody knows what comes after it, and it is not below itself.
    assert_eq!(seen, [U256::from(5), U256::ZERO, U256::ZERO, U256::from(7)]);

    let hash = B256::repeat_byte(0x11);
    let wanted = json!({ "number": "0x5", "blockHash": { "1": hash } });
    let seen = words(&ask(&world, &to(WHO), code, wanted).unwrap());
    assert_eq!(seen[2], U256::from_be_bytes(hash.0));
}

#[test]
fn a_precompile_moves_and_leaves_an_account_behind() {
    let world = World::new();
    let request = CallRequest { data: "abc".into(), ..to(WHO) };
    let digest =
        ask(&world, &CallRequest { to: Some(SHA256), ..request.clone() }, json!({}), json!({}));
    let digest = digest.unwrap();
    assert_eq!(digest.len(), 32);
    let moved = json!({ SHA256.to_string(): { "movePrecompileToAddress": WHO } });
    assert_eq!(ask(&world, &request, moved.clone(), json!({})).unwrap(), digest);
    let left = CallRequest { to: Some(SHA256), ..request };
    assert_eq!(ask(&world, &left, moved, json!({})).unwrap(), Bytes::new());
}

#[test]
fn a_wish_that_cannot_be_fulfilled_is_refused() {
    let world = World::new();
    let refuse = |state: Value, block: Value| {
        let Err(CallError::Override(refused)) = ask(&world, &to(STORE), state, block) else {
            panic!("it is refused");
        };
        refused
    };
    let nobody = json!({ WHO.to_string(): { "movePrecompileToAddress": STORE } });
    assert_eq!(refuse(nobody, json!({})), InvalidOverride::NotAPrecompile(WHO));
    let twice = json!({
        SHA256.to_string(): { "movePrecompileToAddress": WHO }, WHO.to_string(): { "nonce": "0x1" },
    });
    assert_eq!(refuse(twice, json!({})), InvalidOverride::AlreadyOverridden(WHO));
    let both = json!({ WHO.to_string(): { "state": {}, "stateDiff": {} } });
    assert_eq!(refuse(both, json!({})), InvalidOverride::StateAndDiff(WHO));
    let large = json!({ "number": U256::MAX });
    assert_eq!(refuse(json!({}), large), InvalidOverride::TooLarge("number"));
    let root = json!({ "beaconRoot": B256::ZERO });
    assert_eq!(refuse(json!({}), root), InvalidOverride::Unsupported("beaconRoot"));
}

#[test]
fn an_access_list_names_what_is_cold_otherwise() {
    let world = World::new();
    let context = BlockContext::from(&world.parent);
    let list = |request: &CallRequest| {
        create_access_list(&world.spec, &context, &overlay(&world), request).unwrap()
    };
    let request = CallRequest { data: [word(3), word(4)].concat().into(), ..to(STORE) };
    let stored = list(&request);
    assert_eq!(stored.access_list.0.len(), 1);
    assert_eq!(stored.access_list.0[0].address, STORE);
    assert_eq!(stored.access_list.0[0].storage_keys, [B256::from(word(3))]);
    assert_eq!(stored.error, None);
    // What is answered is what the call uses with that list.
    let warm = CallRequest { access_list: Some(stored.access_list), ..request };
    let used = call(&world.spec, &context, overlay(&world), &warm).unwrap().gas_used;
    assert_eq!(stored.gas_used, U256::from(used));

    assert!(list(&to(WHO)).access_list.0.is_empty());
    let reverted = list(&to(REVERT));
    assert_eq!(reverted.error.as_deref(), Some("execution reverted"));
    assert_eq!(reverted.access_list.0[0].storage_keys, [B256::ZERO]);
    // A created contract is not named, nor who creates it.
    let creation = CallRequest { data: common::EPHEMERAL.into(), ..to(FACTORY) };
    assert!(list(&creation).access_list.0.iter().all(|item| item.address != FACTORY));
}

#[test]
fn an_access_list_that_never_settles_costs_little_more_than_a_call() {
    let world = World::new();
    let context = BlockContext::from(&world.parent);
    // The longer the list, the less gas is left, and the less is left, the more slots it reads. In
    // the end it burns the rest.
    let slots = |gas: u32, named: Option<u64>| {
        let less = (gas - 50_000).to_be_bytes();
        let count = [&[0x5a, 0x63][..], &less, &[0x03, 0x61, 0x07, 0x6c, 0x90, 0x04]].concat();
        let read = [0x5b, 0x80, 0x54, 0x50, 0x60, 1, 0x90, 0x03, 0x80, 0x60, 12, 0x57, 0xfe];
        let data = [count.as_slice(), &read].concat().into();
        let request = CallRequest { to: None, gas: named, data, ..to(WHO) };
        let found = create_access_list(&world.spec, &context, &overlay(&world), &request).unwrap();
        assert!(found.error.is_some());
        found.access_list.0.iter().map(|item| item.storage_keys.len()).sum::<usize>()
    };
    assert_eq!(slots(50_000_000, None), 1);
    assert_eq!(slots(1_000_000, Some(1_000_000)), 43);
}

fn run(world: &World, request: Value) -> Result<Vec<SimulatedBlock>, SimulateError> {
    let request: SimulateRequest = serde_json::from_value(request).unwrap();
    let mut state = world.state.clone();
    let state_root = |diff: &_| {
        state.apply(diff);
        root(&state)
    };
    simulate(&world.spec, &world.parent, overlay(world), &request, state_root)
}

#[test]
fn validation_refuses_what_no_block_could_hold() {
    let world = World::new();
    let from = signer(1).address();
    let code = |call: Value, gas_limit: &str| {
        let block = json!({ "calls": [call], "blockOverrides": { "gasLimit": gas_limit } });
        run(&world, json!({ "blockStateCalls": [block], "validation": true })).unwrap_err().code()
    };
    let call = |extra: Value| {
        let mut call = json!({ "from": from, "to": WHO, "maxFeePerGas": "0x77359400" });
        call.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        call
    };
    let limit = "0x1c9c380";
    assert_eq!(code(call(json!({ "nonce": "0x1" })), limit), -38_011);
    assert_eq!(code(call(json!({ "maxFeePerGas": "0x1" })), limit), -38_012);
    assert_eq!(code(call(json!({ "gas": "0x5207" })), limit), -38_013);
    assert_eq!(code(call(json!({ "value": U256::MAX })), limit), -38_014);
    assert_eq!(code(call(json!({ "gas": "0x5209" })), "0x5208"), -38_015);
    let initcode = Bytes::from(vec![0; 49_153]);
    let create = json!({ "from": from, "maxFeePerGas": "0x77359400", "input": initcode });
    assert_eq!(code(create, limit), -38_025);

    let again = json!([call(json!({})), call(json!({ "nonce": "0x0" }))]);
    let request = json!({ "blockStateCalls": [{ "calls": again }], "validation": true });
    assert_eq!(run(&world, request).unwrap_err().code(), -38_010);
    assert_eq!(run(&world, json!({ "blockStateCalls": [] })).unwrap_err().code(), -32_602);
}

#[test]
fn a_simulated_block_pays_its_withdrawals_and_remembers_the_one_before() {
    let world = World::new();
    let paid = json!({ "index": "0x0", "validatorIndex": "0x0", "address": WHO, "amount": "0x2" });
    let ask = json!({ WHO.to_string(): { "code": "0x600143034060005260206000f3" } });
    let request = json!({ "blockStateCalls": [
        { "blockOverrides": { "withdrawals": [paid] }, "stateOverrides": ask },
        { "calls": [{ "to": WHO }, { "from": WHO, "to": STORE, "value": "0x77359400" }] },
    ] });
    let blocks = run(&world, request).unwrap();
    let calls = &blocks[1].calls;
    assert_eq!(calls[0].return_data, Bytes::from(blocks[0].block.hash));
    assert!(calls[1].success);
    assert_eq!(blocks[0].block.withdrawals.as_ref().unwrap().len(), 1);
    assert_ne!(blocks[0].block.header.withdrawals_root, blocks[1].block.header.withdrawals_root);
}

#[test]
fn a_simulation_asks_for_state_until_it_has_it() {
    let world = World::new();
    let call = json!({ "to": STORE, "input": Bytes::from([word(1), word(2)].concat()) });
    let request: SimulateRequest =
        serde_json::from_value(json!({ "blockStateCalls": [{ "calls": [call] }] })).unwrap();
    let cache = StateCache::new(0, world.spec.genesis_hash(), 10_000);
    let blocks = loop {
        let overlay = Overlay::new(cache.clone());
        match simulate(&world.spec, &world.parent, overlay, &request, |_| B256::ZERO) {
            Err(SimulateError::NeedState(keys)) => fetch_all(&cache, &world.state, &keys),
            blocks => break blocks.unwrap(),
        }
    };
    let complete = simulate(&world.spec, &world.parent, overlay(&world), &request, |_| B256::ZERO);
    assert_eq!(blocks, complete.unwrap());
}

#[test]
fn the_code_that_the_chain_itself_calls_stays_what_it_is() {
    let world = World::new();
    let history = alloy_eips::eip2935::HISTORY_STORAGE_ADDRESS;
    let burn = json!({ "code": "0x5b5f56" });
    let simulated = |address: Address| {
        let block = json!({ "stateOverrides": { address.to_string(): burn } });
        run(&world, json!({ "blockStateCalls": [block] }))
    };
    assert!(simulated(WHO).is_ok());
    let error = simulated(history).unwrap_err();
    assert!(matches!(error, SimulateError::CalledByTheChain(address) if address == history));
}

#[test]
fn a_simulated_block_of_berachain_begins_with_the_chains_own_transaction() {
    let world = World::with_config(|config| {
        let prague1 = json!({
            "time": 0, "baseFeeChangeDenominator": 48, "minimumBaseFeeWei": GWEI as u64,
            "polDistributorAddress": GAUGE,
        });
        let prague2 = json!({ "time": 0, "minimumBaseFeeWei": 0 });
        config.insert("berachain".to_owned(), json!({ "prague1": prague1, "prague2": prague2 }));
    });
    let call = json!({ "to": STORE, "input": Bytes::from([word(1), word(2)].concat()) });
    let request = json!({
        "blockStateCalls": [{ "calls": [call] }, {}], "returnFullTransactions": true,
    });
    let blocks = run(&world, request).unwrap();
    let shown = serde_json::to_value(&blocks[0]).unwrap();
    assert_eq!(shown["transactions"].as_array().unwrap().len(), 2);
    assert_eq!(shown["transactions"][0]["type"], "0x7e");
    assert_eq!(blocks[0].calls.len(), 1);
    assert_eq!(blocks[0].calls[0].logs[0].transaction_index, Some(1));
    assert!(blocks[1].block.header.prev_proposer_pubkey.is_some());
}
