//! The requests and responses of ethereum/execution-apis, against an endpoint.
//!
//! A case passes if each response is the expected one: the same JSON whatever the order of keys,
//! apart from the message of an error, which every client words for itself. Of a case that says
//! `speconly:` only the shape is compared.

mod case;
mod compare;
mod endpoint;

use std::{fmt, path::PathBuf};

use clap::Args;
use preconf_chassis::Chain;

use super::{Failure, Output};
use case::Case;
use endpoint::Endpoint;

pub use compare::{Difference, same_shape, same_values};

/// The most differences of one case that are shown.
const MAX_SHOWN: usize = 8;

/// Runs the JSON-RPC suite of ethereum/execution-apis against an endpoint.
///
/// The endpoint must serve the chain of the suite (its genesis.json and chain.rlp). Values are
/// compared exactly; of errors the code and the data; of cases marked speconly the shape.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// The directory of the suite's METHOD/CASE.io files.
    #[arg(long, value_name = "DIR")]
    pub suite: PathBuf,
    /// The endpoint's HTTP URL.
    #[arg(long, value_name = "URL")]
    pub url: String,
    /// Run only cases whose METHOD/CASE begins so; may be repeated.
    #[arg(long, value_name = "PREFIX")]
    pub only: Vec<String>,
    /// Skip cases whose METHOD/CASE begins so, and name them; may be repeated.
    #[arg(long, value_name = "PREFIX")]
    pub skip: Vec<String>,
    /// Print a line for each case that passes, too.
    #[arg(long)]
    pub verbose: bool,
}

/// What the suite found out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answered {
    /// Cases whose values were compared and are the same.
    pub exact: u64,
    /// Cases whose shape was compared and is the same.
    pub by_shape: u64,
    /// Cases that failed.
    pub failed: u64,
    /// Cases that were not run.
    pub skipped: u64,
}

impl Answered {
    /// Whether something was compared, and everything was as it should be.
    pub const fn is_clean(&self) -> bool {
        self.failed == 0 && self.exact + self.by_shape > 0
    }
}

impl fmt::Display for Answered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { exact, by_shape, failed, skipped } = self;
        let passed = exact + by_shape;
        write!(
            f,
            "{passed} passed ({exact} by value, {by_shape} by shape), {failed} failed, \
             {skipped} skipped"
        )
    }
}

/// Runs the suite. One line for each case that fails or is skipped, one for the sum.
///
/// # Errors
/// If the suite cannot be read or nobody is at the endpoint.
pub async fn run(options: &Options, output: &mut Output) -> Result<Answered, Failure> {
    let endpoint = Endpoint::new(&options.url)?;
    let mut cases = Case::read_all(&options.suite)?;
    cases.retain(|case| options.only.is_empty() || begins(&case.name, &options.only));
    if cases.is_empty() {
        return Err(Failure::Nothing { what: "such case", path: options.suite.clone() });
    }
    let mut all = Answered::default();
    for case in &cases {
        output.progress(|| case.name.clone());
        if begins(&case.name, &options.skip) {
            all.skipped += 1;
            output.line(format_args!("skipped {}: --skip names it", case.name));
            continue;
        }
        let differences = ask(&endpoint, case).await?;
        if differences.is_empty() {
            *(if case.spec_only { &mut all.by_shape } else { &mut all.exact }) += 1;
            if options.verbose {
                output.line(format_args!("passed {}", case.name));
            }
            continue;
        }
        all.failed += 1;
        output.line(format_args!("failed {}", case.name));
        for difference in differences.iter().take(MAX_SHOWN) {
            output.line(format_args!("    {difference}"));
        }
        if let more @ 1.. = differences.len().saturating_sub(MAX_SHOWN) {
            output.line(format_args!("    and {more} more"));
        }
    }
    output.line(format_args!("rpc: {all}"));
    Ok(all)
}

fn begins(name: &str, prefixes: &[String]) -> bool {
    prefixes.iter().any(|prefix| name.starts_with(prefix.as_str()))
}

/// How the answers to a case differ from what is expected.
async fn ask(endpoint: &Endpoint, case: &Case) -> Result<Vec<Difference>, Failure> {
    let mut differences = Vec::new();
    for exchange in &case.exchanges {
        match endpoint.ask(&exchange.request).await? {
            Ok(got) if case.spec_only => {
                differences.extend(same_shape(&exchange.response, &got));
            }
            Ok(got) => differences.extend(same_values(&exchange.response, &got)),
            Err(error) => differences.push(Difference::no_answer(Chain(&error))),
        }
    }
    Ok(differences)
}
