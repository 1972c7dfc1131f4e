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
//! builder does not answer in [`PATIENCE`], or its block is not valid, the validators' client
//! builds: that is counted, shown, and no error. That the sequencer's door does not answer is no
//! error either, because the chain comes first; that two clients disagree about a block is one, and
//! ends the chain.

mod proposal;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use alloy_eips::eip4895::Withdrawal;
use alloy_primitives::{Address, B256, keccak256};
use alloy_rpc_types_engine::{
    ForkchoiceState, ForkchoiceUpdated, PayloadAttributes, PayloadId, PayloadStatus,
};
use preconf_chain::ChainSpec;
use preconf_chassis::Chain;
use preconf_engine::{EngineClient, EngineError};
use tokio::{
    sync::{broadcast, watch},
    task::JoinHandle,
    time::{Instant, sleep_until},
};
use tracing::warn;

use proposal::{Proposal, Rejected};

/// How long a proposer waits for the builder's block.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long an execution client may take for anything else.
const DEADLINE: Duration = Duration::from_secs(10);
/// How many blocks whoever follows the chain may be behind before he misses one.
const BLOCKS_WAITING: usize = 1_024;
/// What each block pays to its proposer, in gwei.
const WITHDRAWAL_GWEI: u64 = 1_000_000;

/// Who and when.
#[derive(Clone, Debug)]
pub struct Config {
    /// The rules of the chain, and its first block.
    pub spec: Arc<ChainSpec>,
    /// Where fees and withdrawals of each validator go. At least one.
    pub validators: Vec<Address>,
    /// From one block to the next.
    pub slot: Duration,
    /// From the proposer asking to everybody having the block.
    pub proposal_delay: Duration,
}

/// The Engine APIs of everybody.
#[derive(Clone, Debug)]
pub struct Doors {
    /// The builder, and behind it the sequencer's client.
    pub sequencer: EngineClient,
    /// The validators' client.
    pub validators: EngineClient,
    /// The RPC node's client.
    pub rpc_node: EngineClient,
}

/// A block that everybody has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanonicalBlock {
    /// Its number.
    pub number: u64,
    /// Its hash.
    pub hash: B256,
    /// The hashes of its transactions, in order.
    pub transactions: Vec<B256>,
    /// The gas it used.
    pub gas_used: u64,
    /// The number of the validator that proposed it.
    pub proposer: usize,
    /// Who built it.
    pub source: Source,
}

/// Who built a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The builder: it is the block that was preconfirmed.
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
        status: String,
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
    /// If a client does not accept the genesis as its head.
    pub async fn start(config: Config, doors: Doors) -> Result<(Self, Blocks), ConsensusError> {
        let (blocks, all_blocks) = broadcast::channel(BLOCKS_WAITING);
        let (announce_head, head) = watch::channel(0);
        let (open_window, window) = watch::channel(false);
        let genesis = Head {
            number: 0,
            hash: config.spec.genesis_hash(),
            parent: B256::ZERO,
            timestamp: config.spec.genesis_header().timestamp,
        };
        let mut driver = Driver {
            config,
            doors,
            head: genesis,
            started: Instant::now(),
            slot: 0,
            wanted: Wanted::default(),
            window: open_window,
        };
        driver.wanted = driver.choose(None).await?;
        let announce = blocks.clone();
        let task = tokio::spawn(driver.run(announce, announce_head));
        Ok((Self { blocks, head, window, task }, all_blocks))
    }

    /// The blocks from now on.
    pub fn blocks(&self) -> Blocks {
        self.blocks.subscribe()
    }

    /// The number of the newest block that everybody has.
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
}

/// What was asked for: the next block.
#[derive(Clone, Debug, Default)]
struct Wanted {
    attributes: PayloadAttributes,
    /// The builder's name for it, if it answered.
    sequencer: Option<PayloadId>,
    /// The validators' client's name for it.
    validators: Option<PayloadId>,
}

struct Driver {
    config: Config,
    doors: Doors,
    head: Head,
    started: Instant,
    slot: u32,
    wanted: Wanted,
    window: watch::Sender<bool>,
}

impl Driver {
    async fn run(
        mut self,
        blocks: broadcast::Sender<Arc<CanonicalBlock>>,
        head: watch::Sender<u64>,
    ) -> ConsensusError {
        loop {
            self.slot += 1;
            let begins = self.started + self.config.slot * self.slot;
            sleep_until(begins).await;
            match self.play(begins).await {
                Ok(block) => {
                    head.send_replace(block.number);
                    // Nobody may be listening.
                    blocks.send(Arc::new(block)).ok();
                }
                Err(error) => {
                    self.window.send_replace(false);
                    return error;
                }
            }
        }
    }

    /// One slot: a proposal, and everybody following it.
    async fn play(&mut self, begins: Instant) -> Result<CanonicalBlock, ConsensusError> {
        self.window.send_replace(false);
        let (proposal, source) = self.propose().await?;
        sleep_until(begins + self.config.proposal_delay).await;
        let header = &proposal.block.header;
        let block = CanonicalBlock {
            number: header.number,
            hash: proposal.hash(),
            transactions: proposal.block.body.transactions.iter().map(|tx| *tx.hash()).collect(),
            gas_used: header.gas_used,
            proposer: self.proposer(self.slot),
            source,
        };
        self.head = Head {
            number: header.number,
            hash: proposal.hash(),
            parent: header.parent_hash,
            timestamp: header.timestamp,
        };
        self.wanted = self.choose(Some(&proposal)).await?;
        Ok(block)
    }

    /// The builder's block if the validators accept it, else their own.
    async fn propose(&self) -> Result<(Proposal, Source), ConsensusError> {
        let builders = self.fetch(&self.doors.sequencer, self.wanted.sequencer, PATIENCE).await;
        let reason = match self.accept(builders).await {
            Ok(proposal) => return Ok((proposal, Source::Builder)),
            Err(rejected) => Chain(&rejected).to_string(),
        };
        warn!(reason, number = self.head.number + 1, "the builder's block is not proposed");
        let own = self.fetch(&self.doors.validators, self.wanted.validators, DEADLINE).await;
        let own = self.accept(own).await;
        let own = own.map_err(|rejected| ConsensusError::OwnBlock(Box::new(rejected)))?;
        Ok((own, Source::Fallback(reason)))
    }

    async fn fetch(
        &self,
        door: &EngineClient,
        id: Option<PayloadId>,
        deadline: Duration,
    ) -> Result<Proposal, Rejected> {
        let id = id.ok_or(Rejected::NotBuilding)?;
        Proposal::fetch(door, id, self.head.hash, &self.wanted.attributes, deadline).await
    }

    /// Asks the validators' client, as every validator does before it accepts a block.
    async fn accept(&self, proposal: Result<Proposal, Rejected>) -> Result<Proposal, Rejected> {
        let proposal = proposal?;
        let status = proposal.new_payload(&self.doors.validators, DEADLINE).await;
        let status = status.map_err(Rejected::Unchecked)?;
        if status.is_valid() { Ok(proposal) } else { Err(Rejected::Invalid(status.to_string())) }
    }

    /// Gives the new head to everybody, and asks for the next block on it.
    async fn choose(&self, proposal: Option<&Proposal>) -> Result<Wanted, ConsensusError> {
        let attributes = self.next_attributes();
        let Doors { sequencer, validators, rpc_node } = &self.doors;
        let (theirs, own, rpc) = tokio::join!(
            self.follow("the sequencer", sequencer, proposal, Some(&attributes)),
            self.follow("the validators", validators, proposal, Some(&attributes)),
            self.follow("the RPC node", rpc_node, proposal, None),
        );
        let (own, _) = (own?, rpc?);
        let theirs = match theirs {
            Ok(updated) => updated.payload_id,
            // The chain goes on without its sequencer.
            Err(ConsensusError::Engine { source, .. }) => {
                warn!(error = %Chain(&*source), "the sequencer does not follow");
                None
            }
            Err(error) => return Err(error),
        };
        self.window.send_replace(theirs.is_some());
        Ok(Wanted { attributes, sequencer: theirs, validators: own.payload_id })
    }

    async fn follow(
        &self,
        client: &'static str,
        door: &EngineClient,
        proposal: Option<&Proposal>,
        attributes: Option<&PayloadAttributes>,
    ) -> Result<ForkchoiceUpdated, ConsensusError> {
        let number = self.head.number;
        let failed =
            |step| move |source| ConsensusError::Engine { client, step, source: Box::new(source) };
        let check = |step, status: &PayloadStatus| {
            if status.is_valid() {
                return Ok(());
            }
            let status = status.to_string();
            Err(ConsensusError::NotValid { client, step, number, status })
        };
        if let Some(proposal) = proposal {
            let status = proposal.new_payload(door, DEADLINE).await;
            check("newPayload", &status.map_err(failed("newPayload"))?)?;
        }
        let state = ForkchoiceState {
            head_block_hash: self.head.hash,
            safe_block_hash: self.head.parent,
            finalized_block_hash: self.head.parent,
        };
        let updated = door.fork_choice_updated_v3(state, attributes, DEADLINE).await;
        let updated = updated.map_err(failed("forkchoiceUpdated"))?;
        check("forkchoiceUpdated", &updated.payload_status)?;
        Ok(updated)
    }

    /// What the proposer of the next slot wants its block to be.
    fn next_attributes(&self) -> PayloadAttributes {
        let number = self.head.number + 1;
        let proposer = self.proposer(self.slot + 1);
        let address = self.config.validators[proposer];
        let begins = self.started + self.config.slot * (self.slot + 1);
        let timestamp = unix_seconds(begins).max(self.head.timestamp + 1);
        let withdrawal = Withdrawal {
            index: number - 1,
            validator_index: proposer as u64,
            address,
            amount: WITHDRAWAL_GWEI,
        };
        PayloadAttributes {
            timestamp,
            prev_randao: mix("randao", number),
            suggested_fee_recipient: address,
            withdrawals: Some(vec![withdrawal]),
            parent_beacon_block_root: Some(mix("beacon block", number)),
            ..PayloadAttributes::default()
        }
    }

    /// Whose turn it is: each validator's, one after the other.
    fn proposer(&self, slot: u32) -> usize {
        slot as usize % self.config.validators.len()
    }
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
