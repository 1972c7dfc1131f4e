//! The bodies, to the byte, and what is read of others.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

use alloy_eips::eip4844::Blob;
use alloy_primitives::{B256, FixedBytes, U256};
use preconf_chain::ChainSpec;
use preconf_payload_api::{
    ErrorBody, ForkVersion, HealthBody, PayloadRequest, PayloadResponse, RequestError,
    ResponseError, ValidatorPubkey,
};
use serde_json::{Value, json};

const REQUEST: &str = include_str!("../testdata/request.json");
const RESPONSE: &str = include_str!("../testdata/response.json");

fn response() -> Value {
    serde_json::from_str(RESPONSE).unwrap()
}

/// Reads the golden answer after a change.
fn changed(change: impl Fn(&mut Value)) -> Result<PayloadResponse, ResponseError> {
    let mut response = response();
    change(&mut response);
    PayloadResponse::decode(response.to_string().as_bytes())
}

fn golden() -> PayloadResponse {
    changed(|_| ()).unwrap()
}

#[test]
fn a_request_is_written_and_read_to_the_byte() {
    let parent_block_root = B256::from_slice(&[0x0f, 0x5c].repeat(16));
    let request = PayloadRequest { slot: 100, parent_block_root };
    assert_eq!(request.to_json(), REQUEST.as_bytes());
    assert_eq!(PayloadRequest::decode(REQUEST.as_bytes()).unwrap(), request);
    let zero = PayloadRequest::default().to_json();
    assert!(zero.starts_with(b"{\"slot\":\"0x0\","));
}

#[test]
fn a_request_is_read_as_leniently_as_by_the_other_server() {
    let slot = |text: &str| PayloadRequest::decode(text.as_bytes()).map(|request| request.slot);
    for (text, expected) in [
        ("{}", 0),
        ("null", 0),
        (" {\"slot\":\"0x0\"} ", 0),
        ("{\"slot\":\"0X1f\",\"other\":{\"slot\":[1,{}]}}", 31),
        ("{\"SLOT\":\"0x2\"}", 2),
        ("{\"slot\":\"0x2\",\"slot\":\"0x3\"}", 3),
        ("{\"slot\":\"0x4\"}{\"slot\":5}", 4),
        ("{\"slot\":\"0xffffffffffffffff\"}x", u64::MAX),
        ("{\"\\u0073lot\":\"\\u0030x6\"}", 6),
    ] {
        assert_eq!(slot(text).unwrap(), expected, "{text}");
    }
    assert!(matches!(slot(""), Err(RequestError::Empty)));
    assert!(matches!(slot(" \n"), Err(RequestError::Empty)));
    let long = format!("{{\"slot\":100,\"a\":\"{}", "x".repeat(3_000));
    for text in ["{", "{\"slot\"", "{\"slot\":\"0x1\"", "nul", "\"", "{\"slot\":100,\"a\":", &long]
    {
        assert!(matches!(slot(text), Err(RequestError::Truncated)), "{text}");
    }
    for text in ["[]", "1", "x", "{\"slot\":1}", "{\"slot\":\"1\"}", "{\"slot\":\"0x01\"}"] {
        assert!(matches!(slot(text), Err(RequestError::Malformed(_))), "{text}");
    }
}

#[test]
fn an_answer_is_written_and_read_to_the_byte() {
    let read = PayloadResponse::decode(RESPONSE.as_bytes()).unwrap();
    assert_eq!(String::from_utf8(read.to_json()).unwrap(), RESPONSE);
    assert_eq!(read.block_value, U256::from(21_000_000_000_000_u64));
    assert_eq!(read.fork_version, ForkVersion::FULU);
}

#[test]
fn the_value_is_read_in_every_notation() {
    for value in [json!("255"), json!("0xff"), json!(255)] {
        let read = changed(|response| response["block_value"] = value.clone());
        assert_eq!(read.unwrap().block_value, U256::from(255), "{value}");
    }
    let null = changed(|response| response["block_value"] = Value::Null).unwrap();
    assert_eq!(null.block_value, U256::ZERO);
    assert!(changed(|response| response["block_value"] = json!("many")).is_err());

    let bare = |number: &str| {
        let text = RESPONSE.replace("\"21000000000000\"", number);
        PayloadResponse::decode(text.as_bytes()).map(|read| read.block_value)
    };
    for number in [U256::from(u64::MAX) + U256::from(1), U256::MAX] {
        assert_eq!(bare(&number.to_string()).unwrap(), number);
    }
    let too_large = format!("{}0", U256::MAX);
    for number in [&too_large, "1e3", "1.0", "-1", "true", "[]"] {
        assert!(bare(number).is_err(), "{number}");
    }
}

#[test]
fn what_may_be_null_or_missing_is_empty() {
    let optional = ["withdrawals", "blobGasUsed", "excessBlobGas"];
    for name in optional {
        assert!(changed(|response| response["execution_payload"][name] = Value::Null).is_ok());
        let missing = changed(|response| {
            response["execution_payload"].as_object_mut().unwrap().remove(name);
        });
        assert!(missing.is_ok(), "{name}");
    }
    for bundle in [Value::Null, json!({}), json!({ "commitments": null, "blobs": null })] {
        let read = changed(|response| response["blobs_bundle"] = bundle.clone()).unwrap();
        assert_eq!(read, golden(), "{bundle}");
    }
}

#[test]
fn what_a_validator_could_not_propose_is_an_error_and_no_more() {
    // What brings down the other implementation's validators.
    assert!(changed(|response| response["execution_payload"] = Value::Null).is_err());
    let null_blob = json!({ "commitments": [[]], "proofs": [[]], "blobs": [null] });
    assert!(changed(|response| response["blobs_bundle"] = null_blob.clone()).is_err());
    for name in response()["execution_payload"].as_object().unwrap().keys() {
        let optional = ["withdrawals", "blobGasUsed", "excessBlobGas"].contains(&name.as_str());
        for wrong in [json!({}), json!("0xzz"), json!(-1)] {
            let read = changed(|response| response["execution_payload"][name] = wrong.clone());
            assert!(read.is_err(), "{name}: {wrong}");
        }
        let null = changed(|response| response["execution_payload"][name] = Value::Null);
        assert_eq!(null.is_ok(), optional, "{name}");
    }
    assert!(
        changed(|response| response["execution_payload"]["transactions"] = json!([null])).is_err()
    );
    for text in ["", "null", "[]", "{}", "1", &RESPONSE[..RESPONSE.len() / 2]] {
        assert!(PayloadResponse::decode(text.as_bytes()).is_err(), "{text}");
    }
    assert!(PayloadResponse::decode(&[b'['; 100_000]).is_err());
}

#[test]
fn since_electra_requests_are_a_list() {
    for absent in [Value::Null, json!(1)] {
        let read = changed(|response| response["execution_requests"] = absent.clone());
        assert!(read.is_err(), "{absent}");
    }
    let old = changed(|response| {
        response["fork_version"] = json!("0x04010000");
        response["execution_requests"] = Value::Null;
    });
    assert_eq!(old.unwrap().execution_requests, [] as [alloy_primitives::Bytes; 0]);
    let some = changed(|response| response["execution_requests"] = json!(["0x00aa", "0x02bb"]));
    assert_eq!(some.unwrap().execution_requests.len(), 2);
}

#[test]
fn blobs_commitments_and_proofs_go_together() {
    let point = json!(FixedBytes::<48>::ZERO);
    let blob = json!(Blob::ZERO);
    let bundle = |commitments: usize, proofs: usize, blobs: usize| {
        changed(|response| {
            response["blobs_bundle"] = json!({
                "commitments": vec![&point; commitments],
                "proofs": vec![&point; proofs],
                "blobs": vec![&blob; blobs],
            });
        })
    };
    assert_eq!(bundle(2, 2, 2).unwrap().blobs_bundle.blobs.len(), 2);
    // Cell proofs.
    assert!(bundle(1, 128, 1).is_ok());
    for (commitments, proofs, blobs) in [(1, 1, 0), (1, 0, 1), (0, 1, 0), (2, 1, 2), (2, 3, 2)] {
        let read = bundle(commitments, proofs, blobs);
        assert!(
            matches!(read, Err(ResponseError::Bundle { .. })),
            "{commitments} {proofs} {blobs}"
        );
    }
    let short = changed(|response| {
        response["blobs_bundle"] =
            json!({ "commitments": [point], "proofs": [point], "blobs": ["0x00"] });
    });
    assert!(matches!(short, Err(ResponseError::BlobSize { index: 0, bytes: 1 })));
}

#[test]
fn a_list_that_no_block_has_is_refused_before_it_costs_anything() {
    const FLOOD: usize = 81_810;
    let point = json!(FixedBytes::<48>::ZERO);
    let flooded = |name: &str, element: Value, times: usize| {
        let mut response = response();
        *response.pointer_mut(name).unwrap() = json!(vec![element; times]);
        let decoded = PayloadResponse::decode(response.to_string().as_bytes());
        std::error::Error::source(&decoded.unwrap_err()).unwrap().to_string()
    };
    let withdrawal = response()["execution_payload"]["withdrawals"][0].clone();
    for (name, element, limit) in [
        ("/blobs_bundle/blobs", json!(""), 128),
        ("/blobs_bundle/commitments", point.clone(), 128),
        ("/blobs_bundle/proofs", point.clone(), 16_384),
        ("/execution_payload/transactions", json!("0x00"), 65_536),
        ("/execution_payload/withdrawals", withdrawal, 256),
        ("/execution_requests", json!(""), 256),
    ] {
        let error = flooded(name, element.clone(), FLOOD);
        assert!(error.contains(&format!("a list of more than {limit}")), "{name}: {error}");
        // Of those it takes nothing is wrong with the number.
        let whole = changed(|response| {
            *response.pointer_mut(name).unwrap() = json!(vec![&element; limit]);
        });
        assert!(matches!(whole, Ok(_) | Err(ResponseError::Bundle { .. })), "{name}");
    }
    let empty = changed(|response| {
        response["blobs_bundle"] = json!({
            "commitments": vec![&point; 128], "proofs": vec![&point; 128], "blobs": vec![""; 128],
        });
    });
    assert!(matches!(empty, Err(ResponseError::BlobSize { index: 0, bytes: 0 })));
}

#[test]
fn an_error_does_not_repeat_an_answer() {
    let long = "x".repeat(1_000_000);
    let read = changed(|response| response["execution_requests"] = json!([long]));
    let error = format!("{:?}", read.unwrap_err());
    assert!(error.len() < 400, "{}", error.len());
}

#[test]
fn errors_and_health_are_one_line() {
    let error = ErrorBody { code: 403, message: "validator not whitelisted".to_owned() };
    let text = "{\"code\":403,\"message\":\"validator not whitelisted\"}\n";
    assert_eq!(error.to_json(), text.as_bytes());
    let health = HealthBody { is_ready: true, is_syncing: false, el_connected: true };
    let text = "{\"is_ready\":true,\"is_syncing\":false,\"el_connected\":true}\n";
    assert_eq!(health.to_json(), text.as_bytes());
}

#[test]
fn an_address_is_made_of_the_uncompressed_key() {
    let key = "0x93247f2209abcacf57b75a51dafae777f9dd38bc7053d1af526f220a7489a6d3\
               a2753e5f3e8b1cfe39b56f43611df74a";
    let key: ValidatorPubkey = key.parse().unwrap();
    let address = key.address().unwrap();
    assert_eq!(address.to_string(), "694d8b724542af61cc8216a37e6eef7fa0f8dd5d");
    assert_eq!("694D8B724542AF61CC8216A37E6EEF7FA0F8DD5D".parse(), Ok(address));
    assert!(ValidatorPubkey([0x11; 48]).address().is_err());
}

#[test]
fn a_fork_has_the_number_that_consensus_clients_give_it() {
    let fork = |berachain: bool, timestamp| {
        let mut genesis = json!({
            "config": {
                "chainId": 80_087, "homesteadBlock": 0, "eip150Block": 0, "eip155Block": 0,
                "eip158Block": 0, "byzantiumBlock": 0, "constantinopleBlock": 0,
                "petersburgBlock": 0, "istanbulBlock": 0, "berlinBlock": 0, "londonBlock": 0,
                "terminalTotalDifficulty": 0, "shanghaiTime": 0, "cancunTime": 0,
                "pragueTime": 20, "osakaTime": 40,
            },
            "gasLimit": "0x1c9c380", "difficulty": "0x0", "alloc": {},
        });
        if berachain {
            genesis["config"]["berachain"] = json!({
                "prague1": {
                    "time": 30, "baseFeeChangeDenominator": 48, "minimumBaseFeeWei": 0,
                    "polDistributorAddress": "0x4200000000000000000000000000000000000042",
                },
                "prague2": { "time": 30, "minimumBaseFeeWei": 0 },
            });
        }
        let spec = ChainSpec::from_genesis_json(&genesis.to_string()).unwrap();
        ForkVersion::at(&spec, timestamp).to_string()
    };
    for (timestamp, ethereum, berachain) in [
        (10, "0x04000000", "0x04010000"),
        (20, "0x05000000", "0x05000000"),
        (30, "0x05000000", "0x05010000"),
        (40, "0x06000000", "0x06000000"),
    ] {
        assert_eq!((fork(false, timestamp), fork(true, timestamp)), {
            (ethereum.to_owned(), berachain.to_owned())
        });
    }
}
