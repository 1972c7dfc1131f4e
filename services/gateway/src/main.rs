//! The process of the gateway.

use std::process::ExitCode;

use preconf_chassis::Security;
use preconf_gateway::Config;

fn main() -> ExitCode {
    let config: Config = match preconf_chassis::parse("gateway") {
        Ok(config) => config,
        Err(code) => return code,
    };
    let prepare = || Security::load(&config.security);
    preconf_chassis::run("gateway", &config.process, prepare, |security, context| {
        preconf_gateway::serve(&config, security, context)
    })
}
