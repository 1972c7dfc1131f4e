//! Every branch of a request, in the order in which they are checked.

use std::fmt::Write;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use preconf_payload_api::{HealthBody, PayloadRequest};
use preconf_wire::payload::Absence;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    builder::{Reply, payload, with_blobs},
    world::{Answer, KEYS, NOW, REQUEST, SLOT, SOON, World, start, token, whitelist},
};

/// What beacon-kit's server sends for the payload of the scripted builder.
const GOLDEN: &str = include_str!("../../../../crates/payload-api/testdata/response.json");

/// The token of the protocol's example, made at `NOW` with the first validator's secret.
const EXAMPLE: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpYXQiOjE3NjAwMDAwMDB9.\
                       XcnBnmNTRgXN3KXyI5yErw9rnOLqpuekqXECxlvtODA";

fn assert_refused(answer: &Answer, status: u16, message: &str) {
    let body = format!("{{\"code\":{status},\"message\":\"{message}\"}}\n");
    assert_eq!((answer.status, answer.body.as_str()), (status, body.as_str()));
    assert!(answer.head.contains("content-type: application/json"), "{}", answer.head);
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

fn made(algorithm: Algorithm, claims: &Value) -> String {
    let bytes = alloy_primitives::hex::decode(&crate::world::SECRETS[0][2..]).unwrap();
    let key = EncodingKey::from_secret(&bytes);
    jsonwebtoken::encode(&Header::new(algorithm), claims, &key).unwrap()
}

#[tokio::test]
async fn a_validator_whose_turn_it_is_gets_its_block_to_the_byte() {
    let world = World::new().await;

    let answer = world.ask(0, REQUEST).await;

    assert_eq!((answer.status, answer.body.as_str()), (200, GOLDEN));
    assert!(answer.head.contains("content-type: application/json"));
    assert!(answer.head.contains(&format!("content-length: {}", GOLDEN.len())));
    let asked = world.builder.asked.lock().clone();
    let wanted = PayloadRequest {
        slot: SLOT,
        parent_block_root: [0x0f, 0x5c].repeat(16)[..].try_into().unwrap(),
    };
    assert_eq!(asked, [wanted]);
    world.until("it is counted", || world.results("ok") == 1).await;
    assert_eq!(world.count("proposer_checks_total{matched=\"true\"}"), 1);
    assert_eq!(world.count("payload_request_seconds_count{result=\"ok\"}"), 1);
    assert_eq!(world.count("builder_seconds_count"), 1);
    world.end().await;
}

#[tokio::test]
async fn whoever_does_not_post_is_told_so_before_anything_else() {
    let world = World::new().await;
    for method in ["GET", "PUT", "DELETE"] {
        let answer = world.send(method, "/eth/v1/preconf/payload", "", "").await;
        assert_refused(&answer, 405, "method not allowed");
    }
    assert_eq!(world.results("method_not_allowed"), 3);
    world.end().await;
}

#[tokio::test]
async fn without_a_token_of_the_right_form_nobody_is_heard() {
    let world = World::new().await;
    // Nor is a body read: it is too large.
    let large = "x".repeat(4_000);

    let answer = world.post("", &large).await;
    assert_refused(&answer, 401, "unauthorized: missing Authorization header");
    let answer = world.post("Authorization: \r\n", REQUEST).await;
    assert_refused(&answer, 401, "unauthorized: missing Authorization header");

    let token = token(0);
    let forms = [token.clone(), "Bearer".into(), format!("Basic {token}"), "\u{e9} x".into()];
    for form in &forms {
        let answer = world.post(&format!("Authorization: {form}\r\n"), &large).await;
        assert_refused(&answer, 401, "unauthorized: invalid Authorization header format");
    }
    assert_eq!(world.results("unauthorized"), 6);
    world.end().await;
}

#[tokio::test]
async fn a_token_is_good_for_five_minutes_either_way_with_any_hmac() {
    let world = World::new().await;
    let good = [
        made(Algorithm::HS256, &json!({ "iat": NOW })),
        made(Algorithm::HS384, &json!({ "iat": NOW - 300 })),
        made(Algorithm::HS512, &json!({ "iat": NOW + 300, "aud": "x", "sub": 1 })),
        made(Algorithm::HS256, &json!({ "iat": NOW as f64 + 0.5 })),
        made(Algorithm::HS256, &json!({ "iat": NOW, "exp": NOW + 1, "nbf": NOW })),
    ];
    for token in &good {
        assert_eq!(world.post(&bearer(token), REQUEST).await.status, 200, "{token}");
    }
    let mut forged = made(Algorithm::HS256, &json!({ "iat": NOW }));
    forged.replace_range(forged.len() - 6.., "AAAAAA");
    let bad = [
        made(Algorithm::HS256, &json!({ "iat": NOW - 301 })),
        made(Algorithm::HS256, &json!({ "iat": NOW + 301 })),
        made(Algorithm::HS256, &json!({})),
        made(Algorithm::HS256, &json!({ "iat": NOW.to_string() })),
        made(Algorithm::HS256, &json!({ "iat": NOW, "exp": NOW })),
        made(Algorithm::HS256, &json!({ "iat": NOW, "nbf": NOW + 1 })),
        forged,
        // {"alg":"none","typ":"JWT"} . {"iat":1760000000} .
        "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJpYXQiOjE3NjAwMDAwMDB9.".to_owned(),
        "a.b.c".to_owned(),
        "x".repeat(5_000),
        "\u{e9}".to_owned(),
    ];
    for token in &bad {
        let answer = world.post(&bearer(token), REQUEST).await;
        assert_refused(&answer, 401, "unauthorized: invalid or unknown JWT token");
    }
    assert_eq!(world.results("unauthorized"), bad.len() as u64);
    world.end().await;
}

#[tokio::test]
async fn the_protocols_example_is_accepted_at_its_time_and_refused_now() {
    let world = World::new().await;
    assert_eq!(world.post(&bearer(EXAMPLE), REQUEST).await.status, 200);
    // The scheme's case does not matter.
    let lower = format!("Authorization: bEARER {EXAMPLE}\r\n");
    assert_eq!(world.post(&lower, REQUEST).await.status, 200);
    world.end().await;

    let directory = crate::world::directory();
    let context = preconf_chassis::Context::for_test();
    let prepared = crate::world::prepare(&directory, &[]).unwrap();
    let addresses = start(prepared, &context).await;
    let request = format!(
        "POST /eth/v1/preconf/payload HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{}\
         Content-Length: 0\r\n\r\n",
        bearer(EXAMPLE)
    );
    let answer = crate::world::exchange(addresses.payloads, request.as_bytes()).await;
    assert_refused(&answer, 401, "unauthorized: invalid or unknown JWT token");
    context.finish(SOON).await.map_err(|exit| exit.to_string()).unwrap();
}

#[tokio::test]
async fn a_validator_that_is_not_on_the_whitelist_is_refused_before_its_body_is_read() {
    let world = World::new().await;
    world.reload("whitelist.json", &whitelist(&KEYS[..1]), 0o644, "ok").await;

    let answer = world.ask(1, &"x".repeat(4_000)).await;

    assert_refused(&answer, 403, "validator not whitelisted");
    assert_eq!(world.results("not_whitelisted"), 1);
    assert_eq!(world.ask(0, REQUEST).await.status, 200);
    world.end().await;
}

#[tokio::test]
async fn a_body_is_too_large_only_if_its_end_is_not_seen() {
    let world = World::new().await;
    let open = format!("{{\"a\":\"{}", "x".repeat(2_100));
    for body in [open.as_str(), &" ".repeat(2_049)] {
        assert_refused(&world.ask(0, body).await, 413, "request body too large");
    }
    assert_eq!(world.results("request_too_large"), 2);
    // The first value counts; what follows is not looked at, however long it is.
    let followed = format!("{REQUEST}{}", "x".repeat(3_000));
    assert_eq!(world.ask(0, &followed).await.status, 200);
    world.end().await;
}

#[tokio::test]
async fn a_body_that_is_no_request_is_refused_with_the_reason() {
    let world = World::new().await;
    assert_refused(&world.ask(0, "").await, 400, "invalid request body: EOF");
    assert_refused(&world.ask(0, "{\\\"slot").await, 400, {
        "invalid request body: malformed request: key must be a string at line 1 column 2"
    });
    assert_refused(&world.ask(0, "{\"slot\"").await, 400, "invalid request body: unexpected EOF");
    let slots =
        ["100", "\"100\"", "null", "\"0x\"", "\"0x064\"", "\"0x10000000000000000\"", "\"0xg\""];
    for slot in slots {
        let answer = world.ask(0, &format!("{{\"slot\":{slot}}}")).await;
        assert_eq!(answer.status, 400, "{slot}");
        assert!(answer.message().starts_with("invalid request body: "), "{slot}");
    }
    for root in ["\"0x00\"", "\"00\"", "null", "1"] {
        let answer = world.ask(0, &format!("{{\"parent_block_root\":{root}}}")).await;
        assert_eq!(answer.status, 400, "{root}");
    }
    assert_eq!(world.results("bad_request"), 3 + slots.len() as u64 + 4);
    world.end().await;
}

#[tokio::test]
async fn only_the_proposer_of_the_slot_gets_its_block() {
    let world = World::new().await;
    // Nothing is asked of the builder for anybody else: asking ends the build.
    assert_refused(&world.ask(1, REQUEST).await, 403, "not the expected proposer for this slot");
    // Fields that are missing are zero.
    for body in ["{}", "null", "{\"slot\":\"0x65\"}"] {
        assert_refused(&world.ask(0, body).await, 403, "not the expected proposer for this slot");
    }
    assert_eq!(world.results("wrong_proposer"), 4);
    assert_eq!(world.count("proposer_checks_total{matched=\"false\"}"), 4);
    assert_eq!(world.builder.asked.lock().len(), 0);
    world.end().await;
}

#[tokio::test]
async fn a_payload_that_is_not_there_is_refused_with_the_reason() {
    let world = World::new().await;
    let cases = [
        (Absence::NoBuild, "payload not available: unable to find payload ID in cache"),
        (
            Absence::NotAvailable,
            "payload not available: payload does not exist or is not available",
        ),
        (Absence::Unspecified, "payload not available"),
    ];
    for (absence, message) in cases {
        world.builder.will(Reply::Absent(absence));
        assert_refused(&world.ask(0, REQUEST).await, 404, message);
    }
    assert_eq!(world.results("payload_not_found"), 3);
    // The same validator may ask again.
    world.builder.will(Reply::Payload(Box::new(payload())));
    assert_eq!(world.ask(0, REQUEST).await.body, GOLDEN);
    world.end().await;
}

#[tokio::test]
async fn a_builder_that_fails_or_is_silent_is_our_fault_and_not_explained() {
    let world = World::with(&["--builder-timeout-ms", "50"]).await;
    for reply in [Reply::Failure, Reply::Silence] {
        world.builder.will(reply);
        assert_refused(&world.ask(0, REQUEST).await, 500, "internal server error");
    }
    world.builder.context.finish(SOON).await.map_err(|exit| exit.to_string()).unwrap();
    assert_refused(&world.ask(0, REQUEST).await, 500, "internal server error");
    assert_eq!(world.results("internal_error"), 3);
    world.end().await;
}

/// A good request of a validator that has not read anything yet.
async fn begun(world: &World) -> TcpStream {
    let mut stream = TcpStream::connect(world.addresses.payloads).await.unwrap();
    let request = format!(
        "POST /eth/v1/preconf/payload HTTP/1.1\r\nHost: x\r\n{}Content-Length: {}\r\n\r\n{REQUEST}",
        bearer(&token(0)),
        REQUEST.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn a_validator_that_goes_away_before_the_end_is_counted_as_such() {
    let world = World::new().await;
    let mut large = payload();
    // More than the buffers of a connection hold.
    large.execution_payload.payload_inner.payload_inner.transactions =
        vec![vec![2; 4 << 20].into(); 3];
    world.builder.will(Reply::Payload(Box::new(large)));

    let mut stream = begun(&world).await;
    stream.read_exact(&mut [0; 64]).await.unwrap();
    drop(stream);

    world.until("it is counted", || world.results("response_write_error") == 1).await;
    assert_eq!(world.results("ok"), 0);
    world.end().await;
}

#[tokio::test]
async fn a_validator_that_does_not_wait_for_its_payload_is_counted_as_such() {
    let world = World::new().await;
    world.builder.will(Reply::Silence);
    let stream = begun(&world).await;
    world.until("the builder is asked", || !world.builder.asked.lock().is_empty()).await;
    assert_eq!(world.count("builder_seconds_count"), 0);

    drop(stream);

    world.until("it is counted", || world.results("gave_up") == 1).await;
    assert_eq!(world.count("payload_request_seconds_count{result=\"gave_up\"}"), 1);
    assert_eq!(world.count("builder_seconds_count"), 1);
    // Whatever comes next has a result of its own, and this one has no other.
    world.builder.will(Reply::Payload(Box::new(payload())));
    assert_eq!(world.ask(0, REQUEST).await.status, 200);
    world.until("it is counted", || world.results("ok") == 1).await;
    assert_eq!(world.results("internal_error") + world.results("response_write_error"), 0);
    assert_eq!(world.results("gave_up"), 1);
    world.end().await;
}

#[tokio::test]
async fn blobs_come_with_their_block() {
    let world = World::new().await;
    let six = with_blobs(6);
    world.builder.will(Reply::Payload(Box::new(six.clone())));

    let answer = world.ask(0, REQUEST).await;

    let read = preconf_payload_api::PayloadResponse::decode(answer.body.as_bytes()).unwrap();
    assert_eq!(read, six);
    world.end().await;
}

#[tokio::test]
async fn replicas_serve_the_same_block() {
    let world = World::new().await;
    let context = preconf_chassis::Context::for_test();
    // Its socket is its own; everything else is the first one's.
    let socket = format!("unix:{}", world.directory.path().join("second.sock").display());
    let flags = ["--proposers-listen", socket.as_str()];
    let prepared = crate::world::prepare_with(&world.directory, &flags).unwrap();
    let addresses = start(prepared.with_clock(|| NOW), &context).await;
    let second = World {
        directory: tempfile::tempdir().unwrap(),
        builder: world.builder.clone(),
        context,
        addresses,
    };
    second.propose(SLOT, 0, 0).await;

    assert_eq!(second.ask(0, REQUEST).await.body, world.ask(0, REQUEST).await.body);

    second.context.finish(SOON).await.map_err(|exit| exit.to_string()).unwrap();
    world.end().await;
}

#[tokio::test]
async fn paths_are_served_with_a_slash_too_many_and_others_are_not() {
    let world = World::new().await;
    let headers = bearer(&token(0));
    for (path, status) in [
        ("/eth/v1/preconf/payload", 200),
        ("/eth/v1/preconf/payload/", 200),
        ("/eth/v1/preconf/payload/x", 404),
        // What beacon-kit's client asks if the URL that it was given ends with a slash.
        ("//eth/v1/preconf/payload", 200),
        ("///eth/v1/preconf/payload", 404),
        ("/eth/v1/preconf", 404),
        ("/", 404),
    ] {
        assert_eq!(world.send("POST", path, &headers, REQUEST).await.status, status, "{path}");
    }
    let other = world.send("GET", "/metrics", "", "").await;
    assert_eq!((other.status, other.body.as_str()), (404, "404 page not found\n"));
    world.end().await;
}

#[tokio::test]
async fn health_is_what_the_builder_says() {
    let world = World::new().await;
    let ask = async || world.send("GET", "/eth/v1/preconf/health", "", "").await;
    let healthy = "{\"is_ready\":true,\"is_syncing\":false,\"el_connected\":true}\n";
    until_body(&world, 200, healthy).await;
    assert!(ask().await.head.contains("content-type: application/json"));
    for path in ["/eth/v1/preconf/health/", "//eth/v1/preconf/health"] {
        assert_eq!(world.send("GET", path, "", "").await.status, 200, "{path}");
    }

    for bits in 0..8_u8 {
        let [is_ready, is_syncing, el_connected] = [1, 2, 4].map(|bit| bits & bit != 0);
        *world.builder.health.lock() = HealthBody { is_ready, is_syncing, el_connected };
        let status = if is_ready && !is_syncing && el_connected { 200 } else { 503 };
        let mut body = String::new();
        writeln!(
            body,
            "{{\"is_ready\":{is_ready},\"is_syncing\":{is_syncing},\"el_connected\":{el_connected}}}"
        )
        .unwrap();
        until_body(&world, status, &body).await;
    }
    for method in ["POST", "PUT"] {
        let answer = world.send(method, "/eth/v1/preconf/health", "", "").await;
        assert_refused(&answer, 405, "method not allowed");
    }
    assert_eq!(world.send("HEAD", "/eth/v1/preconf/health", "", "").await.status, 405);

    world.builder.context.finish(SOON).await.map_err(|exit| exit.to_string()).unwrap();
    let gone = "{\"is_ready\":false,\"is_syncing\":false,\"el_connected\":false}\n";
    until_body(&world, 503, gone).await;
    world.end().await;
}

/// Asks for health until it is this.
async fn until_body(world: &World, status: u16, body: &str) {
    let asking = async {
        let mut looks = tokio::time::interval(std::time::Duration::from_millis(20));
        loop {
            looks.tick().await;
            let answer = world.send("GET", "/eth/v1/preconf/health", "", "").await;
            if (answer.status, answer.body.as_str()) == (status, body) {
                return;
            }
        }
    };
    assert!(tokio::time::timeout(SOON, asking).await.is_ok(), "never {body}");
}
