//! A Berachain node: every block begins with the chain's own transaction, made from the key of the
//! previous block's proposer.

use std::sync::Arc;

use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_rpc_types_engine::ForkchoiceState;
use preconf_chain::rpc::{RpcBlock, RpcReceipt};
use preconf_chain::{ChainSpec, ProposerPublicKey, TxEnvelope};
use preconf_devnet::client::ClientConfig;
use preconf_engine::BerachainAttributes;
use preconf_engine::rpc::code;
use serde_json::{Value, json};

use crate::harness::*;

const DISTRIBUTOR: &str = "0x4200000000000000000000000000000000000042";

/// Prague1 from the start, with a distributor that logs.
fn spec() -> Arc<ChainSpec> {
    spec_of(&genesis_of(0))
}

fn spec_of(genesis: &Value) -> Arc<ChainSpec> {
    Arc::new(ChainSpec::from_genesis_json(&genesis.to_string()).unwrap())
}

/// The same with another time of Prague1.
fn genesis_of(prague1: u64) -> Value {
    let mut genesis = genesis(json!(0));
    genesis["config"]["berachain"] = json!({
        "prague1": {
            "time": prague1, "baseFeeChangeDenominator": 48, "minimumBaseFeeWei": 1_000_000_000,
            "polDistributorAddress": DISTRIBUTOR,
        },
        "prague2": { "time": prague1, "minimumBaseFeeWei": 0 },
    });
    genesis["alloc"][DISTRIBUTOR] = json!({ "balance": "0x0", "code": "0x60006000a0" });
    genesis
}

#[tokio::test]
async fn a_block_built_for_a_proposers_key_is_valid_with_that_key_and_no_other() {
    let (builder, other) = (
        Node::with(spec(), ClientConfig::default()).await,
        Node::with(spec(), ClientConfig::default()).await,
    );
    builder.send(&transfer(1, 0, Address::repeat_byte(0x77), 5)).await;
    let key = ProposerPublicKey::repeat_byte(0x95);
    let wanted = BerachainAttributes { attributes: attributes(102), parent_proposer_pubkey: key };
    let state =
        ForkchoiceState { head_block_hash: builder.genesis(), ..ForkchoiceState::default() };
    let answer = builder.engine.fork_choice_updated_v3_p11(state, Some(&wanted), DEADLINE).await;
    let id = answer.unwrap().payload_id.unwrap();
    let envelope = builder.engine.get_payload_v4_p11(id, DEADLINE).await.unwrap();
    assert_eq!(transactions_of(&envelope).len(), 2);

    let payload = payload_of(&envelope);
    let requests: Vec<Bytes> = envelope.execution_requests.iter().cloned().collect();
    let root = beacon_root(102);
    let wrong = ProposerPublicKey::repeat_byte(0x96);
    for (key, valid) in [(wrong, false), (key, true)] {
        let engine = &other.engine;
        let status = engine.new_payload_v4_p11(payload, &[], root, &requests, &key, DEADLINE).await;
        assert_eq!(status.unwrap().is_valid(), valid);
    }
    let head = hash_of(&envelope);
    other.make_head(head).await;
    assert_eq!(other.client.balance(Address::repeat_byte(0x77)), U256::from(5));
    let block: RpcBlock = other.call("eth_getBlockByNumber", ("latest", true)).await;
    assert_eq!((block.hash, block.header.prev_proposer_pubkey), (head, Some(key)));
    let (checked, _) = block.to_block().unwrap();
    assert!(matches!(checked.body.transactions[0], TxEnvelope::Pol(_)));
    let receipts: Vec<RpcReceipt> = other.call("eth_getBlockReceipts", [head]).await;
    assert_eq!((receipts[0].gas_used, receipts[0].logs.len()), (0, 1));
}

#[tokio::test]
async fn the_deposit_contract_is_the_one_that_the_chain_reads() {
    let mut genesis = genesis_of(0);
    genesis["config"].as_object_mut().unwrap().remove("depositContractAddress");
    let node = Node::with(spec_of(&genesis), ClientConfig::default()).await;
    let config: Value = node.call("eth_config", [0; 0]).await;
    let named = &config["current"]["systemContracts"]["DEPOSIT_CONTRACT_ADDRESS"];
    assert_eq!(named, "0x4242424242424242424242424242424242424242");
}

#[tokio::test]
async fn before_prague1_attributes_with_a_proposers_key_are_refused() {
    let node = Node::with(spec_of(&genesis_of(1_000)), ClientConfig::default()).await;
    let state = ForkchoiceState { head_block_hash: node.genesis(), ..ForkchoiceState::default() };
    let key = ProposerPublicKey::repeat_byte(0x95);
    let keyed = BerachainAttributes { attributes: attributes(102), parent_proposer_pubkey: key };
    let method = "engine_forkchoiceUpdatedV3";
    let refusal = node.engine.request::<_, Value>(method, &(state, keyed), DEADLINE).await;
    assert_eq!(refused(refusal).code, code::INVALID_PARAMS);
    let keyless = attributes(102);
    let answer = node.engine.fork_choice_updated_v3(state, Some(&keyless), DEADLINE).await;
    assert!(answer.unwrap().payload_id.is_some());
}

#[tokio::test]
async fn each_chain_offers_the_methods_that_its_blocks_can_need() {
    let (ours, method) = (["engine_newPayloadV4"], |name: &str| name.to_owned());
    let (berachain, ethereum) = (spec(), crate::harness::spec());
    for (spec, offered, other) in [
        (berachain, "engine_getPayloadV4P11", "engine_getPayloadV5"),
        (ethereum, "engine_getPayloadV5", "engine_getPayloadV4P11"),
    ] {
        let node = Node::with(spec, ClientConfig::default()).await;
        let known = node.engine.exchange_capabilities(&ours, DEADLINE).await.unwrap();
        assert!(known.contains(&method(offered)), "{known:?}");
        assert!(!known.contains(&method(other)), "{known:?}");
        let is_ethereum = other.ends_with("P11");
        assert_eq!(known.contains(&method("engine_newPayloadV2")), is_ethereum, "{known:?}");
    }
}

#[tokio::test]
async fn the_methods_of_ethereum_are_for_another_fork() {
    let node = Node::with(spec(), ClientConfig::default()).await;
    let state = ForkchoiceState { head_block_hash: node.genesis(), ..ForkchoiceState::default() };
    let ethereum = attributes(102);
    let refusal = node.engine.fork_choice_updated_v3(state, Some(&ethereum), DEADLINE).await;
    assert_eq!(refused(refusal).code, code::UNSUPPORTED_FORK);
    let keyless = (state, &ethereum);
    let refusal =
        node.engine.request::<_, B256>("engine_forkchoiceUpdatedV3P11", &keyless, DEADLINE);
    assert_eq!(refused(refusal.await).code, code::INVALID_PARAMS);
}
