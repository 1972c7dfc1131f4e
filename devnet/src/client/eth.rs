//! What wallets and services ask of an execution client.
//!
//! Every method can be asked about any block that is known: by number, by tag, or by hash with
//! EIP-1898. `pending` is the latest block: nothing here is ever pending. State is answered for as
//! long as it is kept.
//!
//! Each module lists its methods in a table, name and function; together they are the table that
//! the ports dispatch by:
//!
//! | module | methods |
//! |---|---|
//! | `node` | `eth_chainId`, `net_…`, `web3_…` |
//! | `config` | `eth_config` |
//! | `blocks` | `eth_blockNumber`, `eth_getBlockBy…`, counts of transactions and ommers |
//! | `transactions` | `eth_sendRawTransaction`, `eth_getTransactionBy…` |
//! | `receipts` | `eth_getTransactionReceipt`, `eth_getBlockReceipts` |
//! | `state` | balances, nonces, code, slots, `eth_getProof` |
//! | `call` | `eth_call`, `eth_estimateGas`, `eth_createAccessList`, `eth_simulateV1` |
//! | `fees` | `eth_gasPrice`, `eth_maxPriorityFeePerGas`, `eth_blobBaseFee`, `eth_feeHistory` |
//! | `logs`, `filters` | `eth_getLogs`, filters |
//! | `txpool` | `txpool_…` |
//! | `raw`, `trace` | `debug_getRaw…`, `debug_trace…` |

mod at;
mod blocks;
mod call;
mod config;
mod fees;
mod filters;
mod logs;
mod node;
mod raw;
mod receipts;
mod state;
mod trace;
mod transactions;
mod txpool;

pub(crate) use at::HeadNotification;
pub(crate) use logs::changed as changed_logs;

use super::methods::Method;

/// All of them.
pub(crate) fn methods() -> impl Iterator<Item = Method> {
    let all = [
        node::METHODS,
        config::METHODS,
        blocks::METHODS,
        transactions::METHODS,
        receipts::METHODS,
        state::METHODS,
        call::METHODS,
        fees::METHODS,
        logs::METHODS,
        filters::METHODS,
        txpool::METHODS,
        raw::METHODS,
        trace::METHODS,
    ];
    all.into_iter().flatten().copied()
}
