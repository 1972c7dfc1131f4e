//! What passes the proxy, what it shows to its hooks, and what it answers for them.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::body::Body;
use http::{Request, StatusCode};
use preconf_engine::{EngineClient, EngineProxy, ProxyConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tower::ServiceExt;

use crate::arrangement::{
    HASH, Mood, OURS, Options, PATIENCE, THEIRS, arrange, arrange_with, by_method, forkchoice,
    forkchoice_answer, get_payload, inbound, new_payload, now, outbound, serve,
};

// ---- forwarding -----------------------------------------------------------------------------

#[tokio::test]
async fn what_is_not_ours_passes_byte_for_byte_whatever_its_id() {
    let arrangement = arrange(Options { mood: Mood::Answer, ..Options::default() }).await;
    let mut sent = Vec::new();
    for id in ["1", "-1", "1.5", "\"x\"", "null", "99999999999999999999"] {
        for method in ["eth_chainId", "engine_getPayloadV9", "engine_forkchoiceUpdatedV3P11"] {
            let body = format!(
                "{{ \"jsonrpc\":\"2.0\",\"method\":\"{method}\",\n\"params\":null,\"id\":{id}}} "
            );
            let (status, answer) = arrangement.send(&body).await;
            assert_eq!((status, answer), by_method(&body));
            sent.push(body);
        }
    }
    assert_eq!(arrangement.asked(), sent);
    assert!(arrangement.seen().iter().all(|seen| seen == "unseen any"));
}

#[tokio::test]
async fn batches_notifications_and_rubbish_pass_byte_for_byte() {
    let arrangement = arrange(Options { mood: Mood::Answer, ..Options::default() }).await;
    let batch = format!("[{},{}]", get_payload(4, THEIRS), get_payload(3, THEIRS));
    let notification = r#"{"method":"engine_newPayloadV4","params":[]}"#;
    for body in [batch.as_str(), notification, "{", "", "\u{1f980}"] {
        assert_eq!(arrangement.send(body).await.0, StatusCode::OK);
    }
    assert_eq!(arrangement.asked(), [batch.as_str(), notification, "{", "", "\u{1f980}"]);
    assert!(arrangement.seen().is_empty());
}

#[tokio::test]
async fn every_error_of_the_client_passes_with_http_200_whatever_was_called() {
    for code in [-32700, -32600, -32601, -32602, -32603, -32000, -38001, -38002, -38003, -38004] {
        let error = format!(
            r#"{{"jsonrpc":"2.0","error":{{"code":{code},"message":"x","data":{{"a":1e2}}}},"id":1}}"#
        );
        let script = {
            let error = error.clone();
            move |_: &str| (StatusCode::OK, error.clone())
        };
        let arrangement = arrange_with(Options::default(), script).await;
        for body in [forkchoice(5), new_payload(), get_payload(4, OURS), "{}".to_owned()] {
            assert_eq!(arrangement.send(&body).await, (StatusCode::OK, error.clone()), "{body}");
        }
    }
}

#[tokio::test]
async fn the_status_and_content_type_of_the_client_are_handed_on() {
    let script = |_: &str| (StatusCode::SERVICE_UNAVAILABLE, "starting".to_owned());
    let arrangement = arrange_with(Options::default(), script).await;
    let token = inbound().sign(now());
    let (status, headers, body) = arrangement.send_as(&token, &forkchoice(5)).await;
    assert_eq!((status, body.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "starting"));
    assert_eq!(headers["content-type"], "application/json; charset=x");
    assert!(!arrangement.seen().contains(&"forkchoice 5".to_owned()));
}

#[tokio::test]
async fn a_client_that_is_down_is_a_bad_gateway_that_echoes_the_id() {
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let client = EngineClient::new(&format!("http://{gone}").parse().unwrap(), outbound()).unwrap();
    let mut arrangement = arrange(Options::default()).await;
    let hooks = Arc::clone(&arrangement.hooks);
    let proxy = EngineProxy::new(client, inbound(), hooks, ProxyConfig::default());
    arrangement.address = serve(&mut arrangement.servers, proxy.router()).await;

    let (status, body) = arrangement.send(r#"{"id":"a","method":"eth_chainId"}"#).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    assert!(body.contains(r#""id":"a","error":{"code":-32603"#), "{body}");
    assert_eq!(proxy.status().unanswered, 1);
}

#[tokio::test]
async fn a_client_that_does_not_answer_in_time_is_a_gateway_timeout() {
    let config =
        ProxyConfig { forward_deadline: Duration::from_millis(50), ..ProxyConfig::default() };
    let arrangement = arrange(Options { config, gated: true, ..Options::default() }).await;
    assert_eq!(arrangement.send(&forkchoice(5)).await.0, StatusCode::GATEWAY_TIMEOUT);
    // The lock on forkchoice updates is free again.
    arrangement.open_gate();
    assert_eq!(arrangement.send(&forkchoice(6)).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_refusal_of_our_token_is_not_blamed_on_the_caller() {
    let script = |_: &str| (StatusCode::UNAUTHORIZED, "missing token".to_owned());
    let arrangement = arrange_with(Options::default(), script).await;
    assert_eq!(arrangement.send(&forkchoice(5)).await.0, StatusCode::BAD_GATEWAY);
}

// ---- the door -------------------------------------------------------------------------------

#[tokio::test]
async fn a_bad_token_is_refused_and_nothing_is_forwarded() {
    let arrangement = arrange(Options::default()).await;
    let (stale, early) = (inbound().sign(now() - 62), inbound().sign(now() + 70));
    // {"alg":"none","typ":"JWT"}, with our claims and without a signature.
    let claims = inbound().sign(now()).split('.').nth(1).unwrap().to_owned();
    let unsigned = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{claims}.");
    for token in [&stale, &early, &unsigned, &outbound().sign(now()), "rubbish", ""] {
        let (status, _, body) = arrangement.send_as(token, &forkchoice(5)).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{body}");
    }
    assert!(arrangement.asked().is_empty());
    for clock in [now() - 58, now() + 58] {
        let (status, _, body) = arrangement.send_as(&inbound().sign(clock), &forkchoice(5)).await;
        assert_eq!(status, StatusCode::OK, "{body}");
    }
}

#[tokio::test]
async fn the_largest_body_has_128_mib_and_large_ones_pass_byte_for_byte() {
    let arrangement = arrange(Options::default()).await;
    let announced = |length: usize| {
        let token = inbound().sign(now());
        format!(
            "POST / HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\
             expect: 100-continue\r\ncontent-length: {length}\r\n\r\n"
        )
    };
    // Asked for with `100 Continue`, or refused before it is sent.
    for (length, answer) in [(128 << 20, "100 Continue"), ((128 << 20) + 1, "200 OK")] {
        let mut socket = tokio::net::TcpStream::connect(arrangement.address).await.unwrap();
        socket.write_all(announced(length).as_bytes()).await.unwrap();
        let mut bytes = [0; 1024];
        let count = tokio::time::timeout(PATIENCE, socket.read(&mut bytes)).await.unwrap();
        let said = std::str::from_utf8(&bytes[..count.unwrap()]).unwrap();
        assert!(said.contains(answer), "{length}: {said}");
    }

    let large = new_payload()
        .replace("\"extraData\":\"0x\"", &format!("\"extraData\":\"0x{}\"", "00".repeat(8 << 20)));
    let (status, answer) = arrangement.send(&large).await;
    assert_eq!((status, answer), by_method("newPayload"));
    assert!(arrangement.asked() == [large]);
}

#[tokio::test]
async fn a_body_above_the_limit_is_refused_with_and_without_a_length() {
    let config = ProxyConfig { body_limit: 100, ..ProxyConfig::default() };
    let arrangement = arrange(Options { config, ..Options::default() }).await;
    let (status, body) = arrangement.send(&" ".repeat(101)).await;
    assert_eq!(status, StatusCode::OK);
    assert!(body.contains(r#""id":null,"error":{"code":-32600"#), "{body}");

    let piece = format!("3c\r\n{}\r\n", " ".repeat(60));
    let request = format!(
        "POST / HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
         transfer-encoding: chunked\r\n\r\n{piece}{piece}0\r\n\r\n",
        inbound().sign(now()),
    );
    let mut socket = tokio::net::TcpStream::connect(arrangement.address).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    while !answer.contains("the body exceeds 100 bytes") {
        let mut bytes = [0; 1024];
        let count = tokio::time::timeout(PATIENCE, socket.read(&mut bytes)).await.unwrap();
        answer.push_str(std::str::from_utf8(&bytes[..count.unwrap()]).unwrap());
        assert_ne!(bytes[0], 0, "closed after {answer:?}");
    }

    assert_eq!(arrangement.send(&" ".repeat(100)).await.0, StatusCode::OK);
    assert_eq!(arrangement.asked().len(), 1);
}

// ---- hooks ----------------------------------------------------------------------------------

#[tokio::test]
async fn our_payload_id_replaces_theirs_and_the_rest_of_the_answer_stays() {
    let arrangement = arrange(Options { mood: Mood::Answer, ..Options::default() }).await;
    let (status, answer) = arrangement.send(&forkchoice(5)).await;
    let mut expected: serde_json::Value = serde_json::from_str(&forkchoice_answer(OURS)).unwrap();
    expected["id"] = 1.into();
    assert_eq!(status, StatusCode::OK);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&answer).unwrap(), expected);
    assert_eq!(arrangement.asked(), [forkchoice(5)]);
    assert_eq!(arrangement.seen(), ["forkchoice 5"]);
}

#[tokio::test]
async fn what_we_answer_has_the_id_as_it_was_written() {
    let arrangement = arrange(Options { mood: Mood::Answer, ..Options::default() }).await;
    for id in ["1", "-1", "1.50", "\"a\\u0062\"", "null", "340282366920938463463374607431768211456"]
    {
        for body in [forkchoice(5), get_payload(4, OURS)] {
            let body = body.replace("\"id\":1", &format!("\"id\":{id}"));
            let (status, answer) = arrangement.send(&body).await;
            let start = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"#);
            assert_eq!(status, StatusCode::OK);
            assert!(answer.starts_with(&start), "{id}: {answer}");
            assert!(answer.contains("ours") || answer.contains(OURS), "{id}: {answer}");
        }
    }
}

#[tokio::test]
async fn a_valid_head_without_an_id_is_built_upon_all_the_same() {
    // As a client answers for an ancestor of its head.
    let ancestor = forkchoice_answer(THEIRS).replace(&format!("\"{THEIRS}\""), "null");
    let script = move |_: &str| (StatusCode::OK, ancestor.clone());
    let options = Options { mood: Mood::Answer, ..Options::default() };
    let arrangement = arrange_with(options, script).await;
    let (_, answer) = arrangement.send(&forkchoice(5)).await;
    assert!(answer.contains(OURS), "{answer}");
    assert_eq!(arrangement.seen(), ["forkchoice 5"]);
    // There is no build of the client's behind it.
    *arrangement.hooks.mood.lock().unwrap() = Mood::Decline;
    arrangement.send(&get_payload(4, OURS)).await;
    assert_eq!(arrangement.asked().last(), Some(&get_payload(4, OURS)));
}

#[tokio::test]
async fn nothing_is_built_if_another_head_than_the_one_chosen_is_called_valid() {
    let other =
        forkchoice_answer(THEIRS).replace(HASH, &HASH.replace('1', "2").replace("0x2", "0x1"));
    let answer = other.clone();
    let options = Options { mood: Mood::Answer, ..Options::default() };
    let arrangement = arrange_with(options, move |_: &str| (StatusCode::OK, answer.clone())).await;
    assert_eq!(arrangement.send(&forkchoice(5)).await.1, other);
    arrangement.until_seen(1).await;
    assert_eq!(arrangement.seen(), ["unseen 0x11"]);
    assert_eq!(arrangement.proxy.status().not_understood, 1);
}

#[tokio::test]
async fn an_id_of_ours_is_never_sent_to_the_client_whatever_asks_for_its_payload() {
    let arrangement = arrange(Options { mood: Mood::Answer, ..Options::default() }).await;
    arrangement.send(&forkchoice(5)).await;
    let later = format!(
        "{{ \"id\": -1,\n\"params\": [ \"{OURS}\" , {{\"new\": 1e2}}], \"method\": \"engine_getPayloadV9\" }} "
    );
    let known = get_payload(4, OURS);
    let unrelated = format!(r#"{{"id":3,"method":"eth_call","params":["{OURS}"]}}"#);
    let batch = format!(" [ {known} ,{later}, {unrelated}, 5, [\"engine_getPayloadV4\"]]");
    for body in [&later, &batch] {
        arrangement.send(body).await;
        let sent = arrangement.asked().pop().unwrap();
        let expected = body.replace(&unrelated, "@").replace(OURS, THEIRS);
        assert_eq!(sent, expected.replace('@', &unrelated));
    }
    assert_eq!(arrangement.seen(), ["forkchoice 5"]);
}

#[tokio::test]
async fn a_hook_that_declines_leaves_the_answer_as_it_came() {
    let arrangement = arrange(Options::default()).await;
    assert_eq!(arrangement.send(&forkchoice(5)).await.1, forkchoice_answer(THEIRS));
    assert_eq!(arrangement.seen(), ["forkchoice 5"]);
}

#[tokio::test]
async fn an_error_or_a_head_that_is_not_valid_never_gets_our_payload_id() {
    let error =
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-38003,"message":"x","data":{"a":1e2}}}"#;
    let options = Options { mood: Mood::Answer, ..Options::default() };
    let arrangement = arrange_with(options.clone(), |_| (StatusCode::OK, error.to_owned())).await;
    assert_eq!(arrangement.send(&forkchoice(5)).await.1, error);
    arrangement.until_seen(1).await;
    assert_eq!(arrangement.seen(), ["unseen 0x11"]);

    let syncing = forkchoice_answer(THEIRS).replace("VALID", "SYNCING");
    let answer = syncing.clone();
    let arrangement = arrange_with(options, move |_| (StatusCode::OK, answer.clone())).await;
    assert_eq!(arrangement.send(&forkchoice(5)).await.1, syncing);
    assert_eq!(arrangement.seen(), ["forkchoice 5"]);
}

#[tokio::test]
async fn a_payload_is_answered_by_the_hook_without_asking_the_client() {
    let arrangement = arrange(Options { mood: Mood::Answer, ..Options::default() }).await;
    let odd = get_payload(4, OURS).replace("\"id\":1", "\"id\":-7");
    let (status, answer) = arrangement.send(&odd).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(answer, r#"{"jsonrpc":"2.0","id":-7,"result":{"ours": 1e2}}"#);
    assert!(arrangement.asked().is_empty());
    assert_eq!(arrangement.seen(), [format!("getPayload V4 {OURS}")]);
}

#[tokio::test]
async fn berachains_payload_is_asked_under_its_own_id_with_its_own_method() {
    let arrangement = arrange(Options { mood: Mood::Answer, ..Options::default() }).await;
    let key = format!(r#","parentProposerPubKey":"0x{}"}}]}}"#, "05".repeat(48));
    let update = forkchoice(5).replace("V3", "V3P11").replace("}]}", &key);
    let (_, answer) = arrangement.send(&update).await;
    assert!(answer.contains(OURS), "{answer}");
    *arrangement.hooks.mood.lock().unwrap() = Mood::Decline;
    let asked = get_payload(4, OURS).replace("V4", "V4P11");
    arrangement.send(&asked).await;
    let expected = asked.replace(OURS, THEIRS);
    let last: serde_json::Value =
        serde_json::from_str(arrangement.asked().last().unwrap()).unwrap();
    assert_eq!(last, serde_json::from_str::<serde_json::Value>(&expected).unwrap());
    assert_eq!(arrangement.seen(), ["forkchoice 5", &format!("getPayload V4P11 {OURS}")]);
}

#[tokio::test]
async fn a_payload_that_the_hook_declines_is_asked_from_the_client_under_its_own_id() {
    let arrangement = arrange(Options { mood: Mood::Answer, ..Options::default() }).await;
    arrangement.send(&forkchoice(5)).await;
    *arrangement.hooks.mood.lock().unwrap() = Mood::Decline;

    for version in [3, 4] {
        let (_, answer) = arrangement.send(&get_payload(version, OURS)).await;
        assert!(answer.contains("theirs"), "{answer}");
        let asked: serde_json::Value =
            serde_json::from_str(arrangement.asked().last().unwrap()).unwrap();
        let expected: serde_json::Value =
            serde_json::from_str(&get_payload(version, THEIRS)).unwrap();
        assert_eq!(asked, expected);
    }
    // An id that was never ours passes as it is.
    arrangement.send(&get_payload(4, THEIRS)).await;
    assert_eq!(arrangement.asked().last().unwrap(), &get_payload(4, THEIRS));
}

#[tokio::test]
async fn the_clients_payload_is_asked_for_before_the_hook_has_decided() {
    let options = Options { mood: Mood::Answer, ..Options::default() };
    let arrangement = Arc::new(arrange(options).await);
    arrangement.send(&forkchoice(5)).await;
    assert_eq!(arrangement.arrival().await, forkchoice(5));
    *arrangement.hooks.mood.lock().unwrap() = Mood::Hang;
    let caller = Arc::clone(&arrangement);
    let waiting = tokio::spawn(async move { caller.send(&get_payload(4, OURS)).await });
    assert_eq!(arrangement.arrival().await, get_payload(4, THEIRS));
    arrangement.until_seen(2).await;
    assert!(!waiting.is_finished());
    waiting.abort();

    // What a hook answers is handed out all the same.
    *arrangement.hooks.mood.lock().unwrap() = Mood::Answer;
    let (_, answer) = arrangement.send(&get_payload(4, OURS)).await;
    assert!(answer.contains("ours"), "{answer}");
    *arrangement.hooks.mood.lock().unwrap() = Mood::Decline;
    assert!(arrangement.send(&get_payload(4, OURS)).await.1.contains("theirs"));
    assert!(arrangement.asked()[1..].iter().all(|asked| *asked == get_payload(4, THEIRS)));
}

#[tokio::test]
async fn a_clients_payload_that_is_under_way_is_shared_and_outlives_who_asked_for_it() {
    let options = Options { mood: Mood::Answer, gated: true, ..Options::default() };
    let arrangement = Arc::new(arrange(options).await);
    arrangement.open_gate();
    arrangement.send(&forkchoice(5)).await;
    assert_eq!(arrangement.arrival().await, forkchoice(5));
    *arrangement.hooks.mood.lock().unwrap() = Mood::Decline;
    let ask = |id: &str| {
        let (caller, id) = (Arc::clone(&arrangement), format!("\"id\":{id}"));
        let body = get_payload(4, OURS).replace("\"id\":1", &id);
        tokio::spawn(async move { caller.send(&body).await })
    };
    let first = ask("1");
    assert_eq!(arrangement.arrival().await, get_payload(4, THEIRS));
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    let (same, other) = (ask("1"), ask("\"again\""));
    // Before its hook is asked, each asks the client.
    arrangement.until_seen(4).await;
    arrangement.open_gate();
    assert_eq!(same.await.unwrap(), by_method(&get_payload(4, THEIRS)));
    let expected = r#"{"jsonrpc":"2.0","id":"again","result":{"theirs": 1e2}}"#;
    assert_eq!(other.await.unwrap(), (StatusCode::OK, expected.to_owned()));
    assert_eq!(arrangement.asked()[1..], [get_payload(4, THEIRS)]);

    // What has ended is asked for again.
    arrangement.open_gate();
    assert_eq!(ask("1").await.unwrap(), by_method(&get_payload(4, THEIRS)));
    assert_eq!(arrangement.asked()[1..], [(); 2].map(|()| get_payload(4, THEIRS)));
}

#[tokio::test]
async fn who_does_not_see_a_forkchoice_update_is_told_of_it_in_its_turn() {
    let hold = Arc::new(Notify::new());
    let options =
        Options { mood: Mood::Answer, hold: Some(Arc::clone(&hold)), ..Options::default() };
    let arrangement = Arc::new(arrange(options).await);
    let caller = Arc::clone(&arrangement);
    let first = tokio::spawn(async move { caller.send(&forkchoice(1)).await });
    arrangement.until_seen(1).await;
    // They are answered while the hook looks at the one before.
    for unseen in [
        forkchoice(2).replace("V3", "V2"),
        format!("[{}]", forkchoice(3)),
        forkchoice(4).replace("\"withdrawals\"", "\"newThing\":\"0x1\",\"withdrawals\""),
    ] {
        assert_eq!(arrangement.send(&unseen).await.1, forkchoice_answer(THEIRS));
    }
    let caller = Arc::clone(&arrangement);
    let last = tokio::spawn(async move { caller.send(&forkchoice(5)).await });
    while arrangement.asked().last() != Some(&forkchoice(5)) {
        arrangement.arrival().await;
    }
    assert_eq!(arrangement.seen(), ["forkchoice 1"]);
    hold.notify_one();
    first.await.unwrap();
    arrangement.until_seen(5).await;
    hold.notify_one();
    last.await.unwrap();
    let any = "unseen any";
    assert_eq!(arrangement.seen(), ["forkchoice 1", any, any, any, "forkchoice 5"]);

    // In passthrough there is nobody to be told.
    arrangement.proxy.enter_passthrough("test");
    arrangement.send(&forkchoice(6).replace("V3", "V2")).await;
    arrangement.proxy.leave_passthrough();
    let caller = Arc::clone(&arrangement);
    let after = tokio::spawn(async move { caller.send(&forkchoice(7)).await });
    arrangement.until_seen(6).await;
    hold.notify_one();
    after.await.unwrap();
    assert_eq!(arrangement.seen().last().unwrap(), "forkchoice 7");
}

#[tokio::test]
async fn a_hook_that_fails_is_told_what_it_has_missed() {
    let arrangement = arrange(Options { mood: Mood::PanicLater, ..Options::default() }).await;
    let body = forkchoice(5);
    let (without, _) = body.split_once(",{\"timestamp\"").unwrap();
    arrangement.send(&format!("{without}]}}")).await;
    arrangement.until_seen(2).await;
    assert_eq!(arrangement.seen(), ["forkchoice 0", "unseen 0x11"]);
    // What is built on that head may have other attributes.
    arrangement.send(&body).await;
    arrangement.until_seen(4).await;
    assert_eq!(arrangement.seen()[2..], ["forkchoice 5", "unseen any"]);
}

#[tokio::test]
async fn versions_that_we_do_not_know_pass_as_they_came_and_are_counted() {
    let arrangement = arrange(Options { mood: Mood::Answer, ..Options::default() }).await;
    let later = [forkchoice(5).replace("V3", "V4"), get_payload(6, THEIRS)];
    for body in &later {
        assert_eq!(arrangement.send(body).await, by_method(body));
    }
    // These are of forks before ours.
    for body in [forkchoice(5).replace("V3", "V2"), get_payload(2, THEIRS)] {
        assert_eq!(arrangement.send(&body).await, by_method(&body));
    }
    assert_eq!(arrangement.asked()[..2], later);
    assert_eq!(arrangement.proxy.status().not_understood, 2);
}

#[tokio::test]
async fn attributes_that_we_do_not_know_pass_unseen_and_are_counted() {
    let arrangement = arrange(Options { mood: Mood::Answer, ..Options::default() }).await;
    let unknown = forkchoice(5).replace("\"withdrawals\"", "\"newThing\":\"0x1\",\"withdrawals\"");
    assert_eq!(arrangement.send(&unknown).await.1, forkchoice_answer(THEIRS));
    assert_eq!(arrangement.asked(), [unknown]);
    arrangement.until_seen(1).await;
    assert_eq!(arrangement.seen(), ["unseen any"]);
    assert_eq!(arrangement.proxy.status().not_understood, 1);
}

// ---- order ----------------------------------------------------------------------------------

#[tokio::test]
async fn forkchoice_updates_reach_the_client_one_at_a_time_in_the_order_they_came() {
    let arrangement = arrange(Options { gated: true, ..Options::default() }).await;
    let mut callers = JoinSet::new();
    for timestamp in [3, 1, 2] {
        let request = Request::post("/")
            .header("authorization", format!("Bearer {}", inbound().sign(now())))
            .body(Body::from(forkchoice(timestamp)))
            .unwrap();
        let mut call = Box::pin(arrangement.proxy.router().oneshot(request));
        // One step is enough to be in the queue, and puts the calls in a known order.
        poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx).is_pending())).await;
        callers.spawn(call);
    }
    assert_eq!(arrangement.arrival().await, forkchoice(3));
    // Another call passes the updates that wait.
    let probe = get_payload(4, THEIRS);
    let (_, next) = tokio::join!(arrangement.send(&probe), async {
        let next = arrangement.arrival().await;
        arrangement.open_gate();
        arrangement.open_gate();
        next
    });
    assert_eq!(next, probe);
    assert_eq!(arrangement.arrival().await, forkchoice(1));
    arrangement.open_gate();
    assert_eq!(arrangement.arrival().await, forkchoice(2));
    arrangement.open_gate();
    while let Some(answer) = callers.join_next().await {
        assert_eq!(answer.unwrap().unwrap().status(), StatusCode::OK);
    }
    assert_eq!(arrangement.seen()[1..], ["forkchoice 3", "forkchoice 1", "forkchoice 2"]);
}

#[tokio::test]
async fn an_update_that_was_sent_is_seen_to_its_end_although_its_sender_has_hung_up() {
    let arrangement = arrange(Options { gated: true, ..Options::default() }).await;
    let call = |body: &str| {
        let request = Request::post("/")
            .header("authorization", format!("Bearer {}", inbound().sign(now())))
            .body(Body::from(body.to_owned()))
            .unwrap();
        tokio::spawn(arrangement.proxy.router().oneshot(request))
    };
    let first = call(&forkchoice(1));
    assert_eq!(arrangement.arrival().await, forkchoice(1));
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    // The next one waits all the same until the client has answered it.
    let unseen = forkchoice(2).replace("V3", "V2");
    let next = call(&unseen);
    let probe = r#"{"id":1,"method":"eth_chainId"}"#;
    let (_, arrived) = tokio::join!(arrangement.send(probe), async {
        let arrived = arrangement.arrival().await;
        arrangement.open_gate();
        arrangement.open_gate();
        arrived
    });
    assert_eq!(arrived, probe);
    assert_eq!(arrangement.arrival().await, unseen);
    next.abort();
    arrangement.open_gate();
    arrangement.until_seen(2).await;
    assert_eq!(arrangement.seen(), ["forkchoice 1", "unseen any"]);
}

#[tokio::test]
async fn a_slow_hook_does_not_hold_up_the_next_forkchoice_update() {
    let hold = Arc::new(Notify::new());
    let options =
        Options { mood: Mood::Answer, hold: Some(Arc::clone(&hold)), ..Options::default() };
    let arrangement = Arc::new(arrange(options).await);
    let mut callers = JoinSet::new();
    for timestamp in 1..=3 {
        let caller = Arc::clone(&arrangement);
        callers.spawn(async move { caller.send(&forkchoice(timestamp)).await });
        // The execution client gets it although the first hook is still looking.
        assert_eq!(arrangement.arrival().await, forkchoice(timestamp));
        arrangement.until_seen(1).await;
    }
    assert_eq!(arrangement.seen(), ["forkchoice 1"]);
    for looked_at in 1..=3 {
        arrangement.until_seen(looked_at).await;
        hold.notify_one();
        assert!(callers.join_next().await.unwrap().unwrap().1.contains(OURS));
    }
    assert_eq!(arrangement.seen(), ["forkchoice 1", "forkchoice 2", "forkchoice 3"]);
}

#[tokio::test]
async fn unknown_versions_and_batches_of_forkchoice_updates_take_their_turn() {
    let arrangement = arrange(Options { gated: true, ..Options::default() }).await;
    let update = |n| forkchoice(n);
    let bodies = [
        update(1),
        update(2).replace("V3", "V9"),
        format!("[{},{}]", get_payload(4, THEIRS), update(3)),
        update(4).replace("\"withdrawals\"", "\"newThing\":1,\"withdrawals\""),
        update(5),
    ];
    let mut callers = JoinSet::new();
    for body in &bodies {
        let request = Request::post("/")
            .header("authorization", format!("Bearer {}", inbound().sign(now())))
            .body(Body::from(body.clone()))
            .unwrap();
        let mut call = Box::pin(arrangement.proxy.router().oneshot(request));
        poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx).is_pending())).await;
        callers.spawn(call);
    }
    for body in &bodies {
        assert_eq!(&arrangement.arrival().await, body);
        // What waits behind it has not been sent.
        assert_eq!(arrangement.asked().last(), Some(body));
        arrangement.open_gate();
    }
    while let Some(answer) = callers.join_next().await {
        assert_eq!(answer.unwrap().unwrap().status(), StatusCode::OK);
    }
}
