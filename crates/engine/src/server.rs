//! A small JSON-RPC server over HTTP, for an execution client that lives inside another program.
//!
//! Methods are functions from positional parameters to a result; this module does the rest: tokens,
//! sizes, batches, notifications, and the right code for every kind of bad request. Everything is
//! answered with HTTP 200 except a refused token (401) and a verb other than POST (405).

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::door::{admit, json};
use crate::jwt::JwtSecret;
use crate::rpc::{self, Params, Request, RpcError};

/// The largest request body by default.
pub const BODY_LIMIT: usize = 128 * 1024 * 1024;

/// The most requests in one batch by default.
pub const BATCH_LIMIT: usize = 1000;

type Outcome = Result<Box<RawValue>, RpcError>;
type Method = Box<dyn Fn(Params) -> Pin<Box<dyn Future<Output = Outcome> + Send>> + Send + Sync>;

/// A JSON-RPC server: give it methods, then serve its [`router`](Self::router).
pub struct JsonRpcServer {
    methods: HashMap<&'static str, Method>,
    secret: Option<Arc<JwtSecret>>,
    body_limit: usize,
    batch_limit: usize,
}

impl JsonRpcServer {
    /// A server without methods, open to everybody who can reach it.
    pub fn new() -> Self {
        let (body_limit, batch_limit) = (BODY_LIMIT, BATCH_LIMIT);
        Self { methods: HashMap::new(), secret: None, body_limit, batch_limit }
    }

    /// Asks every caller for a token.
    pub fn secret(mut self, secret: Arc<JwtSecret>) -> Self {
        self.secret = Some(secret);
        self
    }

    /// Refuses bodies of more than `bytes`.
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.body_limit = bytes;
        self
    }

    /// Refuses batches of more than `requests`.
    pub fn batch_limit(mut self, requests: usize) -> Self {
        self.batch_limit = requests;
        self
    }

    /// Offers a method; a second one of the same name replaces the first.
    pub fn method<F, Fut, R>(mut self, name: &'static str, method: F) -> Self
    where
        F: Fn(Params) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, RpcError>> + Send + 'static,
        R: Serialize,
    {
        let boxed: Method = Box::new(move |params| {
            let outcome = method(params);
            Box::pin(async move { rpc::result(&outcome.await?) })
        });
        self.methods.insert(name, boxed);
        self
    }

    /// The server, on any path.
    pub fn router(self) -> Router {
        Router::new().fallback(serve).with_state(Arc::new(self))
    }

    /// The answer to a body; empty if it holds nothing but notifications.
    async fn answer(&self, body: &[u8]) -> Bytes {
        if !rpc::is_batch(body) {
            return match serde_json::from_slice::<&RawValue>(body) {
                Ok(request) => self.answer_one(request).await.unwrap_or_default(),
                Err(_) => rpc::answer_body(None, Err(&RpcError::parse_error())),
            };
        }
        let requests = match serde_json::from_slice::<Vec<&RawValue>>(body) {
            Ok(requests) => requests,
            Err(_) => return rpc::answer_body(None, Err(&RpcError::parse_error())),
        };
        if requests.is_empty() || requests.len() > self.batch_limit {
            let reason = format!("a batch holds 1 to {} requests", self.batch_limit);
            return rpc::answer_body(None, Err(&RpcError::invalid_request(reason)));
        }
        let mut answers: Vec<u8> = Vec::new();
        for request in requests {
            if let Some(answer) = self.answer_one(request).await {
                answers.push(if answers.is_empty() { b'[' } else { b',' });
                answers.extend_from_slice(&answer);
            }
        }
        if !answers.is_empty() {
            answers.push(b']');
        }
        answers.into()
    }

    /// The answer to one request; `None` to a notification.
    async fn answer_one(&self, request: &RawValue) -> Option<Bytes> {
        // serde would read an array as a request, field by field.
        let is_object = request.get().starts_with('{');
        let request = match serde_json::from_str::<Request<'_>>(request.get()) {
            Ok(request) if is_object => request,
            Ok(_) | Err(_) => {
                let error = RpcError::invalid_request("not a JSON-RPC request");
                return Some(rpc::answer_body(None, Err(&error)));
            }
        };
        let outcome = self.call(&request).await;
        let id = request.id?;
        Some(rpc::answer_body(Some(id), outcome.as_deref()))
    }

    async fn call(&self, request: &Request<'_>) -> Outcome {
        let method = self
            .methods
            .get(&*request.method)
            .ok_or_else(|| RpcError::method_not_found(&request.method))?;
        method(Params::parse(request.params)?).await
    }
}

impl Default for JsonRpcServer {
    fn default() -> Self {
        Self::new()
    }
}

async fn serve(State(server): State<Arc<JsonRpcServer>>, request: http::Request<Body>) -> Response {
    match admit(request, server.secret.as_deref(), server.body_limit).await {
        Ok((_, body)) => json(StatusCode::OK, server.answer(&body).await),
        Err(refusal) => refusal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::code;

    fn server() -> JsonRpcServer {
        JsonRpcServer::new()
            .batch_limit(3)
            .method("add", |params: Params| async move {
                Ok(params.required::<u64>(0, "a")? + params.optional::<u64>(1, "b")?.unwrap_or(0))
            })
            .method("fail", |_| async {
                Err::<(), _>(RpcError::new(code::UNSUPPORTED_FORK, "Unsupported fork"))
            })
    }

    async fn answer(body: &str) -> String {
        String::from_utf8(server().answer(body.as_bytes()).await.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn a_method_is_called_with_its_parameters() {
        let result = answer(r#"{"jsonrpc":"2.0","id":-1,"method":"add","params":[1,2]}"#).await;
        assert_eq!(result, r#"{"jsonrpc":"2.0","id":-1,"result":3}"#);
        let optional = answer(r#"{"id":"x","method":"add","params":[1]}"#).await;
        assert_eq!(optional, r#"{"jsonrpc":"2.0","id":"x","result":1}"#);
    }

    #[tokio::test]
    async fn every_kind_of_bad_request_has_its_code() {
        for (body, code) in [
            ("", code::PARSE_ERROR),
            ("{", code::PARSE_ERROR),
            ("[1", code::PARSE_ERROR),
            ("5", code::INVALID_REQUEST),
            ("{}", code::INVALID_REQUEST),
            ("[]", code::INVALID_REQUEST),
            (r#"{"id":1,"method":7}"#, code::INVALID_REQUEST),
            (r#"{"id":1,"method":"subtract"}"#, code::METHOD_NOT_FOUND),
            (r#"{"id":1,"method":"add"}"#, code::INVALID_PARAMS),
            (r#"{"id":1,"method":"add","params":null}"#, code::INVALID_PARAMS),
            (r#"{"id":1,"method":"add","params":{"a":1}}"#, code::INVALID_PARAMS),
            (r#"{"id":1,"method":"add","params":["a"]}"#, code::INVALID_PARAMS),
            (r#"{"id":1,"method":"fail","params":[]}"#, code::UNSUPPORTED_FORK),
        ] {
            let answer = answer(body).await;
            assert!(answer.contains(&format!("\"code\":{code},")), "{body}: {answer}");
        }
    }

    #[tokio::test]
    async fn a_batch_is_answered_in_order_without_its_notifications() {
        let batch = r#" [{"id":2,"method":"add","params":[2]},{"method":"add","params":[9]},[1]]"#;
        assert_eq!(
            answer(batch).await,
            r#"[{"jsonrpc":"2.0","id":2,"result":2},{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"not a JSON-RPC request"}}]"#
        );
        assert_eq!(answer(r#"[{"method":"add","params":[9]}]"#).await, "");
    }

    #[tokio::test]
    async fn a_batch_above_the_limit_is_refused_as_a_whole() {
        let one = r#"{"id":1,"method":"add","params":[1]}"#;
        let refused = answer(&format!("[{one},{one},{one},{one}]")).await;
        assert!(refused.contains("a batch holds 1 to 3 requests"), "{refused}");
    }

    #[tokio::test]
    async fn a_long_method_name_does_not_come_back_whole() {
        let body = format!(r#"{{"id":1,"method":"{}"}}"#, "x".repeat(10_000));
        assert!(answer(&body).await.len() < 200);
    }
}
