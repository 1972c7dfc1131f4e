//! The builder's process.

use std::process::ExitCode;

use preconf_builder::{Config, Prepared, serve};
use preconf_engine_door::PassthroughArgs;

fn main() -> ExitCode {
    let config: Config = match preconf_chassis::parse_with::<_, PassthroughArgs>("builder") {
        Ok(config) => config,
        Err(code) => return code,
    };
    preconf_chassis::run("builder", &config.process, || Prepared::read(&config), serve)
}
