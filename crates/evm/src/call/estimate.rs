//! How much gas a transaction needs: geth's search.
//!
//! The answer is the least gas limit found with which the transaction succeeds, at most 1.5 % above
//! the least there is. More gas never makes a sane transaction fail; for the others, the answer is
//! at least one that succeeded when it was tried.

use alloy_eips::eip4844::DATA_GAS_PER_BLOB;
use alloy_primitives::U256;
use preconf_chain::ChainSpec;
use preconf_state::{Overlay, StateReader};
use revm::context_interface::result::HaltReason;

use super::{CallOutcome, CallRequest, CallStatus, GAS_CAP, Simulation};
use crate::{BlockContext, CallError};

/// What a transfer without data costs.
const TRANSFER_GAS: u64 = 21_000;

/// What a callee gets for free with a transfer. A transaction may need it without spending it.
const CALL_STIPEND: u64 = 2_300;

/// The search ends when the bounds are closer than this fraction of the upper one.
const TOLERANCE: (u64, u64) = (15, 1_000);

/// Finds the gas limit with which the transaction succeeds on the state that `overlay` shows, in
/// the environment of `context`.
///
/// # Errors
/// [`CallError::NeedState`] if state is not in memory; [`CallError::Reverted`] with its data, if it
/// reverts whatever its gas; [`CallError::GasExceedsAllowance`] if what it needs is more than the
/// block, the request, the sender's balance or [`GAS_CAP`] allow.
pub fn estimate_gas<R: StateReader>(
    spec: &ChainSpec,
    context: &BlockContext,
    overlay: Overlay<R>,
    request: &CallRequest,
) -> Result<u64, CallError> {
    let mut simulation = Simulation::new(spec, context, overlay, request)?;
    let highest = allowance(&simulation, context, request)?;
    if is_plain_transfer(&simulation, request)?
        && highest >= TRANSFER_GAS
        && matches!(attempt(&mut simulation, TRANSFER_GAS)?, Attempt::Enough(_))
    {
        return Ok(TRANSFER_GAS);
    }
    match attempt(&mut simulation, highest)? {
        Attempt::Enough(outcome) => search(&mut simulation, &outcome, highest),
        Attempt::TooLittle => Err(CallError::GasExceedsAllowance(highest)),
        Attempt::Failed(error) => Err(error),
    }
}

/// What one gas limit leads to.
enum Attempt {
    /// The transaction succeeds.
    Enough(CallOutcome),
    /// It runs out of gas, or cannot even begin.
    TooLittle,
    /// It fails for another reason, which may be that it noticed how little gas it has.
    Failed(CallError),
}

/// The most gas that the transaction may have.
fn allowance<R: StateReader>(
    simulation: &Simulation<R>,
    context: &BlockContext,
    request: &CallRequest,
) -> Result<u64, CallError> {
    let asked = request.gas.filter(|gas| *gas >= TRANSFER_GAS);
    let highest = asked.unwrap_or(context.gas_limit()).min(GAS_CAP);
    let highest = highest.min(simulation.fork_gas_cap);
    let transaction = &simulation.transaction;
    if transaction.gas_price == 0 {
        return Ok(highest);
    }
    let balance = simulation.sender()?.balance;
    let left = |spent| balance.checked_sub(spent).filter(|left| !left.is_zero());
    let available = left(transaction.value).ok_or(CallError::InsufficientFunds)?;
    let blob_gas = transaction.blob_hashes.len() as u64 * DATA_GAS_PER_BLOB;
    let blobs = U256::from(blob_gas) * U256::from(transaction.max_fee_per_blob_gas);
    let available = available.checked_sub(blobs).ok_or(CallError::InsufficientFunds)?;
    let affordable = available / U256::from(transaction.gas_price);
    Ok(highest.min(affordable.saturating_to()))
}

fn is_plain_transfer<R: StateReader>(
    simulation: &Simulation<R>,
    request: &CallRequest,
) -> Result<bool, CallError> {
    let Some(to) = request.to.filter(|_| request.data.is_empty()) else { return Ok(false) };
    if request.access_list.is_some() || request.authorization_list.is_some() {
        return Ok(false);
    }
    let account = simulation.read(|state| state.account(to))?;
    Ok(!account.is_some_and(|account| account.has_code()))
}

fn search<R: StateReader>(
    simulation: &mut Simulation<R>,
    outcome: &CallOutcome,
    highest: u64,
) -> Result<u64, CallError> {
    // With less than it used after refunds it cannot succeed.
    let mut low = outcome.gas_used.saturating_sub(1);
    let mut high = highest;
    // Usually it needs what it spent, the stipend, and the 64th that each call holds back.
    let likely = outcome.gas_spent.saturating_add(CALL_STIPEND).saturating_mul(64) / 63;
    let mut next = Some(likely).filter(|likely| *likely < high);
    while low.saturating_add(1) < high {
        let (share, whole) = TOLERANCE;
        if next.is_none() && (high - low).saturating_mul(whole) < high.saturating_mul(share) {
            break;
        }
        // Most transactions need little of a high limit, so the middle is not looked for at once.
        let middle = (low + (high - low) / 2).min(low.saturating_mul(2));
        let gas_limit = next.take().unwrap_or(middle);
        match attempt(simulation, gas_limit)? {
            Attempt::Enough(_) => high = gas_limit,
            Attempt::TooLittle | Attempt::Failed(_) => low = gas_limit,
        }
    }
    Ok(high)
}

fn attempt<R: StateReader>(
    simulation: &mut Simulation<R>,
    gas_limit: u64,
) -> Result<Attempt, CallError> {
    match simulation.run(gas_limit) {
        Ok(outcome) => Ok(match outcome.status {
            CallStatus::Success => Attempt::Enough(outcome),
            CallStatus::Reverted => Attempt::Failed(CallError::Reverted(outcome.output)),
            CallStatus::Halted(HaltReason::OutOfGas(_)) => Attempt::TooLittle,
            CallStatus::Halted(reason) => Attempt::Failed(CallError::Halted(reason)),
        }),
        Err(CallError::Refused(refusal)) if refusal.is_too_little_gas() => Ok(Attempt::TooLittle),
        Err(error) => Err(error),
    }
}
