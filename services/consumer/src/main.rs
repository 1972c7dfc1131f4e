//! The process of the consumer.

use std::process::ExitCode;

use preconf_consumer::{Config, serve};

fn main() -> ExitCode {
    let config: Config = match preconf_chassis::parse("consumer") {
        Ok(config) => config,
        Err(code) => return code,
    };
    preconf_chassis::run("consumer", &config.process, || config.prepare(), serve)
}
