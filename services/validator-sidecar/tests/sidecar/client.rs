//! The validator's own execution client: it is asked for its payload first, it has the last word, and
//! it is not waited for longer than the budget.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use alloy_primitives::B256;
use alloy_rpc_types_engine::ForkchoiceState;
use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    response::Response,
};
use parking_lot::Mutex;
use preconf_engine::EngineClient;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    runtime::Builder,
    time::{sleep, timeout},
};

use crate::{
    sequencer::{Answer, Sequencer},
    world::{SOON, World},
};

/// Stands before the execution client, and delays or replaces what it says.
#[derive(Clone)]
struct Front(Arc<Inner>);

struct Inner {
    client: EngineClient,
    rules: Mutex<BTreeMap<&'static str, Rule>>,
    taken: Mutex<BTreeSet<String>>,
    asked: Mutex<Vec<String>>,
}

#[derive(Clone)]
enum Rule {
    Silence,
    Late(Duration),
    /// After this time, and as reth does: who has asked for a payload has taken it, even if it was
    /// gone before the answer came.
    Once(Duration),
    /// An answer but for its id: what a field of this name holds.
    Say(&'static str, Value),
}

impl Front {
    /// Before the client of this validator.
    async fn start(world: &mut World) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let client = world.own().clone();
        let (rules, taken, asked) = Default::default();
        let inner = Inner { client, rules, taken, asked };
        let front = Self(Arc::new(inner));
        let router = Router::new().fallback(answer).with_state(front.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        world.engine_addr = address;
        front
    }

    fn will(&self, method: &'static str, rule: Rule) {
        *self.0.rules.lock() = BTreeMap::from([(method, rule)]);
    }

    /// When these methods were asked for.
    fn asked(&self, method: &str) -> Vec<usize> {
        let asked = self.0.asked.lock();
        let each = asked.iter().enumerate().filter(|(_, asked)| *asked == method);
        each.map(|(at, _)| at).collect()
    }
}

async fn answer(State(front): State<Front>, request: http::Request<Body>) -> Response {
    let (parts, body) = request.into_parts();
    let body: Bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let read: Value = serde_json::from_slice(&body).unwrap();
    let method = read["method"].as_str().unwrap();
    // In this order: who has seen that it was asked may change the rule for the next.
    let rule = front.0.rules.lock().get(method).cloned();
    front.0.asked.lock().push(method.to_owned());
    match rule {
        Some(Rule::Silence) => return std::future::pending().await,
        Some(Rule::Late(by)) => sleep(by).await,
        Some(Rule::Once(by)) => {
            if !front.0.taken.lock().insert(read["params"].to_string()) {
                let error = json!({ "code": -38_001, "message": "Unknown payload" });
                let answer = json!({ "jsonrpc": "2.0", "id": read["id"], "error": error });
                return Response::new(answer.to_string().into());
            }
            sleep(by).await;
        }
        Some(Rule::Say(field, said)) => {
            let answer = json!({ "jsonrpc": "2.0", "id": read["id"], field: said });
            return Response::new(answer.to_string().into());
        }
        None => {}
    }
    let answer = front.0.client.forward(body, &parts.headers, SOON).await.unwrap();
    Response::new(answer.body.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_the_client_calls_valid_is_proposed() {
    let mut world = World::start().await;
    let good = world.built(&world.attributes).await.to_json();
    let sequencer = Sequencer::start(Answer::ok(good)).await;
    let front = Front::start(&mut world).await;
    let status = |status: &str, hash: Value| {
        Rule::Say("result", json!({ "status": status, "latestValidHash": hash }))
    };
    let rules = [
        (Rule::Late(Duration::ZERO), true),
        (status("INVALID", Value::Null), false),
        (status("SYNCING", Value::Null), false),
        (status("ACCEPTED", Value::Null), false),
        (status("VALID", json!(B256::ZERO)), false),
        (status("valid", Value::Null), false),
        (Rule::Say("result", Value::Null), false),
        (Rule::Say("error", json!({ "code": -32_000, "message": "no" })), false),
    ];
    for (at, (rule, is_theirs)) in rules.into_iter().enumerate() {
        front.will("engine_newPayloadV4", rule);
        let before = front.asked("engine_getPayloadV4").len();
        let sidecar = world.sidecar(&[sequencer.url()], &["--fetch-budget-ms", "10000"]).await;
        assert_eq!(world.propose(&sidecar).await, is_theirs, "{at}");
        // It was asked for its own one as well, at once, and what it said was kept.
        let payloads = || front.asked("engine_getPayloadV4").len();
        let asked = async {
            while payloads() == before {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(SOON, asked).await.unwrap();
        sidecar.stop().await;
        assert_eq!(payloads(), before + 1, "{at}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_budget_is_spent_the_clients_payload_is_proposed() {
    // At once: each waits for the whole budget.
    tokio::join!(
        is_answered_within_the_budget("engine_newPayloadV4", true),
        is_answered_within_the_budget("eth_getBlockByHash", true),
        is_answered_within_the_budget("none", false),
    );
}

#[test]
fn when_the_budget_is_spent_threads_that_are_blocked_do_not_delay_the_clients_payload() {
    let theirs = Builder::new_multi_thread().enable_all().build().unwrap();
    let sidecars = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let world = theirs.block_on(World::start());
    let sequencer = theirs.block_on(Sequencer::start(Answer::Silence));
    let flags = ["--fetch-budget-ms", "50"];
    let sidecar = sidecars.block_on(world.sidecar(&[sequencer.url()], &flags));
    let state = ForkchoiceState { head_block_hash: world.head(), ..ForkchoiceState::default() };
    let updated = sidecar.door.fork_choice_updated_v3(state, Some(&world.attributes), SOON);
    let id = theirs.block_on(updated).unwrap().payload_id.unwrap();

    let ((block, is_blocked), (release, released)) = (mpsc::channel(), mpsc::channel::<()>());
    sidecars.spawn(async move {
        block.send(()).unwrap();
        released.recv()
    });
    is_blocked.recv().unwrap();
    // The machine may be busy; and five faults would be passthrough.
    let best = (0..4).map(|_| {
        let began = Instant::now();
        theirs.block_on(sidecar.door.get_payload_v4(id, SOON)).unwrap();
        began.elapsed()
    });
    let best = best.min().unwrap();
    drop(release);
    // A hook that is not back 250 ms later has failed.
    assert!(best < Duration::from_millis(50 + 250), "{best:?}");
    sidecars.block_on(sidecar.stop());
}

/// With an execution client that is silent about this method, or with a sequencer that is.
async fn is_answered_within_the_budget(silent: &'static str, has_answer: bool) {
    let mut world = World::start().await;
    let good = world.built(&world.attributes).await.to_json();
    let answer = if has_answer { Answer::ok(good) } else { Answer::Silence };
    let sequencer = Sequencer::start(answer).await;
    let front = Front::start(&mut world).await;
    front.will(silent, Rule::Silence);
    // So large that what is kept back for handing over does even on a busy machine.
    let (budget, flags) = (Duration::from_secs(6), ["--fetch-budget-ms", "6000"]);
    let sidecar = world.sidecar(&[sequencer.url()], &flags).await;
    assert!(!world.propose_within(&sidecar.door, budget).await, "{silent}");
    // Not by the proxy, which has a deadline for whatever hangs.
    assert_eq!(sidecar.metric("payloads_total{source=\"execution_client\"}"), 1.0, "{silent}");
    sidecar.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_block_before_is_looked_up_when_the_build_is_asked_for() {
    let mut world = World::start().await;
    let good = world.built(&world.attributes).await;
    let hash = good.execution_payload.payload_inner.payload_inner.block_hash;
    let sequencer = Sequencer::start(Answer::ok(good.to_json())).await;
    let front = Front::start(&mut world).await;
    let sidecar = world.sidecar(&[sequencer.url()], &["--fetch-budget-ms", "10000"]).await;
    let state = ForkchoiceState { head_block_hash: world.head(), ..ForkchoiceState::default() };
    let updated = sidecar.door.fork_choice_updated_v3(state, Some(&world.attributes), SOON).await;
    let asked = async {
        while front.asked("eth_getBlockByHash").is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, asked).await.unwrap();
    front.will("eth_getBlockByHash", Rule::Silence);
    let id = updated.unwrap().payload_id.unwrap();
    let envelope = sidecar.door.get_payload_v4(id, SOON).await.unwrap();
    let payload = envelope.envelope_inner.execution_payload.payload_inner.payload_inner;
    assert_eq!(payload.block_hash, hash);
    sidecar.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_of_a_build_that_was_not_seen_is_the_clients_and_counted_as_such() {
    let world = World::start().await;
    let good = world.built(&world.attributes).await.to_json();
    let sequencer = Sequencer::start(Answer::ok(good)).await;
    let sidecar = world.sidecar(&[sequencer.url()], &[]).await;
    let state = ForkchoiceState { head_block_hash: world.head(), ..ForkchoiceState::default() };
    // As if the sidecar had been started since.
    let updated = world.own().fork_choice_updated_v3(state, Some(&world.attributes), SOON).await;
    let id = updated.unwrap().payload_id.unwrap();
    sidecar.door.get_payload_v4(id, SOON).await.unwrap();
    assert_eq!(sequencer.asked(), 0);
    assert_eq!(sidecar.metric("fallbacks_total{reason=\"build_unknown\"}"), 1.0);
    assert_eq!(sidecar.metric("payloads_total{source=\"execution_client\"}"), 1.0);
    sidecar.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sequencer_that_the_client_left_no_time_for_is_not_taken_for_silent() {
    let mut world = World::start().await;
    let sequencer = Sequencer::start(Answer::Silence).await;
    let front = Front::start(&mut world).await;
    // Of 475 ms, at most 125 are left: less than the patience.
    front.will("eth_getBlockByHash", Rule::Late(Duration::from_millis(350)));
    let flags = ["--fetch-budget-ms", "500", "--hedge-after-ms", "150"];
    let sidecar = world.sidecar(&[sequencer.url()], &flags).await;
    while sequencer.asked() < 4 {
        assert!(!world.propose(&sidecar).await);
    }
    assert_eq!(sidecar.metric("sequencers_lost"), 0.0);
    sidecar.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_slow_with_its_own_payload_delays_no_other_and_is_asked_once() {
    let mut world = World::start().await;
    let good = world.built(&world.attributes).await.to_json();
    let good = Sequencer::start(Answer::ok(good)).await;
    let refusing = Sequencer::start(Answer::refusal("404 Not Found")).await;
    let front = Front::start(&mut world).await;
    front.will("engine_getPayloadV4", Rule::Silence);
    let sidecar = world.sidecar(&[good.url()], &["--fetch-budget-ms", "10000"]).await;
    assert!(world.propose(&sidecar).await);
    sidecar.stop().await;

    // Longer than the budget and than what a hook may take beyond it.
    front.will("engine_getPayloadV4", Rule::Once(Duration::from_millis(600)));
    let before = front.asked("engine_getPayloadV4").len();
    let sidecar = world.sidecar(&[refusing.url()], &["--fetch-budget-ms", "100"]).await;
    assert!(!world.propose(&sidecar).await);
    assert_eq!(front.asked("engine_getPayloadV4").len(), before + 1);
    assert_eq!(sidecar.metric("payloads_total{source=\"execution_client\"}"), 1.0);
    sidecar.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_gives_up_and_asks_again_has_the_payload_that_the_client_was_asked_for_once() {
    let mut world = World::start().await;
    let refusing = Sequencer::start(Answer::refusal("404 Not Found")).await;
    let front = Front::start(&mut world).await;
    front.will("engine_getPayloadV4", Rule::Once(Duration::from_secs(1)));
    let sidecar = world.sidecar(&[refusing.url()], &["--fetch-budget-ms", "100"]).await;
    let state = ForkchoiceState { head_block_hash: world.head(), ..ForkchoiceState::default() };
    let updated = sidecar.door.fork_choice_updated_v3(state, Some(&world.attributes), SOON).await;
    let id = updated.unwrap().payload_id.unwrap();
    let soon = Duration::from_millis(300);
    assert!(sidecar.door.get_payload_v4(id, soon).await.is_err(), "it takes a second");
    let envelope = sidecar.door.get_payload_v4(id, SOON).await.unwrap();
    let payload = envelope.envelope_inner.execution_payload.payload_inner.payload_inner;
    assert_eq!(payload.parent_hash, world.head());
    assert_eq!(front.asked("engine_getPayloadV4").len(), 1);
    sidecar.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sequencer_that_nobody_listened_to_is_not_taken_for_silent() {
    let mut world = World::start().await;
    let good = world.built(&world.attributes).await.to_json();
    let patience = Duration::from_millis(200);
    // The second is asked too, but before it has had its time the first has answered, and then all
    // that is waited for is the validation.
    let late = Sequencer::start(Answer::ok(good).late(patience * 3 / 2)).await;
    let second = Sequencer::start(Answer::Silence).await;
    let front = Front::start(&mut world).await;
    front.will("engine_newPayloadV4", Rule::Late(patience * 2));
    let flags = ["--fetch-budget-ms", "10000", "--hedge-after-ms", "200"];
    let sidecar = world.sidecar(&[late.url(), second.url()], &flags).await;
    for _ in 0..4 {
        assert!(world.propose(&sidecar).await);
    }
    assert!(second.asked() >= 3);
    assert_eq!(sidecar.metric("sequencers_lost"), 0.0);
    sidecar.stop().await;
}
