//! Files that are read anew while the process runs: at SIGHUP, and when they change.
//!
//! Certificates are renewed and secrets replaced by those who cannot send a signal, so once a second
//! it is looked whether a file is another one than before. A change that is refused is told once.
//! Times alone do not tell: on many systems two writes within a few milliseconds have the same, and
//! a look may fall between a file's being emptied and its being written. What is read, and what
//! follows from it, whoever needs the files knows.

use std::{
    convert::Infallible,
    fs,
    hash::{DefaultHasher, Hasher as _},
    io::{self, Read as _},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{MissedTickBehavior, interval},
};
use tracing::error;
use zeroize::Zeroizing;

use crate::Shutdown;

/// How often it is looked whether a file has changed.
const LOOK: Duration = Duration::from_secs(1);
/// How much of a file is looked at: more than whoever needs one reads.
const MAX_BYTES: u64 = 2 * 1024 * 1024;

/// The signal. From the moment that it is taken it does not end the process.
#[derive(Debug)]
pub struct Hangup(Signal);

/// What tells each file from the one before: none if it is not there. Taken before the files are
/// read, so that what is written meanwhile is read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamps(Vec<Option<Stamp>>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    /// Who may do what with it.
    mode: u32,
    /// The time of the last change of anything about it.
    changed: (i64, i64),
    /// A hash of what it holds, if it can be read.
    content: Option<u64>,
}

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

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    // What is in a pipe is there once.
    let content = metadata.is_file().then(|| content(path).ok()).flatten();
    let changed = (metadata.ctime(), metadata.ctime_nsec());
    Some(Stamp { inode: metadata.ino(), mode: metadata.mode(), changed, content })
}

fn content(path: &Path) -> io::Result<u64> {
    let mut file = fs::File::open(path)?.take(MAX_BYTES);
    let mut hasher = DefaultHasher::new();
    // It may be a secret.
    let mut piece = Zeroizing::new([0; 4096]);
    loop {
        match file.read(&mut *piece)? {
            0 => return Ok(hasher.finish()),
            length => hasher.write(&piece[..length]),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        os::{fd::AsRawFd as _, unix::fs::PermissionsExt as _},
    };

    use super::*;

    #[test]
    fn a_file_is_another_one_however_soon_it_is_written_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        // The clock of a file system stands still between two of its ticks.
        for turn in 0..100 {
            fs::write(&path, "").unwrap();
            let cut = Stamps::of([&path]);
            fs::write(&path, format!("{turn:03}")).unwrap();
            let written = Stamps::of([&path]);
            fs::write(&path, format!("{:03}", turn + 1)).unwrap();
            let replaced = Stamps::of([&path]);
            assert_ne!(cut, written, "{turn}");
            assert_ne!(written, replaced, "{turn}");
            assert_eq!(replaced, Stamps::of([&path]), "{turn}");
        }
    }

    #[test]
    fn who_may_read_a_file_is_seen_and_a_pipe_is_left_to_its_reader() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        fs::write(&path, "x").unwrap();
        let before = Stamps::of([&path]);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
        assert_ne!(before, Stamps::of([&path]));
        fs::remove_file(&path).unwrap();
        assert_ne!(before, Stamps::of([&path]));

        let (mut pipe, mut write) = io::pipe().unwrap();
        write.write_all(b"x").unwrap();
        drop(write);
        let path = format!("/proc/self/fd/{}", pipe.as_raw_fd());
        let _ = Stamps::of([path]);
        let mut left = String::new();
        pipe.read_to_string(&mut left).unwrap();
        assert_eq!(left, "x");
    }
}
