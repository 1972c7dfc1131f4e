//! Why a request has no result, and what its caller is told.
//!
//! One table: every failure has one JSON-RPC code, and the words that wallets know from other
//! clients. What an execution client says is passed on as it came, `data` included. What happened
//! inside, such as the address of a peer, is for the log and never for the caller.

use std::time::Duration;

use jsonrpsee::types::{
    ErrorObjectOwned,
    error::{INTERNAL_ERROR_CODE, INVALID_PARAMS_CODE, METHOD_NOT_FOUND_CODE},
};
use preconf_chassis::Chain;
use preconf_evm::{CallError, simulate::SimulateError};
use preconf_primitives::{TransactionRefusal, TransactionRefusalReason};
use preconf_upstream::UpstreamError;
use preconf_wire::ingress::IngressError;

/// The request cannot be fulfilled, for the reason in the message.
const SERVER_ERROR: i32 = -32_000;
/// The request took too long.
const TIMED_OUT: i32 = -32_002;
/// The caller, or all callers together, ask for too much.
const LIMIT_EXCEEDED: i32 = -32_005;

/// Why a request has no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// A parameter is missing or does not fit.
    #[error("{0}")]
    InvalidParams(String),
    /// The method is known, and not for everybody or not offered yet.
    #[error("the method {method} is not offered here: {reason}")]
    NotOffered { method: String, reason: &'static str },
    /// The block is above the newest one.
    #[error("header not found")]
    UnknownBlock,
    /// The block is pending, and the question is answered for canonical blocks only.
    #[error(
        "block {number} is preconfirmed and not canonical yet: {method} is not answered for it"
    )]
    Preconfirmed { method: String, number: u64 },
    /// The execution client has not got as far as the snapshot.
    #[error("the execution client does not have block {number} yet: try again")]
    Behind { number: u64 },
    /// The call cannot be carried out, or ended with an error.
    #[error(transparent)]
    Call(Box<CallError>),
    /// The same, of one among several blocks of calls.
    #[error("{}", Chain(.0.as_ref()))]
    Simulate(Box<SimulateError>),
    /// The sequencer does not take the transaction.
    #[error(transparent)]
    Refused(TransactionRefusal),
    /// The sequencer did not answer, or nothing that could be understood.
    #[error(
        "the sequencer cannot be reached and may not have the transaction: send it again, \
         which is safe"
    )]
    Sequencer(#[source] Box<IngressError>),
    /// The execution client was asked on behalf of the caller.
    #[error("the execution client did not answer")]
    Client(#[source] Box<UpstreamError>),
    /// State that the answer depends on could not be read.
    #[error("the state of the block could not be read from the execution client")]
    State(#[source] Box<UpstreamError>),
    /// The answer depends on more state than is fetched for one request.
    #[error("the call reads more state than is fetched for one request")]
    TooMuchState,
    /// The deadline of the request has passed.
    #[error("request timed out after {0:?}")]
    TimedOut(Duration),
    /// All callers together have too many requests under way.
    #[error("too many requests are under way, try again later")]
    Busy,
    /// A mistake of ours; the log has the details.
    #[error("internal error")]
    Internal,
}

impl Failure {
    /// The code with which the execution client refused to answer, if it did.
    pub(crate) fn refusal_code(&self) -> Option<i32> {
        let Self::Client(error) = self else { return None };
        error.refusal().map(|refusal| refusal.code())
    }

    /// The label in metrics: whether somebody should look at it.
    pub(crate) fn outcome(&self) -> &'static str {
        match self {
            Self::InvalidParams(_)
            | Self::NotOffered { .. }
            | Self::UnknownBlock
            | Self::Preconfirmed { .. } => "invalid",
            Self::Call(_) | Self::Simulate(_) if self.code() != INTERNAL_ERROR_CODE => "refused",
            Self::Refused(_) => "refused",
            Self::TimedOut(_) => "timed_out",
            Self::Busy => "busy",
            Self::Client(error) if error.refusal().is_some() => "refused",
            Self::Call(_)
            | Self::Simulate(_)
            | Self::Behind { .. }
            | Self::Sequencer(_)
            | Self::Client(_)
            | Self::State(_)
            | Self::TooMuchState
            | Self::Internal => "failed",
        }
    }

    fn code(&self) -> i32 {
        match self {
            Self::InvalidParams(_) => INVALID_PARAMS_CODE,
            Self::NotOffered { .. } => METHOD_NOT_FOUND_CODE,
            Self::Call(error) => narrow(error.code()),
            Self::Simulate(error) => narrow(error.code()),
            Self::Refused(refusal) => match refusal.reason {
                TransactionRefusalReason::Malformed => INVALID_PARAMS_CODE,
                TransactionRefusalReason::WrongChain
                | TransactionRefusalReason::AlreadyKnown
                | TransactionRefusalReason::NonceTooLow
                | TransactionRefusalReason::NonceGapTooLarge
                | TransactionRefusalReason::Underpriced
                | TransactionRefusalReason::ReplacementUnderpriced
                | TransactionRefusalReason::InsufficientFunds
                | TransactionRefusalReason::IntrinsicGasTooLow
                | TransactionRefusalReason::GasLimitTooHigh
                | TransactionRefusalReason::UnsupportedType
                | TransactionRefusalReason::PoolFull
                | TransactionRefusalReason::Oversized => SERVER_ERROR,
            },
            Self::UnknownBlock
            | Self::Preconfirmed { .. }
            | Self::Behind { .. }
            | Self::Sequencer(_)
            | Self::Client(_)
            | Self::State(_)
            | Self::TooMuchState => SERVER_ERROR,
            Self::TimedOut(_) => TIMED_OUT,
            Self::Busy => LIMIT_EXCEEDED,
            Self::Internal => INTERNAL_ERROR_CODE,
        }
    }
}

impl From<Failure> for ErrorObjectOwned {
    fn from(failure: Failure) -> Self {
        if let Failure::Client(error) = &failure
            && let Some(refusal) = error.refusal()
        {
            return refusal.clone();
        }
        let (code, message) = (failure.code(), failure.to_string());
        let data = if let Failure::Call(error) = &failure { error.data() } else { None };
        Self::owned(code, message, data)
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        Self::Call(Box::new(error))
    }
}

impl From<SimulateError> for Failure {
    fn from(error: SimulateError) -> Self {
        Self::Simulate(Box::new(error))
    }
}

/// The code of an execution as JSON-RPC counts them.
fn narrow(code: i64) -> i32 {
    i32::try_from(code).unwrap_or(INTERNAL_ERROR_CODE)
}

#[cfg(test)]
mod tests {
    use alloy_primitives::Bytes;

    use super::*;

    fn refused(reason: TransactionRefusalReason, detail: &str) -> ErrorObjectOwned {
        Failure::Refused(TransactionRefusal::new(reason, detail)).into()
    }

    #[test]
    fn a_refused_transaction_has_the_words_that_wallets_know() {
        use TransactionRefusalReason as Reason;
        for (reason, detail, code, message) in [
            (
                Reason::NonceTooLow,
                "next nonce 5, tx nonce 3",
                -32_000,
                "nonce too low: next nonce 5, tx nonce 3",
            ),
            (Reason::ReplacementUnderpriced, "", -32_000, "replacement transaction underpriced"),
            (Reason::AlreadyKnown, "", -32_000, "already known"),
            (
                Reason::InsufficientFunds,
                "balance 1, tx cost 2",
                -32_000,
                "insufficient funds for gas * price + value: balance 1, tx cost 2",
            ),
            (Reason::Malformed, "no such type", -32_602, "invalid transaction: no such type"),
        ] {
            let error = refused(reason, detail);
            assert_eq!((error.code(), error.message()), (code, message));
        }
    }

    #[test]
    fn a_revert_carries_its_data_and_code_3() {
        let failure = Failure::from(CallError::Reverted(Bytes::from_static(&[0xab])));

        let error = ErrorObjectOwned::from(failure);

        assert_eq!(error.code(), 3);
        assert_eq!(error.data().map(|data| data.get()), Some("\"0xab\""));
    }

    #[test]
    fn an_error_of_the_execution_client_is_passed_on_as_it_came() {
        let error = ErrorObjectOwned::owned(-32_015, "VM error", Some([1, 2]));
        let failure = Failure::Client(Box::new(UpstreamError::Refused {
            call: "eth_call".to_owned(),
            host: "secret:8545".to_owned(),
            error: error.clone(),
        }));

        assert_eq!(ErrorObjectOwned::from(failure), error);
    }

    #[test]
    fn a_client_that_is_down_is_not_named() {
        let failure = Failure::Client(Box::new(UpstreamError::Timeout {
            call: "eth_call".to_owned(),
            host: "secret:8545".to_owned(),
            deadline: Duration::from_secs(1),
        }));

        let error = ErrorObjectOwned::from(failure);

        assert_eq!(error.code(), -32_000);
        assert!(!error.message().contains("secret"), "{error}");
    }
}
