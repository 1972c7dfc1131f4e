//! What wallets and services ask of an execution client.
//!
//! Every method can be asked about any block that is known: by number, by tag, or by hash with
//! EIP-1898. `pending` is the latest block: nothing here is ever pending. State is answered for as
//! long as it is kept.

mod at;
mod blocks;
mod fees;
mod logs;
mod node;
mod state;
mod transactions;

pub(crate) use at::HeadNotification;

use super::methods::Method;

/// All of them.
pub(crate) fn methods() -> impl Iterator<Item = Method> {
    let all = [
        node::METHODS,
        blocks::METHODS,
        transactions::METHODS,
        state::METHODS,
        fees::METHODS,
        logs::METHODS,
    ];
    all.into_iter().flatten().copied()
}
