//! Calls on a pending block: its environment, the state after it, and nothing kept.

use alloy_primitives::U64;
use alloy_rpc_types_eth::{BlockOverrides, TransactionRequest, state::StateOverride};
use preconf_chain::ChainSpec;
use preconf_evm::{
    BlockContext, CallError,
    access_list::create_access_list,
    call::{CallRequest, call, estimate_gas},
};
use preconf_pending::snapshot::PendingBlock;
use preconf_state::Key;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::{failure::Failure, params::Params, view::PendingState};

/// How many keys are fetched before a call begins. What it needs beyond them is fetched when it
/// asks for it, and how often it may ask is limited.
pub(super) const MAX_FETCHED_BEFORE: usize = 1_024;

/// What is asked about a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aim {
    /// What it returns.
    Outcome,
    /// How much gas it needs.
    Gas,
    /// Which accounts and slots it touches.
    AccessList,
}

/// A call as a caller asks for it, checked.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    aim: Aim,
    request: CallRequest,
    context: BlockContext,
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
    /// Reads the parameters of `eth_call` and of the methods that take the same.
    pub(crate) fn parse(
        aim: Aim,
        params: &Params<'_>,
        block: &PendingBlock,
        gas_cap: u64,
    ) -> Result<Self, Failure> {
        let request: TransactionRequest = params.required(0, "transaction")?;
        let state_override: Option<StateOverride> = params.optional(2, "state overrides")?;
        let block_override: Option<BlockOverrides> = params.optional(3, "block overrides")?;
        let mut request = CallRequest::try_from(request)?;
        let mut context = BlockContext::from(&*block.environment);
        if let Some(wanted) = &block_override {
            context.override_block(wanted)?;
        }
        let highest = match aim {
            Aim::Outcome | Aim::AccessList => gas_cap,
            Aim::Gas => gas_cap.min(context.gas_limit()),
        };
        request.gas = Some(request.gas.filter(|gas| *gas > 0).unwrap_or(highest).min(highest));
        Ok(Self { aim, request, context, state_override: state_override.unwrap_or_default() })
    }

    /// State that the call reads whatever it does: worth fetching together before it begins.
    pub(crate) fn keys(&self) -> Vec<Key> {
        let CallRequest { from, to, access_list, .. } = &self.request;
        let fee_recipient = self.context.header().beneficiary;
        let mut keys = vec![Key::Account(from.unwrap_or_default()), Key::Account(fee_recipient)];
        keys.extend(to.map(Key::Account));
        keys.extend(self.state_override.keys().copied().map(Key::Account));
        for item in access_list.iter().flat_map(|list| list.iter()) {
            keys.push(Key::Account(item.address));
            let slots = item.storage_keys.iter().map(|slot| (*slot).into());
            keys.extend(slots.map(|slot| Key::Slot(item.address, slot)));
        }
        keys.truncate(MAX_FETCHED_BEFORE);
        keys
    }

    /// Executes the call on the state after the block.
    pub(crate) fn run(
        &self,
        spec: &ChainSpec,
        mut state: PendingState,
    ) -> Result<Box<RawValue>, Stop> {
        let mut context = self.context.clone();
        if !self.state_override.is_empty() {
            context.override_state(spec, &self.state_override, &mut state)?;
        }
        match self.aim {
            Aim::Outcome => {
                let outcome = call(spec, &context, state, &self.request)?;
                Ok(written(&outcome.into_output()?))
            }
            Aim::Gas => {
                Ok(written(&U64::from(estimate_gas(spec, &context, state, &self.request)?)))
            }
            Aim::AccessList => {
                Ok(written(&create_access_list(spec, &context, &state, &self.request)?))
            }
        }
    }
}

impl From<CallError> for Stop {
    fn from(error: CallError) -> Self {
        if let CallError::NeedState(keys) = error {
            return Self::Need(keys);
        }
        Self::Failed(error.into())
    }
}

/// An answer as JSON.
pub(super) fn written(answer: &impl Serialize) -> Box<RawValue> {
    to_raw_value(answer).expect("answers have string keys only, so they can be written")
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{Address, Bytes, U256, bytes};
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
        let target = Address::repeat_byte(0xcc);
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
        // CODECOPY of all but the first 12 bytes, REVERT with them.
        let mut code = bytes!("600c380380600c5f395ffd00").to_vec();
        code.extend_from_slice(&data);

        for aim in [Aim::Outcome, Aim::Gas] {
            let Err(Stop::Failed(failure)) = run(&code.clone().into(), json!({}), aim) else {
                panic!("it reverts");
            };

            let told = jsonrpsee::types::ErrorObjectOwned::from(failure);
            assert_eq!((told.code(), told.message()), (3, "execution reverted: no"));
            assert_eq!(told.data().unwrap().get(), json!(data).to_string());
        }
    }

    #[test]
    fn contradictions_are_refused_before_anything_is_executed() {
        for (request, message) in [
            (json!({"data": "0x01", "input": "0x02"}), "both \"data\" and \"input\" are set"),
            (json!({"gasPrice": "0x1", "maxFeePerGas": "0x1"}), "both gasPrice and"),
            (json!({"blobVersionedHashes": []}), "blob"),
            (json!({"chainId": "0x1"}), "chainId does not match"),
        ] {
            let Err(Stop::Failed(failure)) = run(&NUMBER, request.clone(), Aim::Outcome) else {
                panic!("{request} is refused");
            };
            assert!(failure.to_string().contains(message), "{failure}");
        }
    }

    #[test]
    fn an_access_list_names_what_the_call_touches() {
        // SLOAD of the seventh slot.
        let answer = run(&bytes!("60075400"), json!({}), Aim::AccessList);

        let Err(Stop::Need(keys)) = answer else { panic!("the slot is not in memory") };
        let target = Address::repeat_byte(0xcc);
        assert_eq!(keys, [Key::Slot(target, U256::from(7))]);
    }
}
