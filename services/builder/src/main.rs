//! The builder's process.

use std::process::ExitCode;

use clap::Parser;
use preconf_builder::{Config, Prepared, serve};

fn main() -> ExitCode {
    let config = Config::parse();
    preconf_chassis::run("builder", &config.process, || Prepared::read(&config), serve)
}
