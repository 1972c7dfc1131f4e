//! Who is at the other end of a connection, and whether it may be there.
//!
//! A peer is established once, when its connection is accepted, and is an extension of every
//! request on it, so that a service can decide method by method. The names of a certificate are
//! what its authority vouched for: the peer has already proved that it holds the key.

use std::{
    fmt,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::{Either, Ready, ready};
use http::{Request, Response};
use rustls::pki_types::CertificateDer;
use tonic::{Status, body::Body};
use tower::{Layer, Service};

/// The other end of a connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Peer {
    /// A process on this machine, as the kernel knows it.
    Unix {
        /// The user it runs as.
        uid: u32,
        /// Its process id, where the kernel tells.
        pid: Option<i32>,
    },
    /// A process that holds a certificate of our authority.
    Certificate {
        /// The DNS names in it.
        names: Arc<[String]>,
    },
    /// Anybody who can reach the address.
    Plaintext(SocketAddr),
}

impl Peer {
    /// The peer that sent a request, if it came through a listener of ours.
    #[must_use]
    pub fn of<T>(request: &tonic::Request<T>) -> Option<&Self> {
        request.extensions().get()
    }

    /// Whether the certificate names one of `allowed`. Without a name to check, as on a Unix socket
    /// or in plaintext, it does not.
    #[must_use]
    pub fn is_named(&self, allowed: &[String]) -> bool {
        match self {
            Self::Certificate { names } => names.iter().any(|name| allowed.contains(name)),
            Self::Unix { .. } | Self::Plaintext(_) => false,
        }
    }

    /// Reads the names of a certificate that has been verified.
    pub(crate) fn from_certificate(
        certificate: &CertificateDer<'_>,
    ) -> Result<Self, webpki::Error> {
        let certificate = webpki::EndEntityCert::try_from(certificate)?;
        let names = certificate.valid_dns_names().map(str::to_owned).collect();
        Ok(Self::Certificate { names })
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix { uid, pid: Some(pid) } => write!(f, "uid {uid} pid {pid}"),
            Self::Unix { uid, pid: None } => write!(f, "uid {uid}"),
            Self::Certificate { names } => write!(f, "certificate {}", names.join(",")),
            Self::Plaintext(address) => write!(f, "{address}"),
        }
    }
}

/// Whether a process running as `uid` may connect: the same user as ours, or one on the list.
/// Root is on no list by itself.
pub(crate) fn may_connect(uid: u32, ours: u32, allowed: &[u32]) -> bool {
    uid == ours || allowed.contains(&uid)
}

/// A server layer that refuses certificates without an allowed name.
///
/// No names means that every certificate of the authority will do. Peers without a certificate have
/// been admitted by other means, and pass.
#[derive(Clone, Debug)]
pub(crate) struct AllowNames(pub(crate) Arc<[String]>);

impl<S> Layer<S> for AllowNames {
    type Service = Named<S>;

    fn layer(&self, inner: S) -> Named<S> {
        Named { inner, allowed: Arc::clone(&self.0) }
    }
}

/// The service that [`AllowNames`] makes.
#[derive(Clone, Debug)]
pub(crate) struct Named<S> {
    inner: S,
    allowed: Arc<[String]>,
}

impl<S, B> Service<Request<B>> for Named<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match request.extensions().get::<Peer>() {
            Some(peer @ Peer::Certificate { .. })
                if !self.allowed.is_empty() && !peer.is_named(&self.allowed) =>
            {
                let refusal = Status::permission_denied("the certificate has no allowed name");
                Either::Right(ready(Ok(refusal.into_http())))
            }
            Some(_) | None => Either::Left(self.inner.call(request)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_user_and_listed_users_may_connect_and_nobody_else() {
        assert!(may_connect(1000, 1000, &[]));
        assert!(may_connect(1001, 1000, &[1001, 1002]));
        assert!(!may_connect(1003, 1000, &[1001, 1002]));
        assert!(!may_connect(0, 1000, &[]), "root is not exempt");
    }

    #[test]
    fn a_certificate_is_known_by_any_of_its_names() {
        let names = ["builder".to_owned(), "builder.preconf.svc".to_owned()];
        let peer = Peer::Certificate { names: names.into() };

        assert!(peer.is_named(&["signer".to_owned(), "builder".to_owned()]));
        assert!(!peer.is_named(&["gateway".to_owned()]));
        assert!(!Peer::Unix { uid: 0, pid: None }.is_named(&["builder".to_owned()]));
    }
}
