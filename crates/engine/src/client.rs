//! The execution client's Engine API, over HTTP.
//!
//! Every call has a deadline and its answer a size limit; connections are kept alive. A call is
//! made once: whether it may be repeated is for the caller to know. [`EngineClient::forward`] hands
//! a body on byte for byte and returns the answer the same way; it looks into neither.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use alloy_primitives::B256;
use alloy_rpc_types_engine::{
    ExecutionPayloadEnvelopeV3, ExecutionPayloadEnvelopeV4, ExecutionPayloadEnvelopeV5,
    ExecutionPayloadV3, ForkchoiceState, ForkchoiceUpdated, PayloadAttributes, PayloadId,
    PayloadStatus,
};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use preconf_chain::ProposerPublicKey;
use serde::Serialize;
use serde::de::DeserializeOwned;
use url::Url;

use crate::berachain::BerachainAttributes;
use crate::door::unix_now;
use crate::jwt::JwtSecret;
use crate::rpc::{self, Answer, RpcError};
use crate::status::{ForkchoiceAnswer, StatusAnswer};

/// The largest answer that is read; a payload with blobs stays far below.
pub const MAX_ANSWER_BYTES: usize = 128 * 1024 * 1024;

const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
const IDLE_CONNECTION: Duration = Duration::from_secs(90);

/// What is handed on with a forwarded request. The rest belongs to one of the two connections.
static FORWARDED_HEADERS: [HeaderName; 5] = [
    CONTENT_TYPE,
    CONTENT_ENCODING,
    http::header::USER_AGENT,
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
];

/// A client of one execution client's Engine API. Clones share connections.
#[derive(Clone)]
pub struct EngineClient(Arc<Link>);

struct Link {
    http: Client<HttpConnector, Full<Bytes>>,
    uri: Uri,
    host: String,
    secret: Arc<JwtSecret>,
    next_id: AtomicU64,
    answer_limit: usize,
}

/// The answer to a forwarded request, as it came.
#[derive(Clone, Debug)]
pub struct Forwarded {
    /// The HTTP status.
    pub status: StatusCode,
    /// The content type, if one was named.
    pub content_type: Option<HeaderValue>,
    /// The body.
    pub body: Bytes,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The URL cannot be used.
    #[error("the Engine API URL of {host}: {reason}")]
    Url {
        /// The host it names.
        host: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The parameters cannot be written.
    #[error("writing the parameters of {method}")]
    Encode {
        /// The method.
        method: String,
        /// What the serializer said.
        #[source]
        source: serde_json::Error,
    },
    /// The request could not be sent or its answer not be read.
    #[error("calling {method} at {host}")]
    Transport {
        /// The method.
        method: String,
        /// The execution client.
        host: String,
        /// What the connection said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The answer did not come in time.
    #[error("{method} at {host} took longer than {deadline:?}")]
    Timeout {
        /// The method.
        method: String,
        /// The execution client.
        host: String,
        /// How long it was given.
        deadline: Duration,
    },
    /// The answer is larger than [`MAX_ANSWER_BYTES`].
    #[error("{host} answered {method} with more than {limit} bytes")]
    TooLarge {
        /// The method.
        method: String,
        /// The execution client.
        host: String,
        /// The limit.
        limit: usize,
    },
    /// The answer is not HTTP 200.
    #[error("{host} answered {method} with HTTP {status}")]
    Status {
        /// The method.
        method: String,
        /// The execution client.
        host: String,
        /// The status.
        status: StatusCode,
    },
    /// The answer is not what the method returns.
    #[error("reading the answer of {host} to {method}")]
    Decode {
        /// The method.
        method: String,
        /// The execution client.
        host: String,
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
    /// The execution client answered with an error.
    #[error("{host} refused {method}")]
    Rpc {
        /// The method.
        method: String,
        /// The execution client.
        host: String,
        /// Its error, as it came.
        #[source]
        error: RpcError,
    },
}

impl EngineClient {
    /// A client for the Engine API at `url`, which must be plain `http`. Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// If the URL cannot be used.
    pub fn new(url: &Url, secret: Arc<JwtSecret>) -> Result<Self, EngineError> {
        let host = match (url.host_str(), url.port_or_known_default()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (Some(_) | None, _) => url.scheme().to_owned(),
        };
        let unusable = |reason| EngineError::Url { host: host.clone(), reason };
        if url.scheme() != "http" {
            return Err(unusable("the Engine API is spoken over http"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(unusable("it must not carry credentials, the JWT secret is enough"));
        }
        let uri = Uri::try_from(url.as_str()).map_err(|_| unusable("it is malformed"))?;

        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_DEADLINE));
        let http = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_CONNECTION)
            .pool_timer(TokioTimer::new())
            .build(connector);
        let next_id = AtomicU64::new(1);
        Ok(Self(Arc::new(Link {
            http,
            uri,
            host,
            secret,
            next_id,
            answer_limit: MAX_ANSWER_BYTES,
        })))
    }

    /// The host and port of the execution client, for logs and errors.
    pub fn host(&self) -> &str {
        &self.0.host
    }

    /// `engine_newPayloadV3`.
    ///
    /// # Errors
    ///
    /// See [`EngineError`]; a payload that is not valid is not an error.
    pub async fn new_payload_v3(
        &self,
        payload: &ExecutionPayloadV3,
        versioned_hashes: &[B256],
        parent_beacon_block_root: B256,
        deadline: Duration,
    ) -> Result<PayloadStatus, EngineError> {
        let params = (payload, versioned_hashes, parent_beacon_block_root);
        let status: StatusAnswer = self.request("engine_newPayloadV3", &params, deadline).await?;
        Ok(status.into())
    }

    /// `engine_newPayloadV4`; the requests are those of EIP-7685, each with its type byte.
    ///
    /// # Errors
    ///
    /// See [`EngineError`]; a payload that is not valid is not an error.
    pub async fn new_payload_v4(
        &self,
        payload: &ExecutionPayloadV3,
        versioned_hashes: &[B256],
        parent_beacon_block_root: B256,
        requests: &[alloy_primitives::Bytes],
        deadline: Duration,
    ) -> Result<PayloadStatus, EngineError> {
        let params = (payload, versioned_hashes, parent_beacon_block_root, requests);
        let status: StatusAnswer = self.request("engine_newPayloadV4", &params, deadline).await?;
        Ok(status.into())
    }

    /// `engine_forkchoiceUpdatedV3`.
    ///
    /// # Errors
    ///
    /// See [`EngineError`]; a head that is not valid is not an error.
    pub async fn fork_choice_updated_v3(
        &self,
        state: ForkchoiceState,
        attributes: Option<&PayloadAttributes>,
        deadline: Duration,
    ) -> Result<ForkchoiceUpdated, EngineError> {
        let params = (state, attributes);
        let answer: ForkchoiceAnswer =
            self.request("engine_forkchoiceUpdatedV3", &params, deadline).await?;
        Ok(answer.into())
    }

    /// `engine_getPayloadV3`.
    ///
    /// # Errors
    ///
    /// See [`EngineError`].
    pub async fn get_payload_v3(
        &self,
        id: PayloadId,
        deadline: Duration,
    ) -> Result<ExecutionPayloadEnvelopeV3, EngineError> {
        self.request("engine_getPayloadV3", &(id,), deadline).await
    }

    /// `engine_getPayloadV4`.
    ///
    /// # Errors
    ///
    /// See [`EngineError`].
    pub async fn get_payload_v4(
        &self,
        id: PayloadId,
        deadline: Duration,
    ) -> Result<ExecutionPayloadEnvelopeV4, EngineError> {
        self.request("engine_getPayloadV4", &(id,), deadline).await
    }

    /// `engine_getPayloadV5`: with cell proofs for its blobs.
    ///
    /// # Errors
    ///
    /// See [`EngineError`].
    pub async fn get_payload_v5(
        &self,
        id: PayloadId,
        deadline: Duration,
    ) -> Result<ExecutionPayloadEnvelopeV5, EngineError> {
        self.request("engine_getPayloadV5", &(id,), deadline).await
    }

    /// `engine_newPayloadV4P11`: V4 with the key of the previous block's proposer, which the
    /// payload leaves out and the block hash covers.
    ///
    /// # Errors
    ///
    /// See [`EngineError`]; a payload that is not valid is not an error.
    pub async fn new_payload_v4_p11(
        &self,
        payload: &ExecutionPayloadV3,
        versioned_hashes: &[B256],
        parent_beacon_block_root: B256,
        requests: &[alloy_primitives::Bytes],
        parent_proposer_pubkey: &ProposerPublicKey,
        deadline: Duration,
    ) -> Result<PayloadStatus, EngineError> {
        let params =
            (payload, versioned_hashes, parent_beacon_block_root, requests, parent_proposer_pubkey);
        let method = "engine_newPayloadV4P11";
        let status: StatusAnswer = self.request(method, &params, deadline).await?;
        Ok(status.into())
    }

    /// `engine_forkchoiceUpdatedV3P11`.
    ///
    /// # Errors
    ///
    /// See [`EngineError`]; a head that is not valid is not an error.
    pub async fn fork_choice_updated_v3_p11(
        &self,
        state: ForkchoiceState,
        attributes: Option<&BerachainAttributes>,
        deadline: Duration,
    ) -> Result<ForkchoiceUpdated, EngineError> {
        let params = (state, attributes);
        let answer: ForkchoiceAnswer =
            self.request("engine_forkchoiceUpdatedV3P11", &params, deadline).await?;
        Ok(answer.into())
    }

    /// `engine_getPayloadV4P11`. The key that newer clients repeat in their answer is skipped: it
    /// is the one that was asked with.
    ///
    /// # Errors
    ///
    /// See [`EngineError`].
    pub async fn get_payload_v4_p11(
        &self,
        id: PayloadId,
        deadline: Duration,
    ) -> Result<ExecutionPayloadEnvelopeV4, EngineError> {
        self.request("engine_getPayloadV4P11", &(id,), deadline).await
    }

    /// `engine_exchangeCapabilities`: tells ours, returns theirs.
    ///
    /// # Errors
    ///
    /// See [`EngineError`].
    pub async fn exchange_capabilities(
        &self,
        ours: &[&str],
        deadline: Duration,
    ) -> Result<Vec<String>, EngineError> {
        self.request("engine_exchangeCapabilities", &(ours,), deadline).await
    }

    /// Any method. With `Box<RawValue>` as the result it is returned as it was written.
    ///
    /// # Errors
    ///
    /// See [`EngineError`].
    pub async fn request<P, R>(
        &self,
        method: &str,
        params: &P,
        deadline: Duration,
    ) -> Result<R, EngineError>
    where
        P: Serialize + Sync + ?Sized,
        R: DeserializeOwned,
    {
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        let body = rpc::request_body(id, method, params)
            .map_err(|source| EngineError::Encode { method: method.to_owned(), source })?;
        let Forwarded { status, body, .. } =
            self.post(method, body, &HeaderMap::new(), deadline).await?;
        let host = || self.0.host.clone();
        if status != StatusCode::OK {
            return Err(EngineError::Status { method: method.to_owned(), host: host(), status });
        }
        let decode =
            |source| EngineError::Decode { method: method.to_owned(), host: host(), source };
        let answer: Answer<'_> = serde_json::from_slice(&body).map_err(decode)?;
        if let Some(error) = answer.error {
            return Err(EngineError::Rpc { method: method.to_owned(), host: host(), error });
        }
        let result = answer.result.map_or("null", |result| result.get());
        serde_json::from_str(result).map_err(decode)
    }

    /// Hands a body on as it is, with a token of ours, and returns the answer as it came,
    /// whatever its status.
    ///
    /// # Errors
    ///
    /// Only [`EngineError::Transport`], [`EngineError::Timeout`] and [`EngineError::TooLarge`].
    pub async fn forward(
        &self,
        body: Bytes,
        headers: &HeaderMap,
        deadline: Duration,
    ) -> Result<Forwarded, EngineError> {
        self.post("a forwarded request", body, headers, deadline).await
    }

    async fn post(
        &self,
        method: &str,
        body: Bytes,
        headers: &HeaderMap,
        deadline: Duration,
    ) -> Result<Forwarded, EngineError> {
        let link = &*self.0;
        match tokio::time::timeout(deadline, link.exchange(body, headers)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(source)) if source.is::<LengthLimitError>() => Err(EngineError::TooLarge {
                method: method.to_owned(),
                host: link.host.clone(),
                limit: link.answer_limit,
            }),
            Ok(Err(source)) => Err(EngineError::Transport {
                method: method.to_owned(),
                host: link.host.clone(),
                source,
            }),
            Err(_) => Err(EngineError::Timeout {
                method: method.to_owned(),
                host: link.host.clone(),
                deadline,
            }),
        }
    }
}

impl Link {
    async fn exchange(
        &self,
        body: Bytes,
        headers: &HeaderMap,
    ) -> Result<Forwarded, Box<dyn std::error::Error + Send + Sync>> {
        let now = unix_now();
        let answer = self.send(body.clone(), headers, &self.secret.sign(now)).await?;
        match self.secret.sign_as_before(now) {
            // Nothing was looked at but the token.
            Some(token) if is_refused(answer.status) => self.send(body, headers, &token).await,
            Some(_) | None => Ok(answer),
        }
    }

    async fn send(
        &self,
        body: Bytes,
        headers: &HeaderMap,
        token: &str,
    ) -> Result<Forwarded, Box<dyn std::error::Error + Send + Sync>> {
        let mut request = http::Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        let outgoing = request.headers_mut();
        outgoing.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for name in &FORWARDED_HEADERS {
            if let Some(value) = headers.get(name) {
                outgoing.insert(name, value.clone());
            }
        }
        let mut token = HeaderValue::try_from(format!("Bearer {token}"))?;
        token.set_sensitive(true);
        outgoing.insert(AUTHORIZATION, token);

        let (parts, body) = self.http.request(request).await?.into_parts();
        let body = Limited::new(body, self.answer_limit).collect().await?.to_bytes();
        let content_type = parts.headers.get(CONTENT_TYPE).cloned();
        Ok(Forwarded { status: parts.status, content_type, body })
    }
}

/// Whether this is how an execution client says that it does not take the token.
fn is_refused(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

impl fmt::Debug for EngineClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineClient").field("host", &self.0.host).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::JsonRpcServer;

    #[tokio::test]
    async fn an_answer_above_the_limit_is_not_read() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let router =
            JsonRpcServer::new().method("long", |_| async { Ok("x".repeat(200)) }).router();
        let server = tokio::spawn(async move { axum::serve(listener, router).await });

        let secret = Arc::new(JwtSecret::from_bytes([1; 32]));
        let mut client = EngineClient::new(&url, secret).unwrap();
        Arc::get_mut(&mut client.0).unwrap().answer_limit = 100;
        let deadline = Duration::from_secs(20);
        let error = client.request::<_, String>("long", &[0], deadline).await.unwrap_err();
        assert!(matches!(error, EngineError::TooLarge { limit: 100, .. }), "{error}");
        server.abort();
    }
}
