//! The sidecar's process: it is switched by signals, forwards soon after it was killed, and does with
//! little memory whatever a sequencer sends.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use preconf_payload_api::{MAX_RESPONSE_BYTES, ValidatorSecret};
use serde_json::{Value, json};

use crate::{
    sequencer::{Answer, Sequencer},
    world::{CHAIN_ID, SECRET, SOON, World, door},
};

/// A process, which is killed with its owner.
struct Process {
    child: Child,
    health: SocketAddr,
    engine: SocketAddr,
}

impl Process {
    /// Starts it and waits until it says that the consensus client may come.
    fn start(flags: &[String]) -> Self {
        Self::start_heard(flags, Stdio::null())
    }

    /// As [`start`](Self::start), and what it logs goes there.
    fn start_heard(flags: &[String], log: Stdio) -> Self {
        // Who asks for more addresses than this gets none, and is aborted.
        let limited = "ulimit -v 4194304 && exec \"$0\" \"$@\"";
        let mut command = Command::new("/bin/sh");
        command.args(["-c", limited, env!("CARGO_BIN_EXE_preconf-validator-sidecar")]);
        command.env_clear().args(flags).args(["--fetch-budget-ms", "10000"]);
        // Nothing goes through a proxy, whatever the environment says.
        for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env(name, "http://127.0.0.1:1");
        }
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut listening = |name: &str| loop {
            let line = lines.next().expect("it says where it listens").unwrap();
            if let Some(address) = line.strip_prefix(&format!("listening {name} http://")) {
                return address.parse().unwrap();
            }
        };
        let (health, engine) = (listening("health"), listening("engine"));
        Self { child, health, engine }
    }

    fn signal(&self, name: &str) {
        let script = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("/bin/sh").args(["-c", &script]).status().unwrap().success());
    }

    fn until_passthrough_is(&self, value: &str) {
        let (began, wanted) =
            (Instant::now(), format!("preconf_validator_sidecar_passthrough {value}"));
        while !self.metrics().lines().any(|line| line == wanted) {
            assert!(began.elapsed() < SOON, "{wanted}");
        }
    }

    /// The most memory that it had so far.
    fn most_memory(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
    }

    /// What was counted, as it is written.
    fn metric(&self, name: &str) -> Option<String> {
        let metrics = self.metrics();
        metrics.lines().find_map(|line| line.strip_prefix(name)).map(ToOwned::to_owned)
    }

    fn metrics(&self) -> String {
        let mut socket = TcpStream::connect(self.health).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        socket.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_switch_passthrough() {
    let world = World::start().await;
    let good = world.built(&world.attributes).await.to_json();
    let sequencer = Sequencer::start(Answer::ok(good)).await;
    let flags = world.flags(&[sequencer.url()]);
    let process = Process::start(&flags);
    assert!(world.propose_by(&door(process.engine)).await);
    process.signal("USR1");
    process.until_passthrough_is("1");
    assert!(!world.propose_by(&door(process.engine)).await);
    process.signal("USR2");
    process.until_passthrough_is("0");
    assert!(world.propose_by(&door(process.engine)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_forwards_again_within_a_second() {
    let world = World::start().await;
    let sequencer = Sequencer::start(Answer::Silence).await;
    let flags = world.flags(&[sequencer.url()]);
    let mut best = Duration::MAX;
    // The best of a few: the machine may be busy.
    for _ in 0..5 {
        drop(Process::start(&flags));
        let began = Instant::now();
        let process = Process::start(&flags);
        let id: Value = door(process.engine).request("eth_chainId", &(), SOON).await.unwrap();
        best = best.min(began.elapsed());
        assert_eq!(id, json!(format!("{CHAIN_ID:#x}")));
        if best < Duration::from_secs(1) {
            return;
        }
    }
    panic!("the best took {best:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_signal_the_secret_is_read_anew_and_one_that_is_none_changes_nothing() {
    let world = World::start().await;
    let good = world.built(&world.attributes).await.to_json();
    let sequencer = Sequencer::start(Answer::ok(good)).await;
    let process = Process::start(&world.flags(&[sequencer.url()]));
    let (old, new) = (SECRET.to_owned(), format!("0x{}", "cd".repeat(32)));
    for (text, outcome, used) in
        [(&old, "ok", &old), (&new, "ok", &new), (&old[..9].to_owned(), "failed", &new)]
    {
        let name = format!("file=\"sequencer_jwt_secret\",outcome=\"{outcome}\"");
        let name = format!("preconf_validator_sidecar_files_reloaded_total{{{name}}} ");
        let before = process.metric(&name);
        world.write("sequencer.hex", text);
        process.signal("HUP");
        let began = Instant::now();
        while process.metric(&name) == before {
            assert!(began.elapsed() < SOON, "{text}");
        }
        assert!(world.propose_by(&door(process.engine)).await, "{text}");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let (asked, secret) = (sequencer.last(), ValidatorSecret::parse(used).unwrap());
        let (_, token) = asked.split_once("Bearer ").unwrap();
        assert_eq!(secret.verify(token.lines().next().unwrap(), now), Ok(()), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_stopped_as_soon_as_it_listens_does_not_finish_getting_ready_for_blobs() {
    let world = World::start().await;
    let sequencer = Sequencer::start(Answer::Silence).await;
    let mut flags = world.flags(&[sequencer.url()]);
    // Reading the points that proofs are checked with takes longer.
    flags.extend(["--drain-timeout-ms", "200"].map(String::from));
    let mut process = Process::start_heard(&flags, Stdio::piped());
    process.signal("TERM");
    let mut log = String::new();
    process.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(process.child.wait().unwrap().success(), "{log}");
    assert!(log.contains("draining") && !log.contains("drain deadline"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_makes_it_need_more_memory_than_its_container_has() {
    const CONTAINER: usize = 512 << 20;
    let world = World::start().await;
    let good: Value =
        serde_json::from_slice(&world.built(&world.attributes).await.to_json()).unwrap();
    let sequencer = Sequencer::start(Answer::Silence).await;
    let process = Process::start(&world.flags(&[sequencer.url()]));
    let door = door(process.engine);
    // As much as fits into an answer, of what is smallest where it is sent and largest where it is
    // read.
    let point = format!("0x{}", "c0".repeat(48));
    let points = vec![point; 81_810];
    let blobs = json!({ "commitments": points, "proofs": points, "blobs": vec![""; 81_810] });
    let floods = [
        ("/blobs_bundle", blobs),
        ("/execution_requests", json!(vec![""; 5_500_000])),
        ("/execution_payload/transactions", json!(vec!["0x00"; 2_300_000])),
        ("/execution_payload/extraData", json!("x".repeat(16_000_000))),
    ];
    for (name, flood) in floods {
        let mut answer = good.clone();
        *answer.pointer_mut(name).unwrap() = flood;
        let body = answer.to_string();
        assert!(body.len() <= MAX_RESPONSE_BYTES, "{name}");
        let before = sequencer.asked();
        sequencer.will(Answer::ok(body));
        assert!(!world.propose_by(&door).await, "{name}");
        assert!(sequencer.asked() > before, "{name}");
        let most = process.most_memory();
        assert!(most < CONTAINER / 2, "{name}: {most}");
    }
    sequencer.will(Answer::ok(good.to_string()));
    assert!(world.propose_by(&door).await, "it still serves");
}
