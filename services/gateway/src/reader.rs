//! One WebSocket reader, from its first frame to its close.
//!
//! A message is written in fragments of at most [`FRAGMENT_BYTES`], the next when the last one is
//! out, so that this is all that a reader holds of it. While it is being written, pings are sent,
//! pongs are read, and the reader is still closed when it has become too slow or the gateway stops.
//! What the reader sends is ignored, up to the size that the socket accepts.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use preconf_primitives::Position;
use preconf_wire::{
    feed::{FeedItem, GoodbyeReason},
    json,
};
use tokio::{
    net::TcpStream,
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self, Message,
        protocol::{
            CloseFrame, WebSocketConfig,
            frame::{
                self,
                coding::{CloseCode, Data, OpCode},
            },
        },
    },
};

use crate::{
    fanout::{Audience, Next},
    frame::Frame,
    handshake::{Encoding, Wish},
    hub::Follow,
};

/// How long the last frames to a reader may take.
const CLOSE: Duration = Duration::from_secs(2);
/// The largest message that is read from a reader, only to be ignored.
const MAX_INCOMING_BYTES: usize = 64 * 1024;
const READ_BUFFER_BYTES: usize = 4 * 1024;
/// How much of a message is in a reader's buffer. Most messages are smaller.
const FRAGMENT_BYTES: usize = 64 * 1024;
/// One fragment, and a few control frames.
const MAX_BUFFERED_BYTES: usize = 2 * FRAGMENT_BYTES;

/// Why a reader is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It left, or its connection broke.
    Left,
    /// It did not keep up.
    TooSlow,
    /// It did not answer pings.
    Silent,
    /// The gateway stops.
    Draining,
}

impl Ending {
    /// The label of a metric.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::TooSlow => GoodbyeReason::TooSlow.as_str(),
            Self::Silent => "silent",
            Self::Draining => GoodbyeReason::Draining.as_str(),
        }
    }
}

/// How a reader is watched.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pulse {
    /// How often it is asked whether it is there.
    pub(crate) ping: Duration,
    /// How long it may be silent, answers to pings included.
    pub(crate) silence: Duration,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { ping: Duration::from_secs(15), silence: Duration::from_secs(30) }
    }
}

/// Limits and buffers of a reader's socket.
pub(crate) fn socket_config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(MAX_BUFFERED_BYTES)
        .max_message_size(Some(MAX_INCOMING_BYTES))
        .max_frame_size(Some(MAX_INCOMING_BYTES))
}

/// A reader that is being served.
pub(crate) struct Session {
    wire: Wire,
    follow: Follow,
    wish: Wish,
    pulse: Pulse,
    /// Where the flashblock stands that was begun last.
    begun: Option<Position>,
}

impl Session {
    pub(crate) fn new(
        socket: WebSocketStream<TcpStream>,
        follow: Follow,
        wish: Wish,
        pulse: Pulse,
    ) -> Self {
        let wire = Wire { socket, busy: false, rest: Bytes::new(), ping_due: false };
        Self { wire, follow, wish, pulse, begun: None }
    }

    /// Sends the reader what it follows until one of the two has had enough.
    /// When `turn` ends, the reader has to leave.
    pub(crate) async fn run(&mut self, turn: impl Future<Output = ()>) -> Ending {
        let mut turn = std::pin::pin!(turn);
        let Pulse { ping, silence } = self.pulse;
        let mut pulse = interval_at(Instant::now() + ping, ping);
        pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard_at = Instant::now();
        loop {
            if !self.wire.busy
                && let Err(ending) = self.write_next().await
            {
                return ending;
            }
            tokio::select! {
                turn = self.wire.turn() => match turn {
                    Turn::Written => {}
                    Turn::Heard => heard_at = Instant::now(),
                    Turn::Over => return Ending::Left,
                },
                () = self.follow.published() => {
                    if self.follow.is_too_slow() {
                        return Ending::TooSlow;
                    }
                }
                _ = pulse.tick() => {
                    if self.follow.is_too_slow() {
                        return Ending::TooSlow;
                    }
                    if heard_at.elapsed() >= silence {
                        return Ending::Silent;
                    }
                    self.wire.ping_due = true;
                }
                () = &mut turn => return Ending::Draining,
            }
        }
    }

    /// Hands over what is next: what is left of a message, or a new one.
    async fn write_next(&mut self) -> Result<(), Ending> {
        if self.wire.resume().map_err(|_| Ending::Left)? {
            return Ok(());
        }
        let (payload, kind) = match self.follow.look() {
            Next::Frame(frame) => {
                self.begun = frame.position().or(self.begun);
                encode(&frame, self.wish.encoding).await
            }
            Next::Gap { wanted, next } => {
                encode(&Frame::gap(wanted, next), self.wish.encoding).await
            }
            Next::TooSlow => return Err(Ending::TooSlow),
            Next::UpToDate => return Ok(()),
        };
        self.wire.begin(payload, kind).map_err(|_| Ending::Left)
    }

    /// Says why it ends and where to resume, as far as the reader lets us.
    pub(crate) async fn end(self, ending: Ending) {
        let (code, goodbye) = match ending {
            Ending::Left => return,
            Ending::TooSlow => (CloseCode::Again, Some(GoodbyeReason::TooSlow)),
            Ending::Silent => (CloseCode::Away, None),
            Ending::Draining => (CloseCode::Restart, Some(GoodbyeReason::Draining)),
        };
        // A message that was begun and not finished has not arrived, and nothing else can be said
        // before the close.
        let unfinished = !self.wire.rest.is_empty();
        let begun = self.begun.filter(|_| unfinished);
        let cursor = begun.or_else(|| self.follow.cursor());
        let goodbye = goodbye.filter(|_| !unfinished && self.wish.audience == Audience::Everything);
        let mut socket = self.wire.socket;
        let last_words = async {
            if let Some(reason) = goodbye {
                let goodbye = FeedItem::Goodbye { reason, cursor };
                socket.send(say(&goodbye, self.wish.encoding)).await?;
            }
            let reason = cursor.map(|cursor| cursor.to_string()).unwrap_or_default();
            socket.close(Some(CloseFrame { code, reason: reason.into() })).await?;
            while socket.next().await.is_some_and(|message| message.is_ok()) {}
            Ok::<_, tungstenite::Error>(())
        };
        // Whoever does not listen is left without a word.
        let _ = timeout(CLOSE, last_words).await;
    }
}

/// Closes a connection whose source has no budget left for the replay that it wants.
pub(crate) async fn turn_away(mut socket: WebSocketStream<TcpStream>) {
    let reason = "replay budget spent: come back in a minute, or without a cursor";
    let frame = CloseFrame { code: CloseCode::Again, reason: reason.into() };
    let last_words = async {
        socket.close(Some(frame)).await?;
        while socket.next().await.is_some_and(|message| message.is_ok()) {}
        Ok::<_, tungstenite::Error>(())
    };
    // Whoever does not listen is left without a word.
    let _ = timeout(CLOSE, last_words).await;
}

async fn encode(frame: &Frame, encoding: Encoding) -> (Bytes, Data) {
    match encoding {
        Encoding::Json => (frame.json().clone().into(), Data::Text),
        Encoding::Brotli => (frame.brotli().await, Data::Binary),
    }
}

/// A message to one reader only.
fn say(item: &FeedItem, encoding: Encoding) -> Message {
    let json = json::encode(item);
    match encoding {
        Encoding::Json => Message::Text(json.into()),
        Encoding::Brotli => Message::Binary(json::compress(json.as_bytes()).into()),
    }
}

/// A socket and what is being written to it.
struct Wire {
    socket: WebSocketStream<TcpStream>,
    /// Whether something is in its buffer.
    busy: bool,
    /// What is left of the message that was begun.
    rest: Bytes,
    ping_due: bool,
}

/// What a socket has done.
enum Turn {
    Written,
    Heard,
    Over,
}

impl Wire {
    /// Begins a message, which the turns that follow write.
    fn begin(&mut self, payload: Bytes, kind: Data) -> Result<(), tungstenite::Error> {
        self.rest = payload;
        self.write_fragment(kind)
    }

    /// Goes on with the message that was begun, and says whether there was something to do.
    fn resume(&mut self) -> Result<bool, tungstenite::Error> {
        if std::mem::take(&mut self.ping_due) {
            return self.write(Message::Ping(Bytes::new())).map(|()| true);
        }
        if self.rest.is_empty() {
            return Ok(false);
        }
        self.write_fragment(Data::Continue).map(|()| true)
    }

    fn write_fragment(&mut self, kind: Data) -> Result<(), tungstenite::Error> {
        let fragment = self.rest.split_to(self.rest.len().min(FRAGMENT_BYTES));
        let is_final = self.rest.is_empty();
        let frame = frame::Frame::message(fragment, OpCode::Data(kind), is_final);
        self.write(Message::Frame(frame))
    }

    fn write(&mut self, message: Message) -> Result<(), tungstenite::Error> {
        self.busy = true;
        Pin::new(&mut self.socket).start_send(message)
    }

    /// Waits until something was written or read. Cancel safe.
    async fn turn(&mut self) -> Turn {
        std::future::poll_fn(|context| self.poll_turn(context)).await
    }

    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<Turn> {
        if self.busy
            && let Poll::Ready(flushed) = Pin::new(&mut self.socket).poll_flush(context)
        {
            self.busy = false;
            return Poll::Ready(if flushed.is_ok() { Turn::Written } else { Turn::Over });
        }
        Pin::new(&mut self.socket).poll_next(context).map(|message| match message {
            Some(Ok(_)) => Turn::Heard,
            Some(Err(_)) | None => Turn::Over,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use preconf_chassis::Shutdown;
    use preconf_telemetry::Registry;
    use tokio::net::TcpListener;
    use tokio_tungstenite::client_async;

    use super::*;
    use crate::{
        Limits,
        budget::{Allowance, Source},
        handshake::{HANDSHAKE, shake_hands},
        hub::Hub,
        metrics::Metrics,
    };

    const PULSE: Pulse =
        Pulse { ping: Duration::from_millis(100), silence: Duration::from_secs(1) };

    /// A session that nothing is published to, and the other end of it.
    async fn session() -> (Session, WebSocketStream<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let (served, client) = tokio::join!(
            shake_hands(accepted, None, socket_config(), HANDSHAKE),
            client_async("ws://gateway/", stream),
        );
        let ((socket, wish), (client, _)) = (served.unwrap(), client.unwrap());
        let limits = Limits {
            sessions: 1,
            bytes: 1,
            max_lag: Duration::from_secs(5),
            replay: Allowance { source_bytes: 0, total_bytes: 0 },
        };
        let hub = Arc::new(Hub::new(limits, Metrics::new(&Registry::new("test"))));
        let follow = hub.subscribe(wish.audience, None, Source::Others).unwrap();
        (Session::new(socket, follow, wish, PULSE), client)
    }

    #[tokio::test]
    async fn a_reader_that_does_not_answer_pings_is_left() {
        let (mut session, _silent) = session().await;

        assert_eq!(session.run(std::future::pending()).await, Ending::Silent);
    }

    #[tokio::test]
    async fn a_reader_that_answers_pings_may_stay() {
        let (mut session, mut client) = session().await;
        let shutdown = Shutdown::new();
        let reading = async {
            // Reading is what answers. This many do not fit into the silence that is allowed.
            for _ in 0..15 {
                let message = client.next().await.unwrap().unwrap();
                assert!(message.is_ping(), "{message:?}");
            }
            shutdown.trigger();
        };

        let (ending, ()) = tokio::join!(session.run(shutdown.cancelled()), reading);

        assert_eq!(ending, Ending::Draining);
    }
}
