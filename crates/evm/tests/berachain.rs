//! What a Berachain block has that no other has: its first transaction, its deposits, its limits.

#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use alloy_consensus::{TxEip1559, TxEip4844};
use alloy_eips::{eip4788::SYSTEM_ADDRESS, eip4844::DATA_GAS_PER_BLOB, eip4895::Withdrawal};
use alloy_primitives::{Address, B256, Bytes, TxKind, U256, keccak256};
use alloy_rlp::Encodable;
use alloy_sol_types::{SolEvent, sol};
use preconf_chain::{Block, PolTx, ProposerPublicKey, Transaction, TxType};
use preconf_evm::{
    BlockError, ExecutionError, NextBlock, Outcome, Paused, Running, TxError, execute_block,
};
use preconf_state::{MemoryState, Overlay, StateCache, StateReader};
use serde_json::{Map, Value, json};

use common::{
    BERACHAIN_DEPOSIT, CHAIN_ID, DEPOSIT, GAUGE, GWEI, OBSERVE, REVERT, STORE, World, fetch_all,
    root, sign, signer, traffic,
};

const KEY: ProposerPublicKey = ProposerPublicKey::repeat_byte(0x95);

sol! {
    event Deposit(
        bytes pubkey,
        bytes credentials,
        uint64 amount,
        bytes signature,
        uint64 index
    );
}

fn section(distributor: Address) -> Value {
    json!({
        "prague1": {
            "time": 0, "baseFeeChangeDenominator": 48, "minimumBaseFeeWei": GWEI as u64,
            "polDistributorAddress": distributor,
        },
        "prague2": { "time": 0, "minimumBaseFeeWei": 0 },
    })
}

fn berachain(distributor: Address) -> World {
    changed(distributor, |_| ())
}

fn changed(distributor: Address, change: impl FnOnce(&mut Map<String, Value>)) -> World {
    World::with_config(|config| {
        config.insert("berachain".to_owned(), section(distributor));
        change(config);
    })
}

/// With Osaka and Osaka1.
fn osaka() -> World {
    changed(GAUGE, |config| {
        config.insert("osakaTime".to_owned(), json!(0));
        config["berachain"]["osaka1"] = json!({
            "time": 0, "minimumBaseFeeWei": GWEI as u64, "minimumBlobBaseFeeWei": GWEI as u64,
        });
    })
}

fn next_block(world: &World) -> NextBlock {
    NextBlock { prev_proposer_pubkey: Some(KEY), ..world.next_block() }
}

fn begin(world: &World) -> Running<MemoryState> {
    let overlay = Overlay::new(world.state.clone());
    Paused::begin(world.spec.clone(), next_block(world), overlay).unwrap().resume()
}

fn transfer(nonce: u64) -> TxEip1559 {
    TxEip1559 {
        chain_id: CHAIN_ID,
        nonce,
        gas_limit: 21_000,
        max_fee_per_gas: 3 * GWEI,
        max_priority_fee_per_gas: GWEI,
        to: TxKind::Call(Address::repeat_byte(9)),
        value: U256::from(1),
        ..TxEip1559::default()
    }
}

fn call(to: Address, input: Vec<u8>) -> TxEip1559 {
    let (to, input) = (TxKind::Call(to), input.into());
    TxEip1559 { to, input, gas_limit: 1_000_000, value: U256::ZERO, ..transfer(0) }
}

fn sealed(world: &World, outcome: &Outcome<MemoryState>) -> Block {
    let mut after = world.state.clone();
    after.apply(&outcome.diff());
    outcome.block(root(&after))
}

fn validate(world: &World, block: &Block) -> Result<Outcome<MemoryState>, BlockError> {
    let overlay = Overlay::new(world.state.clone());
    execute_block(&world.spec, &world.parent, block, None, overlay)
}

#[test]
fn the_distributor_sees_exactly_thirty_million_gas() {
    let running = begin(&berachain(GAUGE));
    assert_eq!(running.overlay().slot(GAUGE, U256::ZERO), Ok(U256::from(30_000_000 - 2)));
    assert!(running.receipts()[0].success);
}

#[test]
fn the_first_receipt_is_of_the_chains_own_transaction_and_costs_the_block_nothing() {
    let world = berachain(STORE);
    let mut running = begin(&world);
    let pol = PolTx::for_block(CHAIN_ID, STORE, 1, world.next_block().base_fee_per_gas, &KEY);
    let own = running.transactions()[0].clone();
    assert_eq!(own, Transaction::from_envelope(pol.clone().into(), SYSTEM_ADDRESS));
    let receipt = running.receipts()[0].clone();
    assert_eq!((receipt.tx_type, receipt.success), (TxType::Pol, true));
    assert_eq!((receipt.cumulative_gas_used, running.gas_used()), (0, 0));
    assert_eq!(receipt.logs.len(), 1);
    assert_eq!(receipt.logs[0].address, STORE);
    assert_eq!(receipt.logs[0].topics()[0], B256::from_slice(&pol.input[..32]));
    let slot = U256::from_be_slice(&pol.input[..32]);
    let stored = running.overlay().slot(STORE, slot).unwrap();
    assert_eq!(stored, U256::from_be_slice(&pol.input[32..64]));
    assert_eq!(running.overlay().account(SYSTEM_ADDRESS), Ok(None));

    for nonce in 0..2 {
        running.execute(&sign(&signer(1), transfer(nonce))).unwrap();
    }
    let gas: Vec<u64> =
        running.receipts().iter().map(|receipt| receipt.cumulative_gas_used).collect();
    assert_eq!(gas, [0, 21_000, 42_000]);
    let outcome = running.pause().finish().unwrap();
    assert_eq!(outcome.gas_used, 42_000);
    let block = sealed(&world, &outcome);
    assert_eq!(block.header.prev_proposer_pubkey, Some(KEY));
    assert_eq!(block.body.transactions.len(), 3);
    let again = validate(&world, &block).unwrap();
    assert_eq!(again.receipts, outcome.receipts);
    assert_eq!(again.diff(), outcome.diff());
}

#[test]
fn a_distributor_that_reverts_leaves_nothing_but_a_failed_receipt() {
    let world = berachain(REVERT);
    let running = begin(&world);
    let receipt = &running.receipts()[0];
    assert_eq!((receipt.success, receipt.logs.len()), (false, 0));
    assert_eq!(running.overlay().slot(REVERT, U256::ZERO), Ok(U256::ZERO));
    let outcome = running.pause().finish().unwrap();
    validate(&world, &sealed(&world, &outcome)).unwrap();
}

#[test]
fn a_distributor_without_code_is_no_failure() {
    let world = berachain(Address::repeat_byte(0x42));
    let outcome = begin(&world).pause().finish().unwrap();
    assert!(outcome.receipts[0].success);
    validate(&world, &sealed(&world, &outcome)).unwrap();
}

#[test]
fn the_first_transaction_must_be_the_one_that_follows_from_the_header() {
    let world = berachain(STORE);
    let mut running = begin(&world);
    running.execute(&sign(&signer(1), transfer(0))).unwrap();
    let block = sealed(&world, &running.pause().finish().unwrap());
    let base_fee = block.header.base_fee_per_gas.unwrap();
    let other = |key: &ProposerPublicKey, number| {
        PolTx::for_block(CHAIN_ID, STORE, number, base_fee, key).into()
    };
    let foreign = ProposerPublicKey::repeat_byte(1);
    for change in [
        (|block: &mut Block, _| drop(block.body.transactions.remove(0)))
            as fn(&mut Block, Vec<preconf_chain::TxEnvelope>),
        |block, others| block.body.transactions[0] = others[0].clone(),
        |block, others| block.body.transactions[0] = others[1].clone(),
        |block, _| block.body.transactions.swap(0, 1),
        |block, _| block.body.transactions.clear(),
        |block, _| block.header.prev_proposer_pubkey = Some(ProposerPublicKey::ZERO),
    ] {
        let mut lie = block.clone();
        change(&mut lie, vec![other(&foreign, 1), other(&KEY, 2)]);
        let refused = validate(&world, &lie).unwrap_err();
        let BlockError::Mismatch { field, .. } = refused else { panic!("{refused:?}") };
        assert_eq!(field, "first transaction");
    }
    let mut twice = block.clone();
    twice.body.transactions.insert(1, twice.body.transactions[0].clone());
    let refused = validate(&world, &twice).unwrap_err();
    let BlockError::Transaction { index: 1, source, .. } = refused else { panic!("{refused:?}") };
    assert!(matches!(source, TxError::Reserved(0x7e)));
    assert!(validate(&world, &block).is_ok());
}

#[test]
fn a_block_whose_proposer_before_is_not_known_cannot_begin() {
    let world = berachain(STORE);
    let overlay = Overlay::new(world.state.clone());
    let refused = Paused::begin(world.spec.clone(), world.next_block(), overlay);
    let Err(ExecutionError::Failed(error)) = refused else { panic!("{refused:?}") };
    assert!(error.to_string().contains("key of the previous block's proposer"), "{error}");
}

#[test]
fn before_prague1_a_block_is_ethereums() {
    let world = changed(STORE, |config| {
        for fork in ["prague1", "prague2"] {
            config["berachain"][fork]["time"] = json!(1_000);
        }
    });
    let outcome = begin(&world).pause().finish().unwrap();
    assert!(outcome.transactions.is_empty());
    let block = sealed(&world, &outcome);
    assert_eq!(block.header.prev_proposer_pubkey, None);
    validate(&world, &block).unwrap();
}

#[test]
fn an_empty_memory_is_filled_for_the_first_transaction_too() {
    let world = berachain(STORE);
    let cache = StateCache::new(0, world.spec.genesis_hash(), 10_000);
    let mut rounds = 0;
    let outcome = loop {
        let overlay = Overlay::new(cache.clone());
        let paused = Paused::begin(world.spec.clone(), next_block(&world), overlay);
        match paused.and_then(Paused::finish) {
            Err(ExecutionError::NeedState(keys)) => fetch_all(&cache, &world.state, &keys),
            outcome => break outcome.unwrap(),
        }
        rounds += 1;
    };
    assert!(rounds <= 4, "{rounds}");
    assert_eq!(outcome.diff(), begin(&world).pause().finish().unwrap().diff());
}

fn deposit(amount: u64, index: u64) -> Deposit {
    Deposit {
        pubkey: vec![1; 48].into(),
        credentials: vec![2; 32].into(),
        amount,
        signature: vec![3; 96].into(),
        index,
    }
}

#[test]
fn deposits_are_requested_from_osaka_on_in_little_endian_and_of_the_contract_alone() {
    let event = |amount, index| deposit(amount, index).encode_log_data().data.to_vec();
    assert_eq!(keccak256("Deposit(bytes,bytes,uint64,bytes,uint64)"), Deposit::SIGNATURE_HASH);
    let of = |is_osaka: bool, contract: Address| {
        let world = changed(GAUGE, |config| {
            config.insert("depositContractAddress".to_owned(), json!(contract));
            if is_osaka {
                config.insert("osakaTime".to_owned(), json!(0));
            }
        });
        let mut running = begin(&world);
        for (key, amount) in [(1, 0x0102), (2, u64::MAX)] {
            let deposited = sign(&signer(key), call(BERACHAIN_DEPOSIT, event(amount, 7)));
            assert!(running.execute(&deposited).unwrap().success);
        }
        let ethereums = sign(&signer(3), call(DEPOSIT, event(1, 1)));
        assert!(running.execute(&ethereums).unwrap().success);
        let outcome = running.pause().finish().unwrap();
        validate(&world, &sealed(&world, &outcome)).unwrap();
        outcome.requests.to_vec()
    };
    let one = |amount: u64| {
        let numbers = [&amount.to_le_bytes()[..], &[3; 96], &7_u64.to_le_bytes()].concat();
        [&[1; 48][..], &[2; 32], &numbers].concat()
    };
    let expected: Bytes = [vec![0], one(0x0102), one(u64::MAX)].concat().into();
    assert_eq!(expected.len(), 1 + 2 * 192);
    assert_eq!(of(true, BERACHAIN_DEPOSIT), [expected]);
    assert_eq!(of(false, BERACHAIN_DEPOSIT), Vec::<Bytes>::new());
    // What Ethereum's contract would write is no deposit here, and neither is a foreign contract.
    assert_eq!(of(true, DEPOSIT), Vec::<Bytes>::new());
}

#[test]
fn the_first_withdrawal_mints_what_the_chain_inflates_by() {
    let world = berachain(STORE);
    let vault = Address::repeat_byte(0x1a);
    let mint = Withdrawal {
        index: u64::MAX,
        validator_index: u64::MAX,
        address: vault,
        amount: 0x65a0_3c40,
    };
    let block = NextBlock { withdrawals: vec![mint], ..next_block(&world) };
    let overlay = Overlay::new(world.state.clone());
    let outcome = Paused::begin(world.spec.clone(), block, overlay).unwrap().finish().unwrap();
    let minted = outcome.overlay.account(vault).unwrap().unwrap().balance;
    assert_eq!(minted, U256::from(0x65a0_3c40_u64) * U256::from(GWEI));
    validate(&world, &sealed(&world, &outcome)).unwrap();
}

/// Creates a contract of this many zero bytes.
fn creation(code: u32, init_code: usize) -> TxEip1559 {
    let mut input = vec![0x62];
    input.extend_from_slice(&code.to_be_bytes()[1..]);
    input.extend_from_slice(&[0x5f, 0xf3]);
    input.resize(init_code, 0);
    let (to, input) = (TxKind::Create, input.into());
    TxEip1559 { to, input, gas_limit: 15_000_000, value: U256::ZERO, ..transfer(0) }
}

#[test]
fn from_osaka_on_code_may_be_larger_than_on_ethereum() {
    let created = |world: &World, code, init_code| {
        let created = begin(world).execute(&sign(&signer(1), creation(code, init_code)));
        created.map(|executed| executed.success)
    };
    let (osaka, prague) = (osaka(), berachain(GAUGE));
    assert!(created(&osaka, 32_768, 6).unwrap());
    assert!(!created(&osaka, 32_769, 6).unwrap());
    assert!(created(&osaka, 1, 65_536).unwrap());
    assert!(matches!(created(&osaka, 1, 65_537), Err(TxError::Invalid(_))));
    assert!(created(&prague, 24_576, 6).unwrap());
    assert!(!created(&prague, 24_577, 6).unwrap());
    assert!(matches!(created(&prague, 1, 49_153), Err(TxError::Invalid(_))));
}

#[test]
fn from_osaka_on_a_transaction_may_use_no_more_than_2_to_the_24_gas() {
    let with = |gas_limit| sign(&signer(1), TxEip1559 { gas_limit, ..transfer(0) });
    let mut running = begin(&osaka());
    let refused = running.execute(&with((1 << 24) + 1));
    assert!(matches!(refused, Err(TxError::Invalid(_))));
    running.execute(&with(1 << 24)).unwrap();
    begin(&berachain(GAUGE)).execute(&with((1 << 24) + 1)).unwrap();
}

#[test]
fn from_osaka1_on_a_blob_costs_a_gwei_for_each_unit_of_its_gas() {
    let with = |max_fee_per_blob_gas| {
        let blob = TxEip4844 {
            chain_id: CHAIN_ID,
            gas_limit: 21_000,
            max_fee_per_gas: 3 * GWEI,
            max_fee_per_blob_gas,
            blob_versioned_hashes: vec![traffic::versioned_hash()],
            ..TxEip4844::default()
        };
        sign(&signer(1), blob)
    };
    let mut running = begin(&osaka());
    assert!(matches!(running.execute(&with(GWEI - 1)), Err(TxError::Invalid(_))));
    let before = running.overlay().account(signer(1).address()).unwrap().unwrap().balance;
    running.execute(&with(GWEI)).unwrap();
    let after = running.overlay().account(signer(1).address()).unwrap().unwrap().balance;
    let base_fee = u128::from(running.block().base_fee_per_gas);
    let paid = 21_000 * base_fee + u128::from(DATA_GAS_PER_BLOB) * GWEI;
    assert_eq!(before - after, U256::from(paid));
    begin(&berachain(GAUGE)).execute(&with(1)).unwrap();
}

#[test]
fn what_prague3_forbids_makes_a_block_invalid() {
    let event = keccak256("InternalBalanceChanged(address,address,int256)");
    for (vault, valid) in [(STORE, false), (OBSERVE, true)] {
        let world = changed(GAUGE, |config| {
            config["berachain"]["prague3"] = json!({
                "time": 0, "blockedAddresses": [], "rescueAddress": OBSERVE,
                "bexVaultAddress": vault,
            });
        });
        let mut running = begin(&world);
        let input = [event.0, common::word(1)].concat();
        assert!(running.execute(&sign(&signer(1), call(STORE, input))).unwrap().success);
        let block = sealed(&world, &running.pause().finish().unwrap());
        let validated = validate(&world, &block);
        assert_eq!(validated.is_ok(), valid);
        assert!(valid || matches!(validated, Err(BlockError::Prague3(_))));
    }
}

#[test]
fn a_block_of_more_than_eight_mebibytes_is_refused_under_osaka() {
    let (osaka, prague) = (osaka(), berachain(GAUGE));
    for (world, is_limited) in [(&osaka, true), (&prague, false)] {
        let mut block = sealed(world, &begin(world).pause().finish().unwrap());
        let filler = sign(&signer(1), call(STORE, vec![1; 130_000]));
        while block.length() <= 8 << 20 {
            block.body.transactions.push(filler.envelope().clone());
        }
        let refused = validate(world, &block).unwrap_err();
        let max = 8 << 20;
        let bytes = block.length();
        let too_large =
            matches!(refused, BlockError::TooLarge { bytes: b, max: m } if b == bytes && m == max);
        assert_eq!(too_large, is_limited, "{refused:?}");
    }
}
