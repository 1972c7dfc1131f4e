//! The process of the consumer.

use std::process::ExitCode;

use clap::Parser;
use preconf_consumer::{Config, serve};

fn main() -> ExitCode {
    let config = Config::parse();
    preconf_chassis::run("consumer", &config.process, || config.prepare(), serve)
}
