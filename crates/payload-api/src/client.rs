//! The client: asks a sequencer for a payload, and believes nothing of what it says.
//!
//! One call is one request: no retries (whether it may be repeated, the caller knows), no
//! redirects, no proxy, whatever the environment says. Connecting, sending, reading and decoding
//! together have one deadline, the answer has a size limit, and every wrong answer is an error.
//! Over TLS only the given authorities are trusted. A connection that nobody has time for any more is
//! left to the next call.

mod authorities;
mod connection;

use std::{
    fmt,
    str::FromStr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{
    HeaderValue, Method, StatusCode, Uri,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};
use preconf_chassis::{ConfigError, error::BoxError};
use preconf_telemetry::inject_headers;
use tokio::time::{error::Elapsed, timeout};
use url::Url;

use crate::{
    ErrorBody, HEALTH_PATH, PAYLOAD_PATH, PayloadRequest, PayloadResponse, ResponseError,
    ValidatorSecret,
};

pub use authorities::Authorities;

use connection::Connector;

/// How long a connection is kept for the next block. The server closes it after a minute.
const IDLE_CONNECTION: Duration = Duration::from_secs(50);
/// The most that the head of an answer may need.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// The most that is read of an answer that is no payload, and shown of it.
const MAX_MESSAGE_BYTES: usize = 16 * 1024;
const MAX_MESSAGE_CHARS: usize = 200;

/// What a client needs to know.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// The sequencer.
    pub url: SequencerUrl,
    /// The secret that it knows us by.
    pub secret: ValidatorSecret,
    /// Whom we know it by: needed for `https`, and only there.
    pub authorities: Option<Authorities>,
    /// The largest answer that is read; see [`crate::MAX_RESPONSE_BYTES`].
    pub max_response_bytes: usize,
}

/// The URL of a sequencer: `http` or `https`, without credentials, query or fragment. Slashes at its
/// end are ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SequencerUrl(Url);

/// Why a text is not the URL of a sequencer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// It is no URL.
    #[error("reading the URL")]
    Malformed(#[source] url::ParseError),
    /// It is of another kind, or carries what would be ignored.
    #[error("expected http://HOST:PORT or https://HOST:PORT, without credentials or a query")]
    Surplus,
}

/// A client of one sequencer. Clones share connections.
#[derive(Clone)]
pub struct PayloadClient(Arc<Inner>);

struct Inner {
    http: Client<Connector, Full<Bytes>>,
    payload: Uri,
    health: Uri,
    host: String,
    secret: ValidatorSecret,
    max_response_bytes: usize,
}

/// Why there is no payload.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The sequencer cannot be reached, or the connection failed before the answer was complete.
    #[error("asking {host}")]
    Transport {
        /// The sequencer.
        host: String,
        /// What the connection said.
        #[source]
        source: BoxError,
    },
    /// The answer was not complete in time.
    #[error("{host} took longer than {within:?}")]
    Timeout {
        /// The sequencer.
        host: String,
        /// How long it was given.
        within: Duration,
    },
    /// The sequencer has no such payload.
    #[error("{host} has no such payload: {message}")]
    NotFound {
        /// The sequencer.
        host: String,
        /// What it said, shortened.
        message: String,
    },
    /// The answer has a status other than 200.
    #[error("{host} answered {status}: {message}")]
    Refused {
        /// The sequencer.
        host: String,
        /// The status.
        status: StatusCode,
        /// What it said, shortened.
        message: String,
    },
    /// The answer is larger than is read.
    #[error("the answer of {host} exceeds {limit} bytes")]
    TooLarge {
        /// The sequencer.
        host: String,
        /// The limit.
        limit: usize,
    },
    /// The answer is no payload.
    #[error("reading the payload of {host}")]
    Decode {
        /// The sequencer.
        host: String,
        /// What is wrong with it.
        #[source]
        source: ResponseError,
    },
    /// Our own decoding failed.
    #[error("decoding the payload of {host} was not completed")]
    Unfinished {
        /// The sequencer.
        host: String,
        /// What the runtime said.
        #[source]
        source: tokio::task::JoinError,
    },
}

/// An answer that has arrived, of which nothing is known but its length.
pub struct Answer {
    host: String,
    body: Bytes,
}

/// What a failure says about the sequencer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchFailure {
    /// It is not there, or too slow: asking again at once would be in vain.
    Unavailable,
    /// It is there and has no such payload.
    NotFound,
    /// It is there and refuses, or its answer is wrong.
    Other,
}

impl FetchError {
    /// What this says about the sequencer.
    #[must_use]
    pub const fn failure(&self) -> FetchFailure {
        match self {
            Self::Transport { .. } | Self::Timeout { .. } => FetchFailure::Unavailable,
            Self::NotFound { .. } => FetchFailure::NotFound,
            Self::Refused { .. }
            | Self::TooLarge { .. }
            | Self::Decode { .. }
            | Self::Unfinished { .. } => FetchFailure::Other,
        }
    }
}

impl PayloadClient {
    /// A client of the sequencer. Nothing is sent yet.
    ///
    /// # Errors
    /// If the URL is `https` and there are no authorities, or the other way round.
    pub fn new(config: ClientConfig) -> Result<Self, ConfigError> {
        let ClientConfig { url, secret, authorities, max_response_bytes } = config;
        let connector = Connector::new(&url, authorities)?;
        let uri = |path: &str| {
            let text = format!("{url}{path}");
            text.parse().map_err(|error| ConfigError::flag(&url, "is no URI").because(error))
        };
        let http = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_CONNECTION)
            .pool_timer(TokioTimer::new())
            .http1_max_buf_size(MAX_HEAD_BYTES)
            .build(connector);
        Ok(Self(Arc::new(Inner {
            http,
            payload: uri(PAYLOAD_PATH)?,
            health: uri(HEALTH_PATH)?,
            host: url.host(),
            secret,
            max_response_bytes,
        })))
    }

    /// The host and port of the sequencer, for logs.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.0.host
    }

    /// Asks for a payload and has the whole answer `within` this time, to be decoded: who has
    /// answered is not silent, however long that takes.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn ask(
        &self,
        request: &PayloadRequest,
        within: Duration,
    ) -> Result<Answer, FetchError> {
        let inner = &self.0;
        inner.in_time(within, timeout(within, inner.ask(request)).await)
    }

    /// Asks for a payload and has it, decoded, `within` this time.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn fetch(
        &self,
        request: &PayloadRequest,
        within: Duration,
    ) -> Result<PayloadResponse, FetchError> {
        let inner = &self.0;
        let fetched = async {
            let answer = inner.ask(request).await?;
            let unfinished = |source| FetchError::Unfinished { host: inner.host.clone(), source };
            let decoded = tokio::task::spawn_blocking(move || answer.decode());
            decoded.await.map_err(unfinished)?
        };
        inner.in_time(within, timeout(within, fetched).await)
    }

    /// Asks whether the sequencer can serve payloads; if not, that is the error.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn health(&self, within: Duration) -> Result<(), FetchError> {
        let inner = &self.0;
        let asked = async {
            let request = inner.request(Method::GET, &inner.health, Bytes::new());
            let (status, body) = inner.exchange(request, MAX_MESSAGE_BYTES).await?;
            if status == StatusCode::OK { Ok(()) } else { Err(inner.refusal(status, &body)) }
        };
        inner.in_time(within, timeout(within, asked).await)
    }
}

impl Answer {
    /// Reads the payload. Blobs make it megabytes: longer than a thread of the runtime may be held.
    ///
    /// # Errors
    /// If it is none.
    pub fn decode(self) -> Result<PayloadResponse, FetchError> {
        let Self { host, body } = self;
        PayloadResponse::decode(&body).map_err(|source| FetchError::Decode { host, source })
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("host", &self.host).finish_non_exhaustive()
    }
}

impl Inner {
    async fn ask(&self, request: &PayloadRequest) -> Result<Answer, FetchError> {
        let request = self.request(Method::POST, &self.payload, request.to_json().into());
        let (status, body) = self.exchange(request, self.max_response_bytes).await?;
        if status == StatusCode::OK {
            Ok(Answer { host: self.host.clone(), body })
        } else {
            Err(self.refusal(status, &body))
        }
    }

    fn request(&self, method: Method, uri: &Uri, body: Bytes) -> http::Request<Full<Bytes>> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut request = http::Request::new(Full::new(body));
        if method == Method::POST {
            let token = format!("Bearer {}", self.secret.sign(now));
            let mut token = HeaderValue::try_from(token).expect("a token is printable ASCII");
            token.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, token);
            let json = HeaderValue::from_static("application/json");
            request.headers_mut().insert(CONTENT_TYPE, json);
            inject_headers(request.headers_mut());
        }
        *request.method_mut() = method;
        *request.uri_mut() = uri.clone();
        request
    }

    /// Sends a request and reads the answer, of which at most `limit` bytes if it is a payload.
    async fn exchange(
        &self,
        request: http::Request<Full<Bytes>>,
        limit: usize,
    ) -> Result<(StatusCode, Bytes), FetchError> {
        let transport =
            |source: BoxError| FetchError::Transport { host: self.host.clone(), source };
        let answer = self.http.request(request).await.map_err(|error| transport(error.into()))?;
        let status = answer.status();
        let limit = if status == StatusCode::OK { limit } else { MAX_MESSAGE_BYTES };
        match Limited::new(answer.into_body(), limit).collect().await {
            Ok(body) => Ok((status, body.to_bytes())),
            Err(source) if source.is::<LengthLimitError>() => {
                Err(FetchError::TooLarge { host: self.host.clone(), limit })
            }
            Err(source) => Err(transport(source)),
        }
    }

    fn refusal(&self, status: StatusCode, body: &[u8]) -> FetchError {
        let host = self.host.clone();
        match serde_json::from_slice::<ErrorBody>(body) {
            Ok(ErrorBody { message, .. }) => {
                let message = shortened(&message);
                if status == StatusCode::NOT_FOUND {
                    return FetchError::NotFound { host, message };
                }
                FetchError::Refused { host, status, message }
            }
            // A path that the server does not know, or another server altogether.
            Err(_) => {
                let message = shortened(&String::from_utf8_lossy(body));
                FetchError::Refused { host, status, message }
            }
        }
    }

    fn in_time<T>(
        &self,
        within: Duration,
        ended: Result<Result<T, FetchError>, Elapsed>,
    ) -> Result<T, FetchError> {
        ended.unwrap_or_else(|_| Err(FetchError::Timeout { host: self.host.clone(), within }))
    }
}

/// What a stranger says, as it may stand in a log.
pub(crate) fn shortened(message: &str) -> String {
    message.chars().filter(|c| !c.is_control()).take(MAX_MESSAGE_CHARS).collect()
}

impl fmt::Debug for PayloadClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PayloadClient").field("host", &self.0.host).finish_non_exhaustive()
    }
}

impl SequencerUrl {
    /// Whether it is reached over TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// Whether requests to it leave this machine.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self.0.host() {
            Some(url::Host::Domain(name)) => name == "localhost",
            Some(url::Host::Ipv4(address)) => address.is_loopback(),
            Some(url::Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        }
    }

    /// The host and port, for logs.
    #[must_use]
    pub fn host(&self) -> String {
        let port = self.0.port_or_known_default().unwrap_or_default();
        format!("{}:{port}", self.0.host_str().unwrap_or_default())
    }

    pub(crate) fn url(&self) -> &Url {
        &self.0
    }
}

impl FromStr for SequencerUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let url = Url::parse(text.trim_end_matches('/')).map_err(UrlError::Malformed)?;
        let bare = url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        let known = matches!(url.scheme(), "http" | "https") && url.has_host();
        if bare && known { Ok(Self(url)) } else { Err(UrlError::Surplus) }
    }
}

impl fmt::Display for SequencerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}
