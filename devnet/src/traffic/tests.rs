//! The contracts on the embedded execution client, and the mix.

use alloy_primitives::{B256, TxKind};
use alloy_rpc_types_engine::PayloadAttributes;
use preconf_chain::{Receipt, Transaction};

use super::*;
use crate::{
    client::{ClientConfig, Contents, ExecutionClient, PayloadContext},
    genesis::ChainName,
    keys::{Directory, Keys},
};

/// Executes the intents of one account in one block and returns their receipts.
fn execute(keys: &Keys, intents: Vec<Intent>) -> Vec<Receipt> {
    let client = ExecutionClient::new(keys.spec.clone(), ClientConfig::default());
    let transactions = intents.into_iter().enumerate().map(|(nonce, intent)| {
        let encoded = intent.sign(&keys.accounts[0], keys.spec.chain_id(), nonce as u64);
        Transaction::decode(encoded).unwrap()
    });
    let attributes = PayloadAttributes {
        timestamp: keys.spec.genesis_header().timestamp + 2,
        withdrawals: Some(vec![]),
        parent_beacon_block_root: Some(B256::ZERO),
        ..PayloadAttributes::default()
    };
    let contents = Contents::Exactly(transactions.collect());
    let parent = keys.spec.genesis_hash();
    let built = client.build(parent, &attributes, contents, Default::default()).unwrap();
    let envelope = built.envelope_v4();
    let context = PayloadContext {
        requests: Some(envelope.execution_requests.iter().cloned().collect()),
        ..PayloadContext::default()
    };
    let payload = envelope.envelope_inner.execution_payload;
    assert!(client.new_payload(payload, &context).unwrap().is_valid());
    client.receipts(built.hash).unwrap()
}

fn keys() -> (Directory, Keys) {
    let directory = Directory::new(false).unwrap();
    let keys = Keys::create(&directory, ChainName::Ethereum, 1, 1, 1_800_000_000).unwrap();
    (directory, keys)
}

#[test]
fn the_token_moves_what_is_there_and_refuses_more() {
    let (_directory, keys) = keys();
    let owner = keys.accounts[0].address();
    let token = owner.create(0);
    let somebody = Address::repeat_byte(9);
    let code = contracts::token(&[owner], U256::from(10));
    let move_tokens =
        |amount: u64| Intent::call(token, contracts::transfer(somebody, U256::from(amount)));

    let receipts = execute(
        &keys,
        vec![
            Intent::creation(code, 2_000_000),
            move_tokens(7),
            move_tokens(7),
            move_tokens(3),
            move_tokens(1),
            Intent::call(token, Default::default()),
        ],
    );

    let outcomes: Vec<bool> = receipts.iter().map(|receipt| receipt.success).collect();
    assert_eq!(outcomes, [true, true, false, true, false, false]);
    let log = &receipts[1].logs[0];
    assert_eq!(log.address, token);
    assert_eq!(log.topics()[1], owner.into_word());
    assert_eq!(log.topics()[2], somebody.into_word());
    assert_eq!(U256::from_be_slice(&log.data.data), U256::from(7));
}

#[test]
fn every_intent_of_the_mix_is_executed_and_only_one_of_ten_fails() {
    let (_directory, keys) = keys();
    let owner = keys.accounts[0].address();
    let code = contracts::token(&[owner], U256::from(TOKENS));
    let mix = (0..20).map(|number| mixed(number, Some(owner.create(0))));
    let intents = [Intent::creation(code, 2_000_000)].into_iter().chain(mix).collect();

    let receipts = execute(&keys, intents);

    let failed = |receipts: &[Receipt]| receipts.iter().filter(|r| !r.success).count();
    assert_eq!(receipts.len(), 21);
    assert_eq!(failed(&receipts), 2);
    assert!(!receipts[1 + 4].success);
}

#[test]
fn without_a_token_everybody_pays() {
    for number in 0..10 {
        assert!(matches!(mixed(number, None).to, TxKind::Call(_)));
        assert_eq!(mixed(number, None).gas_limit, 21_000);
    }
}

fn seen(verdict: Verdict) -> Outcome {
    let end = End::Seen(Seen { latency: Duration::from_millis(100), verdict });
    Outcome { in_window: true, end }
}

#[test]
fn a_receipt_that_came_with_its_block_is_counted_and_not_compared() {
    let mut measured = Measured::default();
    let difference = Difference::Absent { transaction: B256::ZERO, block: 1 };
    let verdicts = [Verdict::Late, Verdict::Open, Verdict::Compared(Ok(()))];
    for verdict in verdicts.into_iter().chain([Verdict::Compared(Err(difference))]) {
        measured.record(seen(verdict));
    }

    assert_eq!((measured.sent, measured.early, measured.late), (4, 3, 1));
    assert_eq!((measured.comparisons_made, measured.comparisons_failed), (2, 1));
    assert_eq!(measured.latency.len(), 4, "the latency of a late one is no secret");
}
