//! The beginning of a WebSocket connection: what a reader asks for, or why it is refused.
//!
//! Any path is served. The query may say `cursor=seq:index`, to resume there, and
//! `encoding=brotli`, for binary frames; a reader that names the sub-protocol `preconf.v1` gets
//! every message of the feed, others get flashblocks only. A request that is refused is answered
//! with a status and a sentence. The head of a request is at most [`MAX_HEAD_BYTES`].

use std::{io, time::Duration};

use preconf_primitives::Position;
use preconf_wire::json::SUBPROTOCOL;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::{
            machine::TryParse,
            server::{Request, create_response, write_response},
        },
        http::{HeaderValue, Response, StatusCode, header},
        protocol::{Role, WebSocketConfig},
    },
};
use url::form_urlencoded;

use crate::fanout::Audience;

/// How long a reader may take to say what it wants, and to hear the answer.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(5);
const MAX_HEAD_BYTES: usize = 16 * 1024;
const READ_BYTES: usize = 4 * 1024;

/// What a reader asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) audience: Audience,
    pub(crate) encoding: Encoding,
    pub(crate) cursor: Option<Position>,
}

/// How a message is written into a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// JSON in a text frame.
    Json,
    /// JSON as brotli in a binary frame.
    Brotli,
}

/// Why nobody is served on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("no more readers can be served")]
    Full,
    #[error("this gateway is shutting down")]
    Draining,
    #[error("this port serves WebSocket")]
    NotWebSocket,
    #[error("this is not a request of HTTP/1.1")]
    NotHttp,
    #[error("the cursor is written seq:index, two decimal numbers")]
    BadCursor,
    #[error("the only encoding to choose is brotli")]
    BadEncoding,
    #[error("the request took too long")]
    TooSlow,
    #[error("the connection broke")]
    Broken,
}

impl Refusal {
    /// The label of a metric.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Draining => "draining",
            Self::NotWebSocket | Self::NotHttp => "not_websocket",
            Self::BadCursor | Self::BadEncoding => "bad_query",
            Self::TooSlow => "too_slow",
            Self::Broken => "broken",
        }
    }

    /// The answer; there is nobody to give it to on a connection that broke.
    const fn status(self) -> Option<StatusCode> {
        match self {
            Self::Full | Self::Draining => Some(StatusCode::SERVICE_UNAVAILABLE),
            Self::NotWebSocket => Some(StatusCode::UPGRADE_REQUIRED),
            Self::NotHttp | Self::BadCursor | Self::BadEncoding => Some(StatusCode::BAD_REQUEST),
            Self::TooSlow => Some(StatusCode::REQUEST_TIMEOUT),
            Self::Broken => None,
        }
    }
}

impl From<io::Error> for Refusal {
    fn from(_: io::Error) -> Self {
        Self::Broken
    }
}

/// Makes a WebSocket of a connection, or answers why not. Whoever is to be refused in any case is
/// heard first, so that the answer arrives.
pub(crate) async fn shake_hands(
    mut stream: TcpStream,
    refused: Option<Refusal>,
    config: WebSocketConfig,
    deadline: Duration,
) -> Result<(WebSocketStream<TcpStream>, Wish), Refusal> {
    let heard = timeout(deadline, read_request(&mut stream));
    let outcome = match (heard.await, refused) {
        (Err(_), _) => Err(Refusal::TooSlow),
        (Ok(Err(refusal)), None) => Err(refusal),
        (Ok(_), Some(refusal)) => Err(refusal),
        (Ok(Ok((request, rest))), None) => accept(&request).map(|accepted| (accepted, rest)),
    };
    let answer = match &outcome {
        Ok(((response, _), _)) => Some(head(response, "")),
        Err(refusal) => refusal.status().map(|status| refuse(*refusal, status)),
    };
    if let Some(answer) = answer {
        let sent = async {
            stream.write_all(&answer).await?;
            if outcome.is_err() { stream.shutdown().await } else { Ok(()) }
        };
        timeout(deadline, sent).await.map_err(|_| Refusal::TooSlow)??;
    }
    let ((_, wish), rest) = outcome?;
    let socket =
        WebSocketStream::from_partially_read(stream, rest, Role::Server, Some(config)).await;
    Ok((socket, wish))
}

/// The request, and what came after it.
async fn read_request(stream: &mut TcpStream) -> Result<(Request, Vec<u8>), Refusal> {
    let mut head = Vec::with_capacity(READ_BYTES);
    loop {
        if stream.read_buf(&mut head).await? == 0 {
            return Err(Refusal::Broken);
        }
        if let Some((length, request)) = Request::try_parse(&head).map_err(|_| Refusal::NotHttp)? {
            return Ok((request, head.split_off(length)));
        }
        if head.len() >= MAX_HEAD_BYTES {
            return Err(Refusal::NotHttp);
        }
    }
}

fn accept(request: &Request) -> Result<(Response<()>, Wish), Refusal> {
    let mut response = create_response(request).map_err(|_| Refusal::NotWebSocket)?;
    let mut wish = Wish { audience: Audience::Flashblocks, encoding: Encoding::Json, cursor: None };
    if names_subprotocol(request) {
        wish.audience = Audience::Everything;
        let value = HeaderValue::from_static(SUBPROTOCOL);
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, value);
    }
    let query = request.uri().query().unwrap_or_default();
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        match (key.as_ref(), value.as_ref()) {
            ("encoding", "brotli") => wish.encoding = Encoding::Brotli,
            ("encoding", _) => return Err(Refusal::BadEncoding),
            ("cursor", cursor) => {
                wish.cursor = Some(cursor.parse().map_err(|_| Refusal::BadCursor)?);
            }
            // Somebody else's: tracking parameters, keys of a proxy.
            (_, _) => {}
        }
    }
    Ok((response, wish))
}

fn names_subprotocol(request: &Request) -> bool {
    request
        .headers()
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|protocol| protocol.trim() == SUBPROTOCOL)
}

fn refuse(refusal: Refusal, status: StatusCode) -> Vec<u8> {
    let body = format!("{refusal}\n");
    let mut response = Response::new(());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    if status == StatusCode::UPGRADE_REQUIRED {
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    }
    head(&response, &body)
}

fn head(response: &Response<()>, body: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_response(&mut bytes, response).expect("our own headers are visible ASCII");
    bytes.extend_from_slice(body.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use preconf_primitives::Seq;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_that_never_asks_for_anything_is_closed_with_a_sentence() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut silent = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        silent.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();

        let deadline = Duration::from_millis(50);
        let refused = shake_hands(stream, None, WebSocketConfig::default(), deadline).await;

        assert_eq!(refused.unwrap_err(), Refusal::TooSlow);
        let mut answer = String::new();
        silent.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    }

    fn wish(target: &str, protocols: &str) -> Result<Wish, Refusal> {
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: gateway\r\nConnection: keep-alive, Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{protocols}\r\n"
        );
        let (_, request) = Request::try_parse(request.as_bytes()).unwrap().unwrap();
        accept(&request).map(|(_, wish)| wish)
    }

    #[test]
    fn a_reader_that_asks_for_nothing_gets_flashblocks_in_json() {
        let plain =
            Wish { audience: Audience::Flashblocks, encoding: Encoding::Json, cursor: None };
        assert_eq!(wish("/", ""), Ok(plain));
        assert_eq!(wish("/any/path?utm_source=x", ""), Ok(plain));
        assert_eq!(wish("/", "Sec-WebSocket-Protocol: graphql-ws\r\n"), Ok(plain));
    }

    #[test]
    fn a_reader_asks_by_query_and_sub_protocol() {
        let everything =
            wish("/?encoding=brotli&cursor=7%3A3", "Sec-WebSocket-Protocol: other, preconf.v1\r\n");
        assert_eq!(
            everything,
            Ok(Wish {
                audience: Audience::Everything,
                encoding: Encoding::Brotli,
                cursor: Some(Position::new(Seq::new(7), 3)),
            })
        );
        assert_eq!(wish("/?cursor=7:3", "").unwrap().cursor.unwrap().to_string(), "7:3");
    }

    #[test]
    fn a_query_that_makes_no_sense_is_refused_not_ignored() {
        assert_eq!(wish("/?cursor=7", ""), Err(Refusal::BadCursor));
        assert_eq!(wish("/?cursor=", ""), Err(Refusal::BadCursor));
        assert_eq!(wish("/?encoding=gzip", ""), Err(Refusal::BadEncoding));
    }

    #[test]
    fn a_request_for_a_page_is_told_what_is_served_here() {
        let (_, request) =
            Request::try_parse(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap().unwrap();
        assert_eq!(accept(&request).unwrap_err(), Refusal::NotWebSocket);
        let answer = String::from_utf8(refuse(Refusal::NotWebSocket, StatusCode::UPGRADE_REQUIRED));
        let answer = answer.unwrap();
        assert!(answer.starts_with("HTTP/1.1 426 "), "{answer}");
        assert!(answer.ends_with("\r\n\r\nthis port serves WebSocket\n"), "{answer}");
    }
}
