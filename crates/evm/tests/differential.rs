//! The same block, executed in every way there is: the results must be the same.

#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::sync::Arc;

use alloy_evm::{
    block::BlockExecutor,
    eth::{
        EthBlockExecutionCtx, EthBlockExecutor, EthEvmBuilder,
        receipt_builder::{ReceiptBuilder, ReceiptBuilderCtx},
    },
    {Evm, EvmEnv},
};
use alloy_primitives::{Address, B256, U256};
use preconf_chain::{Receipt, Transaction, TxEnvelope, TxType};
use preconf_evm::{Executed, ExecutionError, Outcome, Paused, Running, TxError, execute_block};
use preconf_state::{Diff, MemoryState, NeedState, Overlay, StateCache, StateReader};
use revm::{
    bytecode::Bytecode, database::CacheDB, database_interface::DatabaseRef, state::AccountInfo,
};

use common::{World, fetch_all, root, traffic, traffic::Dice};

const SEEDS: u64 = 25;
const LENGTH: usize = 60;

type Seen = Result<Executed, String>;

/// A block as the reference execution saw it.
struct Reference {
    /// Everything that was tried, with its result.
    tried: Vec<(Transaction, Seen)>,
    outcome: Outcome<MemoryState>,
}

fn seen(result: Result<Executed, TxError>) -> Seen {
    result.map_err(|error| {
        assert!(!matches!(error, TxError::NeedState(_) | TxError::Fatal(_)), "{error:?}");
        format!("{error:?}")
    })
}

fn begin(world: &World) -> Paused<MemoryState> {
    Paused::begin(world.spec.clone(), world.next_block(), Overlay::new(world.state.clone()))
        .unwrap()
}

/// In one go.
fn reference(world: &World, seed: u64) -> Reference {
    let mut dice = Dice(seed);
    let mut running = begin(world).resume();
    let mut tried = Vec::new();
    for _ in 0..LENGTH {
        let transaction = traffic::transaction(&mut dice, running.overlay());
        let seen = seen(running.execute(&transaction));
        tried.push((transaction, seen));
    }
    Reference { tried, outcome: running.pause().finish().unwrap() }
}

fn assert_same<R>(outcome: &Outcome<R>, reference: &Reference, how: &str) {
    let expected = &reference.outcome;
    assert_eq!(outcome.receipts, expected.receipts, "{how}");
    assert_eq!(outcome.transactions, expected.transactions, "{how}");
    assert_eq!(outcome.requests, expected.requests, "{how}");
    assert_eq!(outcome.header(B256::ZERO), expected.header(B256::ZERO), "{how}");
    assert_eq!(outcome.diff(), expected.diff(), "{how}");
}

#[test]
fn the_traffic_of_these_tests_has_something_of_everything() {
    let world = World::new();
    let mut types = [0; 5];
    let (mut failed, mut requests, mut blobs) = (0, [0; 3], 0);
    let mut errors = std::collections::BTreeSet::new();
    for seed in 0..SEEDS {
        let Reference { tried, outcome } = reference(&world, seed);
        for receipt in &outcome.receipts {
            types[usize::from(u8::from(receipt.tx_type))] += 1;
            failed += u32::from(!receipt.success);
        }
        for request in outcome.requests.iter() {
            requests[usize::from(request[0])] += 1;
        }
        blobs += outcome.blob_gas_used;
        errors.extend(tried.into_iter().filter_map(|(_, seen)| {
            seen.err().map(|error| error.split(['(', ' ']).next().unwrap_or_default().to_owned())
        }));
    }
    assert!(types.iter().all(|count| *count > 20), "{types:?}");
    assert!(requests.iter().all(|count| *count > 5), "{requests:?}");
    assert!(failed > 100 && blobs > 0);
    let expected = ["ExceedsBlobGas", "ExceedsBlockGas", "Invalid", "NonceTooHigh", "NonceTooLow"];
    assert_eq!(errors.iter().map(String::as_str).collect::<Vec<_>>(), expected);
}

#[test]
fn pausing_freezing_and_finishing_a_copy_at_any_point_changes_nothing() {
    let world = World::new();
    for seed in 0..SEEDS {
        let reference = reference(&world, seed);
        let mut dice = Dice(seed ^ 0xfeed);
        let mut frozen: Vec<Arc<Diff>> = Vec::new();
        let mut running = begin(&world).resume();
        for (transaction, expected) in &reference.tried {
            for _ in 0..dice.roll(3) {
                running = match dice.roll(3) {
                    0 => running.pause().resume(),
                    1 => {
                        frozen.push(running.freeze());
                        running
                    }
                    _ => {
                        let paused = running.pause();
                        paused.clone().finish().unwrap();
                        paused.resume()
                    }
                };
            }
            assert_eq!(&seen(running.execute(transaction)), expected, "seed {seed}");
        }
        frozen.push(running.freeze());
        let outcome = running.pause().finish().unwrap();
        assert_same(&outcome, &reference, &format!("seed {seed}"));

        let mut published = world.state.clone();
        frozen.iter().for_each(|diff| published.apply(diff));
        published.apply(&outcome.closing);
        let mut expected = world.state.clone();
        expected.apply(&reference.outcome.diff());
        assert_eq!(root(&published), root(&expected), "seed {seed}");
    }
}

#[test]
fn transactions_that_failed_leave_no_trace() {
    let world = World::new();
    for seed in 0..SEEDS {
        let reference = reference(&world, seed);
        let mut running = begin(&world).resume();
        for (transaction, expected) in reference.tried.iter().filter(|(_, seen)| seen.is_ok()) {
            assert_eq!(&seen(running.execute(transaction)), expected, "seed {seed}");
        }
        assert_same(&running.pause().finish().unwrap(), &reference, &format!("seed {seed}"));
    }
}

/// Executes with a cache that only ever gets what was asked for.
fn execute_fetching(
    running: &mut Running<StateCache>,
    world: &World,
    transaction: &Transaction,
) -> Seen {
    loop {
        let before = running.receipts().len();
        match running.execute(transaction) {
            Err(TxError::NeedState(keys)) => {
                assert_eq!(running.receipts().len(), before);
                fetch_all(running.overlay().reader(), &world.state, &keys);
            }
            result => return seen(result),
        }
    }
}

#[test]
fn fetching_only_what_is_asked_for_changes_nothing() {
    let world = World::new();
    for seed in 0..SEEDS {
        let reference = reference(&world, seed);
        let cache = StateCache::new(0, world.spec.genesis_hash(), 10_000);
        let begin = || {
            let overlay = Overlay::new(cache.clone());
            Paused::begin(world.spec.clone(), world.next_block(), overlay)
        };
        let paused = loop {
            match begin() {
                Ok(paused) => break paused,
                Err(ExecutionError::NeedState(keys)) => fetch_all(&cache, &world.state, &keys),
                Err(error @ ExecutionError::Failed(_)) => panic!("{error:?}"),
            }
        };
        let mut running = paused.resume();
        for (transaction, expected) in &reference.tried {
            let seen = execute_fetching(&mut running, &world, transaction);
            assert_eq!(&seen, expected, "seed {seed}");
        }
        let paused = running.pause();
        let outcome = loop {
            match paused.clone().finish() {
                Ok(outcome) => break outcome,
                Err(ExecutionError::NeedState(keys)) => fetch_all(&cache, &world.state, &keys),
                Err(error @ ExecutionError::Failed(_)) => panic!("{error:?}"),
            }
        };
        assert_same(&outcome, &reference, &format!("seed {seed}"));
    }
}

#[test]
fn a_block_that_was_built_is_accepted_as_somebody_elses() {
    let world = World::new();
    for seed in 0..SEEDS {
        let reference = reference(&world, seed);
        let mut after = world.state.clone();
        after.apply(&reference.outcome.diff());
        let block = reference.outcome.block(root(&after));
        let requests = Some(&reference.outcome.requests);
        let overlay = Overlay::new(world.state.clone());
        let outcome = execute_block(&world.spec, &world.parent, &block, requests, overlay).unwrap();
        assert_same(&outcome, &reference, &format!("seed {seed}"));
        assert_eq!(outcome.block(root(&after)), block);
    }
}

#[test]
fn a_second_block_on_the_first_ones_overlay_equals_one_on_its_state() {
    let world = World::new();
    for seed in 0..SEEDS {
        let first = reference(&world, seed).outcome;
        let mut after = world.state.clone();
        after.apply(&first.diff());
        let parent = first.header(root(&after));
        after.set_block_hash(1, parent.hash_slow());
        let next = World { spec: world.spec.clone(), state: after, parent };
        let reference = reference(&next, seed + 1_000);

        let paused = Paused::begin(next.spec.clone(), next.next_block(), first.overlay);
        let mut running = paused.unwrap().resume();
        for (transaction, expected) in &reference.tried {
            assert_eq!(&seen(running.execute(transaction)), expected, "seed {seed}");
        }
        assert_same(&running.pause().finish().unwrap(), &reference, &format!("seed {seed}"));
    }
}

/// The executor of the library, with the library's own database and its own `finish`.
struct Independent(MemoryState);

impl std::fmt::Debug for Independent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Independent")
    }
}

impl DatabaseRef for Independent {
    type Error = NeedState;

    fn basic_ref(&self, address: Address) -> Result<Option<AccountInfo>, NeedState> {
        let Some(account) = self.0.account(address)? else { return Ok(None) };
        let code = self.0.code(account.code_hash)?;
        Ok(Some(AccountInfo::new(account.balance, account.nonce, account.code_hash, code)))
    }

    fn code_by_hash_ref(&self, hash: B256) -> Result<Bytecode, NeedState> {
        self.0.code(hash)
    }

    fn storage_ref(&self, address: Address, slot: U256) -> Result<U256, NeedState> {
        self.0.slot(address, slot)
    }

    fn block_hash_ref(&self, number: u64) -> Result<B256, NeedState> {
        self.0.block_hash(number)
    }
}

struct PlainReceipts;

impl ReceiptBuilder for PlainReceipts {
    type Transaction = TxEnvelope;
    type Receipt = Receipt;

    fn build_receipt<E: Evm>(&self, ctx: ReceiptBuilderCtx<'_, TxType, E>) -> Receipt {
        Receipt {
            tx_type: ctx.tx_type,
            success: ctx.result.is_success(),
            cumulative_gas_used: ctx.cumulative_gas_used,
            logs: ctx.result.into_logs(),
        }
    }
}

#[test]
fn the_librarys_own_database_and_ending_agree() {
    let world = World::new();
    for seed in 0..SEEDS {
        let reference = reference(&world, seed);
        let block = world.next_block();
        let mut after = world.state.clone();
        after.apply(&reference.outcome.diff());
        let header = reference.outcome.header(root(&after));
        let blob_params = world.spec.blob_params_at(header.timestamp);
        let env = EvmEnv::for_eth_block(&header, &*world.spec, world.spec.chain_id(), blob_params);
        let database = CacheDB::new(Independent(world.state.clone()));
        let evm = EthEvmBuilder::new(database, env).build();
        let ctx = EthBlockExecutionCtx {
            parent_hash: block.parent_hash,
            parent_beacon_block_root: block.parent_beacon_block_root,
            ommers: &[],
            withdrawals: Some(block.withdrawals.clone().into()),
            extra_data: block.extra_data.clone(),
            tx_count_hint: None,
            slot_number: None,
        };
        let mut executor = EthBlockExecutor::new(evm, ctx, world.spec.clone(), PlainReceipts);
        executor.apply_pre_execution_changes().unwrap();
        for transaction in reference.outcome.transactions.iter() {
            executor.execute_transaction(transaction.recovered()).unwrap();
        }
        let (evm, result) = executor.finish().unwrap();
        assert_eq!(result.receipts, reference.outcome.receipts, "seed {seed}");
        assert_eq!(result.requests, reference.outcome.requests, "seed {seed}");
        assert_eq!(result.gas_used, reference.outcome.gas_used, "seed {seed}");
        assert_eq!(result.blob_gas_used, reference.outcome.blob_gas_used, "seed {seed}");
        assert_same_state(evm.db(), &after, seed);
    }
}

fn assert_same_state(database: &CacheDB<Independent>, after: &MemoryState, seed: u64) {
    for (address, _, slots) in after.iter() {
        for (slot, value) in slots {
            assert_eq!(database.storage_ref(address, slot), Ok(value), "seed {seed} {address}");
        }
    }
    for (address, cached) in &database.cache.accounts {
        let expected = after.account(*address).unwrap();
        let found = cached.info().filter(|info| !info.is_empty());
        assert_eq!(found.as_ref().map(Into::into), expected, "seed {seed} {address}");
        for (slot, value) in &cached.storage {
            let expected = after.slot(*address, *slot).unwrap();
            assert_eq!(*value, expected, "seed {seed} {address} {slot}");
        }
    }
}

#[test]
fn a_frozen_diff_names_what_changed_and_nothing_else() {
    let world = World::new();
    for seed in 0..SEEDS {
        let reference = reference(&world, seed);
        let mut state = world.state.clone();
        let mut running = begin(&world).resume();
        state.apply(&running.freeze());
        for (transaction, _) in &reference.tried {
            let executed = running.execute(transaction).is_ok();
            let diff = running.freeze();
            assert_eq!(executed, !diff.is_empty(), "seed {seed}");
            assert_exact(&diff, &state);
            state.apply(&diff);
        }
        let closing = running.pause().finish().unwrap().closing;
        assert_exact(&closing, &state);
        state.apply(&closing);
        let mut expected = world.state.clone();
        expected.apply(&reference.outcome.diff());
        assert_eq!(root(&state), root(&expected), "seed {seed}");
    }
}

/// Every entry of the diff of one step differs from what was there before it.
fn assert_exact(diff: &Diff, before: &MemoryState) {
    for (address, change) in &diff.accounts {
        let mut differs = before.account(*address).unwrap() != change.account;
        for (slot, value) in &change.slots {
            assert_ne!(before.slot(*address, *slot).unwrap(), *value, "{address} {slot}");
            differs = true;
        }
        assert!(differs, "{address} did not change: {change:?}");
    }
    for hash in diff.codes.keys() {
        assert!(
            diff.accounts
                .values()
                .any(|change| { change.account.is_some_and(|account| account.code_hash == *hash) })
        );
    }
}
