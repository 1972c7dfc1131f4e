//! The WebSocket JSON is the upstream's, byte for byte, plus our optional keys.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

use alloy_primitives::{B256, Bytes, FixedBytes};
use preconf_primitives::{
    AbandonReason, Abandoned, Base, Digest, Flashblock, FlashblockParts, Opening, PayloadId,
    Position, Retracted, Retraction, RetractionCause, Sealed, Seq,
};
use preconf_signing::{PublicKey, SignedFlashblock, SignedStatement, Verifier};
use preconf_wire::{
    feed::{FeedItem, GoodbyeReason},
    json::{self, FrameError, UpstreamFlashblock},
};
use serde_json::{Value, json};

const UPSTREAM_KEY: &str = "0x95a254501b7733239ed3cec4d56737977bd09ede881d8a234560e83e5525017add3b1dcc3eabfb85e12a4131b19c253b";

fn vectors() -> Value {
    serde_json::from_str(include_str!("../testdata/flashblock.json")).unwrap()
}

fn example(index: usize) -> String {
    vectors()["flashblock_json"][index]["json_text"].as_str().unwrap().to_owned()
}

#[test]
fn both_upstream_examples_are_read_and_their_signatures_verify() {
    let key: PublicKey = UPSTREAM_KEY.parse().unwrap();
    let verifier = Verifier::new(80094, vec![key]);
    for index in 0..2 {
        let UpstreamFlashblock {
            payload_id,
            index: position,
            block_number,
            opening,
            transactions,
            is_last,
            signature,
            extension,
        } = json::decode_upstream(example(index).as_bytes()).unwrap();
        assert_eq!(position, index as u64);
        assert_eq!(block_number, 100);
        assert_eq!(is_last, index == 1);
        assert_eq!(opening.is_some(), index == 0);
        assert_eq!(transactions.len(), 1 - index);
        assert_eq!(extension, None);
        verifier.v1(block_number, payload_id, position, &transactions, &signature).unwrap();
    }
}

#[test]
fn every_parser_tolerance_case_is_accepted_or_refused_as_upstream_does() {
    let vectors = vectors();
    let cases = vectors["parser_tolerance"].as_array().unwrap();
    assert_eq!(cases.len(), 7);
    for case in cases {
        let read = json::decode_upstream(case["json_text"].as_str().unwrap().as_bytes());
        assert_eq!(read.is_ok(), case["accepted"].as_bool().unwrap(), "{}: {read:?}", case["name"]);
    }
}

/// The example as one of ours: the same content with a session and a seal.
fn sealed_example(index: usize) -> SignedFlashblock {
    let upstream = json::decode_upstream(example(index).as_bytes()).unwrap();
    let flashblock = Flashblock::new(FlashblockParts {
        payload_id: upstream.payload_id,
        position: Position::new(Seq::new(7), upstream.index),
        block_number: upstream.block_number,
        opening: upstream.opening,
        transactions: upstream.transactions,
        is_last: upstream.is_last,
        published_at_ms: 1_800_000_000_123,
        traceparent: Some(
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap(),
        ),
        parent_digest: Digest::new(B256::repeat_byte(5)),
    })
    .unwrap();
    SignedFlashblock { flashblock, signature: upstream.signature, seal: FixedBytes([6; 96]) }
}

#[test]
fn what_we_write_is_the_upstream_text_with_our_keys_at_its_end() {
    for index in 0..2 {
        let text = json::encode_flashblock(&sealed_example(index));
        let upstream = example(index);
        let common = upstream.strip_suffix('}').unwrap();
        let ours = text.strip_prefix(common).expect("the upstream's bytes come first");
        let seal = format!("0x{}", "06".repeat(96));
        let expected = format!(
            r#","session":7,"parent_digest":"0x{}","seal":"{seal}","published_at_ms":1800000000123,"traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}}"#,
            "05".repeat(32)
        );
        assert_eq!(ours, expected);
    }
}

#[test]
fn a_sealed_flashblock_survives_text_and_brotli() {
    let item = FeedItem::Flashblock(sealed_example(0));
    let text = json::encode(&item);
    assert_eq!(json::decode(text.as_bytes()).unwrap(), item);
    assert_eq!(json::decode(&json::compress(text.as_bytes())).unwrap(), item);
}

#[test]
fn an_upstream_flashblock_is_not_taken_for_a_sealed_one() {
    let refusal = json::decode(example(0).as_bytes()).unwrap_err();
    assert!(matches!(refusal, FrameError::Unsealed(_)), "{refusal:?}");
}

#[test]
fn malformed_frames_are_refused_by_what_is_wrong_with_them() {
    let good: Value = serde_json::from_str(&json::encode_flashblock(&sealed_example(0))).unwrap();
    type Change = fn(&mut Value);
    let broken: [(&str, Change); 14] = [
        ("payload id of 7 bytes", |v| v["payload_id"] = json!("0x01020304050607")),
        ("negative index", |v| v["index"] = json!(-1)),
        ("index beyond the limit", |v| v["index"] = json!(10_000_000)),
        ("no base at index 0", |v| v["base"] = Value::Null),
        ("base at index 1", |v| v["index"] = json!(1)),
        ("block numbers differ", |v| v["metadata"]["block_number"] = json!(101)),
        ("no metadata", |v| v["metadata"] = Value::Null),
        ("signature of 95 bytes", |v| v["signature"] = json!("0x00")),
        ("no is_last", |v| {
            v.as_object_mut().unwrap().remove("is_last");
        }),
        ("empty transaction", |v| v["diff"]["transactions"] = json!(["0x"])),
        ("base fee above 64 bits", |v| {
            v["base"]["base_fee_per_gas"] = json!("0x10000000000000000")
        }),
        ("bad traceparent", |v| v["traceparent"] = json!("hello")),
        ("seal without parent digest", |v| {
            v.as_object_mut().unwrap().remove("parent_digest");
        }),
        ("seal of the wrong length", |v| v["seal"] = json!("0x1234")),
    ];
    for (name, change) in broken {
        let mut value = good.clone();
        change(&mut value);
        assert!(json::decode(value.to_string().as_bytes()).is_err(), "{name} was accepted");
    }
    for text in ["", "{", "{}", "null", "[]", "\"0x\"", r#"{"type":"nonsense"}"#, r#"{"type":7}"#] {
        assert!(json::decode(text.as_bytes()).is_err(), "{text:?} was accepted");
    }
}

fn statements() -> Vec<FeedItem> {
    let seal = FixedBytes([9; 96]);
    let last_digest = Digest::new(B256::repeat_byte(3));
    let (seq, block_number) = (Seq::new(7), 100);
    let abandoned =
        Abandoned { seq, block_number, last_digest, reason: AbandonReason::AttributesChanged };
    let sealed = Sealed {
        seq,
        block_number,
        last_digest,
        block_hash: B256::repeat_byte(1),
        state_root: B256::repeat_byte(2),
    };
    let retraction =
        Retraction { transaction: B256::repeat_byte(4), cause: RetractionCause::NoRoom };
    let retracted =
        Retracted { at: Position::new(seq, 3), block_number, retractions: vec![retraction] };
    vec![
        FeedItem::Abandoned(SignedStatement { statement: abandoned, seal }),
        FeedItem::Sealed(SignedStatement { statement: sealed, seal }),
        FeedItem::Retracted(SignedStatement { statement: retracted, seal }),
        FeedItem::Gap { wanted: Position::new(seq, 1), next: Position::new(Seq::new(8), 0) },
        FeedItem::Goodbye { reason: GoodbyeReason::TooSlow, cursor: None },
        FeedItem::Goodbye { reason: GoodbyeReason::Draining, cursor: Some(Position::new(seq, 4)) },
    ]
}

#[test]
fn every_statement_reads_back_and_says_its_type() {
    for item in statements() {
        let text = json::encode(&item);
        assert!(text.starts_with(r#"{"type":""#), "{text}");
        assert_eq!(json::decode(text.as_bytes()).unwrap(), item);
    }
}

#[test]
fn an_ethereum_flashblock_has_a_null_public_key() {
    let base = Base {
        parent_beacon_block_root: B256::ZERO,
        parent_hash: B256::ZERO,
        fee_recipient: Default::default(),
        prev_randao: B256::ZERO,
        block_number: 1,
        gas_limit: 30_000_000,
        timestamp: 1,
        extra_data: Bytes::new(),
        base_fee_per_gas: 0,
        prev_proposer_pubkey: None,
    };
    let flashblock = Flashblock::new(FlashblockParts {
        payload_id: PayloadId::ZERO,
        position: Position::default(),
        block_number: 1,
        opening: Some(Opening { base, withdrawals: vec![] }),
        transactions: vec![],
        is_last: false,
        published_at_ms: 0,
        traceparent: None,
        parent_digest: Digest::ZERO,
    })
    .unwrap();
    let signed =
        SignedFlashblock { flashblock, signature: FixedBytes([0; 96]), seal: FixedBytes([0; 96]) };
    let text = json::encode_flashblock(&signed);
    assert!(text.contains(r#""base_fee_per_gas":"0x0","prev_proposer_pubkey":null}"#), "{text}");
    assert!(!text.contains("traceparent"));
    assert_eq!(json::decode(text.as_bytes()).unwrap(), FeedItem::Flashblock(signed));
}
