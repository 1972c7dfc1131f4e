//! A sequencer's payload server that says what it is told to say, byte for byte.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
    time::{interval, sleep},
};
use tokio_rustls::TlsAcceptor;

/// What it says.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// These bytes, and the end.
    Bytes(Vec<u8>),
    /// These bytes, one by one, each on its own.
    Drip(Vec<u8>),
    /// These bytes, after a while.
    Late(Duration, Vec<u8>),
    /// The first ones once, and the second ones again and again.
    Endless(Vec<u8>, Vec<u8>),
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

    pub(crate) fn late(self, by: Duration) -> Self {
        let Self::Bytes(bytes) = self else { return self };
        Self::Late(by, bytes)
    }

    async fn say(self, stream: &mut (impl AsyncWrite + Unpin)) {
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
            Self::Late(by, bytes) => {
                sleep(by).await;
                drop(stream.write_all(&bytes).await);
            }
            Self::Endless(first, again) => {
                let mut written = stream.write_all(&first).await;
                while written.is_ok() {
                    written = stream.write_all(&again).await;
                }
            }
            Self::Silence => std::future::pending().await,
            Self::HangUp => {}
        }
    }
}

/// A sequencer; it ends with its owner.
pub(crate) struct Sequencer {
    url: String,
    talk: Talk,
    serving: JoinHandle<()>,
}

/// What is said to it and by it.
#[derive(Clone)]
struct Talk {
    heard: Arc<Mutex<Vec<String>>>,
    greeted: Arc<Mutex<usize>>,
    answer: Arc<Mutex<Answer>>,
}

impl Sequencer {
    pub(crate) async fn start(answer: Answer) -> Self {
        Self::listen(answer, None, Duration::ZERO).await
    }

    /// One that a connection to takes this long.
    pub(crate) async fn start_far(answer: Answer, by: Duration) -> Self {
        Self::listen(answer, None, by).await
    }

    /// The same over TLS, with this certificate.
    pub(crate) async fn start_tls(answer: Answer, config: Arc<ServerConfig>) -> Self {
        Self::listen(answer, Some(config.into()), Duration::ZERO).await
    }

    async fn listen(answer: Answer, tls: Option<TlsAcceptor>, by: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let url = match tls {
            Some(_) => format!("https://localhost:{}", address.port()),
            None => format!("http://{address}"),
        };
        let (heard, greeted) = (Arc::default(), Arc::default());
        let answer = Arc::new(Mutex::new(answer));
        let talk = Talk { heard, greeted, answer };
        let shared = talk.clone();
        let serving = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (talk, tls) = (shared.clone(), tls.clone());
                tokio::spawn(async move {
                    sleep(by).await;
                    match tls {
                        None => talk.converse(stream).await,
                        // Who does not trust it asks nothing.
                        Some(tls) => {
                            let Ok(stream) = tls.accept(stream).await else { return };
                            talk.converse(stream).await;
                        }
                    }
                });
            }
        });
        Self { url, talk, serving }
    }

    /// How often it was asked how it is.
    pub(crate) fn greeted(&self) -> usize {
        *self.talk.greeted.lock()
    }

    /// How often it was asked.
    pub(crate) fn asked(&self) -> usize {
        self.talk.heard.lock().len()
    }

    /// What it was asked last.
    pub(crate) fn last(&self) -> String {
        self.talk.heard.lock().last().unwrap().clone()
    }

    /// What it says from now on.
    pub(crate) fn will(&self, answer: Answer) {
        *self.talk.answer.lock() = answer;
    }

    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }
}

impl Talk {
    /// Says that it is well as often as it is asked; then reads a request, whose body is one line of
    /// JSON, and answers.
    async fn converse(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut request = Vec::new();
        while !request.ends_with(b"}") {
            let mut piece = [0; 4096];
            match stream.read(&mut piece).await {
                Ok(read @ 1..) => request.extend_from_slice(&piece[..read]),
                Ok(0) | Err(_) => return,
            }
            if request.starts_with(b"GET ") && request.ends_with(b"\r\n\r\n") {
                request.clear();
                let well = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                if stream.write_all(well).await.is_err() {
                    return;
                }
                *self.greeted.lock() += 1;
            }
        }
        self.heard.lock().push(String::from_utf8(request).unwrap());
        let answer = self.answer.lock().clone();
        answer.say(&mut stream).await;
    }
}

impl Drop for Sequencer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}
