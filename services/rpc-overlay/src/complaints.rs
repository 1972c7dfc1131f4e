//! One log line for many failures of a peer, whoever asks for it.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use preconf_telemetry::LogLimit;

/// How often a peer that does not answer is logged.
const INTERVAL: Duration = Duration::from_secs(10);

/// The complaints about one peer.
#[derive(Debug)]
pub(crate) struct Complaints(Mutex<LogLimit>);

impl Complaints {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(LogLimit::new(INTERVAL)))
    }

    /// If a line is to be logged now, how many were not since the last one.
    pub(crate) fn admit(&self) -> Option<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).admit(Instant::now())
    }
}
