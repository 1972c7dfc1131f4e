//! The client, against servers that are wrong in every way there is.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use preconf_payload_api::{
    ClientConfig, FetchError, FetchFailure, PayloadClient, PayloadRequest, PayloadResponse,
    SequencerUrl, ValidatorSecret, client::UrlError,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

const RESPONSE: &str = include_str!("../testdata/response.json");
/// Longer than anything takes, even on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// A server that answers every connection with these bytes, and then closes or is silent.
struct Server {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl Server {
    async fn answering(answer: impl Into<Vec<u8>>) -> Self {
        Self::start(answer.into(), true).await
    }

    async fn start(answer: Vec<u8>, closes: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let (count, answer) = (Arc::clone(&asked), Arc::new(answer));
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (count, answer) = (Arc::clone(&count), Arc::clone(&answer));
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
                        let mut piece = [0; 4096];
                        let read = stream.read(&mut piece).await.unwrap();
                        assert!(read > 0);
                        head.extend_from_slice(&piece[..read]);
                    }
                    count.fetch_add(1, Ordering::SeqCst);
                    // Who does not read to the end is gone before.
                    let _ = stream.write_all(&answer).await;
                    if !closes {
                        std::future::pending::<()>().await;
                    }
                });
            }
        });
        Self { address, asked }
    }

    fn client(&self, limit: usize) -> PayloadClient {
        client(&format!("http://{}", self.address), limit)
    }

    async fn fetch(&self) -> Result<PayloadResponse, FetchError> {
        self.client(1 << 20).fetch(&PayloadRequest::default(), SOON).await
    }
}

fn client(url: &str, max_response_bytes: usize) -> PayloadClient {
    let (url, secret) = (url.parse().unwrap(), ValidatorSecret::from_bytes([7; 32]));
    PayloadClient::new(ClientConfig { url, secret, authorities: None, max_response_bytes }).unwrap()
}

fn http(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn a_payload_is_fetched() {
    let server = Server::answering(http("200 OK", RESPONSE)).await;
    let read = PayloadResponse::decode(RESPONSE.as_bytes()).unwrap();
    assert_eq!(server.fetch().await.unwrap(), read);
    // Of its health only the status counts.
    assert!(server.client(1 << 20).health(SOON).await.is_ok());
    let sick = Server::answering(http("503 Service Unavailable", RESPONSE)).await;
    assert!(sick.client(1 << 20).health(SOON).await.is_err());
}

#[tokio::test]
async fn whatever_a_server_answers_is_an_error_of_its_class() {
    use FetchFailure::{NotFound, Other, Unavailable};
    let huge =
        format!("HTTP/1.1 200 OK\r\nContent-Length: 4000000\r\n\r\n{}", "x".repeat(4_000_000));
    let long_head = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(200_000));
    let cut = format!("HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{}", &RESPONSE[..500]);
    let cases = [
        (
            "a missing payload",
            http("404 Not Found", "{\"code\":404,\"message\":\"x\"}\n"),
            NotFound,
        ),
        ("a missing path", http("404 Not Found", "404 page not found\n"), Other),
        ("a refusal", http("403 Forbidden", "{\"code\":403,\"message\":\"x\"}"), Other),
        ("a failure", http("500 Internal Server Error", ""), Other),
        ("success of another kind", http("204 No Content", ""), Other),
        ("null", http("200 OK", "null"), Other),
        ("nothing", http("200 OK", ""), Other),
        ("no JSON", http("200 OK", "\u{1f980}"), Other),
        ("no payload", http("200 OK", &RESPONSE.replace("parentHash", "parent")), Other),
        ("half an answer", cut, Unavailable),
        ("no HTTP", "SSH-2.0-OpenSSH_9.6\r\n".to_owned(), Unavailable),
        ("a head without end", long_head, Unavailable),
        ("nothing at all", String::new(), Unavailable),
        ("too much", huge, Other),
    ];
    for (name, answer, expected) in cases {
        let error = Server::answering(answer).await.fetch().await.unwrap_err();
        assert_eq!(error.failure(), expected, "{name}: {error:?}");
    }
}

#[tokio::test]
async fn an_answer_that_has_no_end_is_read_no_further_than_the_limit() {
    let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
    let endless =
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}", chunk.repeat(64));
    let server = Server::start(endless.into_bytes(), false).await;
    let error = server.client(100_000).fetch(&PayloadRequest::default(), SOON).await.unwrap_err();
    assert!(matches!(error, FetchError::TooLarge { limit: 100_000, .. }), "{error:?}");
}

#[tokio::test]
async fn who_is_silent_before_or_within_an_answer_is_waited_for_no_longer_than_allowed() {
    let half = format!("HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{}", &RESPONSE[..500]);
    for answer in [String::new(), "HTTP/1.1 200 OK\r\n".to_owned(), half] {
        let server = Server::start(answer.into_bytes(), false).await;
        let within = Duration::from_millis(50);
        let fetched = server.client(1 << 20).fetch(&PayloadRequest::default(), within).await;
        let error = fetched.unwrap_err();
        assert!(matches!(error, FetchError::Timeout { .. }), "{error:?}");
        assert_eq!(error.failure(), FetchFailure::Unavailable);
    }
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let client = client(&format!("http://{nobody}"), 100);
    let fetched = client.fetch(&PayloadRequest::default(), SOON).await;
    assert!(matches!(fetched, Err(FetchError::Transport { .. })));
}

#[tokio::test]
async fn nobody_is_followed_to_another_place() {
    let other = Server::answering(http("200 OK", RESPONSE)).await;
    for status in ["301 Moved Permanently", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let answer = format!(
            "HTTP/1.1 {status}\r\nLocation: http://{}/eth/v1/preconf/payload\r\n\
             Content-Length: 0\r\n\r\n",
            other.address
        );
        let error = Server::answering(answer).await.fetch().await.unwrap_err();
        assert!(matches!(error, FetchError::Refused { .. }), "{error:?}");
    }
    assert_eq!(other.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn what_a_stranger_says_cannot_break_the_lines_of_a_log() {
    let said = format!(
        "{{\"code\":403,\"message\":\"a\\nERROR forged \\u001b[0m{}\"}}",
        "x".repeat(5_000)
    );
    let error = Server::answering(http("403 Forbidden", &said)).await.fetch().await.unwrap_err();
    let text = error.to_string();
    assert!(!text.contains(['\n', '\u{1b}']) && text.len() < 400, "{text}");
}

#[test]
fn a_url_has_no_credentials_and_its_last_slashes_do_not_count() {
    for (text, expected) in [
        ("http://127.0.0.1:9090", "http://127.0.0.1:9090"),
        ("https://sequencer:9090///", "https://sequencer:9090"),
        ("https://host/base/", "https://host/base"),
        ("http://[::1]:1", "http://[::1]:1"),
    ] {
        assert_eq!(text.parse::<SequencerUrl>().unwrap().to_string(), expected);
    }
    for text in ["http://u:p@host", "http://host?x", "http://host#x", "ftp://host", "unix:/x"] {
        assert_eq!(text.parse::<SequencerUrl>(), Err(UrlError::Surplus), "{text}");
    }
    assert!("sequencer".parse::<SequencerUrl>().is_err());
}

#[test]
fn tls_needs_an_authority_and_plaintext_has_none() {
    let config = |url: &str| ClientConfig {
        url: url.parse().unwrap(),
        secret: ValidatorSecret::from_bytes([7; 32]),
        authorities: None,
        max_response_bytes: 1,
    };
    let refused = PayloadClient::new(config("https://localhost:1")).unwrap_err().to_string();
    assert_eq!(refused, "https://localhost:1: needs the certificate of its authority");
    assert_eq!(format!("{:?}", config("http://localhost:1").secret), "***");
}
