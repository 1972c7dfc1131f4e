//! The answers, in beacon-kit's words.
//!
//! A refusal is a status and a sentence. A payload is written in pieces, so that a validator that
//! went away before it had all of it is counted as such: as beacon-kit does, each request has
//! exactly one result.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures_util::Stream;
use http::{
    HeaderValue, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER},
};
use preconf_payload_api::{BearerError, ErrorBody, HealthBody, RequestError};
use preconf_telemetry::metrics::{Counter, Family};
use tracing::warn;

use crate::quota::Place;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// The piece of a payload that is handed over at a time.
const PIECE: usize = 64 * 1024;

/// Why a validator gets no payload.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("method not allowed")]
    Method,
    #[error("unauthorized: missing Authorization header")]
    NoToken,
    #[error("unauthorized: invalid Authorization header format")]
    TokenForm,
    #[error("unauthorized: invalid or unknown JWT token")]
    Token,
    #[error("validator not whitelisted")]
    NotWhitelisted,
    #[error("too many requests")]
    TooMany,
    #[error("request body too large")]
    TooLarge,
    #[error("invalid request body: {0}")]
    BadRequest(String),
    #[error("not the expected proposer for this slot")]
    WrongProposer,
    #[error("payload not available: unable to find payload ID in cache")]
    NoBuild,
    #[error("payload not available: payload does not exist or is not available")]
    NotAvailable,
    #[error("payload not available")]
    Unspecified,
    #[error("internal server error")]
    Internal,
}

impl Refusal {
    const fn status(&self) -> StatusCode {
        match self {
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::NoToken | Self::TokenForm | Self::Token => StatusCode::UNAUTHORIZED,
            Self::NotWhitelisted | Self::WrongProposer => StatusCode::FORBIDDEN,
            Self::TooMany => StatusCode::TOO_MANY_REQUESTS,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::NoBuild | Self::NotAvailable | Self::Unspecified => StatusCode::NOT_FOUND,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// What it is counted as.
    pub(crate) const fn result(&self) -> &'static str {
        match self {
            Self::Method => "method_not_allowed",
            Self::NoToken | Self::TokenForm | Self::Token => "unauthorized",
            Self::NotWhitelisted => "not_whitelisted",
            Self::TooMany => "rate_limited",
            Self::TooLarge => "request_too_large",
            Self::BadRequest(_) => "bad_request",
            Self::WrongProposer => "wrong_proposer",
            Self::NoBuild | Self::NotAvailable | Self::Unspecified => "payload_not_found",
            Self::Internal => "internal_error",
        }
    }

    pub(crate) fn answer(&self) -> Response {
        let code = self.status();
        let body = ErrorBody { code: code.as_u16(), message: self.to_string() };
        let mut answer = json(code, Body::from(body.to_json()));
        if matches!(self, Self::TooMany) {
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        answer
    }
}

impl From<RequestError> for Refusal {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::TooLarge => Self::TooLarge,
            RequestError::Empty | RequestError::Truncated | RequestError::Malformed(_) => {
                Self::BadRequest(preconf_chassis::Chain(&error).to_string())
            }
        }
    }
}

impl From<BearerError> for Refusal {
    fn from(error: BearerError) -> Self {
        match error {
            BearerError::Missing => Self::NoToken,
            BearerError::Form => Self::TokenForm,
        }
    }
}

/// The answer about health.
pub(crate) fn health(health: HealthBody) -> Response {
    let code = if health.is_healthy() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json(code, Body::from(health.to_json()))
}

/// The answer with a payload; it is counted when it is on its way, or when it is given up.
/// The validator's place is taken as long.
pub(crate) fn payload(
    text: Vec<u8>,
    place: Option<Place>,
    results: &Family<Counter, 1>,
) -> Response {
    let length = HeaderValue::from(text.len());
    let pieces = Pieces { left: text.into(), results: results.clone(), _place: place };
    let mut answer = json(StatusCode::OK, Body::from_stream(pieces));
    answer.headers_mut().insert(CONTENT_LENGTH, length);
    answer
}

/// What a path gets that nobody serves.
pub(crate) fn not_found() -> Response {
    let mut answer = Response::new(Body::from("404 page not found\n"));
    *answer.status_mut() = StatusCode::NOT_FOUND;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, text);
    answer
}

fn json(status: StatusCode, body: Body) -> Response {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, JSON);
    answer
}

/// A payload that is being written.
struct Pieces {
    left: Bytes,
    results: Family<Counter, 1>,
    _place: Option<Place>,
}

impl Stream for Pieces {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let piece = self.left.len().min(PIECE);
        Poll::Ready((piece > 0).then(|| Ok(self.left.split_to(piece))))
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        if self.left.is_empty() {
            self.results.get(["ok"]).inc();
        } else {
            warn!(left = self.left.len(), "Failed to write payload response");
            self.results.get(["response_write_error"]).inc();
        }
    }
}
