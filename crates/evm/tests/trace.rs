//! Traces show what the executor did, and only offer what they can show.

#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use alloy_consensus::TxEip1559;
use alloy_primitives::{Address, Bytes, TxKind, U256};
use alloy_rpc_types_trace::geth::GethDebugTracingOptions;
use preconf_chain::{ProposerPublicKey, Transaction};
use preconf_evm::{
    BlockContext, NextBlock, Paused,
    call::CallRequest,
    trace::{TraceError, TracedBlock, trace_block, trace_call, trace_transaction},
};
use preconf_state::{MemoryState, Overlay};
use serde_json::{Value, json};

use common::{BURN, CHAIN_ID, FACTORY, GAUGE, GWEI, REVERT, STORE, World, sign, signer, word};

/// Runs each call of a list of one sender.
fn transactions(calls: &[(Address, Vec<u8>)]) -> Vec<Transaction> {
    let transaction = |(nonce, (to, input)): (u64, &(Address, Vec<u8>))| {
        let transaction = TxEip1559 {
            chain_id: CHAIN_ID,
            nonce,
            gas_limit: 200_000,
            max_fee_per_gas: 2 * GWEI,
            to: TxKind::Call(*to),
            input: input.clone().into(),
            ..TxEip1559::default()
        };
        sign(&signer(1), transaction)
    };
    (0..).zip(calls).map(transaction).collect()
}

fn store(slot: u64, value: u64) -> (Address, Vec<u8>) {
    (STORE, [word(slot), word(value)].concat())
}

fn options(json: Value) -> GethDebugTracingOptions {
    serde_json::from_value(json).unwrap()
}

fn block<'a>(world: &'a World, transactions: &'a [Transaction]) -> TracedBlock<'a, MemoryState> {
    TracedBlock {
        spec: &world.spec,
        environment: world.next_block(),
        hash: None,
        transactions,
        overlay: Overlay::new(world.state.clone()),
    }
}

fn trace(world: &World, transactions: &[Transaction], index: usize, json: Value) -> Value {
    let trace = trace_transaction(block(world, transactions), index, &options(json)).unwrap();
    serde_json::to_value(trace).unwrap()
}

#[test]
fn a_transaction_is_traced_on_what_those_before_it_left() {
    let world = World::new();
    let sent = transactions(&[store(7, 1), store(7, 2), (REVERT, Vec::new())]);
    let mut running =
        Paused::begin(world.spec.clone(), world.next_block(), Overlay::new(world.state.clone()))
            .unwrap()
            .resume();
    let gas: Vec<_> = sent.iter().map(|tx| running.execute(tx).unwrap().gas_used).collect();

    let all = trace_block(block(&world, &sent), &options(json!({}))).unwrap();
    let all = serde_json::to_value(all).unwrap();
    for (index, gas) in gas.iter().enumerate() {
        assert_eq!(all[index]["txHash"], json!(sent[index].hash()));
        assert_eq!(all[index]["result"]["gas"], json!(gas));
        assert_eq!(all[index]["result"], trace(&world, &sent, index, json!({})));
    }
    assert_eq!(all[1]["result"]["failed"], false);
    assert_eq!(all[2]["result"]["failed"], true);
    let slots = json!({ "tracer": "prestateTracer", "tracerConfig": { "diffMode": true } });
    let diff = trace(&world, &sent, 1, slots);
    let key = STORE.to_string().to_lowercase();
    let slot = format!("{:#066x}", 7);
    assert_eq!(diff["pre"][&key]["storage"][&slot], format!("{:#066x}", 1));
    assert_eq!(diff["post"][&key]["storage"][&slot], format!("{:#066x}", 2));
}

#[test]
fn each_step_shows_what_was_asked_for() {
    let world = World::new();
    let sent = transactions(&[store(7, 1)]);
    let usual = trace(&world, &sent, 0, json!({}));
    let steps = usual["structLogs"].as_array().unwrap();
    let stored = steps.iter().find(|step| step["op"] == "SSTORE").unwrap();
    assert_eq!(stored["storage"].as_object().unwrap().len(), 1);
    assert_eq!(stored["stack"], json!(["0x1", "0x7"]));
    assert!(steps.iter().all(|step| step.get("memory").is_none()));

    let with = json!({ "enableMemory": true, "disableStack": true, "disableStorage": true });
    let other = trace(&world, &sent, 0, with);
    let steps = other["structLogs"].as_array().unwrap();
    assert!(steps.iter().any(|step| step.get("memory").is_some()));
    assert!(steps.iter().all(|s| s.get("stack").is_none() && s.get("storage").is_none()));
    let short = trace(&world, &sent, 0, json!({ "limit": 2 }));
    assert_eq!(short["structLogs"].as_array().unwrap().len(), 2);
}

#[test]
fn the_tracers_that_are_offered_show_calls_and_selectors() {
    let world = World::new();
    // Creates a contract, and calls it.
    let sent = transactions(&[(FACTORY, common::EPHEMERAL.to_vec()), store(1, 2)]);
    let calls = trace(&world, &sent, 0, json!({ "tracer": "callTracer" }));
    let kinds: Vec<_> = calls["calls"].as_array().unwrap().iter().map(|c| &c["type"]).collect();
    assert_eq!(kinds, ["CREATE2", "CALL"]);
    let top = json!({ "tracer": "callTracer", "tracerConfig": { "onlyTopCall": true } });
    assert!(trace(&world, &sent, 0, top).get("calls").is_none());
    let logs = json!({ "tracer": "callTracer", "tracerConfig": { "withLog": true } });
    assert_eq!(trace(&world, &sent, 1, logs)["logs"].as_array().unwrap().len(), 1);
    let selectors = trace(&world, &sent, 1, json!({ "tracer": "4byteTracer" }));
    assert_eq!(selectors, json!({ "0x00000000-60": 1 }));
    assert_eq!(trace(&world, &sent, 1, json!({ "tracer": "noopTracer" })), json!({}));
}

#[test]
fn flat_calls_name_their_place_in_the_chain() {
    let world = World::new();
    let sent = transactions(&[store(1, 2), (FACTORY, common::EPHEMERAL.to_vec())]);
    let calls = trace(&world, &sent, 1, json!({ "tracer": "flatCallTracer" }));
    let calls = calls.as_array().unwrap();
    let places: Vec<_> = calls.iter().map(|call| (&call["type"], &call["traceAddress"])).collect();
    // What it creates, calls, and thereby destroys.
    let expected = [
        (json!("call"), json!([])),
        (json!("create"), json!([0])),
        (json!("call"), json!([1])),
        (json!("suicide"), json!([1, 0])),
    ];
    assert_eq!(places, expected.each_ref().map(|(kind, place)| (kind, place)));
    for call in calls {
        assert_eq!(call["transactionPosition"], json!(1));
        assert_eq!(call["transactionHash"], json!(sent[1].hash()));
        assert_eq!(call["blockNumber"], json!(block(&world, &sent).environment.number));
    }
}

#[test]
fn several_tracers_show_what_each_alone_would() {
    let world = World::new();
    let sent = transactions(&[store(1, 2)]);
    let both = json!({ "callTracer": { "withLog": true }, "4byteTracer": null });
    let both = json!({ "tracer": "muxTracer", "tracerConfig": both });
    let both = trace(&world, &sent, 0, both);
    let calls = json!({ "tracer": "callTracer", "tracerConfig": { "withLog": true } });
    assert_eq!(both["callTracer"], trace(&world, &sent, 0, calls));
    let selectors = json!({ "tracer": "4byteTracer" });
    assert_eq!(both["4byteTracer"], trace(&world, &sent, 0, selectors));
}

#[test]
fn a_tracer_that_is_not_offered_is_refused_by_its_name() {
    let world = World::new();
    let sent = transactions(&[store(7, 1)]);
    for name in ["erc7562Tracer", "{ step: function() {} }"] {
        let refused = trace_block(block(&world, &sent), &options(json!({ "tracer": name })));
        let Err(TraceError::UnknownTracer(refused)) = refused else { panic!("it is refused") };
        assert_eq!(refused, name);
    }
    let beyond = trace_transaction(block(&world, &sent), 1, &options(json!({})));
    assert!(matches!(beyond, Err(TraceError::NoTransaction(1))));
}

#[test]
fn a_trace_that_would_be_too_large_stops() {
    let world = World::new();
    let context = BlockContext::from(&world.parent);
    let request = CallRequest { to: Some(BURN), ..CallRequest::default() };
    let trace = |json: Value| {
        let overlay = Overlay::new(world.state.clone());
        trace_call(&world.spec, &context, overlay, &request, &options(json))
    };
    assert!(matches!(trace(json!({})), Err(TraceError::TooLarge)));
    assert!(trace(json!({ "tracer": "callTracer" })).is_ok());
}

#[test]
fn a_deep_stack_counts_at_each_step() {
    let world = World::new();
    let context = BlockContext::from(&world.parent);
    // A thousand words, and then round and round: far fewer steps than are recorded at most.
    let code = [[0x5f; 1_000].as_slice(), &[0x5b, 0x61, 0x03, 0xe8, 0x56]].concat();
    let request = CallRequest { data: code.into(), gas: Some(1_000_000), ..CallRequest::default() };
    let trace = |json: Value| {
        let overlay = Overlay::new(world.state.clone());
        trace_call(&world.spec, &context, overlay, &request, &options(json))
    };
    assert!(matches!(trace(json!({})), Err(TraceError::TooLarge)));
    assert!(trace(json!({ "disableStack": true })).is_ok());
}

#[test]
fn storage_and_return_data_count_at_each_step_that_shows_them() {
    let world = World::new();
    let context = BlockContext::from(&world.parent);
    let trace = |code: &[u8], gas: u64, json: Value| {
        let overlay = Overlay::new(world.state.clone());
        let data = code.to_vec().into();
        let request = CallRequest { data, gas: Some(gas), ..CallRequest::default() };
        trace_call(&world.spec, &context, overlay, &request, &options(json))
    };
    // Reads slot after slot, with the number of the last on the stack.
    let read = [0x5f, 0x5b, 0x80, 0x54, 0x50, 0x60, 0x01, 0x01, 0x60, 0x01, 0x56];
    let (with, without) = (json!({}), json!({ "disableStorage": true }));
    assert!(matches!(trace(&read, 20_000_000, with), Err(TraceError::TooLarge)));
    assert!(trace(&read, 20_000_000, without).is_ok());
    // Has 64 KiB returned by the identity contract, and then goes round and round.
    let call = [0x5f, 0x5f, 0x62, 0x01, 0, 0, 0x5f, 0x60, 0x04, 0x62, 0x0f, 0xff, 0xff, 0xfa];
    let round = [0x5b, 0x60, call.len() as u8, 0x56];
    let code = [call.as_slice(), &round].concat();
    let (with, without) = (json!({ "enableReturnData": true }), json!({}));
    assert!(matches!(trace(&code, 200_000, with), Err(TraceError::TooLarge)));
    assert!(trace(&code, 200_000, without).is_ok());
}

#[test]
fn the_calls_of_all_transactions_of_a_block_count_together() {
    let world = World::new();
    // Hands 128 KiB to the identity contract, which returns them, again and again.
    let call = [0x5b, 0x5f, 0x5f, 0x62, 0x02, 0, 0, 0x5f, 0x60, 0x04, 0x62, 0x0f, 0xff, 0xff, 0xfa];
    let code = Bytes::from([call.as_slice(), &[0x50, 0x5f, 0x56]].concat());
    let create = |nonce| {
        let transaction = TxEip1559 {
            chain_id: CHAIN_ID,
            nonce,
            // Each call costs some 12,500 and shows 256 KiB.
            gas_limit: 8_000_000,
            max_fee_per_gas: 2 * GWEI,
            to: TxKind::Create,
            input: code.clone(),
            ..TxEip1559::default()
        };
        sign(&signer(1), transaction)
    };
    let sent = [create(0), create(1)];
    let options = options(json!({ "tracer": "callTracer" }));
    assert!(trace_block(block(&world, &sent[..1]), &options).is_ok());
    assert!(matches!(trace_block(block(&world, &sent), &options), Err(TraceError::TooLarge)));
}

#[test]
fn a_call_that_nobody_sent_is_traced() {
    let world = World::new();
    let data: Bytes = store(7, 1).1.into();
    let request = CallRequest { to: Some(STORE), data, ..CallRequest::default() };
    let context = BlockContext::from(&world.parent);
    let overlay = Overlay::new(world.state.clone());
    let tracer = options(json!({ "tracer": "callTracer" }));
    let trace = trace_call(&world.spec, &context, overlay, &request, &tracer).unwrap();
    let trace = serde_json::to_value(trace).unwrap();
    assert_eq!(trace["to"], json!(STORE));
    assert_eq!(trace["from"], json!(Address::ZERO));
}

#[test]
fn the_chains_own_transaction_is_traced_as_the_call_it_is() {
    let world = World::with_config(|config| {
        let prague1 = json!({
            "time": 0, "baseFeeChangeDenominator": 48, "minimumBaseFeeWei": GWEI as u64,
            "polDistributorAddress": GAUGE,
        });
        let prague2 = json!({ "time": 0, "minimumBaseFeeWei": 0 });
        config.insert("berachain".to_owned(), json!({ "prague1": prague1, "prague2": prague2 }));
    });
    let environment = NextBlock {
        prev_proposer_pubkey: Some(ProposerPublicKey::repeat_byte(0x95)),
        ..world.next_block()
    };
    let overlay = Overlay::new(world.state.clone());
    let begun = Paused::begin(world.spec.clone(), environment.clone(), overlay).unwrap();
    let mut sent = begun.transactions().to_vec();
    assert_eq!(sent.len(), 1);
    sent.extend(transactions(&[store(7, 1)]));
    let traced = |json: Value| {
        let block = TracedBlock { environment: environment.clone(), ..block(&world, &sent) };
        serde_json::to_value(trace_block(block, &options(json)).unwrap()).unwrap()
    };

    let calls = traced(json!({ "tracer": "callTracer" }));
    assert_eq!(calls[0]["txHash"], json!(sent[0].hash()));
    assert_eq!(calls[0]["result"]["to"], json!(GAUGE));
    assert_eq!(calls[1]["result"]["to"], json!(STORE));
    let steps = traced(json!({}));
    let first = &steps[0]["result"]["structLogs"][0];
    assert_eq!((&first["op"], &first["gas"]), (&json!("GAS"), &json!(30_000_000)));
    let slots = traced(json!({ "tracer": "prestateTracer", "tracerConfig": { "diffMode": true } }));
    let key = GAUGE.to_string().to_lowercase();
    let left = U256::from(30_000_000 - 2);
    let shown = &slots[0]["result"]["post"][&key]["storage"][format!("{:#066x}", 0)];
    assert_eq!(*shown, format!("{left:#066x}"));
}
