//! `preconf-NAME passthrough on|off`: the off switch of a process on the same machine or in the same
//! container, by signal.
//!
//! For where there is no shell to send a signal from: an image holds its service and nothing else. It
//! signals nobody who runs another program, reads no configuration, and needs no certificate: whoever may
//! signal a process may end it.

use std::{
    fs,
    io::{self, Write},
};

use clap::ValueEnum;
use preconf_chassis::{Errand, Exit};
use rustix::process::{Pid, Signal, kill_process};

/// Switches passthrough of a running process: on, all blocks are left to the execution client.
#[derive(Debug, clap::Parser)]
#[command(name = "passthrough")]
pub struct PassthroughArgs {
    /// What it is to be.
    to: Switch,

    /// The process; the first one of a container if not given.
    #[arg(long, value_name = "PID", default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..))]
    pid: i32,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Switch {
    On,
    Off,
}

#[derive(Debug, thiserror::Error)]
enum SwitchError {
    #[error("looking at process {pid}")]
    Look { pid: i32, source: io::Error },
    #[error("process {pid} is {found}, not {wanted}: say which one with --pid")]
    Stranger { pid: i32, found: String, wanted: String },
    #[error("signalling process {pid}")]
    Signal { pid: i32, source: io::Error },
}

impl Errand for PassthroughArgs {
    fn run(self) -> Result<(), Exit> {
        let Self { to, pid } = self;
        let signal = match to {
            Switch::On => Signal::USR1,
            Switch::Off => Signal::USR2,
        };
        send(pid, signal)?;
        let to = to.to_possible_value();
        let to = to.as_ref().map_or("", |value| value.get_name());
        // The exit code says it too.
        let _ = writeln!(io::stdout(), "process {pid} was told to switch passthrough {to}");
        Ok(())
    }
}

/// Signals a process that runs the same program as this one.
fn send(pid: i32, signal: Signal) -> Result<(), SwitchError> {
    let name = |of: &str| {
        let name = fs::read_to_string(format!("/proc/{of}/comm"));
        name.map(|name| name.trim().to_owned()).map_err(|source| SwitchError::Look { pid, source })
    };
    let (found, wanted) = (name(&pid.to_string())?, name("self")?);
    if found != wanted {
        return Err(SwitchError::Stranger { pid, found, wanted });
    }
    let signalled = Pid::from_raw(pid).ok_or(rustix::io::Errno::SRCH);
    let signalled = signalled.and_then(|process| kill_process(process, signal));
    signalled.map_err(|errno| SwitchError::Signal { pid, source: errno.into() })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn nobody_else_is_signalled() {
        let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        // Between its fork and its exec it has our name.
        let name = format!("/proc/{}/comm", other.id());
        while fs::read_to_string(&name).unwrap() != "sleep\n" {
            std::thread::yield_now();
        }
        let words = ["passthrough", "on", "--pid", &other.id().to_string()];

        let refused = PassthroughArgs::try_parse_from(words).unwrap().run().unwrap_err();

        assert!(refused.to_string().contains(" is sleep, not "), "{refused}");
        assert!(other.try_wait().unwrap().is_none(), "it lives");
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
