//! ethereum/tests `BlockchainTests`: valid blocks become flashblocks, invalid ones are refused for
//! the reason that the test names.
//!
//! Each valid block is imported in one go and, cut into flashblocks, executed by a consumer; both
//! must come to what its header says. A block that is not valid must be refused by a rule that the
//! named exception is about, not by whatever comes first. The state at the end is compared account
//! by account.

mod expectation;
mod fixture;
mod network;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
    sync::Arc,
};

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
use network::Network;

/// Tests that create contracts where an account has storage and neither nonce nor code (EIP-7610).
/// Since EIP-161 no transaction leads to such an account, and the EVM does not look for one.
const IMPOSSIBLE_ACCOUNTS: [&str; 5] = [
    "InitCollisionParis",
    "RevertInCreateInInitCreate2Paris",
    "RevertInCreateInInit_Paris",
    "create2collisionStorageParis",
    "dynamicAccountOverwriteEmpty_Paris",
];

/// Runs ethereum/tests BlockchainTests.
///
/// Valid blocks are imported in one go and as flashblocks, invalid ones must be refused for the
/// reason that the test names, and the state at the end must be the expected one. Networks from the
/// merge on are supported, and the transitions between them.
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
        self.failures == 0 && (self.blocks > 0 || !self.refused.is_empty())
    }
}

impl fmt::Display for Tested {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { files, tests, blocks, flashblocks, transactions, refused, skipped, failures } =
            self;
        let (refused, skipped): (u64, u64) = (refused.values().sum(), skipped.values().sum());
        write!(
            f,
            "{files} files, {tests} tests, {blocks} blocks as {flashblocks} flashblocks with \
             {transactions} transactions, {refused} invalid blocks refused, {skipped} tests \
             skipped, {failures} failures"
        )
    }
}

/// Runs the tests. One line for each failure, each exception and each reason to skip, one for the
/// sum.
///
/// # Errors
/// If the tests cannot be read.
pub fn run(options: &Options, output: &mut Output) -> Result<Tested, Failure> {
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
    let wanted = options.network.is_empty() || options.network.contains(&fixture.network);
    let network = match Network::named(&fixture.network) {
        _ if !wanted => Err("its network was not asked for".to_owned()),
        network => network,
    };
    let network = network.and_then(|network| match rests_on_the_impossible(name, fixture) {
        true => Err("a contract is created where there is storage without an account \
                     (EIP-7610), which no chain has"
            .to_owned()),
        false => Ok(network),
    });
    let network = match network {
        Ok(network) => network,
        Err(reason) => {
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
    all.blocks += test.blocks;
    all.flashblocks += test.flashblocks;
    all.transactions += test.transactions;
    for exception in test.refused {
        *all.refused.entry(exception).or_default() += 1;
    }
}

/// Whether this is one of [`IMPOSSIBLE_ACCOUNTS`], with such an account.
fn rests_on_the_impossible(name: &str, fixture: &Fixture) -> bool {
    IMPOSSIBLE_ACCOUNTS.iter().any(|test| name.starts_with(test))
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
    blocks: u64,
    flashblocks: u64,
    transactions: u64,
    refused: Vec<String>,
}

impl Test {
    fn new(options: &Options, fixture: &Fixture, network: &Network) -> Result<Self, String> {
        let chain = |error: &(dyn std::error::Error + 'static)| Chain(error).to_string();
        let genesis = decode(&fixture.genesis_rlp).map_err(|refused| chain(&refused))?;
        let text = network.genesis(&genesis.header, &fixture.pre);
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
            blocks: 0,
            flashblocks: 0,
            transactions: 0,
            refused: Vec::new(),
        })
    }

    /// Takes the next block, which is valid or not.
    fn block(&mut self, block: &FixtureBlock) -> Result<(), String> {
        match (&block.expect_exception, self.import(&block.rlp)) {
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
