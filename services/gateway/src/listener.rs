//! The WebSocket port: who is let in, and who is told to come back later.
//!
//! A reader takes one of a fixed number of places when its connection is accepted, before it has
//! said anything, and keeps it until the connection is gone. Whoever finds no place, or comes while
//! the gateway drains, is answered with 503; of these, too, only a few are heard at a time, and
//! beyond that connections are dropped. An error of `accept` never ends the port.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use preconf_telemetry::LogLimit;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{JoinError, JoinSet},
    time::sleep,
};
use tokio_tungstenite::WebSocketStream;
use tracing::{debug, error, warn};

use crate::{
    budget::Source,
    drain::Drain,
    fanout::Audience,
    handshake::{self, Encoding, HANDSHAKE, Refusal, Wish},
    hub::Hub,
    metrics::{Counted, Metrics},
    reader::{self, Pulse, Session},
};

/// How many refusals are being written at a time.
const MAX_REFUSALS: usize = 64;
/// How long to wait when the operating system has no more file descriptors for us.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// What every reader shares.
#[derive(Clone, Debug)]
pub(crate) struct Port {
    pub(crate) hub: Arc<Hub>,
    pub(crate) places: Arc<Semaphore>,
    pub(crate) metrics: Metrics,
    pub(crate) drain: Arc<Drain>,
}

impl Port {
    /// Serves readers until the drain begins, and then until the last one has been told.
    pub(crate) async fn run(self, listener: TcpListener) -> Result<(), Infallible> {
        let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
        let mut complaints = LogLimit::new(LOG_INTERVAL);
        // Dropping the sets ends what is in them, which the drain deadline does.
        let (mut readers, mut refused) = (JoinSet::new(), JoinSet::new());
        let mut draining = false;
        while !draining || !readers.is_empty() {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) if draining => {
                        self.refuse(stream, Refusal::Draining, &refusals, &mut refused);
                    }
                    Ok((stream, from)) => match Arc::clone(&self.places).try_acquire_owned() {
                        Ok(place) => {
                            readers.spawn(self.clone().admit(stream, from, place));
                        }
                        Err(_) => self.refuse(stream, Refusal::Full, &refusals, &mut refused),
                    },
                    Err(error) => {
                        self.metrics.refused.get(["accept_failed"]).inc();
                        if let Some(suppressed) = complaints.admit(Instant::now()) {
                            warn!(%error, suppressed, "accept failed");
                        }
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(ended) = readers.join_next() => report(ended),
                Some(ended) = refused.join_next() => report(ended),
                () = self.drain.begun(), if !draining => draining = true,
            }
        }
        Ok(())
    }

    async fn admit(self, stream: TcpStream, from: SocketAddr, _place: OwnedSemaphorePermit) {
        // Without it a small frame waits for the acknowledgement of the one before.
        let _ = stream.set_nodelay(true);
        let (socket, wish) = match hands(stream, None).await {
            Ok(shaken) => shaken,
            Err(refusal) => return self.refused(refusal),
        };
        let _counted = Counted::new(&self.metrics, via(wish));
        debug!(?wish, "reader accepted");
        let source = Source::of_address(from.ip());
        let Some(follow) = self.hub.subscribe(wish.audience, wish.cursor, source) else {
            self.metrics.ended.get(["over_budget"]).inc();
            return reader::turn_away(socket).await;
        };
        let mut session = Session::new(socket, follow, wish, Pulse::default());
        let ending = session.run(self.drain.turn()).await;
        self.metrics.ended.get([ending.as_str()]).inc();
        debug!(?ending, "reader gone");
        session.end(ending).await;
    }

    fn refuse(
        &self,
        stream: TcpStream,
        refusal: Refusal,
        refusals: &Arc<Semaphore>,
        refused: &mut JoinSet<()>,
    ) {
        let port = self.clone();
        let Ok(permit) = Arc::clone(refusals).try_acquire_owned() else {
            return self.refused(refusal);
        };
        refused.spawn(async move {
            let _permit = permit;
            let answered = hands(stream, Some(refusal)).await;
            port.refused(answered.err().unwrap_or(refusal));
        });
    }

    fn refused(&self, refusal: Refusal) {
        self.metrics.refused.get([refusal.as_str()]).inc();
        debug!(reason = %refusal, "reader refused");
    }
}

async fn hands(
    stream: TcpStream,
    refused: Option<Refusal>,
) -> Result<(WebSocketStream<TcpStream>, Wish), Refusal> {
    handshake::shake_hands(stream, refused, reader::socket_config(), HANDSHAKE).await
}

/// The label of the readers that read as `wish` says.
const fn via(wish: Wish) -> &'static str {
    match (wish.audience, wish.encoding) {
        (Audience::Flashblocks, Encoding::Json) => "websocket",
        (Audience::Flashblocks, Encoding::Brotli) => "websocket_brotli",
        (Audience::Everything, Encoding::Json) => "preconf_v1",
        (Audience::Everything, Encoding::Brotli) => "preconf_v1_brotli",
    }
}

fn report(ended: Result<(), JoinError>) {
    if let Err(failure) = ended
        && failure.is_panic()
    {
        error!(%failure, "a reader's task panicked");
    }
}
