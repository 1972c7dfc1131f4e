//! The process of the validator's sidecar.

use std::process::ExitCode;

use preconf_engine_door::PassthroughArgs;
use preconf_validator_sidecar::{Config, serve};

fn main() -> ExitCode {
    let config: Config =
        match preconf_chassis::parse_with::<_, PassthroughArgs>("validator-sidecar") {
            Ok(config) => config,
            Err(code) => return code,
        };
    preconf_chassis::run("validator-sidecar", &config.process, || config.prepare(), serve)
}
