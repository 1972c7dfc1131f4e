//! A sequencer's payload server that says what it is told to say, byte for byte.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::interval,
};

/// What it says.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// These bytes, and the end.
    Bytes(Vec<u8>),
    /// These bytes, one by one, each on its own.
    Drip(Vec<u8>),
    /// Nothing.
    Silence,
    /// It hangs up.
    HangUp,
}

impl Answer {
    /// A payload, or what is said in its place.
    pub(crate) fn ok(body: impl AsRef<[u8]>) -> Self {
        Self::http("200 OK", "", body)
    }

    /// A refusal in words that are understood.
    pub(crate) fn refusal(status: &str) -> Self {
        let code = &status[..3];
        Self::http(status, "", format!(r#"{{"code":{code},"message":"no"}}"#))
    }

    pub(crate) fn http(status: &str, headers: &str, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let length = body.len();
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n{headers}\r\n");
        Self::Bytes([head.as_bytes(), body].concat())
    }

    /// The same, but only the beginning.
    pub(crate) fn truncated(self) -> Self {
        let Self::Bytes(mut bytes) = self else { return self };
        bytes.truncate(bytes.len() / 2);
        Self::Bytes(bytes)
    }

    pub(crate) fn drip(self) -> Self {
        let Self::Bytes(bytes) = self else { return self };
        Self::Drip(bytes)
    }

    async fn say(self, stream: &mut TcpStream) {
        match self {
            // Who has heard enough is gone before the end.
            Self::Bytes(bytes) => drop(stream.write_all(&bytes).await),
            Self::Drip(bytes) => {
                let mut tick = interval(Duration::from_millis(20));
                for byte in bytes {
                    tick.tick().await;
                    if stream.write_all(&[byte]).await.is_err() {
                        return;
                    }
                }
            }
            Self::Silence => std::future::pending().await,
            Self::HangUp => {}
        }
    }
}

/// A sequencer; it ends with its owner.
pub(crate) struct Sequencer {
    pub(crate) address: SocketAddr,
    asked: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl Sequencer {
    pub(crate) async fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, asked) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let count = asked.clone();
        let serving = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (count, answer) = (count.clone(), answer.clone());
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
                        let mut piece = [0; 4096];
                        match stream.read(&mut piece).await {
                            Ok(read @ 1..) => head.extend_from_slice(&piece[..read]),
                            Ok(0) | Err(_) => return,
                        }
                    }
                    count.fetch_add(1, Ordering::SeqCst);
                    answer.say(&mut stream).await;
                });
            }
        });
        Self { address, asked, serving }
    }

    /// How often it was asked.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Sequencer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}
