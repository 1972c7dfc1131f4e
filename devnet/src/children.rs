//! The services as processes of their own: started, watched until they are ready, and ended.
//!
//! Invariants: a child that ends is named with its last lines; at the end every child is asked to
//! stop, the last started first, and killed if it does not within [`GRACE`]; a child does not
//! outlive this process, even one that is killed; Ctrl-C in a terminal reaches this process only,
//! so that the children end in order.
//!
//! A child that dies by itself is not started again: a devnet in which something died has failed. One
//! that is killed on purpose is started again with the flags that it had.

mod output;
mod probe;
mod signal;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt, io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use futures_util::future::select_all;
use tokio::{
    process::{Child as Process, Command},
    time::{Instant, interval, timeout},
};

use crate::console::Console;

use output::Output;
use probe::Readiness;
pub(crate) use probe::{Standing, standing};

/// How long a child may take to say where it listens.
const BINDING: Duration = Duration::from_secs(20);
/// How long a child may take to end when asked.
const GRACE: Duration = Duration::from_secs(5);
/// How often a child is asked whether it is ready.
const PROBE_INTERVAL: Duration = Duration::from_millis(50);
/// How often those that are waited for are named.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);

/// What a child is started with.
#[derive(Clone, Debug)]
pub struct Service {
    /// What it is called here.
    pub name: &'static str,
    /// Its binary.
    pub program: PathBuf,
    /// Its flags. It must be given `--health-addr`.
    pub flags: Vec<OsString>,
}

/// A child that did not do its part.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// It could not be started.
    #[error("starting {name} ({program})")]
    Start {
        /// Who.
        name: &'static str,
        /// Its binary.
        program: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It ended although nobody had asked it to.
    #[error("{name} {}; its last lines:\n{tail}", Ended(.status))]
    Died {
        /// Who.
        name: &'static str,
        /// How, if the system says.
        status: Option<ExitStatus>,
        /// Its last lines.
        tail: String,
    },
    /// It does not say where it listens.
    #[error("{name} did not bind {listener} within {BINDING:?}; its last lines:\n{tail}")]
    NotListening {
        /// Who.
        name: &'static str,
        /// What it was expected to bind.
        listener: &'static str,
        /// Its last lines.
        tail: String,
    },
    /// It is not ready in time.
    #[error("{name} was not ready within {waited:?} ({reason}); its last lines:\n{tail}")]
    NotReady {
        /// Who.
        name: &'static str,
        /// How long it was waited for.
        waited: Duration,
        /// What it said was missing.
        reason: String,
        /// Its last lines.
        tail: String,
    },
    /// It did not end as it should when it was asked to.
    #[error("{name} did not stop cleanly: {how}; its last lines:\n{tail}")]
    Stop {
        /// Who.
        name: &'static str,
        /// How it ended instead.
        how: String,
        /// Its last lines.
        tail: String,
    },
}

/// How a process ended, in words.
struct Ended<'a>(&'a Option<ExitStatus>);

impl fmt::Display for Ended<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(status) => write!(f, "died ({status})"),
            None => f.write_str("died"),
        }
    }
}

/// The children, in the order in which they were started. Dropping them kills them.
#[derive(Debug)]
pub struct Children {
    logs: PathBuf,
    running: Vec<Child>,
    /// Killed on purpose.
    down: Vec<Service>,
    /// What all of them find in their environment, besides ours.
    environment: Vec<(&'static str, String)>,
}

#[derive(Debug)]
struct Child {
    name: &'static str,
    service: Service,
    process: Process,
    output: Output,
}

impl Children {
    /// None yet. What they say is written to files in `logs`.
    pub fn new(logs: &Path) -> Self {
        Self {
            logs: logs.to_owned(),
            running: Vec::new(),
            down: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// Lets those that are started from here on find this in their environment.
    pub fn set_environment(&mut self, environment: Vec<(&'static str, String)>) {
        self.environment = environment;
    }

    /// Starts a child and waits until it has said where its `listeners` are.
    ///
    /// Must be called on a thread that lives as long as this process: the child dies with it.
    ///
    /// # Errors
    /// If it cannot be started, dies, or binds nothing.
    pub async fn start(
        &mut self,
        service: Service,
        listeners: &[&'static str],
    ) -> Result<BTreeMap<&'static str, String>, ChildError> {
        let Service { name, program, flags } = service.clone();
        let mut command = Command::new(&program);
        command.args(flags).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.kill_on_drop(true).process_group(0).envs(self.environment.iter().cloned());
        signal::die_with_parent(&mut command);
        let mut process =
            command.spawn().map_err(|source| ChildError::Start { name, program, source })?;
        let output = Output::follow(&mut process, &self.logs.join(format!("{name}.log")));
        self.running.push(Child { name, service, process, output });
        let child = self.running.last_mut().expect("it was just pushed");
        let mut addresses = BTreeMap::new();
        for listener in listeners {
            addresses.insert(*listener, child.listening(listener).await?);
        }
        Ok(addresses)
    }

    /// Waits until the children with these names say that they are ready.
    ///
    /// # Errors
    /// If one of them is not in time, or any child dies.
    pub async fn until_ready(
        &mut self,
        names: &[&'static str],
        deadline: Duration,
        console: Console,
    ) -> Result<(), ChildError> {
        let started = Instant::now();
        let mut told = started;
        for at in 0..self.running.len() {
            if !names.contains(&self.running[at].name) {
                continue;
            }
            let mut probes = interval(PROBE_INTERVAL);
            loop {
                probes.tick().await;
                self.check()?;
                let child = &mut self.running[at];
                let reason = match child.readiness().await? {
                    Readiness::Ready => break,
                    Readiness::NotReady(reason) => reason,
                };
                if started.elapsed() >= deadline {
                    let (name, tail) = (child.name, child.output.tail());
                    return Err(ChildError::NotReady { name, waited: deadline, reason, tail });
                }
                if told.elapsed() >= PROGRESS_INTERVAL {
                    console.line(format_args!("  waiting for {}: {reason}", child.name));
                    told = Instant::now();
                }
            }
            let waited = started.elapsed().as_secs_f64();
            console.line(format_args!("  {} is ready ({waited:.1} s)", self.running[at].name));
        }
        Ok(())
    }

    /// Kills a child on purpose. Nothing happens if it is down.
    pub async fn kill(&mut self, name: &str) {
        let Some(at) = self.running.iter().position(|child| child.name == name) else { return };
        let mut child = self.running.remove(at);
        // One that cannot be killed has ended.
        child.process.kill().await.ok();
        self.down.push(child.service);
    }

    /// Stops a child on purpose, as it is stopped at the end. Nothing happens if it is down.
    ///
    /// # Errors
    /// If it does not end as it should.
    pub async fn stop_one(&mut self, name: &str) -> Result<(), ChildError> {
        let Some(at) = self.running.iter().position(|child| child.name == name) else {
            return Ok(());
        };
        let mut child = self.running.remove(at);
        self.down.push(child.service.clone());
        child.stop().await
    }

    /// Starts a child again that is down, and waits until it listens. Says whether it was down;
    /// otherwise nothing happens.
    ///
    /// # Errors
    /// If it cannot be started or does not bind the listener.
    pub async fn revive(&mut self, name: &str, listener: &'static str) -> Result<bool, ChildError> {
        let Some(at) = self.down.iter().position(|service| service.name == name) else {
            return Ok(false);
        };
        let service = self.down.remove(at);
        self.start(service, &[listener]).await.map(|_| true)
    }

    /// Lets a child stand still, or go on.
    pub fn pause(&self, name: &str, stands_still: bool) {
        if let Some(pid) = self.running(name).and_then(|child| child.process.id()) {
            signal::pause(pid, stands_still);
        }
    }

    /// Has a child read its files anew.
    pub fn hang_up(&self, name: &str) {
        if let Some(pid) = self.running(name).and_then(|child| child.process.id()) {
            signal::hang_up(pid);
        }
    }

    /// Switches the passthrough of a builder.
    pub fn pass_through(&self, name: &str, on: bool) {
        if let Some(pid) = self.running(name).and_then(|child| child.process.id()) {
            signal::pass_through(pid, on);
        }
    }

    /// What a child has said so far, as far as its file can be read.
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.logs.join(format!("{name}.log"))).unwrap_or_default()
    }

    fn running(&self, name: &str) -> Option<&Child> {
        self.running.iter().find(|child| child.name == name)
    }

    /// Says whether one of them has ended.
    ///
    /// # Errors
    /// Names the first one that has.
    fn check(&mut self) -> Result<(), ChildError> {
        for child in &mut self.running {
            if let Ok(Some(status)) = child.process.try_wait() {
                return Err(child.died(Some(status)));
            }
        }
        Ok(())
    }

    /// Waits until one of them ends, which none of them should. Cancel safe.
    pub async fn first_end(&mut self) -> ChildError {
        if self.running.is_empty() {
            std::future::pending::<()>().await;
        }
        let waits = self.running.iter_mut().map(|child| Box::pin(child.process.wait()));
        let (status, at, _) = select_all(waits).await;
        let child = &mut self.running[at];
        // What it said last is still on its way.
        child.output.drained().await;
        child.died(status.ok())
    }

    /// Asks all of them to stop, the last started first, and waits for each.
    ///
    /// # Errors
    /// Names those that had to be killed or ended with a failure. All of them have ended.
    pub async fn stop(mut self) -> Result<(), Vec<ChildError>> {
        let mut failures = Vec::new();
        while let Some(mut child) = self.running.pop() {
            if let Err(failure) = child.stop().await {
                failures.push(failure);
            }
        }
        if failures.is_empty() { Ok(()) } else { Err(failures) }
    }
}

impl Child {
    async fn listening(&mut self, listener: &'static str) -> Result<String, ChildError> {
        tokio::select! {
            address = timeout(BINDING, self.output.listening(listener)) => match address {
                Ok(Some(address)) => Ok(address),
                // Its output has ended: so has it, or it will.
                Ok(None) => {
                    let status = timeout(GRACE, self.process.wait()).await;
                    Err(self.died(status.ok().and_then(Result::ok)))
                }
                Err(_) => {
                    let (name, tail) = (self.name, self.output.tail());
                    Err(ChildError::NotListening { name, listener, tail })
                }
            },
            status = self.process.wait() => {
                self.output.drained().await;
                Err(self.died(status.ok()))
            }
        }
    }

    async fn readiness(&mut self) -> Result<Readiness, ChildError> {
        let address = self.listening("health").await?;
        Ok(probe::readiness(&address).await)
    }

    fn died(&self, status: Option<ExitStatus>) -> ChildError {
        ChildError::Died { name: self.name, status, tail: self.output.tail() }
    }

    async fn stop(&mut self) -> Result<(), ChildError> {
        let failed = |child: &Self, how: String| {
            Err(ChildError::Stop { name: child.name, how, tail: child.output.tail() })
        };
        if let Some(pid) = self.process.id() {
            signal::terminate(pid);
        }
        match timeout(GRACE, self.process.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => {
                self.output.drained().await;
                failed(self, status.to_string())
            }
            Ok(Err(error)) => failed(self, error.to_string()),
            Err(_) => {
                // It is killed when it is dropped, too, if this fails.
                self.process.kill().await.ok();
                failed(self, format!("it was killed after {GRACE:?}"))
            }
        }
    }
}

#[cfg(test)]
mod tests;
