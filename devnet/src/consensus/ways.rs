//! How a validator comes to the sequencer's block, and who tells the payload server whose turn it is.
//!
//! A validator that fetches by itself does what beacon-kit's does: it asks once; if the server is not
//! there it asks no more, until the server says that it is healthy again. One behind a sidecar does
//! nothing of its own: its Engine API is the sidecar's.
//!
//! Bounds: one task for each server that was lost, and one that repeats the last announcement.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use preconf_chain::ChainSpec;
use preconf_engine::EngineClient;
use preconf_payload_api::{
    FetchFailure, PayloadClient, PayloadRequest, PayloadResponse, SlotRule, ValidatorPubkey,
};
use preconf_wire::payload::{Proposer, ProposersClient};
use serde::Serialize;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use super::{node::Node, proposal::Rejected};

/// How often a server that was lost is asked whether it is back. Beacon-kit waits ten times as long.
const HEALTH_INTERVAL: Duration = Duration::from_secs(1);
/// How long it may take to say so.
const HEALTH_DEADLINE: Duration = Duration::from_millis(500);
/// How often a server is told whose turn it is: it may have been started again since.
const ANNOUNCE_INTERVAL: Duration = Duration::from_millis(100);

/// What kind of validator one is, by how it comes to the sequencer's block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// It asks the sequencer's own Engine API.
    Direct,
    /// It fetches from a payload server, as beacon-kit does.
    Native,
    /// A sidecar stands between it and its execution client.
    Sidecar,
}

/// How one validator comes to the sequencer's block.
#[derive(Clone, Debug)]
pub enum Way {
    /// From the sequencer's own Engine API.
    Direct,
    /// From a payload server.
    Native(Arc<Native>),
    /// Through the sidecar with this Engine API.
    Sidecar(EngineClient),
}

impl Way {
    /// The kind of validator that goes it.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Direct => Kind::Direct,
            Self::Native(_) => Kind::Native,
            Self::Sidecar(_) => Kind::Sidecar,
        }
    }
}

/// The ways of all validators, and whom they lead to.
#[derive(Clone, Debug, Default)]
pub struct Ways {
    /// By the number of the validator; all go directly if there are none.
    pub of: Vec<Way>,
    /// How the payload server comes to know whose turn it is, and how it counts slots.
    pub server: Option<(Oracle, SlotRule)>,
    /// Who is on no whitelist.
    pub outsiders: Outsiders,
}

/// How a payload server comes to know whose turn it is.
#[derive(Clone, Debug)]
pub enum Oracle {
    /// It is told.
    Told(ProposersClient),
    /// It asks a CometBFT node, as beside beacon-kit.
    Asks(Arc<Node>),
}

impl Ways {
    pub(super) fn way(&self, validator: usize) -> Way {
        self.of.get(validator).cloned().unwrap_or(Way::Direct)
    }
}

/// The rule by which the blocks of a devnet belong to slots, as flags have it. On Ethereum each second
/// is a slot: a validator never proposes two blocks of one time.
pub fn slot_rule(spec: &ChainSpec) -> String {
    match spec.berachain() {
        Some(_) => "number".to_owned(),
        None => format!("time:{}:1", spec.genesis_header().timestamp),
    }
}

/// The validators that the sequencer does not build for. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Outsiders(Arc<Mutex<BTreeSet<usize>>>);

impl Outsiders {
    /// From the next block that is ordered on, it is these and no others.
    pub fn set(&self, validators: impl IntoIterator<Item = usize>) {
        *self.0.lock() = validators.into_iter().collect();
    }

    pub(super) fn contain(&self, validator: usize) -> bool {
        self.0.lock().contains(&validator)
    }
}

/// A validator that fetches its block by itself.
#[derive(Debug)]
pub struct Native {
    client: PayloadClient,
    is_lost: Arc<AtomicBool>,
    losses: AtomicU64,
    returns: Arc<AtomicU64>,
    /// At most one: it waits until the server is back.
    monitor: Mutex<JoinSet<()>>,
}

impl Native {
    /// One that asks this server.
    pub fn new(client: PayloadClient) -> Self {
        let (is_lost, losses, returns) = (Arc::default(), AtomicU64::default(), Arc::default());
        Self { client, is_lost, losses, returns, monitor: Mutex::default() }
    }

    /// How often it found that the server was not there.
    pub fn losses(&self) -> u64 {
        self.losses.load(Ordering::Relaxed)
    }

    /// How often it found that the server was back.
    pub fn returns(&self) -> u64 {
        self.returns.load(Ordering::Relaxed)
    }

    /// Asks for the block, and gives up after this time.
    pub(super) async fn fetch(
        &self,
        request: &PayloadRequest,
        within: Duration,
    ) -> Result<PayloadResponse, Rejected> {
        if self.is_lost.load(Ordering::Relaxed) {
            return Err(Rejected::Lost);
        }
        self.client.fetch(request, within).await.map_err(|error| {
            if error.failure() == FetchFailure::Unavailable {
                self.lose();
            }
            Rejected::NotFetched(Box::new(error))
        })
    }

    fn lose(&self) {
        if self.is_lost.swap(true, Ordering::Relaxed) {
            return;
        }
        warn!("Detected sequencer offline, starting health monitor");
        self.losses.fetch_add(1, Ordering::Relaxed);
        let (client, is_lost) = (self.client.clone(), self.is_lost.clone());
        let returns = self.returns.clone();
        let mut monitor = self.monitor.lock();
        *monitor = JoinSet::new();
        monitor.spawn(async move {
            loop {
                sleep(HEALTH_INTERVAL).await;
                if client.health(HEALTH_DEADLINE).await.is_ok() {
                    break;
                }
            }
            info!("Sequencer is healthy again, stopping health monitor");
            returns.fetch_add(1, Ordering::Relaxed);
            is_lost.store(false, Ordering::Relaxed);
        });
    }
}

/// Lets a payload server know whose turn it is. Dropped, it says no more.
#[derive(Debug)]
pub(super) struct Announcer {
    turn: watch::Sender<Option<Proposer>>,
    slots: SlotRule,
    _task: JoinSet<()>,
}

impl Announcer {
    pub(super) fn start((oracle, slots): (Oracle, SlotRule)) -> Self {
        let mut task = JoinSet::new();
        let turn = match oracle {
            Oracle::Asks(node) => node.turn(),
            Oracle::Told(client) => Self::tell(client, &mut task),
        };
        Self { turn, slots, _task: task }
    }

    /// Tells it, again and again.
    fn tell(client: ProposersClient, task: &mut JoinSet<()>) -> watch::Sender<Option<Proposer>> {
        let (turn, mut turns) = watch::channel(None::<Proposer>);
        task.spawn(async move {
            loop {
                let turn = *turns.borrow_and_update();
                if let Some(turn) = turn {
                    // A server that does not hear it is told again.
                    client.set_proposer(turn).await.ok();
                }
                if let Ok(Err(_)) = timeout(ANNOUNCE_INTERVAL, turns.changed()).await {
                    return;
                }
            }
        });
        turn
    }

    /// Says who proposes the block with this number and time, since a round of it.
    pub(super) fn announce(&self, number: u64, timestamp: u64, round: u32, pubkey: [u8; 48]) {
        let slot = self.slots.slot(number, timestamp);
        let pubkey = ValidatorPubkey(pubkey);
        self.turn.send_replace(slot.map(|slot| Proposer { slot, round, pubkey }));
    }

    /// What the block with this number and time is asked for by.
    pub(super) fn request(
        &self,
        number: u64,
        timestamp: u64,
        parent_block_root: alloy_primitives::B256,
    ) -> Option<PayloadRequest> {
        let slot = self.slots.slot(number, timestamp)?;
        Some(PayloadRequest { slot, parent_block_root })
    }
}
