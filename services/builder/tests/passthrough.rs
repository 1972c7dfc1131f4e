//! The builder's process, alone with an execution client: it forwards without a signer and without
//! state, soon after it was killed, and while it is switched.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::{
    fs::{self, Permissions},
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Json, Router, routing::post};
use preconf_chassis::{Security, channel};
use preconf_engine::{EngineClient, JwtSecret};
use preconf_wire::admin::{AdminClient, AdminError, PassthroughCause, Status};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{sync::watch, task::JoinSet, time::timeout};

/// Longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(30);
/// The execution client's payload id.
const ID: &str = "0x0101010101010101";
const HASH: &str = "0x1111111111111111111111111111111111111111111111111111111111111111";
const GENESIS: &str = r#"{"config":{"chainId":1337,"homesteadBlock":0,"eip150Block":0,
    "eip155Block":0,"eip158Block":0,"byzantiumBlock":0,"constantinopleBlock":0,"petersburgBlock":0,
    "istanbulBlock":0,"berlinBlock":0,"londonBlock":0,"terminalTotalDifficulty":0,
    "terminalTotalDifficultyPassed":true,"shanghaiTime":0,"cancunTime":0,
    "pragueTime":0},"nonce":"0x0",
    "timestamp":"0x0","extraData":"0x","gasLimit":"0x1c9c380","difficulty":"0x0",
    "mixHash":"0x0000000000000000000000000000000000000000000000000000000000000000",
    "coinbase":"0x0000000000000000000000000000000000000000","alloc":{}}"#;

/// Files, and an execution client's Engine API. There is no signer, and nobody at its JSON-RPC.
struct Setting {
    directory: TempDir,
    execution: SocketAddr,
    engine: SocketAddr,
}

/// A builder's process, which is killed with its owner.
struct Process {
    child: Child,
    health: SocketAddr,
}

impl Setting {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let setting = Self { directory, execution: execution_client().await, engine: free };
        for (name, text, mode) in
            [("genesis.json", GENESIS, 0o644), ("jwt.hex", &*"ab".repeat(32), 0o600)]
        {
            fs::write(setting.path(name), text).unwrap();
            fs::set_permissions(setting.path(name), Permissions::from_mode(mode)).unwrap();
        }
        setting
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn socket(&self, name: &str) -> String {
        format!("unix:{}", self.path(name).display())
    }

    /// Starts the process and waits until it says that the consensus client may come.
    fn start(&self) -> Process {
        self.start_with(&[])
    }

    fn start_with(&self, flags: &[&str]) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_preconf-builder"));
        command.env_clear().stdout(Stdio::piped()).stderr(Stdio::null());
        command.args(["--engine-addr", &self.engine.to_string()]);
        command.args(["--health-addr", "127.0.0.1:0"]);
        command.arg("--engine-jwt-secret").arg(self.path("jwt.hex"));
        command.arg("--genesis").arg(self.path("genesis.json"));
        command.arg("--journal").arg(self.path("journal"));
        command.args(["--execution-engine-url", &format!("http://{}", self.execution)]);
        command.args(["--execution-url", "http://127.0.0.1:1"]);
        command.args(["--signer", &self.socket("signer.sock")]);
        command.args(["--feed-listen", &self.socket("feed.sock")]);
        command.args(["--ingress-listen", &self.socket("ingress.sock")]);
        command.args(["--admin-listen", &self.socket("admin.sock")]);
        let mut child = command.args(flags).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut listening = |name: &str| loop {
            let line = lines.next().expect("it says where it listens").unwrap();
            if let Some(address) = line.strip_prefix(&format!("listening {name} http://")) {
                return address.parse::<SocketAddr>().unwrap();
            }
        };
        let health = listening("health");
        assert_eq!(listening("engine"), self.engine);
        Process { child, health }
    }

    /// The builder, as its consensus client sees it.
    fn door(&self) -> EngineClient {
        let url = format!("http://{}", self.engine).parse().unwrap();
        EngineClient::new(&url, Arc::new(JwtSecret::from_bytes([0xab; 32]))).unwrap()
    }

    /// An operator. The listener may be a moment later than the consensus client's.
    async fn operator(&self) -> AdminClient {
        let endpoint = self.socket("admin.sock").parse().unwrap();
        let client = AdminClient::new(channel(&endpoint, &Security::default()).unwrap(), DEADLINE);
        let answers = async {
            while client.status().await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        timeout(DEADLINE, answers).await.unwrap();
        client
    }
}

impl Process {
    /// As an operator does in its container.
    fn switch(&self, to: &str) {
        let pid = self.child.id().to_string();
        let mut command = Command::new(env!("CARGO_BIN_EXE_preconf-builder"));
        let done = command.args(["passthrough", to, "--pid", &pid]).output().unwrap();
        let said = format!("process {pid} was told to switch passthrough {to}\n");
        assert_eq!(String::from_utf8(done.stdout).unwrap(), said);
        assert!(done.status.success());
    }

    /// The value of the gauge.
    fn passthrough(&self) -> String {
        let mut socket = TcpStream::connect(self.health).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        let line = answer.lines().find(|line| line.starts_with("preconf_builder_passthrough "));
        line.unwrap().split(' ').nth(1).unwrap().to_owned()
    }

    fn until_gauge(&self, value: &str) {
        let began = Instant::now();
        while self.passthrough() != value {
            assert!(began.elapsed() < DEADLINE);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// An execution client that calls everything VALID and knows the one payload that it builds.
async fn execution_client() -> SocketAddr {
    let router = Router::new().fallback(post(|Json(request): Json<Value>| async move {
        let (id, params) = (&request["id"], &request["params"]);
        let result = match request["method"].as_str().unwrap() {
            "engine_forkchoiceUpdatedV3" => json!({
                "payloadStatus": { "status": "VALID", "latestValidHash": HASH },
                "payloadId": (!params[1].is_null()).then_some(ID),
            }),
            "engine_getPayloadV4" if params[0] != ID => {
                let error = json!({ "code": -38001, "message": "Unknown payload" });
                return Json(json!({ "jsonrpc": "2.0", "id": id, "error": error }));
            }
            "engine_getPayloadV4" => json!("the client's own"),
            "engine_newPayloadV4" => json!({ "status": "VALID" }),
            _ => json!("0x539"),
        };
        Json(json!({ "jsonrpc": "2.0", "id": id, "result": result }))
    }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// One slot of the consensus client: a new payload, a wish for a block on it, and the block. Whether
/// the id of that was the builder's.
async fn slot(door: &EngineClient) -> bool {
    let status: Value = door.request("engine_newPayloadV4", &json!([]), DEADLINE).await.unwrap();
    assert_eq!(status["status"], "VALID");
    let state = json!({ "headBlockHash": HASH, "safeBlockHash": HASH, "finalizedBlockHash": HASH });
    let attributes = json!({
        "timestamp": "0x5", "prevRandao": HASH,
        "suggestedFeeRecipient": "0x3333333333333333333333333333333333333333",
        "withdrawals": [], "parentBeaconBlockRoot": HASH,
    });
    let params = json!([state, attributes]);
    let updated: Value =
        door.request("engine_forkchoiceUpdatedV3", &params, DEADLINE).await.unwrap();
    assert_eq!(updated["payloadStatus"]["status"], "VALID");
    let params = json!([updated["payloadId"]]);
    let payload: Value = door.request("engine_getPayloadV4", &params, DEADLINE).await.unwrap();
    assert_eq!(payload, "the client's own");
    updated["payloadId"] != ID
}

#[tokio::test(flavor = "multi_thread")]
async fn a_builder_that_was_killed_forwards_again_within_a_second() {
    let setting = Setting::new().await;
    let mut process = setting.start();
    assert!(slot(&setting.door()).await);
    // A machine with other things to do may be slow once.
    let mut fastest = Duration::MAX;
    for _ in 0..3 {
        // With SIGKILL, and waited for.
        drop(process);
        let began = Instant::now();
        process = setting.start();
        let door = setting.door();
        let chain: String = door.request("eth_chainId", &Value::Null, DEADLINE).await.unwrap();
        let took = began.elapsed();
        assert_eq!(chain, "0x539");
        println!("forwards {took:?} after it was started again");
        fastest = fastest.min(took);
        // Without a signer or state, the chain goes on.
        assert!(slot(&door).await);
    }
    assert!(fastest < Duration::from_secs(1), "{fastest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_builder_can_begin_in_passthrough() {
    let setting = Setting::new().await;
    let process = setting.start_with(&["--passthrough"]);
    assert!(!slot(&setting.door()).await);
    let operator = setting.operator().await;
    let began = operator.status().await.unwrap().passthrough.unwrap();
    assert_eq!(began.reason, "--passthrough");
    process.until_gauge("1");
    process.switch("off");
    process.until_gauge("0");
    assert!(slot(&setting.door()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_and_orders_switch_passthrough_under_load_without_an_error() {
    let setting = Setting::new().await;
    let process = setting.start();
    let operator = setting.operator().await;
    let (slots, mut progress) = watch::channel(0);
    let (slots, is_over) = (Arc::new(slots), Arc::new(AtomicBool::new(false)));
    let mut callers = JoinSet::new();
    for _ in 0..3 {
        let (door, slots, is_over) = (setting.door(), slots.clone(), is_over.clone());
        callers.spawn(async move {
            let (mut ours, mut theirs) = (0, 0);
            while !is_over.load(Ordering::Relaxed) {
                *(if slot(&door).await { &mut ours } else { &mut theirs }) += 1;
                slots.send_modify(|slots| *slots += 1);
            }
            (ours, theirs)
        });
    }
    let switched = async |is_on: bool| -> Status {
        loop {
            let status = operator.status().await.unwrap();
            if status.passthrough.is_some() == is_on {
                return status;
            }
        }
    };
    for round in 0..6 {
        for is_on in [true, false] {
            if round % 2 == 0 {
                process.switch(if is_on { "on" } else { "off" });
            } else {
                operator.set_passthrough(is_on, "an upgrade").await.unwrap();
            }
            let status = timeout(DEADLINE, switched(is_on)).await.unwrap();
            let said =
                status.passthrough.map(|passthrough| (passthrough.cause, passthrough.reason));
            let reason = if round % 2 == 0 { "SIGUSR1" } else { "an upgrade" };
            let expected = is_on.then(|| (PassthroughCause::Operator, reason.to_owned()));
            assert_eq!(said, expected);
            assert_eq!((status.faults, status.unanswered), (0, 0));
            process.until_gauge(if is_on { "1" } else { "0" });
            let until = *progress.borrow() + 2;
            let moved = progress.wait_for(|slots| *slots >= until);
            timeout(DEADLINE, moved).await.unwrap().unwrap();
        }
    }
    is_over.store(true, Ordering::Relaxed);
    let (mut ours, mut theirs) = (0, 0);
    while let Some(counted) = callers.join_next().await {
        let counted = counted.unwrap();
        (ours, theirs) = (ours + counted.0, theirs + counted.1);
    }
    assert!(ours > 0 && theirs > 0, "{ours} ids of ours, {theirs} of the client's");
    let long = operator.set_passthrough(true, &"x".repeat(257)).await.unwrap_err();
    assert!(matches!(long, AdminError::Refused(_)), "{long:?}");
}
