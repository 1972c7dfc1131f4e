//! How builds end that no consensus client and no signer ends: what each is counted as, what readers
//! of the feed are told, and what is asked of the execution client.

use std::num::NonZeroU64;

use preconf_assembly::{Completion, Effect, Failure};
use preconf_chassis::Shutdown;
use preconf_evm::ExecutionError;

use super::*;
use crate::{publisher::Published, sealing::SealError};

const CANCUN: &str = r#""shanghaiTime":0,"cancunTime":0,"blobSchedule":{"cancun":{"target":3,
    "max":6,"baseFeeUpdateFraction":3338477}}"#;

/// In both of them the block of second 12 after the genesis is for slot 1.
const RULES: [SlotRule; 2] =
    [SlotRule::Number, SlotRule::Time { genesis: 0, seconds: NonZeroU64::new(12).unwrap() }];

impl Bench {
    /// One on a chain that has payloads which can be asked for.
    async fn on_cancun(
        answer: impl Fn(&str, &Value) -> Option<Value> + Send + Sync + 'static,
    ) -> Self {
        Self::of(&GENESIS.replace("\"shanghaiTime\":0", CANCUN), 64, answer).await
    }

    /// Has the sequencer carry out what the build thread and the publisher report.
    async fn report(&self, effects: Vec<Effect<StateCache>>, published: Vec<Published>) {
        let (give_effects, effects_to_come) = mpsc::channel(16);
        let (give_published, published_to_come) = mpsc::channel(16);
        for effect in effects {
            give_effects.send(effect).await.unwrap();
        }
        for published in published {
            give_published.send(published).await.unwrap();
        }
        let carrying =
            self.sequencer.clone().carry_out(effects_to_come, published_to_come, Shutdown::new());
        let done = async {
            // Whoever has taken the last of them has made room for as many.
            let _ = give_effects.reserve_many(16).await;
            let _ = give_published.reserve_many(16).await;
        };
        let ended = async {
            tokio::select! {
                () = carrying => {}
                () = done => {}
            }
        };
        timeout(DEADLINE, ended).await.unwrap();
    }

    /// A build on the genesis that ends before it is open. The execution client has a payload for it.
    async fn wish_for_slot_1(&self) {
        let head = self.sequencer.spec.genesis_hash();
        let id = self.forkchoice(head, Some(attributes(12))).await.unwrap();
        self.sequencer.builds.told(id, Some(PayloadId::new([1; 8])));
        self.sequencer.give_up_all(AbandonReason::ExecutionFailed);
    }

    /// The one build has ended so, and is counted once.
    fn assert_ended(&self, end: &str) {
        let metrics = self.context.registry.encode();
        let counted: Vec<_> =
            metrics.lines().filter(|line| line.contains("builds_total{")).collect();
        assert_eq!(counted.len(), 1, "{counted:?}");
        assert!(counted[0].ends_with(&format!("{{end=\"{end}\"}} 1")), "{counted:?}");
    }

    /// The one payload that was handed out was this one's.
    fn assert_handed_out(&self, source: &str) {
        let metrics = self.context.registry.encode();
        let counted: Vec<_> =
            metrics.lines().filter(|line| line.contains("payloads_total{")).collect();
        assert_eq!(counted.len(), 1, "{counted:?}");
        assert!(counted[0].ends_with(&format!("{{source=\"{source}\"}} 1")), "{counted:?}");
    }

    /// What was said to the publisher after the opening.
    fn said(&mut self) -> Vec<Outgoing> {
        let mut said = std::iter::from_fn(|| self.outgoing.try_recv().ok());
        assert!(matches!(said.next(), Some(Outgoing::Open { .. })));
        said.collect()
    }

    fn is_abandoned(&mut self, expected: AbandonReason) {
        let said = self.said();
        let [Outgoing::Abandon { reason, .. }] = said[..] else { panic!("unexpected {said:?}") };
        assert_eq!(reason, expected);
    }
}

#[tokio::test]
async fn what_the_chain_itself_adds_fails_and_the_session_is_abandoned() {
    let mut bench = Bench::new(64, |method, _| nothing(method)).await;
    let build = bench.open(2).await;
    let failure = Failure::Execution(ExecutionError::NeedState(Vec::new()));
    bench.report(vec![Effect::Failed { build, failure }], vec![]).await;
    bench.assert_ended("execution_failed");
    bench.is_abandoned(AbandonReason::ExecutionFailed);
}

#[tokio::test]
async fn a_block_whose_state_cannot_be_read_is_not_opened_and_the_session_is_abandoned() {
    let mut bench = Bench::new(64, |method, _| nothing(method)).await;
    let build = bench.open(2).await;
    let failure = Failure::NotOpened("nobody answers".into());
    bench.report(vec![Effect::Failed { build, failure }], vec![]).await;
    bench.assert_ended("not_opened");
    bench.is_abandoned(AbandonReason::ExecutionFailed);
}

#[tokio::test]
async fn a_block_that_is_not_sealed_within_the_budget_is_the_execution_clients() {
    let mut bench = Bench::on_cancun(|method, _| nothing(method)).await;
    let build = bench.open(2).await;
    let id = attributes(2).id(hash(0));
    // The thread, which is this test, does not complete it.
    let payload = bench.sequencer.get_payload(PayloadVersion::V3, id).await;
    assert!(payload.is_none());
    let orders: Vec<_> = std::iter::from_fn(|| bench.orders.take()).collect();
    let [.., Order::Finish { .. }, Order::Drop { build: dropped }] = &orders[..] else {
        panic!("unexpected {orders:?}")
    };
    assert_eq!(*dropped, build);
    bench.assert_ended("seal_failed");
    bench.is_abandoned(AbandonReason::SealFailed);
}

#[tokio::test]
async fn who_has_followed_another_builders_block_says_nothing_of_its_end() {
    let mut bench = Bench::following().await;
    bench.sequencer.hear(heard(7, 0, false, vec![])).await;
    bench.grant().await;
    bench.forkchoice(hash(9), None).await;
    bench.assert_ended("followed");
    assert!(bench.outgoing.try_recv().is_err());
}

#[tokio::test]
async fn a_block_counts_as_sealed_when_its_last_flashblock_is_out_and_not_before() {
    let completion = Completion::Exhausted(preconf_assembly::Exhausted::ByteLimit);
    let sealed = async |published: fn(BuildId) -> Published| {
        let bench = Bench::new(64, |method, _| nothing(method)).await;
        let build = bench.open(2).await;
        let slot = bench.sequencer.builds.settle(build, Stage::Over).unwrap();
        bench.sequencer.builds.publishing(build, completion);
        assert!(slot.is_led());
        assert!(!bench.context.registry.encode().contains("builds_total{"));
        bench.report(vec![], vec![published(build)]).await;
        bench
    };
    let bench = sealed(|build| Published::Completed { build }).await;
    bench.assert_ended("sealed_at_byte_limit");
    let reason = AbandonReason::SignerUnavailable;
    let bench =
        sealed(|build| Published::Failed { build, reason: AbandonReason::SignerUnavailable });
    bench.await.assert_ended(reason.as_str());
}

#[tokio::test]
async fn what_is_still_published_when_the_process_stops_is_counted_too() {
    let completion = Completion::Exhausted(preconf_assembly::Exhausted::ByteLimit);
    for (is_published, end) in [(true, "sealed_at_byte_limit"), (false, "shutdown")] {
        let bench = Bench::new(64, |method, _| nothing(method)).await;
        let build = bench.open(2).await;
        let _ = bench.sequencer.builds.settle(build, Stage::Over).unwrap();
        bench.sequencer.builds.publishing(build, completion);
        let (effects, effects_to_come) = mpsc::channel(1);
        let (published, published_to_come) = mpsc::channel(1);
        let shutdown = Shutdown::new();
        shutdown.trigger();
        let carrying = bench.sequencer.clone();
        let carrying = carrying.carry_out(effects_to_come, published_to_come, shutdown);
        let carrying = tokio::spawn(carrying);
        timeout(DEADLINE, effects.closed()).await.unwrap();
        if is_published {
            published.send(Published::Completed { build }).await.unwrap();
        }
        drop(published);
        timeout(DEADLINE, carrying).await.unwrap().unwrap();
        bench.assert_ended(end);
    }
}

#[tokio::test]
async fn a_forkchoice_update_that_was_not_seen_ends_what_may_contradict_it() {
    let bench = Bench::new(64, |method, _| nothing(method)).await;
    bench.open(2).await;
    bench.sequencer.forkchoice_unseen(Some(hash(0)));
    assert_eq!(bench.sequencer.builds.running().len(), 1);
    bench.sequencer.forkchoice_unseen(Some(hash(1)));
    assert_eq!(bench.sequencer.builds.running(), []);
    bench.assert_ended("head_changed");

    let bench = Bench::new(64, |method, _| nothing(method)).await;
    bench.open(2).await;
    bench.sequencer.forkchoice_unseen(None);
    assert_eq!(bench.sequencer.builds.running(), []);
}

#[tokio::test]
async fn questions_beyond_those_that_are_asked_at_once_have_no_answer_in_this_block() {
    let bench = Bench::new(64, |method, _| nothing(method)).await;
    let build = bench.open(2).await;
    let _turn = bench.sequencer.questions.clone().try_acquire_owned().unwrap();
    let keys = vec![Key::Account(Address::ZERO)];
    let effects = vec![
        Effect::Locate { build, transaction: hash(5) },
        Effect::Need { build, keys: keys.clone() },
    ];
    bench.report(effects, vec![]).await;
    let order = bench.order();
    let Order::Located { located: Located::Unknown, .. } = order else {
        panic!("unexpected {order:?}")
    };
    let order = bench.order();
    let Order::StateFailed { keys: failed, .. } = order else { panic!("unexpected {order:?}") };
    assert_eq!(failed, keys);
}

#[tokio::test]
async fn the_thread_is_told_what_senders_have_left_after_a_block() {
    let bench = Bench::following().await;
    let genesis = bench.sequencer.spec.genesis_hash();
    bench.sequencer.recheck(0, genesis, vec![Address::ZERO]).await;
    let order = bench.order();
    let Order::Recheck { hash, accounts } = order else { panic!("unexpected {order:?}") };
    assert_eq!((hash, accounts), (genesis, vec![(Address::ZERO, None)]));
}

#[tokio::test]
async fn while_the_hooks_are_left_alone_the_head_is_the_execution_clients() {
    let spec = ChainSpec::from_genesis_json(GENESIS).unwrap();
    let genesis = spec.genesis_block();
    let shown = RpcBlock::with_transactions(&genesis, spec.genesis_hash(), &[]);
    let shown = serde_json::to_value(shown).unwrap();
    let mut bench =
        Bench::new(64, move |method, _| (method == "eth_getBlockByNumber").then(|| shown.clone()))
            .await;
    let (switch, left_alone) = watch::channel(false);
    let following = tokio::spawn(bench.sequencer.clone().follow_client(left_alone));
    switch.send_replace(true);
    let wanted = timeout(DEADLINE, bench.wanted.recv()).await.unwrap().unwrap();
    assert_eq!((wanted.head, wanted.build.is_none()), (spec.genesis_hash(), true));
    drop(switch);
    timeout(DEADLINE, following).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_block_that_was_heard_of_answers_to_every_name_that_it_may_have() {
    let mut bench = Bench::following().await;
    bench.sequencer.hear(heard(7, 0, false, vec![])).await;
    bench.grant().await;
    let running = bench.sequencer.builds.running();
    let head = bench.sequencer.spec.genesis_hash();
    // At its own gas limit, and at the one that this builder moves toward.
    for target in [base().gas_limit, 30_000_000] {
        let aiming = attributes(2).aiming_at(target);
        let id = bench.forkchoice(head, Some(aiming.clone())).await;
        assert_eq!(id, Some(aiming.id(head)));
        assert_eq!(bench.sequencer.builds.running(), running);
    }
    let other = bench.forkchoice(head, Some(attributes(2).aiming_at(1))).await;
    assert!(other.is_some());
    assert_ne!(bench.sequencer.builds.running(), running);
}

#[tokio::test]
async fn the_execution_clients_payload_is_found_under_a_name_that_nobody_has_told() {
    let genesis = GENESIS.replace("\"shanghaiTime\":0", CANCUN);
    let block = ChainSpec::from_genesis_json(&genesis).unwrap().genesis_block();
    let theirs = envelope_v3(to_payload(&block), U256::from(7), Default::default());
    let told = serde_json::to_value(&theirs).unwrap();
    let head = block.header.hash_slow();
    let name = json!(attributes(2).aiming_at(30_000_000).id(head));
    let mut bench = Bench::on_cancun(move |method, params| match method {
        "engine_getPayloadV3" if params[0] == name => Some(told.clone()),
        other => nothing(other),
    })
    .await;
    bench.sequencer.follow();
    bench.sequencer.learn_head(bench.genesis()).await;
    let mut opening = base();
    opening.parent_hash = head;
    bench.sequencer.hear(heard_of(opening, 7, 0, false, vec![])).await;
    bench.grant().await;
    let id = attributes(2).id(head);
    let payload = bench.sequencer.get_payload(PayloadVersion::V3, id).await;
    assert!(payload.is_some());
    bench.assert_handed_out("fallback");
    // Whoever was told what it is called leaves that to the door.
    bench.sequencer.builds.told(id, Some(PayloadId::new([1; 8])));
    assert!(bench.sequencer.get_payload(PayloadVersion::V3, id).await.is_none());
}

#[tokio::test]
async fn a_sealed_block_that_nobody_published_is_handed_out_if_there_is_no_other() {
    let genesis = GENESIS.replace("\"shanghaiTime\":0", CANCUN);
    let block = ChainSpec::from_genesis_json(&genesis).unwrap().genesis_block();
    let theirs = envelope_v3(to_payload(&block), U256::from(7), Default::default());
    let told = serde_json::to_value(&theirs).unwrap();
    for (answer, source) in [(Some(told), "fallback"), (None, "builder")] {
        let mut bench = Bench::on_cancun(move |method, _| match method {
            "engine_getPayloadV3" => answer.clone(),
            other => nothing(other),
        })
        .await;
        bench.sequencer.follow();
        bench.sequencer.learn_head(bench.genesis()).await;
        let mut opening = base();
        opening.parent_hash = block.header.hash_slow();
        bench.sequencer.hear(heard_of(opening.clone(), 7, 0, false, vec![])).await;
        bench.grant().await;
        let (build, _) = bench.sequencer.builds.running()[0];
        let sealed = Arc::new(crate::sealing::SealedBlock::of(&block));
        let _ = bench.sequencer.builds.settle(build, Stage::Sealed(sealed)).unwrap();
        let id = attributes(2).id(opening.parent_hash);
        assert!(bench.sequencer.get_payload(PayloadVersion::V3, id).await.is_some());
        bench.assert_handed_out(source);
    }
}

#[tokio::test]
async fn a_payload_that_is_absent_is_asked_for_five_times_and_one_that_cannot_be_read_once() {
    let unreadable = json!({ "executionPayload": null });
    let absent = NoPayload::Absent(Absence::NotAvailable);
    let cases = [(None, 5, absent), (Some(unreadable), 1, NoPayload::Failed)];
    let cases = cases.into_iter().flat_map(|case| RULES.map(|slots| (slots, case.clone())));
    for (slots, (answer, times, outcome)) in cases {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = asked.clone();
        let bench = Bench::on_cancun(move |method, _| match method {
            "engine_getPayloadV3" => {
                counted.fetch_add(1, Ordering::SeqCst);
                answer.clone()
            }
            other => nothing(other),
        })
        .await;
        bench.sequencer.learn_head(bench.genesis()).await;
        bench.wish_for_slot_1().await;
        let payloads = Payloads::new(&bench.sequencer, slots);

        let request = PayloadRequest { slot: 1, parent_block_root: B256::ZERO };
        assert_eq!(payloads.payload(request).await, Err(outcome), "{slots}");
        assert_eq!(asked.load(Ordering::SeqCst), times, "{slots}");
    }
}

#[tokio::test]
async fn a_block_whose_head_was_never_read_is_found_by_its_slot_and_no_other() {
    let genesis = GENESIS.replace("\"shanghaiTime\":0", CANCUN);
    let spec = ChainSpec::from_genesis_json(&genesis).unwrap();
    let block = spec.genesis_block();
    let theirs = envelope_v3(to_payload(&block), U256::from(7), Default::default());
    let theirs = serde_json::to_value(&theirs).unwrap();
    let shown = RpcBlock::with_transactions(&block, spec.genesis_hash(), &[]);
    let shown = serde_json::to_value(shown).unwrap();
    let answers = Arc::new(AtomicBool::new(false));
    let can_answer = answers.clone();
    let bench = Bench::on_cancun(move |method, _| match method {
        "engine_getPayloadV3" => Some(theirs.clone()),
        "eth_getBlockByHash" if can_answer.load(Ordering::SeqCst) => Some(shown.clone()),
        other => nothing(other),
    })
    .await;
    bench.wish_for_slot_1().await;
    for slots in RULES {
        let payloads = Payloads::new(&bench.sequencer, slots);
        let is_known = matches!(slots, SlotRule::Time { .. });
        let ask = async |slot| {
            let request = PayloadRequest { slot, parent_block_root: B256::ZERO };
            payloads.payload(request).await.map(|payload| payload.block_value)
        };
        answers.store(false, Ordering::SeqCst);
        assert_eq!(ask(1).await.is_ok(), is_known, "{slots}");
        answers.store(true, Ordering::SeqCst);
        assert_eq!(ask(2).await, Err(Absence::NoBuild.into()), "{slots}");
        assert_eq!(ask(1).await, Ok(U256::from(7)), "{slots}");
        // It is not asked for again.
        answers.store(false, Ordering::SeqCst);
        assert_eq!(ask(1).await, Ok(U256::from(7)), "{slots}");
    }
}

#[tokio::test]
async fn a_transaction_with_more_gas_than_one_may_have_is_refused() {
    let osaka = r#""shanghaiTime":0,"cancunTime":0,"pragueTime":0,"osakaTime":0,"blobSchedule":{
        "cancun":{"target":3,"max":6,"baseFeeUpdateFraction":3338477},
        "prague":{"target":6,"max":9,"baseFeeUpdateFraction":5007716},
        "osaka":{"target":6,"max":9,"baseFeeUpdateFraction":5007716}}"#;
    let genesis = GENESIS.replace("\"shanghaiTime\":0", osaka);
    let bench = Bench::of(&genesis, 64, |method, _| nothing(method)).await;
    bench.sequencer.learn_head(bench.genesis()).await;
    let ingress = Ingress::new(bench.sequencer.clone(), Speculation::new(0).0, true);
    let sent = signed_transfer_with_gas(16_777_217);
    let refusal = ingress.submit(sent.encoded().clone()).await.unwrap_err();
    assert_eq!(refusal.reason, preconf_primitives::TransactionRefusalReason::GasLimitTooHigh);
}

/// An empty block on the genesis, which pays this account, and the bench that is told of it.
async fn paying(account: Address, change: fn(&mut preconf_chain::Header)) -> (Bench, B256) {
    let spec = Arc::new(ChainSpec::from_genesis_json(GENESIS).unwrap());
    let cache = StateCache::new(0, spec.genesis_hash(), 10_000);
    let known = Address::repeat_byte(7);
    for address in [account, known, Address::ZERO] {
        cache.insert(Key::Account(address), preconf_state::Value::Account(None));
    }
    let header = Arc::new(spec.genesis_header());
    let head = HeadState { header, cache: cache.clone() };
    let mut attributes = attributes(2);
    let withdrawal = alloy_eips::eip4895::Withdrawal {
        index: 0,
        validator_index: 0,
        address: account,
        amount: 5,
    };
    attributes.common.withdrawals = Some(vec![withdrawal]);
    let next = next_block(&spec, &head, &attributes, 30_000_000);
    let paused = preconf_evm::Paused::begin(spec.clone(), next, Overlay::new(cache)).unwrap();
    let mut block = paused.finish().unwrap().block(hash(3));
    change(&mut block.header);
    let hash = block.header.hash_slow();
    let shown = serde_json::to_value(RpcBlock::with_transactions(&block, hash, &[])).unwrap();
    let bench =
        Bench::new(64, move |method, _| (method == "eth_getBlockByHash").then(|| shown.clone()))
            .await;
    bench.sequencer.head.send_replace(Some(head));
    (bench, hash)
}

#[tokio::test]
async fn what_is_in_memory_stays_there_when_somebody_else_has_built_the_next_block() {
    let account = Address::repeat_byte(9);
    let (bench, hash) = paying(account, |_| ()).await;
    let state = bench.sequencer.move_to(hash).await.unwrap();
    assert_eq!(state.cache.block(), (1, hash));
    let paid = state.cache.account(account).unwrap().unwrap();
    assert_eq!(paid.balance, U256::from(5_000_000_000_u64));
    // Nobody was asked for it again.
    assert_eq!(state.cache.account(Address::repeat_byte(7)), Ok(None));
}

#[tokio::test]
async fn a_block_of_others_that_we_find_another_for_leaves_nothing_in_memory() {
    let account = Address::repeat_byte(9);
    let (bench, hash) = paying(account, |header| header.gas_used += 1).await;
    let state = bench.sequencer.move_to(hash).await.unwrap();
    assert_eq!(state.cache.block(), (1, hash));
    assert!(state.cache.account(account).is_err());
}

#[tokio::test]
async fn what_is_in_memory_is_forgotten_when_the_client_finds_another_block_than_ours() {
    let account = Address::repeat_byte(9);
    let (bench, hash) = paying(account, |_| ()).await;
    let cache = || bench.sequencer.head.borrow().as_ref().unwrap().cache.clone();
    let error = SealError::NotValid("INVALID".to_owned());
    bench.sequencer.not_sealed(BuildId(1), &error);
    for address in [account, Address::repeat_byte(7), Address::ZERO] {
        assert!(cache().account(address).is_err());
        // As if it had been read anew.
        cache().insert(Key::Account(address), preconf_state::Value::Account(None));
    }
    // The next block of others may be what we execute wrongly.
    let state = bench.sequencer.move_to(hash).await.unwrap();
    assert_eq!(state.cache.block(), (1, hash));
    assert!(state.cache.account(account).is_err());
}
