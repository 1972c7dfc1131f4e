//! `cargo devnet`: the whole system on this machine, or its execution client alone.

use std::process::ExitCode;

use clap::{CommandFactory, Parser, error::ErrorKind};
use preconf_devnet::{Command, Console, Invocation, node, run};

#[tokio::main]
async fn main() -> ExitCode {
    let Invocation { options, command } = Invocation::parse();
    if let Some(Command::Node(options)) = command {
        return node::run(&options, Console::Stdout).await;
    }
    if let Err(contradiction) = options.check() {
        Invocation::command().error(ErrorKind::ValueValidation, contradiction).exit();
    }
    run::run(options, Console::Stdout).await
}
