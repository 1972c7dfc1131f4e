//! Blocks are built, taken by somebody else, and are what they seem.

use alloy_consensus::TxEip1559;
use alloy_eips::eip4895::Withdrawal;
use alloy_eips::eip7002::WITHDRAWAL_REQUEST_PREDEPLOY_ADDRESS;
use alloy_eips::eip7685::Requests;
use alloy_primitives::{Address, B256, TxKind, U256};
use alloy_rpc_types_engine::{ExecutionPayloadEnvelopeV4, PayloadAttributes, PayloadStatusEnum};
use preconf_chain::Transaction;
use preconf_devnet::client::ClientConfig;
use preconf_engine::rpc::code;
use serde_json::json;

use crate::harness::*;

/// A transfer, a creation, a call of what was created, and a creation that reverts.
fn mixed() -> Vec<Transaction> {
    let contract = signer(2).address().create(0);
    vec![
        transfer(1, 0, Address::repeat_byte(0x77), 5),
        create(2, 0, STORE),
        call(2, 1, contract, 9),
        create(3, 0, REVERT),
    ]
}

#[tokio::test]
async fn a_chain_built_by_one_client_is_valid_to_another() {
    let (builder, other) = (Node::start().await, Node::start().await);
    for transaction in mixed() {
        builder.send(&transaction).await;
    }
    let first = builder.advance().await;
    assert_eq!(transactions_of(&first).len(), 4);
    builder.send(&transfer(1, 1, Address::repeat_byte(0x78), 6)).await;
    let second = builder.advance().await;
    let third = builder.advance().await;

    for envelope in [&first, &second, &third] {
        other.import(envelope).await;
    }
    let (ours, theirs) = (builder.client.head(), other.client.head());
    assert_eq!((ours.number(), ours.hash), (3, hash_of(&third)));
    assert_eq!((ours.hash, &ours.block), (theirs.hash, &theirs.block));
    assert_eq!(other.client.balance(Address::repeat_byte(0x77)), U256::from(5));
    assert_eq!(other.client.balance(Address::repeat_byte(0x78)), U256::from(6));
    let contract = signer(2).address().create(0);
    assert_eq!(other.client.slot(contract, U256::ZERO), U256::from(9));
    let successes = |hash| -> Vec<bool> {
        other.client.receipts(hash).unwrap().iter().map(|receipt| receipt.success).collect()
    };
    let block = other.client.block_by_number(1).unwrap();
    let reverted = block.transactions.iter().position(|tx| tx.signer() == signer(3).address());
    let expected: Vec<bool> = (0..4).map(|index| Some(index) != reverted).collect();
    assert_eq!(successes(block.hash), expected);
    // Its own transactions are no longer waiting.
    assert_eq!(builder.client.waiting(), 0);
}

#[tokio::test]
async fn the_value_of_a_payload_is_what_its_fee_recipient_gets() {
    let node = Node::start().await;
    for transaction in mixed() {
        node.send(&transaction).await;
    }
    let envelope = node.advance().await;
    let earned = node.client.balance(attributes(0).suggested_fee_recipient);
    assert!(earned > U256::ZERO);
    assert_eq!(envelope.envelope_inner.block_value, earned);
}

#[tokio::test]
async fn a_payload_stays_the_same_however_often_it_is_fetched() {
    let node = Node::start().await;
    node.send(&transfer(1, 0, Address::ZERO, 1)).await;
    let attributes = attributes(102);
    let answer = node.forkchoice(node.genesis(), Some(&attributes)).await;
    let id = answer.payload_id.unwrap();
    let first = node.engine.get_payload_v4(id, DEADLINE).await.unwrap();
    node.send(&transfer(1, 1, Address::ZERO, 1)).await;
    let again = node.engine.get_payload_v4(id, DEADLINE).await.unwrap();
    assert_eq!(first, again);
    // Asked for once more, it is built of what waits by now.
    let anew = node.payload(node.genesis(), &attributes).await;
    assert_eq!((transactions_of(&first).len(), transactions_of(&anew).len()), (1, 2));
}

#[tokio::test]
async fn a_block_of_given_transactions_is_the_block_built_of_the_pool() {
    let (builder, other) = (Node::start().await, Node::start().await);
    for transaction in mixed() {
        builder.send(&transaction).await;
    }
    let attributes = attributes(102);
    let own = builder.payload(builder.genesis(), &attributes).await;
    let given = (builder.genesis(), &attributes, transactions_of(&own), None::<B256>);
    let built: ExecutionPayloadEnvelopeV4 = other.call("testing_buildBlockV1", given).await;
    assert_eq!(built, own);
    assert_eq!(transactions_of(&built).len(), 4);
    assert_eq!(other.import(&built).await, other.client.head().hash);
}

#[tokio::test]
async fn given_transactions_are_executed_in_their_order_and_the_one_that_fails_is_named() {
    let node = Node::start().await;
    let (first, second) = (transfer(1, 0, Address::ZERO, 1), transfer(1, 1, Address::ZERO, 1));
    let build = async |transactions: &[&Transaction]| {
        let encoded: Vec<_> = transactions.iter().map(|tx| tx.encoded()).collect();
        let params = (node.genesis(), attributes(102), encoded, "0x1234");
        node.rpc
            .request::<_, ExecutionPayloadEnvelopeV4>("testing_buildBlockV1", &params, DEADLINE)
            .await
    };
    let built = build(&[&first, &second]).await.unwrap();
    let payload = &payload_of(&built).payload_inner.payload_inner;
    assert_eq!(payload.extra_data.to_string(), "0x1234");
    assert_eq!(payload.transactions, [first.encoded().clone(), second.encoded().clone()]);
    let refusal = refused(build(&[&second, &first]).await);
    assert_eq!(refusal.code, -32000);
    let named = format!("executing transaction 0 ({})", second.hash());
    assert!(refusal.message.starts_with(&named), "{refusal}");
    assert!(refusal.message.contains("nonce 1 is too high"), "{refusal}");
    // Nothing that is built enters the chain by itself.
    assert_eq!(node.client.head().number(), 0);
}

#[tokio::test]
async fn the_gas_limit_moves_toward_the_target() {
    let node = Node::start().await;
    let limit = |envelope: &ExecutionPayloadEnvelopeV4| {
        payload_of(envelope).payload_inner.payload_inner.gas_limit
    };
    let first = node.advance().await;
    assert_eq!(limit(&first), 30_000_000 + 30_000_000 / 1024 - 1);
    assert!(limit(&node.advance().await) > limit(&first));
}

#[tokio::test]
async fn a_blob_transaction_is_valid_only_with_its_versioned_hash() {
    let node = Node::start().await;
    let versioned_hash = B256::with_last_byte(1) | B256::from(U256::from(1) << 248);
    let transaction = blob_transaction(1, 0, versioned_hash);
    let params = (node.genesis(), attributes(102), [transaction.encoded()], None::<B256>);
    let built: ExecutionPayloadEnvelopeV4 = node.call("testing_buildBlockV1", params).await;
    assert_eq!(payload_of(&built).blob_gas_used, 131_072);
    let without = node.new_payload(&built, &[]).await;
    assert!(matches!(without.status, PayloadStatusEnum::Invalid { .. }), "{without:?}");
    let with = node.new_payload(&built, &[versioned_hash]).await;
    assert!(with.is_valid(), "{with:?}");
}

#[tokio::test]
async fn withdrawals_are_paid() {
    let node = Node::start().await;
    let withdrawal =
        Withdrawal { amount: 3, address: Address::repeat_byte(5), ..Default::default() };
    let attributes = PayloadAttributes { withdrawals: Some(vec![withdrawal]), ..attributes(102) };
    let envelope = node.payload(node.genesis(), &attributes).await;
    node.import(&envelope).await;
    assert_eq!(node.client.balance(withdrawal.address), U256::from(3 * GWEI));
}

#[tokio::test]
async fn requests_to_the_consensus_layer_go_with_the_payload() {
    let node = Node::start().await;
    let request = sign(
        1,
        TxEip1559 {
            value: U256::from(1),
            input: [&[0xaa; 48][..], &7_u64.to_be_bytes()].concat().into(),
            ..eip1559(0, TxKind::Call(WITHDRAWAL_REQUEST_PREDEPLOY_ADDRESS))
        },
    );
    node.send(&request).await;
    let envelope = node.payload(node.genesis(), &attributes(102)).await;
    let [request] = envelope.execution_requests.as_slice() else {
        panic!("{:?}", envelope.execution_requests);
    };
    let sender = signer(1).address();
    let expected = [&[1], &sender[..], &[0xaa; 48], &7_u64.to_le_bytes()].concat();
    assert_eq!(request.to_vec(), expected);
    let mut without = envelope.clone();
    without.execution_requests = Requests::default();
    assert!(node.new_payload(&without, &[]).await.is_invalid());
    node.import(&envelope).await;
}

#[tokio::test]
async fn a_chain_before_prague_is_served_by_the_third_versions() {
    let node = Node::with(spec_with(json!(null)), ClientConfig::default()).await;
    node.send(&transfer(1, 0, Address::repeat_byte(5), 1)).await;
    let answer = node.forkchoice(node.genesis(), Some(&attributes(102))).await;
    let id = answer.payload_id.unwrap();
    let newer = refused(node.engine.get_payload_v4(id, DEADLINE).await);
    assert_eq!(newer.code, code::UNSUPPORTED_FORK);
    let envelope = node.engine.get_payload_v3(id, DEADLINE).await.unwrap();
    let payload = &envelope.execution_payload;
    let root = beacon_root(102);
    let newer = refused(node.engine.new_payload_v4(payload, &[], root, &[], DEADLINE).await);
    assert_eq!(newer.code, code::UNSUPPORTED_FORK);
    let status = node.engine.new_payload_v3(payload, &[], root, DEADLINE).await.unwrap();
    assert!(status.is_valid(), "{status:?}");
    node.make_head(payload.payload_inner.payload_inner.block_hash).await;
    assert_eq!(node.client.balance(Address::repeat_byte(5)), U256::from(1));
}
