//! Which bench is run, and how its result is shown. A new bench is a module and a name here.

use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use crate::{
    consume, execute,
    live::{cadence, fetch, payload},
    machine::Machine,
    measure::{Rounds, Wrong},
    pool, recover,
    report::{self, Report, Row},
};

/// Measures preconf beside its limits, in the same run.
#[derive(Debug, Parser)]
#[command(name = "preconf-bench")]
pub(crate) struct Options {
    /// What to measure.
    #[arg(value_enum)]
    bench: Bench,
    /// Print JSON, with every sample, instead of a table.
    #[arg(long)]
    json: bool,
    /// How often each side is measured.
    #[arg(long, default_value_t = Rounds::default())]
    rounds: Rounds,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Bench {
    /// The builder's loop: pool selection, execution, receipts and cuts, beside alloy-evm's block executor.
    Execute,
    /// The builder's schedule: how late flashblocks are cut and how long they take to be published.
    Cadence,
    /// The consumer: flashblocks from decoded message to published snapshot, beside one-shot execution.
    Consume,
    /// What a validator waits for its block over HTTP, beside the Engine API of the builder.
    Fetch,
    /// What the consensus client waits for its block, beside what the execution client takes.
    Getpayload,
    /// The builder's pool with 100,000 transactions, beside a map of queues and a heap.
    Pool,
    /// Decoding transactions with their senders on all cores, beside raw secp256k1 recovery.
    Recover,
}

impl Bench {
    fn measure(self, rounds: Rounds) -> Result<Vec<Row>, Wrong> {
        match self {
            Self::Execute => execute::measure(rounds),
            Self::Cadence => cadence::measure(rounds),
            Self::Consume => consume::measure(rounds),
            Self::Fetch => fetch::measure(rounds),
            Self::Getpayload => payload::measure(rounds),
            Self::Pool => pool::measure(rounds),
            Self::Recover => recover::measure(rounds),
        }
    }
}

impl Options {
    /// Measures and prints.
    pub(crate) fn run(&self) -> ExitCode {
        let machine = Machine::find();
        let name = self.bench.to_possible_value().map(|value| value.get_name().to_owned());
        match self.bench.measure(self.rounds) {
            Ok(rows) => {
                Report::new(name.unwrap_or_default(), self.rounds, machine, rows).print(self.json);
                ExitCode::SUCCESS
            }
            Err(wrong) => {
                report::complain(&wrong);
                ExitCode::FAILURE
            }
        }
    }
}
