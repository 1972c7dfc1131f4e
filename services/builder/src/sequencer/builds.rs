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
//! While another builder has the lease, builds are opened towards the build thread only: they follow
//! what the other one publishes. With the lease, the one that runs is opened towards the publisher.

use std::{collections::VecDeque, sync::Arc};

use alloy_primitives::B256;
use alloy_rpc_types_engine::PayloadId;
use parking_lot::Mutex;
use preconf_assembly::BuildId;
use preconf_evm::NextBlock;
use preconf_primitives::AbandonReason;
use preconf_state::{Overlay, StateCache};
use tokio::sync::{mpsc, mpsc::OwnedPermit, watch};

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
    /// The execution client's own payload for the same attributes: the fallback.
    theirs: Option<PayloadId>,
    parent: B256,
    attributes: Attributes,
    /// The number of its block, once it is open.
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
    stage: watch::Sender<Stage>,
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
    /// The execution client's own id for the same attributes.
    pub(super) theirs: Option<PayloadId>,
    /// Of the block.
    pub(super) timestamp: u64,
    /// Whether it was published by this builder.
    pub(super) is_led: bool,
    /// How far it is.
    pub(super) stage: watch::Receiver<Stage>,
}

/// A build as it is known by its attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attributed {
    /// What the Engine API calls it.
    pub(crate) id: PayloadId,
    /// The number of its block, once it is open.
    pub(crate) number: Option<u64>,
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
        let newest = records.kept.iter().rev().find(|record| record.id == id);
        newest.is_some_and(Record::is_running)
    }

    /// Gives a new build its number.
    pub(super) fn register(
        &self,
        id: PayloadId,
        theirs: Option<PayloadId>,
        parent: B256,
        attributes: Attributes,
    ) -> BuildId {
        let mut records = self.0.lock();
        records.last += 1;
        let build = BuildId(records.last);
        if records.kept.len() >= KEPT {
            records.kept.pop_front();
        }
        let (stage, _) = watch::channel(Stage::Building);
        records.kept.push_back(Record {
            build,
            id,
            theirs,
            parent,
            attributes,
            number: None,
            cache: None,
            held: None,
            end: None,
            is_led: false,
            is_wanted: false,
            stage,
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
        if head != Some(record.parent) || completed == Some(record.id) {
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
        record.stage.send_replace(end);
        Some(EndSlot { place: record.end.take(), followed: record.held.is_some() })
    }

    /// The newest build with this id.
    pub(super) fn newest(&self, id: PayloadId) -> Option<Newest> {
        let records = self.0.lock();
        let record = records.kept.iter().rev().find(|record| record.id == id)?;
        Some(Newest {
            build: record.build,
            theirs: record.theirs,
            timestamp: record.attributes.common.timestamp,
            is_led: record.is_led,
            stage: record.stage.subscribe(),
        })
    }

    /// The newest build after this beacon block.
    pub(crate) fn after_beacon_block(&self, root: B256) -> Option<Attributed> {
        let records = self.0.lock();
        let after =
            |record: &&Record| record.attributes.common.parent_beacon_block_root == Some(root);
        let record = records.kept.iter().rev().find(after)?;
        let (id, number) = (record.id, record.number);
        Some(Attributed { id, number, timestamp: record.attributes.common.timestamp })
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

    fn is_running(&self) -> bool {
        matches!(*self.stage.borrow(), Stage::Building)
    }
}
