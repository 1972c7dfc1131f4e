//! `devnet` as a process, seen from outside.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
};

use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

use crate::cluster::{DEADLINE, FLAGS, Turn};

/// A devnet that was started as people start it.
pub struct Program {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    _turn: Turn,
}

impl Program {
    /// Starts it.
    ///
    /// # Panics
    /// If it cannot be started.
    pub async fn start(flags: &[&str]) -> Self {
        let turn = Turn::take().await;
        let path = turn.binaries.find("devnet").expect("it is built with the services");
        let mut child = Command::new(path)
            .args(FLAGS)
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the binary can be started");
        let stdout = child.stdout.take().expect("stdout is piped");
        Self { child, lines: BufReader::new(stdout).lines(), _turn: turn }
    }

    /// Reads on to the next line that contains `text`.
    ///
    /// # Panics
    /// If there is none in time.
    pub async fn line(&mut self, text: &str) -> String {
        let found = async {
            loop {
                let line = self.lines.next_line().await.expect("stdout is text");
                let line = line.unwrap_or_else(|| panic!("the output ended before {text:?}"));
                if line.contains(text) {
                    return line;
                }
            }
        };
        timeout(DEADLINE, found).await.unwrap_or_else(|_| panic!("no line with {text:?} in time"))
    }

    /// Reads on to where it says its files are.
    pub async fn directory(&mut self) -> PathBuf {
        let line = self.line("files in ").await;
        line.split_once("files in ").map(|(_, path)| path.into()).unwrap_or_default()
    }

    /// Sends it a signal, by name.
    ///
    /// # Panics
    /// If that cannot be done.
    pub async fn signal(&self, name: &str) {
        send_signal(name, self.child.id().expect("it was not waited for")).await;
    }

    /// Waits for its end and returns how it ended, and what it said until then.
    ///
    /// # Panics
    /// If it does not end in time.
    pub async fn end(mut self) -> (ExitStatus, Vec<String>) {
        let ended = async {
            let mut said = Vec::new();
            while let Some(line) = self.lines.next_line().await.expect("stdout is text") {
                said.push(line);
            }
            (self.child.wait().await.expect("it is our child"), said)
        };
        timeout(DEADLINE, ended).await.expect("it ends in time")
    }
}

/// Sends a signal, by name.
///
/// # Panics
/// If that cannot be done.
pub async fn send_signal(name: &str, pid: u32) {
    let script = format!("kill -{name} {pid}");
    let sent = Command::new("/bin/sh").args(["-c", &script]).status().await;
    assert!(sent.expect("there is a shell").success(), "{script}");
}

/// The processes whose command line names this directory: their ids and command lines.
pub fn processes_in(directory: &Path) -> Vec<(u32, String)> {
    let name = directory.display().to_string();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            Some((pid, String::from_utf8_lossy(&line).replace('\0', " ")))
        })
        .filter(|(_, line)| line.contains(&name))
        .collect()
}
