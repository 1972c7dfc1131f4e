//! Wishes, ends, heads and questions.

mod ends;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use alloy_consensus::{EthereumTxEnvelope, SignableTransaction as _, TxEip1559, TxEip4844};
use alloy_eips::Encodable2718 as _;
use alloy_primitives::{Address, Bytes, FixedBytes, Signature, TxKind, U256};
use alloy_rpc_types_engine::{
    ForkchoiceState, ForkchoiceUpdated, PayloadAttributes, PayloadStatus, PayloadStatusEnum,
};
use preconf_assembly::{Located, PoolLimits, Timing};
use preconf_chain::{ProposerPublicKey, Transaction, rpc::RpcBlock};
use preconf_chassis::Context;
use preconf_engine::{
    JwtSecret,
    payload::{envelope_v3, to_payload},
    proxy::ForkchoiceVersion,
};
use preconf_payload_api::{ForkVersion, PayloadRequest, SlotRule};
use preconf_primitives::{Base, Digest, Flashblock, FlashblockParts, Opening, PayloadId as WireId};
use preconf_signing::SignedFlashblock;
use preconf_state::{Key, StateReader as _};
use preconf_upstream::{Upstream, UpstreamConfig};
use preconf_wire::{
    feed::FeedItem,
    ingress::IngressService,
    payload::{Absence, NoPayload, PayloadService},
};
use serde_json::{Value, json};

use super::*;
use crate::{
    build::{BuildThread, OrderQueue},
    ingress::Ingress,
    payloads::{PAUSE, Payloads, TRIES},
    speculation::Speculation,
    testing::{DEADLINE, at, execution_client, hash},
};

const GENESIS: &str = r#"{"config":{"chainId":1337,"homesteadBlock":0,"eip150Block":0,
    "eip155Block":0,"eip158Block":0,"byzantiumBlock":0,"constantinopleBlock":0,"petersburgBlock":0,
    "istanbulBlock":0,"berlinBlock":0,"londonBlock":0,"terminalTotalDifficulty":0,
    "terminalTotalDifficultyPassed":true,"shanghaiTime":0},"nonce":"0x0","timestamp":"0x0",
    "extraData":"0x","gasLimit":"0x1c9c380","difficulty":"0x0",
    "mixHash":"0x0000000000000000000000000000000000000000000000000000000000000000",
    "coinbase":"0x0000000000000000000000000000000000000000","alloc":{}}"#;

/// A sequencer whose build thread and publisher are the test.
struct Bench {
    sequencer: Arc<Sequencer>,
    orders: OrderQueue,
    outgoing: mpsc::Receiver<Outgoing>,
    wanted: mpsc::Receiver<Wanted>,
    context: Context,
}

impl Bench {
    /// With room for so many messages to the publisher.
    async fn new(
        room: usize,
        answer: impl Fn(&str, &Value) -> Option<Value> + Send + Sync + 'static,
    ) -> Self {
        Self::of(GENESIS, room, answer).await
    }

    /// The same on another chain.
    async fn of(
        genesis: &str,
        room: usize,
        answer: impl Fn(&str, &Value) -> Option<Value> + Send + Sync + 'static,
    ) -> Self {
        let spec = Arc::new(ChainSpec::from_genesis_json(genesis).unwrap());
        let url = execution_client(answer).await;
        let timing = Timing { interval: Duration::from_millis(200), deadline: DEADLINE };
        let context = Context::for_test();
        let metrics = Arc::new(Metrics::new(&context.registry));
        let limits = PoolLimits::default();
        let (thread, orders, _) = BuildThread::new(spec.clone(), timing, limits, metrics.clone());
        let (outgoing, to_publish) = mpsc::channel(room);
        let (wanted, to_prepare) = mpsc::channel(16);
        let upstream = Upstream::new(UpstreamConfig::new(url.clone())).unwrap();
        let secret = Arc::new(JwtSecret::from_bytes([7; 32]));
        let sequencer = Arc::new(Sequencer {
            spec,
            urgent: StateFetcher::new(upstream.clone()),
            sealing: StateFetcher::new(upstream.clone()),
            fetcher: StateFetcher::new(upstream),
            engine: EngineClient::new(&url, secret).unwrap(),
            metrics,
            submissions: Arc::new(Remembered::new(16)),
            orders,
            outgoing,
            wanted,
            gas_target: 30_000_000,
            cache_entries: 10_000,
            seal_budget: Duration::from_millis(300),
            read_bound: Duration::from_millis(300),
            questions: Arc::new(Semaphore::new(1)),
            head: watch::Sender::new(None),
            lineage: Mutex::default(),
            doubts_state: AtomicBool::new(false),
            builds: Builds::default(),
            heard: Mutex::default(),
        });
        sequencer.lead();
        let orders = thread.orders;
        Self { sequencer, orders, outgoing: to_publish, wanted: to_prepare, context }
    }

    async fn forkchoice(&self, head: B256, attributes: Option<Attributes>) -> Option<PayloadId> {
        let state = ForkchoiceState {
            head_block_hash: head,
            safe_block_hash: B256::ZERO,
            finalized_block_hash: B256::ZERO,
        };
        let call = ForkchoiceCall {
            version: ForkchoiceVersion::V3,
            state,
            parent_proposer_pubkey: attributes.as_ref().and_then(|a| a.parent_proposer_pubkey),
            attributes: attributes.map(|attributes| attributes.common),
        };
        let status = PayloadStatus::from_status(PayloadStatusEnum::Valid);
        self.sequencer.forkchoice_updated(&call, &ForkchoiceUpdated::new(status)).await
    }

    /// Opens a build on block 0.
    async fn open(&self, timestamp: u64) -> BuildId {
        let header = Arc::new(self.sequencer.spec.genesis_header());
        let cache = StateCache::new(0, self.sequencer.spec.genesis_hash(), 10_000);
        let attributes = attributes(timestamp);
        let build = self.sequencer.builds.register(new_wish(attributes.clone(), None));
        self.sequencer.open(wish(build, attributes), HeadState { header, cache }).await;
        build
    }

    fn order_or_none(&self) -> Option<Order> {
        std::iter::from_fn(|| self.orders.take())
            .find(|order| !matches!(order, Order::Follow { .. }))
    }

    /// The next order that is none to open or give up a build.
    fn order(&self) -> Order {
        let orders = std::iter::from_fn(|| self.orders.take());
        let mut others =
            orders.filter(|order| !matches!(order, Order::Open { .. } | Order::Drop { .. }));
        others.next().unwrap()
    }
}

fn wish(build: BuildId, attributes: Attributes) -> Wish {
    Wish { build, attributes, heard: None }
}

/// A wish for a block on block 0, which the execution client calls this.
fn new_wish(attributes: Attributes, theirs: Option<PayloadId>) -> NewWish {
    let (id, theirs) = (attributes.id(hash(0)), Theirs::Told(theirs));
    NewWish { id, aliases: Vec::new(), theirs, parent: hash(0), number: None, attributes }
}

fn attributes(timestamp: u64) -> Attributes {
    let common = PayloadAttributes {
        timestamp,
        prev_randao: hash(1),
        suggested_fee_recipient: Default::default(),
        withdrawals: Some(vec![]),
        parent_beacon_block_root: Some(B256::ZERO),
        slot_number: None,
        target_gas_limit: None,
    };
    Attributes { common, parent_proposer_pubkey: None }
}

/// Accounts that do not exist and slots that are empty.
fn nothing(method: &str) -> Option<Value> {
    match method {
        "eth_getBalance" | "eth_getTransactionCount" => Some(json!("0x0")),
        "eth_getCode" => Some(json!("0x")),
        "eth_getStorageAt" => Some(json!(B256::ZERO)),
        _ => None,
    }
}

#[tokio::test]
async fn a_wish_that_comes_back_before_the_others_were_acted_upon_is_a_new_build() {
    let mut bench = Bench::new(64, |_, _| None).await;
    let (a, b) = (attributes(2), attributes(3));
    let first = bench.forkchoice(hash(1), Some(a.clone())).await.unwrap();
    let second = bench.forkchoice(hash(1), Some(b)).await.unwrap();
    let third = bench.forkchoice(hash(1), Some(a.clone())).await.unwrap();
    assert_eq!((first, first != second), (third, true));
    let wished = std::iter::from_fn(|| bench.wanted.try_recv().ok());
    let wished: Vec<_> = wished.map(|wanted| wanted.build.unwrap().build).collect();
    assert_eq!(wished.len(), 3);
    let running: Vec<_> =
        bench.sequencer.builds.running().into_iter().map(|(build, _)| build).collect();
    assert_eq!(running, [wished[2]]);

    // Another head without a block ends it too.
    bench.forkchoice(hash(2), None).await;
    assert_eq!(bench.sequencer.builds.running(), []);
    bench.forkchoice(hash(1), Some(a)).await.unwrap();
    assert_eq!(bench.sequencer.builds.running().len(), 1);
}

#[tokio::test]
async fn the_key_of_the_parents_proposer_is_in_the_first_flashblock_and_tells_wishes_apart() {
    let mut bench = Bench::new(64, |method, _| nothing(method)).await;
    let with_key = |byte| Attributes {
        parent_proposer_pubkey: Some(ProposerPublicKey::repeat_byte(byte)),
        ..attributes(2)
    };
    let without = bench.forkchoice(hash(1), Some(attributes(2))).await;
    let one = bench.forkchoice(hash(1), Some(with_key(1))).await;
    let other = bench.forkchoice(hash(1), Some(with_key(2))).await;
    assert!(without.is_some() && without != one && one != other);

    let header = Arc::new(bench.sequencer.spec.genesis_header());
    let cache = StateCache::new(0, hash(0), 10_000);
    let build = bench.sequencer.builds.running()[0].0;
    bench.sequencer.open(wish(build, with_key(2)), HeadState { header, cache }).await;
    let Ok(Outgoing::Open { opening, .. }) = bench.outgoing.try_recv() else { panic!("not open") };
    assert_eq!(opening.base.prev_proposer_pubkey, with_key(2).parent_proposer_pubkey);
}

#[tokio::test]
async fn the_end_of_a_session_has_its_place_in_a_queue_that_is_full() {
    let mut bench = Bench::new(2, |method, _| nothing(method)).await;
    let build = bench.open(2).await;
    assert!(
        bench
            .sequencer
            .outgoing
            .try_send(Outgoing::Abandon { build, reason: AbandonReason::Expired })
            .is_err()
    );
    bench.sequencer.end(build, AbandonReason::SealFailed);
    assert!(matches!(bench.outgoing.try_recv(), Ok(Outgoing::Open { .. })));
    let end = bench.outgoing.try_recv().unwrap();
    let Outgoing::Abandon { reason, .. } = end else { panic!("unexpected {end:?}") };
    assert_eq!(reason, AbandonReason::SealFailed);
}

#[tokio::test]
async fn a_build_that_finds_no_place_ends_and_says_nothing() {
    let mut bench = Bench::new(1, |method, _| nothing(method)).await;
    bench.open(2).await;
    assert_eq!(bench.sequencer.builds.running(), []);
    assert!(bench.outgoing.try_recv().is_err());
}

#[tokio::test]
async fn a_build_that_was_given_up_before_it_began_is_not_opened() {
    let mut bench = Bench::new(64, |method, _| nothing(method)).await;
    let header = Arc::new(bench.sequencer.spec.genesis_header());
    let cache = StateCache::new(0, hash(0), 10_000);
    let build = bench.sequencer.builds.register(new_wish(attributes(2), None));
    bench.sequencer.end(build, AbandonReason::SealFailed);
    bench.sequencer.open(wish(build, attributes(2)), HeadState { header, cache }).await;
    assert!(bench.outgoing.try_recv().is_err());
}

#[tokio::test]
async fn the_thread_learns_what_skipped_blocks_hold() {
    let spec = ChainSpec::from_genesis_json(GENESIS).unwrap();
    let mut blocks = vec![spec.genesis_block()];
    for number in 1..=4 {
        let mut block = blocks[0].clone();
        block.header.number = number;
        block.header.parent_hash = blocks[number as usize - 1].header.hash_slow();
        block.header.gas_limit += number;
        blocks.push(block);
    }
    let hashes: Vec<B256> = blocks.iter().map(|block| block.header.hash_slow()).collect();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (shown, noted) = (blocks.clone(), asked.clone());
    let bench = Bench::new(64, move |method, params| {
        if method != "eth_getBlockByHash" {
            return None;
        }
        let block = shown.iter().find(|block| json!(block.header.hash_slow()) == params[0])?;
        noted.lock().push(block.header.number);
        let hash = block.header.hash_slow();
        Some(serde_json::to_value(RpcBlock::with_transactions(block, hash, &[])).unwrap())
    })
    .await;
    bench.sequencer.move_to(hashes[1]).await.unwrap();
    bench.sequencer.move_to(hashes[4]).await.unwrap();
    bench.sequencer.move_to(hashes[4]).await.unwrap();
    assert_eq!(*asked.lock(), [1, 4, 3, 2]);

    let unknown = bench.sequencer.move_to(hash(9)).await;
    assert!(unknown.is_err());
    assert_eq!(bench.sequencer.head.borrow().as_ref().unwrap().cache.block(), (4, hashes[4]));
}

#[tokio::test]
async fn state_is_asked_for_again_until_it_comes() {
    let tries = AtomicUsize::new(0);
    let bench = Bench::new(64, move |method, _| match method {
        "eth_getStorageAt" if tries.fetch_add(1, Ordering::SeqCst) < 2 => None,
        _ => nothing(method),
    })
    .await;
    let build = bench.open(2).await;
    let keys = vec![Key::Slot(Default::default(), Default::default())];
    bench.sequencer.read(build, keys.clone()).await;
    let order = bench.order();
    let Order::StateArrived { keys: arrived, .. } = order else { panic!("unexpected {order:?}") };
    assert_eq!(arrived, keys);
}

#[tokio::test]
async fn state_that_does_not_come_in_time_is_said_not_to_come() {
    let bench = Bench::new(64, |_, _| None).await;
    let build = bench.open(2).await;
    let keys = vec![Key::Slot(Default::default(), Default::default())];
    bench.sequencer.read(build, keys.clone()).await;
    let order = bench.order();
    let Order::StateFailed { keys: failed, .. } = order else { panic!("unexpected {order:?}") };
    assert_eq!(failed, keys);
}

#[tokio::test]
async fn a_promise_is_located_by_its_hash() {
    let cases = [
        (Some(json!({"blockHash": hash(1)})), Located::Canonical),
        (Some(json!({"blockHash": null})), Located::Absent),
        (Some(Value::Null), Located::Absent),
        (None, Located::Unknown),
    ];
    for (answer, expected) in cases {
        let bench = Bench::new(64, move |method, params| {
            assert_eq!((method, &params[0]), ("eth_getTransactionByHash", &json!(hash(5))));
            answer.clone()
        })
        .await;
        bench.sequencer.locate(BuildId(1), hash(5)).await;
        let order = bench.order();
        let Order::Located { located, .. } = order else { panic!("unexpected {order:?}") };
        assert_eq!(located, expected);
    }
}

#[tokio::test]
async fn who_asks_a_thread_that_hangs_is_answered_all_the_same() {
    let bench = Bench::new(64, |_, _| None).await;
    let ingress = Ingress::new(bench.sequencer.clone(), Speculation::new(0).0, true);
    let asked = ingress.next_nonce(Default::default());
    assert_eq!(timeout(DEADLINE, asked).await, Ok(None));
    let Order::NextNonce { answer, .. } = bench.order() else { panic!("it was asked") };
    assert!(answer.is_closed());
}

/// A transfer by whoever the signature happens to be of.
fn signed_transfer() -> Transaction {
    signed_transfer_with_gas(21_000)
}

fn signed_transfer_with_gas(gas_limit: u64) -> Transaction {
    let mut signatures = (1..).map(|r| Signature::new(U256::from(r), U256::ONE, false));
    let signed = signatures.find_map(|signature| {
        let to = TxKind::Call(Default::default());
        let transfer = TxEip1559 { chain_id: 1337, gas_limit, to, ..TxEip1559::default() };
        let envelope = EthereumTxEnvelope::<TxEip4844>::from(transfer.into_signed(signature));
        Transaction::decode(envelope.encoded_2718().into()).ok()
    });
    signed.unwrap()
}

/// A flashblock of a block on the genesis, as the feed has it.
fn heard(seq: u64, index: u64, is_last: bool, transactions: Vec<Bytes>) -> Arc<FeedItem> {
    heard_of(base(), seq, index, is_last, transactions)
}

fn heard_of(
    base: Base,
    seq: u64,
    index: u64,
    is_last: bool,
    transactions: Vec<Bytes>,
) -> Arc<FeedItem> {
    let opening = Opening { withdrawals: vec![], base };
    let flashblock = Flashblock::new(FlashblockParts {
        payload_id: WireId::ZERO,
        position: at(seq, index),
        block_number: 1,
        opening: (index == 0).then_some(opening),
        transactions,
        is_last,
        published_at_ms: 0,
        traceparent: None,
        parent_digest: Digest::ZERO,
    });
    let (signature, seal) = (FixedBytes::ZERO, FixedBytes::ZERO);
    let flashblock = flashblock.unwrap();
    Arc::new(FeedItem::Flashblock(SignedFlashblock { flashblock, signature, seal }))
}

fn base() -> Base {
    let Attributes { common, .. } = attributes(2);
    Base {
        parent_beacon_block_root: B256::ZERO,
        parent_hash: ChainSpec::from_genesis_json(GENESIS).unwrap().genesis_hash(),
        fee_recipient: common.suggested_fee_recipient,
        prev_randao: common.prev_randao,
        block_number: 1,
        gas_limit: 12_345_678,
        timestamp: common.timestamp,
        extra_data: Bytes::from_static(b"theirs"),
        base_fee_per_gas: 1,
        prev_proposer_pubkey: None,
    }
}

impl Bench {
    /// One whose lease another builder has, on the genesis.
    async fn following() -> Self {
        let bench = Self::new(64, |method, _| nothing(method)).await;
        bench.sequencer.follow();
        bench.sequencer.learn_head(bench.genesis()).await;
        bench
    }

    fn genesis(&self) -> Head {
        let (hash, header) =
            (self.sequencer.spec.genesis_hash(), self.sequencer.spec.genesis_header());
        Head {
            number: 0,
            hash,
            parent_hash: header.parent_hash,
            timestamp: header.timestamp,
            header,
        }
    }

    /// Carries out the wish that waits.
    async fn grant(&mut self) {
        let Ok(Wanted { head, build: Some(wish) }) = self.wanted.try_recv() else {
            panic!("nothing is wished for")
        };
        let state = self.sequencer.move_to(head).await.unwrap();
        self.sequencer.open(wish, state).await;
    }
}

#[tokio::test]
async fn who_gets_the_lease_goes_on_with_the_block_that_was_heard() {
    let mut bench = Bench::following().await;
    let transaction = signed_transfer();
    bench.sequencer.hear(heard(7, 0, false, vec![transaction.encoded().clone()])).await;
    let Some(Order::Promise { transactions }) = bench.orders.take() else { panic!("no promise") };
    assert_eq!(transactions, [transaction]);
    bench.grant().await;
    let Some(Order::Follow { build, block, .. }) = bench.orders.take() else { panic!("no build") };
    assert_eq!((block.gas_limit, &block.extra_data[..]), (12_345_678, &b"theirs"[..]));
    assert!(bench.outgoing.try_recv().is_err());
    // The consensus client asks here for what it had ordered there: nothing begins anew.
    let head = bench.sequencer.spec.genesis_hash();
    let id = bench.forkchoice(head, Some(attributes(2))).await;
    assert_eq!(id, Some(attributes(2).id(head)));
    assert!(bench.orders.take().is_none());

    bench.sequencer.lead();
    assert!(matches!(bench.orders.take(), Some(Order::Lead { build: led }) if led == build));
    let Ok(Outgoing::Open { opening, .. }) = bench.outgoing.try_recv() else { panic!("not open") };
    assert_eq!(opening.base.extra_data, base().extra_data);
    // What comes late from the one before is not listened to any more.
    bench.sequencer.hear(heard(7, 1, false, vec![])).await;
    bench.sequencer.lead();
    assert!(bench.orders.take().is_none() && bench.outgoing.try_recv().is_err());
}

#[tokio::test]
async fn a_block_that_was_completed_by_another_builder_is_not_published_again() {
    let mut bench = Bench::following().await;
    bench.sequencer.hear(heard(7, 0, false, vec![])).await;
    bench.grant().await;
    bench.sequencer.hear(heard(7, 1, true, vec![])).await;
    bench.sequencer.lead();
    assert!(bench.outgoing.try_recv().is_err());
    assert_eq!(bench.sequencer.builds.running().len(), 1);
}

#[tokio::test]
async fn a_session_that_was_abandoned_goes_on_in_another_one() {
    let mut bench = Bench::following().await;
    bench.sequencer.hear(heard(7, 0, false, vec![])).await;
    bench.grant().await;
    bench.sequencer.hear(Arc::new(crate::testing::abandoned(7))).await;
    bench.sequencer.lead();
    assert!(matches!(bench.outgoing.try_recv(), Ok(Outgoing::Open { block_number: 1, .. })));
}

#[tokio::test]
async fn a_block_that_is_asked_for_before_it_is_open_is_completed_when_it_is() {
    let mut bench = Bench::following().await;
    bench.sequencer.hear(heard(7, 0, false, vec![])).await;
    let (build, _) = bench.sequencer.builds.running()[0];
    bench.sequencer.builds.finish(build, &bench.sequencer.orders);
    assert!(matches!(bench.orders.take(), Some(Order::Finish { .. })));
    bench.grant().await;
    assert!(matches!(bench.orders.take(), Some(Order::Follow { .. })));
    assert!(matches!(bench.orders.take(), Some(Order::Finish { build: asked }) if asked == build));
}

#[tokio::test]
async fn a_session_that_was_replaced_does_not_come_back() {
    let mut bench = Bench::following().await;
    bench.sequencer.hear(heard(7, 0, false, vec![])).await;
    bench.grant().await;
    bench.sequencer.hear(heard(6, 0, false, vec![])).await;
    assert!(bench.wanted.try_recv().is_err());
    let transaction = signed_transfer();
    bench.sequencer.hear(heard(6, 1, false, vec![transaction.encoded().clone()])).await;
    assert!(bench.order_or_none().is_none());
}

#[tokio::test]
async fn what_was_published_before_a_start_is_promised_and_gone_on_with() {
    let mut bench = Bench::following().await;
    bench.sequencer.head.send_replace(None);
    let transaction = signed_transfer();
    let item = heard(7, 0, false, vec![transaction.encoded().clone()]);
    let head = bench.genesis();
    bench.sequencer.recover(vec![item], None, &head).await;
    bench.sequencer.learn_head(head).await;
    bench.grant().await;
    let Some(Order::Promise { transactions }) = bench.orders.take() else { panic!("no promise") };
    assert_eq!(transactions, [transaction]);
    bench.sequencer.lead();
    assert!(matches!(bench.outgoing.try_recv(), Ok(Outgoing::Open { block_number: 1, .. })));
}

#[tokio::test]
async fn what_comes_into_the_pool_has_its_state_read_ahead() {
    let bench = Bench::following().await;
    let head = bench.sequencer.head.borrow().clone().unwrap();
    let transaction = signed_transfer();
    let recipient = Address::ZERO;
    assert!(head.cache.account(recipient).is_err());
    let (speculation, speculator) = Speculation::new(100);
    speculation.consider(&transaction);
    drop(speculation);
    timeout(DEADLINE, speculator.unwrap().run(bench.sequencer.clone())).await.unwrap();
    assert!(head.cache.account(recipient).is_ok());
    assert!(head.cache.account(transaction.signer()).is_ok());
}

#[tokio::test]
async fn a_validator_is_given_a_block_of_its_slot_after_its_beacon_block_and_no_other() {
    let bench = Bench::new(64, |method, _| nothing(method)).await;
    bench.open(24).await;
    let rules = [
        (SlotRule::Number, 1),
        (SlotRule::Time { genesis: 0, seconds: 12.try_into().unwrap() }, 2),
    ];
    for (rule, slot) in rules {
        let payloads = Payloads::new(&bench.sequencer, rule);
        let others = [(slot + 1, B256::ZERO), (slot - 1, B256::ZERO), (slot, hash(1))];
        for (slot, parent_block_root) in others {
            let absence = payloads.payload(PayloadRequest { slot, parent_block_root }).await;
            assert_eq!(absence, Err(Absence::NoBuild.into()));
        }
        // Nothing was asked of the thread: who asks ends the build.
        while let Some(order) = bench.order_or_none() {
            assert!(matches!(order, Order::Open { .. }), "{order:?}");
        }
        // The chain has no payloads yet that anybody could ask for.
        let absence = payloads.payload(PayloadRequest { slot, parent_block_root: B256::ZERO });
        assert_eq!(absence.await, Err(Absence::NotAvailable.into()));
    }
}

#[tokio::test]
async fn a_build_is_looked_for_five_times_fifty_milliseconds_apart() {
    let bench = Bench::new(64, |method, _| nothing(method)).await;
    let payloads = Payloads::new(&bench.sequencer, SlotRule::Number);
    let request = PayloadRequest { slot: 1, parent_block_root: B256::ZERO };
    let began = Instant::now();
    assert_eq!(payloads.payload(request).await, Err(Absence::NoBuild.into()));
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(200) && took < Duration::from_secs(2), "{took:?}");
    assert_eq!((TRIES, PAUSE), (5, Duration::from_millis(50)));

    // One that begins after it was first looked for is found.
    let (absence, _) = tokio::join!(payloads.payload(request), bench.open(24));
    assert_eq!(absence, Err(Absence::NotAvailable.into()));
}

#[tokio::test]
async fn a_validator_gets_what_the_consensus_client_gets_whoever_built_it() {
    let genesis = GENESIS.replace(
        "\"shanghaiTime\":0",
        "\"shanghaiTime\":0,\"cancunTime\":0,\"blobSchedule\":{\"cancun\":{\"target\":3,\
         \"max\":6,\"baseFeeUpdateFraction\":3338477}}",
    );
    let block = ChainSpec::from_genesis_json(&genesis).unwrap().genesis_block();
    let theirs = envelope_v3(to_payload(&block), U256::from(7), Default::default());
    let told = serde_json::to_value(&theirs).unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let bench = Bench::of(&genesis, 64, move |method, _| match method {
        // It is asked for once more: the first time it has none yet.
        "engine_getPayloadV3" if counted.fetch_add(1, Ordering::SeqCst) > 0 => Some(told.clone()),
        other => nothing(other),
    })
    .await;
    let attributes = attributes(12);
    let wish = new_wish(attributes, Some(PayloadId::new([1; 8])));
    let build = bench.sequencer.builds.register(wish);
    bench.sequencer.end(build, AbandonReason::SealFailed);

    let slots = SlotRule::Time { genesis: 0, seconds: 12.try_into().unwrap() };
    let payloads = Payloads::new(&bench.sequencer, slots);
    let request = PayloadRequest { slot: 1, parent_block_root: B256::ZERO };
    let first = payloads.payload(request).await.unwrap();

    assert_eq!(first.execution_payload, theirs.execution_payload);
    assert_eq!((first.fork_version, first.block_value), (ForkVersion::DENEB, U256::from(7)));
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    assert_eq!(payloads.payload(request).await.unwrap(), first);
}
