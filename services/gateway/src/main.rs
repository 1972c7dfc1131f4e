//! The process of the gateway.

use std::process::ExitCode;

use clap::Parser;
use preconf_chassis::Security;
use preconf_gateway::Config;

fn main() -> ExitCode {
    let config = Config::parse();
    let prepare = || Security::load(&config.security);
    preconf_chassis::run("gateway", &config.process, prepare, |security, context| {
        preconf_gateway::serve(&config, security, context)
    })
}
