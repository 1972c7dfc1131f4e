//! Where a feed is found.
//!
//! `ws://host:port/path?query` is a WebSocket; everything else is an [`Endpoint`] of a process of
//! ours that speaks gRPC. TLS to a WebSocket is refused by name rather than tried: this build
//! carries no roots of trust for public names, and the content of a feed authenticates itself.

use std::{fmt, str::FromStr};

use preconf_chassis::{Endpoint, endpoint::EndpointError};
use preconf_primitives::Position;
use url::Url;

const WEBSOCKET_PORT: u16 = 80;

/// The address of a feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedUrl {
    /// `ws://host:port`: JSON frames, ours or the upstream's.
    WebSocket(WebSocketUrl),
    /// `http://`, `https://` or `unix:`: gRPC.
    Grpc(Endpoint),
}

/// A `ws://` URL that names a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebSocketUrl(Url);

/// Why a text is not the address of a feed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FeedUrlError {
    /// TLS on a WebSocket.
    #[error("wss:// is not supported: use ws://, or gRPC over https:// with certificates")]
    WebSocketTls,
    /// A WebSocket URL that does not parse.
    #[error("reading a ws:// URL")]
    WebSocket(#[source] url::ParseError),
    /// A WebSocket URL without a host.
    #[error("a ws:// URL must name a host")]
    NoHost,
    /// A WebSocket URL with a part that would be ignored.
    #[error("a ws:// URL carries neither credentials nor a fragment")]
    Surplus,
    /// Neither a WebSocket nor an endpoint.
    #[error("expected ws://host:port, http://host:port, https://host:port or unix:/path")]
    Endpoint(#[source] EndpointError),
}

impl WebSocketUrl {
    /// The host and the port to connect to.
    pub(crate) fn address(&self) -> (String, u16) {
        let host = match self.0.host() {
            Some(url::Host::Domain(name)) => name.to_owned(),
            Some(url::Host::Ipv4(address)) => address.to_string(),
            Some(url::Host::Ipv6(address)) => address.to_string(),
            None => String::new(),
        };
        (host, self.0.port().unwrap_or(WEBSOCKET_PORT))
    }

    /// The URL that asks for a replay from `cursor`.
    pub(crate) fn with_cursor(&self, cursor: Option<Position>) -> String {
        let mut url = self.0.clone();
        if let Some(cursor) = cursor {
            url.query_pairs_mut().append_pair("cursor", &cursor.to_string());
        }
        url.into()
    }
}

impl FromStr for FeedUrl {
    type Err = FeedUrlError;

    fn from_str(text: &str) -> Result<Self, FeedUrlError> {
        if text.starts_with("wss:") {
            return Err(FeedUrlError::WebSocketTls);
        }
        if !text.starts_with("ws:") {
            return text.parse().map(Self::Grpc).map_err(FeedUrlError::Endpoint);
        }
        let url = Url::parse(text).map_err(FeedUrlError::WebSocket)?;
        if url.host_str().is_none_or(str::is_empty) {
            return Err(FeedUrlError::NoHost);
        }
        if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
            return Err(FeedUrlError::Surplus);
        }
        Ok(Self::WebSocket(WebSocketUrl(url)))
    }
}

impl fmt::Display for FeedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WebSocket(WebSocketUrl(url)) => url.fmt(f),
            Self::Grpc(endpoint) => endpoint.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use preconf_primitives::Seq;

    use super::*;

    fn websocket(text: &str) -> WebSocketUrl {
        let Ok(FeedUrl::WebSocket(url)) = text.parse() else { panic!("{text} is a WebSocket") };
        url
    }

    #[test]
    fn the_scheme_chooses_the_transport() {
        assert!(matches!("ws://127.0.0.1:8548".parse(), Ok(FeedUrl::WebSocket(_))));
        for text in ["http://127.0.0.1:1", "https://gateway:9443", "unix:/run/feed.sock"] {
            let url: FeedUrl = text.parse().unwrap();
            assert!(matches!(url, FeedUrl::Grpc(_)), "{text}");
            assert_eq!(url.to_string(), text);
        }
    }

    #[test]
    fn what_cannot_be_followed_is_refused_with_the_reason() {
        assert_eq!("wss://host".parse::<FeedUrl>(), Err(FeedUrlError::WebSocketTls));
        assert_eq!("ws://user:secret@host".parse::<FeedUrl>(), Err(FeedUrlError::Surplus));
        assert_eq!("ws://host/#part".parse::<FeedUrl>(), Err(FeedUrlError::Surplus));
        assert!(matches!("ws://".parse::<FeedUrl>(), Err(FeedUrlError::WebSocket(_))));
        for text in ["", "host:1", "ftp://host", "unix:relative"] {
            assert!(matches!(text.parse::<FeedUrl>(), Err(FeedUrlError::Endpoint(_))), "{text}");
        }
    }

    #[test]
    fn a_host_is_given_as_the_resolver_wants_it() {
        assert_eq!(websocket("ws://gateway/path").address(), ("gateway".to_owned(), 80));
        assert_eq!(websocket("ws://127.0.0.1:8548").address(), ("127.0.0.1".to_owned(), 8548));
        assert_eq!(websocket("ws://[::1]:9").address(), ("::1".to_owned(), 9));
    }

    #[test]
    fn a_cursor_joins_the_query_that_is_there() {
        let cursor = Some(Position::new(Seq::new(7), 3));
        let url = websocket("ws://host:1/a?encoding=brotli");
        assert_eq!(url.with_cursor(cursor), "ws://host:1/a?encoding=brotli&cursor=7%3A3");
        assert_eq!(url.with_cursor(None), "ws://host:1/a?encoding=brotli");
    }
}
