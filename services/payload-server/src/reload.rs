//! The files are read anew: at SIGHUP, and when they change.
//!
//! Certificates are renewed and secrets replaced by those who cannot send a signal, so once a second
//! it is looked whether a file is another one than before. A change that is refused is told once.

use std::{convert::Infallible, fs, io, os::unix::fs::MetadataExt, path::PathBuf, time::Duration};

use preconf_chassis::Shutdown;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{MissedTickBehavior, interval},
};
use tracing::error;

use crate::{metrics::Metrics, tls::Certificate, validators::Validators};

/// How often it is looked whether a file has changed.
const LOOK: Duration = Duration::from_secs(1);

/// The signal. From the moment that it is taken it does not end the process.
pub(crate) struct Hangup(Signal);

/// All that is read from files.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    pub(crate) validators: Validators,
    pub(crate) certificate: Option<Certificate>,
}

impl Hangup {
    pub(crate) fn take() -> io::Result<Self> {
        signal(SignalKind::hangup()).map(Self)
    }

    /// Reads the files anew, until shutdown.
    pub(crate) async fn obey(
        mut self,
        files: Files,
        metrics: Metrics,
        shutdown: Shutdown,
    ) -> Result<(), Infallible> {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = files.stamps();
        loop {
            let is_told = tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                sent = self.0.recv() => sent.is_some(),
                _ = looks.tick() => false,
            };
            let (files, metrics, before) = (files.clone(), metrics.clone(), seen.clone());
            // Every key is checked to be a point of the curve.
            let reading = tokio::task::spawn_blocking(move || {
                let now = files.stamps();
                if is_told || now != before {
                    files.reload(&metrics);
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

impl Files {
    /// What tells a file from the one before: none if it is not there.
    fn stamps(&self) -> Vec<Option<(u64, i64, i64)>> {
        let certificate = self.certificate.iter().flat_map(Certificate::paths);
        let paths = self.validators.paths().into_iter().chain(certificate);
        paths.map(stamp).collect()
    }

    fn reload(&self, metrics: &Metrics) {
        self.validators.reload(&metrics.reloaded);
        if let Some(certificate) = &self.certificate {
            certificate.reload(&metrics.reloaded);
        }
    }
}

fn stamp(path: &PathBuf) -> Option<(u64, i64, i64)> {
    let metadata = fs::metadata(path).ok()?;
    // The time of the last change of anything about it, permissions included.
    Some((metadata.ino(), metadata.ctime(), metadata.ctime_nsec()))
}
