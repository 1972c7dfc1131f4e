//! A consumer and a builder that do what a test says, behind real sockets.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use alloy_primitives::{Address, B256, Bytes, keccak256};
use futures_util::stream;
use preconf_chassis::{Context, Endpoint, Security, grpc};
use preconf_pending::snapshot::Update;
use preconf_primitives::{TransactionRefusal, TransactionRefusalReason};
use preconf_wire::{
    ingress::{self, IngressService},
    pending::{self, PendingService, UpdateStream},
};
use tokio::sync::{mpsc, watch};
use tonic::service::Routes;

use super::DEADLINE;

pub(crate) struct Consumer {
    context: Context,
    script: Arc<Updates>,
}

/// What every new subscriber gets first, and those who are there.
struct Updates {
    greeting: watch::Sender<Vec<Arc<Update>>>,
    subscribers: Mutex<Vec<mpsc::Sender<Arc<Update>>>>,
    subscriptions: watch::Sender<usize>,
}

impl Consumer {
    pub(crate) async fn start(socket: &Path) -> Self {
        let script = Arc::new(Updates {
            greeting: watch::Sender::default(),
            subscribers: Mutex::default(),
            subscriptions: watch::Sender::default(),
        });
        let routes = Routes::new(pending::server(Arc::clone(&script)));
        Self { context: serve(socket, routes).await, script }
    }

    /// Sends an update to whoever is subscribed.
    pub(crate) fn send(&self, update: Update) {
        let update = Arc::new(update);
        for subscriber in self.script.subscribers.lock().unwrap().iter() {
            // One that is gone is no longer of interest.
            let _ = subscriber.try_send(Arc::clone(&update));
        }
    }

    /// Sends an update to whoever is subscribed, and to everybody who will be.
    pub(crate) fn greet_with(&self, update: Update) {
        self.script.greeting.send_replace(vec![Arc::new(update.clone())]);
        self.send(update);
    }

    /// Waits until somebody has subscribed so many times.
    pub(crate) async fn until_subscribed(&self, times: usize) {
        let mut subscriptions = self.script.subscriptions.subscribe();
        let enough = subscriptions.wait_for(|subscriptions| *subscriptions >= times);
        tokio::time::timeout(DEADLINE, enough).await.unwrap().unwrap();
    }

    /// Ends every stream and closes the socket.
    pub(crate) async fn stop(self) {
        self.script.subscribers.lock().unwrap().clear();
        self.context.finish(Duration::ZERO).await.unwrap();
    }
}

impl PendingService for Updates {
    fn subscribe(&self) -> Option<UpdateStream> {
        let (updates, subscriber) = mpsc::channel(16);
        let mut subscribers = self.subscribers.lock().unwrap();
        for update in self.greeting.borrow().iter() {
            updates.try_send(Arc::clone(update)).unwrap();
        }
        subscribers.push(updates);
        self.subscriptions.send_modify(|subscriptions| *subscriptions += 1);
        Some(Box::pin(stream::unfold(subscriber, async |mut subscriber| {
            subscriber.recv().await.map(|update| (update, subscriber))
        })))
    }
}

pub(crate) struct Builder {
    _context: Context,
    script: Arc<PoolScript>,
}

#[derive(Default)]
struct PoolScript {
    refusal: Mutex<Option<TransactionRefusal>>,
    submitted: Mutex<Vec<Bytes>>,
    waiting: Mutex<HashMap<B256, Bytes>>,
    nonces: Mutex<HashMap<Address, u64>>,
}

impl Builder {
    pub(crate) async fn start(socket: &Path) -> Self {
        let script = Arc::<PoolScript>::default();
        let routes = Routes::new(ingress::server(Arc::clone(&script)));
        Self { _context: serve(socket, routes).await, script }
    }

    pub(crate) fn refuse(&self, reason: TransactionRefusalReason, detail: &str) {
        *self.script.refusal.lock().unwrap() = Some(TransactionRefusal::new(reason, detail));
    }

    pub(crate) fn submitted(&self) -> Vec<Bytes> {
        self.script.submitted.lock().unwrap().clone()
    }

    pub(crate) fn hold(&self, transaction: Bytes) {
        self.script.waiting.lock().unwrap().insert(keccak256(&transaction), transaction);
    }

    pub(crate) fn next_nonce(&self, sender: Address, nonce: u64) {
        self.script.nonces.lock().unwrap().insert(sender, nonce);
    }
}

impl IngressService for PoolScript {
    async fn submit(&self, transaction: Bytes) -> Result<B256, TransactionRefusal> {
        if let Some(refusal) = self.refusal.lock().unwrap().clone() {
            return Err(refusal);
        }
        let hash = keccak256(&transaction);
        self.submitted.lock().unwrap().push(transaction);
        Ok(hash)
    }

    async fn transaction(&self, hash: B256) -> Option<Bytes> {
        self.waiting.lock().unwrap().get(&hash).cloned()
    }

    async fn next_nonce(&self, sender: Address) -> Option<u64> {
        self.nonces.lock().unwrap().get(&sender).copied()
    }
}

async fn serve(socket: &Path, routes: Routes) -> Context {
    let context = Context::for_test();
    let endpoint = Endpoint::Unix(socket.to_owned());
    let listener = context.bind("peer", &endpoint, &Security::default()).await.unwrap();
    context.tasks.spawn("grpc", grpc::serve(listener, routes, context.shutdown.clone()));
    context
}
