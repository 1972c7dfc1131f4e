//! One connection to a feed over WebSocket.
//!
//! Asks for the sub-protocol by which a gateway of ours sends every kind of message; a server that
//! does not know it is read without. A message is at most [`json::MAX_FRAME_BYTES`]. What is heard
//! from the peer, pongs included, shows that it is alive; a peer that is silent for too long is left.

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use preconf_primitives::Position;
use preconf_wire::json::{self, FrameError, UpstreamFlashblock};
use tokio::{
    net::TcpStream,
    task::spawn_blocking,
    time::{Instant, sleep_until, timeout},
};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        self, Message,
        client::IntoClientRequest,
        error::{ProtocolError, SubProtocolError},
        http::{HeaderValue, header::SEC_WEBSOCKET_PROTOCOL},
        protocol::{CloseFrame, WebSocketConfig},
    },
};

use crate::{BadFrame, Disconnect, DisconnectReason, Event, WebSocketUrl};

/// Frames up to this size are decoded where they are received; larger ones leave the runtime.
const INLINE_DECODE_BYTES: usize = 64 * 1024;
const READ_BUFFER_BYTES: usize = 16 * 1024;

pub(crate) struct WebSocketFeed {
    socket: WebSocketStream<TcpStream>,
    idle: Duration,
    heard_at: Instant,
    ping_at: Instant,
    /// Whether the owner wants to see the JSON.
    raw: bool,
    /// The event that follows a [`Event::Raw`].
    pending: Option<Event>,
}

impl WebSocketFeed {
    pub(crate) async fn connect(
        url: &WebSocketUrl,
        cursor: Option<Position>,
        raw: bool,
        idle: Duration,
        deadline: Duration,
    ) -> Result<Self, Disconnect> {
        let socket = match open(url, cursor, Some(json::SUBPROTOCOL), deadline).await {
            Err(tungstenite::Error::Protocol(ProtocolError::SecWebSocketSubProtocolError(
                SubProtocolError::NoSubProtocol,
            ))) => open(url, cursor, None, deadline).await,
            opened => opened,
        };
        let socket = socket.map_err(|error| Disconnect::new(refusal(&error), error))?;
        let now = Instant::now();
        Ok(Self { socket, idle, heard_at: now, ping_at: now + idle / 3, raw, pending: None })
    }

    pub(crate) async fn next(&mut self) -> Result<Event, Disconnect> {
        if let Some(event) = self.pending.take() {
            return Ok(event);
        }
        loop {
            tokio::select! {
                message = self.socket.next() => {
                    self.heard_at = Instant::now();
                    if let Some(frame) = payload(message)? {
                        return Ok(self.tell(frame).await);
                    }
                }
                () = sleep_until(self.ping_at) => self.ping().await?,
            }
        }
    }

    async fn ping(&mut self) -> Result<(), Disconnect> {
        let idle = || Disconnect::new(DisconnectReason::Idle, "nothing heard");
        if self.heard_at.elapsed() >= self.idle {
            return Err(idle());
        }
        self.ping_at = Instant::now() + self.idle / 3;
        timeout(self.idle, self.socket.send(Message::Ping(Bytes::new())))
            .await
            .map_err(|_| idle())?
            .map_err(|error| Disconnect::new(DisconnectReason::Broken, error))
    }

    async fn tell(&mut self, frame: Bytes) -> Event {
        let raw = self.raw;
        let (json, event) = if frame.len() <= INLINE_DECODE_BYTES {
            decode(&frame, raw)
        } else {
            let decoded = spawn_blocking(move || decode(&frame, raw));
            decoded.await.expect("decoding does not panic and is not aborted")
        };
        match json {
            Some(json) => {
                self.pending = Some(event);
                Event::Raw(json)
            }
            None => event,
        }
    }
}

async fn open(
    url: &WebSocketUrl,
    cursor: Option<Position>,
    subprotocol: Option<&'static str>,
    deadline: Duration,
) -> Result<WebSocketStream<TcpStream>, tungstenite::Error> {
    let mut request = url.with_cursor(cursor).into_client_request()?;
    if let Some(subprotocol) = subprotocol {
        let value = HeaderValue::from_static(subprotocol);
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, value);
    }
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_message_size(Some(json::MAX_FRAME_BYTES))
        .max_frame_size(Some(json::MAX_FRAME_BYTES));
    let opening = async {
        let stream = TcpStream::connect(url.address()).await?;
        stream.set_nodelay(true)?;
        let (socket, _) = client_async_with_config(request, stream, Some(config)).await?;
        Ok(socket)
    };
    timeout(deadline, opening)
        .await
        .unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))
}

fn refusal(error: &tungstenite::Error) -> DisconnectReason {
    if matches!(error, tungstenite::Error::Http(_)) {
        DisconnectReason::Refused
    } else {
        DisconnectReason::Unreachable
    }
}

/// The payload of a message that has one. Pings are answered by the socket itself.
fn payload(
    message: Option<Result<Message, tungstenite::Error>>,
) -> Result<Option<Bytes>, Disconnect> {
    match message {
        Some(Ok(Message::Text(text))) => Ok(Some(text.into())),
        Some(Ok(Message::Binary(bytes))) => Ok(Some(bytes)),
        Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => Ok(None),
        Some(Ok(Message::Close(frame))) => {
            let said = frame.map(|CloseFrame { code, reason }| format!("{code} {reason}"));
            Err(Disconnect::new(DisconnectReason::Closed, said.unwrap_or_default().trim_end()))
        }
        Some(Err(error)) => Err(Disconnect::new(DisconnectReason::Broken, error)),
        None => Err(Disconnect::new(DisconnectReason::Closed, "end of stream")),
    }
}

/// The event that a frame is, and its JSON if `raw` asks for it.
fn decode(frame: &Bytes, raw: bool) -> (Option<Bytes>, Event) {
    let json = match json::decompress(frame) {
        Ok(json) => json,
        Err(error) => return (None, Event::BadFrame(BadFrame::Frame(error))),
    };
    let event = match read(&json) {
        Ok(event) => event,
        Err(error) => Event::BadFrame(BadFrame::Frame(error)),
    };
    let shown = raw.then(|| match json {
        Cow::Borrowed(_) => frame.clone(),
        Cow::Owned(json) => json.into(),
    });
    (shown, event)
}

/// A sealed message if it is one, else a flashblock of the upstream's.
fn read(json: &[u8]) -> Result<Event, FrameError> {
    match json::decode(json) {
        Ok(item) => Ok(Event::Item(item)),
        Err(FrameError::Unsealed(missing)) => {
            let flashblock = UpstreamFlashblock::from_json(json)?;
            // Half of our additions is neither the upstream's format nor ours.
            match flashblock.extension {
                None => Ok(Event::Upstream(flashblock)),
                Some(_) => Err(FrameError::Unsealed(missing)),
            }
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use preconf_wire::feed::FeedItem;

    use super::*;

    const UPSTREAM: &str = r#"{"payload_id":"0x0000000000000001","index":1,"base":null,
        "diff":{"transactions":[],"withdrawals":[]},"metadata":{"block_number":7},
        "signature":"0x000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000","is_last":false"#;

    fn event(json: &str) -> Event {
        let (_, event) = decode(&Bytes::from(json.to_owned()), false);
        event
    }

    #[test]
    fn a_flashblock_without_our_additions_is_the_upstreams() {
        let Event::Upstream(flashblock) = event(&format!("{UPSTREAM}}}")) else { panic!() };
        assert_eq!(flashblock.block_number, 7);
    }

    #[test]
    fn a_flashblock_with_some_of_our_additions_is_nobodys() {
        let seal = format!("0x{}", "00".repeat(96));
        let halves = [format!(r#","session":1,"seal":"{seal}"}}"#)];
        for half in halves {
            let event = event(&format!("{UPSTREAM}{half}"));
            assert!(matches!(event, Event::BadFrame(_)), "{event:?}");
        }
    }

    #[test]
    fn what_is_no_message_is_a_bad_frame() {
        for json in ["", "{", "[]", r#"{"type":"unheard_of"}"#, "\u{1}\u{2}"] {
            assert!(matches!(event(json), Event::BadFrame(_)), "{json:?}");
        }
    }

    #[test]
    fn the_json_of_a_compressed_frame_is_shown_unpacked() {
        let json = format!("{UPSTREAM}}}");
        let (shown, _) = decode(&json::compress(json.as_bytes()).into(), true);
        assert_eq!(shown.unwrap(), json.as_bytes());
    }

    #[test]
    fn a_statement_is_an_item() {
        let item = FeedItem::Gap { wanted: "1:2".parse().unwrap(), next: "3:0".parse().unwrap() };
        let Event::Item(read) = event(&json::encode(&item)) else { panic!() };
        assert_eq!(read, item);
    }
}
