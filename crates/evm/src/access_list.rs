//! `eth_createAccessList`: what a transaction touches, found by executing it.
//!
//! With another access list, a transaction may take another way, so it is executed again with the
//! list it led to until the list no longer changes. Sender, callee and precompiles are warm in any
//! case and only named with the slots that are touched in them.

use alloy_eips::eip2930::{AccessList, AccessListResult};
use alloy_primitives::U256;
use preconf_chain::ChainSpec;
use preconf_state::{Overlay, StateReader};
use revm_inspectors::access_list::AccessListInspector;

use crate::call::{BlockContext, CallError, CallOutcome, CallRequest, GAS_CAP, Simulation};

/// How often the list may change, and no more once the call has used [`GAS_CAP`] of gas in all. A
/// list that has not settled by then is answered as it is, after a last execution with it.
const MAX_ROUNDS: usize = 16;

/// Finds the access list of a call on the state that `overlay` shows, in the environment of
/// `context`, and the gas that it uses with that list. A call that fails has a list too, and says
/// why it fails.
///
/// # Errors
/// As [`call`](crate::call::call).
pub fn create_access_list<R: StateReader + Clone>(
    spec: &ChainSpec,
    context: &BlockContext,
    overlay: &Overlay<R>,
    request: &CallRequest,
) -> Result<AccessListResult, CallError> {
    let mut list = request.access_list.clone().unwrap_or_default();
    list.sort();
    let mut spent = 0;
    for _ in 1..MAX_ROUNDS {
        let (next, outcome) = touched(spec, context, overlay.clone(), request, list.clone())?;
        if next == list {
            return Ok(answer(list, &outcome));
        }
        list = next;
        spent += outcome.gas_spent;
        if spent >= GAS_CAP {
            break;
        }
    }
    let (_, outcome) = touched(spec, context, overlay.clone(), request, list.clone())?;
    Ok(answer(list, &outcome))
}

/// What is touched by a call that comes with `list`.
fn touched<R: StateReader>(
    spec: &ChainSpec,
    context: &BlockContext,
    overlay: Overlay<R>,
    request: &CallRequest,
    list: AccessList,
) -> Result<(AccessList, CallOutcome), CallError> {
    let inspector = AccessListInspector::new(list.clone());
    let request = CallRequest { access_list: Some(list), ..request.clone() };
    let mut simulation = Simulation::new_in(spec, context, overlay, &request, |builder| {
        builder.activate_inspector(inspector).build()
    })?;
    let executed = simulation.execute(request.gas_limit())?;
    let touched = simulation.inspector().access_list();
    Ok((touched, CallOutcome::of(executed.result)))
}

fn answer(access_list: AccessList, outcome: &CallOutcome) -> AccessListResult {
    let gas_used = U256::from(outcome.gas_used);
    AccessListResult { access_list, gas_used, error: outcome.failure() }
}
