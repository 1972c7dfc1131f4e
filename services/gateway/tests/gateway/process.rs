//! The gateway's process.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

const KEY: &str = "0x95a254501b7733239ed3cec4d56737977bd09ede881d8a234560e83e5525017add3b1dcc3eabfb85e12a4131b19c253b";

#[test]
fn it_takes_as_many_open_files_as_it_may_have() {
    let limited = "ulimit -Sn 64 && exec \"$0\" \"$@\"";
    let mut command = Command::new("/bin/sh");
    command.args(["-c", limited, env!("CARGO_BIN_EXE_preconf-gateway"), "--chain-id", "1"]);
    command.args(["--flashblock-ws-addr", "127.0.0.1:0", "--upstream", "unix:/nonexistent"]);
    command.args(["--sequencer-pubkey", KEY]).env_clear();
    let mut process = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    assert!(lines.next().expect("it starts").unwrap().starts_with("listening websocket"));
    let limits = fs::read_to_string(format!("/proc/{}/limits", process.id())).unwrap();
    process.kill().unwrap();
    process.wait().unwrap();

    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let [soft, hard] = std::array::from_fn(|at| files.split_whitespace().nth(at).unwrap());
    assert_eq!(soft, hard);
    assert_ne!(soft, "64", "the machine allows more");
}
