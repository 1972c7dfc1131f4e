//! Calls on a pending block: its environment, the state after it, and nothing kept.

use std::sync::Arc;

use alloy_primitives::{Bytes, U64};
use alloy_rpc_types_eth::{BlockOverrides, TransactionRequest, state::StateOverride};
use preconf_chain::ChainSpec;
use preconf_evm::{
    BlockContext, CallError,
    call::{CallOutcome, CallRequest, CallStatus, call, estimate_gas, revert_text},
};
use preconf_pending::snapshot::PendingBlock;
use preconf_state::{Key, NeedState};
use serde_json::value::{RawValue, to_raw_value};

use crate::{answers::overrides, failure::Failure, params::Params, view::PendingState};

/// What is asked about a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aim {
    /// What it returns.
    Outcome,
    /// How much gas it needs.
    Gas,
}

/// A call as a caller asks for it, checked.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    aim: Aim,
    request: CallRequest,
    context: BlockContext,
    fee_recipient: alloy_primitives::Address,
    state_override: StateOverride,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Stop {
    /// State is missing from memory: fetch it and try again.
    Need(Vec<Key>),
    /// There is none.
    Failed(Failure),
}

impl Call {
    /// Reads the parameters of `eth_call` or `eth_estimateGas`.
    pub(crate) fn parse(
        aim: Aim,
        params: &Params<'_>,
        block: &PendingBlock,
        gas_cap: u64,
    ) -> Result<Self, Failure> {
        let request: TransactionRequest = params.required(0, "transaction")?;
        let state_override: Option<StateOverride> = params.optional(2, "state overrides")?;
        let block_override: Option<BlockOverrides> = params.optional(3, "block overrides")?;
        let state_override = state_override.unwrap_or_default();
        overrides::check(&state_override)?;
        let environment =
            overrides::environment(&block_override.unwrap_or_default(), &block.environment)?;
        let highest = match aim {
            Aim::Outcome => gas_cap,
            Aim::Gas => gas_cap.min(environment.gas_limit),
        };
        let gas = request.gas.filter(|gas| *gas > 0).unwrap_or(highest).min(highest);
        Ok(Self {
            aim,
            request: call_request(request, gas)?,
            context: BlockContext::from(&environment),
            fee_recipient: environment.fee_recipient,
            state_override,
        })
    }

    /// State that the call reads whatever it does: worth fetching together before it begins.
    pub(crate) fn keys(&self) -> Vec<Key> {
        let CallRequest { from, to, access_list, .. } = &self.request;
        let mut keys =
            vec![Key::Account(from.unwrap_or_default()), Key::Account(self.fee_recipient)];
        keys.extend(to.map(Key::Account));
        keys.extend(self.state_override.keys().copied().map(Key::Account));
        for item in access_list.iter().flat_map(|list| list.iter()) {
            keys.push(Key::Account(item.address));
            let slots = item.storage_keys.iter().map(|slot| (*slot).into());
            keys.extend(slots.map(|slot| Key::Slot(item.address, slot)));
        }
        keys
    }

    /// Executes the call on the state after the block.
    pub(crate) fn run(
        &self,
        spec: &ChainSpec,
        mut state: PendingState,
    ) -> Result<Box<RawValue>, Stop> {
        if !self.state_override.is_empty() {
            let diff = overrides::state(&self.state_override, &state)
                .map_err(|NeedState(key)| Stop::Need(vec![key]))?;
            state.push_layer(Arc::new(diff));
        }
        let answer = match self.aim {
            Aim::Outcome => {
                let outcome = call(spec, &self.context, state, &self.request).map_err(stop)?;
                to_raw_value(&output(outcome).map_err(Stop::Failed)?)
            }
            Aim::Gas => {
                let gas = estimate_gas(spec, &self.context, state, &self.request).map_err(stop)?;
                to_raw_value(&U64::from(gas))
            }
        };
        Ok(answer.expect("bytes and numbers can be written"))
    }
}

fn call_request(request: TransactionRequest, gas: u64) -> Result<CallRequest, Failure> {
    let input = request.input;
    let data = match (input.input, input.data) {
        (Some(input), Some(data)) if input != data => {
            let reason = "both 'data' and 'input' are set and not equal";
            return Err(Failure::InvalidParams(reason.to_owned()));
        }
        (Some(bytes), _) | (None, Some(bytes)) => bytes,
        (None, None) => Bytes::new(),
    };
    if request.blob_versioned_hashes.is_some() || request.sidecar.is_some() {
        let reason = "calls with blobs are not supported on a pending block";
        return Err(Failure::InvalidParams(reason.to_owned()));
    }
    Ok(CallRequest {
        from: request.from,
        to: request.to.and_then(|to| to.to().copied()),
        gas: Some(gas),
        gas_price: request.gas_price,
        max_fee_per_gas: request.max_fee_per_gas,
        max_priority_fee_per_gas: request.max_priority_fee_per_gas,
        value: request.value,
        data,
        nonce: request.nonce,
        chain_id: request.chain_id,
        access_list: request.access_list,
        authorization_list: request.authorization_list,
        ..CallRequest::default()
    })
}

fn output(outcome: CallOutcome) -> Result<Bytes, Failure> {
    match (&outcome.status, outcome.failure()) {
        (CallStatus::Reverted, _) => Err(reverted(outcome.output)),
        (CallStatus::Halted(_), Some(failure)) => Err(Failure::Execution(failure)),
        (CallStatus::Success | CallStatus::Halted(_), _) => Ok(outcome.output),
    }
}

fn stop(error: CallError) -> Stop {
    Stop::Failed(match error {
        CallError::NeedState(keys) => return Stop::Need(keys),
        CallError::Reverted(data) => reverted(data),
        CallError::ConflictingFees
        | CallError::ConflictingInput
        | CallError::WrongChain { .. }
        | CallError::Override(_) => Failure::InvalidParams(error.to_string()),
        CallError::InsufficientFunds
        | CallError::Refused(_)
        | CallError::Halted(_)
        | CallError::GasExceedsAllowance(_)
        | CallError::Failed(_) => Failure::Execution(error.to_string()),
    })
}

fn reverted(data: Bytes) -> Failure {
    let message = revert_text(&data);
    Failure::Reverted { message, data }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{U256, bytes};
    use alloy_sol_types::{Revert, SolError};
    use preconf_state::{StateCache, Value};
    use serde_json::json;

    use super::*;
    use crate::{testing, view::View};

    /// Returns NUMBER.
    const NUMBER: Bytes = bytes!("4360005260206000f3");
    /// Returns BLOCKHASH(NUMBER - 1).
    const PARENT_HASH: Bytes = bytes!("60014303405f5260205ff3");
    fn run(code: &Bytes, mut extra: serde_json::Value, aim: Aim) -> Result<String, Stop> {
        let spec = testing::spec();
        let view = View::new(testing::two_blocks(), None, tokio::time::Instant::now());
        let target = alloy_primitives::Address::repeat_byte(0xcc);
        extra["to"] = json!(target);
        let list = json!([extra, "latest", { target.to_string(): { "code": code } }]);
        let raw = to_raw_value(&list).unwrap();
        let params = Params::parse(Some(&raw)).unwrap();
        let call = Call::parse(aim, &params, view.block(1), 50_000_000).map_err(Stop::Failed)?;
        fill(view.cache(), &call);
        call.run(&spec, view.state(1).clone()).map(|answer| answer.get().to_owned())
    }

    /// Nobody has anything.
    fn fill(cache: &StateCache, call: &Call) {
        for key in call.keys() {
            let value = match key {
                Key::Account(_) => Value::Account(None),
                Key::Slot(..) => Value::Slot(U256::ZERO),
                Key::Code(_) | Key::BlockHash(_) => continue,
            };
            cache.insert(key, value);
        }
    }

    #[test]
    fn a_call_sees_the_number_of_the_pending_block() {
        let answer = run(&NUMBER, json!({}), Aim::Outcome).unwrap();

        assert_eq!(answer, format!("\"0x{:064x}\"", 102));
    }

    #[test]
    fn a_call_sees_the_hash_of_the_pending_parent() {
        let parent = testing::two_blocks().blocks[1].environment.parent_hash;

        let answer = run(&PARENT_HASH, json!({}), Aim::Outcome).unwrap();

        assert_eq!(answer, format!("\"{parent}\""));
    }

    #[test]
    fn a_caller_without_funds_is_told_so_in_known_words() {
        let request = json!({"from": testing::POOR, "value": "0x1", "gasPrice": "0x3b9aca00"});

        let Err(Stop::Failed(failure)) = run(&NUMBER, request, Aim::Outcome) else {
            panic!("it cannot pay");
        };

        assert!(failure.to_string().starts_with("insufficient funds for gas * price + value"));
    }

    #[test]
    fn an_estimate_is_enough_and_not_much_more() {
        let answer = run(&NUMBER, json!({}), Aim::Gas).unwrap();

        let gas: U64 = serde_json::from_str(&answer).unwrap();
        assert!((21_000..23_000).contains(&gas.to::<u64>()), "{gas}");
    }

    #[test]
    fn the_reason_of_a_revert_is_in_the_message_and_the_data_is_kept() {
        let data = Bytes::from(Revert::from("no".to_owned()).abi_encode());

        let Failure::Reverted { message, data: kept } = reverted(data.clone()) else {
            panic!("it reverted");
        };

        assert_eq!(message, "execution reverted: no");
        assert_eq!(kept, data);
        let silent = reverted(Bytes::new());
        assert_eq!(silent.to_string(), "execution reverted");
    }

    #[test]
    fn contradictions_are_refused_before_anything_is_executed() {
        for request in [
            json!({"data": "0x01", "input": "0x02"}),
            json!({"gasPrice": "0x1", "maxFeePerGas": "0x1"}),
            json!({"blobVersionedHashes": []}),
        ] {
            let Err(Stop::Failed(failure)) = run(&NUMBER, request.clone(), Aim::Outcome) else {
                panic!("{request} is refused");
            };
            assert!(matches!(failure, Failure::InvalidParams(_)), "{failure}");
        }
    }
}
