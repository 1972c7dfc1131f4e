//! Reading a payload status as clients really write it: `validationError` may be `null` or absent
//! in an INVALID answer, which the shared types refuse.

use alloy_primitives::B256;
use alloy_rpc_types_engine::{ForkchoiceUpdated, PayloadId, PayloadStatus, PayloadStatusEnum};
use serde::Deserialize;

/// `PayloadStatusV1`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StatusAnswer {
    status: Status,
    #[serde(default)]
    latest_valid_hash: Option<B256>,
    #[serde(default)]
    validation_error: Option<String>,
}

/// The answer to a forkchoiceUpdated.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ForkchoiceAnswer {
    payload_status: StatusAnswer,
    #[serde(default)]
    payload_id: Option<PayloadId>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Status {
    Valid,
    Invalid,
    Syncing,
    Accepted,
}

impl From<StatusAnswer> for PayloadStatus {
    fn from(answer: StatusAnswer) -> Self {
        let status = match answer.status {
            Status::Valid => PayloadStatusEnum::Valid,
            Status::Syncing => PayloadStatusEnum::Syncing,
            Status::Accepted => PayloadStatusEnum::Accepted,
            Status::Invalid => PayloadStatusEnum::Invalid {
                validation_error: answer.validation_error.unwrap_or_default(),
            },
        };
        Self { status, latest_valid_hash: answer.latest_valid_hash }
    }
}

impl From<ForkchoiceAnswer> for ForkchoiceUpdated {
    fn from(answer: ForkchoiceAnswer) -> Self {
        Self { payload_status: answer.payload_status.into(), payload_id: answer.payload_id }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> PayloadStatus {
        serde_json::from_str::<StatusAnswer>(json).unwrap().into()
    }

    #[test]
    fn an_invalid_status_without_a_reason_is_understood() {
        let null = r#"{"status":"INVALID","latestValidHash":null,"validationError":null}"#;
        assert!(parse(null).is_invalid());
        assert!(parse(r#"{"status":"INVALID"}"#).is_invalid());
        let named = parse(r#"{"status":"INVALID","validationError":"bad root"}"#);
        assert_eq!(named.status.validation_error(), Some("bad root"));
    }

    #[test]
    fn an_empty_or_unknown_status_is_refused() {
        assert!(serde_json::from_str::<StatusAnswer>("{}").is_err());
        assert!(serde_json::from_str::<StatusAnswer>(r#"{"status":"FINE"}"#).is_err());
    }
}
