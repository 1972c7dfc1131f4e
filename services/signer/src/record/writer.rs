//! The thread that writes, and those who wait for it.
//!
//! Whoever commits a decision hands it over under the machine's lock, so that the file has the order
//! of the commits, and then waits until it is synced; so does whoever answers from what another one
//! has committed. All that waits meanwhile is written and synced together.
//!
//! There is room for [`MAX_WAITING`] decisions. When it is used up, whoever would decide waits before
//! it does. When the thread has ended, nobody gets an answer any more: the process is about to end.

use std::{
    future::pending,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, watch};
use tracing::info;

use super::{Claimed, Line, RecordError, RecordFile};
use crate::{metrics::Metrics, watermark::Watermark};

/// How many decisions may wait to be written.
const MAX_WAITING: usize = 256;

/// Where decisions are handed over; to nobody, if there is no record.
#[derive(Debug)]
pub(crate) struct Recorder(Option<Lines>);

#[derive(Debug)]
struct Lines {
    lines: mpsc::Sender<Line>,
    /// How many were handed over. Changes under the machine's lock only.
    handed: AtomicU64,
    /// How many are on the disk.
    synced: watch::Receiver<u64>,
}

/// Room for one decision.
#[derive(Debug)]
pub(crate) struct Room<'a>(Option<(&'a AtomicU64, mpsc::Permit<'a, Line>)>);

/// What the thread works on.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(super) file: RecordFile,
    machine: Arc<Mutex<Watermark>>,
    lines: mpsc::Receiver<Line>,
    synced: watch::Sender<u64>,
    metrics: Metrics,
}

/// Connects a machine that goes on at `now` with the file that it was read from, which is written
/// anew: blocks until that is on the disk.
///
/// # Errors
/// If it cannot be written.
pub(crate) fn start(
    claimed: Claimed,
    machine: Arc<Mutex<Watermark>>,
    now: Duration,
    metrics: Metrics,
) -> Result<(Recorder, Writer), RecordError> {
    let file = RecordFile::begin(claimed, &lock(&machine).condensed(), now)?;
    let (lines, handed_over) = mpsc::channel(MAX_WAITING);
    let (sender, synced) = watch::channel(0);
    let recorder = Recorder(Some(Lines { lines, handed: AtomicU64::new(0), synced }));
    let writer = Writer { file, machine, lines: handed_over, synced: sender, metrics };
    Ok((recorder, writer))
}

impl Recorder {
    /// Records nothing.
    pub(crate) const fn none() -> Self {
        Self(None)
    }

    /// Waits until a decision can be handed over.
    pub(crate) async fn room(&self) -> Room<'_> {
        let Some(Lines { lines, handed, .. }) = &self.0 else { return Room(None) };
        match lines.reserve().await {
            Ok(permit) => Room(Some((handed, permit))),
            Err(_) => pending().await,
        }
    }

    /// How many decisions were handed over: to be asked under the machine's lock, and waited for.
    pub(crate) fn handed(&self) -> u64 {
        self.0.as_ref().map_or(0, |lines| lines.handed.load(Ordering::Relaxed))
    }

    /// Waits until so many decisions are on the disk.
    pub(crate) async fn synced(&self, handed: u64) {
        let Some(Lines { synced, .. }) = &self.0 else { return };
        if synced.clone().wait_for(|&synced| synced >= handed).await.is_err() {
            pending().await
        }
    }

    /// Waits until no decision will ever be synced again.
    pub(crate) fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let lines = self.0.as_ref().map(|lines| lines.lines.clone());
        async move {
            match lines {
                Some(lines) => lines.closed().await,
                None => pending().await,
            }
        }
    }
}

impl Room<'_> {
    /// Hands a decision over, under the lock that it was committed under.
    pub(crate) fn hand_over(self, line: Line) {
        if let Self(Some((handed, permit))) = self {
            permit.send(line);
            handed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Writer {
    /// Writes until nobody is left who could hand anything over.
    ///
    /// # Errors
    /// The first one ends it.
    pub(crate) fn run(mut self) -> Result<(), RecordError> {
        self.show();
        let mut batch = Vec::new();
        while let Some(line) = self.lines.blocking_recv() {
            batch.push(line);
            while batch.len() < MAX_WAITING
                && let Ok(line) = self.lines.try_recv()
            {
                batch.push(line);
            }
            let began = Instant::now();
            self.file.append(&batch)?;
            self.metrics.record_sync_seconds.observe(began.elapsed().as_secs_f64());
            self.synced.send_modify(|synced| *synced += batch.len() as u64);
            if self.file.is_long() {
                self.rewrite(batch.iter().map(|line| line.at).max().unwrap_or_default())?;
            }
            self.show();
            batch.clear();
        }
        Ok(())
    }

    /// Writes the file anew, at `now` or later, with what the machine holds.
    fn rewrite(&mut self, mut now: Duration) -> Result<(), RecordError> {
        let (records, waiting) = {
            let machine = lock(&self.machine);
            let mut waiting = 0;
            // Nothing is handed over meanwhile: that takes the lock. What was, the machine holds.
            while let Ok(line) = self.lines.try_recv() {
                now = now.max(line.at);
                waiting += 1;
            }
            (machine.condensed(), waiting)
        };
        let before = self.file.bytes();
        self.file.rewrite(&records, now)?;
        self.synced.send_modify(|synced| *synced += waiting);
        info!(before, after = self.file.bytes(), "record written anew");
        Ok(())
    }

    fn show(&self) {
        self.metrics.record_bytes.set(i64::try_from(self.file.bytes()).unwrap_or(i64::MAX));
    }
}

fn lock(machine: &Mutex<Watermark>) -> MutexGuard<'_, Watermark> {
    machine.lock().expect("after a panic in the machine nothing may be recorded any more")
}
