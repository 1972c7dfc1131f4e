//! Faults of hooks, what they may cost, and the switch that leaves them alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::StatusCode;
use preconf_engine::{PassthroughCause, ProxyConfig};
use tokio::runtime::Builder;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::arrangement::{
    LONG, Mood, OURS, Options, PATIENCE, THEIRS, arrange, by_method, forkchoice, forkchoice_answer,
    get_payload, new_payload,
};

// ---- faults ---------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hook_that_fails_in_any_way_leaves_the_chain_to_the_client() {
    for mood in [Mood::Panic, Mood::PanicLater, Mood::Hang, Mood::Block] {
        let config =
            ProxyConfig { hook_deadline: Duration::from_millis(100), ..ProxyConfig::default() };
        let arrangement =
            arrange(Options { mood: Mood::Answer, config, ..Options::default() }).await;
        arrangement.send(&forkchoice(4)).await;
        *arrangement.hooks.mood.lock().unwrap() = mood;

        let (status, answer) = arrangement.send(&forkchoice(5)).await;
        assert_eq!((status, answer), (StatusCode::OK, forkchoice_answer(THEIRS)), "{mood:?}");
        let (status, answer) = arrangement.send(&get_payload(4, OURS)).await;
        assert_eq!(status, StatusCode::OK, "{mood:?}");
        assert!(answer.contains("theirs"), "{mood:?}: {answer}");
        let (status, answer) = arrangement.send(&new_payload()).await;
        assert_eq!((status, answer), by_method("newPayload"), "{mood:?}");
        assert!(arrangement.proxy.status().faults >= 2, "{mood:?}");
    }
}

#[tokio::test]
async fn after_repeated_faults_the_hooks_are_left_alone_until_an_operator_says_otherwise() {
    let config = ProxyConfig { fault_limit: 3, ..ProxyConfig::default() };
    let arrangement =
        arrange(Options { mood: Mood::PanicLater, config, ..Options::default() }).await;
    for timestamp in 1..=3 {
        assert_eq!(arrangement.proxy.status().passthrough, None);
        arrangement.send(&forkchoice(timestamp)).await;
    }
    let status = arrangement.proxy.status();
    let passthrough = status.passthrough.unwrap();
    assert_eq!(passthrough.cause, PassthroughCause::Faults);
    assert!(passthrough.reason.contains("forkchoiceUpdated panicked"), "{passthrough:?}");
    assert_eq!(status.faults, 3);

    *arrangement.hooks.mood.lock().unwrap() = Mood::Answer;
    assert_eq!(arrangement.send(&forkchoice(4)).await.1, forkchoice_answer(THEIRS));
    assert!(!arrangement.seen().contains(&"forkchoice 4".to_owned()));

    arrangement.proxy.leave_passthrough();
    assert!(arrangement.send(&forkchoice(5)).await.1.contains(OURS));
}

#[tokio::test]
async fn faults_add_up_whatever_succeeds_between_them() {
    let config = ProxyConfig { fault_limit: 2, ..ProxyConfig::default() };
    let arrangement = arrange(Options { config, ..Options::default() }).await;
    for mood in [Mood::PanicLater, Mood::Decline, Mood::PanicLater] {
        assert_eq!(arrangement.proxy.status().passthrough, None);
        *arrangement.hooks.mood.lock().unwrap() = mood;
        arrangement.send(&forkchoice(5)).await;
        // The same block, and a hook that is well.
        arrangement.send(&new_payload()).await;
    }
    assert!(arrangement.proxy.status().passthrough.is_some());
}

#[tokio::test]
async fn faults_that_lie_far_apart_are_no_reason_for_passthrough() {
    let config =
        ProxyConfig { fault_limit: 2, fault_window: Duration::ZERO, ..ProxyConfig::default() };
    let arrangement =
        arrange(Options { mood: Mood::PanicLater, config, ..Options::default() }).await;
    for timestamp in 1..=5 {
        arrangement.send(&forkchoice(timestamp)).await;
    }
    let status = arrangement.proxy.status();
    assert_eq!((status.passthrough, status.faults), (None, 5));
}

// ---- isolation ------------------------------------------------------------------------------

#[test]
fn hooks_that_block_their_threads_cost_their_deadline_and_delay_nothing_else() {
    let theirs = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let ours = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let deadline = Duration::from_millis(100);
    ours.block_on(async {
        let config = ProxyConfig { hook_deadline: deadline, ..ProxyConfig::default() };
        let hooks_on = Some(theirs.handle().clone());
        let options = Options { mood: Mood::BlockLong, config, hooks_on, ..Options::default() };
        let arrangement = Arc::new(arrange(options).await);
        let began = Instant::now();
        let blocked = arrangement.send(&forkchoice(1)).await;
        assert_eq!(blocked, (StatusCode::OK, forkchoice_answer(THEIRS)));
        assert!(began.elapsed() >= deadline);
        // The one thread for hooks is blocked from here on.
        let mut callers = JoinSet::new();
        for _ in 0..4 {
            let caller = Arc::clone(&arrangement);
            callers.spawn(async move {
                for _ in 0..100 {
                    let body = r#"{"id":1,"method":"eth_chainId","params":null}"#;
                    assert_eq!(caller.send(body).await, by_method(body));
                }
            });
        }
        while let Some(called) = callers.join_next().await {
            called.unwrap();
        }
        // All of it, the deadline included, while the hook still blocks.
        assert_eq!(arrangement.send(&new_payload()).await, by_method("newPayload"));
        assert!(began.elapsed() < LONG, "{:?}", began.elapsed());
        assert_eq!(arrangement.proxy.status().faults, 1);
    });
    theirs.shutdown_background();
}

/// How long the client's payload waits for a hook.
const BUDGET: Duration = Duration::from_millis(50);

/// A hook may take much longer than any of this, and a payload only so long.
fn with_budget(mood: Mood) -> Options {
    let hook_deadline = 10 * PATIENCE;
    let config =
        ProxyConfig { hook_deadline, payload_budget: Some(BUDGET), ..ProxyConfig::default() };
    Options { mood, config, ..Options::default() }
}

#[test]
fn at_the_budget_the_clients_payload_does_not_wait_for_hooks_that_block_their_threads() {
    let theirs = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let ours = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    ours.block_on(async {
        let hooks_on = Some(theirs.handle().clone());
        let arrangement = arrange(Options { hooks_on, ..with_budget(Mood::Answer) }).await;
        assert!(arrangement.send(&forkchoice(5)).await.1.contains(OURS));
        let _blocked = theirs.spawn(async { std::thread::park_timeout(10 * PATIENCE) });
        // The second one is of a build that we know nothing of, so that nobody has asked for it yet.
        for id in [OURS, THEIRS] {
            let answer = arrangement.send(&get_payload(4, id)).await;
            assert_eq!(answer, by_method(&get_payload(4, THEIRS)), "{id}");
        }
        assert_eq!(arrangement.seen(), ["forkchoice 5"]);
        assert_eq!(arrangement.proxy.status().faults, 0);
    });
    theirs.shutdown_background();
}

#[test]
fn a_payload_of_a_hook_that_is_late_is_better_than_an_error_of_the_client() {
    let theirs = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let ours = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    ours.block_on(async {
        let hooks_on = Some(theirs.handle().clone());
        let arrangement = arrange(Options { hooks_on, ..with_budget(Mood::Answer) }).await;
        let _blocked = theirs.spawn(async { std::thread::park_timeout(10 * BUDGET) });
        let unknown = "0x0000000000000009";
        let answer = arrangement.send(&get_payload(4, unknown)).await.1;
        assert!(answer.contains("ours"), "{answer}");
    });
    theirs.shutdown_background();
}

#[tokio::test]
async fn a_hook_that_nobody_waits_for_any_more_is_a_fault_at_its_deadline() {
    let mut options = with_budget(Mood::Answer);
    options.config.hook_deadline = Duration::from_millis(500);
    let arrangement = arrange(options).await;
    arrangement.send(&forkchoice(5)).await;
    *arrangement.hooks.mood.lock().unwrap() = Mood::Hang;
    assert!(arrangement.send(&get_payload(4, OURS)).await.1.contains("theirs"));
    let began = Instant::now();
    while arrangement.proxy.status().faults == 0 {
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn after_the_budget_whatever_comes_first_is_handed_out() {
    let mut options = Options { gated: true, ..with_budget(Mood::Answer) };
    options.config.payload_budget = Some(Duration::ZERO);
    let arrangement = Arc::new(arrange(options).await);
    arrangement.open_gate();
    arrangement.send(&forkchoice(5)).await;
    // The client has not answered.
    assert!(arrangement.send(&get_payload(4, OURS)).await.1.contains("ours"));
    *arrangement.hooks.mood.lock().unwrap() = Mood::Hang;
    let caller = Arc::clone(&arrangement);
    let waiting = tokio::spawn(async move { caller.send(&get_payload(4, OURS)).await });
    arrangement.until_seen(3).await;
    assert!(!waiting.is_finished());
    arrangement.open_gate();
    assert!(waiting.await.unwrap().1.contains("theirs"));
}

#[tokio::test]
async fn forwarded_calls_are_answered_while_a_hook_hangs() {
    let arrangement = Arc::new(arrange(Options { mood: Mood::Hang, ..Options::default() }).await);
    let caller = Arc::clone(&arrangement);
    let hanging = tokio::spawn(async move { caller.send(&forkchoice(1)).await });
    arrangement.until_seen(1).await;
    for n in 0..200 {
        let body = format!(r#"{{"id":{n},"method":"eth_chainId"}}"#);
        assert_eq!(arrangement.send(&body).await, by_method(&body));
    }
    assert!(!hanging.is_finished());
    hanging.abort();
}

// ---- passthrough ----------------------------------------------------------------------------

#[tokio::test]
async fn in_passthrough_no_hook_is_asked_and_our_ids_stand_for_the_clients() {
    let arrangement = arrange(Options { mood: Mood::Answer, ..Options::default() }).await;
    assert!(arrangement.send(&forkchoice(5)).await.1.contains(OURS));
    arrangement.proxy.enter_passthrough("upgrade");
    let began = arrangement.proxy.status().passthrough.unwrap();
    assert_eq!((began.cause, began.reason.as_str()), (PassthroughCause::Operator, "upgrade"));

    let (status, answer) = arrangement.send(&get_payload(4, OURS)).await;
    assert_eq!((status, answer), by_method(THEIRS));
    assert_eq!(arrangement.asked().last(), Some(&get_payload(4, THEIRS)));
    assert_eq!(arrangement.send(&forkchoice(6)).await.1, forkchoice_answer(THEIRS));
    assert_eq!(arrangement.send(&new_payload()).await, by_method("newPayload"));
    assert_eq!(arrangement.seen(), ["forkchoice 5"]);

    arrangement.proxy.enter_passthrough("still");
    let still = arrangement.proxy.status().passthrough.unwrap();
    assert_eq!((still.reason.as_str(), still.since), ("still", began.since));
    arrangement.proxy.leave_passthrough();
    assert_eq!(arrangement.proxy.status().passthrough, None);
    assert!(arrangement.send(&forkchoice(7)).await.1.contains(OURS));
}

#[tokio::test]
async fn whoever_watches_hears_of_hooks_that_end_after_the_switch() {
    let hold = Arc::new(Notify::new());
    let options =
        Options { mood: Mood::Answer, hold: Some(Arc::clone(&hold)), ..Options::default() };
    let arrangement = Arc::new(arrange(options).await);
    let mut watch = arrangement.proxy.watch_passthrough();
    let caller = Arc::clone(&arrangement);
    let under_way = tokio::spawn(async move { caller.send(&forkchoice(5)).await });
    arrangement.until_seen(1).await;

    arrangement.proxy.enter_passthrough("now");
    assert!(watch.borrow_and_update().is_some());
    hold.notify_one();
    timeout(PATIENCE, watch.changed()).await.unwrap().unwrap();
    // What it was told was ours, and is honoured.
    assert!(under_way.await.unwrap().1.contains(OURS));
    assert_eq!(arrangement.send(&get_payload(4, OURS)).await, by_method(THEIRS));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn switching_under_load_is_not_noticed_by_the_consensus_client() {
    const SWITCHES: usize = 60;
    let arrangement = Arc::new(arrange(Options { mood: Mood::Answer, ..Options::default() }).await);
    let rounds = Arc::new(watch::Sender::new(0));
    let is_over = Arc::new(AtomicBool::new(false));
    let mut callers = JoinSet::new();
    for caller in 0..3 {
        let (arrangement, rounds) = (Arc::clone(&arrangement), Arc::clone(&rounds));
        let is_over = Arc::clone(&is_over);
        callers.spawn(async move {
            let mut ours = 0;
            let mut theirs = 0;
            while !is_over.load(Ordering::Relaxed) {
                let (status, answer) = arrangement.send(&forkchoice(caller)).await;
                assert!(status == StatusCode::OK && !answer.contains("error"), "{answer}");
                let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
                let id = answer["result"]["payloadId"].as_str().unwrap();
                let (status, answer) = arrangement.send(&get_payload(4, id)).await;
                assert!(status == StatusCode::OK && !answer.contains("error"), "{answer}");
                *(if answer.contains("ours") { &mut ours } else { &mut theirs }) += 1;
                assert_eq!(arrangement.send(&new_payload()).await, by_method("newPayload"));
                rounds.send_modify(|rounds| *rounds += 1);
            }
            (ours, theirs)
        });
    }
    let mut progress = rounds.subscribe();
    for switch in 0..SWITCHES {
        if switch % 2 == 0 {
            arrangement.proxy.enter_passthrough("test");
        } else {
            arrangement.proxy.leave_passthrough();
        }
        let until = *progress.borrow() + 2;
        let moved = progress.wait_for(|rounds| *rounds >= until);
        timeout(PATIENCE, moved).await.unwrap().unwrap();
    }
    is_over.store(true, Ordering::Relaxed);
    let (mut ours, mut theirs) = (0, 0);
    while let Some(counted) = callers.join_next().await {
        let counted = counted.unwrap();
        ours += counted.0;
        theirs += counted.1;
    }
    assert!(ours > 0 && theirs > 0, "{ours} payloads of ours, {theirs} of the client's");
    assert_eq!(arrangement.proxy.status().unanswered, 0);
}
