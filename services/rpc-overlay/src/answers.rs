//! What is answered from a snapshot: pure functions from (snapshot, question) to an answer.
//!
//! Nothing here waits or looks at a clock. Where an answer needs state that is not in memory, it
//! says so, and its caller fetches it and asks again.

pub(crate) mod blocks;
pub(crate) mod call;
pub(crate) mod logs;
pub(crate) mod receipts;
pub(crate) mod simulate;
pub(crate) mod state;
pub(crate) mod transactions;

use preconf_chain::{ChainSpec, rpc::Inclusion};
use preconf_pending::snapshot::PendingBlock;

/// The block as it is named in its transactions, receipts and logs. The hash is that of the
/// snapshot, provisional or final, wherever it is shown.
pub(crate) fn inclusion(spec: &ChainSpec, block: &PendingBlock) -> Inclusion {
    let environment = &block.environment;
    let blob_base_fee = environment
        .excess_blob_gas
        .and_then(|excess| spec.blob_base_fee(environment.timestamp, excess));
    Inclusion {
        block_hash: Some(block.reference.hash),
        block_number: block.reference.number,
        block_timestamp: environment.timestamp,
        base_fee_per_gas: Some(environment.base_fee_per_gas),
        blob_base_fee,
    }
}
