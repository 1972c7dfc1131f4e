//! The signer's process.

use std::process::ExitCode;

use preconf_signer::{Config, serve};

fn main() -> ExitCode {
    let config: Config = match preconf_chassis::parse("signer") {
        Ok(config) => config,
        Err(code) => return code,
    };
    preconf_chassis::run("signer", &config.process, || config.prepare(), serve)
}
