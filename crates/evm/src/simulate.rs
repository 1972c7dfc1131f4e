//! `eth_simulateV1`: blocks of transactions that nobody signed, on top of a block that exists.
//!
//! The blocks go through the same executor as real ones, system calls and requests included; only
//! what stands in the way of an unsigned transaction is off, and what its caller wants otherwise is
//! changed before each block. So their headers are those that real blocks would have. The signature
//! of each transaction is all zeros, and its hash follows from that.
//!
//! All transactions together use at most [`GAS_CAP`](crate::call::GAS_CAP) gas, and there are at most
//! [`MAX_BLOCKS`] blocks. The chain's own calls are not among them: the code that they begin with
//! stays what it is, and each may use its 30,000,000 gas. Nothing is kept.

mod answer;
mod error;
mod logs;
mod request;
mod unsigned;

use std::sync::Arc;

use alloy_evm::{Evm as _, EvmEnv, FromRecoveredTx, precompiles::PrecompilesMap};
use alloy_primitives::{Address, B256};
use alloy_rpc_types_eth::TransactionRequest;
use preconf_chain::{ChainSpec, Header, Transaction, system_contracts};
use preconf_state::{Account, AccountDiff, Diff, NeedState, Overlay, StateReader};
use revm::context::TxEnv;

use self::{
    answer::Done,
    logs::SeenLogs,
    request::{Planned, plan, sender},
};
pub use self::{
    answer::{CallFailure, SimulatedBlock, SimulatedCall},
    error::SimulateError,
    request::{BlockStateCalls, HeaderOverrides, MAX_BLOCKS, SimulateRequest},
};
use crate::{
    Outcome, Paused, Running,
    block::evm_env,
    call::{
        CallError, CallOutcome, CallRequest, GAS_CAP, StateChange, check_nonce, check_payment,
        keep_warm, set_blob_base_fee,
    },
};

/// What a simulation builds upon, and what it may use.
#[derive(Clone, Copy, Debug)]
pub struct Base<'a> {
    /// The header of the block, as far as it is known.
    pub header: &'a Header,
    /// The hash of the block. A block that is not sealed yet has one that is not its header's.
    pub hash: B256,
    /// The most gas of all transactions together, no more than [`GAS_CAP`].
    pub gas_cap: u64,
}

/// Simulates blocks after `base`, whose state `overlay` shows.
///
/// `state_root` is given what each block changes, in order, and returns the root of the state after
/// it. Who has no trie returns zero; then the headers and their hashes are no real block's.
///
/// # Errors
/// [`SimulateError::NeedState`] if state is not in memory: fetch and simulate again. A call that
/// reverts or halts is no error.
pub fn simulate<R: StateReader>(
    spec: &Arc<ChainSpec>,
    base: &Header,
    overlay: Overlay<R>,
    request: &SimulateRequest,
    state_root: impl FnMut(&Diff) -> B256,
) -> Result<Vec<SimulatedBlock>, SimulateError> {
    let base = Base { header: base, hash: base.hash_slow(), gas_cap: GAS_CAP };
    simulate_on(spec, base, overlay, request, state_root)
}

/// As [`simulate`], upon a block that may have no final hash, and with no more gas than `base` says.
///
/// # Errors
/// As [`simulate`].
pub fn simulate_on<R: StateReader>(
    spec: &Arc<ChainSpec>,
    base: Base<'_>,
    mut overlay: Overlay<R>,
    request: &SimulateRequest,
    mut state_root: impl FnMut(&Diff) -> B256,
) -> Result<Vec<SimulatedBlock>, SimulateError> {
    let Base { header: base, hash: base_hash, gas_cap } = base;
    let planned = plan(base, &request.block_state_calls)?;
    refuse_expensive_system_calls(spec, request)?;
    // As in geth, precompiles are looked up in the rules of the block below.
    let fork = *evm_env(spec, base).spec_id();
    let (mut parent, mut parent_hash) = (base.clone(), base_hash);
    let mut budget = gas_cap.min(GAS_CAP);
    let mut blocks = Vec::with_capacity(planned.len());
    for plan in planned {
        let change = match plan.state {
            Some(wanted) => StateChange::read(wanted, fork, &overlay)?,
            None => StateChange::default(),
        };
        let next = plan.environment(spec, &parent, parent_hash, request.validation)?;
        overlay.push_layer(change.diff.clone().into());
        let mut paused = Paused::begin(spec.clone(), next, overlay)?;
        let env = paused.env_mut();
        env.cfg_env.disable_nonce_check = true;
        env.cfg_env.disable_eip3607 = true;
        env.cfg_env.disable_base_fee = !request.validation;
        env.cfg_env.tx_gas_limit_cap = Some(u64::MAX);
        if let Some(fee) = plan.blob_base_fee()? {
            set_blob_base_fee(env, fee);
        }
        let precompiles = change.precompiles.map(fork);
        let (outcome, done) = execute(paused, &plan, request, precompiles, &mut budget)?;
        let mut changed = change.diff;
        changed.merge(&outcome.diff());
        let block = outcome.block(state_root(&changed));
        parent = block.header.clone();
        parent_hash = parent.hash_slow();
        let full = request.return_full_transactions;
        blocks.push(SimulatedBlock::new(&block, parent_hash, &outcome.transactions, done, full));
        overlay = outcome.overlay;
    }
    Ok(blocks)
}

/// What the chain calls in each block may use 30,000,000 gas each time, which no budget bounds: so
/// its code stays what it is.
fn refuse_expensive_system_calls(
    spec: &ChainSpec,
    request: &SimulateRequest,
) -> Result<(), SimulateError> {
    let distributor = spec.berachain().map(|own| own.prague1.pol_distributor_address);
    let system = system_contracts().into_iter().map(|(address, _)| address);
    let called: Vec<Address> = system.chain(distributor).collect();
    let states =
        request.block_state_calls.iter().filter_map(|block| block.state_overrides.as_ref());
    let changed = states.flatten().filter(|(_, account)| account.code.is_some());
    let mut reserved = changed.map(|(address, _)| *address).filter(|it| called.contains(it));
    reserved.next().map_or(Ok(()), |address| Err(SimulateError::CalledByTheChain(address)))
}

/// Executes the calls of one block, and ends the block.
fn execute<R: StateReader>(
    paused: Paused<R>,
    plan: &Planned<'_>,
    request: &SimulateRequest,
    precompiles: Option<PrecompilesMap>,
    budget: &mut u64,
) -> Result<(Outcome<R>, Vec<Done>), SimulateError> {
    let fork = *paused.env().spec_id();
    let logs = paused.receipts().iter().map(|receipt| receipt.logs.len()).sum();
    let inspector = SeenLogs::new(request.trace_transfers, logs);
    let running = paused.resume_in(|builder| match precompiles {
        None => builder.activate_inspector(inspector).build(),
        Some(precompiles) => {
            let builder = builder.precompiles(precompiles);
            let mut machine = builder.activate_inspector(inspector).build();
            keep_warm(&mut machine, fork);
            machine
        }
    });
    let mut block = Calls { running, validation: request.validation, budget };
    let mut done = Vec::with_capacity(plan.calls.len());
    for call in plan.calls {
        done.push(block.execute(call)?);
    }
    Ok((block.running.pause().finish()?, done))
}

/// A block in the middle of being simulated.
struct Calls<'a, R: StateReader> {
    running: Running<R, SeenLogs>,
    validation: bool,
    /// The gas that is left to the whole simulation.
    budget: &'a mut u64,
}

impl<R: StateReader> Calls<'_, R> {
    fn execute(&mut self, call: &TransactionRequest) -> Result<Done, SimulateError> {
        let caller = sender(call);
        let account = self.account(caller)?;
        let request = CallRequest::try_from(call.clone())?;
        request.check(self.running.spec())?;
        let nonce = request.nonce.unwrap_or(account.nonce);
        let gas = self.gas(request.gas)?;
        let chain_id = self.running.spec().chain_id();
        let envelope = unsigned::envelope(request, chain_id, nonce, gas)?;
        let transaction = Transaction::from_envelope(envelope, caller);
        let form = self.form(&transaction, &account, nonce)?;
        let index = self.running.transactions().len() as u64;
        let mut seen = None;
        let executed = self.running.execute_as(&transaction, form.clone(), |machine, executed| {
            let logs = machine.inspector_mut().take();
            seen = Some((CallOutcome::of(executed.result.clone()), logs));
        });
        let executed =
            executed.map_err(|error| SimulateError::of(error, &form, self.running.machine()))?;
        *self.budget -= executed.gas_used;
        self.wrap_nonce(caller, &account);
        let (outcome, logs) = seen.expect("a transaction that was executed was seen");
        Ok(Done { hash: *transaction.hash(), index, outcome, logs })
    }

    /// The gas of a call: what it asks for, else what the block has left, but no more than what the
    /// simulation has left.
    fn gas(&self, asked: Option<u64>) -> Result<u64, SimulateError> {
        let (used, limit) = (self.running.gas_used(), self.running.block().gas_limit);
        let left = limit.saturating_sub(used);
        let gas = asked.unwrap_or(left);
        if gas > left {
            return Err(SimulateError::BlockGasLimit { used, limit });
        }
        Ok(gas.min(*self.budget))
    }

    /// The transaction as the EVM takes it, after the checks that the EVM does not make.
    fn form(
        &mut self,
        transaction: &Transaction,
        account: &Account,
        nonce: u64,
    ) -> Result<TxEnv, SimulateError> {
        let mut form = TxEnv::from_recovered_tx(transaction.envelope(), transaction.signer());
        let machine = self.running.machine();
        let env = EvmEnv::new(machine.cfg_env().clone(), machine.block().clone());
        let gas = form.gas_limit;
        let refused = |refusal| SimulateError::Refused { refusal, gas };
        if self.validation {
            check_nonce(&form, nonce, account).map_err(refused)?;
        }
        check_payment(&form, &env, account).map_err(refused)?;
        // Looked at above; the EVM refuses the highest nonce although it does not check nonces.
        form.nonce = 0;
        if form.max_fee_per_blob_gas == 0 && !form.blob_hashes.is_empty() {
            let blob = env.block_env.blob_excess_gas_and_price;
            form.max_fee_per_blob_gas = blob.map_or(0, |blob| blob.blob_gasprice);
        }
        Ok(form)
    }

    /// Without validation a sender may go on after the highest nonce, from zero, as in geth. The
    /// EVM leaves such a nonce as it is.
    fn wrap_nonce(&mut self, sender: Address, before: &Account) {
        if before.nonce != u64::MAX {
            return;
        }
        let overlay = self.running.machine().db_mut();
        if let Ok(Some(account)) = StateReader::account(overlay, sender)
            && account.nonce == u64::MAX
        {
            let account = Some(Account { nonce: 0, ..account });
            let change = AccountDiff { account, ..AccountDiff::default() };
            let accounts = [(sender, change)].into_iter().collect();
            overlay.push_layer(Diff { accounts, ..Diff::default() }.into());
        }
    }

    fn account(&self, address: Address) -> Result<Account, SimulateError> {
        let account = self.running.overlay().account(address);
        let account = account.map_err(|NeedState(key)| CallError::NeedState(vec![key]))?;
        Ok(account.unwrap_or_default())
    }
}
