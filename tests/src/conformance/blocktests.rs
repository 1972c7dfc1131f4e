//! ethereum/tests `BlockchainTests`: valid blocks become flashblocks, invalid ones are refused for
//! the reason that the test names.
//!
//! Each valid block is imported in one go and, cut into flashblocks, executed by a consumer; both
//! must come to what its header says. One from before the merge is only imported: none is built as
//! flashblocks. A block that is not valid must be refused by a rule that the named exception is
//! about, not by whatever comes first. The state at the end is compared account by account.

mod expectation;
mod fixture;
mod network;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
    sync::Arc,
};

use alloy_hardforks::EthereumHardforks;
use alloy_primitives::{B256, Bytes};
use clap::Args;
use preconf_chain::ChainSpec;
use preconf_chassis::Chain;
use preconf_state::MemoryState;

use super::{
    Failure, Output,
    import::{Refused, decode, import},
    replay::Feeder,
};
use crate::{
    choices::Choices,
    feed::{Known, Split, root_of},
};
use expectation::Expectation;
use fixture::{Fixture, FixtureBlock};
use network::{Network, NoNetwork};

/// Tests that create contracts where an account has storage and neither nonce nor code, which
/// EIP-7610 forbids. The EVM in use looks at nonce and code only. Ethereum has 28 such accounts,
/// left from before EIP-161, and nobody can create a contract at one of their addresses without
/// finding a collision of hashes.
const STORAGE_COLLISIONS: [&str; 5] = [
    "InitCollisionParis",
    "RevertInCreateInInitCreate2Paris",
    "RevertInCreateInInit_Paris",
    "create2collisionStorageParis",
    "dynamicAccountOverwriteEmpty_Paris",
];

/// Why most tests are not run if networks are named.
const NOT_ASKED_FOR: &str = "its network was not asked for";

/// Runs ethereum/tests BlockchainTests.
///
/// Valid blocks are imported in one go and as flashblocks, invalid ones must be refused for the
/// reason that the test names, and the state at the end must be the expected one. Blocks from
/// before the merge are only imported. Drafts, from before a fork was final, are run if their
/// network is asked for.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// The directory of the tests, or one file.
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Only tests of these networks, as the tests name them.
    #[arg(long, value_name = "NETWORK", value_delimiter = ',')]
    pub network: Vec<String>,
    /// How many flashblocks a block is cut into, or "random".
    #[arg(long, value_name = "N|random", default_value = "3")]
    pub split: Split,
    /// The seed of a random split.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// What the tests found out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tested {
    /// Files read.
    pub files: u64,
    /// Tests run.
    pub tests: u64,
    /// Valid blocks from before the merge.
    pub mined: u64,
    /// Valid blocks that were executed in both ways.
    pub blocks: u64,
    /// Their flashblocks.
    pub flashblocks: u64,
    /// Their transactions.
    pub transactions: u64,
    /// Invalid blocks that were refused.
    pub refused: BTreeMap<String, u64>,
    /// Tests that were not run, by the reason.
    pub skipped: BTreeMap<String, u64>,
    /// What was not as it should be.
    pub failures: u64,
}

impl Tested {
    /// Whether something was compared, and everything was as it should be.
    pub fn is_clean(&self) -> bool {
        self.failures == 0 && (self.mined + self.blocks > 0 || !self.refused.is_empty())
    }
}

impl fmt::Display for Tested {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { files, tests, mined, blocks, flashblocks, transactions, .. } = self;
        let Self { refused, skipped, failures, .. } = self;
        let (refused, skipped): (u64, u64) = (refused.values().sum(), skipped.values().sum());
        write!(
            f,
            "{files} files, {tests} tests, {mined} blocks before the merge, {blocks} blocks as \
             {flashblocks} flashblocks with {transactions} transactions, {refused} invalid blocks \
             refused, {skipped} tests skipped, {failures} failures"
        )
    }
}

/// Runs the tests. One line for each failure, each exception and each reason to skip, one for the
/// sum.
///
/// # Errors
/// If the tests cannot be read, or a network that is asked for is not known.
pub fn run(options: &Options, output: &mut Output) -> Result<Tested, Failure> {
    let unknown = |name: &&String| Network::named(name) == Err(NoNetwork::Unknown);
    if let Some(name) = options.network.iter().find(unknown) {
        return Err(Failure::Network { name: name.clone(), known: Network::names() });
    }
    let files = Failure::files(&options.directory, "json", "tests")?;
    let mut all = Tested::default();
    for path in &files {
        output.progress(|| format!("file {} of {}", all.files + 1, files.len()));
        let parsed: Result<BTreeMap<String, Fixture>, _> =
            serde_json::from_slice(&Failure::read(path)?);
        let fixtures = parsed.map_err(|source| Failure::Json { path: path.clone(), source })?;
        all.files += 1;
        for (name, fixture) in fixtures {
            run_one(options, &name, &fixture, &mut all, output);
        }
    }
    for (exception, count) in &all.refused {
        output.line(format_args!("refused {count} × {exception}"));
    }
    for (reason, count) in &all.skipped {
        output.line(format_args!("skipped {count} tests: {reason}"));
    }
    output.line(format_args!("blocktests: {all}"));
    Ok(all)
}

fn run_one(
    options: &Options,
    name: &str,
    fixture: &Fixture,
    all: &mut Tested,
    output: &mut Output,
) {
    let network = match network_of(options, name, fixture) {
        Ok(network) => network,
        Err(reason) => {
            if reason != NOT_ASKED_FOR {
                output.line(format_args!("skipped {name}: {reason}"));
            }
            let reason = format!("{}: {reason}", fixture.network);
            *all.skipped.entry(reason).or_default() += 1;
            return;
        }
    };
    all.tests += 1;
    let mut failed = |what: String| {
        all.failures += 1;
        output.line(format_args!("failed {name}: {what}"));
    };
    let mut test = match Test::new(options, fixture, &network) {
        Ok(test) => test,
        Err(what) => return failed(what),
    };
    for (at, block) in fixture.blocks.iter().enumerate() {
        if let Err(what) = test.block(block) {
            failed(format!("block {}: {what}", at + 1));
        }
    }
    if let Err(what) = test.end(fixture) {
        failed(what);
    }
    all.mined += test.mined;
    all.blocks += test.blocks;
    all.flashblocks += test.flashblocks;
    all.transactions += test.transactions;
    for exception in test.refused {
        *all.refused.entry(exception).or_default() += 1;
    }
}

/// The network of a test, or why it is not run.
fn network_of(options: &Options, name: &str, fixture: &Fixture) -> Result<Network, &'static str> {
    let asked_for = options.network.contains(&fixture.network);
    if !asked_for && !options.network.is_empty() {
        return Err(NOT_ASKED_FOR);
    }
    let network = Network::named(&fixture.network).map_err(|none| match none {
        NoNetwork::Unknown => "the network is not known",
        NoNetwork::NotRun(reason) => reason,
    })?;
    if !asked_for && network.is_draft(fixture.config.as_ref()) {
        return Err("drafts of ethereum/tests from before the fork was final, without a blob \
                    schedule; run if the network is asked for");
    }
    if network.is_mined() && fixture.blocks.iter().any(|block| block.expect_exception.is_some()) {
        return Err("what makes a mined block invalid (its work, difficulty and ommers) is not \
                    checked");
    }
    if collides_with_storage(name, fixture) {
        return Err("a contract is created where there is storage without nonce or code \
                    (EIP-7610), which the EVM does not look for");
    }
    Ok(network)
}

/// Whether this is one of [`STORAGE_COLLISIONS`], with such an account.
fn collides_with_storage(name: &str, fixture: &Fixture) -> bool {
    STORAGE_COLLISIONS.iter().any(|test| name.starts_with(test))
        && fixture.pre.values().any(|account| {
            let has_code = account.code.as_ref().is_some_and(|code| !code.is_empty());
            let has_nonce = account.nonce.is_some_and(|nonce| nonce > 0);
            let has_storage = account.storage.as_ref().is_some_and(|slots| !slots.is_empty());
            has_storage && !has_code && !has_nonce
        })
}

/// One test while it runs.
struct Test {
    spec: Arc<ChainSpec>,
    known: BTreeMap<B256, Known>,
    feeder: Feeder,
    mined: u64,
    blocks: u64,
    flashblocks: u64,
    transactions: u64,
    refused: Vec<String>,
}

impl Test {
    fn new(options: &Options, fixture: &Fixture, network: &Network) -> Result<Self, String> {
        let chain = |error: &(dyn std::error::Error + 'static)| Chain(error).to_string();
        let genesis = decode(&fixture.genesis_rlp).map_err(|refused| chain(&refused))?;
        let text = network.genesis(&genesis.header, &fixture.pre, fixture.config.as_ref());
        let spec = ChainSpec::from_genesis_json(&text).map_err(|error| chain(&error))?;
        let (own, theirs) = (spec.genesis_hash(), genesis.header.hash_slow());
        if own != theirs {
            return Err(format!("the genesis is {theirs}, ours is {own}"));
        }
        let spec = Arc::new(spec);
        let choices = Choices::of_seed(options.seed);
        Ok(Self {
            known: [(own, Known::genesis(&spec))].into(),
            feeder: Feeder::new(spec.clone(), options.split, choices),
            spec,
            mined: 0,
            blocks: 0,
            flashblocks: 0,
            transactions: 0,
            refused: Vec::new(),
        })
    }

    /// Takes the next block, which is valid or not.
    fn block(&mut self, block: &FixtureBlock) -> Result<(), String> {
        match (&block.expect_exception, self.import(&block.rlp)) {
            (None, Ok((_, block, next)))
                if !self.spec.is_paris_active_at_block(block.header.number) =>
            {
                self.known.insert(next.hash, next);
                self.mined += 1;
                Ok(())
            }
            (None, Ok((parent, block, next))) => {
                let fed = self.feeder.feed(&parent, &block, &next);
                self.known.insert(next.hash, next);
                self.blocks += 1;
                self.flashblocks += fed.flashblocks;
                self.transactions += fed.transactions;
                if fed.mismatches.is_empty() { Ok(()) } else { Err(fed.mismatches.join("; ")) }
            }
            (None, Err(refused)) => Err(format!("refused: {}", Chain(&refused))),
            (Some(exception), Ok(_)) => Err(format!("taken, despite {exception}")),
            (Some(exception), Err(refused)) => {
                let reason = Chain(&refused).to_string();
                match Expectation::of(exception).judge(&reason) {
                    Ok(()) => self.refused.push(exception.clone()),
                    Err(what) => return Err(format!("{what}: {reason}")),
                }
                Ok(())
            }
        }
    }

    fn import(&self, rlp: &Bytes) -> Result<(Known, preconf_chain::Block, Known), Refused> {
        let block = decode(rlp)?;
        let parent_hash = block.header.parent_hash;
        let parent = self.known.get(&parent_hash).ok_or(Refused::UnknownParent(parent_hash))?;
        let next = import(&self.spec, parent, &block)?;
        Ok((parent.clone(), block, next))
    }

    /// Compares what the chain has come to.
    fn end(&self, fixture: &Fixture) -> Result<(), String> {
        let last = fixture.last_block_hash;
        let known = self.known.get(&last).ok_or_else(|| format!("no block {last} at the end"))?;
        if let Some(hash) = fixture.post_state_hash {
            let root = root_of(&known.state);
            return (root == hash).then_some(()).ok_or(format!("the state is {root}, not {hash}"));
        }
        let expected = fixture.post_state.as_ref();
        let expected = expected.ok_or("neither a state nor its hash is given for the end")?;
        compare_states(&MemoryState::from_genesis(expected), &known.state)
    }
}

fn compare_states(expected: &MemoryState, got: &MemoryState) -> Result<(), String> {
    let accounts = |state: &MemoryState| -> BTreeMap<_, _> {
        let accounts = state.iter();
        accounts.map(|(address, account, slots)| (address, (account, slots.collect()))).collect()
    };
    type Slots = Vec<(alloy_primitives::U256, alloy_primitives::U256)>;
    let expected: BTreeMap<_, (_, Slots)> = accounts(expected);
    let got: BTreeMap<_, (_, Slots)> = accounts(got);
    let addresses: BTreeSet<_> = expected.keys().chain(got.keys()).collect();
    let differ =
        addresses.into_iter().filter(|address| expected.get(*address) != got.get(*address));
    let differ: Vec<String> = differ
        .map(|address| {
            format!("{address}: expected {:?}, got {:?}", expected.get(address), got.get(address))
        })
        .collect();
    if differ.is_empty() { Ok(()) } else { Err(format!("at the end, {}", differ.join("; "))) }
}
