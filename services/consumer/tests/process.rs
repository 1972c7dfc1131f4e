//! The binary itself: what it says and how it ends when it cannot start.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::process::{Command, Output};

const KEY: &str = "0x95a254501b7733239ed3cec4d56737977bd09ede881d8a234560e83e5525017add3b1dcc3eabfb85e12a4131b19c253b";

fn run(flags: &[&str]) -> Output {
    let required = [
        "--flashblocks-url=ws://127.0.0.1:1",
        "--execution-url=http://127.0.0.1:1",
        "--genesis=/nonexistent/genesis.json",
    ];
    let mut command = Command::new(env!("CARGO_BIN_EXE_preconf-consumer"));
    command.env_clear().args(required).args(flags).output().unwrap()
}

#[test]
fn a_genesis_that_is_not_there_is_named_in_one_line_and_exits_2() {
    let output = run(&["--sequencer-pubkey", KEY]);

    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8(output.stderr).unwrap();
    let line = "preconf-consumer: error: /nonexistent/genesis.json: cannot be read";
    assert!(stderr.starts_with(line), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

#[test]
fn a_consumer_without_a_key_does_not_start() {
    let output = run(&[]);

    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("--sequencer-pubkey"), "{stderr}");
}
