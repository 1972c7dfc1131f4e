//! A chain that others made, block by block: what was mined is executed whole, everything after the
//! merge is cut into flashblocks and goes through a consumer.

use std::{fmt, path::PathBuf, sync::Arc};

use alloy_hardforks::EthereumHardforks;
use alloy_rlp::Decodable;
use clap::Args;
use preconf_chain::{Block, ChainSpec, apply_forkenv};
use preconf_chassis::Chain;
use preconf_pending::HeadRelation;

use super::{Failure, Output, import::import};
use crate::{
    choices::Choices,
    feed::{
        Consumer, Known, Message, Sequencer, Split, Trouble, base_of, compare, sendable,
        withdrawals_of,
    },
};

/// Imports a chain and executes its blocks as flashblocks.
///
/// Blocks from before the merge are executed whole. The transactions of every later block are cut
/// into flashblocks, signed, verified, executed and shown by the machine that every consumer runs.
/// State root, receipts root, logs bloom, gas used, requests hash and block hash of what is shown
/// are compared with the header.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// The genesis, as geth writes it.
    #[arg(long, value_name = "FILE")]
    pub genesis: PathBuf,
    /// The blocks, one after the other in RLP, from block 1 on.
    #[arg(long, value_name = "FILE")]
    pub chain: PathBuf,
    /// HIVE_* variables that name forks, as a JSON object; they win over the genesis.
    #[arg(long, value_name = "FILE")]
    pub forkenv: Option<PathBuf>,
    /// How many flashblocks a block is cut into, or "random".
    #[arg(long, value_name = "N|random", default_value = "3")]
    pub split: Split,
    /// The seed of a random split.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// What a replay found out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Blocks from before the merge.
    pub mined: u64,
    /// Blocks that went through a consumer.
    pub blocks: u64,
    /// Their flashblocks.
    pub flashblocks: u64,
    /// Their transactions.
    pub transactions: u64,
    /// What was not as it should be.
    pub mismatches: u64,
}

impl Replayed {
    /// Whether something was compared, and everything was as it should be.
    pub const fn is_clean(&self) -> bool {
        self.mismatches == 0 && self.blocks > 0
    }
}

impl fmt::Display for Replayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mined, blocks, flashblocks, transactions, mismatches } = self;
        write!(
            f,
            "{mined} blocks before the merge, {blocks} blocks as {flashblocks} flashblocks with \
             {transactions} transactions, {mismatches} mismatches"
        )
    }
}

/// Replays a chain. One line for each mismatch, one for the sum.
///
/// # Errors
/// If the files cannot be used.
pub fn run(options: &Options, output: &mut Output) -> Result<Replayed, Failure> {
    let spec = Arc::new(read_spec(options)?);
    let blocks = read_chain(options)?;
    let mut feeder = Feeder::new(spec.clone(), options.split, Choices::of_seed(options.seed));
    let mut known = Known::genesis(&spec);
    let mut all = Replayed::default();
    for block in &blocks {
        let number = block.header.number;
        output.progress(|| format!("block {number} of {}", blocks.len()));
        // The chain goes on from what is right, whatever the flashblocks made of it.
        let next = match import(&spec, &known, block) {
            Ok(next) => next,
            Err(refused) => {
                all.mismatches += 1;
                output.line(format_args!("block {number}: {}", Chain(&refused)));
                let left = blocks.len() as u64 - all.mined - all.blocks;
                output.line(format_args!("stopped there: {left} blocks are not replayed"));
                break;
            }
        };
        if spec.is_paris_active_at_block(number) {
            let fed = feeder.feed(&known, block, &next);
            all.blocks += 1;
            all.flashblocks += fed.flashblocks;
            all.transactions += fed.transactions;
            all.mismatches += fed.mismatches.len() as u64;
            for mismatch in fed.mismatches {
                output.line(format_args!("block {number}: {mismatch}"));
            }
        } else {
            all.mined += 1;
        }
        known = next;
    }
    output.line(format_args!("replay: {all}"));
    Ok(all)
}

fn read_spec(options: &Options) -> Result<ChainSpec, Failure> {
    let Options { genesis: path, forkenv, .. } = options;
    let failed = |source| Failure::Genesis { path: path.clone(), source };
    let mut genesis = Failure::read_text(path)?;
    if let Some(forkenv) = forkenv {
        genesis = apply_forkenv(&genesis, &Failure::read_text(forkenv)?).map_err(failed)?;
    }
    ChainSpec::from_genesis_json(&genesis).map_err(failed)
}

fn read_chain(options: &Options) -> Result<Vec<Block>, Failure> {
    let path = &options.chain;
    let bytes = Failure::read(path)?;
    let mut rest = bytes.as_slice();
    let mut blocks = Vec::new();
    while !rest.is_empty() {
        let at = bytes.len() - rest.len();
        let block = Block::decode(&mut rest);
        blocks.push(block.map_err(|source| Failure::Chain { path: path.clone(), at, source })?);
    }
    if blocks.is_empty() {
        return Err(Failure::Nothing { what: "blocks", path: path.clone() });
    }
    Ok(blocks)
}

/// Feeds blocks to a consumer as flashblocks.
#[derive(Debug)]
pub(crate) struct Feeder {
    spec: Arc<ChainSpec>,
    sequencer: Sequencer,
    consumer: Option<Consumer>,
    split: Split,
    choices: Choices<'static>,
}

/// What became of a block.
#[derive(Debug, Default)]
pub(crate) struct Fed {
    pub(crate) flashblocks: u64,
    pub(crate) transactions: u64,
    pub(crate) mismatches: Vec<String>,
}

impl Feeder {
    pub(crate) fn new(spec: Arc<ChainSpec>, split: Split, choices: Choices<'static>) -> Self {
        let sequencer = Sequencer::new(spec.chain_id());
        Self { spec, sequencer, consumer: None, split, choices }
    }

    /// Feeds a block that follows `parent`, and compares what is shown with its header.
    pub(crate) fn feed(&mut self, parent: &Known, block: &Block, next: &Known) -> Fed {
        let mut fed = Fed::default();
        if let Err(trouble) = self.try_feed(parent, block, next, &mut fed) {
            fed.mismatches.push(Chain(&trouble).to_string());
            self.consumer = None;
        }
        fed
    }

    fn try_feed(
        &mut self,
        parent: &Known,
        block: &Block,
        next: &Known,
        fed: &mut Fed,
    ) -> Result<(), Trouble> {
        // A consumer goes on where it is; for a block that is elsewhere there is another one.
        let at_parent = |consumer: &Consumer| consumer.canonical() == Some(parent.hash);
        let mut consumer = match self.consumer.take().filter(at_parent) {
            Some(consumer) => consumer,
            None => Consumer::new(&self.spec, self.sequencer.public_key(), parent)?,
        };
        let transactions = sendable(block);
        fed.transactions = transactions.len() as u64;
        let mut session = self.sequencer.open(base_of(&block.header), withdrawals_of(block));
        let pieces = self.split.pieces(&mut self.choices, transactions.len());
        let last = pieces.len() - 1;
        for (at, piece) in pieces.into_iter().enumerate() {
            let piece = transactions[piece].to_vec();
            let signed = self.sequencer.flashblock(&mut session, piece, at == last);
            let signed = match signed {
                Ok(signed) => signed,
                Err(invalid) => {
                    fed.mismatches.push(Chain(&invalid).to_string());
                    return Ok(());
                }
            };
            let heard = consumer.hear(Message::Flashblock(signed.into()))?;
            consumer.take(heard)?;
            fed.flashblocks += 1;
        }
        let shown = consumer.whole(block.header.number)?;
        let (_, found) = compare(&self.spec, &parent.state, shown, &block.header);
        fed.mismatches.extend(found.iter().map(ToString::to_string));
        let report = consumer.head(next)?;
        if report.relation != HeadRelation::Ours {
            let relation = report.relation.as_str();
            fed.mismatches.push(format!("the canonical block is taken as {relation}"));
        }
        if report.audit.kept < fed.transactions {
            let kept = report.audit.kept;
            fed.mismatches.push(format!("{kept} of {} transactions are kept", fed.transactions));
        }
        self.consumer = Some(consumer);
        Ok(())
    }
}
