//! Payloads that differ in one thing each.

use alloy_consensus::{
    SignableTransaction, TxEip1559,
    constants::EMPTY_WITHDRAWALS,
    proofs::{calculate_transaction_root, calculate_withdrawals_root},
};
use alloy_eips::{
    eip4895::{Withdrawal, Withdrawals},
    eip7685::EMPTY_REQUESTS_HASH,
};
use alloy_primitives::{FixedBytes, Signature};
use preconf_chain::{Header, ProposerPublicKey, TxEnvelope};
use preconf_engine::payload::to_payload;

use super::*;

const RANDAO: B256 = B256::repeat_byte(4);
const ROOT: B256 = B256::repeat_byte(5);

fn wanted() -> Wanted {
    Wanted {
        version: PayloadVersion::V4,
        slot: 7,
        parent_hash: B256::repeat_byte(1),
        number: 7,
        timestamps: 101..=113,
        prev_randao: RANDAO,
        withdrawals: Vec::new(),
        parent_beacon_block_root: ROOT,
        parent_proposer_pubkey: None,
        fee_recipient: Address::repeat_byte(9),
        fee_recipients: FeeRecipients::Own,
    }
}

fn header() -> Header {
    Header {
        parent_hash: B256::repeat_byte(1),
        beneficiary: Address::repeat_byte(9),
        transactions_root: calculate_transaction_root::<preconf_chain::TxEnvelope>(&[]),
        number: 7,
        gas_limit: 30_000_000,
        timestamp: 112,
        mix_hash: RANDAO,
        base_fee_per_gas: Some(7),
        withdrawals_root: Some(EMPTY_WITHDRAWALS),
        blob_gas_used: Some(0),
        excess_blob_gas: Some(0),
        parent_beacon_block_root: Some(ROOT),
        requests_hash: Some(EMPTY_REQUESTS_HASH),
        ..Header::default()
    }
}

/// A payload whose block hashes to what it says.
fn response(header: Header) -> PayloadResponse {
    let mut block = Block { header, body: Default::default() };
    block.body.withdrawals = Some(Withdrawals::default());
    PayloadResponse {
        fork_version: ForkVersion::ELECTRA,
        execution_payload: to_payload(&block),
        blobs_bundle: BlobsBundle::default(),
        block_value: U256::from(3),
        execution_requests: Vec::new(),
    }
}

fn objection(header: Header) -> Objection {
    check(response(header), &wanted()).unwrap_err()
}

#[test]
fn what_is_wanted_is_taken_and_written_as_it_came() {
    let good = response(header());
    let offer = check(good.clone(), &wanted()).unwrap();
    offer.prove_blobs().unwrap();
    assert_eq!(offer.payload, good.execution_payload);
    let written: serde_json::Value =
        serde_json::from_str(offer.envelope(&wanted()).unwrap().get()).unwrap();
    let payload = serde_json::to_value(&good.execution_payload).unwrap();
    assert_eq!(written["executionPayload"], payload);
    // There is no transaction that could pay anything.
    assert_eq!(written["blockValue"], "0x0");
    assert_eq!(written["executionRequests"], serde_json::json!([]));
}

/// A block of two transactions, of which one pays 10 Wei for each gas and one whatever remains of 40,
/// and nothing if the base fee is above that.
fn paying(base_fee: u64) -> PayloadResponse {
    let signed = |transaction: TxEip1559| {
        TxEnvelope::Ethereum(transaction.into_signed(Signature::test_signature()).into())
    };
    let transactions = vec![
        signed(TxEip1559 {
            gas_limit: 21_000,
            max_fee_per_gas: 1_000,
            max_priority_fee_per_gas: 10,
            ..TxEip1559::default()
        }),
        signed(TxEip1559 {
            gas_limit: 100_000,
            max_fee_per_gas: 40,
            max_priority_fee_per_gas: 40,
            ..TxEip1559::default()
        }),
    ];
    let transactions_root = calculate_transaction_root(&transactions);
    let header = Header { base_fee_per_gas: Some(base_fee), transactions_root, ..header() };
    let mut block = Block { header, body: Default::default() };
    block.body.transactions = transactions;
    block.body.withdrawals = Some(Withdrawals::default());
    PayloadResponse { execution_payload: to_payload(&block), ..response(block.header) }
}

#[test]
fn a_block_is_worth_no_more_than_its_transactions_can_pay() {
    for (base_fee, most) in [(7, 21_000 * 10 + 100_000 * 33), (41, 21_000 * 10)] {
        let value = |stated: U256| {
            let answer = PayloadResponse { block_value: stated, ..paying(base_fee) };
            let offer = check(answer, &wanted()).unwrap();
            (offer.value, offer.boast)
        };
        let most = U256::from(most);
        for stated in [U256::ZERO, U256::from(1), most] {
            assert_eq!(value(stated), (stated, None), "{base_fee}");
        }
        for stated in [most + U256::from(1), U256::MAX] {
            assert_eq!(value(stated), (most, Some(stated)), "{base_fee}");
        }
    }
}

#[test]
fn each_field_that_differs_is_named() {
    let h = header;
    let other = B256::repeat_byte(8);
    assert!(matches!(objection(Header { parent_hash: other, ..h() }), Objection::Parent { .. }));
    assert!(matches!(objection(Header { number: 8, ..h() }), Objection::Number { .. }));
    for timestamp in [0, 100, 114, u64::MAX] {
        let objection = objection(Header { timestamp, ..h() });
        assert!(matches!(objection, Objection::Timestamp { .. }), "{timestamp}");
    }
    for timestamp in [101, 113] {
        assert!(check(response(Header { timestamp, ..h() }), &wanted()).is_ok(), "{timestamp}");
    }
    assert!(matches!(objection(Header { mix_hash: other, ..h() }), Objection::Randao));
    let beneficiary = Address::repeat_byte(8);
    assert!(matches!(objection(Header { beneficiary, ..h() }), Objection::FeeRecipient(_)));
}

#[test]
fn what_a_payload_leaves_out_shows_in_the_hash() {
    let other = Some(B256::repeat_byte(8));
    let key = Some(ProposerPublicKey::repeat_byte(6));
    for header in [
        Header { parent_beacon_block_root: other, ..header() },
        Header { requests_hash: other, ..header() },
        Header { prev_proposer_pubkey: key, ..header() },
    ] {
        let objection = objection(header);
        assert!(matches!(objection, Objection::Block(PayloadError::BlockHash { .. })));
    }
    let berachain =
        || Wanted { version: PayloadVersion::V4P11, parent_proposer_pubkey: key, ..wanted() };
    let answer = |key| {
        let header = Header { prev_proposer_pubkey: key, ..header() };
        PayloadResponse { fork_version: ForkVersion::FULU, ..response(header) }
    };
    assert!(check(answer(key), &berachain()).is_ok());
    assert!(check(answer(None), &berachain()).is_err());
    assert!(check(answer(Some(FixedBytes::repeat_byte(7))), &berachain()).is_err());
}

#[test]
fn withdrawals_are_those_that_are_wanted() {
    let withdrawals = vec![Withdrawal { amount: 5, ..Withdrawal::default() }];
    let root = calculate_withdrawals_root(&withdrawals);
    let mut good = response(Header { withdrawals_root: Some(root), ..header() });
    good.execution_payload.payload_inner.withdrawals.clone_from(&withdrawals);
    let expecting = Wanted { withdrawals, ..wanted() };
    let none = check(response(header()), &expecting);
    assert!(matches!(none.unwrap_err(), Objection::Withdrawals));
    let some = check(good.clone(), &wanted());
    assert!(matches!(some.unwrap_err(), Objection::Withdrawals));
    assert!(check(good, &expecting).is_ok());
}

#[test]
fn a_fork_goes_with_its_method() {
    use PayloadVersion::{V3, V4, V4P11, V5};
    let forks = [
        (ForkVersion::DENEB, V3),
        (ForkVersion::DENEB1, V3),
        (ForkVersion::ELECTRA, V4),
        (ForkVersion::ELECTRA1, V4P11),
    ];
    for (fork, right) in forks {
        for version in [V3, V4, V5, V4P11] {
            assert_eq!(is_asked_for_with(fork, version), version == right, "{fork} {version:?}");
        }
    }
    assert!(is_asked_for_with(ForkVersion::FULU, V5));
    assert!(is_asked_for_with(ForkVersion::FULU, V4P11));
    assert!(!is_asked_for_with(ForkVersion([7, 0, 0, 0]), V4P11));
}

#[test]
fn before_prague_there_are_no_requests() {
    let wanted = Wanted { version: PayloadVersion::V3, ..wanted() };
    let header = Header { requests_hash: None, ..header() };
    let good = PayloadResponse { fork_version: ForkVersion::DENEB, ..response(header) };
    assert!(check(good.clone(), &wanted).is_ok());
    let requests = vec![Bytes::from_static(&[0, 1])];
    let early = PayloadResponse { execution_requests: requests, ..good };
    assert!(matches!(check(early, &wanted).unwrap_err(), Objection::EarlyRequests));
}

#[test]
fn blobs_that_nobody_named_are_not_taken() {
    let mut answer = response(header());
    answer.blobs_bundle = BlobsBundle {
        commitments: vec![FixedBytes::ZERO],
        proofs: vec![FixedBytes::ZERO],
        blobs: vec![Default::default()],
    };
    let objection = check(answer, &wanted()).unwrap_err();
    assert!(matches!(objection, Objection::BlobCount { blobs: 1, named: 0 }));
}
