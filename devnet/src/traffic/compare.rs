//! Whether what was preconfirmed is what became canonical.

use alloy_primitives::B256;
use preconf_chain::rpc::RpcReceipt;

/// Why two receipts of one transaction are not the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Difference {
    /// The canonical chain does not have the transaction yet.
    #[error(
        "{transaction} was preconfirmed in block {block} and no canonical block up to it has it"
    )]
    Absent {
        /// The transaction.
        transaction: B256,
        /// The block that promised it.
        block: u64,
    },
    /// A field differs.
    #[error("{field} of {transaction} was {before} when preconfirmed and is {after}")]
    Field {
        /// The transaction.
        transaction: B256,
        /// The field.
        field: &'static str,
        /// What was preconfirmed.
        before: String,
        /// What is canonical.
        after: String,
    },
    /// The overlay keeps answering with something else than the canonical receipt.
    #[error("the overlay does not show the canonical receipt of {transaction} after {waited:?}")]
    Stale {
        /// The transaction.
        transaction: B256,
        /// How long it was given.
        waited: std::time::Duration,
    },
}

/// Compares every field but the block's hash, which is provisional before and canonical after.
///
/// # Errors
/// Names the first field that differs.
pub fn preconfirmed_and_canonical(
    before: &RpcReceipt,
    after: &RpcReceipt,
) -> Result<(), Difference> {
    let mut provisional = before.clone();
    provisional.block_hash = after.block_hash;
    for log in &mut provisional.logs {
        log.block_hash = after.block_hash;
    }
    same(&provisional, after)
}

/// Compares every field.
///
/// # Errors
/// Names the first field that differs.
pub fn same(before: &RpcReceipt, after: &RpcReceipt) -> Result<(), Difference> {
    fn shown(receipt: &RpcReceipt) -> [(&'static str, String); 16] {
        let RpcReceipt {
            block_hash,
            block_number,
            contract_address,
            cumulative_gas_used,
            effective_gas_price,
            blob_gas_used,
            blob_gas_price,
            from,
            gas_used,
            logs,
            logs_bloom,
            success,
            to,
            transaction_hash: _,
            transaction_index,
            tx_type,
        } = receipt;
        [
            ("blockNumber", block_number.to_string()),
            ("transactionIndex", transaction_index.to_string()),
            ("status", success.to_string()),
            ("gasUsed", gas_used.to_string()),
            ("cumulativeGasUsed", cumulative_gas_used.to_string()),
            ("effectiveGasPrice", effective_gas_price.to_string()),
            ("contractAddress", format!("{contract_address:?}")),
            ("blockHash", format!("{block_hash:?}")),
            ("from", from.to_string()),
            ("to", format!("{to:?}")),
            ("type", format!("{tx_type:?}")),
            ("blobGasUsed", format!("{blob_gas_used:?}")),
            ("blobGasPrice", format!("{blob_gas_price:?}")),
            ("number of logs", logs.len().to_string()),
            ("logs", format!("{logs:?}")),
            ("logsBloom", logs_bloom.to_string()),
        ]
    }
    for ((field, before), (_, after_value)) in shown(before).into_iter().zip(shown(after)) {
        if before != after_value {
            let transaction = after.transaction_hash;
            return Err(Difference::Field { transaction, field, before, after: after_value });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{Address, Bloom, Bytes};
    use preconf_chain::{TxType, rpc::RpcLog};

    use super::*;

    fn receipt() -> RpcReceipt {
        let log = RpcLog {
            address: Address::repeat_byte(1),
            topics: vec![B256::repeat_byte(2)],
            data: Bytes::from_static(&[3]),
            block_number: Some(4),
            transaction_hash: Some(B256::repeat_byte(5)),
            transaction_index: Some(6),
            block_hash: Some(B256::repeat_byte(7)),
            block_timestamp: Some(8),
            log_index: Some(9),
            removed: false,
        };
        RpcReceipt {
            block_hash: Some(B256::repeat_byte(7)),
            block_number: 4,
            contract_address: None,
            cumulative_gas_used: 50_000,
            effective_gas_price: 10,
            blob_gas_used: None,
            blob_gas_price: None,
            from: Address::repeat_byte(10),
            gas_used: 29_000,
            logs: vec![log],
            logs_bloom: Bloom::ZERO,
            success: true,
            to: Some(Address::repeat_byte(1)),
            transaction_hash: B256::repeat_byte(5),
            transaction_index: 6,
            tx_type: TxType::try_from(2_u8).unwrap(),
        }
    }

    fn changed(change: impl FnOnce(&mut RpcReceipt)) -> RpcReceipt {
        let mut receipt = receipt();
        change(&mut receipt);
        receipt
    }

    #[test]
    fn only_the_hash_of_the_block_may_change() {
        let canonical = changed(|receipt| {
            receipt.block_hash = Some(B256::repeat_byte(0xcc));
            receipt.logs[0].block_hash = Some(B256::repeat_byte(0xcc));
        });
        assert_eq!(preconfirmed_and_canonical(&receipt(), &canonical), Ok(()));
        assert!(same(&receipt(), &canonical).is_err());
        let hybrid = changed(|receipt| receipt.block_hash = Some(B256::repeat_byte(0xcc)));
        assert!(preconfirmed_and_canonical(&receipt(), &hybrid).is_err(), "logs name the block");
    }

    #[test]
    fn every_other_difference_is_named() {
        type Change = fn(&mut RpcReceipt);
        let changes: [(&str, Change); 8] = [
            ("status", |receipt| receipt.success = false),
            ("gasUsed", |receipt| receipt.gas_used += 1),
            ("cumulativeGasUsed", |receipt| receipt.cumulative_gas_used += 1),
            ("transactionIndex", |receipt| receipt.transaction_index += 1),
            ("effectiveGasPrice", |receipt| receipt.effective_gas_price += 1),
            ("contractAddress", |receipt| receipt.contract_address = Some(Address::ZERO)),
            ("blockNumber", |receipt| receipt.block_number += 1),
            ("logs", |receipt| receipt.logs[0].data = Bytes::new()),
        ];
        for (expected, change) in changes {
            match preconfirmed_and_canonical(&receipt(), &changed(change)) {
                Err(Difference::Field { field, .. }) => assert_eq!(field, expected),
                other => panic!("{expected}: {other:?}"),
            }
        }
    }
}
