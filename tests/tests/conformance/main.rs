//! Public test suites and random blocks. Samples are run always; the whole suites when
//! `PRECONF_CONFORMANCE` names the directory that they are in.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod blocktests;
mod random;
mod replay;
mod rpc;

use std::{
    env,
    path::{Path, PathBuf},
};

use preconf_tests::conformance::Output;

/// A file or directory of this package's test data.
fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)
}

/// A part of the whole suites, if there are any.
fn whole_suite(name: &str) -> Option<PathBuf> {
    env::var_os("PRECONF_CONFORMANCE").map(|directory| Path::new(&directory).join(name))
}

/// The lines that were written.
fn lines(output: Output) -> Vec<String> {
    match output {
        Output::Kept(lines) => lines,
        Output::Terminal { .. } => Vec::new(),
    }
}
