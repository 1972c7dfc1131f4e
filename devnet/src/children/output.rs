//! What a child says: its last lines, a file with all of them, and where it listens.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::{File, OpenOptions},
    io::Write,
    path::Path,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader},
    process::Child,
    sync::watch,
    task::JoinSet,
    time::timeout,
};

/// How many lines are kept; older ones are in the file.
const LINES: usize = 50;
/// A longer line is cut into several.
const LINE_BYTES: u64 = 16 * 1024;
/// How long what a dead child has said may take to arrive.
const DRAIN: Duration = Duration::from_secs(1);

/// The output of one child, read for as long as this lives.
#[derive(Debug)]
pub(super) struct Output {
    tail: Arc<Mutex<VecDeque<String>>>,
    listening: watch::Receiver<BTreeMap<String, String>>,
    readers: JoinSet<()>,
}

impl Output {
    /// Follows both streams of a child that was just started.
    pub(super) fn follow(child: &mut Child, log: &Path) -> Self {
        let (announce, listening) = watch::channel(BTreeMap::new());
        // Without a file the last lines remain.
        let file = OpenOptions::new().create(true).append(true).open(log);
        let file = Arc::new(Mutex::new(file.ok()));
        let tail = Arc::new(Mutex::new(VecDeque::new()));
        let mut readers = JoinSet::new();
        if let Some(stdout) = child.stdout.take() {
            readers.spawn(read(stdout, tail.clone(), file.clone(), Some(announce)));
        }
        if let Some(stderr) = child.stderr.take() {
            readers.spawn(read(stderr, tail.clone(), file, None));
        }
        Self { tail, listening, readers }
    }

    /// Waits until the child says where `listener` is; `None` if it will not say it any more.
    /// Cancel safe.
    pub(super) async fn listening(&mut self, listener: &str) -> Option<String> {
        let said = self.listening.wait_for(|listeners| listeners.contains_key(listener)).await;
        said.ok()?.get(listener).cloned()
    }

    /// The last lines, each indented.
    pub(super) fn tail(&self) -> String {
        let tail = self.tail.lock();
        if tail.is_empty() {
            return "    (it said nothing)".to_owned();
        }
        tail.iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
    }

    /// Waits for the end of both streams.
    pub(super) async fn drained(&mut self) {
        let ends = async { while self.readers.join_next().await.is_some() {} };
        // A grandchild may hold the streams open; what came until now is what there is.
        timeout(DRAIN, ends).await.ok();
    }
}

async fn read(
    stream: impl AsyncRead + Unpin,
    tail: Arc<Mutex<VecDeque<String>>>,
    file: Arc<Mutex<Option<File>>>,
    announce: Option<watch::Sender<BTreeMap<String, String>>>,
) {
    let mut reader = BufReader::new(stream);
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        // A stream that breaks has ended.
        let read = (&mut reader).take(LINE_BYTES).read_until(b'\n', &mut bytes).await;
        if !matches!(read, Ok(1..)) {
            return;
        }
        if let Some(file) = file.lock().as_mut() {
            // A full disk costs the log, not the run.
            file.write_all(&bytes).ok();
        }
        let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
        if let (Some(announce), Some((name, address))) = (&announce, listener(&line)) {
            announce.send_modify(|listeners| {
                listeners.insert(name.to_owned(), address.to_owned());
            });
        }
        let mut tail = tail.lock();
        if tail.len() == LINES {
            tail.pop_front();
        }
        tail.push_back(line);
    }
}

/// `listening NAME ADDRESS`.
fn listener(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix("listening ")?.split_once(' ')
}
