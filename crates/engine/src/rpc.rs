//! JSON-RPC 2.0 as this crate speaks it: requests read without copying, ids and results kept as
//! the bytes they came in.
//!
//! Invariants: an id is echoed as it was written (`1`, `-1`, `1.5`, `"a"`, `null`); a request
//! without an id is a notification and is never answered; `params: null` is the same as no
//! parameters.

use std::borrow::Cow;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::{RawValue, to_raw_value};

/// Error codes of JSON-RPC and of the Engine API.
pub mod code {
    /// The request is not JSON.
    pub const PARSE_ERROR: i64 = -32700;
    /// The request is JSON but not a JSON-RPC request.
    pub const INVALID_REQUEST: i64 = -32600;
    /// No such method.
    pub const METHOD_NOT_FOUND: i64 = -32601;
    /// The parameters do not fit the method.
    pub const INVALID_PARAMS: i64 = -32602;
    /// The server failed.
    pub const INTERNAL_ERROR: i64 = -32603;
    /// The server refused or could not carry out the call.
    pub const SERVER_ERROR: i64 = -32000;
    /// No payload is being built under this id.
    pub const UNKNOWN_PAYLOAD: i64 = -38001;
    /// The forkchoice state contradicts itself or the chain.
    pub const INVALID_FORKCHOICE_STATE: i64 = -38002;
    /// The payload attributes contradict the head or the fork.
    pub const INVALID_PAYLOAD_ATTRIBUTES: i64 = -38003;
    /// Too many items were asked for.
    pub const TOO_LARGE_REQUEST: i64 = -38004;
    /// The method's version does not fit the fork of the payload.
    pub const UNSUPPORTED_FORK: i64 = -38005;
}

/// One request, borrowing from the body it was read from.
#[derive(Clone, Debug, Deserialize)]
pub struct Request<'a> {
    /// The id as it was written; `None` for a notification.
    #[serde(borrow, default, deserialize_with = "present")]
    pub id: Option<&'a RawValue>,
    /// The method.
    #[serde(borrow)]
    pub method: Cow<'a, str>,
    /// The parameters as they were written; `None` if absent or `null`.
    #[serde(borrow, default)]
    pub params: Option<&'a RawValue>,
}

/// The answer to one request, borrowing from the body it was read from.
#[derive(Clone, Debug, Deserialize)]
pub struct Answer<'a> {
    /// The result as it was written, `null` included.
    #[serde(borrow, default, deserialize_with = "present")]
    pub result: Option<&'a RawValue>,
    /// The error, if the call failed.
    #[serde(default)]
    pub error: Option<RpcError>,
}

/// A JSON-RPC error object.
#[derive(Clone, Debug, Deserialize, Serialize, thiserror::Error)]
#[error("{message} (code {code})")]
pub struct RpcError {
    /// The code, see [`code`].
    pub code: i64,
    /// One sentence for people.
    pub message: String,
    /// What the server added, as it was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<RawValue>>,
}

impl RpcError {
    /// An error without data.
    pub fn new(code: i64, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }
    }

    /// The body is not JSON.
    pub fn parse_error() -> Self {
        Self::new(code::PARSE_ERROR, "parse error")
    }

    /// The body is not a JSON-RPC request, and why.
    pub fn invalid_request(reason: impl Into<String>) -> Self {
        Self::new(code::INVALID_REQUEST, reason)
    }

    /// There is no such method.
    pub fn method_not_found(method: &str) -> Self {
        // A name of any length can come in; only its beginning goes back out.
        let shown: String = method.chars().take(64).collect();
        Self::new(
            code::METHOD_NOT_FOUND,
            format!("the method {shown} does not exist/is not available"),
        )
    }

    /// The parameters do not fit, and why.
    pub fn invalid_params(reason: impl Into<String>) -> Self {
        Self::new(code::INVALID_PARAMS, reason)
    }

    /// The server failed.
    pub fn internal(reason: impl Into<String>) -> Self {
        Self::new(code::INTERNAL_ERROR, reason)
    }

    /// No payload is being built under this id.
    pub fn unknown_payload() -> Self {
        Self::new(code::UNKNOWN_PAYLOAD, "Unknown payload")
    }
}

/// Positional parameters, each kept as it was written until somebody asks for it.
#[derive(Clone, Debug, Default)]
pub struct Params(Vec<Box<RawValue>>);

impl Params {
    /// Reads the parameters of a request.
    ///
    /// # Errors
    ///
    /// If they are not an array: named parameters are not offered.
    pub fn parse(params: Option<&RawValue>) -> Result<Self, RpcError> {
        let Some(params) = params else { return Ok(Self::default()) };
        serde_json::from_str(params.get())
            .map(Self)
            .map_err(|_| RpcError::invalid_params("the parameters must be an array"))
    }

    /// How many parameters there are, `null`s included.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The parameter at `index`, which must be there and fit `T`.
    ///
    /// # Errors
    ///
    /// Names the parameter that is missing or does not fit.
    pub fn required<T: DeserializeOwned>(&self, index: usize, name: &str) -> Result<T, RpcError> {
        let raw = self.0.get(index).ok_or_else(|| {
            RpcError::invalid_params(format!("missing value for parameter {index} ({name})"))
        })?;
        serde_json::from_str(raw.get()).map_err(|error| {
            RpcError::invalid_params(format!("invalid parameter {index} ({name}): {error}"))
        })
    }

    /// The parameter at `index`, or `None` if it is absent or `null`.
    ///
    /// # Errors
    ///
    /// Names the parameter that does not fit.
    pub fn optional<T: DeserializeOwned>(
        &self,
        index: usize,
        name: &str,
    ) -> Result<Option<T>, RpcError> {
        if index < self.0.len() { self.required(index, name) } else { Ok(None) }
    }
}

/// Whether a body holds a batch rather than a single request.
pub fn is_batch(body: &[u8]) -> bool {
    body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[')
}

/// The body of a request that we send, with a number or what somebody else wrote as its id.
///
/// # Errors
///
/// If the parameters cannot be written as JSON.
pub fn request_body<P: Serialize + ?Sized>(
    id: impl Serialize,
    method: &str,
    params: &P,
) -> Result<Bytes, serde_json::Error> {
    #[derive(Serialize)]
    struct Outgoing<'a, Id, P: ?Sized> {
        jsonrpc: &'static str,
        id: Id,
        method: &'a str,
        params: &'a P,
    }
    serde_json::to_vec(&Outgoing { jsonrpc: "2.0", id, method, params }).map(Bytes::from)
}

/// The body that answers a request with `id`; an absent id is written as `null`.
pub fn answer_body(id: Option<&RawValue>, outcome: Result<&RawValue, &RpcError>) -> Bytes {
    #[derive(Serialize)]
    struct Outgoing<'a> {
        jsonrpc: &'static str,
        id: Option<&'a RawValue>,
        #[serde(skip_serializing_if = "Option::is_none")]
        result: Option<&'a RawValue>,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<&'a RpcError>,
    }
    let (result, error) = match outcome {
        Ok(result) => (Some(result), None),
        Err(error) => (None, Some(error)),
    };
    serde_json::to_vec(&Outgoing { jsonrpc: "2.0", id, result, error })
        .expect("raw JSON, strings and integers always serialize")
        .into()
}

/// Writes a value as the JSON of a result.
///
/// # Errors
///
/// An internal error if the value cannot be written as JSON.
pub fn result<T: Serialize>(value: &T) -> Result<Box<RawValue>, RpcError> {
    to_raw_value(value).map_err(|error| RpcError::internal(format!("writing the result: {error}")))
}

/// Keeps a `null` that is written apart from a field that is absent.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_echoed_as_it_was_written() {
        for id in ["1", "-1", "1.5", "1e2", "\"a\\u0062\"", "null", "340282366920938463463374607"] {
            let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"m","params":null}}"#);
            let request: Request<'_> = serde_json::from_str(&body).unwrap();
            let result = to_raw_value(&true).unwrap();
            let answer = answer_body(request.id, Ok(&result));
            assert_eq!(answer, format!(r#"{{"jsonrpc":"2.0","id":{id},"result":true}}"#));
        }
    }

    #[test]
    fn a_request_without_an_id_is_a_notification_and_null_is_an_id() {
        let silent: Request<'_> = serde_json::from_str(r#"{"method":"m"}"#).unwrap();
        let null: Request<'_> = serde_json::from_str(r#"{"method":"m","id":null}"#).unwrap();
        assert!(silent.id.is_none());
        assert_eq!(null.id.unwrap().get(), "null");
    }

    #[test]
    fn a_null_result_is_a_result() {
        let answer: Answer<'_> = serde_json::from_str(r#"{"id":1,"result":null}"#).unwrap();
        assert_eq!(answer.result.unwrap().get(), "null");
        assert!(answer.error.is_none());
    }

    #[test]
    fn an_error_keeps_its_data_as_it_was_written() {
        let body = r#"{"id":1,"error":{"code":3,"message":"reverted","data":{"a": 1e2}}}"#;
        let answer: Answer<'_> = serde_json::from_str(body).unwrap();
        let error = answer.error.unwrap();
        assert_eq!(error.data.as_ref().unwrap().get(), r#"{"a": 1e2}"#);
        let written = answer_body(None, Err(&error));
        assert_eq!(
            written,
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":3,"message":"reverted","data":{"a": 1e2}}}"#
        );
    }

    #[test]
    fn a_missing_or_unfit_parameter_is_named() {
        let raw = to_raw_value(&("0x1", 5)).unwrap();
        let params = Params::parse(Some(&raw)).unwrap();
        let unfit = params.required::<bool>(1, "full").unwrap_err();
        assert_eq!(unfit.code, code::INVALID_PARAMS);
        assert!(unfit.message.starts_with("invalid parameter 1 (full)"), "{unfit}");
        let missing = params.required::<bool>(2, "block").unwrap_err();
        assert_eq!(missing.message, "missing value for parameter 2 (block)");
        assert_eq!(params.optional::<bool>(2, "block").unwrap(), None);
    }

    #[test]
    fn named_parameters_are_refused() {
        let raw = RawValue::from_string(r#"{"a":1}"#.to_owned()).unwrap();
        assert_eq!(Params::parse(Some(&raw)).unwrap_err().code, code::INVALID_PARAMS);
        assert!(Params::parse(None).unwrap().is_empty());
    }

    #[test]
    fn a_batch_is_recognised_behind_white_space() {
        assert!(is_batch(b" \n[{}]"));
        assert!(!is_batch(b" {\"a\":[]}"));
        assert!(!is_batch(b""));
    }
}
