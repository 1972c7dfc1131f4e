//! The process of the payload server.

use std::process::ExitCode;

use preconf_payload_server::Config;

fn main() -> ExitCode {
    let config: Config = match preconf_chassis::parse("payload-server") {
        Ok(config) => config,
        Err(code) => return code,
    };
    let prepare = || config.prepare();
    preconf_chassis::run("payload-server", &config.process, prepare, preconf_payload_server::serve)
}
