//! The real binary: how it refuses to start, and how it starts and ends.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use alloy_primitives::B256;
use preconf_chassis::{Endpoint, Security, channel};
use preconf_primitives::{Digest, Epoch, PayloadId, Position};
use preconf_signing::{
    OpenSession, OpenedSession, SignFlashblock, SignerRefusal, SignerRefusalReason as Reason,
    v2::ContentHashes,
};
use preconf_wire::signer::{SignerClient, SignerError};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

const DEADLINE: Duration = Duration::from_secs(20);
const LEASE: Duration = Duration::from_secs(60);
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
    let (child, client) = place.start(&mut place.command(&[])).await;
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

#[tokio::test]
async fn a_signer_that_was_killed_goes_on_with_the_open_session() {
    let place = Place::with_key(KEY, 0o600);
    let (mut killed, client) = place.start(&mut place.recorded()).await;
    let epoch = client.acquire_lease("builder-0", LEASE).await.unwrap().epoch;
    let seq = open(&client, epoch, 100).await.unwrap().seq;
    let first = flashblock(epoch, Position::new(seq, 0), Digest::ZERO);
    let first_signed = client.sign(&first).await.unwrap();
    let second = flashblock(epoch, Position::new(seq, 1), first_signed.digest);
    let second_signed = client.sign(&second).await.unwrap();
    let head = client.head().await.unwrap();
    killed.kill().await.unwrap();

    let (mut child, client) = place.start(&mut place.recorded()).await;
    assert_eq!(client.head().await.unwrap(), head);
    assert_eq!(client.sign(&second).await.unwrap(), second_signed, "the identical signature");
    let other = SignFlashblock { published_at_ms: 1, ..second };
    let refused = refusal(client.sign(&other).await);
    assert_eq!(
        (refused.reason, refused.evidence),
        (Reason::Equivocation, Some(Box::new(second_signed)))
    );
    assert_eq!(client.evidence(first.position).await.unwrap(), Some(first_signed));
    let held = refusal(client.acquire_lease("builder-1", LEASE).await);
    assert_eq!(held.reason, Reason::LeaseHeld);

    let third = flashblock(epoch, Position::new(seq, 2), second_signed.digest);
    let third_signed = client.sign(&third).await.unwrap();
    assert_eq!(client.head().await.unwrap().digest, third_signed.digest);
    let next = open(&client, epoch, 101).await.unwrap();
    assert!(next.seq > seq);
    assert_eq!(next.parent_digest, third_signed.digest);

    client.release_lease(epoch).await.unwrap();
    child.kill().await.unwrap();
    let (_child, client) = place.start(&mut place.recorded()).await;
    assert_eq!(refusal(client.renew_lease(epoch).await).reason, Reason::LeaseLost);
    let lease = client.acquire_lease("builder-1", LEASE).await.unwrap();
    assert!(lease.epoch > epoch);
    assert_eq!(lease.last_digest, third_signed.digest);
}

#[tokio::test]
async fn two_signers_do_not_share_a_record() {
    let place = Place::with_key(KEY, 0o600);
    let (_child, client) = place.start(&mut place.recorded()).await;
    let other = Place::with_key(KEY, 0o600);
    let record = format!("--record={}", place.record().display());

    let output = other.run(&[&record]).await;

    other.assert_refused(&output, &place.record(), "cannot be used: another signer has it");
    client.acquire_lease("builder-0", LEASE).await.unwrap();
}

#[tokio::test]
async fn the_record_of_another_key_is_refused() {
    let place = Place::with_key(KEY, 0o600);
    let (mut child, _) = place.start(&mut place.recorded()).await;
    child.kill().await.unwrap();
    let other = Place::with_key(format!("{:064x}", 1), 0o600);
    let record = format!("--record={}", place.record().display());

    let output = other.run(&[&record]).await;

    let reason = format!("is the record of the key {PUBLIC_KEY}, and the signer has 0x97f1d3");
    other.assert_refused(&output, &place.record(), &reason);
}

#[tokio::test]
async fn a_signer_whose_disk_is_full_ends_without_a_signature_and_loses_nothing() {
    let place = Place::with_key(KEY, 0o600);
    let mut limited = Command::new("sh");
    limited.env_clear().kill_on_drop(true).env("PATH", "/usr/bin:/bin");
    // A signal would end it, too, but with less to say.
    limited.args(["-c", "trap '' XFSZ; ulimit -f 16; exec \"$0\" \"$@\""]);
    limited.arg(env!("CARGO_BIN_EXE_preconf-signer")).args(place.recorded().as_std().get_args());
    let (child, client) = place.start(&mut limited).await;
    let epoch = client.acquire_lease("builder-0", LEASE).await.unwrap().epoch;
    let seq = open(&client, epoch, 100).await.unwrap().seq;
    let (mut position, mut digest) = (Position::new(seq, 0), Digest::ZERO);
    let error = loop {
        match client.sign(&flashblock(epoch, position, digest)).await {
            Ok(signed) => digest = signed.digest,
            Err(error) => break error,
        }
        position.index += 1;
        assert!(position.index < 1_000, "the disk is never full");
    };
    assert!(matches!(error, SignerError::Unavailable(_)), "{error:?}");
    let output = timeout(DEADLINE, child.wait_with_output()).await.unwrap().unwrap();
    let log = text(&output);
    assert_eq!(output.status.code(), Some(1), "{log}");
    let path = place.record().display().to_string();
    let reason = format!("error: task record failed: writing to {path}: File too large");
    assert!(log.contains(&reason), "{log}");

    let (_child, client) = place.start(&mut place.recorded()).await;
    let head = client.head().await.unwrap();
    let last = Position::new(seq, position.index - 1);
    assert_eq!((head.position, head.digest), (Some(last), digest), "all that was signed");
    client.sign(&flashblock(epoch, position, digest)).await.unwrap();
}

async fn open(
    client: &SignerClient,
    epoch: Epoch,
    block_number: u64,
) -> Result<OpenedSession, SignerError> {
    let payload_id = PayloadId::from(block_number.to_be_bytes());
    let parent_hash = B256::repeat_byte(1);
    client.open_session(OpenSession { epoch, block_number, parent_hash, payload_id }).await
}

fn flashblock(epoch: Epoch, position: Position, parent_digest: Digest) -> SignFlashblock {
    let hash = B256::repeat_byte(position.index as u8);
    let hashes =
        ContentHashes { base: hash, transactions: hash, withdrawals: hash, traceparent: hash };
    SignFlashblock { epoch, position, hashes, published_at_ms: 0, is_last: false, parent_digest }
}

fn refusal<T>(answer: Result<T, SignerError>) -> SignerRefusal {
    match answer {
        Err(SignerError::Refused(refusal)) => refusal,
        Err(error) => panic!("not a refusal: {error:?}"),
        Ok(_) => panic!("not refused"),
    }
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

    fn record(&self) -> PathBuf {
        self.directory.path().join("record")
    }

    /// A signer that has a record.
    fn recorded(&self) -> Command {
        self.command(&[&format!("--record={}", self.record().display())])
    }

    /// Starts a process and waits until it listens.
    async fn start(&self, command: &mut Command) -> (Child, SignerClient) {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = timeout(DEADLINE, stdout.next_line()).await.unwrap().unwrap();
        assert_eq!(line, Some(format!("listening signer unix:{}", self.socket().display())));
        let endpoint = Endpoint::Unix(self.socket());
        let client = SignerClient::new(channel(&endpoint, &Security::default()).unwrap(), DEADLINE);
        (child, client)
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
