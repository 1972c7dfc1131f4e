//! One `eth_subscribe`, with the connection that keeps it alive.

use std::time::Duration;

use jsonrpsee::core::ClientError;
use jsonrpsee::core::client::{Subscription, SubscriptionClientT};
use jsonrpsee::core::params::ArrayParams;
use jsonrpsee::ws_client::{PingConfig, WsClient, WsClientBuilder};
use serde_json::value::RawValue;
use tokio::time::timeout;
use tracing::{info, warn};
use url::Url;

use crate::client::{MAX_ANSWER_BYTES, host_of};

const PING_INTERVAL: Duration = Duration::from_secs(5);

/// The first pause between two attempts to subscribe; each failure doubles it up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A subscription that is there.
pub(crate) struct Notifications {
    subscription: Subscription<Box<RawValue>>,
    _connection: WsClient,
}

impl Notifications {
    /// The next one; none when the subscription has ended. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Box<RawValue>> {
        self.subscription.next().await?.ok()
    }
}

/// What is subscribed to.
#[derive(Clone, Debug)]
pub(crate) struct Topic {
    /// For logs.
    pub(crate) name: &'static str,
    pub(crate) params: ArrayParams,
    /// Notifications that may wait; if more come the subscription is closed and made anew.
    pub(crate) waiting: usize,
}

/// Subscribes, and waits longer after each failure.
pub(crate) struct Subscriber {
    topic: Topic,
    due: tokio::time::Instant,
    pause: Duration,
}

impl Subscriber {
    pub(crate) fn new(topic: Topic) -> Self {
        Self { topic, due: tokio::time::Instant::now(), pause: FIRST_PAUSE }
    }

    /// A subscription, unless it is too early to try again or the attempt fails, which is logged.
    pub(crate) async fn attempt(&mut self, url: &Url, deadline: Duration) -> Option<Notifications> {
        if tokio::time::Instant::now() < self.due {
            return None;
        }
        let (host, to) = (host_of(url), self.topic.name);
        let subscribed = match timeout(deadline, subscribe(url, deadline, &self.topic)).await {
            Ok(Ok(notifications)) => {
                info!(host, to, "subscribed");
                Some(notifications)
            }
            Ok(Err(error)) => {
                let error = &error as &dyn std::error::Error;
                warn!(host, to, error, "polling: cannot subscribe");
                None
            }
            Err(_) => {
                warn!(host, to, ?deadline, "polling: subscribing takes too long");
                None
            }
        };
        self.pause = match subscribed {
            Some(_) => FIRST_PAUSE,
            None => (self.pause * 2).min(LONGEST_PAUSE),
        };
        self.due = tokio::time::Instant::now() + self.pause;
        subscribed
    }
}

async fn subscribe(
    url: &Url,
    deadline: Duration,
    topic: &Topic,
) -> Result<Notifications, ClientError> {
    let ping = PingConfig::new().ping_interval(PING_INTERVAL).inactive_limit(2 * PING_INTERVAL);
    let connection = WsClientBuilder::new()
        .connection_timeout(deadline)
        .request_timeout(deadline)
        .max_response_size(MAX_ANSWER_BYTES)
        .max_buffer_capacity_per_subscription(topic.waiting)
        .enable_ws_ping(ping)
        .build(url.as_str())
        .await?;
    let params = topic.params.clone();
    let subscription = connection.subscribe("eth_subscribe", params, "eth_unsubscribe").await?;
    Ok(Notifications { subscription, _connection: connection })
}
