//! JSON over HTTP, as it is written in a case: nothing is added and nothing interpreted.

use std::{error::Error, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Uri, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;
use tokio::time::timeout;

use crate::conformance::Failure;

/// How long an answer may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// The largest answer that is read.
const MAX_ANSWER_BYTES: usize = 256 * 1024 * 1024;

/// Where requests go.
#[derive(Debug)]
pub(super) struct Endpoint {
    client: Client<HttpConnector, Full<Bytes>>,
    url: String,
    uri: Uri,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAnswer {
    #[error("no answer within {DEADLINE:?}")]
    Late,
    #[error("the connection failed")]
    Connection(#[source] Box<dyn Error + Send + Sync>),
    #[error("the answer is not JSON")]
    Json(#[source] serde_json::Error),
}

impl Endpoint {
    pub(super) fn new(url: &str) -> Result<Self, Failure> {
        let uri: Option<Uri> = url.parse().ok();
        let http = uri.filter(|uri| uri.scheme_str() == Some("http") && uri.host().is_some());
        let uri = http.ok_or_else(|| Failure::Url { url: url.to_owned() })?;
        let client = Client::builder(TokioExecutor::new()).build(HttpConnector::new());
        Ok(Self { client, url: url.to_owned(), uri })
    }

    /// Sends a request as it is.
    ///
    /// # Errors
    /// If nobody is there. Somebody who does not answer is another matter.
    pub(super) async fn ask(&self, request: &str) -> Result<Result<Value, NoAnswer>, Failure> {
        let body = Full::new(Bytes::copy_from_slice(request.as_bytes()));
        let request = Request::builder()
            .method(Method::POST)
            .uri(self.uri.clone())
            .header(CONTENT_TYPE, "application/json")
            .body(body)
            .expect("a checked URI and a constant header are a request");
        let exchange = async {
            let response = match self.client.request(request).await {
                Ok(response) => response,
                Err(error) if error.is_connect() => {
                    return Err(Failure::Endpoint { url: self.url.clone(), source: error.into() });
                }
                Err(error) => return Ok(Err(NoAnswer::Connection(error.into()))),
            };
            let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
            Ok(match body {
                Ok(body) => serde_json::from_slice(&body.to_bytes()).map_err(NoAnswer::Json),
                Err(error) => Err(NoAnswer::Connection(error)),
            })
        };
        timeout(DEADLINE, exchange).await.unwrap_or(Ok(Err(NoAnswer::Late)))
    }
}
