//! A block, built one transaction at a time.
//!
//! Between transactions it is paused and resumed, frozen, finished as a copy, and built anew; none of
//! that may change what comes out. What cannot be in the block is tried, too.

use std::sync::Arc;

use super::{Place, hash, said};
use crate::{
    choices::Choices,
    feed::{Known, root_of},
    random::{
        Rules, Tally,
        kind::Kind,
        oracle::Tried,
        traffic::{self, Made},
        world::{DESTRUCT, FEE_RECIPIENT, STORE, World, signers},
    },
};
use alloy_eips::{eip4895::Withdrawal, eip7685::Requests};
use alloy_primitives::{Address, B256, FixedBytes, U256, address};
use preconf_chain::{Block, Header, Receipt, Transaction, TxType};
use preconf_evm::{NextBlock, Paused, Running, TxError};
use preconf_state::{Diff, MemoryState, Overlay, StateReader};

/// The most transactions that are tried for one block, and one more.
const TRIED: u64 = 14;
/// The largest contract that Ethereum allows.
const LARGE: usize = 24_576;
/// Who gets what Berachain mints, and how many gwei in each block.
const MINTED_TO: Address = address!("0x1ae7dd7ae06f6c58b4524d9c1f816094b1bccd8e");
const MINTED: u64 = 0x65a0_3c40;

type State = Arc<MemoryState>;

/// A block as it was built.
#[derive(Clone, Debug)]
pub(super) struct Built {
    /// The block.
    pub(super) block: Block,
    /// The receipts of its transactions.
    pub(super) receipts: Vec<Receipt>,
    /// Its requests to the consensus layer.
    pub(super) requests: Requests,
    /// Where the next one can be built. The oracle's part is its parent's until the oracle was asked.
    pub(super) place: Place,
    /// What was tried, in this order.
    pub(super) tried: Vec<Tried>,
}

/// Builds a block on another one. One that stands in for a third begins with some of its
/// transactions.
pub(super) fn build(
    choices: &mut Choices<'_>,
    tally: &mut Tally,
    world: &World,
    parent: &Place,
    instead: Option<&Built>,
) -> Result<Built, String> {
    let Known { header, state, .. } = &parent.known;
    let next = next_block(choices, world, header);
    let blob_fee = world.spec.blob_base_fee(next.timestamp, next.excess_blob_gas.unwrap_or(0));
    let minting = next.withdrawals.iter().filter(|minted| minted.index == u64::MAX);
    minting.for_each(|_| tally.note(Kind::Inflation));
    let begin = || {
        let overlay = Overlay::new(state.clone());
        let begun = Paused::begin(world.spec.clone(), next.clone(), overlay);
        begun.map_err(|error| said("beginning", &error)).map(Paused::resume)
    };
    let mut running = begin()?;
    let own = running.transactions().len();
    let mut tried = Vec::new();
    for made in instead.map(|instead| some_of(choices, instead)).transpose()?.unwrap_or_default() {
        attempt(&mut running, made, tally, &mut tried)?;
    }
    for _ in 0..choices.roll(TRIED) {
        for _ in 0..choices.roll(3) {
            running = interrupt(choices, tally, running, own, begin)?;
        }
        let overlay = running.overlay();
        let made =
            traffic::transaction(choices, world.rules, blob_fee.unwrap_or_default(), overlay);
        attempt(&mut running, made, tally, &mut tried)?;
    }
    let outcome = running.pause().finish().map_err(|error| said("finishing", &error))?;
    let diff = outcome.diff();
    tally.count_receipts(&outcome.receipts);
    if outcome.receipts.first().is_some_and(|receipt| receipt.tx_type == TxType::Pol) {
        tally.note(Kind::Reward(world.rewards));
    }
    count(tally, state, &diff, &outcome.requests);
    let mut after = state.as_ref().clone();
    after.apply(&diff);
    let block = outcome.block(root_of(&after));
    let known = Known::new(block.header.clone(), after);
    let place = Place { known, tip: parent.tip.clone() };
    Ok(Built { block, receipts: outcome.receipts, requests: outcome.requests, place, tried })
}

/// Does to a block what should make no difference.
fn interrupt(
    choices: &mut Choices<'_>,
    tally: &mut Tally,
    mut running: Running<State>,
    own: usize,
    begin: impl Fn() -> Result<Running<State>, String>,
) -> Result<Running<State>, String> {
    Ok(match choices.roll(5) {
        0 => running.pause().resume(),
        1 | 2 => {
            running.freeze();
            running
        }
        3 => {
            let paused = running.pause();
            paused.clone().finish().map_err(|error| said("finishing a copy", &error))?;
            paused.resume()
        }
        _ => {
            tally.rebuilds += 1;
            again(begin()?, &running, own)?
        }
    })
}

fn attempt(
    running: &mut Running<State>,
    made: Made,
    tally: &mut Tally,
    tried: &mut Vec<Tried>,
) -> Result<(), String> {
    let Made { transaction, kinds } = made;
    let is_in = match running.execute(&transaction) {
        Ok(_) => true,
        Err(error @ (TxError::NeedState(_) | TxError::Fatal(_))) => {
            return Err(said("building", &error));
        }
        Err(_) => {
            tally.refused += 1;
            false
        }
    };
    let meant = kinds.into_iter().filter(|kind| kind.is_refused() != is_in);
    meant.for_each(|kind| tally.note(kind));
    tried.push(Tried { encoded: transaction.encoded().clone(), is_in });
    Ok(())
}

/// Some of the transactions of a block that somebody sent.
fn some_of(choices: &mut Choices<'_>, built: &Built) -> Result<Vec<Made>, String> {
    let sent = built.tried.iter().filter(|tried| tried.is_in);
    let some = sent.filter(|_| choices.roll(4) != 3);
    let decoded = some.map(|tried| {
        let transaction = Transaction::decode(tried.encoded.clone());
        let transaction = transaction.map_err(|error| said("decoding", &error))?;
        Ok(Made { transaction, kinds: Vec::new() })
    });
    decoded.collect()
}

/// The same block built anew, from nothing but its transactions.
fn again(
    mut anew: Running<State>,
    before: &Running<State>,
    own: usize,
) -> Result<Running<State>, String> {
    for transaction in &before.transactions()[own..] {
        anew.execute(transaction).map_err(|error| said("building again", &error))?;
    }
    if anew.receipts() != before.receipts() {
        return Err("building again gives other receipts".to_owned());
    }
    Ok(anew)
}

/// An environment that may follow a block.
fn next_block(choices: &mut Choices<'_>, world: &World, parent: &Header) -> NextBlock {
    // Now and then far enough for the shortest chain to come to the last fork.
    let most = if choices.once_in(8) { 64 } else { 8 };
    let timestamp = parent.timestamp + 1 + choices.roll(most);
    let recipients = [FEE_RECIPIENT, FEE_RECIPIENT, signers()[0].address(), STORE, DESTRUCT];
    let key = world.spec.is_prague1_active_at_timestamp(timestamp);
    NextBlock {
        parent_hash: parent.hash_slow(),
        parent_beacon_block_root: Some(hash(choices)),
        number: parent.number + 1,
        timestamp,
        fee_recipient: choices.pick(&recipients),
        prev_randao: hash(choices),
        difficulty: U256::ZERO,
        gas_limit: parent.gas_limit - 500 + choices.roll(1_001),
        base_fee_per_gas: world.spec.next_base_fee(parent),
        extra_data: vec![b'x'; choices.roll(33) as usize].into(),
        withdrawals: withdrawals(choices, world.rules),
        excess_blob_gas: world.spec.next_excess_blob_gas(parent, timestamp),
        prev_proposer_pubkey: key.then(|| FixedBytes::repeat_byte(choices.roll(256) as u8)),
    }
}

/// A few withdrawals; on Berachain the first usually is what the chain mints.
fn withdrawals(choices: &mut Choices<'_>, rules: Rules) -> Vec<Withdrawal> {
    let mints = match rules {
        Rules::Ethereum => false,
        Rules::Berachain => !choices.once_in(8),
    };
    let minted = mints.then_some(Withdrawal {
        index: u64::MAX,
        validator_index: u64::MAX,
        address: MINTED_TO,
        amount: MINTED,
    });
    let others = (0..choices.roll(4)).map(|index| Withdrawal {
        index,
        validator_index: choices.roll(1_000),
        address: choices.pick(&[STORE, Address::repeat_byte(0x77), Address::repeat_byte(0x78)]),
        amount: choices.roll(3),
    });
    minted.into_iter().chain(others).collect()
}

fn count(tally: &mut Tally, before: &MemoryState, diff: &Diff, requests: &Requests) {
    let is_delegation = |hash: B256| diff.codes.get(&hash).is_some_and(|code| code.is_eip7702());
    for (address, change) in &diff.accounts {
        let had = before.account(*address).unwrap_or_default();
        let had_code = had.is_some_and(|account| account.has_code());
        let code = change.account.filter(|account| account.has_code());
        tally.destroyed += u64::from(change.account.is_none());
        tally.created += u64::from(code.is_some() && !had_code);
        tally.cleared += change.slots.values().filter(|value| value.is_zero()).count() as u64;
        match code {
            Some(account) if is_delegation(account.code_hash) => tally.note(Kind::Delegated),
            None if had_code && change.account.is_some() => tally.note(Kind::Undelegated),
            Some(_) | None => (),
        }
    }
    let large = diff.codes.values().filter(|code| code.original_byte_slice().len() > LARGE);
    large.for_each(|_| tally.note(Kind::LargeCode));
    for kind in requests.iter().filter_map(|request| request.first()) {
        *tally.requests.entry(*kind).or_default() += 1;
    }
}
