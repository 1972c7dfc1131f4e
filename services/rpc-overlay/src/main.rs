//! The process of the RPC overlay.

use std::process::ExitCode;

use clap::Parser;
use preconf_rpc_overlay::{Config, serve};

fn main() -> ExitCode {
    let config = Config::parse();
    preconf_chassis::run("rpc-overlay", &config.process, || config.prepare(), serve)
}
