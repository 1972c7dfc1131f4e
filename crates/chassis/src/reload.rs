//! Files that are read anew while the process runs: at SIGHUP, and when they change.
//!
//! Certificates are renewed and secrets replaced by those who cannot send a signal, so once a second
//! it is looked whether a file is another one than before. A change that is refused is told once.
//! What is read, and what follows from it, whoever needs the files knows.

use std::{
    convert::Infallible,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{MissedTickBehavior, interval},
};
use tracing::error;

use crate::Shutdown;

/// How often it is looked whether a file has changed.
const LOOK: Duration = Duration::from_secs(1);

/// The signal. From the moment that it is taken it does not end the process.
#[derive(Debug)]
pub struct Hangup(Signal);

/// What tells each file from the one before: none if it is not there. Taken before the files are
/// read, so that what is written meanwhile is read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamps(Vec<Option<(u64, i64, i64)>>);

impl Stamps {
    /// Of these files, as they are now.
    pub fn of<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> Self {
        Self(paths.into_iter().map(|path| stamp(path.as_ref())).collect())
    }
}

impl Hangup {
    /// Takes the signal.
    ///
    /// # Errors
    /// If the operating system refuses.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn take() -> io::Result<Self> {
        signal(SignalKind::hangup()).map(Self)
    }

    /// Has the files read anew, on a thread that may block, until shutdown. `seen` is what they were
    /// before they were read last.
    ///
    /// # Errors
    /// Never.
    pub async fn obey(
        mut self,
        paths: Vec<PathBuf>,
        mut seen: Stamps,
        reload: impl Fn() + Clone + Send + 'static,
        shutdown: Shutdown,
    ) -> Result<(), Infallible> {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_told = tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                sent = self.0.recv() => sent.is_some(),
                _ = looks.tick() => false,
            };
            let (paths, reload, before) = (paths.clone(), reload.clone(), seen.clone());
            let reading = tokio::task::spawn_blocking(move || {
                let now = Stamps::of(paths);
                if is_told || now != before {
                    reload();
                }
                now
            });
            match reading.await {
                Ok(now) => seen = now,
                Err(error) => error!(%error, "the files were not read anew"),
            }
        }
    }
}

fn stamp(path: &Path) -> Option<(u64, i64, i64)> {
    let metadata = fs::metadata(path).ok()?;
    // The time of the last change of anything about it, permissions included.
    Some((metadata.ino(), metadata.ctime(), metadata.ctime_nsec()))
}
