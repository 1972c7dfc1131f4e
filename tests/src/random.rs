//! Random blocks, executed in different ways that must come to the same.
//!
//! * [`world`] — a small chain with contracts that do what contracts do.
//! * [`traffic`] — transactions, good and bad.
//! * [`kind`] — what can be special about them, so that it is counted.
//! * [`oracle`] — a second opinion that shares as little as possible with this project.
//! * [`chain`] — one chain of random blocks: built, executed in one go, received as flashblocks by a
//!   consumer that is interrupted, and judged by the oracle and the embedded execution client.
//! * [`run`] — many chains, on all cores.

pub mod chain;
pub mod kind;
pub mod oracle;
mod tally;
pub mod traffic;
pub mod world;

use std::{
    num::NonZeroU64,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Instant,
};

use clap::{Args, ValueEnum};

use crate::{choices::Choices, conformance::Output};
use chain::Plan;

pub use chain::Difference;
pub use kind::Kind;
pub use tally::Tally;

/// The length of one chain, which crosses the forks of its world. Blocks in place of others come on
/// top.
pub const CHAIN_LENGTH: u64 = 20;
/// The blocks of a chain that a fuzzer chooses.
const FUZZED_LENGTH: u64 = 5;
/// How many results may wait to be printed; threads that are ahead wait.
const RESULTS_WAITING: usize = 64;

/// Which rules a world has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Rules {
    /// Ethereum's, from Cancun to the blob schedules after Osaka.
    Ethereum,
    /// Berachain's, from Prague to Osaka1.
    Berachain,
}

impl Rules {
    /// The name in flags and in files of seeds.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ethereum => "ethereum",
            Self::Berachain => "berachain",
        }
    }
}

/// Executes random blocks in different ways and compares the results.
///
/// Chains of 20 blocks, one for each seed. Each block is built transaction by transaction, executed
/// again in one go and by an oracle, cut into flashblocks at random, received by a consumer with
/// sessions that are abandoned, blocks that are replaced and restarts in between, and handed to the
/// embedded execution client as a payload.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// How many blocks, rounded up to whole chains.
    #[arg(long, default_value = "2000")]
    pub blocks: NonZeroU64,
    /// The seed of the first chain; those after it follow.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// The rules of the chains.
    #[arg(long, value_enum, default_value = "berachain")]
    pub chain: Rules,
    /// Hand the blocks of every so many chains to the embedded execution client.
    #[arg(long, default_value = "4")]
    pub client_every: NonZeroU64,
    /// How many threads; as many as there are cores if not said.
    #[arg(long)]
    pub threads: Option<NonZeroU64>,
}

/// What random blocks found out.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// What was executed.
    pub tally: Tally,
    /// The seeds of chains that came to different results, with the differences.
    pub differences: Vec<(u64, Difference)>,
}

impl Summary {
    /// Whether everything came to the same.
    pub fn is_clean(&self) -> bool {
        self.differences.is_empty()
    }
}

/// Runs chains of random blocks. A line for each difference, with the command that shows it again,
/// and lines for the sum.
///
/// # Panics
/// If a thread of its own panicked.
pub fn run(options: &Options, output: &mut Output) -> Summary {
    let chains = options.blocks.get().div_ceil(CHAIN_LENGTH);
    let (first, last) = (options.seed, options.seed.saturating_add(chains - 1));
    let cores = thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let threads = options.threads.map_or(cores, NonZeroU64::get).min(chains);
    let (next, began) = (AtomicU64::new(first), Instant::now());
    let (results, mut summary) = (mpsc::sync_channel(RESULTS_WAITING), Summary::default());
    let (sender, receiver) = results;
    let sender = Mutex::new(sender);
    thread::scope(|scope| {
        for _ in 0..threads {
            let sender = sender.lock().expect("nobody panics with the sender").clone();
            let next = &next;
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > last || sender.send((seed, run_chain(options, seed))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for (done, (seed, (tally, outcome))) in (1..).zip(receiver) {
            summary.tally.add(&tally);
            output.progress(|| format!("{done} of {chains} chains"));
            if let Err(difference) = outcome {
                output.line(format_args!("seed {seed}: {difference}"));
                output.line(format_args!("    again: {}", again(options, seed)));
                summary.differences.push((seed, difference));
            }
        }
    });
    let seconds = began.elapsed().as_secs_f64();
    summary.differences.sort_by_key(|(seed, _)| *seed);
    for line in summary.tally.lines() {
        output.line(line);
    }
    output.line(format_args!(
        "random: {} blocks of {}, seeds {first} to {last}, {} differences, {:.0} blocks/s",
        summary.tally.blocks,
        options.chain.as_str(),
        summary.differences.len(),
        summary.tally.blocks as f64 / seconds.max(f64::EPSILON),
    ));
    summary
}

/// The command that runs one chain again.
fn again(options: &Options, seed: u64) -> String {
    let chain = options.chain.as_str();
    format!(
        "conformance random --blocks {CHAIN_LENGTH} --seed {seed} --chain {chain} --client-every 1"
    )
}

fn run_chain(options: &Options, seed: u64) -> (Tally, Result<(), Difference>) {
    let plan = Plan {
        rules: options.chain,
        blocks: CHAIN_LENGTH,
        with_client: seed.is_multiple_of(options.client_every.get()),
    };
    let mut tally = Tally::default();
    let outcome = chain::check(&mut Choices::of_seed(seed), plan, &mut tally);
    (tally, outcome)
}

/// What a fuzzer does with bytes: the first chooses the rules, the others the chain.
///
/// # Panics
/// With a difference, so that a fuzzer notices it.
pub fn fuzz(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    let rules = if first & 1 == 0 { Rules::Berachain } else { Rules::Ethereum };
    if let Err(difference) = check_bytes(rules, rest) {
        panic!("{difference}");
    }
}

/// Executes the chain that these bytes choose.
///
/// # Errors
/// The first difference.
pub fn check_bytes(rules: Rules, bytes: &[u8]) -> Result<(), Difference> {
    let plan = Plan { rules, blocks: FUZZED_LENGTH, with_client: true };
    chain::check(&mut Choices::of_bytes(bytes), plan, &mut Tally::default())
}
