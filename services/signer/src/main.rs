//! The signer's process.

use std::process::ExitCode;

use clap::Parser;
use preconf_signer::{Config, serve};

fn main() -> ExitCode {
    let config = Config::parse();
    preconf_chassis::run("signer", &config.process, || config.prepare(), serve)
}
