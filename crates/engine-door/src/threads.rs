//! The door's threads.
//!
//! It is open before anything else is there, and closes last. Nothing but forwarding runs on its
//! threads, so whatever blocks or fills the others does not delay it.
//!
//! HTTP/1.1 only. So many connections are served at a time, and further ones wait in the kernel's
//! queue. Whoever does not send the head of a request in time loses the connection; that counts from
//! the end of the request before, so it is longer than consensus clients keep an idle connection: it
//! is they who close it, and none of their requests is lost. While all places are taken, whoever has
//! not sent any soon after connecting makes room.

use std::{
    future::{pending, ready},
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use axum::{Router, extract::Request, middleware::map_request};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use preconf_chassis::{Context, Shutdown};
use tokio::{
    net::{self, TcpStream},
    runtime::{Builder, Runtime},
    sync::{Notify, Semaphore},
    task::JoinSet,
    time::{sleep, timeout},
};

/// Enough for one consensus client, one of whose bodies is being parsed.
const THREADS: usize = 2;
/// How long to wait when the operating system has no more file descriptors for us.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a peer may take.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// How many connections are served at a time.
    connections: usize,
    /// How long a connection may be idle, the head of its next request included.
    head: Duration,
    /// How long one may take to its first request while others wait.
    first: Duration,
}

/// Consensus clients have a handful of connections, and give up idle ones after five minutes or less.
const LIMITS: Limits =
    Limits { connections: 256, head: Duration::from_secs(330), first: Duration::from_secs(5) };

/// Binds the door and serves it `until` the rest of this process has ended, and then until what is
/// under way is answered.
///
/// # Errors
/// If the address cannot be bound.
pub(crate) fn spawn(
    context: &Context,
    address: SocketAddr,
    router: Router,
    until: Shutdown,
) -> io::Result<SocketAddr> {
    let bind =
        |source: io::Error| io::Error::new(source.kind(), format!("binding {address}: {source}"));
    let listener = TcpListener::bind(address).map_err(bind)?;
    listener.set_nonblocking(true)?;
    let local = listener.local_addr()?;
    context.announce("engine", &format_args!("http://{local}"));
    let threads = Threads::start()?;
    context.tasks.spawn("engine", async move {
        let served = threads.get().spawn(serve(listener, router, until, LIMITS));
        served.await.map_err(io::Error::other)?
    });
    Ok(local)
}

async fn serve(
    listener: TcpListener,
    router: Router,
    until: Shutdown,
    limits: Limits,
) -> io::Result<()> {
    let listener = net::TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, accept(&listener).await)
        };
        tokio::select! {
            () = until.cancelled() => break,
            (place, stream) = accepted => {
                let (asked, router) = noting(router.clone());
                let connection = connection(stream, router, until.clone(), limits.head);
                let silent = silent(asked, Arc::clone(&places), limits.first);
                connections.spawn(async move {
                    let _place = place;
                    tokio::select! {
                        () = connection => {}
                        () = silent => {}
                    }
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
    Ok(())
}

async fn accept(listener: &net::TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// The same router, and who is told of each request.
fn noting(router: Router) -> (Arc<Notify>, Router) {
    let asked = Arc::<Notify>::default();
    let told = Arc::clone(&asked);
    let note = move |request: Request| {
        told.notify_one();
        ready(request)
    };
    (asked, router.layer(map_request(note)))
}

/// Ends when nothing was asked in time, and somebody may wait for the place.
async fn silent(asked: Arc<Notify>, places: Arc<Semaphore>, first: Duration) {
    while timeout(first, asked.notified()).await.is_err() {
        if places.available_permits() == 0 {
            return;
        }
    }
    pending::<()>().await;
}

/// Serves one connection until its peer closes it, and after `until` what is under way.
async fn connection(stream: TcpStream, router: Router, until: Shutdown, head: Duration) {
    // A stream that cannot be tuned still serves.
    let _ = stream.set_nodelay(true);
    let mut http = auto::Builder::new(TokioExecutor::new()).http1_only();
    http.http1().timer(TokioTimer::new()).header_read_timeout(head);
    let service = TowerToHyperService::new(router);
    let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    // Whatever ends it, the peer is gone.
    tokio::select! {
        _ = &mut connection => return,
        () = until.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// A runtime that ends with its owner, without making it wait.
struct Threads(Option<Runtime>);

impl Threads {
    fn start() -> io::Result<Self> {
        let mut builder = Builder::new_multi_thread();
        let runtime = builder.worker_threads(THREADS).thread_name("engine").enable_all().build()?;
        Ok(Self(Some(runtime)))
    }

    fn get(&self) -> &Runtime {
        self.0.as_ref().expect("it is taken when it is dropped, and not before")
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::any;
    use preconf_engine::{EngineClient, EngineError, JwtSecret};
    use serde_json::Value;
    use tokio::{io::AsyncReadExt, time::timeout};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn the_door_is_open_until_the_rest_has_ended() {
        let context = Context::for_test();
        let until = Shutdown::new();
        let answer = || async { r#"{"id":1,"result":true}"# };
        let router = Router::new().fallback(any(answer));
        let loopback = "127.0.0.1:0".parse().unwrap();
        let address = spawn(&context, loopback, router, until.clone()).unwrap();
        let url = format!("http://{address}").parse().unwrap();
        let secret = Arc::new(JwtSecret::from_bytes([1; 32]));
        let client = EngineClient::new(&url, secret).unwrap();
        let ask = async || client.request::<_, bool>("eth_any", &Value::Null, DEADLINE).await;

        context.shutdown.trigger();
        assert!(ask().await.unwrap());
        until.trigger();
        context.finish(DEADLINE).await.map_err(|exit| exit.to_string()).unwrap();
        assert!(matches!(ask().await, Err(EngineError::Transport { .. })));
    }

    #[tokio::test]
    async fn whoever_says_nothing_makes_room_for_who_does() {
        let (short, long) = (Duration::from_millis(100), 2 * DEADLINE);
        for (head, first) in [(short, long), (long, short)] {
            makes_room(Limits { connections: 1, head, first }).await;
        }
    }

    async fn makes_room(limits: Limits) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let answer = || async { r#"{"id":1,"result":true}"# };
        let router = Router::new().fallback(any(answer));
        let until = Shutdown::new();
        let serving = tokio::spawn(serve(listener, router, until.clone(), limits));
        let mut silent = TcpStream::connect(address).await.unwrap();

        let url = format!("http://{address}").parse().unwrap();
        let secret = Arc::new(JwtSecret::from_bytes([1; 32]));
        let client = EngineClient::new(&url, secret).unwrap();
        assert!(client.request::<_, bool>("eth_any", &Value::Null, DEADLINE).await.unwrap());
        let mut said = Vec::new();
        timeout(DEADLINE, silent.read_to_end(&mut said)).await.unwrap().unwrap();
        until.trigger();
        timeout(DEADLINE, serving).await.unwrap().unwrap().unwrap();
    }
}
