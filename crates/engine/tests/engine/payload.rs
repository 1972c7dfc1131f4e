//! Blocks to payloads and back.

use alloy_consensus::constants::EMPTY_WITHDRAWALS;
use alloy_consensus::proofs::{calculate_transaction_root, calculate_withdrawals_root};
use alloy_consensus::{EthereumTxEnvelope, SignableTransaction, TxEip1559, TxEip4844, TxLegacy};
use alloy_eips::eip4895::{Withdrawal, Withdrawals};
use alloy_eips::eip7685::EMPTY_REQUESTS_HASH;
use alloy_primitives::{
    Address, B256, Bytes, FixedBytes, Sealed, Signature, TxKind, U256, b256, bytes,
};
use alloy_rpc_types_engine::{
    BlobsBundleV1, BlobsBundleV2, ExecutionPayloadV3, PayloadError as TooMuch,
};
use preconf_chain::{Block, Header, PolTx, ProposerPublicKey, TxEnvelope};
use preconf_engine::payload::{
    BesidePayload, PayloadError, envelope_v4, envelope_v4_p11, envelope_v5, from_payload,
    requests_hash, to_payload, versioned_hashes,
};
use serde_json::Value;

fn blob_hash(byte: u8) -> B256 {
    B256::repeat_byte(byte)
}

fn signed<T: SignableTransaction<Signature>>(tx: T) -> TxEnvelope
where
    EthereumTxEnvelope<TxEip4844>: From<alloy_consensus::Signed<T>>,
{
    EthereumTxEnvelope::from(tx.into_signed(Signature::test_signature())).into()
}

fn block() -> Block {
    let to = Address::repeat_byte(9);
    let transactions = vec![
        TxEnvelope::Pol(Sealed::new(PolTx {
            chain_id: 80_087,
            from: Address::repeat_byte(1),
            to,
            nonce: 4,
            gas_limit: 30_000_000,
            gas_price: 7,
            input: bytes!("60644a6b"),
        })),
        signed(TxLegacy {
            nonce: 1,
            gas_limit: 21_000,
            to: TxKind::Call(to),
            ..TxLegacy::default()
        }),
        signed(TxEip1559 { chain_id: 1, nonce: 2, to: TxKind::Create, ..TxEip1559::default() }),
        signed(TxEip4844 {
            chain_id: 1,
            to,
            blob_versioned_hashes: vec![blob_hash(1), blob_hash(2)],
            ..TxEip4844::default()
        }),
        signed(TxEip4844 {
            chain_id: 1,
            to,
            blob_versioned_hashes: vec![blob_hash(3)],
            ..TxEip4844::default()
        }),
    ];
    let withdrawals = Withdrawals::new(vec![Withdrawal {
        index: u64::MAX,
        validator_index: u64::MAX,
        address: to,
        amount: 5,
    }]);
    let header = Header {
        parent_hash: B256::repeat_byte(1),
        beneficiary: to,
        state_root: B256::repeat_byte(2),
        transactions_root: calculate_transaction_root(&transactions),
        receipts_root: B256::repeat_byte(3),
        number: 5,
        gas_limit: 30_000_000,
        gas_used: 63_000,
        timestamp: 1_700_000_000,
        extra_data: bytes!("c0ffee"),
        mix_hash: B256::repeat_byte(4),
        base_fee_per_gas: Some(7),
        withdrawals_root: Some(calculate_withdrawals_root(&withdrawals)),
        blob_gas_used: Some(3 << 17),
        excess_blob_gas: Some(0),
        parent_beacon_block_root: Some(B256::repeat_byte(5)),
        requests_hash: Some(EMPTY_REQUESTS_HASH),
        ..Header::default()
    };
    let mut block = Block { header, body: Default::default() };
    block.body.transactions = transactions;
    block.body.withdrawals = Some(withdrawals);
    block
}

/// Changes a payload through its JSON and reads it back.
fn altered(payload: &ExecutionPayloadV3, change: impl FnOnce(&mut Value)) -> ExecutionPayloadV3 {
    let mut json = serde_json::to_value(payload).unwrap();
    change(&mut json);
    serde_json::from_value(json).unwrap()
}

#[test]
fn a_block_is_the_same_after_a_payload_and_its_json() {
    let berachain = {
        let mut block = block();
        block.header.prev_proposer_pubkey = Some(FixedBytes::repeat_byte(6));
        block
    };
    let cancun = {
        let mut block = block();
        block.header.requests_hash = None;
        block.body.withdrawals = Some(Withdrawals::default());
        block.header.withdrawals_root = Some(EMPTY_WITHDRAWALS);
        block
    };
    for block in [block(), berachain, cancun] {
        let payload = altered(&to_payload(&block), |_| {});
        assert_eq!(payload.payload_inner.payload_inner.block_hash, block.header.hash_slow());
        assert_eq!(from_payload(payload, &BesidePayload::of(&block.header)).unwrap(), block);
    }
}

#[test]
fn a_payload_that_hashes_to_something_else_is_refused() {
    let block = block();
    let (payload, beside) = (to_payload(&block), BesidePayload::of(&block.header));
    let refused = |payload: ExecutionPayloadV3, beside: &BesidePayload| {
        let error = from_payload(payload, beside).unwrap_err();
        assert!(matches!(error, PayloadError::BlockHash { .. }), "{error}");
    };
    let name = "0x1111111111111111111111111111111111111111111111111111111111111111";
    refused(altered(&payload, |json| json["stateRoot"] = name.into()), &beside);
    refused(altered(&payload, |json| json["blockHash"] = name.into()), &beside);
    refused(altered(&payload, |json| json["withdrawals"] = Value::Array(vec![])), &beside);
    refused(
        altered(&payload, |json| {
            json["transactions"].as_array_mut().unwrap().pop();
        }),
        &beside,
    );
    for wrong in [
        BesidePayload { parent_beacon_block_root: None, ..beside.clone() },
        BesidePayload { requests_hash: Some(B256::ZERO), ..beside.clone() },
        BesidePayload { prev_proposer_pubkey: Some(FixedBytes::ZERO), ..beside },
    ] {
        refused(payload.clone(), &wrong);
    }
}

#[test]
fn a_transaction_that_is_none_is_named_by_its_index() {
    // The hash covers the bytes, so a block of rubbish can have the right hash.
    for rubbish in ["0x05c0", "0x", "0x02c0", "0xc0"] {
        let mut block = block();
        let mut payload = altered(&to_payload(&block), |json| {
            json["transactions"][2] = rubbish.into();
        });
        let root = alloy_consensus::proofs::ordered_trie_root_encoded(
            &payload.payload_inner.payload_inner.transactions,
        );
        block.header.transactions_root = root;
        payload.payload_inner.payload_inner.block_hash = block.header.hash_slow();
        let error = from_payload(payload, &BesidePayload::of(&block.header)).unwrap_err();
        assert!(matches!(error, PayloadError::Transaction { index: 2, .. }), "{error}");
    }
}

#[test]
fn a_field_that_no_header_can_hold_is_refused() {
    let block = block();
    let beside = BesidePayload::of(&block.header);
    let long = format!("0x{}", "00".repeat(33));
    let payload = altered(&to_payload(&block), |json| json["extraData"] = long.into());
    let error = from_payload(payload, &beside).unwrap_err();
    assert!(matches!(error, PayloadError::Field(TooMuch::ExtraData(_))), "{error}");
    let huge = format!("{:#x}", U256::from(1) << 64);
    let payload = altered(&to_payload(&block), |json| json["baseFeePerGas"] = huge.into());
    let error = from_payload(payload, &beside).unwrap_err();
    assert!(matches!(error, PayloadError::Field(TooMuch::BaseFee(_))), "{error}");
}

#[test]
fn the_blobs_of_a_block_are_named_in_order() {
    assert_eq!(versioned_hashes(&block()), [blob_hash(1), blob_hash(2), blob_hash(3)]);
}

#[test]
fn requests_are_hashed_only_in_the_order_of_their_types() {
    assert_eq!(requests_hash(&[]).unwrap(), EMPTY_REQUESTS_HASH);
    assert_eq!(
        requests_hash(&[bytes!("00aa"), bytes!("01bb")]).unwrap(),
        b256!("0xb471423e3efc24a1d5534ebbed9d5154193ee037c11110e4d884405e178a67c4")
    );
    for requests in [
        [bytes!("01bb"), bytes!("00aa")],
        [bytes!("00aa"), bytes!("00aa")],
        [bytes!("00aa"), bytes!("01")],
        [bytes!("00aa"), Bytes::new()],
    ] {
        let error = requests_hash(&requests).unwrap_err();
        assert!(matches!(error, PayloadError::Requests { index: 1 }), "{error}");
    }
}

#[test]
fn an_envelope_has_the_fields_of_its_version() {
    let requests = vec![bytes!("00aa")];
    let envelope =
        envelope_v4(to_payload(&block()), U256::from(21), BlobsBundleV1::default(), requests);
    let json = serde_json::to_value(&envelope).unwrap();
    assert_eq!(json["blockValue"], "0x15");
    assert_eq!(json["shouldOverrideBuilder"], false);
    assert_eq!(json["executionRequests"], serde_json::json!(["0x00aa"]));
    assert_eq!(json["blobsBundle"]["blobs"], serde_json::json!([]));
    assert_eq!(json["executionPayload"]["blockNumber"], "0x5");
    assert_eq!(json.as_object().unwrap().len(), 5);
    let (payload, requests) = (to_payload(&block()), vec![bytes!("00aa")]);
    let key = Some(ProposerPublicKey::repeat_byte(6));
    let bundle = BlobsBundleV1::default();
    let envelope = envelope_v4_p11(payload.clone(), U256::from(21), bundle, requests.clone(), key);
    let mut berachain = serde_json::to_value(&envelope).unwrap();
    let written = berachain.as_object_mut().unwrap().remove("parentProposerPubKey");
    assert_eq!(written, Some(serde_json::json!(key)));
    assert_eq!(berachain, json);
    let osaka = envelope_v5(payload, U256::from(21), BlobsBundleV2::default(), requests);
    assert_eq!(serde_json::to_value(&osaka).unwrap(), json);
}
