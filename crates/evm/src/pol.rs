//! Berachain's proof-of-liquidity call (BRIP-0004): what the first transaction of a block does.
//!
//! It is a call by the system, not a transaction that somebody pays: no fee, no nonce, no value, and
//! none of the block's gas. The contract sees exactly [`POL_GAS_LIMIT`], which is why the executor's
//! own system call, whose gas is more, is not used. If it fails the block is valid all the same.

use alloy_evm::{EvmEnv, block::BlockExecutionError, eth::EthEvmBuilder};
use alloy_primitives::TxKind;
use preconf_chain::{POL_GAS_LIMIT, PolTx, Receipt, TxType};
use preconf_state::{NeedState, Overlay, StateReader};
use revm::{
    DatabaseCommit, ExecuteEvm,
    context::{ContextSetters, TxEnv},
    context_interface::result::{EVMError, ExecutionResult},
    handler::{Handler, MainnetHandler},
};

/// The call as the EVM takes it.
pub(crate) fn form(transaction: &PolTx) -> TxEnv {
    TxEnv {
        caller: transaction.from,
        kind: TxKind::Call(transaction.to),
        data: transaction.input.clone(),
        gas_limit: POL_GAS_LIMIT,
        ..TxEnv::default()
    }
}

/// Makes the call and commits what it changed. The state comes back in any case: it knows which
/// reads failed.
pub(crate) fn distribute<R: StateReader>(
    transaction: &PolTx,
    overlay: Overlay<R>,
    env: EvmEnv,
) -> (Overlay<R>, Result<Receipt, BlockExecutionError>) {
    let mut evm = EthEvmBuilder::new(overlay, env).build().into_inner();
    evm.set_tx(form(transaction));
    let called: Result<ExecutionResult, EVMError<NeedState>> =
        MainnetHandler::default().run_system_call(&mut evm);
    let changes = evm.finalize();
    let mut overlay = evm.ctx.journaled_state.database;
    let receipt = match called {
        Ok(result) => {
            overlay.commit(changes);
            Ok(Receipt {
                tx_type: TxType::Pol,
                success: result.is_success(),
                cumulative_gas_used: 0,
                logs: result.into_logs(),
            })
        }
        Err(error) => Err(BlockExecutionError::other(error)),
    };
    (overlay, receipt)
}
