//! Shows what feeds say, one line per message.

use std::process::ExitCode;

use clap::Parser;
use preconf_chassis::Security;
use preconf_devnet::monitor::{self, Config};

fn main() -> ExitCode {
    let config = Config::parse();
    let prepare = || Security::load(&config.security);
    preconf_chassis::run("monitor", &config.process, prepare, |security, context| {
        monitor::serve(&config, security, context)
    })
}
