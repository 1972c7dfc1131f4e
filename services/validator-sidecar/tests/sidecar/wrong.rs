//! Whatever a sequencer says, the consensus client gets a valid block: its own.

use alloy_primitives::{Address, B256, Bytes};
use preconf_chain::Header;
use preconf_engine::payload::{BesidePayload, requests_hash};
use preconf_payload_api::PayloadResponse;
use serde_json::{Value, json};

use crate::{
    sequencer::{Answer, Sequencer},
    world::{World, forged},
};

/// A sidecar that has nothing but this sequencer hands out the validator's own block, though it has
/// time to look at what it is sent.
async fn is_left(world: &World, what: &str, answer: Answer) {
    is_left_within(world, what, answer, "10000").await;
}

async fn is_left_within(world: &World, what: &str, answer: Answer, millis: &str) {
    let sequencer = Sequencer::start(answer).await;
    let sidecar = world.sidecar(&[sequencer.url()], &["--fetch-budget-ms", millis]).await;
    assert!(!world.propose(&sidecar).await, "{what}");
    assert!(sequencer.asked() > 0, "{what}");
    sidecar.stop().await;
}

fn edited(good: &PayloadResponse, edit: impl FnOnce(&mut Value)) -> Answer {
    let mut json = serde_json::from_slice(&good.to_json()).unwrap();
    edit(&mut json);
    Answer::ok(json.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_no_payload_is_left() {
    let world = World::start().await;
    let good = world.built(&world.attributes).await;
    let body = good.to_json();
    let cases = [
        ("null", Answer::ok("null")),
        ("nothing", Answer::ok("")),
        ("not JSON", Answer::ok([0xff; 100])),
        ("null payload", edited(&good, |json| json["execution_payload"] = Value::Null)),
        ("null requests", edited(&good, |json| json["execution_requests"] = Value::Null)),
        ("null transactions", {
            edited(&good, |json| json["execution_payload"]["transactions"] = Value::Null)
        }),
        ("null blob", {
            edited(&good, |json| {
                let point = format!("0x{}", "c0".repeat(48));
                json["blobs_bundle"] =
                    json!({ "commitments": [point], "proofs": [point], "blobs": [null] });
            })
        }),
        ("a blob that nobody named", {
            edited(&good, |json| {
                let (point, blob) = (format!("0x{}", "c0".repeat(48)), "00".repeat(131_072));
                let blob = format!("0x{blob}");
                json["blobs_bundle"] =
                    json!({ "commitments": [point], "proofs": [point], "blobs": [blob] });
            })
        }),
        ("a great many empty blobs", {
            edited(&good, |json| {
                let points = vec![format!("0x{}", "c0".repeat(48)); 81_810];
                let blobs = vec![""; 81_810];
                json["blobs_bundle"] =
                    json!({ "commitments": points, "proofs": points, "blobs": blobs });
            })
        }),
        ("truncated", Answer::ok(&body).truncated()),
        ("deep", Answer::ok("[".repeat(100_000))),
        ("hanging up", Answer::HangUp),
        ("not HTTP", Answer::Bytes(b"SSH-2.0-OpenSSH_9.9\r\n".to_vec())),
        ("403", Answer::refusal("403 Forbidden")),
        ("404", Answer::refusal("404 Not Found")),
        ("500", Answer::refusal("500 Internal Server Error")),
        ("204", Answer::http("204 No Content", "", "")),
    ];
    for (what, answer) in cases {
        is_left(&world, what, answer).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_an_end_is_left() {
    let world = World::start().await;
    let endless = |first: &str, again: &str| {
        Answer::Endless(first.as_bytes().to_vec(), again.as_bytes().to_vec())
    };
    let (ok, spaces) = ("HTTP/1.1 200 OK\r\n", " ".repeat(64 * 1024));
    let chunk = format!("10000\r\n{spaces}\r\n");
    let cases = [
        ("chunks", endless(&format!("{ok}transfer-encoding: chunked\r\n\r\n"), &chunk)),
        ("no length", endless(&format!("{ok}\r\n"), &spaces)),
        ("a length of terabytes", {
            endless(&format!("{ok}content-length: 10000000000000\r\n\r\n"), &spaces)
        }),
        ("a refusal", endless("HTTP/1.1 403 Forbidden\r\n\r\n", &spaces)),
        ("headers", endless(ok, &format!("x: {}\r\n", "y".repeat(1_000)))),
        ("one header", endless(&format!("{ok}x: "), &"y".repeat(1_000))),
    ];
    for (what, answer) in cases {
        is_left(&world, what, answer).await;
    }
    // These are no answer yet.
    let hints = endless("", "HTTP/1.1 103 Early Hints\r\n\r\n");
    is_left_within(&world, "hints", hints, "500").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_answer_says_of_itself_does_not_matter() {
    let world = World::start().await;
    let good = world.built(&world.attributes).await.to_json();
    // A few bytes that would be a gigabyte: nothing is ever unpacked.
    let packed = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 0xff].repeat(100);
    let packed = Answer::http("200 OK", "content-encoding: gzip\r\n", packed);
    is_left(&world, "packed", packed).await;
    let page = Answer::http("200 OK", "content-type: text/html\r\n", "<html></html>");
    is_left(&world, "a page", page).await;
    let unnamed = Answer::http("200 OK", "content-type: text/html\r\n", good);
    let sequencer = Sequencer::start(unnamed).await;
    let sidecar = world.sidecar(&[sequencer.url()], &["--fetch-budget-ms", "10000"]).await;
    assert!(world.propose(&sidecar).await);
    sidecar.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_of_another_block_is_left() {
    let world = World::start().await;
    let good = world.built(&world.attributes).await;
    let beside = BesidePayload {
        parent_beacon_block_root: world.attributes.parent_beacon_block_root,
        requests_hash: Some(requests_hash(&good.execution_requests).unwrap()),
        prev_proposer_pubkey: None,
    };
    let with = |change: fn(&mut Header)| Answer::ok(forged(&good, &beside, change).to_json());
    let mut elsewhere = world.attributes.clone();
    elsewhere.parent_beacon_block_root = Some(B256::repeat_byte(0x44));
    let mut later = world.attributes.clone();
    later.timestamp += 2;
    let mut requested = good.clone();
    requested.execution_requests = vec![Bytes::from_static(&[1, 2, 3])];
    let mut unordered = good.clone();
    unordered.execution_requests = vec![Bytes::from_static(&[1]), Bytes::new()];
    let mut other_fork = good.clone();
    other_fork.fork_version.0[0] += 1;
    let berachain = World::on_berachain().await;
    let mut of_another_chain = berachain.built(&berachain.attributes).await;
    of_another_chain.fork_version = good.fork_version;
    let cases = [
        ("another chain", Answer::ok(of_another_chain.to_json())),
        ("another parent", with(|header| header.parent_hash = B256::repeat_byte(9))),
        ("another number", with(|header| header.number += 1)),
        ("the parent's time", with(|header| header.timestamp = 100)),
        ("another randao", with(|header| header.mix_hash = B256::ZERO)),
        ("an invalid state root", with(|header| header.state_root = B256::ZERO)),
        ("too much gas", with(|header| header.gas_limit *= 2)),
        ("another beacon block", Answer::ok(world.built(&elsewhere).await.to_json())),
        ("too late a time", Answer::ok(world.built(&later).await.to_json())),
        ("other requests", Answer::ok(requested.to_json())),
        ("requests that are none", Answer::ok(unordered.to_json())),
        ("another fork", Answer::ok(other_fork.to_json())),
        ("another hash", {
            edited(&good, |json| json["execution_payload"]["blockHash"] = json!(B256::ZERO))
        }),
        ("a transaction that is none", {
            edited(&good, |json| json["execution_payload"]["transactions"] = json!(["0x05"]))
        }),
        ("withdrawals", {
            edited(&good, |json| {
                json["execution_payload"]["withdrawals"] = json!([{
                    "index": "0x1", "validatorIndex": "0x1", "address": Address::ZERO,
                    "amount": "0x1"
                }]);
            })
        }),
    ];
    for (what, answer) in cases {
        is_left(&world, what, answer).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_an_answer_that_takes_too_long() {
    let world = World::start().await;
    let body = world.built(&world.attributes).await.to_json();
    is_left_within(&world, "silence", Answer::Silence, "500").await;
    is_left_within(&world, "drip", Answer::ok(body).drip(), "500").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_too_large_is_not_read() {
    let world = World::start().await;
    let mut body = world.built(&world.attributes).await.to_json();
    let limit = body.len();
    body.resize(10 * limit, b' ');
    let sequencer = Sequencer::start(Answer::ok(body)).await;
    let (limit, budget) = (limit.to_string(), ["--fetch-budget-ms", "10000"]);
    let flags = ["--max-response-bytes", &limit, budget[0], budget[1]];
    let sidecar = world.sidecar(&[sequencer.url()], &flags).await;
    assert!(!world.propose(&sidecar).await);
    assert!(sequencer.asked() > 0);
    sidecar.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_not_followed() {
    let world = World::start().await;
    let good = Sequencer::start(Answer::ok(world.built(&world.attributes).await.to_json())).await;
    for status in ["302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let location = format!("location: {}/eth/v1/preconf/payload\r\n", good.url());
        is_left(&world, status, Answer::http(status, &location, "")).await;
    }
    assert_eq!(good.asked(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_listens_nobody_is_waited_for() {
    let world = World::start().await;
    let gone = {
        let sequencer = Sequencer::start(Answer::HangUp).await;
        sequencer.url()
    };
    let sidecar = world.sidecar(&[gone, "http://127.0.0.1:1".to_owned()], &[]).await;
    for _ in 0..3 {
        assert!(!world.propose(&sidecar).await);
    }
    sidecar.stop().await;
}
