//! The consensus client that everybody follows: slots, proposers in turn, one chain.
//!
//! ```text
//! slot k begins            + delay                                      slot k + 1 begins
//!   │ getPayload (builder)   │ newPayload, forkchoiceUpdated (everybody)   │
//!   │ newPayload (validators)│   with attributes for block k + 1           │
//!   ├──── no flashblocks ────┼─────────── flashblocks of k + 1 ────────────┤
//! ```
//!
//! A proposer asks the builder for its block and has the validators' own client check it. If the
//! builder does not answer in [`Config::patience`], or its block is not valid, the validators'
//! client builds: that is counted, shown, and no error. That the sequencer's door does not answer is
//! no error either, because the chain comes first: nobody waits for it. That two clients disagree
//! about a block is an error, and ends the chain.
//!
//! A slot that would begin before half of its block's time to be built has passed is skipped, as it
//! is on a chain whose validators are late.

mod faults;
mod following;
mod node;
mod proposal;
mod proposing;
mod ways;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use alloy_eips::eip4895::Withdrawal;
use alloy_primitives::{Address, B256, address, keccak256};
use alloy_rpc_types_engine::{ForkchoiceState, PayloadAttributes, PayloadId, PayloadStatus};
use preconf_chain::{ChainSpec, ProposerPublicKey};
use preconf_engine::{EngineClient, EngineError};
use tokio::{
    sync::{broadcast, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep_until},
};
use tracing::warn;

pub use faults::{Faults, RoundFault};
pub use node::Node;
pub use ways::{Kind, Native, Oracle, Outsiders, Way, Ways, slot_rule};

use following::{Manner, News, Sequencer, follow, order};
use proposal::{Proposal, Rejected};
use proposing::Proposed;
use ways::Announcer;

use crate::{client::Attributes, keys::Validator};

/// How long an execution client may take for anything else.
const DEADLINE: Duration = Duration::from_secs(10);
/// How many blocks whoever follows the chain may be behind before he misses one.
const BLOCKS_WAITING: usize = 1_024;
/// What each block of Ethereum pays to its proposer, in gwei.
const WITHDRAWAL_GWEI: u64 = 1_000_000;
/// To whom each block of Berachain mints its inflation, as on its main network, and how much, in
/// gwei.
const INFLATION: (Address, u64) =
    (address!("0x1AE7dD7AE06F6C58B4524d9c1f816094B1bcCD8e"), 0x65a0_3c40);

/// Who and when.
#[derive(Clone, Debug)]
pub struct Config {
    /// The rules of the chain, and its first block.
    pub spec: Arc<ChainSpec>,
    /// At least one.
    pub validators: Vec<Validator>,
    /// From one block to the next.
    pub slot: Duration,
    /// From the proposer asking to everybody having the block.
    pub proposal_delay: Duration,
    /// How long a proposer waits for the builder's block.
    pub patience: Duration,
    /// What goes wrong.
    pub faults: Faults,
}

/// The Engine APIs of everybody, and how validators come to the sequencer's block.
#[derive(Clone, Debug)]
pub struct Doors {
    /// The builder, and behind it the sequencer's client.
    pub sequencer: EngineClient,
    /// The validators' client.
    pub validators: EngineClient,
    /// The RPC node's client.
    pub rpc_node: EngineClient,
    /// How each validator comes to the sequencer's block.
    pub ways: Ways,
}

/// A block that everybody has; the sequencer may still be told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanonicalBlock {
    /// Its number.
    pub number: u64,
    /// Its hash.
    pub hash: B256,
    /// The hashes of the transactions that somebody sent, in order: not the chain's own.
    pub transactions: Vec<B256>,
    /// The gas it used.
    pub gas_used: u64,
    /// The slot in which it was proposed.
    pub slot: u32,
    /// The number of the validator that proposed it.
    pub proposer: usize,
    /// How that validator comes to the sequencer's block.
    pub kind: Kind,
    /// Who built it.
    pub source: Source,
    /// How long the proposer waited for it, from asking the builder on.
    pub waited: Duration,
    /// How many rounds before it were lost on purpose.
    pub lost_rounds: u32,
    /// The validators that missed a round before it: they proposed nothing that the others accept.
    pub missed: Vec<Kind>,
}

/// Who built a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The builder. That it is the block that was preconfirmed, it says on its feed.
    Builder,
    /// The validators' own client, because of this.
    Fallback(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Builder => f.write_str("builder"),
            Self::Fallback(reason) => write!(f, "fallback ({reason})"),
        }
    }
}

/// Why the chain cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ConsensusError {
    /// A client does not answer, or with an error.
    #[error("asking the client of {client} for {step}")]
    Engine {
        /// Whose.
        client: &'static str,
        /// What it was asked for.
        step: &'static str,
        /// What it said.
        #[source]
        source: Box<EngineError>,
    },
    /// A client does not accept what the others do.
    #[error("the client of {client} answered {status} to {step} of block {number}")]
    NotValid {
        /// Whose.
        client: &'static str,
        /// What it was asked.
        step: &'static str,
        /// The block.
        number: u64,
        /// Its answer.
        status: Box<PayloadStatus>,
    },
    /// Not even the validators' own client builds a block that they accept.
    #[error("the validators' own block is not acceptable")]
    OwnBlock(#[source] Box<Rejected>),
}

/// Blocks as they become canonical. Whoever is more than a thousand behind misses some.
pub type Blocks = broadcast::Receiver<Arc<CanonicalBlock>>;

/// A chain that goes on until this is stopped or dropped.
#[derive(Debug)]
pub struct Consensus {
    blocks: broadcast::Sender<Arc<CanonicalBlock>>,
    head: watch::Receiver<u64>,
    window: watch::Receiver<bool>,
    task: JoinHandle<ConsensusError>,
}

impl Consensus {
    /// Starts the chain, and returns it with all its blocks: the first slot begins at once with the
    /// building of block 1.
    ///
    /// # Errors
    /// If a client other than the sequencer's does not accept the genesis as its head.
    pub async fn start(config: Config, doors: Doors) -> Result<(Self, Blocks), ConsensusError> {
        let (blocks, all_blocks) = broadcast::channel(BLOCKS_WAITING);
        let (announce_head, head) = watch::channel(0);
        let (open_window, window) = watch::channel(false);
        let genesis = Head {
            number: 0,
            hash: config.spec.genesis_hash(),
            parent: B256::ZERO,
            timestamp: config.spec.genesis_header().timestamp,
            proposer: ProposerPublicKey::ZERO,
        };
        let mut driver = Driver {
            config,
            sequencer: Sequencer::new(doors.sequencer.clone()),
            announcer: doors.ways.server.clone().map(Announcer::start),
            doors,
            head: genesis,
            started: Instant::now(),
            slot: 0,
            wanted: Wanted {
                attributes: PayloadAttributes::default().into(),
                sequencer: None,
                validators: None,
            },
            window: open_window,
            ordering: JoinSet::new(),
            lost_rounds: 0,
            missed: Vec::new(),
        };
        driver.choose(None).await?;
        let announce = blocks.clone();
        let task = tokio::spawn(driver.run(announce, announce_head));
        Ok((Self { blocks, head, window, task }, all_blocks))
    }

    /// The blocks from now on.
    pub fn blocks(&self) -> Blocks {
        self.blocks.subscribe()
    }

    /// The number of the newest block that the validators and the RPC node have.
    pub fn head(&self) -> watch::Receiver<u64> {
        self.head.clone()
    }

    /// Whether the next block is being built: from the attributes being known to the proposer
    /// asking for it.
    pub fn window(&self) -> watch::Receiver<bool> {
        self.window.clone()
    }

    /// Waits until the chain cannot go on. Cancel safe.
    pub async fn failed(&mut self) -> ConsensusError {
        match (&mut self.task).await {
            Ok(error) => error,
            Err(ended) => match ended.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Only `stop` aborts it, and that consumes us.
                Err(_) => std::future::pending().await,
            },
        }
    }

    /// Stops the chain where it is.
    pub async fn stop(mut self) {
        self.task.abort();
        // One that has failed was waited for.
        if !self.task.is_finished() {
            (&mut self.task).await.ok();
        }
    }
}

impl Drop for Consensus {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The newest block that everybody has.
#[derive(Clone, Copy, Debug)]
struct Head {
    number: u64,
    hash: B256,
    parent: B256,
    timestamp: u64,
    /// Who proposed it; nobody proposed the genesis.
    proposer: ProposerPublicKey,
}

/// What was asked for: the next block.
#[derive(Clone, Debug)]
struct Wanted {
    attributes: Attributes,
    /// The builder's name for it, if it answered.
    sequencer: Option<PayloadId>,
    /// The validators' client's name for it.
    validators: Option<PayloadId>,
}

struct Driver {
    config: Config,
    doors: Doors,
    sequencer: Sequencer,
    /// There is none without a payload server.
    announcer: Option<Announcer>,
    head: Head,
    started: Instant,
    /// In which the wanted block is proposed.
    slot: u32,
    wanted: Wanted,
    /// The next block being asked for, through the sidecar of its proposer.
    ordering: JoinSet<Option<PayloadId>>,
    window: watch::Sender<bool>,
    /// How many rounds were lost on purpose since the last block.
    lost_rounds: u32,
    /// Who missed a round since the last block.
    missed: Vec<Kind>,
}

impl Driver {
    async fn run(
        mut self,
        blocks: broadcast::Sender<Arc<CanonicalBlock>>,
        head: watch::Sender<u64>,
    ) -> ConsensusError {
        loop {
            match self.slot().await {
                Ok(Some(block)) => {
                    head.send_replace(block.number);
                    // Nobody may be listening.
                    blocks.send(Arc::new(block)).ok();
                }
                Ok(None) => {}
                Err(error) => {
                    self.window.send_replace(false);
                    return error;
                }
            }
        }
    }

    /// Waits for the slot, and meanwhile for the sequencer to say that it builds. No block if the
    /// round was lost, as it was ordered.
    async fn slot(&mut self) -> Result<Option<CanonicalBlock>, ConsensusError> {
        let begins = self.started + self.config.slot * self.slot;
        loop {
            tokio::select! {
                // What was answered before a slot that begins late was answered in time.
                biased;
                answer = self.sequencer.answer() => {
                    self.wanted.sequencer = answer?;
                    self.window.send_replace(self.wanted.sequencer.is_some());
                }
                () = sleep_until(begins) => return self.play_unless_lost(begins).await,
            }
        }
    }

    async fn play_unless_lost(
        &mut self,
        begins: Instant,
    ) -> Result<Option<CanonicalBlock>, ConsensusError> {
        let number = self.head.number + 1;
        let faults = &self.config.faults;
        let is_stopped = faults.has_stopped(self.proposer(self.slot));
        if is_stopped || faults.takes(number, RoundFault::FailProposer) {
            warn!(number, "the proposer does not propose: the round is lost");
            self.window.send_replace(false);
            sleep_until(begins + self.config.proposal_delay).await;
        } else if faults.takes(number, RoundFault::Reorg) {
            self.show_in_vain(begins).await?;
        } else {
            return self.play(begins).await;
        }
        self.lost_rounds += 1;
        // Back to the head before: whoever has built upon the proposal gives that up.
        self.choose(None).await?;
        Ok(None)
    }

    /// The sequencer processes a proposal and builds upon it; it is not agreed on.
    async fn show_in_vain(&mut self, begins: Instant) -> Result<(), ConsensusError> {
        self.window.send_replace(false);
        let proposed = self.propose().await?;
        sleep_until(begins + self.config.proposal_delay).await;
        let Proposed::Block(shown, _) = proposed else { return Ok(()) };
        warn!(number = shown.block.header.number, "a block is shown and not agreed on");
        let head = self.head;
        self.head = self.head_after(&shown);
        let news = News {
            number: self.head.number,
            state: ForkchoiceState {
                head_block_hash: self.head.hash,
                safe_block_hash: self.head.parent,
                finalized_block_hash: head.parent,
            },
            attributes: Some(self.attributes()),
        };
        self.head = head;
        self.sequencer.tell(Some(Arc::new(*shown)), news, Manner::After(Duration::ZERO))?;
        sleep_until(begins + self.config.slot / 2).await;
        Ok(())
    }

    fn head_after(&self, proposal: &Proposal) -> Head {
        let header = &proposal.block.header;
        Head {
            number: header.number,
            hash: proposal.hash(),
            parent: header.parent_hash,
            timestamp: header.timestamp,
            proposer: self.config.validators[self.proposer(self.slot)].public_key,
        }
    }

    /// One slot: a proposal, and everybody following it.
    async fn play(&mut self, begins: Instant) -> Result<Option<CanonicalBlock>, ConsensusError> {
        self.window.send_replace(false);
        let asked = Instant::now();
        let proposed = self.propose().await?;
        let waited = asked.elapsed();
        sleep_until(begins + self.config.proposal_delay).await;
        let kind = self.way().kind();
        let (proposal, source) = match proposed {
            Proposed::Block(proposal, source) => (*proposal, source),
            Proposed::Nothing(reason) => {
                warn!(reason, number = self.head.number + 1, "a proposer misses its round");
                self.missed.push(kind);
                self.choose(None).await?;
                return Ok(None);
            }
        };
        let header = &proposal.block.header;
        let block = CanonicalBlock {
            number: header.number,
            hash: proposal.hash(),
            transactions: sent(&proposal),
            gas_used: header.gas_used,
            slot: self.slot,
            proposer: self.proposer(self.slot),
            kind,
            source,
            waited,
            lost_rounds: std::mem::take(&mut self.lost_rounds),
            missed: std::mem::take(&mut self.missed),
        };
        self.head = self.head_after(&proposal);
        self.choose(Some(Arc::new(proposal))).await?;
        Ok(Some(block))
    }

    /// Gives the new head to everybody, and asks for the next block on it.
    async fn choose(&mut self, proposal: Option<Arc<Proposal>>) -> Result<(), ConsensusError> {
        let Config { slot, proposal_delay, .. } = self.config;
        let window = slot.saturating_sub(proposal_delay);
        self.slot = next_slot(self.slot, slot, window, self.started.elapsed());
        let attributes = self.attributes();
        let number = self.head.number;
        let state = ForkchoiceState {
            head_block_hash: self.head.hash,
            safe_block_hash: self.head.parent,
            finalized_block_hash: self.head.parent,
        };
        let to_build = News { number, state, attributes: Some(attributes.clone()) };
        let to_know = News { number, state, attributes: None };
        let faults = &self.config.faults;
        let proposer = self.proposer(self.slot);
        let is_outsider = self.doors.ways.outsiders.contain(proposer)
            || faults.takes(number + 1, RoundFault::Outsider);
        let to_sequencer = if is_outsider { to_know.clone() } else { to_build.clone() };
        let manner = faults.take(number + 1, |fault| match fault {
            RoundFault::LateHead(late) => Some(Manner::After(*late)),
            RoundFault::LatePayload(late) => Some(Manner::HeadFirst(*late)),
            RoundFault::SkippedProposal(late) => Some(Manner::WhenFinal(*late)),
            RoundFault::FailProposer | RoundFault::Outsider | RoundFault::Reorg => None,
        });
        let manner = manner.unwrap_or(Manner::After(Duration::ZERO));
        self.sequencer.tell(proposal.clone(), to_sequencer, manner)?;
        if let Some(announcer) = &self.announcer {
            let round = self.lost_rounds + u32::try_from(self.missed.len()).unwrap_or(u32::MAX);
            let key = self.config.validators[proposer].public_key;
            announcer.announce(number + 1, attributes.ethereum.timestamp, round, key.0);
        }
        let (way, Doors { validators, rpc_node, .. }) = (self.way(), &self.doors);
        let to_validators = match way {
            Way::Direct | Way::Native(_) => &to_build,
            Way::Sidecar(_) => &to_know,
        };
        let (own, known) = tokio::join!(
            follow("the validators", validators, proposal.clone(), to_validators),
            follow("the RPC node", rpc_node, proposal, &to_know),
        );
        known?;
        self.ordering = JoinSet::new();
        if let Way::Sidecar(door) = way {
            self.ordering.spawn(order(door, to_build));
        }
        self.wanted = Wanted { attributes, sequencer: None, validators: own?.payload_id };
        Ok(())
    }

    /// What the proposer of the slot wants its block to be.
    fn attributes(&self) -> Attributes {
        let number = self.head.number + 1;
        let proposer = self.proposer(self.slot);
        let address = self.config.validators[proposer].address;
        let begins = self.started + self.config.slot * self.slot;
        let timestamp = unix_seconds(begins).max(self.head.timestamp + 1);
        let is_berachain = self.config.spec.is_prague1_active_at_timestamp(timestamp);
        let withdrawal = if is_berachain {
            let (address, amount) = INFLATION;
            Withdrawal { index: u64::MAX, validator_index: u64::MAX, address, amount }
        } else {
            let (index, validator_index) = (number - 1, proposer as u64);
            Withdrawal { index, validator_index, address, amount: WITHDRAWAL_GWEI }
        };
        let ethereum = PayloadAttributes {
            timestamp,
            prev_randao: mix("randao", number),
            suggested_fee_recipient: address,
            withdrawals: Some(vec![withdrawal]),
            parent_beacon_block_root: Some(mix("beacon block", number)),
            ..PayloadAttributes::default()
        };
        let prev_proposer_pubkey = is_berachain.then_some(self.head.proposer);
        Attributes { ethereum, prev_proposer_pubkey }
    }

    /// How the proposer of the slot comes to the sequencer's block.
    fn way(&self) -> Way {
        self.doors.ways.way(self.proposer(self.slot))
    }

    /// Whose turn it is: each validator's, one after the other.
    fn proposer(&self, slot: u32) -> usize {
        slot as usize % self.config.validators.len()
    }
}

/// The hashes of a block's transactions that are not the chain's own.
fn sent(proposal: &Proposal) -> Vec<B256> {
    let transactions = proposal.block.body.transactions.iter();
    let sent = transactions.filter(|transaction| !transaction.is_pol());
    sent.map(|transaction| *transaction.hash()).collect()
}

/// The slot after `last` that leaves half of the `window` in which a block is built.
fn next_slot(last: u32, slot: Duration, window: Duration, elapsed: Duration) -> u32 {
    let earliest = (elapsed + window / 2).as_millis();
    let in_time = earliest.div_ceil(slot.as_millis().max(1));
    u32::try_from(in_time).unwrap_or(u32::MAX).max(last + 1)
}

/// Something that looks random and is the same for everybody.
fn mix(what: &str, number: u64) -> B256 {
    keccak256([what.as_bytes(), &number.to_be_bytes()].concat())
}

/// The wall clock at an instant to come.
fn unix_seconds(at: Instant) -> u64 {
    let ahead = at.saturating_duration_since(Instant::now());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (now + ahead).as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_that_leaves_too_little_time_is_skipped() {
        let (slot, window) = (Duration::from_secs(2), Duration::from_millis(1_600));
        let next = |last, ms| next_slot(last, slot, window, Duration::from_millis(ms));
        assert_eq!([next(0, 0), next(1, 2_400), next(1, 3_200)], [1, 2, 2]);
        assert_eq!([next(1, 3_201), next(1, 9_000)], [3, 5]);
    }
}
