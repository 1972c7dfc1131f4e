//! The process of the RPC overlay.

use std::process::ExitCode;

use preconf_rpc_overlay::{Config, serve};

fn main() -> ExitCode {
    let config: Config = match preconf_chassis::parse("rpc-overlay") {
        Ok(config) => config,
        Err(code) => return code,
    };
    preconf_chassis::run("rpc-overlay", &config.process, || config.prepare(), serve)
}
