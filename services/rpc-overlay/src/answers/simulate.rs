//! Blocks of calls upon a pending block: `eth_simulateV1`. Nothing is kept.
//!
//! No trie is at hand, so simulated blocks have no state root and their hashes are no real block's.

use std::sync::Arc;

use alloy_primitives::B256;
use preconf_chain::ChainSpec;
use preconf_evm::simulate::{Base, SimulateError, SimulateRequest, simulate_on};
use preconf_state::Key;
use serde_json::value::RawValue;

use crate::{
    answers::call::{MAX_FETCHED_BEFORE, Stop, written},
    failure::Failure,
    params::Params,
    view::View,
};

/// A simulation as a caller asks for it.
#[derive(Clone, Debug)]
pub(crate) struct Simulation {
    request: SimulateRequest,
    gas_cap: u64,
}

impl Simulation {
    /// Reads the parameters of `eth_simulateV1`.
    pub(crate) fn parse(params: &Params<'_>, gas_cap: u64) -> Result<Self, Failure> {
        Ok(Self { request: params.required(0, "simulation")?, gas_cap })
    }

    /// State that is worth fetching together before it begins.
    pub(crate) fn keys(&self) -> Vec<Key> {
        let blocks = &self.request.block_state_calls;
        let overridden = blocks.iter().filter_map(|block| block.state_overrides.as_ref());
        let overridden = overridden.flat_map(|accounts| accounts.keys().copied());
        let calls = blocks.iter().filter_map(|block| block.calls.as_ref()).flatten();
        let parties = calls.flat_map(|call| {
            let to = call.to.and_then(|to| to.to().copied());
            [Some(call.from.unwrap_or_default()), to].into_iter().flatten()
        });
        overridden.chain(parties).map(Key::Account).take(MAX_FETCHED_BEFORE).collect()
    }

    /// Executes the blocks upon the pending block at a place of the snapshot.
    pub(crate) fn run(
        &self,
        spec: &Arc<ChainSpec>,
        view: &View,
        place: usize,
    ) -> Result<Box<RawValue>, Stop> {
        let hash = view.block(place).reference.hash;
        let base = Base { header: view.header(place, spec), hash, gas_cap: self.gas_cap };
        let state = view.state(place).clone();
        let blocks = simulate_on(spec, base, state, &self.request, |_| B256::ZERO)?;
        Ok(written(&blocks))
    }
}

impl From<SimulateError> for Stop {
    fn from(error: SimulateError) -> Self {
        if let SimulateError::NeedState(keys) = error {
            return Self::Need(keys);
        }
        Self::Failed(error.into())
    }
}

#[cfg(test)]
mod tests {
    use preconf_state::Value;
    use serde_json::{json, value::to_raw_value};

    use super::*;
    use crate::testing;

    /// Simulates on block 102; what is not pending is nothing.
    fn run(request: serde_json::Value, gas_cap: u64) -> Result<serde_json::Value, Failure> {
        let spec = Arc::new(testing::spec());
        let view = View::new(testing::two_blocks(), None, tokio::time::Instant::now());
        let raw = to_raw_value(&json!([request, "latest"])).unwrap();
        let simulation = Simulation::parse(&Params::parse(Some(&raw)).unwrap(), gas_cap)?;
        loop {
            match simulation.run(&spec, &view, 1) {
                Ok(answer) => return Ok(serde_json::from_str(answer.get()).unwrap()),
                Err(Stop::Failed(failure)) => return Err(failure),
                Err(Stop::Need(keys)) => {
                    for key in keys {
                        let value = match key {
                            Key::Account(_) => Value::Account(None),
                            Key::Slot(..) => Value::Slot(alloy_primitives::U256::ZERO),
                            Key::BlockHash(_) => Value::BlockHash(B256::ZERO),
                            Key::Code(_) => panic!("nobody has code that is not pending"),
                        };
                        view.cache().insert(key, value);
                    }
                }
            }
        }
    }

    #[test]
    fn simulated_blocks_follow_the_pending_block_and_see_its_state() {
        let tip = &testing::two_blocks().blocks[1];
        let call = json!({ "to": testing::COUNTER });

        let blocks = run(json!({ "blockStateCalls": [{ "calls": [call] }] }), 50_000_000).unwrap();

        assert_eq!(blocks[0]["number"], "0x67");
        assert_eq!(blocks[0]["parentHash"], json!(tip.reference.hash));
        assert_eq!(blocks[0]["calls"][0]["returnData"], json!(B256::with_last_byte(42)));
    }

    #[test]
    fn all_calls_together_have_no_more_gas_than_the_operator_allows() {
        let call = json!({ "from": testing::RICH, "to": testing::POOR });
        let request = json!({ "blockStateCalls": [{ "calls": [call, call] }] });

        assert!(run(request.clone(), 42_000).is_ok());
        assert!(run(request, 41_999).unwrap_err().to_string().contains("intrinsic gas"));
    }

    #[test]
    fn what_is_fetched_before_a_simulation_is_bounded() {
        let calls: Vec<_> = (0..5_000).map(|_| json!({ "to": testing::POOR })).collect();
        let raw = to_raw_value(&json!([{ "blockStateCalls": [{ "calls": calls }] }])).unwrap();

        let simulation = Simulation::parse(&Params::parse(Some(&raw)).unwrap(), 1).unwrap();

        assert_eq!(simulation.keys().len(), MAX_FETCHED_BEFORE);
    }
}
