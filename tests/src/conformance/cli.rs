//! The commands of the `conformance` program.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use preconf_chassis::Chain;

use super::{Failure, Output, blocktests, replay, rpc};
use crate::random;

/// Runs public test suites of execution clients, and random blocks, against the code that executes
/// flashblocks.
///
/// Exits with 0 if everything is as it should be, with 1 if something is not, and with 2 if a suite
/// could not be run.
#[derive(Debug, Parser)]
#[command(name = "conformance", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Replay(replay::Options),
    Blocktests(blocktests::Options),
    Rpc(rpc::Options),
    Random(random::Options),
}

/// Runs a command, and says how it went.
pub fn run(cli: &Cli) -> ExitCode {
    let mut output = Output::terminal();
    let clean = match &cli.command {
        Command::Replay(options) => replay::run(options, &mut output).map(|all| all.is_clean()),
        Command::Blocktests(options) => {
            blocktests::run(options, &mut output).map(|all| all.is_clean())
        }
        Command::Rpc(options) => rpc_blocking(options, &mut output),
        Command::Random(options) => Ok(random::run(options, &mut output).is_clean()),
    };
    match clean {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            drop(writeln!(io::stderr(), "conformance: {}", Chain(&failure)));
            ExitCode::from(2)
        }
    }
}

fn rpc_blocking(options: &rpc::Options, output: &mut Output) -> Result<bool, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ran = runtime.map_err(Failure::Runtime)?.block_on(rpc::run(options, output))?;
    Ok(ran.is_clean())
}
