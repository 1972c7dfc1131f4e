//! What became of each build.
//!
//! Decides which build an Engine API payload id stands for, and that every build has exactly one
//! end. The last [`KEPT`] builds are remembered, so getPayload may be asked twice; sealed ones
//! among them serve as blocks whose state is in memory.
//!
//! Invariant: a build that was opened towards the publisher holds a place in its queue for the
//! message that ends it, so however full the queue is, the end of a session is never lost; and the
//! end comes after the opening, because both are sent under the same lock.

use std::{collections::VecDeque, sync::Arc};

use alloy_primitives::B256;
use alloy_rpc_types_engine::PayloadId;
use parking_lot::Mutex;
use preconf_assembly::BuildId;
use preconf_primitives::AbandonReason;
use preconf_state::StateCache;
use tokio::sync::{mpsc, mpsc::OwnedPermit, watch};

use crate::{publisher::Outgoing, sealing::SealedBlock};

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
}

#[derive(Debug)]
struct Record {
    build: BuildId,
    id: PayloadId,
    /// The execution client's own payload for the same attributes: the fallback.
    theirs: Option<PayloadId>,
    parent: B256,
    attributes: Attributes,
    /// What it reads, once it is open.
    cache: Option<StateCache>,
    /// Its place for the message that ends it, while it is open.
    end: Option<OwnedPermit<Outgoing>>,
    stage: watch::Sender<Stage>,
}

/// The newest build with some Engine API id.
#[derive(Debug)]
pub(super) struct Newest {
    pub(super) build: BuildId,
    /// The execution client's own id for the same attributes.
    pub(super) theirs: Option<PayloadId>,
    /// Of the block.
    pub(super) timestamp: u64,
    /// How far it is.
    pub(super) stage: watch::Receiver<Stage>,
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
pub(super) struct EndSlot(Option<OwnedPermit<Outgoing>>);

impl EndSlot {
    /// Says it. Of a build that was never opened nothing is said.
    pub(super) fn say(self, end: Outgoing) {
        if let Some(place) = self.0 {
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
        let record =
            Record { build, id, theirs, parent, attributes, cache: None, end: None, stage };
        records.kept.push_back(record);
        build
    }

    /// The builds without an end, each with its parent.
    pub(super) fn running(&self) -> Vec<(BuildId, B256)> {
        let records = self.0.lock();
        let running = records.kept.iter().filter(|record| record.is_running());
        running.map(|record| (record.build, record.parent)).collect()
    }

    /// Opens a build towards the publisher, and then with `order`. `false` if it has an end already,
    /// or is forgotten.
    ///
    /// # Errors
    /// Why it cannot be opened; it has to be ended with that reason.
    pub(super) fn open(
        &self,
        build: BuildId,
        cache: StateCache,
        outgoing: &mpsc::Sender<Outgoing>,
        opening: Outgoing,
        order: impl FnOnce() -> bool,
    ) -> Result<bool, AbandonReason> {
        let mut records = self.0.lock();
        let Some(record) = records.get(build).filter(|record| record.is_running()) else {
            return Ok(false);
        };
        // The publisher is behind by so much only if the signer does not answer.
        let place = || {
            let place = outgoing.clone().try_reserve_owned();
            place.map_err(|_| AbandonReason::SignerUnavailable)
        };
        let (begin, end) = (place()?, place()?);
        begin.send(opening);
        record.end = Some(end);
        record.cache = Some(cache);
        if order() { Ok(true) } else { Err(AbandonReason::ExecutionFailed) }
    }

    /// Moves a build to its end. `None` if it had one.
    pub(super) fn settle(&self, build: BuildId, end: Stage) -> Option<EndSlot> {
        let mut records = self.0.lock();
        let record = records.get(build).filter(|record| record.is_running())?;
        record.stage.send_replace(end);
        Some(EndSlot(record.end.take()))
    }

    /// The newest build with this id.
    pub(super) fn newest(&self, id: PayloadId) -> Option<Newest> {
        let records = self.0.lock();
        let record = records.kept.iter().rev().find(|record| record.id == id)?;
        Some(Newest {
            build: record.build,
            theirs: record.theirs,
            timestamp: record.attributes.common.timestamp,
            stage: record.stage.subscribe(),
        })
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
    fn is_running(&self) -> bool {
        matches!(*self.stage.borrow(), Stage::Building)
    }
}
