//! The sidecar's process: it is switched by signals, and forwards soon after it was killed.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    sequencer::{Answer, Sequencer},
    world::{SOON, World, door},
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
        let mut command = Command::new(env!("CARGO_BIN_EXE_preconf-validator-sidecar"));
        command.env_clear().args(flags).args(["--fetch-budget-ms", "10000"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
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
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_switch_passthrough_and_a_killed_process_is_soon_back() {
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

    drop(process);
    let began = Instant::now();
    let process = Process::start(&flags);
    assert!(world.propose_by(&door(process.engine)).await);
    assert!(began.elapsed() < Duration::from_secs(10));
}
