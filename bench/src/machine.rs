//! What the numbers were measured on.

use std::{fs, process::Command, thread};

use serde::Serialize;

/// The machine, the compiler and the code. What cannot be found out is `unknown`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    cpu: String,
    cores: usize,
    rustc: String,
    /// With a `+` if the working tree differs from it.
    commit: String,
    profile: &'static str,
    /// The load averages before the run: whether somebody else was at work.
    load: String,
}

impl Machine {
    pub(crate) fn find() -> Self {
        Self {
            cpu: cpu().unwrap_or_else(unknown),
            cores: thread::available_parallelism().map_or(1, usize::from),
            rustc: output("rustc", &["--version"]).unwrap_or_else(unknown),
            commit: commit().unwrap_or_else(unknown),
            profile: if cfg!(debug_assertions) { "dev" } else { "release" },
            load: load().unwrap_or_else(unknown),
        }
    }

    /// One line for each fact.
    pub(crate) fn lines(&self) -> Vec<String> {
        let Self { cpu, cores, rustc, commit, profile, load } = self;
        vec![
            format!("machine  {cpu}, {cores} cores, load {load}"),
            format!("code     {commit}, {rustc}, {profile}"),
        ]
    }
}

fn unknown() -> String {
    "unknown".to_owned()
}

fn cpu() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn load() -> Option<String> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    Some(text.split_whitespace().take(3).collect::<Vec<_>>().join(" "))
}

fn commit() -> Option<String> {
    let commit = output("git", &["rev-parse", "--short", "HEAD"])?;
    let changed = !output("git", &["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    Some(if changed { commit + "+" } else { commit })
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
