//! The sequencer: what the consensus client wants becomes orders to the build thread, and what the
//! thread completes becomes the payload that the consensus client gets.
//!
//! An Engine API payload id stands for the newest build with that head and those attributes (D3):
//! asked again while it runs, it is the same id and nothing restarts; asked again after its end, a
//! new build begins under the same id. A wish ends the builds that it contradicts when it is heard,
//! not when it is acted upon, so what runs is always what was wished last.
//!
//! * [`builds`] — what became of each build, and the one message that says how it ended.
//! * [`foreign`] — the state after a block of others.
//! * [`heard`] — what another builder has published.
//! * [`lineage`] — which blocks lie between the head before and a new one.
//! * [`payload`] — the answer to getPayload.
//! * [`opening`] — from payload attributes to a block's environment.
//! * [`reads`] — what the build thread wants to know of the chain, asked until it is answered.
//! * [`work`] — what the build thread wants done.
//!
//! The answer to getPayload waits for the build thread and the execution client, never for the
//! signer.

mod builds;
mod foreign;
mod heard;
mod lineage;
mod opening;
mod payload;
mod reads;
#[cfg(test)]
mod tests;
mod work;

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use alloy_primitives::B256;
use alloy_rpc_types_engine::{ForkchoiceUpdated, PayloadId};
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use preconf_assembly::BuildId;
use preconf_chain::{ChainSpec, Header};
use preconf_chassis::Backoff;
use preconf_engine::{
    EngineClient, EngineHooks,
    proxy::{ForkchoiceCall, HookFuture, PayloadVersion},
};
use preconf_primitives::{AbandonReason, Opening};
use preconf_state::{Overlay, StateCache};
use preconf_telemetry::Remembered;
use preconf_upstream::{Head, StateFetcher, UpstreamError};
use serde_json::value::RawValue;
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::timeout,
};
use tracing::{Instrument, info, info_span, warn};

use crate::{
    build::{Order, Orders},
    metrics::{BuildEnd, Metrics},
    publisher::Outgoing,
    sealing::used,
};

pub(crate) use builds::{Attributed, Builds};
pub(crate) use heard::Heard;
pub(crate) use lineage::Lineage;
pub(crate) use opening::Attributes;
pub(crate) use payload::{Asker, Lack};

use builds::{NewBuild, NewWish, Stage, Theirs};
use lineage::{Link, Walk};
use opening::{next_block, opening, wire_id};

/// How often a head that the execution client has called VALID is asked for.
const HEAD_ATTEMPTS: usize = 3;
/// How long the execution client may take to say which number a block has.
const NUMBER: Duration = Duration::from_millis(200);
/// How long following the chain back to the head before may take.
const WALK: Duration = Duration::from_secs(1);
/// How many questions of the build thread are asked at once. State that is not asked for is not
/// there in this block, and a promise that is not looked for stays one.
pub(crate) const QUESTIONS: usize = 4_096;

/// The parts of the sequencer that hooks, tasks and the ingress share.
pub(crate) struct Sequencer {
    pub(crate) spec: Arc<ChainSpec>,
    /// Reads what nobody waits for: for the ingress, and ahead.
    pub(crate) fetcher: StateFetcher,
    /// Reads heads and what builds miss.
    pub(crate) urgent: StateFetcher,
    /// Reads what sealing needs.
    pub(crate) sealing: StateFetcher,
    pub(crate) engine: EngineClient,
    pub(crate) metrics: Arc<Metrics>,
    /// How transactions came, by their hashes.
    pub(crate) submissions: Arc<Remembered<B256>>,
    pub(crate) orders: Orders,
    pub(crate) outgoing: mpsc::Sender<Outgoing>,
    pub(crate) wanted: mpsc::Sender<Wanted>,
    pub(crate) gas_target: u64,
    pub(crate) cache_entries: usize,
    pub(crate) seal_budget: Duration,
    /// How long missing state is asked for before the build thread is told that it will not come.
    pub(crate) read_bound: Duration,
    /// Turns to ask what the build thread wants to know.
    pub(crate) questions: Arc<Semaphore>,
    pub(crate) head: watch::Sender<Option<HeadState>>,
    pub(crate) lineage: Mutex<Lineage>,
    /// What is in memory of the state may be wrong: it is not kept over the next block of others.
    pub(crate) doubts_state: AtomicBool,
    pub(crate) builds: Builds,
    /// The newest session of another builder.
    pub(crate) heard: Mutex<Option<Heard>>,
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
    build: Option<Wish>,
}

/// A block that is wanted.
#[derive(Debug)]
struct Wish {
    build: BuildId,
    attributes: Attributes,
    /// What another builder has said of it.
    heard: Option<Box<Opening>>,
}

/// Why there is no state for a new head.
#[derive(Debug, thiserror::Error)]
enum HeadError {
    #[error("reading the head")]
    Read(#[source] UpstreamError),
    #[error("the execution client does not have the head that it called VALID")]
    Unknown,
}

impl EngineHooks for Sequencer {
    fn forkchoice_updated<'a>(
        &'a self,
        call: &'a ForkchoiceCall,
        answer: &'a ForkchoiceUpdated,
    ) -> HookFuture<'a, Option<PayloadId>> {
        Box::pin(async move {
            if !answer.is_valid() {
                // Whatever is built is not on the head that the consensus client has chosen.
                self.give_up_all(AbandonReason::HeadNotValid);
                return None;
            }
            let head = call.state.head_block_hash;
            let Some(attributes) = &call.attributes else {
                self.give_up_others(head, None);
                self.want(Wanted { head, build: None });
                return None;
            };
            if let Err(error) = self.spec.check_building(attributes.timestamp) {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "the execution client builds alone"
                );
                self.give_up_others(head, None);
                self.want(Wanted { head, build: None });
                return None;
            }
            let attributes = Attributes {
                common: attributes.clone(),
                parent_proposer_pubkey: call.parent_proposer_pubkey,
            };
            let id = attributes.id(head);
            if self.builds.is_building(id) {
                self.builds.told(id, answer.payload_id);
                return Some(id);
            }
            let build = self.builds.register(NewWish {
                id,
                aliases: Vec::new(),
                theirs: Theirs::Told(answer.payload_id),
                parent: head,
                number: self.number_after(head),
                attributes: attributes.clone(),
            });
            self.give_up_others(head, Some(build));
            let wish = Wish { build, attributes, heard: None };
            if !self.want(Wanted { head, build: Some(wish) }) {
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
        // Why there is none, its door hears of the execution client.
        Box::pin(async move { self.payload(version, id, Asker::ConsensusClient).await.ok() })
    }

    fn forkchoice_unseen(&self, head: Option<B256>) {
        match head {
            Some(head) => self.give_up_others(head, None),
            None => self.give_up_all(AbandonReason::HeadChanged),
        }
    }
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

    /// Ends a build without a block, if it has no end yet.
    fn end(&self, build: BuildId, reason: AbandonReason) {
        self.end_as(build, reason, BuildEnd::Abandoned(reason));
    }

    /// Ends a build without a block, which operators see as `end`.
    fn end_as(&self, build: BuildId, reason: AbandonReason, end: BuildEnd) {
        let Some(slot) = self.builds.settle(build, Stage::Over) else { return };
        self.metrics.build_ended(if slot.is_led() { end } else { BuildEnd::Followed });
        // A thread that is gone has no build either.
        let _ = self.orders.give(Order::Drop { build });
        slot.say(Outgoing::Abandon { build, reason });
    }

    /// The number of the block after this one, if it is known here.
    fn number_after(&self, parent: B256) -> Option<u64> {
        let is_parent = |head: &&HeadState| head.cache.block().1 == parent;
        let head = self.head.borrow().as_ref().filter(is_parent).map(|head| head.header.number);
        let number = head.or_else(|| Some(self.builds.sealed(parent)?.header.number))?;
        number.checked_add(1)
    }

    /// The number of a build's block. A build that was never open may have none, though the execution
    /// client has a payload for it: then that client is asked for the parent's.
    pub(crate) async fn number(&self, build: &Attributed) -> Option<u64> {
        if build.number.is_some() {
            return build.number;
        }
        let parent = timeout(NUMBER, self.urgent.upstream().header(build.parent)).await;
        let parent = parent.ok()?.inspect_err(|error| {
            let error = error as &dyn std::error::Error;
            warn!(parent = %build.parent, error, "the number of a build's block is not known");
        });
        let number = parent.ok()??.number.checked_add(1)?;
        self.builds.numbered(build.build, number);
        Some(number)
    }

    /// Gives up what is being built.
    pub(crate) fn give_up_all(&self, reason: AbandonReason) {
        for (build, _) in self.builds.running() {
            self.end(build, reason);
        }
    }

    /// Gives up builds on other heads, and those on this one that are replaced.
    fn give_up_others(&self, head: B256, replaced_by: Option<BuildId>) {
        for (build, parent) in self.builds.running() {
            if parent != head {
                self.end(build, AbandonReason::HeadChanged);
            } else if replaced_by.is_some_and(|newest| newest != build) {
                self.end(build, AbandonReason::AttributesChanged);
            }
        }
    }

    /// Acts upon the wishes of the consensus client, one after the other.
    pub(crate) async fn prepare(self: Arc<Self>, mut wanted: mpsc::Receiver<Wanted>) {
        while let Some(Wanted { head, build }) = wanted.recv().await {
            match self.move_to(head).await {
                Ok(state) => {
                    if let Some(wish) = build {
                        let span = info_span!("prepare", build = wish.build.0);
                        self.builds.trace(wish.build).adopt(&span);
                        self.open(wish, state).instrument(span).await;
                    }
                }
                Err(error) => {
                    warn!(%head, error = &error as &dyn std::error::Error, "the head was not read");
                    if let Some(Wish { build, .. }) = build {
                        self.end(build, AbandonReason::ExecutionFailed);
                    }
                }
            }
        }
    }

    /// Follows the chain to its head. The build thread learns what all the blocks on the way hold:
    /// what is promised and canonical is kept.
    ///
    /// If the way back to the head before is too long, too slow or not known, the thread learns of
    /// the newest blocks only. Nothing is taken back for that: what cannot be executed any more is
    /// looked up by its hash before.
    async fn move_to(&self, head: B256) -> Result<HeadState, HeadError> {
        let known = self.head.borrow().clone();
        if let Some(state) = known.filter(|state| state.cache.block().1 == head) {
            return Ok(state);
        }
        let (link, state) = self.read_head(head).await?;
        let lineage = self.lineage.lock().clone();
        let mut walk = Walk::from(link);
        match timeout(WALK, walk.back_to(&lineage, |hash| self.link(hash))).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let error = &error as &dyn std::error::Error;
                warn!(%head, error, "the blocks before the head were not all read");
            }
            Err(_) => warn!(%head, within = ?WALK, "the blocks before the head were not all read"),
        }
        self.metrics.head(walk.has_joined());
        if !walk.has_joined() {
            warn!(%head, blocks = walk.len(), "the head was not followed back to the one before");
        }
        let blocks = walk.blocks();
        self.lineage.lock().follow(walk);
        // A thread that takes no orders builds nothing either.
        let _ = self.orders.give(Order::Canonical { blocks });
        self.head.send_replace(Some(state.clone()));
        Ok(state)
    }

    async fn read_head(&self, head: B256) -> Result<(Link, HeadState), HeadError> {
        if let Some(sealed) = self.builds.sealed(head) {
            let kept = info_span!("kept", number = sealed.header.number, hash = %head);
            self.builds.trace_of(head).adopt(&kept);
            kept.in_scope(|| ());
            let (header, cache) = (Arc::new(sealed.header.clone()), sealed.cache.clone());
            return Ok((
                Link::of(head, &sealed.header, sealed.used()),
                HeadState { header, cache },
            ));
        }
        let mut backoff = Backoff::new();
        for _ in 0..HEAD_ATTEMPTS {
            let block = self.urgent.upstream().block_by_hash(head).await;
            if let Some(block) = block.map_err(HeadError::Read)? {
                let link = Link::of(head, &block.block.header, used(&block.transactions));
                let cache = self.state_after(&block).await;
                let header = Arc::new(block.block.header);
                return Ok((link, HeadState { header, cache }));
            }
            // It has just called it VALID.
            backoff.wait().await;
        }
        Err(HeadError::Unknown)
    }

    /// A block below the head.
    async fn link(&self, hash: B256) -> Result<Option<Link>, UpstreamError> {
        if let Some(sealed) = self.builds.sealed(hash) {
            return Ok(Some(Link::of(hash, &sealed.header, sealed.used())));
        }
        let block = self.urgent.upstream().block_by_hash(hash).await?;
        Ok(block.map(|block| Link::of(hash, &block.block.header, used(&block.transactions))))
    }

    async fn open(&self, wish: Wish, state: HeadState) {
        let Wish { build, attributes, heard } = wish;
        let mut block = next_block(&self.spec, &state, &attributes, self.gas_target);
        if let Some(Opening { base, .. }) = heard.as_deref() {
            // The other builder may have been told another target.
            (block.gas_limit, block.extra_data) = (base.gas_limit, base.extra_data.clone());
        }
        // What the block itself reads is fetched in one go; what is missing is asked for later.
        let keys = block.keys(&self.spec);
        match timeout(self.read_bound, self.urgent.ensure(&state.cache, &keys)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                warn!(error = &error as &dyn std::error::Error, "state was not read ahead");
            }
            Err(_) => warn!(within = ?self.read_bound, "state was not read ahead"),
        }
        let opening = Outgoing::Open {
            build,
            block_number: block.number,
            parent_hash: block.parent_hash,
            payload_id: wire_id(&attributes, block.parent_hash, build),
            opening: Box::new(opening(&block)),
            trace: self.builds.trace(build),
        };
        let overlay = Box::new(Overlay::new(state.cache.clone()));
        let block = Box::new(block);
        let new = NewBuild { build, cache: state.cache, opening, block, overlay };
        match self.builds.open(new, &self.outgoing, &self.orders) {
            Ok(true) => {}
            Ok(false) => info!(build = build.0, "the build was given up before it began"),
            Err(reason) => self.end(build, reason),
        }
    }

    /// Goes to the execution client's own head while the forkchoice updates are not shown to us:
    /// what comes in is checked against the state of now, and nothing has to be caught up with later.
    pub(crate) async fn follow_client(self: Arc<Self>, mut left_alone: watch::Receiver<bool>) {
        while left_alone.wait_for(|left_alone| *left_alone).await.is_ok() {
            let mut heads = self.urgent.upstream().heads();
            loop {
                let next = async {
                    let head = heads.next().await?;
                    Some((head.hash, self.wanted.reserve().await.ok()?))
                };
                tokio::select! {
                    biased;
                    asked_again = left_alone.wait_for(|left_alone| !*left_alone) => {
                        match asked_again {
                            Ok(_) => break,
                            Err(_) => return,
                        }
                    }
                    next = next => match next {
                        Some((head, place)) => place.send(Wanted { head, build: None }),
                        None => return,
                    },
                }
            }
        }
    }

    /// Learns the head from the execution client, until it answers.
    pub(crate) async fn learn_head(&self, head: Head) {
        let cache = StateCache::new(head.number, head.hash, self.cache_entries);
        self.head.send_if_modified(|known| {
            let first = known.is_none();
            if first {
                let mut lineage = self.lineage.lock();
                // What was published before the start tells where to look from.
                if *lineage == Lineage::default() {
                    *lineage = Lineage::from(head.number, head.hash);
                }
                *known = Some(HeadState { header: Arc::new(head.header), cache });
            }
            first
        });
    }
}
