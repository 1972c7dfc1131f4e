use alloy_consensus::Transaction as _;
use alloy_eips::{eip2718::Encodable2718, eip4788::SYSTEM_ADDRESS, eip4895::Withdrawal};
use alloy_primitives::{Address, Bloom, Log, U256, bytes};
use serde_json::{Value, json};

use super::*;
use crate::{
    Block, Header, Receipt, Transaction, TxType, receipts_root,
    testing::{chain, chain_spec, pol, signed, signer},
    transactions_root,
};

fn answers(name: &str) -> Vec<Value> {
    let answers: Value = serde_json::from_str(include_str!("../../testdata/rpc.json")).unwrap();
    answers[name].as_array().unwrap().clone()
}

fn inclusion() -> Inclusion {
    Inclusion {
        block_hash: Some(B256::repeat_byte(0xbb)),
        block_number: 100,
        block_timestamp: 1_700_000_000,
        base_fee_per_gas: Some(7),
        blob_base_fee: Some(3),
    }
}

fn transactions() -> Vec<Transaction> {
    let signed = signed()
        .into_iter()
        .map(|(_, envelope)| Transaction::from_envelope(envelope, signer().address()));
    std::iter::once(Transaction::from_envelope(pol().into(), SYSTEM_ADDRESS))
        .chain(signed)
        .collect()
}

fn decoded(block: &Block) -> Vec<Transaction> {
    let encoded = block.body.transactions.iter().map(Encodable2718::encoded_2718);
    encoded.map(|bytes| Transaction::decode(bytes.into()).unwrap()).collect()
}

fn included_in(block: &Block) -> Inclusion {
    let Header { number, timestamp, base_fee_per_gas, .. } = block.header;
    Inclusion {
        block_hash: Some(block.header.hash_slow()),
        block_number: number,
        block_timestamp: timestamp,
        base_fee_per_gas,
        blob_base_fee: None,
    }
}

#[test]
fn transactions_of_the_public_chain_are_shown_as_the_execution_apis_show_them() {
    let blocks = chain();
    let answers = answers("transactions");
    assert_eq!(answers.len(), 4);
    for answer in answers {
        let read: RpcTransaction = serde_json::from_value(answer.clone()).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), answer);
        let block = &blocks[read.block_number.unwrap() as usize - 1];
        let index = read.transaction_index.unwrap();
        let transaction = &decoded(block)[index as usize];
        let shown = RpcTransaction::included(transaction, &included_in(block), index);
        assert_eq!(serde_json::to_value(&shown).unwrap(), answer);
    }
}

#[test]
fn blocks_of_the_public_chain_are_shown_as_the_execution_apis_show_them() {
    let blocks = chain();
    for answer in answers("blocks") {
        let read: RpcBlock = serde_json::from_value(answer.clone()).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), answer);
        let block = &blocks[read.header.number as usize - 1];
        let hash = block.header.hash_slow();
        let shown = match read.transactions {
            RpcTransactions::Hashes(_) => RpcBlock::with_hashes(block, hash),
            RpcTransactions::Full(_) => RpcBlock::with_transactions(block, hash, &decoded(block)),
        };
        assert_eq!(serde_json::to_value(&shown).unwrap(), answer);
    }
}

#[test]
fn receipts_and_logs_are_read_and_shown_as_the_execution_apis_show_them() {
    for answer in answers("receipts") {
        let read: RpcReceipt = serde_json::from_value(answer.clone()).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), answer);
    }
    for answer in answers("logs") {
        let read: RpcLog = serde_json::from_value(answer.clone()).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), answer);
    }
}

#[test]
fn receipts_that_were_read_have_the_root_of_their_block_and_can_be_made_again() {
    let block = &chain()[53];
    let answers: Vec<Value> =
        answers("receipts").into_iter().filter(|r| r["blockNumber"] == "0x36").collect();
    let receipts: Vec<Receipt> = answers
        .iter()
        .map(|answer| serde_json::from_value::<RpcReceipt>(answer.clone()).unwrap().to_receipt())
        .collect();
    assert_eq!(receipts_root(&receipts), block.header.receipts_root);
    let shown = RpcReceipt::of_block(&included_in(block), &decoded(block), &receipts);
    assert_eq!(serde_json::to_value(shown).unwrap(), Value::from(answers));
}

#[test]
fn every_type_survives_json_in_a_block_and_in_the_pool() {
    for (index, transaction) in transactions().iter().enumerate() {
        for shown in [
            RpcTransaction::included(transaction, &inclusion(), index as u64),
            RpcTransaction::pending(transaction),
        ] {
            let text = serde_json::to_string(&shown).unwrap();
            assert_eq!(text.matches("\"from\"").count(), 1);
            let read: RpcTransaction = serde_json::from_str(&text).unwrap();
            assert_eq!(read, shown);
            assert_eq!(read.to_transaction(), *transaction);
        }
    }
}

#[test]
fn a_proof_of_liquidity_transaction_is_shown_as_upstream_shows_it() {
    let shown = RpcTransaction::included(&transactions()[0], &inclusion(), 0);
    let json = serde_json::to_value(shown).unwrap();
    for (name, value) in [
        ("type", "0x7e"),
        ("from", "0xfffffffffffffffffffffffffffffffffffffffe"),
        ("to", "0xd2f19a79b026fb636a7c300bf5947df113940761"),
        ("nonce", "0x63"),
        ("gas", "0x1c9c380"),
        ("gasPrice", "0x3b9aca00"),
        ("value", "0x0"),
        ("chainId", "0x138de"),
        ("v", "0x0"),
        ("r", "0x0"),
        ("s", "0x0"),
    ] {
        assert_eq!(json[name], value, "{name}");
    }
}

#[test]
fn the_gas_price_is_what_was_paid_in_a_block_and_the_most_there_is_in_the_pool() {
    let transactions = transactions();
    // At most 9, tip 2, base fee 7.
    let dynamic = &transactions[4];
    assert_eq!(RpcTransaction::included(dynamic, &inclusion(), 0).gas_price, 9);
    let cheaper = Inclusion { base_fee_per_gas: Some(3), ..inclusion() };
    assert_eq!(RpcTransaction::included(dynamic, &cheaper, 0).gas_price, 5);
    assert_eq!(RpcTransaction::pending(dynamic).gas_price, 9);
}

#[test]
fn fields_that_are_not_known_are_ignored() {
    let transaction = &transactions()[1];
    let mut json = serde_json::to_value(RpcTransaction::pending(transaction)).unwrap();
    json["l1Fee"] = json!("0x1");
    assert!(serde_json::from_value::<RpcTransaction>(json).is_ok());
    let mut block = answers("blocks")[3].clone();
    block["totalDifficulty"] = json!("0x0");
    assert!(serde_json::from_value::<RpcBlock>(block).is_ok());
    let mut receipt = answers("receipts")[0].clone();
    receipt["l1Fee"] = json!("0x1");
    assert!(serde_json::from_value::<RpcReceipt>(receipt).is_ok());
}

#[test]
fn a_transaction_whose_fields_are_not_what_its_hash_says_is_refused() {
    for transaction in transactions() {
        let json = serde_json::to_value(RpcTransaction::pending(&transaction)).unwrap();
        for (name, value) in [("nonce", "0x55"), ("gas", "0x1"), ("input", "0x99")] {
            let mut changed = json.clone();
            changed[name] = json!(value);
            let error = serde_json::from_value::<RpcTransaction>(changed).unwrap_err();
            assert!(error.to_string().contains("the fields hash to"), "{error}");
        }
    }
}

#[test]
fn a_field_that_the_type_requires_is_named_when_it_is_missing() {
    for (index, name) in [
        (0, "chainId"),
        (1, "v"),
        (1, "gasPrice"),
        (3, "accessList"),
        (4, "maxFeePerGas"),
        (4, "maxPriorityFeePerGas"),
        (6, "maxFeePerBlobGas"),
        (6, "blobVersionedHashes"),
        (6, "to"),
        (7, "authorizationList"),
    ] {
        let transaction = &transactions()[index];
        let mut json = serde_json::to_value(RpcTransaction::pending(transaction)).unwrap();
        json.as_object_mut().unwrap().remove(name);
        let error = serde_json::from_value::<RpcTransaction>(json).unwrap_err();
        assert!(error.to_string().contains(&format!("{name} is missing")), "{error}");
    }
}

#[test]
fn the_parity_may_be_in_v_and_nothing_but_a_parity_may_be() {
    let transaction = &transactions()[4];
    let mut json = serde_json::to_value(RpcTransaction::pending(transaction)).unwrap();
    json.as_object_mut().unwrap().remove("yParity");
    assert!(serde_json::from_value::<RpcTransaction>(json.clone()).is_ok());
    json["v"] = json!("0x2");
    let error = serde_json::from_value::<RpcTransaction>(json).unwrap_err();
    assert!(error.to_string().contains("yParity is out of range"), "{error}");
    for v in ["0x0", "0x1a", "0x1d", "0x22", "0xffffffffffffffffffffffffffffffff"] {
        let legacy = RpcTransaction::pending(&transactions()[1]);
        let mut json = serde_json::to_value(legacy).unwrap();
        json["v"] = json!(v);
        let error = serde_json::from_value::<RpcTransaction>(json).unwrap_err();
        assert!(error.to_string().contains("v is out of range"), "{v}: {error}");
    }
}

#[test]
fn a_type_that_is_not_known_is_named() {
    let mut json = serde_json::to_value(RpcTransaction::pending(&transactions()[4])).unwrap();
    json["type"] = json!("0x7d");
    let error = serde_json::from_value::<RpcTransaction>(json).unwrap_err();
    assert!(error.to_string().contains("type 0x7d is not supported"), "{error}");
}

/// Two logs in the first and one in the last transaction; each uses 10 gas.
fn receipts(transactions: &[Transaction]) -> Vec<Receipt> {
    let log = |n: u8| Log::new_unchecked(Address::repeat_byte(n), vec![], bytes!("0x01"));
    let last = transactions.len() - 1;
    transactions
        .iter()
        .enumerate()
        .map(|(index, transaction)| Receipt {
            tx_type: alloy_consensus::TransactionEnvelope::tx_type(transaction.envelope()),
            success: index != 2,
            cumulative_gas_used: 10 * index as u64,
            logs: match index {
                0 => vec![log(1), log(2)],
                _ if index == last => vec![log(3)],
                _ => vec![],
            },
        })
        .collect()
}

#[test]
fn receipts_count_gas_and_logs_from_the_start_of_the_block() {
    let transactions = transactions();
    let receipts = receipts(&transactions);
    let shown = RpcReceipt::of_block(&inclusion(), &transactions, &receipts);
    assert_eq!(shown.len(), transactions.len());
    assert_eq!(shown[0].tx_type, TxType::Pol);
    assert_eq!(shown[0].from, SYSTEM_ADDRESS);
    assert_eq!(shown[0].gas_used, 0);
    assert!(shown[1..].iter().all(|receipt| receipt.gas_used == 10));
    assert!(!shown[2].success && shown[1].success);
    let logs: Vec<_> = shown
        .iter()
        .flat_map(|receipt| &receipt.logs)
        .map(|log| (log.transaction_index.unwrap(), log.log_index.unwrap()))
        .collect();
    assert_eq!(logs, [(0, 0), (0, 1), (7, 2)]);
    assert_ne!(shown[7].logs_bloom, Bloom::ZERO);
    for (shown, receipt) in shown.iter().zip(&receipts) {
        assert_eq!(shown.to_receipt(), *receipt);
        let text = serde_json::to_string(shown).unwrap();
        assert_eq!(serde_json::from_str::<RpcReceipt>(&text).unwrap(), *shown);
    }
}

#[test]
fn only_a_creation_names_a_contract_and_only_a_blob_transaction_blob_gas() {
    let transactions = transactions();
    let receipts = receipts(&transactions);
    let shown = RpcReceipt::of_block(&inclusion(), &transactions, &receipts);
    for (receipt, transaction) in shown.iter().zip(&transactions) {
        let envelope = transaction.envelope();
        let created = envelope.is_create().then(|| signer().address().create(envelope.nonce()));
        assert_eq!(receipt.contract_address, created);
    }
    assert_eq!(shown[6].blob_gas_used, Some(2 * 131_072));
    assert_eq!(shown[6].blob_gas_price, Some(3));
    let json = serde_json::to_value(&shown[6]).unwrap();
    assert_eq!((&json["type"], &json["blobGasUsed"]), (&json!("0x3"), &json!("0x40000")));
    let json = serde_json::to_value(&shown[5]).unwrap();
    assert!(json.get("blobGasUsed").is_none() && json.get("blobGasPrice").is_none());
}

#[test]
fn a_pending_receipt_has_no_block_hash() {
    let transactions = transactions();
    let pending = Inclusion { block_hash: None, ..inclusion() };
    let shown = RpcReceipt::of_block(&pending, &transactions, &receipts(&transactions));
    let json = serde_json::to_value(&shown[0]).unwrap();
    assert_eq!(json["blockHash"], Value::Null);
    assert_eq!(json["logs"][0]["blockHash"], Value::Null);
    assert_eq!(serde_json::from_value::<RpcReceipt>(json).unwrap(), shown[0]);
}

/// A Berachain block with every type of transaction and a withdrawal.
fn block() -> (Block, B256, Vec<Transaction>) {
    let transactions = transactions();
    let encoded: Vec<_> = transactions.iter().map(Transaction::encoded).collect();
    let mut block = Block::default();
    block.body.transactions = transactions.iter().map(|tx| tx.envelope().clone()).collect();
    block.body.withdrawals = Some(
        vec![Withdrawal {
            index: u64::MAX,
            validator_index: u64::MAX,
            address: Address::repeat_byte(1),
            amount: 9,
        }]
        .into(),
    );
    block.header = Header {
        number: 100,
        transactions_root: transactions_root(&encoded),
        base_fee_per_gas: Some(7),
        withdrawals_root: block.body.calculate_withdrawals_root(),
        blob_gas_used: Some(0),
        excess_blob_gas: Some(0),
        parent_beacon_block_root: Some(B256::ZERO),
        requests_hash: Some(B256::ZERO),
        prev_proposer_pubkey: Some([7; 48].into()),
        ..Header::default()
    };
    let hash = block.header.hash_slow();
    (block, hash, transactions)
}

#[test]
fn a_block_with_its_transactions_survives_json() {
    let (block, hash, transactions) = block();
    let shown = RpcBlock::with_transactions(&block, hash, &transactions);
    let text = serde_json::to_string(&shown).unwrap();
    let read: RpcBlock = serde_json::from_str(&text).unwrap();
    assert_eq!(read, shown);
    assert_eq!(read.to_block().unwrap(), (block, transactions));
}

#[test]
fn every_block_of_the_public_chain_survives_json() {
    for block in chain() {
        let transactions = decoded(&block);
        let shown = RpcBlock::with_transactions(&block, block.header.hash_slow(), &transactions);
        let text = serde_json::to_string(&shown).unwrap();
        let read: RpcBlock = serde_json::from_str(&text).unwrap();
        let (back, senders) = read.to_block().unwrap();
        assert_eq!((back.header, back.body.transactions), (block.header, block.body.transactions));
        assert_eq!(senders, transactions);
    }
}

#[test]
fn a_block_that_is_not_what_its_hash_says_is_refused() {
    let (block, hash, transactions) = block();
    let shown = RpcBlock::with_transactions(&block, hash, &transactions);
    let mut changed = shown.clone();
    changed.header.gas_used += 1;
    assert!(matches!(changed.to_block(), Err(RpcBlockError::Hash { .. })));
    let fewer = RpcBlock::with_transactions(&block, hash, &transactions[1..]);
    assert_eq!(fewer.to_block(), Err(RpcBlockError::Transactions));
    let mut none = shown;
    none.withdrawals = None;
    assert_eq!(none.to_block(), Err(RpcBlockError::Withdrawals));
    let hashes = RpcBlock::with_hashes(&block, hash);
    assert_eq!(hashes.to_block(), Err(RpcBlockError::HashesOnly));
}

#[test]
fn a_block_without_transactions_is_a_block_however_it_was_asked_for() {
    let spec = chain_spec();
    let block = spec.genesis_block();
    let shown = RpcBlock::with_hashes(&block, spec.genesis_hash());
    let text = serde_json::to_string(&shown).unwrap();
    let read: RpcBlock = serde_json::from_str(&text).unwrap();
    assert_eq!(read.to_block().unwrap(), (block, vec![]));
}

#[test]
fn a_list_of_transactions_and_hashes_is_refused_and_a_bad_transaction_is_named() {
    let (block, hash, transactions) = block();
    let shown = RpcBlock::with_transactions(&block, hash, &transactions);
    let json = serde_json::to_value(&shown).unwrap();
    let mut mixed = json.clone();
    mixed["transactions"][0] = json!(hash);
    let error = serde_json::from_value::<RpcBlock>(mixed).unwrap_err();
    assert!(error.to_string().contains("transactions and hashes in one list"), "{error}");
    let mut bad = json;
    bad["transactions"][4]["value"] = json!(U256::from(1));
    let error = serde_json::from_value::<RpcBlock>(bad).unwrap_err();
    assert!(error.to_string().contains("the fields hash to"), "{error}");
}
