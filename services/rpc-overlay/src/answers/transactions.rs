//! Transactions of a pending block.

use preconf_chain::{ChainSpec, rpc::RpcTransaction};
use preconf_pending::snapshot::{Location, PendingBlock, Snapshot};

use crate::answers::inclusion;

/// The transaction at a location of the snapshot.
pub(crate) fn at_location(
    spec: &ChainSpec,
    snapshot: &Snapshot,
    location: Location,
) -> Option<RpcTransaction> {
    let (block, executed) = snapshot.at(location)?;
    let inclusion = inclusion(spec, block);
    Some(RpcTransaction::included(&executed.transaction, &inclusion, location.index as u64))
}

/// The transaction at a place in a block, if there is one.
pub(crate) fn at_index(
    spec: &ChainSpec,
    block: &PendingBlock,
    index: u64,
) -> Option<RpcTransaction> {
    let executed = block.transactions().nth(usize::try_from(index).ok()?)?;
    Some(RpcTransaction::included(&executed.transaction, &inclusion(spec, block), index))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn a_transaction_is_the_same_by_hash_and_by_index() {
        let (spec, snapshot) = (testing::spec(), testing::two_blocks());
        for block in &snapshot.blocks {
            for (executed, index) in block.transactions().zip(0..) {
                let location = snapshot.locate(executed.transaction.hash()).unwrap();

                let by_hash = at_location(&spec, &snapshot, location).unwrap();

                assert_eq!(at_index(&spec, block, index), Some(by_hash.clone()));
                assert_eq!(by_hash.transaction_index, Some(index));
                assert_eq!(by_hash.block_number, Some(block.reference.number));
                assert_eq!(by_hash.from, executed.transaction.signer());
            }
        }
    }

    #[test]
    fn beyond_the_last_transaction_there_is_none() {
        let (spec, snapshot) = (testing::spec(), testing::two_blocks());
        let block = &snapshot.blocks[0];

        for index in [block.transaction_count as u64, u64::MAX] {
            assert_eq!(at_index(&spec, block, index), None);
        }
    }
}
