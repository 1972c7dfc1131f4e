//! A builder that publishes a script, over real gRPC.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context as Poller, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, future::BoxFuture, stream};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use preconf_chassis::{Context, Endpoint, Listener, Security, grpc};
use preconf_primitives::Position;
use preconf_wire::feed::{self, FeedItem, FeedService, FeedStream, SubscribeError};
use tokio::{
    sync::{broadcast, watch},
    time::timeout,
};
use tokio_stream::wrappers::BroadcastStream;
use tonic::{
    body::Body,
    codegen::{Service, http},
    server::NamedService,
    service::Routes,
};

use crate::world::SOON;

/// One gRPC message whose flashblock has none of its fields.
const MALFORMED: &[u8] = &[0, 0, 0, 0, 2, 0x0a, 0x00];

/// What a builder has published, and who has asked for it. Outlives the process of the builder.
#[derive(Clone)]
pub(crate) struct Script(Arc<Shared>);

struct Shared {
    published: Mutex<Vec<Arc<FeedItem>>>,
    live: broadcast::Sender<Arc<FeedItem>>,
    cursors: watch::Sender<Vec<Option<Position>>>,
    /// How many malformed messages each stream begins with.
    malformed: AtomicUsize,
}

impl Script {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Shared {
            published: Mutex::default(),
            live: broadcast::Sender::new(256),
            cursors: watch::Sender::default(),
            malformed: AtomicUsize::new(0),
        }))
    }

    /// Publishes an item: whoever comes later gets it too.
    pub(crate) fn publish(&self, item: FeedItem) {
        let mut published = self.0.published.lock();
        let item = Arc::new(item);
        published.push(Arc::clone(&item));
        let _ = self.0.live.send(item);
    }

    /// Publishes an item that nobody gets unless it is replayed.
    pub(crate) fn lose(&self, item: FeedItem) {
        self.0.published.lock().push(Arc::new(item));
    }

    /// Sends an item to those who are there, and never again.
    pub(crate) fn inject(&self, item: FeedItem) {
        let _published = self.0.published.lock();
        self.0.live.send(Arc::new(item)).unwrap();
    }

    pub(crate) fn begin_streams_with_malformed(&self, count: usize) {
        self.0.malformed.store(count, Ordering::SeqCst);
    }

    /// With what cursors the feed was asked for, in order.
    pub(crate) fn cursors(&self) -> Vec<Option<Position>> {
        self.0.cursors.borrow().clone()
    }

    /// Waits until the feed was asked for so many times.
    pub(crate) async fn until_asked(&self, times: usize) {
        let mut cursors = self.0.cursors.subscribe();
        let asked = cursors.wait_for(|cursors| cursors.len() >= times);
        timeout(SOON, asked).await.expect("it is asked in time").unwrap();
    }
}

impl FeedService for Script {
    fn subscribe(&self, cursor: Option<Position>) -> Result<FeedStream, SubscribeError> {
        self.0.cursors.send_modify(|cursors| cursors.push(cursor));
        let published = self.0.published.lock();
        let live = BroadcastStream::new(self.0.live.subscribe());
        let current = || published.iter().filter_map(|item| position(item)).map(|at| at.seq).max();
        let from = cursor.or_else(|| current().map(|seq| Position::new(seq, 0)));
        let start = published.iter().position(|item| position(item) >= from).unwrap_or(0);
        let replay = published[start..].to_vec();
        let live = live.map(|item| item.expect("the script is shorter than the channel"));
        Ok(Box::pin(stream::iter(replay).chain(live)))
    }
}

fn position(item: &FeedItem) -> Option<Position> {
    match item {
        FeedItem::Flashblock(signed) => Some(signed.flashblock.position()),
        _ => None,
    }
}

/// A running builder. Ends when it is stopped.
pub(crate) struct Builder {
    context: Context,
}

impl Builder {
    pub(crate) async fn start(script: &Script, endpoint: &Endpoint) -> Self {
        let context = Context::for_test();
        let listener = context.bind("feed", endpoint, &Security::default()).await.unwrap();
        Self::serve(context, listener, script)
    }

    /// One that serves certificates with this name only.
    pub(crate) async fn start_for(
        script: &Script,
        security: &Security,
        name: &str,
    ) -> (Self, Endpoint) {
        let context = Context::for_test();
        let anywhere = "https://localhost:0".parse().unwrap();
        let listener = context.bind("feed", &anywhere, security).await.unwrap();
        let listener = listener.allow_names(vec![name.to_owned()]);
        let endpoint = listener.local().clone();
        (Self::serve(context, listener, script), endpoint)
    }

    fn serve(context: Context, listener: Listener, script: &Script) -> Self {
        let malformed = script.0.malformed.load(Ordering::SeqCst);
        let service = Malformed(feed::server(Arc::new(script.clone())), malformed);
        let serving = grpc::serve(listener, Routes::new(service), context.shutdown.clone());
        context.tasks.spawn("feed", serving);
        Self { context }
    }

    /// Ends it as a crash would: its streams break.
    pub(crate) async fn stop(self) {
        self.context.finish(Duration::ZERO).await.unwrap();
    }
}

/// Puts malformed messages before the first one of each stream.
#[derive(Clone)]
struct Malformed<S>(S, usize);

impl<S> Service<http::Request<Body>> for Malformed<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, context: &mut Poller<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (response, mut malformed) = (self.0.call(request), MALFORMED.repeat(self.1));
        let prefixed = move |data: Bytes| [std::mem::take(&mut malformed).into(), data].concat();
        Box::pin(async move {
            let (parts, body) = response.await?.into_parts();
            let mut prefixed = prefixed;
            let body = body.map_frame(move |frame| frame.map_data(|data| prefixed(data).into()));
            Ok(http::Response::from_parts(parts, Body::new(body)))
        })
    }
}

impl<S: NamedService> NamedService for Malformed<S> {
    const NAME: &'static str = S::NAME;
}
