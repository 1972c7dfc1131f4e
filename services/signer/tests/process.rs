//! The real binary: how it refuses to start, and how it starts and ends.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use preconf_chassis::{Endpoint, Security, channel};
use preconf_wire::signer::SignerClient;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    time::timeout,
};

const DEADLINE: Duration = Duration::from_secs(20);
const KEY: &str = "144b27828e305a2d67fc7f4eea6de706b405cdd1ab8ad2daec046ccdeeec8b79";
const PUBLIC_KEY: &str = "0x95a254501b7733239ed3cec4d56737977bd09ede881d8a234560e83e5525017a\
                          dd3b1dcc3eabfb85e12a4131b19c253b";
const ORDER: &str = "73eda753299d7d483339d80809a1d80553bda402fffe5bfeffffffff00000001";

#[tokio::test]
async fn a_malformed_key_file_is_refused_before_a_socket_is_open() {
    let not_hex = "is not a signing key: expected 64 hex digits";
    let no_scalar = "is not a signing key: the number is zero or not below the order";
    let zero = "0".repeat(64);
    let twice = format!("{KEY}\n{KEY}");
    let short = &KEY[2..];
    let long = format!("{KEY}00");
    let huge = "0".repeat(70_000);
    let cases: [(&[u8], &str); 10] = [
        (b"", not_hex),
        (b"0x", not_hex),
        (b"not hex at all", not_hex),
        (short.as_bytes(), not_hex),
        (long.as_bytes(), not_hex),
        (twice.as_bytes(), not_hex),
        (&[0xff, 0xfe, 0x00], "is not UTF-8 text"),
        (huge.as_bytes(), "is larger than 65536 bytes"),
        (zero.as_bytes(), no_scalar),
        (ORDER.as_bytes(), no_scalar),
    ];
    for (content, reason) in cases {
        let place = Place::with_key(content, 0o600);
        let output = place.run(&[]).await;
        place.assert_refused(&output, &place.key(), reason);
    }
}

#[tokio::test]
async fn a_key_that_others_can_read_is_refused_without_being_shown() {
    for mode in [0o644, 0o604, 0o666] {
        let place = Place::with_key(KEY, mode);
        let output = place.run(&[]).await;
        place.assert_refused(&output, &place.key(), "is accessible to other users");
        assert!(!text(&output).contains(KEY));
    }
}

#[tokio::test]
async fn a_key_file_that_is_not_there_is_named() {
    let place = Place::with_key(KEY, 0o600);
    fs::remove_file(place.key()).unwrap();
    let output = place.run(&[]).await;
    place.assert_refused(&output, &place.key(), "cannot be read: ");
}

#[tokio::test]
async fn flags_that_do_not_fit_are_refused() {
    let place = Place::with_key(KEY, 0o600);
    for flags in [
        &["--no-such-flag"][..],
        &["--lease-min-ms=0"],
        &["--lease-min-ms=2000", "--lease-max-ms=1000"],
        &["--tls-cert=/nowhere"],
        &["surplus"],
    ] {
        let output = place.run(flags).await;
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {}", text(&output));
        assert!(!place.socket().exists(), "{flags:?}");
    }
}

#[tokio::test]
async fn the_key_and_the_chain_have_to_be_named() {
    let output = end(&mut signer()).await;
    let text = text(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("--flashblock-signing-key") && text.contains("--chain-id"), "{text}");
}

#[tokio::test]
async fn an_endpoint_that_is_not_allowed_is_refused() {
    let place = Place::with_key(KEY, 0o600);
    for (listen, reason) in [
        ("http://0.0.0.0:0", "is plaintext beyond loopback"),
        ("http://127.0.0.1:0", "is plaintext: the signer listens on unix:/path"),
        ("https://localhost:0", "needs --tls-cert, --tls-key and --tls-ca"),
    ] {
        let mut command = signer();
        command.env("PRECONF_LISTEN", listen).env("PRECONF_CHAIN_ID", "1");
        command.env("PRECONF_FLASHBLOCK_SIGNING_KEY", place.key());
        let output = end(&mut command).await;
        assert!(text(&output).contains(&format!("error: {listen}: {reason}")), "{output:?}");
        assert_eq!(output.status.code(), Some(2));
    }
}

#[tokio::test]
async fn a_signer_serves_until_it_is_told_to_stop_and_leaves_nothing_behind() {
    let place = Place::with_key(format!("0x{KEY}\n"), 0o600);
    let mut command = place.command(&[]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = timeout(DEADLINE, stdout.next_line()).await.unwrap().unwrap();
    assert_eq!(line, Some(format!("listening signer unix:{}", place.socket().display())));

    let endpoint = Endpoint::Unix(place.socket());
    let client = SignerClient::new(channel(&endpoint, &Security::default()).unwrap(), DEADLINE);
    let head = client.head().await.unwrap();
    assert_eq!(head.public_key.to_string(), PUBLIC_KEY);
    let year_2020_ms = 1_577_836_800_000;
    assert!(head.last_seq.get() > year_2020_ms, "numbers go on from the clock");
    assert_eq!(fs::metadata(place.socket()).unwrap().permissions().mode() & 0o777, 0o600);

    let tell = format!("kill -TERM {}", child.id().unwrap());
    assert!(end(Command::new("sh").args(["-c", &tell])).await.status.success());
    let output = timeout(DEADLINE, child.wait_with_output()).await.unwrap().unwrap();
    let log = text(&output);
    assert_eq!(output.status.code(), Some(0), "{log}");
    assert!(!place.socket().exists(), "the socket is removed");
    assert!(log.contains("state is held in memory only"), "{log}");
    assert!(!log.contains(KEY), "{log}");
}

/// A directory with a key file, where a socket may appear.
struct Place {
    directory: TempDir,
}

impl Place {
    fn with_key(content: impl AsRef<[u8]>, mode: u32) -> Self {
        let place = Self { directory: tempfile::tempdir().unwrap() };
        fs::write(place.key(), content).unwrap();
        fs::set_permissions(place.key(), fs::Permissions::from_mode(mode)).unwrap();
        place
    }

    fn key(&self) -> PathBuf {
        self.directory.path().join("signing-key.hex")
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("signer.sock")
    }

    fn command(&self, flags: &[&str]) -> Command {
        let mut command = signer();
        command.arg("--chain-id=80094");
        command.arg(format!("--listen=unix:{}", self.socket().display()));
        command.arg("--flashblock-signing-key").arg(self.key());
        command.args(flags);
        command
    }

    /// Runs a process that is expected to end by itself.
    async fn run(&self, flags: &[&str]) -> Output {
        end(&mut self.command(flags)).await
    }

    /// Asserts that the process refused to start with one line about `subject`.
    fn assert_refused(&self, output: &Output, subject: &Path, reason: &str) {
        let text = text(output);
        let expected = format!("preconf-signer: error: {}: {reason}", subject.display());
        assert!(text.starts_with(&expected), "{text} does not begin with {expected}");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(!self.socket().exists(), "a socket was opened");
    }
}

/// The binary, without the environment of the test.
fn signer() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_preconf-signer"));
    command.env_clear().kill_on_drop(true);
    command
}

async fn end(command: &mut Command) -> Output {
    timeout(DEADLINE, command.output()).await.expect("the process ends by itself").unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}
