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
use serde_json::json;

use crate::harness::*;

const DISTRIBUTOR: &str = "0x4200000000000000000000000000000000000042";

/// Prague1 from the start, with a distributor that logs.
fn spec() -> Arc<ChainSpec> {
    let mut genesis = genesis(json!(0));
    genesis["config"]["berachain"] = json!({
        "prague1": {
            "time": 0, "baseFeeChangeDenominator": 48, "minimumBaseFeeWei": 1_000_000_000,
            "polDistributorAddress": DISTRIBUTOR,
        },
        "prague2": { "time": 0, "minimumBaseFeeWei": 0 },
    });
    genesis["alloc"][DISTRIBUTOR] = json!({ "balance": "0x0", "code": "0x60006000a0" });
    Arc::new(ChainSpec::from_genesis_json(&genesis.to_string()).unwrap())
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
