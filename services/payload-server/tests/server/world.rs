//! A payload server between a scripted builder and validators that speak raw HTTP.

use std::{
    fs::{self, Permissions},
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::Command,
    sync::Arc,
    time::Duration,
};

use clap::Parser;
use preconf_chassis::{ConfigError, Context, Security, channel};
use preconf_payload_api::{ValidatorPubkey, ValidatorSecret};
use preconf_payload_server::{Addresses, Config, Prepared};
use preconf_wire::payload::{Proposer, ProposersClient};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{interval, timeout},
};

use crate::builder::Builder;

/// Longer than anything takes, even on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// The time of the server's clock.
pub(crate) const NOW: u64 = 1_760_000_000;
pub(crate) const SLOT: u64 = 100;
/// A request for that slot.
pub(crate) const REQUEST: &str = concat!(
    r#"{"slot":"0x64","parent_block_root":""#,
    r#"0x0f5c0f5c0f5c0f5c0f5c0f5c0f5c0f5c0f5c0f5c0f5c0f5c0f5c0f5c0f5c0f5c"}"#
);

/// Two validators of beacon-kit's devnet: on the whitelist, with the secrets below.
pub(crate) const KEYS: [&str; 2] = [
    "0x93247f2209abcacf57b75a51dafae777f9dd38bc7053d1af526f220a7489a6d3a2753e5f3e8b1cfe39b56f43611df74a",
    "0xa572cbea904d67468808c8eb50a9450c9721db309128012543902d0ac358a62ae28f75bb8f1c7c42c39a8c5529bf0f4e",
];
pub(crate) const SECRETS: [&str; 2] = [
    "0x1234567890abcdef1234567890abcdef1234567890abcdef1234567890abcdef",
    "0x00000000000000000000000000000000000000000000000000000000000000aa",
];

pub(crate) struct World {
    pub(crate) directory: TempDir,
    pub(crate) builder: Arc<Builder>,
    pub(crate) context: Context,
    pub(crate) addresses: Addresses,
}

/// An answer, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(&[]).await
    }

    /// A server with more flags.
    pub(crate) async fn with(flags: &[&str]) -> Self {
        let directory = directory();
        let prepared = prepare(&directory, flags).unwrap().with_clock(|| NOW);
        Self::start(directory, prepared).await
    }

    /// A server; it expects the first validator to propose [`SLOT`].
    pub(crate) async fn start(directory: TempDir, prepared: Prepared) -> Self {
        let builder = Builder::start(&directory.path().join("builder.sock")).await;
        let context = Context::for_test();
        let addresses = start(prepared, &context).await;
        let world = Self { directory, builder, context, addresses };
        world.propose(SLOT, 0, 0).await;
        world
    }

    /// Says that a validator proposes.
    pub(crate) async fn propose(&self, slot: u64, round: u32, validator: usize) {
        let endpoint = self.addresses.proposers.clone().unwrap();
        let channel = channel(&endpoint, &Security::default()).unwrap();
        let pubkey: ValidatorPubkey = KEYS[validator].parse().unwrap();
        let client = ProposersClient::new(channel, SOON);
        client.set_proposer(Proposer { slot, round, pubkey }).await.unwrap();
    }

    /// Asks as a validator.
    pub(crate) async fn ask(&self, validator: usize, body: &str) -> Answer {
        let token = format!("Authorization: Bearer {}\r\n", token(validator));
        self.post(&token, body).await
    }

    pub(crate) async fn post(&self, headers: &str, body: &str) -> Answer {
        self.send("POST", "/eth/v1/preconf/payload", headers, body).await
    }

    pub(crate) async fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: sequencer\r\nConnection: close\r\n{headers}\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        exchange(self.addresses.payloads, request.as_bytes()).await
    }

    /// How often something was counted.
    pub(crate) fn count(&self, metric: &str) -> u64 {
        let text = self.context.registry.encode();
        let name = format!("preconf_test_{metric} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&name));
        line.map_or(0, |number| number.parse().unwrap())
    }

    pub(crate) fn results(&self, result: &str) -> u64 {
        self.count(&format!("payload_requests_total{{result=\"{result}\"}}"))
    }

    pub(crate) async fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        until(what, is_so).await;
    }

    /// Replaces a file, and waits until the server has read it.
    pub(crate) async fn reload(&self, file: &str, text: &str, mode: u32, outcome: &str) {
        write(&self.directory, file, text, mode);
        let label = if file == "whitelist.json" { "whitelist" } else { "validator_jwts" };
        self.reread(label, outcome).await;
    }

    /// Has the server read its files anew, with this outcome. Every server of this process hears the
    /// signal, so a reading may be under way already: the one after it counts.
    pub(crate) async fn reread(&self, file: &str, outcome: &str) {
        let count = |outcome| {
            let labels = format!("{{file=\"{file}\",outcome=\"{outcome}\"}}");
            self.count(&format!("files_reloaded_total{labels}"))
        };
        let all = || count("ok") + count("failed");
        let mut before = 0;
        for _ in 0..2 {
            before = count(outcome);
            let so_far = all();
            hangup();
            self.until("the files are read", || all() > so_far).await;
        }
        assert!(count(outcome) > before, "{file}: not {outcome}");
    }

    /// Ends as a process does: whatever failed in a task fails the test.
    pub(crate) async fn end(self) {
        self.context.finish(SOON).await.map_err(|exit| exit.to_string()).unwrap();
        self.builder.context.finish(SOON).await.map_err(|exit| exit.to_string()).unwrap();
    }
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub(crate) fn message(&self) -> String {
        self.json()["message"].as_str().unwrap().to_owned()
    }
}

/// A directory with good files.
pub(crate) fn directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    write(&directory, "whitelist.json", &whitelist(&KEYS), 0o644);
    write(&directory, "jwts.json", &secrets(&[0, 1]), 0o600);
    directory
}

pub(crate) fn whitelist(keys: &[&str]) -> String {
    serde_json::to_string(keys).unwrap()
}

pub(crate) fn secrets(validators: &[usize]) -> String {
    let entry = |&at: &usize| format!("{:?}:{:?}", KEYS[at], SECRETS[at]);
    format!("{{{}}}", validators.iter().map(entry).collect::<Vec<_>>().join(","))
}

pub(crate) fn write(directory: &TempDir, name: &str, text: &str, mode: u32) {
    let path = directory.path().join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
}

pub(crate) fn prepare(directory: &TempDir, flags: &[&str]) -> Result<Prepared, ConfigError> {
    let proposers = format!("unix:{}", directory.path().join("proposers.sock").display());
    let flags: Vec<_> = ["--proposers-listen", &proposers].iter().chain(flags).copied().collect();
    prepare_with(directory, &flags)
}

/// The same without a listener for proposers, unless `flags` say where.
pub(crate) fn prepare_with(directory: &TempDir, flags: &[&str]) -> Result<Prepared, ConfigError> {
    let path = |name: &str| directory.path().join(name);
    let socket = |name: &str| format!("unix:{}", path(name).display());
    let files: [PathBuf; 2] = [path("whitelist.json"), path("jwts.json")];
    let mut all = vec!["payload-server".to_owned(), "--payload-addr".into(), "127.0.0.1:0".into()];
    all.extend(["--builder-payloads".to_owned(), socket("builder.sock")]);
    all.extend(["--whitelist".to_owned(), files[0].display().to_string()]);
    all.extend(["--validator-jwts".to_owned(), files[1].display().to_string()]);
    all.extend(flags.iter().map(ToString::to_string));
    Config::try_parse_from(all).unwrap().prepare()
}

pub(crate) async fn start(prepared: Prepared, context: &Context) -> Addresses {
    let started = preconf_payload_server::start(prepared, context.clone()).await;
    started.map_err(|exit| exit.to_string()).unwrap()
}

/// A token of a validator, made now.
pub(crate) fn token(validator: usize) -> String {
    ValidatorSecret::parse(SECRETS[validator]).unwrap().sign(NOW)
}

pub(crate) async fn exchange(address: SocketAddr, request: &[u8]) -> Answer {
    let asking = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()
    };
    let text = timeout(SOON, asking).await.expect("it is answered in time");
    let (head, body) = text.split_once("\r\n\r\n").expect("an answer has a head");
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

pub(crate) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let waiting = async {
        let mut looks = interval(Duration::from_millis(2));
        while !is_so() {
            looks.tick().await;
        }
    };
    assert!(timeout(SOON, waiting).await.is_ok(), "{what} did not happen");
}

/// The signal that has files read anew.
pub(crate) fn hangup() {
    let process = std::process::id().to_string();
    assert!(Command::new("kill").args(["-HUP", &process]).status().unwrap().success());
}
