//! Receipts of a pending block.

use preconf_chain::{ChainSpec, Receipt, Transaction, rpc::RpcReceipt};
use preconf_pending::snapshot::{Location, PendingBlock, Snapshot};

use crate::answers::inclusion;

/// The receipts of all transactions of a block, in order.
pub(crate) fn of_block(spec: &ChainSpec, block: &PendingBlock) -> Vec<RpcReceipt> {
    let (transactions, receipts): (Vec<Transaction>, Vec<Receipt>) = block
        .transactions()
        .map(|executed| (executed.transaction.clone(), executed.receipt.clone()))
        .unzip();
    RpcReceipt::of_block(&inclusion(spec, block), &transactions, &receipts)
}

/// The receipt of one transaction. Made alone, then moved to its place in the block, so that asking
/// for one costs one.
pub(crate) fn receipt(
    spec: &ChainSpec,
    snapshot: &Snapshot,
    location: Location,
) -> Option<RpcReceipt> {
    let (block, executed) = snapshot.at(location)?;
    let transaction = std::slice::from_ref(&executed.transaction);
    let alone = std::slice::from_ref(&executed.receipt);
    let mut receipt = RpcReceipt::of_block(&inclusion(spec, block), transaction, alone).pop()?;
    let (mut gas_before, mut logs_before) = (0, 0);
    for before in block.transactions().take(location.index) {
        gas_before = before.receipt.cumulative_gas_used;
        logs_before += before.receipt.logs.len() as u64;
    }
    let index = location.index as u64;
    receipt.gas_used = receipt.gas_used.saturating_sub(gas_before);
    receipt.transaction_index = index;
    for (log, log_index) in receipt.logs.iter_mut().zip(logs_before..) {
        log.transaction_index = Some(index);
        log.log_index = Some(log_index);
    }
    Some(receipt)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing;

    #[test]
    fn receipts_count_gas_and_logs_over_the_whole_block() {
        let (spec, snapshot) = (testing::spec(), testing::two_blocks());

        let receipts = serde_json::to_value(of_block(&spec, &snapshot.blocks[0])).unwrap();

        // A transfer that failed, a call with two logs, a creation with one log, in three flashblocks.
        let field = |index: usize, name: &str| receipts[index][name].clone();
        let all = |name: &str| (0..3).map(|index| field(index, name)).collect::<Vec<_>>();
        assert_eq!(all("transactionIndex"), [json!("0x0"), json!("0x1"), json!("0x2")]);
        assert_eq!(all("gasUsed"), [json!("0x5208"), json!("0xc350"), json!("0x186a0")]);
        assert_eq!(all("cumulativeGasUsed"), [json!("0x5208"), json!("0x11558"), json!("0x29bf8")]);
        assert_eq!(all("status"), [json!("0x0"), json!("0x1"), json!("0x1")]);
        assert_eq!(all("type"), [json!("0x2"), json!("0x0"), json!("0x2")]);
        // Base fee 7: 1 gwei of tip on top, or the legacy price.
        assert_eq!(
            all("effectiveGasPrice"),
            [json!("0x3b9aca07"), json!("0x77359400"), json!("0x3b9aca07")]
        );
        let logs: Vec<&Value> = (0..3)
            .flat_map(|index| receipts[index]["logs"].as_array().unwrap())
            .map(|log| &log["logIndex"])
            .collect();
        assert_eq!(logs, [&json!("0x0"), &json!("0x1"), &json!("0x2")]);
        assert_eq!(field(0, "contractAddress"), Value::Null);
        let creation = snapshot.blocks[0].transactions().nth(2).unwrap();
        let contract = creation.transaction.signer().create(testing::CREATION_NONCE);
        assert_eq!(field(2, "contractAddress"), json!(contract));
        assert_eq!(field(2, "to"), Value::Null);
        assert_eq!(receipts[1]["logs"][1]["transactionIndex"], json!("0x1"));
    }

    #[test]
    fn the_next_block_counts_from_the_beginning() {
        let (spec, snapshot) = (testing::spec(), testing::two_blocks());

        let receipts = of_block(&spec, &snapshot.blocks[1]);

        assert_eq!(receipts[0].transaction_index, 0);
        assert_eq!(receipts[0].gas_used, receipts[0].cumulative_gas_used);
        assert_eq!(receipts[0].logs[0].log_index, Some(0));
    }
}
