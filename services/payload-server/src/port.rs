//! The public port, with beacon-kit's limits.
//!
//! Decides how many connections are served at a time. When all places are taken, the oldest
//! connection on which no validator has asked is closed; if there is none, further ones wait, all but
//! the first of them in the kernel's queue, and get no answer until there is room. How long a peer
//! may be silent, send or receive, [`Timed`] decides. HTTP/1.1 only: a request is small, and one
//! answer at a time is all that anybody needs. Who sends cleartext to a port with TLS is told so.

mod cleartext;
mod strangers;
mod timed;

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    body::Body,
    extract::{Request, State},
    middleware::{self, Next},
    response::Response,
};
use http_body_util::BodyExt;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use preconf_chassis::Shutdown;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::debug;

use strangers::Strangers;
use timed::{Exchange, Timed, Times};

pub(crate) use strangers::Visitor;

/// How many connections are served at a time.
const MAX_CONNECTIONS: usize = 256;
/// The most bytes of a request's head.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// How long a TLS handshake may take, and refusing who speaks none.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long to wait when the operating system has no more file descriptors for us.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The public port.
pub(crate) struct Port {
    pub(crate) router: Router,
    /// None: in plaintext.
    pub(crate) tls: Option<Arc<ServerConfig>>,
    pub(crate) shutdown: Shutdown,
}

impl Port {
    /// Serves until shutdown, and then until the requests under way are answered.
    pub(crate) async fn serve(self, listener: TcpListener) -> Result<(), Infallible> {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let strangers = Strangers::default();
        let mut connections = JoinSet::new();
        loop {
            let stream = tokio::select! {
                () = self.shutdown.cancelled() => break,
                stream = accept(&listener) => stream,
                Some(_) = connections.join_next() => continue,
            };
            let place = tokio::select! {
                () = self.shutdown.cancelled() => break,
                place = place(&places, &strangers) => place,
            };
            let visitor = strangers.meet();
            let connection = Connection {
                router: self.router.clone().layer(Extension(visitor.clone())),
                tls: self.tls.clone(),
                shutdown: self.shutdown.clone(),
            };
            connections.spawn(async move {
                let _place = place;
                tokio::select! {
                    served = connection.serve(stream) => if let Err(error) = served {
                        debug!(error, "a connection failed");
                    },
                    () = visitor.goes() => debug!("a stranger's connection made room"),
                }
                visitor.is_no_stranger();
            });
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
        Ok(())
    }
}

/// What is left to say of a connection that failed.
type Failure = Box<dyn std::error::Error + Send + Sync>;

struct Connection {
    router: Router,
    tls: Option<Arc<ServerConfig>>,
    shutdown: Shutdown,
}

impl Connection {
    async fn serve(self, stream: TcpStream) -> Result<(), Failure> {
        let Some(config) = self.tls.clone() else {
            return self.speak(stream, Times::BEACON_KIT).await;
        };
        let accepting = timeout(HANDSHAKE, accept_tls(config, stream));
        tokio::select! {
            accepted = accepting => match accepted?? {
                Some(stream) => self.speak(stream, Times::BEACON_KIT).await,
                None => Ok(()),
            },
            // Who has asked nothing yet is owed no answer.
            () = self.shutdown.cancelled() => Ok(()),
        }
    }

    /// Speaks HTTP.
    async fn speak<S>(self, stream: S, times: Times) -> Result<(), Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let mut http = Builder::new(TokioExecutor::new()).http1_only();
        // What is read ahead of a body is small, too.
        http.http1().max_buf_size(MAX_HEAD_BYTES);
        let exchange = Exchange::new(times);
        let followed = middleware::from_fn_with_state(exchange.clone(), follow);
        let service = TowerToHyperService::new(self.router.layer(followed));
        let connection = http.serve_connection(TokioIo::new(Timed::new(stream, exchange)), service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            ended = &mut connection => return ended,
            () = self.shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    }
}

/// Begins to speak TLS, unless the peer speaks cleartext.
async fn accept_tls(
    config: Arc<ServerConfig>,
    mut stream: TcpStream,
) -> io::Result<Option<TlsStream<TcpStream>>> {
    if cleartext::is_refused(&mut stream).await? {
        return Ok(None);
    }
    TlsAcceptor::from(config).accept(stream).await.map(Some)
}

/// Says where a request and its answer begin and end.
async fn follow(State(exchange): State<Exchange>, request: Request, next: Next) -> Response {
    exchange.asked();
    let answer = next.run(request).await;
    let answering = exchange.answers();
    answer.map(|body| {
        // The body holds it, and is dropped when it is written or given up.
        Body::new(body.map_err(move |error| {
            let _held = &answering;
            error
        }))
    })
}

/// A place for one more connection.
async fn place(places: &Arc<Semaphore>, strangers: &Strangers) -> OwnedSemaphorePermit {
    if places.available_permits() == 0 {
        strangers.make_room();
    }
    Arc::clone(places).acquire_owned().await.expect("the semaphore is never closed")
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match accept_one(listener).await {
            Ok(stream) => return stream,
            Err(error) => {
                debug!(%error, "accept failed");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn accept_one(listener: &TcpListener) -> io::Result<TcpStream> {
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use axum::routing::any;
    use preconf_telemetry::Registry;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        task::JoinHandle,
        time::interval,
    };

    use super::*;
    use crate::answer;

    /// Longer than anything takes, even on a busy machine.
    const SOON: Duration = Duration::from_secs(20);
    /// So long that it never ends a test.
    const EVER: Duration = Duration::from_secs(3_600);
    const SHORT: Duration = Duration::from_millis(100);
    const PATIENT: Times = Times { head: EVER, request: EVER, answer: EVER, idle: EVER };
    const REQUEST: &[u8] = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}";
    /// Much more than the connection holds.
    const LARGE: usize = 4 << 20;

    /// A connection that is served, and its server.
    fn connected(times: Times, length: usize) -> (DuplexStream, JoinHandle<Result<(), Failure>>) {
        connected_over(1024, times, length)
    }

    /// The same over a connection that holds so many bytes.
    fn connected_over(
        held: usize,
        times: Times,
        length: usize,
    ) -> (DuplexStream, JoinHandle<Result<(), Failure>>) {
        let (peer, stream) = duplex(held);
        let results = Registry::new("test").counters("results", "Results", ["result"]);
        let large = move |body: Body| async move {
            let _ = axum::body::to_bytes(body, usize::MAX).await;
            answer::payload(vec![b'x'; length], None, &results)
        };
        let router = Router::new().route("/", any(large));
        let connection = Connection { router, tls: None, shutdown: Shutdown::new() };
        (peer, tokio::spawn(connection.speak(stream, times)))
    }

    /// Waits until the server ends the connection.
    async fn ended(serving: JoinHandle<Result<(), Failure>>) {
        // Whether that is a failure depends on what was under way.
        let _ = timeout(SOON, serving).await.expect("it is ended in time").unwrap();
    }

    /// Reads the answer to [`REQUEST`] but for its head.
    async fn read_answer(peer: &mut DuplexStream, length: usize) {
        let mut read = Vec::new();
        while !read.ends_with(&vec![b'x'; length]) {
            let mut piece = [0; 512];
            let count = timeout(SOON, peer.read(&mut piece)).await.unwrap().unwrap();
            assert!(count > 0, "it ended before the answer did");
            read.extend_from_slice(&piece[..count]);
        }
    }

    #[test]
    fn the_limits_are_beacon_kits() {
        let Times { head, request, answer, idle } = Times::BEACON_KIT;
        assert_eq!([head, request, answer, idle].map(|time| time.as_secs()), [10, 15, 30, 60]);
        assert_eq!((MAX_CONNECTIONS, MAX_HEAD_BYTES), (256, 16 * 1024));
    }

    #[tokio::test]
    async fn a_head_has_its_time_and_a_byte_now_and_then_does_not_prolong_it() {
        let (silent, serving) = connected(Times { head: SHORT, ..PATIENT }, 1);
        ended(serving).await;
        drop(silent);

        let (mut peer, serving) = connected(Times { head: SHORT, ..PATIENT }, 1);
        peer.write_all(b"POST / HTTP/1.1\r\nX: ").await.unwrap();
        let mut ticks = interval(Duration::from_millis(5));
        while peer.write_all(b"x").await.is_ok() {
            ticks.tick().await;
        }
        ended(serving).await;
    }

    #[tokio::test]
    async fn a_body_has_its_time_from_the_beginning_of_the_request() {
        let times = Times { head: EVER, request: SHORT, ..PATIENT };
        let (mut peer, serving) = connected(times, 1);
        peer.write_all(&REQUEST[..REQUEST.len() - 1]).await.unwrap();
        ended(serving).await;
    }

    #[tokio::test]
    async fn a_request_whose_head_is_there_is_given_more_time() {
        let times = Times { head: SHORT, ..PATIENT };
        let (mut peer, serving) = connected(times, 1);
        let (head, end) = REQUEST.split_at(REQUEST.len() - 1);
        peer.write_all(head).await.unwrap();
        assert!(timeout(3 * SHORT, peer.read_u8()).await.is_err(), "nothing is said meanwhile");
        peer.write_all(end).await.unwrap();
        read_answer(&mut peer, 1).await;
        serving.abort();
    }

    #[tokio::test]
    async fn a_body_that_was_asked_for_has_no_more_time() {
        let times = Times { request: SHORT, ..PATIENT };
        let (mut peer, serving) = connected(times, 1);
        let expecting = b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\
            Content-Length: 2\r\n\r\n";
        peer.write_all(expecting).await.unwrap();
        let mut going_on = [0; 25];
        timeout(SOON, peer.read_exact(&mut going_on)).await.unwrap().unwrap();
        assert_eq!(&going_on, b"HTTP/1.1 100 Continue\r\n\r\n");
        ended(serving).await;
    }

    #[tokio::test]
    async fn an_empty_line_before_a_head_does_not_end_it() {
        let (mut peer, serving) = connected(Times { head: SHORT, ..PATIENT }, 1);
        peer.write_all(b"\r\n\r\nPOST / HTTP/1.1\r\n").await.unwrap();
        ended(serving).await;
    }

    #[tokio::test]
    async fn an_answer_has_its_time_however_often_a_piece_of_it_is_taken() {
        // What is taken at once is more than a frame, so that frames are flushed meanwhile.
        let times = Times { answer: SHORT, ..PATIENT };
        let (mut peer, serving) = connected_over(256 * 1024, times, LARGE);
        peer.write_all(REQUEST).await.unwrap();
        let (mut ticks, mut piece) = (interval(Duration::from_millis(10)), vec![0; 128 * 1024]);
        let mut taken = 0;
        while let Ok(count @ 1..) = peer.read(&mut piece).await {
            taken += count;
            assert!(taken < LARGE, "it was taken much more slowly than it may be");
            ticks.tick().await;
        }
        ended(serving).await;
    }

    #[tokio::test]
    async fn who_has_its_answer_may_ask_again_for_a_while() {
        let (mut peer, _serving) = connected(PATIENT, 10);
        for _ in 0..3 {
            peer.write_all(REQUEST).await.unwrap();
            read_answer(&mut peer, 10).await;
        }
        let (mut peer, serving) = connected(Times { idle: SHORT, ..PATIENT }, 10);
        peer.write_all(REQUEST).await.unwrap();
        read_answer(&mut peer, 10).await;
        ended(serving).await;
    }
}
