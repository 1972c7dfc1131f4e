//! A connection to a sequencer: TCP, or TLS over it.
//!
//! It is made on a task of its own. If whoever wanted it has no more time, it is made all the same,
//! and left to the next one: where each takes longer than a request may, there would never be any.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use futures_util::future::select_ok;
use http::Uri;
use hyper_util::{
    client::legacy::connect::{Connected, Connection, HttpConnector, dns::GaiResolver},
    rt::TokioIo,
};
use parking_lot::Mutex;
use preconf_chassis::ConfigError;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tower::Service;
use url::Host;

use super::{Authorities, SequencerUrl};

/// How long a connection is made for, and kept if nobody waits for it: servers close one that asks
/// nothing after 10 s.
const MAKING: Duration = Duration::from_secs(5);
/// After this time without success the addresses of the other family are tried too (RFC 8305: from
/// 100 ms on).
const OTHER_FAMILY: Duration = Duration::from_millis(100);

/// Connects to one sequencer, whatever it is asked to connect to.
#[derive(Clone)]
pub(super) struct Connector {
    http: HttpConnector,
    place: Uri,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    left: Arc<Mutex<Option<Making>>>,
}

impl Connector {
    pub(super) fn new(
        url: &SequencerUrl,
        authorities: Option<Authorities>,
    ) -> Result<Self, ConfigError> {
        let host = match url.url().host() {
            Some(Host::Domain(name)) => name.to_owned(),
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Ipv6(address)) => address.to_string(),
            None => return Err(ConfigError::flag(url, "has no host")),
        };
        let tls = match (url.is_tls(), authorities) {
            (true, Some(authorities)) => {
                let name = ServerName::try_from(host).map_err(|error| {
                    ConfigError::flag(url, "has a host that no certificate can name").because(error)
                })?;
                let config = authorities.client().map_err(|error| {
                    ConfigError::flag(url, "cannot be used with TLS").because(error)
                })?;
                Some((config, name))
            }
            (false, None) => None,
            (true, None) => {
                return Err(ConfigError::flag(url, "needs the certificate of its authority"));
            }
            (false, Some(_)) => {
                let reason = "must be https:// when there is the certificate of an authority";
                return Err(ConfigError::flag(url, reason));
            }
        };
        let place = format!("http://{}", url.host());
        let place = place.parse().map_err(|error| {
            ConfigError::flag(url, "has a host that cannot be connected to").because(error)
        })?;
        Ok(Self { http: http(GaiResolver::new()), place, tls, left: Arc::default() })
    }

    /// One that was left, or else a new one; both, if the one that was left is still being made.
    async fn connect(self) -> io::Result<TokioIo<Link>> {
        let left = self.left.lock().take().filter(|left| left.began.elapsed() < MAKING);
        let mut making = Vec::new();
        match left.map(|left| Wanted { making: Some(left), left: Arc::clone(&self.left) }) {
            Some(made) if made.is_finished() => {
                if let Ok(link) = made.await {
                    return Ok(TokioIo::new(link));
                }
            }
            Some(unfinished) => making.push(unfinished),
            None => {}
        }
        making.push(self.begin());
        let (link, _rest) = select_ok(making).await?;
        Ok(TokioIo::new(link))
    }

    fn begin(&self) -> Wanted {
        let (mut http, place, tls) = (self.http.clone(), self.place.clone(), self.tls.clone());
        let make = async move {
            let stream = http.call(place).await.map_err(io::Error::other)?.into_inner();
            Ok(match tls {
                Some((config, name)) => {
                    let stream = TlsConnector::from(config).connect(name, stream).await?;
                    Link::Tls(Box::new(stream))
                }
                None => Link::Plain(stream),
            })
        };
        let link = tokio::spawn(async move {
            timeout(MAKING, make).await.unwrap_or_else(|late| Err(io::Error::other(late)))
        });
        let making = Making { link, began: Instant::now() };
        Wanted { making: Some(making), left: Arc::clone(&self.left) }
    }
}

fn http<R>(resolver: R) -> HttpConnector<R> {
    let mut http = HttpConnector::new_with_resolver(resolver);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(MAKING));
    http.set_happy_eyeballs_timeout(Some(OTHER_FAMILY));
    http
}

/// A connection that is being made, or was.
struct Making {
    link: JoinHandle<io::Result<Link>>,
    began: Instant,
}

/// The same, and somebody waits for it. Dropped before it was had, it is left to the next one.
struct Wanted {
    making: Option<Making>,
    left: Arc<Mutex<Option<Making>>>,
}

impl Wanted {
    fn is_finished(&self) -> bool {
        self.making.as_ref().is_some_and(|making| making.link.is_finished())
    }
}

impl Future for Wanted {
    type Output = io::Result<Link>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<Link>> {
        let making = self.making.as_mut().expect("it is not polled after it has ended");
        let link = ready!(Pin::new(&mut making.link).poll(context));
        self.making = None;
        Poll::Ready(link.unwrap_or_else(|panicked| Err(io::Error::other(panicked))))
    }
}

/// One is left at most: the one that was begun first, as long as it is any good.
impl Drop for Wanted {
    fn drop(&mut self) {
        let Some(making) = self.making.take() else { return };
        let mut left = self.left.lock();
        let is_good = |left: &Making| left.began.elapsed() < MAKING;
        let surplus =
            if left.as_ref().is_some_and(is_good) { Some(making) } else { left.replace(making) };
        if let Some(surplus) = surplus {
            surplus.link.abort();
        }
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Link>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Link>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        Box::pin(self.clone().connect())
    }
}

/// The bytes of a connection.
pub(super) enum Link {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection for Link {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Link {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Link {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, vec::IntoIter};

    use hyper_util::client::legacy::connect::dns::Name;
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    /// An address where nothing is refused and nothing answered, for as long as these are held.
    async fn black_hole(address: &str) -> io::Result<(SocketAddr, TcpListener, Vec<TcpStream>)> {
        let socket = TcpSocket::new_v6()?;
        socket.bind(address.parse().unwrap())?;
        let (listener, mut waiting) = (socket.listen(1)?, Vec::new());
        let address = listener.local_addr()?;
        let soon = Duration::from_millis(200);
        while let Ok(connected) = timeout(soon, TcpStream::connect(address)).await {
            waiting.push(connected?);
        }
        Ok((address, listener, waiting))
    }

    #[tokio::test]
    async fn a_first_address_that_swallows_everything_costs_a_tenth_of_a_second() {
        // Where there is only one family there is nothing to choose.
        let Ok((hole, _listener, _waiting)) = black_hole("[::1]:0").await else { return };
        let good = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addresses = vec![hole, good.local_addr().unwrap()];
        let resolver = tower::service_fn(move |_: Name| {
            let addresses = addresses.clone();
            async move { Ok::<IntoIter<SocketAddr>, io::Error>(addresses.into_iter()) }
        });
        let began = Instant::now();
        // Without a port in the URL, each address has its own.
        let stream = http(resolver).call(Uri::from_static("http://sequencer")).await.unwrap();
        assert_eq!(stream.inner().peer_addr().unwrap(), good.local_addr().unwrap());
        assert!(began.elapsed() < MAKING / 2, "{:?}", began.elapsed());
    }
}
