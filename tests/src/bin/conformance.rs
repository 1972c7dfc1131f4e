//! Runs public test suites, and random blocks, against the code that executes flashblocks.

use std::process::ExitCode;

use clap::Parser;
use preconf_tests::conformance::cli::{self, Cli};

fn main() -> ExitCode {
    cli::run(&Cli::parse())
}
