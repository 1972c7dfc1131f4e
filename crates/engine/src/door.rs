//! What the proxy and the server do alike before a request is looked at: check the token, read a
//! bounded body in bounded time, and write JSON back.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};

use crate::jwt::{JwtError, JwtSecret};
use crate::rpc::{self, RpcError};

/// How long a peer may take to send a body.
const READ_DEADLINE: Duration = Duration::from_secs(10);

/// Lets a request in, or says how to turn it away.
pub(crate) async fn admit(
    request: http::Request<Body>,
    secret: Option<&JwtSecret>,
    body_limit: usize,
) -> Result<(HeaderMap, Bytes), Response> {
    let (parts, body) = request.into_parts();
    if let Some(secret) = secret {
        secret.verify_headers(&parts.headers, unix_now()).map_err(unauthorized)?;
    }
    if parts.method != Method::POST {
        return Err(post_only());
    }
    let body = read(&parts.headers, body, body_limit).await.map_err(|error| refuse(&error))?;
    Ok((parts.headers, body))
}

/// A JSON answer.
pub(crate) fn json(status: StatusCode, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Seconds since 1970.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

async fn read(headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes, RpcError> {
    let too_large = || RpcError::invalid_request(format!("the body exceeds {limit} bytes"));
    // What is announced as too large is not read at all.
    let announced =
        headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: usize| length > limit) {
        return Err(too_large());
    }
    match tokio::time::timeout(READ_DEADLINE, Limited::new(body, limit).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(RpcError::invalid_request("the body ended early")),
        Err(_) => Err(RpcError::invalid_request("the body took too long to arrive")),
    }
}

fn refuse(error: &RpcError) -> Response {
    json(StatusCode::OK, rpc::answer_body(None, Err(error)))
}

fn unauthorized(error: JwtError) -> Response {
    let mut response = Response::new(Body::from(error.to_string()));
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    response
}

fn post_only() -> Response {
    let mut response = Response::new(Body::from("JSON-RPC is spoken by POST"));
    *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
    response
}
