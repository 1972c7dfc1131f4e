//! The connection to the execution client: deadlines, limits, batches, and nothing about Ethereum.
//!
//! So many requests are under way at once, and others wait for their turn. Who must not wait behind
//! others has turns of its own: see [`Upstream::apart`].

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::time::Duration;

use futures_util::future::try_join_all;
use jsonrpsee::core::ClientError;
use jsonrpsee::core::client::ClientT;
use jsonrpsee::core::params::BatchRequestBuilder;
use jsonrpsee::core::traits::ToRpcParams;
use jsonrpsee::http_client::transport::HttpBackend;
use jsonrpsee::http_client::{HttpClient, HttpClientBuilder, RpcService, RpcServiceBuilder};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::{RawValue, to_raw_value};
use tokio::sync::Semaphore;
use url::Url;

use crate::code_owners::CodeOwners;
use crate::error::{RpcError, UpstreamError};

/// The largest answer that is read.
pub const MAX_ANSWER_BYTES: u32 = 64 * 1024 * 1024;

/// How long an answer may take that can be as large as that.
const LARGE_ANSWER: Duration = Duration::from_secs(20);

/// How to reach an execution client, and how hard to lean on it.
#[derive(Clone, Debug)]
pub struct UpstreamConfig {
    /// Its JSON-RPC over HTTP.
    pub http: Url,
    /// Its JSON-RPC over WebSocket, for new heads; without it they are polled.
    pub ws: Option<Url>,
    /// The deadline of every call, waiting for a turn included.
    pub timeout: Duration,
    /// The most requests in one batch. Clients refuse batches above a limit of their own.
    pub max_batch: NonZeroUsize,
    /// The most HTTP requests under way at once, of each that has turns of its own.
    pub max_concurrent: NonZeroUsize,
    /// How often the head is polled where it is not subscribed to.
    pub poll_interval: Duration,
    /// How often the pool is read as a whole beside a subscription to it, which may have gone deaf.
    pub reread_interval: Duration,
}

impl UpstreamConfig {
    /// The defaults for a client that is reached over HTTP.
    pub fn new(http: Url) -> Self {
        Self {
            http,
            ws: None,
            timeout: Duration::from_secs(2),
            max_batch: NonZeroUsize::new(100).expect("100 is not 0"),
            max_concurrent: NonZeroUsize::new(16).expect("16 is not 0"),
            poll_interval: Duration::from_millis(100),
            reread_interval: Duration::from_secs(60),
        }
    }
}

/// An execution client. Clones share connections and turns.
#[derive(Clone)]
pub struct Upstream(pub(crate) Arc<Link>, Arc<Semaphore>);

pub(crate) struct Link {
    http: HttpClient<RpcService<HttpBackend>>,
    /// With the deadline of large answers.
    patient: HttpClient<RpcService<HttpBackend>>,
    pub(crate) config: UpstreamConfig,
    pub(crate) host: String,
    /// See [`crate::reads::Pinning`].
    pub(crate) pinning: AtomicU8,
    pub(crate) code_owners: CodeOwners,
}

/// One request of a batch.
pub(crate) struct Request {
    pub(crate) method: &'static str,
    pub(crate) params: Box<RawValue>,
}

impl Request {
    pub(crate) fn new(method: &'static str, params: impl Serialize) -> Self {
        let params = to_raw_value(&params).expect("hex strings and booleans always serialize");
        Self { method, params }
    }
}

/// Parameters that are JSON already.
struct Raw(Option<Box<RawValue>>);

impl ToRpcParams for Raw {
    fn to_rpc_params(self) -> Result<Option<Box<RawValue>>, serde_json::Error> {
        Ok(self.0)
    }
}

impl Upstream {
    /// A client for `config`. Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// If one of the URLs cannot be used.
    pub fn new(config: UpstreamConfig) -> Result<Self, UpstreamError> {
        let host = host_of(&config.http);
        if let Some(ws) = &config.ws
            && ws.scheme() != "ws"
        {
            let source = format!("heads are subscribed to over ws, not {}", ws.scheme()).into();
            return Err(UpstreamError::Url { host: host_of(ws), source });
        }
        let client = |deadline| {
            HttpClientBuilder::new()
                .max_response_size(MAX_ANSWER_BYTES)
                .max_request_size(MAX_ANSWER_BYTES)
                .request_timeout(deadline)
                .connect_timeout(config.timeout)
                // No logging layer: it would write parameters and answers into our traces.
                .set_rpc_middleware(RpcServiceBuilder::new())
                .build(&config.http)
                .map_err(|source| UpstreamError::Url { host: host.clone(), source: source.into() })
        };
        let (http, patient) = (client(config.timeout)?, client(LARGE_ANSWER)?);
        let turns = Arc::new(Semaphore::new(config.max_concurrent.get()));
        let (pinning, code_owners) = (AtomicU8::new(0), CodeOwners::default());
        let link = Link { http, patient, config, host, pinning, code_owners };
        Ok(Self(Arc::new(link), turns))
    }

    /// The same client, with turns that nobody else takes: who asks through this waits for nothing
    /// but its own requests.
    #[must_use]
    pub fn apart(&self) -> Self {
        let turns = Semaphore::new(self.0.config.max_concurrent.get());
        Self(Arc::clone(&self.0), Arc::new(turns))
    }

    /// The host and port of the execution client, for logs and errors.
    pub fn host(&self) -> &str {
        &self.0.host
    }

    /// Any method, with parameters that are JSON already. The result is returned as it was
    /// written; an error of the client is [`UpstreamError::Refused`] and as it was written too.
    ///
    /// # Errors
    ///
    /// See [`UpstreamError`].
    pub async fn request(
        &self,
        method: &str,
        params: Option<Box<RawValue>>,
    ) -> Result<Box<RawValue>, UpstreamError> {
        self.request_about(method, method, params).await
    }

    /// A method with a result of a known shape; `about` is what an error shall name beside it.
    pub(crate) async fn call<R: DeserializeOwned>(
        &self,
        method: &str,
        params: impl Serialize,
        about: impl fmt::Display,
    ) -> Result<R, UpstreamError> {
        let call = format!("{method} {about}").trim_end().to_owned();
        let params = to_raw_value(&params)
            .map_err(|source| UpstreamError::Encode { call: call.clone(), source })?;
        let result = self.request_about(method, &call, Some(params)).await?;
        self.decode(&call, &result)
    }

    /// Reads a result.
    pub(crate) fn decode<R: DeserializeOwned>(
        &self,
        call: &str,
        result: &RawValue,
    ) -> Result<R, UpstreamError> {
        serde_json::from_str(result.get()).map_err(|source| UpstreamError::Decode {
            call: call.to_owned(),
            host: self.0.host.clone(),
            source,
        })
    }

    pub(crate) async fn request_about(
        &self,
        method: &str,
        call: &str,
        params: Option<Box<RawValue>>,
    ) -> Result<Box<RawValue>, UpstreamError> {
        self.in_time(call, self.0.http.request(method, Raw(params))).await
    }

    /// A method without parameters whose answer may be very large. It takes no turn, and has a
    /// deadline of its own: one caller at a time asks for it.
    pub(crate) async fn large(&self, method: &str) -> Result<Box<RawValue>, UpstreamError> {
        let answer = self.0.patient.request(method, Raw(None));
        // The library's deadline may not cover the body.
        let outcome = match tokio::time::timeout(LARGE_ANSWER, answer).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ClientError::RequestTimeout),
        };
        let host = &self.0.host;
        outcome.map_err(|error| UpstreamError::from_client(error, method, host, LARGE_ANSWER))
    }

    /// Many requests, in as few batches as allowed, all under way at once as far as there are
    /// turns. The answers are in the order of the requests.
    pub(crate) async fn batch(
        &self,
        call: &str,
        requests: &[Request],
    ) -> Result<Vec<Result<Box<RawValue>, RpcError>>, UpstreamError> {
        let batches = requests.chunks(self.0.config.max_batch.get());
        let answers = try_join_all(batches.map(|batch| self.one_batch(call, batch))).await?;
        Ok(answers.into_iter().flatten().collect())
    }

    async fn one_batch(
        &self,
        call: &str,
        requests: &[Request],
    ) -> Result<Vec<Result<Box<RawValue>, RpcError>>, UpstreamError> {
        if let [Request { method, params }] = requests {
            // Some clients know no batches, and one request needs none.
            return match self.request_about(method, call, Some(params.clone())).await {
                Ok(result) => Ok(vec![Ok(result)]),
                Err(UpstreamError::Refused { error, .. }) => Ok(vec![Err(error)]),
                Err(error) => Err(error),
            };
        }
        let mut batch = BatchRequestBuilder::new();
        for Request { method, params } in requests {
            batch
                .insert(method, Raw(Some(params.clone())))
                .expect("parameters that are JSON already need no encoding");
        }
        let answers = self.in_time(call, self.0.http.batch_request::<Box<RawValue>>(batch)).await?;
        let answers: Vec<_> =
            answers.into_iter().map(|answer| answer.map_err(RpcError::into_owned)).collect();
        // The library counts answers, not requests; a missing one must not shift the others.
        if answers.len() != requests.len() {
            return Err(UpstreamError::Incomplete {
                call: call.to_owned(),
                host: self.0.host.clone(),
                asked: requests.len(),
                answered: answers.len(),
            });
        }
        Ok(answers)
    }

    /// Waits for a turn and then for the answer, together no longer than the deadline.
    async fn in_time<T>(
        &self,
        call: &str,
        answer: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, UpstreamError> {
        let deadline = self.0.config.timeout;
        let in_turn = async {
            let _turn = self.1.acquire().await.expect("the semaphore is never closed");
            answer.await
        };
        let outcome = match tokio::time::timeout(deadline, in_turn).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ClientError::RequestTimeout),
        };
        outcome.map_err(|error| UpstreamError::from_client(error, call, &self.0.host, deadline))
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("host", &self.0.host).finish_non_exhaustive()
    }
}

/// What may be shown of a URL: neither its credentials nor its path, which may be an API key.
pub(crate) fn host_of(url: &Url) -> String {
    match (url.host_str(), url.port_or_known_default()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (Some(host), None) => host.to_owned(),
        (None, _) => format!("({} URL without a host)", url.scheme()),
    }
}
