//! The sequencer: what the consensus client wants becomes orders to the build thread, and what the
//! thread completes becomes the payload that the consensus client gets.
//!
//! An Engine API payload id stands for the newest build with that head and those attributes (D3):
//! asked again while it runs, it is the same id and nothing restarts; asked again after its end, a
//! new build begins under the same id. The last [`KEPT_BUILDS`] are remembered, so getPayload may be
//! asked twice.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use alloy_primitives::{B256, keccak256};
use alloy_rpc_types_engine::{ForkchoiceUpdated, PayloadAttributes, PayloadId};
use parking_lot::Mutex;
use preconf_assembly::{BuildId, Completion, Cut, Effect};
use preconf_chain::{ChainSpec, Header};
use preconf_engine::{
    EngineClient, EngineHooks,
    payload_id::payload_id,
    proxy::{ForkchoiceCall, HookFuture, NewPayloadCall, PayloadVersion},
};
use preconf_evm::{NextBlock, Paused};
use preconf_primitives::{AbandonReason, Base, Opening, Withdrawal};
use preconf_state::{Key, Overlay, StateCache};
use preconf_upstream::{Head, StateFetcher, UpstreamError};
use serde_json::value::RawValue;
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tracing::{info, warn};

use crate::{
    build::{Order, Orders},
    metrics::{BuildEnd, Metrics},
    publisher::{Outgoing, Published},
    sealing::{SealError, SealedBlock, Sealer, used},
};

/// How many builds are remembered: 8 sealed ones and as many that were given up.
const KEPT_BUILDS: usize = 16;
/// How often missing state is asked for; each time has the execution client's deadline.
const STATE_ATTEMPTS: usize = 3;

/// The parts of the sequencer that hooks, tasks and the ingress share.
pub(crate) struct Sequencer {
    pub(crate) spec: Arc<ChainSpec>,
    pub(crate) fetcher: StateFetcher,
    pub(crate) engine: EngineClient,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) orders: Orders,
    pub(crate) outgoing: mpsc::Sender<Outgoing>,
    pub(crate) wanted: mpsc::Sender<Wanted>,
    pub(crate) gas_target: u64,
    pub(crate) cache_entries: usize,
    pub(crate) seal_budget: Duration,
    pub(crate) head: watch::Sender<Option<HeadState>>,
    pub(crate) builds: Mutex<VecDeque<Record>>,
    pub(crate) next_build: AtomicU64,
}

/// The head of the chain, as far as its state is in memory.
#[derive(Clone, Debug)]
pub(crate) struct HeadState {
    pub(crate) header: Arc<Header>,
    pub(crate) cache: StateCache,
}

/// What the consensus client wants: a head, and perhaps a block on it.
#[derive(Debug)]
pub(crate) struct Wanted {
    head: B256,
    /// Builds below this one were begun before, and end unless they build on this head.
    since: BuildId,
    build: Option<(BuildId, PayloadAttributes)>,
}

/// A build, and what became of it.
#[derive(Debug)]
pub(crate) struct Record {
    build: BuildId,
    id: PayloadId,
    /// The execution client's own payload for the same attributes: the fallback.
    theirs: Option<PayloadId>,
    parent: B256,
    attributes: PayloadAttributes,
    /// What it reads, once it is open.
    cache: Option<StateCache>,
    stage: watch::Sender<Stage>,
}

/// How far a build is.
#[derive(Clone, Debug)]
enum Stage {
    Building,
    Sealed(Arc<SealedBlock>),
    Over,
}

impl EngineHooks for Sequencer {
    fn forkchoice_updated<'a>(
        &'a self,
        call: &'a ForkchoiceCall,
        answer: &'a ForkchoiceUpdated,
    ) -> HookFuture<'a, Option<PayloadId>> {
        Box::pin(async move {
            if !answer.is_valid() {
                return None;
            }
            let head = call.state.head_block_hash;
            let Some(attributes) = &call.attributes else {
                let since = BuildId(self.next_build.load(Ordering::Relaxed));
                self.want(Wanted { head, since, build: None });
                return None;
            };
            let id = payload_id(head, attributes, None);
            if self.is_building(id) {
                return Some(id);
            }
            let build = self.register(id, answer.payload_id, head, attributes.clone());
            let wanted = Wanted { head, since: build, build: Some((build, attributes.clone())) };
            if !self.want(wanted) {
                self.end(build, AbandonReason::ExecutionFailed);
                return None;
            }
            Some(id)
        })
    }

    fn get_payload(
        &self,
        version: PayloadVersion,
        id: PayloadId,
    ) -> HookFuture<'_, Option<Box<RawValue>>> {
        Box::pin(self.payload(version, id))
    }

    fn new_payload_valid(&self, _call: NewPayloadCall) {}
}

impl Sequencer {
    /// Hands a wish to the task that prepares builds. `false` if it cannot keep up.
    fn want(&self, wanted: Wanted) -> bool {
        let taken = self.wanted.try_send(wanted).is_ok();
        if !taken {
            warn!("a forkchoice update was not acted upon: too many wait");
        }
        taken
    }

    fn is_building(&self, id: PayloadId) -> bool {
        let builds = self.builds.lock();
        let newest = builds.iter().rev().find(|record| record.id == id);
        newest.is_some_and(|record| matches!(*record.stage.borrow(), Stage::Building))
    }

    fn register(
        &self,
        id: PayloadId,
        theirs: Option<PayloadId>,
        parent: B256,
        attributes: PayloadAttributes,
    ) -> BuildId {
        let build = BuildId(self.next_build.fetch_add(1, Ordering::Relaxed));
        let (stage, _) = watch::channel(Stage::Building);
        let mut builds = self.builds.lock();
        if builds.len() >= KEPT_BUILDS {
            builds.pop_front();
        }
        builds.push_back(Record { build, id, theirs, parent, attributes, cache: None, stage });
        build
    }

    /// Our block if it is sealed in time, else the execution client's.
    async fn payload(&self, version: PayloadVersion, id: PayloadId) -> Option<Box<RawValue>> {
        let (build, theirs, mut stage) = {
            let builds = self.builds.lock();
            let record = builds.iter().rev().find(|record| record.id == id)?;
            (record.build, record.theirs, record.stage.subscribe())
        };
        // At once: it is the fallback, and it ends the client's own build.
        let fallback = theirs.map(|theirs| {
            let (engine, budget) = (self.engine.clone(), self.seal_budget);
            tokio::spawn(async move { fallback(&engine, version, theirs, budget).await })
        });
        // A thread that takes no orders seals nothing: the wait below ends at its deadline.
        let _ = self.orders.give(Order::Finish { build });
        let settled = stage.wait_for(|stage| !matches!(stage, Stage::Building));
        let settled = timeout(self.seal_budget, settled).await;
        let ours = match settled.map(|stage| stage.map(|stage| stage.clone())) {
            Ok(Ok(Stage::Sealed(sealed))) => Some(sealed),
            Ok(Ok(Stage::Building | Stage::Over) | Err(_)) | Err(_) => None,
        };
        if let Some(envelope) = ours.and_then(|sealed| sealed.envelope(version).ok()) {
            self.metrics.payload("builder");
            return Some(envelope);
        }
        // Sealed in this very moment: what is published as sealed is what is handed out.
        self.end(build, AbandonReason::SealFailed);
        let settled = stage.borrow().clone();
        if let Stage::Sealed(sealed) = settled
            && let Ok(envelope) = sealed.envelope(version)
        {
            self.metrics.payload("builder");
            return Some(envelope);
        }
        warn!(build = build.0, "the payload is the execution client's own");
        self.metrics.payload("fallback");
        fallback?.await.ok().flatten()
    }

    /// Ends a build without a block, if it has no end yet.
    fn end(&self, build: BuildId, reason: AbandonReason) {
        if self.settle(build, Stage::Over) {
            self.metrics.build_ended(BuildEnd::Abandoned(reason));
            // A thread or a publisher that is gone has no build either.
            let _ = self.orders.give(Order::Drop { build });
            let _ = self.outgoing.try_send(Outgoing::Abandon { build, reason });
        }
    }

    /// Moves a build to its end. `false` if it had one.
    fn settle(&self, build: BuildId, end: Stage) -> bool {
        let builds = self.builds.lock();
        let Some(record) = builds.iter().find(|record| record.build == build) else { return false };
        record.stage.send_if_modified(|stage| match stage {
            Stage::Building => {
                *stage = end;
                true
            }
            Stage::Sealed(_) | Stage::Over => false,
        })
    }

    fn sealed_block(&self, hash: B256) -> Option<Arc<SealedBlock>> {
        let builds = self.builds.lock();
        builds.iter().rev().find_map(|record| match &*record.stage.borrow() {
            Stage::Sealed(sealed) if sealed.hash == hash => Some(sealed.clone()),
            Stage::Sealed(_) | Stage::Building | Stage::Over => None,
        })
    }

    /// Acts upon the wishes of the consensus client, one after the other.
    pub(crate) async fn prepare(self: Arc<Self>, mut wanted: mpsc::Receiver<Wanted>) {
        while let Some(Wanted { head, since, build }) = wanted.recv().await {
            self.give_up_others(head, since, build.is_some());
            match self.move_to(head).await {
                Ok(state) => {
                    if let Some((build, attributes)) = build {
                        self.open(build, attributes, state).await;
                    }
                }
                Err(error) => {
                    warn!(%head, error = &error as &dyn std::error::Error, "the head was not read");
                    if let Some((build, _)) = build {
                        self.end(build, AbandonReason::ExecutionFailed);
                    }
                }
            }
        }
    }

    /// Follows the chain to its head.
    async fn move_to(&self, head: B256) -> Result<HeadState, UpstreamError> {
        let known = self.head.borrow().clone();
        if let Some(state) = known.filter(|state| state.cache.block().1 == head) {
            return Ok(state);
        }
        let (header, cache, used) = match self.sealed_block(head) {
            Some(sealed) => (sealed.header.clone(), sealed.cache.clone(), sealed.used()),
            None => self.foreign_block(head).await?,
        };
        // A thread that takes no orders builds nothing either.
        let _ = self.orders.give(Order::Canonical { used });
        let state = HeadState { header: Arc::new(header), cache };
        self.head.send_replace(Some(state.clone()));
        Ok(state)
    }

    async fn foreign_block(
        &self,
        head: B256,
    ) -> Result<(Header, StateCache, Vec<(alloy_primitives::Address, u64, B256)>), UpstreamError>
    {
        let upstream = self.fetcher.upstream();
        let Some(block) = upstream.block_by_hash(head).await? else {
            // The client has just called it VALID, so this is a client that forgets.
            let latest = upstream.latest().await?;
            let cache = StateCache::new(latest.number, latest.hash, self.cache_entries);
            return Ok((latest.header, cache, Vec::new()));
        };
        let used = used(&block.transactions);
        let header = block.block.header;
        let cache = StateCache::new(header.number, head, self.cache_entries);
        Ok((header, cache, used))
    }

    /// Gives up builds begun before `since` on other heads, and on this one if they are `replaced`.
    fn give_up_others(&self, head: B256, since: BuildId, replaced: bool) {
        let others: Vec<(BuildId, AbandonReason)> = {
            let builds = self.builds.lock();
            let earlier = builds.iter().filter(|record| record.build < since);
            let running =
                earlier.filter(|record| matches!(*record.stage.borrow(), Stage::Building));
            let ended = running.filter_map(|record| {
                if record.parent != head {
                    return Some((record.build, AbandonReason::HeadChanged));
                }
                replaced.then_some((record.build, AbandonReason::AttributesChanged))
            });
            ended.collect()
        };
        for (build, reason) in others {
            self.end(build, reason);
        }
    }

    /// What a build reads, as long as it is remembered.
    fn cache_of(&self, build: BuildId) -> Option<StateCache> {
        let builds = self.builds.lock();
        builds.iter().find(|record| record.build == build)?.cache.clone()
    }

    async fn open(&self, build: BuildId, attributes: PayloadAttributes, state: HeadState) {
        let block = next_block(&self.spec, &state, &attributes, self.gas_target);
        if let Some(record) = self.builds.lock().iter_mut().find(|record| record.build == build) {
            record.cache = Some(state.cache.clone());
        }
        // What the block itself reads is fetched in one go; what is missing is asked for later.
        if let Err(error) = self.fetcher.ensure(&state.cache, &block.keys(&self.spec)).await {
            warn!(error = &error as &dyn std::error::Error, "state was not read ahead");
        }
        let overlay = Box::new(Overlay::new(state.cache.clone()));
        let outgoing = Outgoing::Open {
            build,
            block_number: block.number,
            parent_hash: block.parent_hash,
            payload_id: wire_id(&attributes, block.parent_hash, build),
            opening: Box::new(opening(&block)),
        };
        let ordered = self.outgoing.send(outgoing).await.is_ok()
            && self.orders.give(Order::Open { build, block: Box::new(block), overlay }).is_ok();
        if !ordered {
            self.end(build, AbandonReason::ExecutionFailed);
        }
    }

    /// Carries out what the build thread and the publisher report.
    pub(crate) async fn carry_out(
        self: Arc<Self>,
        mut effects: mpsc::Receiver<Effect<StateCache>>,
        mut published: mpsc::Receiver<Published>,
    ) {
        loop {
            tokio::select! {
                effect = effects.recv() => match effect {
                    Some(effect) => self.effect(effect).await,
                    None => return,
                },
                outcome = published.recv() => match outcome {
                    Some(Published::Flashblock { build }) => {
                        let _ = self.orders.give(Order::Published { build });
                    }
                    Some(Published::Failed { build, reason }) => self.end(build, reason),
                    None => return,
                },
            }
        }
    }

    async fn effect(self: &Arc<Self>, effect: Effect<StateCache>) {
        match effect {
            Effect::Need { build, keys } => {
                let Some(cache) = self.cache_of(build) else { return };
                let this = self.clone();
                tokio::spawn(async move { this.read(build, &cache, keys).await });
            }
            Effect::Publish { build, cut } => {
                let outgoing = Outgoing::Flashblock { build, cut, is_last: false };
                // The publisher is gone only when the process ends.
                let _ = self.outgoing.send(outgoing).await;
            }
            Effect::Complete { build, last, block, completion } => {
                let this = self.clone();
                tokio::spawn(async move { this.complete(build, last, *block, completion).await });
            }
            Effect::Failed { build, reason } => {
                warn!(build = build.0, reason, "the build failed");
                self.end(build, AbandonReason::ExecutionFailed);
            }
        }
    }

    /// Reads state that a build misses. What cannot be read after a few tries stays missing: its
    /// transactions wait for the next block.
    async fn read(&self, build: BuildId, cache: &StateCache, keys: Vec<Key>) {
        for _ in 0..STATE_ATTEMPTS {
            match self.fetcher.ensure(cache, &keys).await {
                Ok(()) => {
                    // A thread that takes no orders needs no state.
                    let _ = self.orders.give(Order::StateArrived { build, keys });
                    return;
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    warn!(build = build.0, error, "state was not read");
                }
            }
        }
    }

    /// Seals a completed block; only then is its last flashblock published.
    async fn complete(
        &self,
        build: BuildId,
        last: Cut,
        block: Paused<StateCache>,
        completion: Completion,
    ) {
        let attributes = {
            let builds = self.builds.lock();
            let record = builds.iter().find(|record| record.build == build);
            record.map(|record| record.attributes.clone())
        };
        let Some(attributes) = attributes else { return };
        let started = Instant::now();
        let sealer = Sealer {
            fetcher: self.fetcher.clone(),
            engine: self.engine.clone(),
            deadline: self.seal_budget,
        };
        let sealed = timeout(self.seal_budget, sealer.seal(block, &attributes)).await;
        match sealed {
            Ok(Ok(sealed)) => self.hand_out(build, last, sealed, completion, started).await,
            Ok(Err(error)) => self.not_sealed(build, &error),
            Err(_) => {
                warn!(build = build.0, budget = ?self.seal_budget, "sealing took too long");
                self.end(build, AbandonReason::SealFailed);
            }
        }
    }

    fn not_sealed(&self, build: BuildId, error: &SealError) {
        warn!(build = build.0, error = error as &dyn std::error::Error, "the block was not sealed");
        self.end(build, AbandonReason::SealFailed);
    }

    async fn hand_out(
        &self,
        build: BuildId,
        last: Cut,
        sealed: SealedBlock,
        completion: Completion,
        started: Instant,
    ) {
        let sealed = Arc::new(sealed);
        let (block_hash, state_root) = (sealed.hash, sealed.header.state_root);
        if !self.settle(build, Stage::Sealed(sealed.clone())) {
            return;
        }
        self.metrics.sealed(started.elapsed());
        self.metrics.build_ended(BuildEnd::Sealed);
        info!(
            build = build.0,
            number = sealed.header.number,
            %block_hash,
            transactions = sealed.transactions.len(),
            ?completion,
            elapsed = ?started.elapsed(),
            "block sealed"
        );
        // The publisher is gone only when the process ends.
        let _ = self.outgoing.send(Outgoing::Flashblock { build, cut: last, is_last: true }).await;
        let _ = self.outgoing.send(Outgoing::Sealed { build, block_hash, state_root }).await;
    }

    /// Learns the head from the execution client, until it answers.
    pub(crate) async fn learn_head(&self, head: Head) {
        let cache = StateCache::new(head.number, head.hash, self.cache_entries);
        self.head.send_if_modified(|known| {
            let first = known.is_none();
            if first {
                *known = Some(HeadState { header: Arc::new(head.header), cache });
            }
            first
        });
    }
}

async fn fallback(
    engine: &EngineClient,
    version: PayloadVersion,
    id: PayloadId,
    deadline: Duration,
) -> Option<Box<RawValue>> {
    let method = match version {
        PayloadVersion::V3 => "engine_getPayloadV3",
        PayloadVersion::V4 => "engine_getPayloadV4",
    };
    match engine.request(method, &(id,), deadline).await {
        Ok(envelope) => Some(envelope),
        Err(error) => {
            warn!(%id, error = &error as &dyn std::error::Error, "there is no fallback");
            None
        }
    }
}

/// The environment of the block that the attributes ask for.
fn next_block(
    spec: &ChainSpec,
    state: &HeadState,
    attributes: &PayloadAttributes,
    gas_target: u64,
) -> NextBlock {
    let parent = &state.header;
    let gas_target = attributes.target_gas_limit.unwrap_or(gas_target);
    NextBlock {
        parent_hash: state.cache.block().1,
        parent_beacon_block_root: attributes.parent_beacon_block_root,
        number: parent.number + 1,
        timestamp: attributes.timestamp,
        fee_recipient: attributes.suggested_fee_recipient,
        prev_randao: attributes.prev_randao,
        gas_limit: ChainSpec::next_gas_limit(parent.gas_limit, gas_target),
        base_fee_per_gas: spec.next_base_fee(parent),
        extra_data: alloy_primitives::Bytes::new(),
        withdrawals: attributes.withdrawals.clone().unwrap_or_default(),
        excess_blob_gas: spec.next_excess_blob_gas(parent, attributes.timestamp),
        prev_proposer_pubkey: None,
    }
}

fn opening(block: &NextBlock) -> Opening {
    let withdrawals = block.withdrawals.iter().map(|withdrawal| Withdrawal {
        index: withdrawal.index,
        validator_index: withdrawal.validator_index,
        address: withdrawal.address,
        amount_gwei: withdrawal.amount,
    });
    Opening {
        base: Base {
            parent_beacon_block_root: block.parent_beacon_block_root.unwrap_or_default(),
            parent_hash: block.parent_hash,
            fee_recipient: block.fee_recipient,
            prev_randao: block.prev_randao,
            block_number: block.number,
            gas_limit: block.gas_limit,
            timestamp: block.timestamp,
            extra_data: block.extra_data.clone(),
            base_fee_per_gas: block.base_fee_per_gas,
            prev_proposer_pubkey: block.prev_proposer_pubkey,
        },
        withdrawals: withdrawals.collect(),
    }
}

/// The session's own id on the wire: a rebuild under the same Engine API id has another one.
fn wire_id(
    attributes: &PayloadAttributes,
    parent: B256,
    build: BuildId,
) -> preconf_primitives::PayloadId {
    /// Tells builds of one process apart from those of the one before it.
    fn process_start() -> u128 {
        static START: std::sync::OnceLock<u128> = std::sync::OnceLock::new();
        *START.get_or_init(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.unwrap_or_default().as_nanos()
        })
    }
    let mut preimage = payload_id(parent, attributes, None).0.to_vec();
    preimage.extend(build.0.to_be_bytes());
    preimage.extend(process_start().to_be_bytes());
    preconf_primitives::PayloadId::from_slice(&keccak256(preimage)[..8])
}
