//! Pending blocks as blocks.
//!
//! What is known of a block is shown; what is not known before it is sealed is zero: the state root,
//! and the hash of the requests until the session has ended.

use alloy_consensus::{
    BlockBody, TxReceipt, constants::EMPTY_OMMER_ROOT_HASH, proofs::calculate_withdrawals_root,
};
use alloy_hardforks::EthereumHardforks;
use alloy_primitives::{B256, Bloom, Bytes};
use preconf_chain::{
    Block, ChainSpec, Header, Receipt, Transaction, receipts_root, rpc::RpcBlock, transactions_root,
};
use preconf_evm::NextBlock;
use preconf_pending::snapshot::PendingBlock;

/// The header of a pending block as far as it is known.
pub(crate) fn header(spec: &ChainSpec, block: &PendingBlock) -> Header {
    let NextBlock {
        parent_hash,
        parent_beacon_block_root,
        number,
        timestamp,
        fee_recipient,
        prev_randao,
        difficulty,
        gas_limit,
        base_fee_per_gas,
        extra_data,
        withdrawals,
        excess_blob_gas,
        prev_proposer_pubkey,
    } = &*block.environment;
    let shanghai = spec.is_shanghai_active_at_timestamp(*timestamp);
    let cancun = spec.is_cancun_active_at_timestamp(*timestamp);
    let prague = spec.is_prague_active_at_timestamp(*timestamp);
    let closing = block.reference.closing.as_ref();
    let requests_hash = closing.and_then(|closing| closing.requests_hash).unwrap_or_default();
    let encoded: Vec<&Bytes> =
        block.transactions().map(|executed| executed.transaction.encoded()).collect();
    let receipts: Vec<Receipt> =
        block.transactions().map(|executed| executed.receipt.clone()).collect();
    Header {
        parent_hash: *parent_hash,
        ommers_hash: EMPTY_OMMER_ROOT_HASH,
        beneficiary: *fee_recipient,
        state_root: block.reference.state_root.unwrap_or_default(),
        transactions_root: transactions_root(&encoded),
        receipts_root: receipts_root(&receipts),
        logs_bloom: receipts.iter().fold(Bloom::ZERO, |all, receipt| all | receipt.bloom()),
        number: *number,
        gas_limit: *gas_limit,
        gas_used: block.gas_used(),
        timestamp: *timestamp,
        extra_data: extra_data.clone(),
        mix_hash: *prev_randao,
        difficulty: *difficulty,
        base_fee_per_gas: Some(*base_fee_per_gas),
        withdrawals_root: shanghai.then(|| calculate_withdrawals_root(withdrawals)),
        blob_gas_used: cancun.then(|| block.blob_gas_used()),
        excess_blob_gas: excess_blob_gas.filter(|_| cancun),
        parent_beacon_block_root: parent_beacon_block_root.filter(|_| cancun),
        requests_hash: prague.then_some(requests_hash),
        prev_proposer_pubkey: *prev_proposer_pubkey,
        ..Header::default()
    }
}

/// A pending block, with its transactions or their hashes.
pub(crate) fn block(block: &PendingBlock, header: &Header, full: bool) -> RpcBlock {
    let hash: B256 = block.reference.hash;
    let transactions: Vec<Transaction> =
        block.transactions().map(|executed| executed.transaction.clone()).collect();
    let withdrawals = header.withdrawals_root.map(|_| block.environment.withdrawals.clone().into());
    let envelopes = transactions.iter().map(|transaction| transaction.envelope().clone());
    let body = BlockBody { transactions: envelopes.collect(), ommers: Vec::new(), withdrawals };
    let shown = Block::new(header.clone(), body);
    if full {
        RpcBlock::with_transactions(&shown, hash, &transactions)
    } else {
        RpcBlock::with_hashes(&shown, hash)
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::U64;
    use preconf_chain::rpc::RpcTransactions;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        answers::{receipts, transactions},
        testing::{self, Sealing},
    };

    #[test]
    fn one_snapshot_shows_one_hash_in_all_its_answers() {
        for sealing in [Sealing::Provisional, Sealing::Sealed] {
            let spec = testing::spec();
            let snapshot = testing::two_blocks_sealed(sealing);
            for pending in &snapshot.blocks {
                let hash = json!(pending.reference.hash);
                let shown = block(pending, &header(&spec, pending), true);
                let shown = serde_json::to_value(&shown).unwrap();
                assert_eq!(shown["hash"], hash);
                for transaction in shown["transactions"].as_array().unwrap() {
                    assert_eq!(transaction["blockHash"], hash);
                }
                for receipt in receipts::of_block(&spec, pending) {
                    let location = snapshot.locate(&receipt.transaction_hash).unwrap();
                    let alone = receipts::receipt(&spec, &snapshot, location).unwrap();
                    assert_eq!(alone, receipt);
                    let receipt = serde_json::to_value(&receipt).unwrap();
                    assert_eq!(receipt["blockHash"], hash);
                    for log in receipt["logs"].as_array().unwrap() {
                        assert_eq!(log["blockHash"], hash);
                    }
                }
                let first = transactions::at_index(&spec, pending, 0).unwrap();
                assert_eq!(first.block_hash, Some(pending.reference.hash));
            }
        }
    }

    #[test]
    fn a_pending_header_has_every_field_of_the_environment() {
        let (spec, snapshot) = (testing::spec(), testing::two_blocks());
        let pending = &snapshot.blocks[1];

        let shown = serde_json::to_value(header(&spec, pending)).unwrap();

        let environment = &pending.environment;
        for (field, expected) in [
            ("parentHash", json!(environment.parent_hash)),
            ("miner", json!(environment.fee_recipient)),
            ("mixHash", json!(environment.prev_randao)),
            ("number", json!(U64::from(102))),
            ("timestamp", json!(U64::from(environment.timestamp))),
            ("gasLimit", json!(U64::from(environment.gas_limit))),
            ("baseFeePerGas", json!(U64::from(environment.base_fee_per_gas))),
            ("extraData", json!(environment.extra_data)),
            ("parentBeaconBlockRoot", json!(environment.parent_beacon_block_root)),
            ("excessBlobGas", json!(U64::from(environment.excess_blob_gas.unwrap()))),
            ("gasUsed", json!(U64::from(pending.gas_used()))),
            ("blobGasUsed", json!("0x0")),
            ("difficulty", json!("0x0")),
            ("stateRoot", json!(B256::ZERO)),
            ("requestsHash", json!(B256::ZERO)),
        ] {
            assert_eq!(shown[field], expected, "{field}");
        }
        assert_ne!(shown["withdrawalsRoot"], Value::Null);
        assert_ne!(shown["logsBloom"], json!(Bloom::ZERO));
    }

    #[test]
    fn a_sealed_block_shows_its_state_root_and_requests() {
        let (spec, snapshot) = (testing::spec(), testing::two_blocks_sealed(Sealing::Sealed));
        let pending = &snapshot.blocks[0];

        let header = header(&spec, pending);

        assert_eq!(Some(header.state_root), pending.reference.state_root);
        let closing = pending.reference.closing.as_ref().unwrap();
        assert_eq!(header.requests_hash, closing.requests_hash);
    }

    #[test]
    fn the_roots_of_a_pending_block_are_those_of_its_content() {
        let (spec, snapshot) = (testing::spec(), testing::two_blocks());
        let pending = &snapshot.blocks[0];
        let header = header(&spec, pending);

        let shown = block(pending, &header, false);

        let RpcTransactions::Hashes(hashes) = &shown.transactions else { panic!("no hashes") };
        assert_eq!(hashes.len(), pending.transaction_count);
        let encoded: Vec<_> =
            pending.transactions().map(|one| one.transaction.encoded().clone()).collect();
        assert_eq!(header.transactions_root, transactions_root(&encoded));
        assert_ne!(header.transactions_root, Header::default().transactions_root);
        assert!(
            shown.size.unwrap() > U64::from(encoded.iter().map(|one| one.len()).sum::<usize>())
        );
        assert_eq!(shown.withdrawals.as_deref(), Some(pending.environment.withdrawals.as_slice()));
    }
}
