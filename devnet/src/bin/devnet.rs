//! `cargo devnet`: the whole system on this machine.

use std::process::ExitCode;

use clap::{CommandFactory, Parser, error::ErrorKind};
use preconf_devnet::{Console, Options, run};

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    if let Err(contradiction) = options.check() {
        Options::command().error(ErrorKind::ValueValidation, contradiction).exit();
    }
    run::run(options, Console::Stdout).await
}
