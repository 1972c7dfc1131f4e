//! The life of a subscription: connect, tell, and after each end wait and connect again.
//!
//! One task reads the connection into a bounded queue. When the queue is full the connection is not
//! read, so the peer feels it and may leave us as too slow; nothing is thrown away here.

use std::time::Duration;

use preconf_chassis::{Backoff, ConfigError, Security};
use preconf_primitives::Position;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;

use crate::{Disconnect, Event, FeedUrl, grpc::GrpcFeed, websocket::WebSocketFeed};

/// How long connecting may take, from the first packet to an accepted subscription.
const CONNECT: Duration = Duration::from_secs(5);
/// A connection that lasted this long was a good one: the next delay is the shortest again.
const STABLE: Duration = Duration::from_secs(5);

/// How a feed is followed.
#[derive(Clone, Debug)]
pub struct Config {
    /// What a gRPC connection is authenticated with.
    pub security: Security,
    /// How many events wait for the owner.
    pub queue: usize,
    /// How long a WebSocket peer may be silent, pongs included. A gRPC peer is watched by keepalive.
    pub idle: Duration,
    /// Whether to tell the JSON of each WebSocket frame before what it means.
    pub raw: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { security: Security::default(), queue: 64, idle: Duration::from_secs(30), raw: false }
    }
}

/// A feed that is being followed. Dropping it ends the connection.
#[derive(Debug)]
pub struct Subscription {
    events: mpsc::Receiver<(u64, Event)>,
    /// Counts the calls of `reconnect`. Events of an earlier count are stale.
    generation: watch::Sender<u64>,
    _task: AbortOnDropHandle<()>,
}

impl Subscription {
    /// Follows the feed at `url`, and asks `cursor` for the first position wanted each time it
    /// connects (`None`: index 0 of the current session). Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// If the security settings do not allow the endpoint.
    pub fn spawn(
        url: FeedUrl,
        config: Config,
        cursor: impl Fn() -> Option<Position> + Send + 'static,
    ) -> Result<Self, ConfigError> {
        if let FeedUrl::Grpc(endpoint) = &url {
            config.security.check(endpoint)?;
        }
        let (queue, events) = mpsc::channel(config.queue.max(1));
        let (generation, generations) = watch::channel(0);
        let follower = Follower { url, config, cursor: Box::new(cursor), queue, generations };
        let task = AbortOnDropHandle::new(tokio::spawn(follower.run()));
        Ok(Self { events, generation, _task: task })
    }

    /// Waits for the next event. Cancel safe.
    pub async fn next(&mut self) -> Event {
        loop {
            let (generation, event) =
                self.events.recv().await.expect("the task ends only when this is dropped");
            if generation == *self.generation.borrow() {
                return event;
            }
        }
    }

    /// Leaves the connection and connects again, at the cursor of then, after the usual delay.
    ///
    /// What was received and not told yet is forgotten, and the end of the old connection is not
    /// told: the next event is of the new one.
    pub fn reconnect(&mut self) {
        self.generation.send_modify(|generation| *generation += 1);
    }
}

struct Follower {
    url: FeedUrl,
    config: Config,
    cursor: Box<dyn Fn() -> Option<Position> + Send>,
    queue: mpsc::Sender<(u64, Event)>,
    generations: watch::Receiver<u64>,
}

/// Why a connection is left.
enum End {
    /// It ended by itself.
    Disconnected(Disconnect),
    /// The owner asked to start again.
    Asked,
    /// The owner is gone.
    Dropped,
}

impl Follower {
    async fn run(mut self) {
        let mut backoff = Backoff::new();
        loop {
            let generation = *self.generations.borrow_and_update();
            let started_at = Instant::now();
            let end = match self.follow(generation).await {
                Ok(never) => match never {},
                Err(end) => end,
            };
            let told = match end {
                End::Disconnected(disconnect) => {
                    self.tell(generation, Event::Disconnected(disconnect)).await
                }
                End::Asked => Ok(()),
                End::Dropped => Err(End::Dropped),
            };
            if let Err(End::Dropped) = told {
                return;
            }
            if started_at.elapsed() >= STABLE {
                backoff.reset();
            }
            backoff.wait().await;
        }
    }

    async fn follow(&mut self, generation: u64) -> Result<std::convert::Infallible, End> {
        let mut connection = tokio::select! {
            connected = Connection::open(&self.url, &self.config, (self.cursor)()) => {
                connected.map_err(End::Disconnected)?
            }
            () = changed(&mut self.generations) => return Err(End::Asked),
        };
        self.tell(generation, Event::Connected).await?;
        loop {
            let event = tokio::select! {
                event = connection.next() => event.map_err(End::Disconnected)?,
                () = changed(&mut self.generations) => return Err(End::Asked),
            };
            self.tell(generation, event).await?;
        }
    }

    /// Waits for room in the queue, unless the owner wants no more of this connection.
    async fn tell(&mut self, generation: u64, event: Event) -> Result<(), End> {
        tokio::select! {
            biased;
            sent = self.queue.send((generation, event)) => sent.map_err(|_| End::Dropped),
            () = changed(&mut self.generations) => Err(End::Asked),
        }
    }
}

/// Waits until the owner asks to start again. If the owner is gone, so is the task that waits.
async fn changed(generations: &mut watch::Receiver<u64>) {
    if generations.changed().await.is_err() {
        std::future::pending().await
    }
}

enum Connection {
    Grpc(GrpcFeed),
    WebSocket(Box<WebSocketFeed>),
}

impl Connection {
    async fn open(
        url: &FeedUrl,
        config: &Config,
        cursor: Option<Position>,
    ) -> Result<Self, Disconnect> {
        match url {
            FeedUrl::Grpc(endpoint) => {
                GrpcFeed::connect(endpoint, &config.security, cursor, CONNECT).await.map(Self::Grpc)
            }
            FeedUrl::WebSocket(url) => {
                let feed =
                    WebSocketFeed::connect(url, cursor, config.raw, config.idle, CONNECT).await?;
                Ok(Self::WebSocket(Box::new(feed)))
            }
        }
    }

    async fn next(&mut self) -> Result<Event, Disconnect> {
        match self {
            Self::Grpc(feed) => feed.next().await,
            Self::WebSocket(feed) => feed.next().await,
        }
    }
}
