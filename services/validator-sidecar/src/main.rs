//! The process of the validator's sidecar.

use std::process::ExitCode;

use preconf_validator_sidecar::{Config, serve};

fn main() -> ExitCode {
    let config: Config = match preconf_chassis::parse("validator-sidecar") {
        Ok(config) => config,
        Err(code) => return code,
    };
    preconf_chassis::run("validator-sidecar", &config.process, || config.prepare(), serve)
}
