//! The binary `preconf-monitor` against a feed on this machine.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::{process::Stdio, time::Duration};

use futures_util::SinkExt;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    net::{TcpListener, TcpStream},
    process::{Child, ChildStdout, Command},
    time::timeout,
};
use tokio_tungstenite::{WebSocketStream, accept_async, tungstenite::Message};

/// Longer than anything takes, even on a busy machine.
const SOON: Duration = Duration::from_secs(30);

const KEY: &str = "0x95a254501b7733239ed3cec4d56737977bd09ede881d8a234560e83e5525017add3b1dcc3eabfb85e12a4131b19c253b";
/// A flashblock of the upstream's, signed by `KEY` for chain 80094.
const FLASHBLOCK: &str = r#"{"payload_id":"0xd65ec8b44ee51e45","index":1,"base":null,"diff":{"transactions":[],"withdrawals":[]},"metadata":{"block_number":100},"signature":"0xaa698d4669ee4fad5f347b9756a7562b8cfeef01195ad72e29d87229500928daf062a135ad450f2ec32d21fe2433e8d20c20a69c5a321f7fd5ae9ba8e892d7d54784564f84e84d7731d1211d1c72daf9edc46103a71f57c2543345a969288614","is_last":true}"#;
/// The end of a session, sealed by `KEY` for chain 80094.
const ABANDONED: &str = r#"{"type":"abandoned","session":7,"block_number":100,"last_digest":"0xf62644641c17469f8f4d5ed426edd4fa885277f21d7bd612b3222ad8e3690b40","reason":"head_changed","seal":"0x847a8c175b36e78f6723ecf0e52c46951072f4b908aa8f1cdf0ab0d51f4fdc8b8b3c3779ec4bfa79e52811f7bab2ea0215a8744f99f425b06afd1bb6f0a226433bee8939b49dba8f93bdef06ccceb0f2010bdb091b179c62e7a1a04c1b2af7eb"}"#;

/// A monitor that follows a feed of this test.
struct Monitored {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    feed: WebSocketStream<TcpStream>,
    _listener: TcpListener,
}

impl Monitored {
    async fn new(flags: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_preconf-monitor"))
            .arg(format!("ws://{}", listener.local_addr().unwrap()))
            .args(flags)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        // It asks for a sub-protocol first, which this server does not know.
        drop(accept(&listener).await);
        let mut feed = accept(&listener).await;
        for frame in [FLASHBLOCK, ABANDONED, &ABANDONED.replace("100", "101"), "{}"] {
            feed.send(Message::text(frame)).await.unwrap();
        }
        Self { process, lines, feed, _listener: listener }
    }

    async fn line(&mut self) -> String {
        timeout(SOON, self.lines.next_line()).await.unwrap().unwrap().expect("a line")
    }

    /// Ends it as Ctrl-C does, and says whether it ended well.
    async fn interrupt(mut self) -> bool {
        let id = self.process.id().unwrap().to_string();
        let sent = Command::new("kill").args(["-INT", &id]).status().await.unwrap();
        assert!(sent.success());
        timeout(SOON, self.process.wait()).await.unwrap().unwrap().success()
    }
}

async fn accept(listener: &TcpListener) -> WebSocketStream<TcpStream> {
    let (stream, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
    accept_async(stream).await.unwrap()
}

#[tokio::test]
async fn each_message_is_a_line_that_says_whose_it_is() {
    let mut monitored = Monitored::new(&["--sequencer-pubkey", KEY, "--chain-id", "80094"]).await;

    assert_eq!(monitored.line().await, "connected");
    assert_eq!(
        monitored.line().await,
        format!(
            "flashblock block=100 payload_id=0xd65ec8b44ee51e45 index=1 transactions=0 bytes=0 \
             last key={KEY}"
        )
    );
    assert_eq!(
        monitored.line().await,
        format!("abandoned block=100 session=7 head_changed key={KEY}")
    );
    assert_eq!(
        monitored.line().await,
        "abandoned block=101 session=7 head_changed \
         REFUSED: the seal does not verify against any configured key"
    );
    assert!(monitored.line().await.starts_with("bad_frame a frame is not valid: "));
    assert!(monitored.interrupt().await, "Ctrl-C is an orderly end");
}

#[tokio::test]
async fn without_a_key_nothing_is_called_verified() {
    let mut monitored = Monitored::new(&["--json"]).await;

    assert_eq!(monitored.line().await, r#"{"kind":"connected"}"#);
    for _ in 0..3 {
        let line: serde_json::Value = serde_json::from_str(&monitored.line().await).unwrap();
        assert_eq!(line["verified"], false, "{line}");
    }
}

#[tokio::test]
async fn raw_lines_are_the_frames() {
    let mut monitored = Monitored::new(&["--raw"]).await;

    assert_eq!(monitored.line().await, FLASHBLOCK);
    assert_eq!(monitored.line().await, ABANDONED);
}

#[tokio::test]
async fn a_monitor_whose_output_nobody_reads_ends_in_good_order() {
    let Monitored { mut process, lines, mut feed, _listener } = Monitored::new(&[]).await;

    drop(lines);
    let ended = async {
        loop {
            tokio::select! {
                status = process.wait() => break status.unwrap(),
                // Each line may be the one that meets the closed pipe.
                sent = feed.send(Message::text(FLASHBLOCK)) => {
                    if sent.is_err() {
                        break process.wait().await.unwrap();
                    }
                }
            }
        }
    };
    assert!(timeout(SOON, ended).await.unwrap().success());
}
