//! What became of each build.
//!
//! Decides which build an Engine API payload id stands for, and that every build has exactly one
//! end. The last [`KEPT`] builds are remembered, so getPayload may be asked twice; sealed ones
//! among them serve as blocks whose state is in memory.
//!
//! Invariant: a build that was opened towards the publisher holds a place in its queue for the
//! message that ends it, so however full the queue is, the end of a session is never lost; and the
//! end comes after the opening, because both are sent under the same lock.
//!
//! Each build is one trace, from the wish for it to the head that it became: its flashblocks, its
//! sealing and the answers to getPayload are in it.
//!
//! While another builder has the lease, builds are opened towards the build thread only: they follow
//! what the other one publishes. With the lease, the one that runs is opened towards the publisher.

use std::{collections::VecDeque, sync::Arc};

use alloy_primitives::B256;
use alloy_rpc_types_engine::PayloadId;
use parking_lot::Mutex;
use preconf_assembly::{BuildId, Completion};
use preconf_evm::NextBlock;
use preconf_primitives::AbandonReason;
use preconf_state::{Overlay, StateCache};
use preconf_telemetry::Trace;
use tokio::sync::{mpsc, mpsc::OwnedPermit, watch};
use tracing::{Span, field, info_span};

use crate::{
    build::{Order, Orders},
    publisher::Outgoing,
    sealing::SealedBlock,
};

use super::Attributes;

/// How many builds are remembered: 8 sealed ones and as many that were given up.
const KEPT: usize = 16;

/// The last builds, the newest last.
#[derive(Debug, Default)]
pub(crate) struct Builds(Mutex<Records>);

#[derive(Debug, Default)]
struct Records {
    kept: VecDeque<Record>,
    /// The number of the last build.
    last: u64,
    /// Whether the lease is ours.
    leads: bool,
}

#[derive(Debug)]
struct Record {
    build: BuildId,
    id: PayloadId,
    /// What the consensus client may call it besides, where not all of its attributes are known.
    aliases: Vec<PayloadId>,
    theirs: Theirs,
    parent: B256,
    attributes: Attributes,
    /// The number of its block, once it is known.
    number: Option<u64>,
    /// What it reads, once it is open.
    cache: Option<StateCache>,
    /// What opens it towards the publisher, while another builder has the lease.
    held: Option<Outgoing>,
    /// Its place for the message that ends it, while it is open.
    end: Option<OwnedPermit<Outgoing>>,
    /// Whether it is, or was, open towards the publisher.
    is_led: bool,
    /// Its block was asked for.
    is_wanted: bool,
    /// Why it is complete, until its last flashblock is out.
    unpublished: Option<Completion>,
    stage: watch::Sender<Stage>,
    /// From its beginning to its end.
    span: Option<Span>,
    trace: Trace,
}

/// The execution client's own payload for the same attributes: the fallback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Theirs {
    /// What the client has called it, when it was told to build it, if it does. The consensus
    /// client's door asks for it by itself.
    Told(Option<PayloadId>),
    /// What the client may call it if somebody else has told it to, the likeliest first.
    Guessed(Vec<PayloadId>),
}

/// A wish that is registered.
#[derive(Clone, Debug)]
pub(super) struct NewWish {
    pub(super) id: PayloadId,
    pub(super) aliases: Vec<PayloadId>,
    pub(super) theirs: Theirs,
    pub(super) parent: B256,
    /// The number of its block, if it is known.
    pub(super) number: Option<u64>,
    pub(super) attributes: Attributes,
}

/// A build as it is given to the build thread.
pub(super) struct NewBuild {
    pub(super) build: BuildId,
    /// What it reads.
    pub(super) cache: StateCache,
    /// What opens it towards the publisher.
    pub(super) opening: Outgoing,
    pub(super) block: Box<NextBlock>,
    pub(super) overlay: Box<Overlay<StateCache>>,
}

/// The newest build with some Engine API id.
#[derive(Debug)]
pub(super) struct Newest {
    pub(super) build: BuildId,
    pub(super) theirs: Theirs,
    /// Of the block.
    pub(super) timestamp: u64,
    /// Whether it was published by this builder.
    pub(super) is_led: bool,
    /// How far it is.
    pub(super) stage: watch::Receiver<Stage>,
    pub(super) trace: Trace,
}

/// A build as it is known by its attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attributed {
    pub(super) build: BuildId,
    /// What the Engine API calls it.
    pub(crate) id: PayloadId,
    pub(super) parent: B256,
    /// The number of its block, once it is known.
    pub(super) number: Option<u64>,
    /// Of its block.
    pub(crate) timestamp: u64,
}

/// How far a build is.
#[derive(Clone, Debug)]
pub(super) enum Stage {
    Building,
    Sealed(Arc<SealedBlock>),
    Over,
}

impl Stage {
    const fn as_str(&self) -> &'static str {
        match self {
            Self::Building => "building",
            Self::Sealed(_) => "sealed",
            Self::Over => "no block",
        }
    }

    fn is_block(&self, hash: B256) -> bool {
        match self {
            Self::Sealed(sealed) => sealed.hash == hash,
            Self::Building | Self::Over => false,
        }
    }
}

/// The right to say how a build ended, which only one has.
#[must_use]
#[derive(Debug)]
pub(super) struct EndSlot {
    place: Option<OwnedPermit<Outgoing>>,
    /// Another builder's block was followed.
    followed: bool,
}

impl EndSlot {
    /// Whether the build was this builder's to publish.
    pub(super) const fn is_led(&self) -> bool {
        !self.followed
    }

    /// Says it. Of a build that was never opened nothing is said.
    pub(super) fn say(self, end: Outgoing) {
        if let Some(place) = self.place {
            place.send(end);
        }
    }
}

impl Builds {
    /// Whether the newest build with this id runs.
    pub(super) fn is_building(&self, id: PayloadId) -> bool {
        let records = self.0.lock();
        let newest = records.kept.iter().rev().find(|record| record.is_called(id));
        newest.is_some_and(Record::is_running)
    }

    /// Takes note of what the execution client calls the newest build with this id.
    pub(super) fn told(&self, id: PayloadId, theirs: Option<PayloadId>) {
        let mut records = self.0.lock();
        let newest = records.kept.iter_mut().rev().find(|record| record.is_called(id));
        if let Some(newest) = newest {
            newest.theirs = Theirs::Told(theirs);
        }
    }

    /// Gives a new build its number.
    pub(super) fn register(&self, wish: NewWish) -> BuildId {
        let NewWish { id, aliases, theirs, parent, number, attributes } = wish;
        let mut records = self.0.lock();
        records.last += 1;
        let build = BuildId(records.last);
        if records.kept.len() >= KEPT {
            records.kept.pop_front();
        }
        let (stage, _) = watch::channel(Stage::Building);
        let span = info_span!(parent: None, "build", build = build.0, %parent, end = field::Empty);
        records.kept.push_back(Record {
            build,
            id,
            aliases,
            theirs,
            parent,
            attributes,
            number,
            cache: None,
            held: None,
            end: None,
            is_led: false,
            is_wanted: false,
            unpublished: None,
            stage,
            trace: Trace::of(&span),
            span: Some(span),
        });
        build
    }

    /// The builds without an end, each with its parent.
    pub(super) fn running(&self) -> Vec<(BuildId, B256)> {
        let records = self.0.lock();
        let running = records.kept.iter().filter(|record| record.is_running());
        running.map(|record| (record.build, record.parent)).collect()
    }

    /// Opens a build: towards the publisher, if the lease is ours, and then the build thread.
    /// `false` if it has an end already, or is forgotten.
    ///
    /// # Errors
    /// Why it cannot be opened; it has to be ended with that reason.
    pub(super) fn open(
        &self,
        new: NewBuild,
        outgoing: &mpsc::Sender<Outgoing>,
        orders: &Orders,
    ) -> Result<bool, AbandonReason> {
        let NewBuild { build, cache, opening, block, overlay } = new;
        let mut records = self.0.lock();
        let leads = records.leads;
        let Some(record) = records.get(build).filter(|record| record.is_running()) else {
            return Ok(false);
        };
        record.cache = Some(cache);
        record.number = Some(block.number);
        let order = if leads {
            record.begin(opening, outgoing)?;
            Order::Open { build, block, overlay }
        } else {
            record.held = Some(opening);
            Order::Follow { build, block, overlay }
        };
        let is_wanted = record.is_wanted;
        orders.give(order).map_err(|_| AbandonReason::ExecutionFailed)?;
        if is_wanted {
            orders.give(Order::Finish { build }).map_err(|_| AbandonReason::ExecutionFailed)?;
        }
        Ok(true)
    }

    /// Completes a build because its block was asked for: now, or as soon as it is open.
    pub(super) fn finish(&self, build: BuildId, orders: &Orders) {
        let mut records = self.0.lock();
        if let Some(record) = records.get(build) {
            record.is_wanted = true;
        }
        // A thread that takes no orders seals nothing: whoever waits has a deadline.
        let _ = orders.give(Order::Finish { build });
    }

    /// The lease is ours: the build on `head` that runs, if nobody has completed it, is published
    /// from here on.
    ///
    /// # Errors
    /// The build that cannot be, and why.
    pub(super) fn lead(
        &self,
        head: Option<B256>,
        completed: Option<PayloadId>,
        outgoing: &mpsc::Sender<Outgoing>,
        orders: &Orders,
    ) -> Result<Option<BuildId>, (BuildId, AbandonReason)> {
        let mut records = self.0.lock();
        records.leads = true;
        let Some(record) = records.kept.iter_mut().rev().find(|record| record.is_running()) else {
            return Ok(None);
        };
        if head != Some(record.parent) || completed.is_some_and(|id| record.is_called(id)) {
            return Ok(None);
        }
        // It is not open yet: whoever opens it finds that the lease is ours.
        let Some(opening) = record.held.take() else { return Ok(None) };
        let build = record.build;
        record.begin(opening, outgoing).map_err(|reason| (build, reason))?;
        let ordered = orders.give(Order::Lead { build });
        ordered.map_err(|_| (build, AbandonReason::ExecutionFailed))?;
        Ok(Some(build))
    }

    /// The lease is not ours.
    pub(super) fn follow(&self) {
        self.0.lock().leads = false;
    }

    /// Whether the lease is ours.
    pub(super) fn leads(&self) -> bool {
        self.0.lock().leads
    }

    /// Moves a build to its end. `None` if it had one.
    pub(super) fn settle(&self, build: BuildId, end: Stage) -> Option<EndSlot> {
        let mut records = self.0.lock();
        let record = records.get(build).filter(|record| record.is_running())?;
        if let Some(span) = record.span.take() {
            span.record("end", end.as_str());
        }
        record.stage.send_replace(end);
        Some(EndSlot { place: record.end.take(), followed: record.held.is_some() })
    }

    /// The block of a build is handed out, and readers of the feed do not have all of it yet.
    pub(super) fn publishing(&self, build: BuildId, completion: Completion) {
        if let Some(record) = self.0.lock().get(build) {
            record.unpublished = Some(completion);
        }
    }

    /// Why a build was complete whose last flashblock was on its way, which is over now.
    pub(super) fn published(&self, build: BuildId) -> Option<Completion> {
        self.0.lock().get(build)?.unpublished.take()
    }

    /// Nothing is published any more: how many builds there are whose last flashblock was on its
    /// way.
    pub(super) fn give_up_publishing(&self) -> usize {
        let mut records = self.0.lock();
        records.kept.iter_mut().filter_map(|record| record.unpublished.take()).count()
    }

    /// The newest build with this id.
    pub(super) fn newest(&self, id: PayloadId) -> Option<Newest> {
        let records = self.0.lock();
        let record = records.kept.iter().rev().find(|record| record.is_called(id))?;
        Some(Newest {
            build: record.build,
            theirs: record.theirs.clone(),
            timestamp: record.attributes.common.timestamp,
            is_led: record.is_led,
            stage: record.stage.subscribe(),
            trace: record.trace.clone(),
        })
    }

    /// What a build is traced in.
    pub(super) fn trace(&self, build: BuildId) -> Trace {
        self.0.lock().get(build).map_or_else(Trace::default, |record| record.trace.clone())
    }

    /// What the build of the sealed block with this hash is traced in.
    pub(super) fn trace_of(&self, hash: B256) -> Trace {
        let records = self.0.lock();
        let record = records.kept.iter().rev().find(|record| record.stage.borrow().is_block(hash));
        record.map_or_else(Trace::default, |record| record.trace.clone())
    }

    /// The newest build after this beacon block.
    pub(crate) fn after_beacon_block(&self, root: B256) -> Option<Attributed> {
        let records = self.0.lock();
        let after =
            |record: &&Record| record.attributes.common.parent_beacon_block_root == Some(root);
        let record = records.kept.iter().rev().find(after)?;
        let Record { build, id, parent, number, .. } = *record;
        let timestamp = record.attributes.common.timestamp;
        Some(Attributed { build, id, parent, number, timestamp })
    }

    /// The number of a build's block has become known.
    pub(super) fn numbered(&self, build: BuildId, number: u64) {
        if let Some(record) = self.0.lock().get(build) {
            record.number = Some(number);
        }
    }

    /// The sealed block with this hash.
    pub(super) fn sealed(&self, hash: B256) -> Option<Arc<SealedBlock>> {
        let records = self.0.lock();
        records.kept.iter().rev().find_map(|record| match &*record.stage.borrow() {
            Stage::Sealed(sealed) if sealed.hash == hash => Some(sealed.clone()),
            Stage::Sealed(_) | Stage::Building | Stage::Over => None,
        })
    }

    /// What a build reads, and how far it is, as long as it is remembered.
    pub(super) fn cache(&self, build: BuildId) -> Option<(StateCache, watch::Receiver<Stage>)> {
        let mut records = self.0.lock();
        let record = records.get(build)?;
        Some((record.cache.clone()?, record.stage.subscribe()))
    }

    /// What a build was asked for with.
    pub(super) fn attributes(&self, build: BuildId) -> Option<Attributes> {
        Some(self.0.lock().get(build)?.attributes.clone())
    }
}

impl Records {
    fn get(&mut self, build: BuildId) -> Option<&mut Record> {
        self.kept.iter_mut().find(|record| record.build == build)
    }
}

impl Record {
    /// Opens it towards the publisher.
    fn begin(
        &mut self,
        opening: Outgoing,
        outgoing: &mpsc::Sender<Outgoing>,
    ) -> Result<(), AbandonReason> {
        // The publisher is behind by so much only if the signer does not answer.
        let place = || {
            let place = outgoing.clone().try_reserve_owned();
            place.map_err(|_| AbandonReason::SignerUnavailable)
        };
        let (begin, end) = (place()?, place()?);
        begin.send(opening);
        self.end = Some(end);
        self.is_led = true;
        Ok(())
    }

    fn is_called(&self, id: PayloadId) -> bool {
        self.id == id || self.aliases.contains(&id)
    }

    fn is_running(&self) -> bool {
        matches!(*self.stage.borrow(), Stage::Building)
    }
}
