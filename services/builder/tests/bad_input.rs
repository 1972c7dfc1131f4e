//! What is wrong with flags and files is said in one line, with exit code 2, before any socket opens.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::{
    fs::{self, Permissions},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tempfile::TempDir;

const GENESIS: &str = r#"{"config":{"chainId":1337,"homesteadBlock":0,"eip150Block":0,
    "eip155Block":0,"eip158Block":0,"byzantiumBlock":0,"constantinopleBlock":0,"petersburgBlock":0,
    "istanbulBlock":0,"berlinBlock":0,"londonBlock":0,"terminalTotalDifficulty":0,
    "terminalTotalDifficultyPassed":true,"shanghaiTime":0},"nonce":"0x0","timestamp":"0x0",
    "extraData":"0x","gasLimit":"0x1c9c380","difficulty":"0x0",
    "mixHash":"0x0000000000000000000000000000000000000000000000000000000000000000",
    "coinbase":"0x0000000000000000000000000000000000000000","alloc":{}}"#;

/// Files that are right, and a taken port: whoever opens a socket first fails with exit code 1.
struct Setting {
    directory: TempDir,
    taken: TcpListener,
}

impl Setting {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let setting = Self { directory, taken: TcpListener::bind("127.0.0.1:0").unwrap() };
        setting.write("genesis.json", GENESIS, 0o644);
        setting.write("jwt.hex", &"ab".repeat(32), 0o600);
        setting
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    }

    fn run(&self, more: &[&str]) -> Output {
        let taken = self.taken.local_addr().unwrap().to_string();
        let socket = |name: &str| format!("unix:{}", self.path(name).display());
        let mut command = Command::new(env!("CARGO_BIN_EXE_preconf-builder"));
        command.env_clear();
        command.args(["--engine-addr", &taken, "--health-addr", &taken]);
        command.arg("--engine-jwt-secret").arg(self.path("jwt.hex"));
        command.arg("--genesis").arg(self.path("genesis.json"));
        command.args(["--execution-engine-url", "http://127.0.0.1:1"]);
        command.args(["--execution-url", "http://127.0.0.1:1"]);
        command.args(["--signer", &socket("signer.sock")]);
        if !more.contains(&"--feed-listen") {
            command.args(["--feed-listen", &socket("feed.sock")]);
        }
        command.args(["--ingress-listen", &socket("ingress.sock")]);
        command.args(more).output().unwrap()
    }

    fn refused(&self, more: &[&str]) -> String {
        let output = self.run(more);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(!self.path("feed.sock").exists());
        String::from_utf8(output.stderr).unwrap()
    }
}

fn names(stderr: &str, path: &Path) {
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains(&path.display().to_string()), "{stderr}");
}

#[test]
fn with_good_files_the_taken_port_is_what_fails() {
    let output = Setting::new().run(&[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

#[test]
fn an_unknown_flag_is_refused() {
    assert!(Setting::new().refused(&["--no-such-flag"]).contains("--no-such-flag"));
}

#[test]
fn a_flag_that_there_is_not_is_named_in_one_line() {
    let stderr = Setting::new().refused(&["--flashblok-interval-ms", "200"]);
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.starts_with("preconf-builder: error: "), "{stderr}");
    assert!(stderr.contains("'--flashblok-interval-ms'"), "{stderr}");
}

#[test]
fn an_interval_of_zero_is_refused() {
    Setting::new().refused(&["--flashblock-interval-ms", "0"]);
}

#[test]
fn more_flashblocks_than_a_session_can_have_are_refused() {
    let setting = Setting::new();
    let stderr =
        setting.refused(&["--flashblock-interval-ms", "10", "--builder.deadline", "99.99"]);
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains("--builder.deadline") && stderr.contains("10000"), "{stderr}");
    let most = ["--flashblock-interval-ms", "10", "--builder.deadline", "99.98s"];
    assert_eq!(setting.run(&most).status.code(), Some(1));
}

#[test]
fn a_genesis_that_is_missing_or_malformed_is_named() {
    let setting = Setting::new();
    for text in ["", "{", "{}", "[]", "null", "\u{feff}"] {
        setting.write("genesis.json", text, 0o644);
        names(&setting.refused(&[]), &setting.path("genesis.json"));
    }
    fs::remove_file(setting.path("genesis.json")).unwrap();
    names(&setting.refused(&[]), &setting.path("genesis.json"));
}

#[test]
fn a_jwt_secret_that_is_malformed_or_readable_by_others_is_named() {
    let setting = Setting::new();
    for text in ["", "0x", "ab", &"zz".repeat(32), &"ab".repeat(33)] {
        setting.write("jwt.hex", text, 0o600);
        names(&setting.refused(&[]), &setting.path("jwt.hex"));
    }
    setting.write("jwt.hex", &"ab".repeat(32), 0o644);
    names(&setting.refused(&[]), &setting.path("jwt.hex"));
    fs::remove_file(setting.path("jwt.hex")).unwrap();
    names(&setting.refused(&[]), &setting.path("jwt.hex"));
}

#[test]
fn plaintext_to_another_machine_is_refused() {
    for flag in ["--feed-listen", "--admin-listen", "--payloads-listen"] {
        let stderr = Setting::new().refused(&[flag, "http://0.0.0.0:0"]);
        assert!(stderr.contains("0.0.0.0"), "{flag}: {stderr}");
    }
}

#[test]
fn blocks_for_validators_need_a_way_to_count_slots() {
    let setting = Setting::new();
    let socket = format!("unix:{}", setting.path("payloads.sock").display());
    let stderr = setting.refused(&["--payloads-listen", &socket]);
    assert!(stderr.contains("--payloads-listen: needs --slot-rule on this chain"), "{stderr}");
    let stderr = setting.refused(&["--payloads-listen", &socket, "--slot-rule", "time:0"]);
    assert!(stderr.contains("--slot-rule"), "{stderr}");
    let counted = ["--payloads-listen", &socket, "--slot-rule", "time:0:12"];
    assert_eq!(setting.run(&counted).status.code(), Some(1));
}
