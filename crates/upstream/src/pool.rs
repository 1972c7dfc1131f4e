//! The transactions that wait in the execution client's pool, as they come.
//!
//! What waits already is read with `txpool_content`, what comes later over a WebSocket subscription
//! with whole transactions. Where the client notifies hashes only, and for blob transactions, whose
//! JSON lacks the blobs, the encoding is asked for. Without a WebSocket the pool is read again every
//! [`REREAD`], and beside a subscription once in a while, which may have gone deaf.
//!
//! Whoever is notified goes on being so while the pool is read: reading a large one takes seconds.
//!
//! What is handed on may be handed on again, and need not be there any more. A transaction that
//! makes no sense is left out. Nothing runs unless the stream is polled.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use alloy_consensus::Typed2718 as _;
use alloy_eips::eip2718::Encodable2718 as _;
use alloy_primitives::{B256, Bytes};
use futures_util::{Stream, future::BoxFuture, stream};
use jsonrpsee::rpc_params;
use preconf_chain::rpc::RpcTransaction;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use crate::blocks::away;
use crate::client::Upstream;
use crate::error::UpstreamError;
use crate::subscription::{Notifications, Subscriber, Topic};

/// How often the pool is read where it is not subscribed to.
const REREAD: Duration = Duration::from_secs(1);
/// After a failure.
const PAUSE: Duration = Duration::from_secs(5);
/// A busy pool takes some thousand transactions in a second.
const WAITING: usize = 8_192;
/// Of how many notifications the hashes are known until the pool is read.
const REMEMBERED: usize = 65_536;
/// The type of transactions that bring blobs.
const BLOB_TYPE: u8 = 3;

impl Upstream {
    /// The encoded transactions of the client's pool, and those that come: blob transactions with
    /// their blobs. The stream never ends; while the client cannot be reached it is silent, which
    /// is logged.
    pub fn pool(&self) -> impl Stream<Item = Bytes> + Send + Unpin + use<> {
        let topic = Topic {
            name: "pending transactions",
            params: rpc_params!["newPendingTransactions", true],
            waiting: WAITING,
        };
        let listener = Listener {
            upstream: self.clone(),
            subscriber: Subscriber::new(topic),
            notifications: None,
            read_at: Instant::now(),
            reading: None,
            seen: Arc::default(),
            notified: HashSet::new(),
            ready: VecDeque::new(),
        };
        Box::pin(stream::unfold(listener, |mut listener| async {
            let transaction = listener.next().await;
            Some((transaction, listener))
        }))
    }
}

/// `txpool_content`: by sender and nonce.
#[derive(Deserialize)]
struct Content {
    pending: List,
    queued: List,
}

type List = BTreeMap<String, BTreeMap<String, Box<RawValue>>>;

struct Listener {
    upstream: Upstream,
    subscriber: Subscriber,
    notifications: Option<Notifications>,
    /// When to read the pool as a whole.
    read_at: Instant,
    /// It is being read.
    reading: Option<BoxFuture<'static, Read>>,
    /// What it held when it was read.
    seen: Arc<HashSet<B256>>,
    /// What came since then.
    notified: HashSet<B256>,
    ready: VecDeque<Waiting>,
}

/// What the pool holds, and what of it was not there when it was read before.
type Read = Result<(HashSet<B256>, Vec<Waiting>), UpstreamError>;

/// A transaction to be handed on.
enum Waiting {
    Encoded(B256, Bytes),
    /// Only known by its hash, or without what belongs to it.
    Named(B256),
}

impl Waiting {
    const fn hash(&self) -> B256 {
        match self {
            Self::Encoded(hash, _) | Self::Named(hash) => *hash,
        }
    }
}

impl Listener {
    async fn next(&mut self) -> Bytes {
        loop {
            match self.ready.pop_front() {
                Some(Waiting::Encoded(_, encoded)) => return encoded,
                Some(Waiting::Named(hash)) => {
                    if let Some(encoded) = encoded(&self.upstream, hash).await {
                        return encoded;
                    }
                    // If it is there, it is in the pool when that is read.
                    self.notified.remove(&hash);
                }
                None => self.listen().await,
            }
        }
    }

    async fn listen(&mut self) {
        if self.notifications.is_none()
            && let Some(url) = &self.upstream.0.config.ws
        {
            let deadline = self.upstream.0.config.timeout;
            self.notifications = self.subscriber.attempt(url, deadline).await;
            if self.notifications.is_some() {
                // Whatever came before the subscription began.
                self.read_at = Instant::now();
                self.reading = None;
            }
        }
        if self.reading.is_none() && Instant::now() >= self.read_at {
            let reading = content(self.upstream.clone(), Arc::clone(&self.seen));
            self.reading = Some(Box::pin(reading));
        }
        tokio::select! {
            read = until_read(&mut self.reading) => {
                self.reading = None;
                self.take(read);
            }
            notification = until_notified(&mut self.notifications) => match notification {
                Some(notification) => self.take_one(&notification),
                None => {
                    warn!(host = self.upstream.host(), "the subscription to the pool has ended");
                    self.notifications = None;
                }
            },
            () = sleep_until(self.read_at), if self.reading.is_none() => {}
        }
    }

    fn take_one(&mut self, notification: &RawValue) {
        let Some(waiting) = waiting(notification) else { return };
        if self.notified.len() < REMEMBERED {
            self.notified.insert(waiting.hash());
        }
        self.ready.push_back(waiting);
    }

    fn take(&mut self, read: Read) {
        match read {
            Ok((mut seen, new)) => {
                let notified = std::mem::take(&mut self.notified);
                let is_new = |waiting: &Waiting| !notified.contains(&waiting.hash());
                self.ready.extend(new.into_iter().filter(is_new));
                seen.extend(notified);
                self.seen = Arc::new(seen);
                self.read_at = Instant::now() + REREAD;
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                warn!(host = self.upstream.host(), error, "the pool of the client is not read");
                self.read_at = Instant::now() + PAUSE;
            }
        }
        if self.notifications.is_some() {
            // It says what comes; if it goes deaf, the pool is read after all.
            self.read_at = Instant::now() + self.upstream.0.config.reread_interval;
        }
    }
}

/// A transaction of the pool.
async fn encoded(upstream: &Upstream, hash: B256) -> Option<Bytes> {
    let asked: Result<Option<Bytes>, _> =
        upstream.call("eth_getRawTransactionByHash", (hash,), hash).await;
    match asked {
        Ok(encoded) => encoded,
        Err(error) => {
            debug!(%hash, error = &error as &dyn std::error::Error, "is not read");
            None
        }
    }
}

/// Reads the pool, which held that `before`.
async fn content(upstream: Upstream, before: Arc<HashSet<B256>>) -> Read {
    const METHOD: &str = "txpool_content";
    let content = upstream.large(METHOD).await?;
    away(move || {
        let content: Content = upstream.decode(METHOD, &content)?;
        let lists = content.pending.values().chain(content.queued.values());
        let (mut seen, mut new) = (HashSet::new(), Vec::new());
        for entry in lists.flat_map(BTreeMap::values) {
            let Some(hash) = hash_of(entry) else { continue };
            if !before.contains(&hash) {
                let Some(waiting) = waiting(entry) else { continue };
                new.push(waiting);
            }
            seen.insert(hash);
        }
        Ok((seen, new))
    })
    .await
}

/// What is being read, when it has been. Cancel safe.
async fn until_read(reading: &mut Option<BoxFuture<'static, Read>>) -> Read {
    match reading {
        Some(reading) => reading.await,
        None => pending().await,
    }
}

/// The next notification; none when the subscription has ended. Cancel safe.
async fn until_notified(notifications: &mut Option<Notifications>) -> Option<Box<RawValue>> {
    match notifications {
        Some(notifications) => notifications.next().await,
        None => pending().await,
    }
}

fn hash_of(json: &RawValue) -> Option<B256> {
    #[derive(Deserialize)]
    struct Named {
        hash: B256,
    }
    serde_json::from_str::<Named>(json.get()).ok().map(|named| named.hash)
}

/// What a notification or an entry of the pool is about.
fn waiting(json: &RawValue) -> Option<Waiting> {
    if let Ok(hash) = serde_json::from_str::<B256>(json.get()) {
        return Some(Waiting::Named(hash));
    }
    match serde_json::from_str::<RpcTransaction>(json.get()) {
        Ok(shown) if shown.transaction.ty() == BLOB_TYPE => {
            Some(Waiting::Named(*shown.transaction.hash()))
        }
        Ok(shown) => {
            let encoded = shown.transaction.encoded_2718();
            Some(Waiting::Encoded(*shown.transaction.hash(), encoded.into()))
        }
        Err(error) => {
            debug!(%error, "an entry of the pool is no transaction");
            None
        }
    }
}
