//! The frozen vectors of both schemes: `testdata/v1.json` fixes what the upstream speaks,
//! `testdata/v2.json` what we do. To change one is a protocol change.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::error::Error;

use alloy_primitives::{B256, Bytes, FixedBytes, hex};
use blst::min_pk::SecretKey;
use preconf_primitives::{
    AbandonReason, Abandoned, Base, Digest, Flashblock, FlashblockParts, Opening, PayloadId,
    Position, Retracted, Retraction, RetractionCause, Sealed, Seq, Withdrawal,
};
use preconf_signing::{
    Checked, PublicKey, Refusal, SIGNATURE_DST, Signature, SignedFlashblock, SignedStatement,
    Verifier, v1, v2,
};
use serde_json::Value;

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

fn v1_vectors() -> Value {
    serde_json::from_str(include_str!("../testdata/v1.json")).unwrap()
}

fn v2_vectors() -> Value {
    serde_json::from_str(include_str!("../testdata/v2.json")).unwrap()
}

fn fixed<const N: usize>(value: &Value) -> FixedBytes<N> {
    value.as_str().unwrap().parse().unwrap()
}

fn bytes_list(value: &Value) -> Vec<Bytes> {
    value.as_array().unwrap().iter().map(|item| item.as_str().unwrap().parse().unwrap()).collect()
}

fn sign(secret_key: &Value, message: B256) -> Signature {
    let scalar = hex::decode(secret_key.as_str().unwrap()).unwrap();
    let key = SecretKey::from_bytes(&scalar).unwrap();
    FixedBytes(key.sign(message.as_slice(), SIGNATURE_DST, &[]).compress())
}

#[test]
fn every_v1_vector_is_reproduced_and_verifies() -> Result {
    let vectors = v1_vectors();
    let signing = vectors["signing"].as_array().unwrap();
    assert_eq!(signing.len(), 13);
    for vector in signing {
        let name = &vector["name"];
        let transactions_hash = fixed(&vector["tx_hash"]);
        if vector["transactions"].is_array() {
            let transactions = bytes_list(&vector["transactions"]);
            assert_eq!(v1::transactions_hash(&transactions), transactions_hash, "{name}");
        }
        let domain = v1::domain(vector["chain_id"].as_u64().unwrap());
        assert_eq!(domain, fixed::<32>(&vector["domain"]), "{name}");
        let message = v1::message(
            domain,
            vector["block_number"].as_u64().unwrap(),
            fixed(&vector["payload_id"]),
            vector["index"].as_u64().unwrap(),
            transactions_hash,
        );
        assert_eq!(message, fixed::<32>(&vector["message"]), "{name}");
        let signature = fixed(&vector["signature"]);
        assert_eq!(sign(&vector["secret_key"], message), signature, "{name}");
        let key: PublicKey = vector["public_key"].as_str().unwrap().parse()?;
        key.verify(message, &signature)?;
    }
    Ok(())
}

#[test]
fn every_negative_vector_is_refused() {
    let vectors = v1_vectors();
    let negative = vectors["signing_negative"].as_array().unwrap();
    assert_eq!(negative.len(), 7);
    for vector in negative {
        let key = vector["public_key"].as_str().unwrap().parse::<PublicKey>();
        let signature = fixed(&vector["signature"]);
        let accepted =
            key.is_ok_and(|key| key.verify(fixed(&vector["message"]), &signature).is_ok());
        assert!(!accepted, "{}", vector["name"]);
    }
}

fn base(value: &Value) -> Base {
    Base {
        parent_beacon_block_root: fixed(&value["parent_beacon_block_root"]),
        parent_hash: fixed(&value["parent_hash"]),
        fee_recipient: value["fee_recipient"].as_str().unwrap().parse().unwrap(),
        prev_randao: fixed(&value["prev_randao"]),
        block_number: value["block_number"].as_u64().unwrap(),
        gas_limit: value["gas_limit"].as_u64().unwrap(),
        timestamp: value["timestamp"].as_u64().unwrap(),
        extra_data: value["extra_data"].as_str().unwrap().parse().unwrap(),
        base_fee_per_gas: value["base_fee_per_gas"].as_u64().unwrap(),
        prev_proposer_pubkey: value["prev_proposer_pubkey"]
            .as_str()
            .map(|key| key.parse().unwrap()),
    }
}

fn withdrawals(value: &Value) -> Vec<Withdrawal> {
    let withdrawal = |item: &Value| Withdrawal {
        index: item["index"].as_u64().unwrap(),
        validator_index: item["validator_index"].as_u64().unwrap(),
        address: item["address"].as_str().unwrap().parse().unwrap(),
        amount_gwei: item["amount_gwei"].as_u64().unwrap(),
    };
    value.as_array().unwrap().iter().map(withdrawal).collect()
}

fn flashblock(vector: &Value) -> Flashblock {
    let opening = vector["base"].is_object().then(|| Opening {
        base: base(&vector["base"]),
        withdrawals: withdrawals(&vector["withdrawals"]),
    });
    Flashblock::new(FlashblockParts {
        payload_id: fixed(&vector["payload_id"]),
        position: Position::new(
            Seq::new(vector["seq"].as_u64().unwrap()),
            vector["index"].as_u64().unwrap(),
        ),
        block_number: vector["block_number"].as_u64().unwrap(),
        opening,
        transactions: bytes_list(&vector["transactions"]),
        is_last: vector["is_last"].as_bool().unwrap(),
        published_at_ms: vector["published_at_ms"].as_u64().unwrap(),
        traceparent: vector["traceparent"].as_str().map(|text| text.parse().unwrap()),
        parent_digest: Digest::new(fixed(&vector["parent_digest"])),
    })
    .unwrap()
}

#[test]
fn every_v2_flashblock_vector_is_reproduced() {
    let vectors = v2_vectors();
    for vector in vectors["flashblocks"].as_array().unwrap() {
        let name = &vector["name"];
        let flashblock = flashblock(vector);
        let hashes = v2::ContentHashes::of(&flashblock);
        assert_eq!(hashes.base, fixed::<32>(&vector["base_hash"]), "{name}");
        assert_eq!(hashes.transactions, fixed::<32>(&vector["tx_hash"]), "{name}");
        assert_eq!(hashes.withdrawals, fixed::<32>(&vector["withdrawals_hash"]), "{name}");
        let digest = v2::flashblock_digest(&flashblock);
        assert_eq!(digest.get(), fixed::<32>(&vector["digest"]), "{name}");
        check_seal(&vectors, vector, digest);
    }
}

fn check_seal(vectors: &Value, vector: &Value, digest: Digest) {
    let domain = v2::domain(vector["chain_id"].as_u64().unwrap());
    let message = v2::message(domain, digest);
    assert_eq!(message, fixed::<32>(&vector["message"]));
    assert_eq!(sign(&vectors["secret_key"], message), fixed(&vector["seal"]));
}

#[test]
fn every_v2_statement_vector_is_reproduced() {
    let vectors = v2_vectors();
    for vector in vectors["statements"].as_array().unwrap() {
        let seq = Seq::new(vector["seq"].as_u64().unwrap());
        let block_number = vector["block_number"].as_u64().unwrap();
        let last_digest = || Digest::new(fixed(&vector["last_digest"]));
        let digest = match vector["kind"].as_str().unwrap() {
            "abandoned" => v2::abandoned_digest(&Abandoned {
                seq,
                block_number,
                last_digest: last_digest(),
                reason: AbandonReason::from_number(vector["reason"].as_u64().unwrap() as u8)
                    .unwrap(),
            }),
            "sealed" => v2::sealed_digest(&Sealed {
                seq,
                block_number,
                last_digest: last_digest(),
                block_hash: fixed(&vector["block_hash"]),
                state_root: fixed(&vector["state_root"]),
            }),
            "retracted" => v2::retracted_digest(&Retracted {
                at: Position::new(seq, vector["index"].as_u64().unwrap()),
                block_number,
                retractions: retractions(&vector["retractions"]),
            }),
            kind => panic!("unknown kind {kind}"),
        };
        assert_eq!(digest.get(), fixed::<32>(&vector["digest"]));
        check_seal(&vectors, vector, digest);
    }
}

fn retractions(value: &Value) -> Vec<Retraction> {
    let retraction = |item: &Value| Retraction {
        transaction: fixed(&item[0]),
        cause: RetractionCause::from_number(item[1].as_u64().unwrap() as u8).unwrap(),
    };
    value.as_array().unwrap().iter().map(retraction).collect()
}

/// A flashblock of the vectors with both signatures, and the verifier that trusts its key.
fn signed(chain_id: u64) -> (SignedFlashblock, Verifier) {
    let vectors = v2_vectors();
    let flashblock = flashblock(&vectors["flashblocks"][0]);
    let message = v1::message(
        v1::domain(chain_id),
        flashblock.block_number(),
        flashblock.payload_id(),
        flashblock.index(),
        v1::transactions_hash(flashblock.transactions()),
    );
    let signature = sign(&vectors["secret_key"], message);
    let seal_message = v2::message(v2::domain(chain_id), v2::flashblock_digest(&flashblock));
    let seal = sign(&vectors["secret_key"], seal_message);
    let key = vectors["public_key"].as_str().unwrap().parse().unwrap();
    (SignedFlashblock { flashblock, signature, seal }, Verifier::new(chain_id, vec![key]))
}

#[test]
fn a_signed_flashblock_verifies_and_tells_its_digest() -> Result {
    let (signed, verifier) = signed(80094);
    let digest = v2::flashblock_digest(&signed.flashblock);
    let verified = verifier.flashblock(signed, Checked::Both)?;
    assert_eq!(verified.digest(), digest);
    assert_eq!(verified.key(), &verifier.keys()[0]);
    Ok(())
}

#[test]
fn a_change_of_any_field_breaks_the_seal() {
    let changes: [fn(&mut FlashblockParts); 12] = [
        |parts| parts.payload_id = PayloadId::repeat_byte(9),
        |parts| parts.position.seq = Seq::new(6),
        |parts| parts.transactions.push(Bytes::from_static(&[1])),
        |parts| parts.transactions.clear(),
        |parts| parts.is_last = !parts.is_last,
        |parts| parts.published_at_ms += 1,
        |parts| parts.traceparent = None,
        |parts| parts.parent_digest = Digest::new(B256::repeat_byte(1)),
        |parts| parts.opening.as_mut().unwrap().base.timestamp += 1,
        |parts| parts.opening.as_mut().unwrap().base.prev_proposer_pubkey = None,
        |parts| parts.opening.as_mut().unwrap().withdrawals.clear(),
        |parts| parts.opening.as_mut().unwrap().withdrawals[0].amount_gwei += 1,
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let (mut signed, verifier) = signed(80094);
        let mut parts = signed.flashblock.into_parts();
        change(&mut parts);
        signed.flashblock = Flashblock::new(parts).unwrap();
        let refusal = verifier.flashblock(signed, Checked::Seal).unwrap_err();
        assert_eq!(refusal, Refusal::BadSeal, "change {number}");
    }
}

#[test]
fn a_gateway_refuses_a_bad_v1_signature_under_a_good_seal() {
    let (mut signed, verifier) = signed(80094);
    signed.signature.0[95] ^= 1;
    assert!(verifier.flashblock(signed.clone(), Checked::Seal).is_ok());
    assert_eq!(verifier.flashblock(signed, Checked::Both).unwrap_err(), Refusal::BadSignature);
}

#[test]
fn without_a_seal_the_signature_has_to_be_of_the_chain_the_place_and_the_transactions() {
    let (signed, verifier) = signed(80094);
    let SignedFlashblock { flashblock, signature, .. } = signed;
    let verified = verifier.unsealed(flashblock.clone(), signature).unwrap();
    assert_eq!(verified.flashblock(), &flashblock);
    assert_eq!(verified.digest(), v2::flashblock_digest(&flashblock));

    let elsewhere = Verifier::new(80069, verifier.keys().to_vec());
    assert_eq!(elsewhere.unsealed(flashblock.clone(), signature), Err(Refusal::BadSignature));
    let changes: [fn(&mut FlashblockParts); 2] =
        [|parts| parts.payload_id.0[0] ^= 1, |parts| parts.transactions.clear()];
    for (number, change) in changes.into_iter().enumerate() {
        let mut parts = flashblock.clone().into_parts();
        change(&mut parts);
        let altered = Flashblock::new(parts).unwrap();
        let refused = verifier.unsealed(altered, signature);
        assert_eq!(refused, Err(Refusal::BadSignature), "change {number}");
    }
}

#[test]
fn a_seal_of_another_chain_or_key_is_refused() {
    let (signed, _) = signed(80094);
    let vectors = v1_vectors();
    let other: PublicKey =
        vectors["signing_negative"][5]["public_key"].as_str().unwrap().parse().unwrap();
    let own: PublicKey = v2_vectors()["public_key"].as_str().unwrap().parse().unwrap();
    for verifier in [
        Verifier::new(80069, vec![own]),
        Verifier::new(80094, vec![other]),
        Verifier::new(80094, vec![]),
    ] {
        assert!(verifier.flashblock(signed.clone(), Checked::Seal).is_err());
    }
    let rotation = Verifier::new(80094, vec![other, own]);
    assert!(rotation.flashblock(signed, Checked::Both).is_ok());
}

#[test]
fn a_statement_verifies_only_as_what_it_is() {
    let vectors = v2_vectors();
    let vector = &vectors["statements"][2];
    let sealed = Sealed {
        seq: Seq::new(7),
        block_number: 100,
        last_digest: Digest::new(fixed(&vector["last_digest"])),
        block_hash: fixed(&vector["block_hash"]),
        state_root: fixed(&vector["state_root"]),
    };
    let seal = fixed(&vector["seal"]);
    let key = vectors["public_key"].as_str().unwrap().parse().unwrap();
    let verifier = Verifier::new(80094, vec![key]);
    let good = SignedStatement { statement: sealed.clone(), seal };
    assert!(verifier.sealed(good).is_ok());
    let lie = Sealed { block_hash: B256::ZERO, ..sealed };
    assert!(verifier.sealed(SignedStatement { statement: lie, seal }).is_err());
    let abandoned = Abandoned {
        seq: Seq::new(7),
        block_number: 100,
        last_digest: Digest::new(fixed(&vector["last_digest"])),
        reason: AbandonReason::HeadChanged,
    };
    assert!(verifier.abandoned(SignedStatement { statement: abandoned, seal }).is_err());
}
