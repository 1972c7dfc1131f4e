//! Where a process of ours listens, and where another one finds it.
//!
//! One notation for both sides: `unix:/path/sock`, `http://host:port` (plaintext) and
//! `https://host:port` (mTLS). Anything else that a URL may carry is refused, so that nothing is
//! silently ignored. Whether an endpoint may be used is decided by [`crate::Security`].

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

use url::{Host, Url};

/// The kernel's limit for the path of a Unix socket, without the final zero byte.
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// An address of a process of ours.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Endpoint {
    /// `unix:/path/sock`: a socket file, whose peers are known by uid.
    Unix(PathBuf),
    /// `http://host:port`: plaintext.
    Plaintext(HostPort),
    /// `https://host:port`: both sides show a certificate.
    Tls(HostPort),
}

/// A host and a port.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct HostPort {
    /// A name or an address.
    pub host: Host,
    /// A port; 0 lets the kernel choose when listening.
    pub port: u16,
}

impl HostPort {
    /// Whether this can only be on this machine. A name other than `localhost` could be anywhere.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match &self.host {
            Host::Domain(name) => name == "localhost",
            Host::Ipv4(address) => address.is_loopback(),
            Host::Ipv6(address) => address.is_loopback(),
        }
    }

    /// The host as the resolver wants it: an IPv6 address without brackets.
    pub(crate) fn resolvable(&self) -> String {
        match &self.host {
            Host::Domain(name) => name.clone(),
            Host::Ipv4(address) => address.to_string(),
            Host::Ipv6(address) => address.to_string(),
        }
    }
}

impl From<SocketAddr> for HostPort {
    fn from(address: SocketAddr) -> Self {
        let host = match address {
            SocketAddr::V4(address) => Host::Ipv4(*address.ip()),
            SocketAddr::V6(address) => Host::Ipv6(*address.ip()),
        };
        Self { host, port: address.port() }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Plaintext(at) => write!(f, "http://{at}"),
            Self::Tls(at) => write!(f, "https://{at}"),
        }
    }
}

/// Why a string is not an endpoint.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// Neither `unix:`, nor `http://`, nor `https://`.
    #[error("expected unix:/path, http://host:port or https://host:port")]
    Scheme,
    /// The path of a socket must be absolute.
    #[error("the path of a Unix socket must be absolute")]
    RelativePath,
    /// The kernel limits the path of a socket.
    #[error("the path of a Unix socket has at most {MAX_SOCKET_PATH_BYTES} bytes")]
    LongPath,
    /// The part after the scheme is not a host and a port.
    #[error("reading host and port")]
    Authority(#[source] url::ParseError),
    /// The URL carries something that would be ignored.
    #[error("only a host and a port may follow the scheme")]
    Surplus,
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return socket_path(path).map(Self::Unix);
        }
        if !text.starts_with("http://") && !text.starts_with("https://") {
            return Err(EndpointError::Scheme);
        }
        let url = Url::parse(text).map_err(EndpointError::Authority)?;
        let bare = url.username().is_empty()
            && url.password().is_none()
            && url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none();
        let (true, Some(host), Some(port)) = (bare, url.host(), url.port_or_known_default()) else {
            return Err(EndpointError::Surplus);
        };
        let at = HostPort { host: host.to_owned(), port };
        Ok(if url.scheme() == "https" { Self::Tls(at) } else { Self::Plaintext(at) })
    }
}

/// Accepts `unix:/path` and, as gRPC's own notation has it, `unix:///path`.
fn socket_path(path: &str) -> Result<PathBuf, EndpointError> {
    let path = path.strip_prefix("//").unwrap_or(path);
    if !path.starts_with('/') {
        return Err(EndpointError::RelativePath);
    }
    if path.len() > MAX_SOCKET_PATH_BYTES {
        return Err(EndpointError::LongPath);
    }
    Ok(PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_written_as_it_is_read() {
        for text in [
            "unix:/run/preconf/signer.sock",
            "http://127.0.0.1:9000",
            "http://localhost:0",
            "http://[::1]:9000",
            "https://builder.preconf.svc:9443",
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        assert_eq!("unix:///run/x".parse(), Ok(Endpoint::Unix("/run/x".into())));
        assert_eq!("https://host".parse::<Endpoint>().unwrap().to_string(), "https://host:443");
    }

    #[test]
    fn what_would_be_ignored_is_refused() {
        let long = format!("unix:/{}", "x".repeat(MAX_SOCKET_PATH_BYTES));
        for (text, reason) in [
            ("127.0.0.1:9000", EndpointError::Scheme),
            ("ws://host:1", EndpointError::Scheme),
            ("", EndpointError::Scheme),
            ("unix:run/x", EndpointError::RelativePath),
            ("unix:", EndpointError::RelativePath),
            (&long, EndpointError::LongPath),
            ("http://user@host:1", EndpointError::Surplus),
            ("http://host:1/path", EndpointError::Surplus),
            ("http://host:1?x", EndpointError::Surplus),
            ("http://host:70000", EndpointError::Authority(url::ParseError::InvalidPort)),
            ("http://", EndpointError::Authority(url::ParseError::EmptyHost)),
        ] {
            assert_eq!(text.parse::<Endpoint>(), Err(reason), "{text}");
        }
    }

    #[test]
    fn only_this_machine_is_loopback() {
        for (text, expected) in [
            ("http://127.8.8.8:1", true),
            ("http://[::1]:1", true),
            ("http://localhost:1", true),
            ("http://0.0.0.0:1", false),
            ("http://[::]:1", false),
            ("http://localhost.example:1", false),
            ("http://10.0.0.1:1", false),
        ] {
            let Ok(Endpoint::Plaintext(at)) = text.parse() else { panic!("{text} is plaintext") };
            assert_eq!(at.is_loopback(), expected, "{text}");
        }
    }
}
