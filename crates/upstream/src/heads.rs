//! The head of the canonical chain, as it moves.
//!
//! New heads come over a WebSocket subscription where there is one, and are polled over HTTP
//! otherwise, also while the subscription is being restored. What is handed on is gapless: heads
//! that were missed are fetched by their hashes, back to the last one handed on or, after a reorg,
//! to the common ancestor, but no more than [`MAX_FILLED_HEADS`].

use std::collections::VecDeque;
use std::time::Duration;

use alloy_primitives::B256;
use futures_util::{Stream, stream};
use jsonrpsee::rpc_params;
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use crate::blocks::{Head, Named};
use crate::client::Upstream;
use crate::error::UpstreamError;
use crate::subscription::{Notifications, Subscriber, Topic};

/// The most heads that are handed on for one new head.
pub const MAX_FILLED_HEADS: usize = 64;

/// How many heads are remembered to find where a new one connects.
const REMEMBERED: usize = 128;

/// Notifications that may wait; if more come the subscription is closed and made anew.
const MAX_WAITING_NOTIFICATIONS: usize = 64;

/// Without a notification for this long the head is asked for: subscriptions can go deaf.
const SILENCE: Duration = Duration::from_secs(6);

/// The longest pause between two attempts to ask for the head.
const MAX_PAUSE: Duration = Duration::from_secs(5);

impl Upstream {
    /// The heads from now on, the present one first. The stream never ends; while the client
    /// cannot be reached it is silent, which is logged. Nothing runs unless it is polled.
    pub fn heads(&self) -> impl Stream<Item = Head> + Send + Unpin + use<> {
        let follower = Follower {
            upstream: self.clone(),
            subscriber: Subscriber::new(Topic {
                name: "new heads",
                params: rpc_params!["newHeads"],
                waiting: MAX_WAITING_NOTIFICATIONS,
            }),
            subscription: None,
            ask_at: Instant::now(),
            failures: 0,
            handed_on: VecDeque::with_capacity(REMEMBERED),
            ready: VecDeque::new(),
        };
        Box::pin(stream::unfold(follower, |mut follower| async {
            let head = follower.next().await;
            Some((head, follower))
        }))
    }
}

struct Follower {
    upstream: Upstream,
    subscriber: Subscriber,
    subscription: Option<Notifications>,
    /// When to ask over HTTP if nothing is notified before.
    ask_at: Instant,
    /// How often in a row the client could not be asked.
    failures: u32,
    /// The hashes handed on, oldest first.
    handed_on: VecDeque<B256>,
    /// Heads to hand on, oldest first.
    ready: VecDeque<Head>,
}

impl Follower {
    async fn next(&mut self) -> Head {
        loop {
            if let Some(head) = self.ready.pop_front() {
                if self.handed_on.len() == REMEMBERED {
                    self.handed_on.pop_front();
                }
                self.handed_on.push_back(head.hash);
                return head;
            }
            match self.advance().await {
                Ok(()) => self.recovered(),
                Err(error) => self.failed(&error),
            }
        }
    }

    /// Waits for a sign of a new head and queues what it leads to, if anything.
    async fn advance(&mut self) -> Result<(), UpstreamError> {
        self.subscribe().await;
        let notified = match &mut self.subscription {
            None => {
                sleep_until(self.ask_at).await;
                None
            }
            Some(subscription) => tokio::select! {
                notification = subscription.next() => Some(notification),
                () = sleep_until(self.ask_at) => None,
            },
        };
        let known = self.handed_on.back().copied();
        let tip = match notified {
            Some(Some(header)) => self.notified(&header).await?,
            Some(None) => {
                warn!(host = self.upstream.host(), "the subscription to new heads has ended");
                self.subscription = None;
                self.ask_at = Instant::now();
                return Ok(());
            }
            None => self.upstream.latest_unless(known).await?,
        };
        if let Some(tip) = tip {
            self.queue(tip).await?;
        }
        let subscribed = self.subscription.is_some();
        let pause = if subscribed { SILENCE } else { self.upstream.0.config.poll_interval };
        self.ask_at = Instant::now() + pause;
        Ok(())
    }

    /// The head that a notification is about. What the notification says of it is taken only if it
    /// hashes to what it is called; some clients leave fields out. One that was handed on already
    /// may have waited while the head moved on, so the client is asked what is true now.
    async fn notified(&self, header: &RawValue) -> Result<Option<Head>, UpstreamError> {
        let call = "a notification of eth_subscribe newHeads";
        let Named { hash } = self.upstream.decode(call, header)?;
        if self.handed_on.contains(&hash) {
            return self.upstream.latest_unless(self.handed_on.back().copied()).await;
        }
        match self.upstream.read_header(call, header) {
            Ok(head) => Ok(head),
            Err(error) => {
                debug!(error = &error as &dyn std::error::Error, "asking for the header instead");
                self.upstream.header(hash).await
            }
        }
    }

    /// Queues a tip and its ancestors that have not been handed on.
    async fn queue(&mut self, tip: Head) -> Result<(), UpstreamError> {
        let mut newest_first = vec![tip];
        while let Some(oldest) = newest_first.last()
            && newest_first.len() < MAX_FILLED_HEADS
            && !self.connects(oldest)
        {
            match self.upstream.header(oldest.parent_hash).await? {
                Some(parent) => newest_first.push(parent),
                None => break,
            }
        }
        self.ready.extend(newest_first.into_iter().rev());
        Ok(())
    }

    fn connects(&self, head: &Head) -> bool {
        self.handed_on.is_empty() || head.number == 0 || self.handed_on.contains(&head.parent_hash)
    }

    async fn subscribe(&mut self) {
        let config = &self.upstream.0.config;
        let Some(url) = config.ws.as_ref().filter(|_| self.subscription.is_none()) else { return };
        self.subscription = self.subscriber.attempt(url, config.timeout).await;
        if self.subscription.is_some() {
            // Whatever came before the subscription began.
            self.ask_at = Instant::now();
        }
    }

    fn recovered(&mut self) {
        if self.failures > 0 {
            info!(host = self.upstream.host(), failures = self.failures, "the head is known again");
        }
        self.failures = 0;
    }

    fn failed(&mut self, error: &UpstreamError) {
        if self.failures == 0 {
            let error = error as &dyn std::error::Error;
            warn!(host = self.upstream.host(), error, "the head of the chain is not known");
        }
        self.failures = self.failures.saturating_add(1);
        let pause = self.upstream.0.config.poll_interval * 2u32.pow(self.failures.min(10));
        self.ask_at = Instant::now() + pause.min(MAX_PAUSE);
    }
}
