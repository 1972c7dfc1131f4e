//! The builder's pool with [`TRANSACTIONS`] transactions in it, beside the least that holds them.
//!
//! Ours: each is checked (nonce, fees, balance, limits) and taken; then all of them are given in the
//! order of their tips, each sender's in the order of their nonces; then all of them are canonical.
//! The limit does the same without a check: a map of queues by sender, and a heap of their heads.
//! Both sides give the same transactions in the same order.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    time::Duration,
};

use alloy_consensus::Transaction as _;
use alloy_primitives::{Address, B256};
use preconf_assembly::{Pool, PoolLimits};
use preconf_chain::Transaction;
use preconf_state::StateReader as _;

use crate::{
    clock::on_this_thread,
    measure::{Rounds, Wrong, each, same},
    report::Row,
    world::{Recipient, World},
};

const TRANSACTIONS: usize = 100_000;
/// Each of the world's thousand senders has a hundred.
const PER_SENDER: usize = 100;

/// How long each part took.
struct Took {
    insertion: Duration,
    selection: Duration,
    removal: Duration,
}

pub(crate) fn measure(rounds: Rounds) -> Result<Vec<Row>, Wrong> {
    let mut world = World::new();
    let transactions: Vec<_> =
        (0..TRANSACTIONS).map(|at| world.transfer(at, Recipient::Existing(0))).collect();
    let base_fee = world.next_block().base_fee_per_gas;
    let mut order = Vec::new();
    let ours = || {
        let (took, given) = ours(&world, &transactions, base_fee)?;
        order = given;
        Ok(took)
    };
    let mut theirs = Vec::new();
    let limit = || {
        let (took, given) = limit(&transactions, base_fee);
        theirs = given;
        Ok(took)
    };
    let (ours, limit) = rounds.interleave(ours, limit)?;
    same("the number of transactions", &order.len(), &TRANSACTIONS)?;
    same("the transactions in their order", &order, &theirs)?;

    let row = |name, part: fn(&Took) -> Duration| {
        Row::rate(name, TRANSACTIONS, &each(&ours, part)).beside(TRANSACTIONS, &each(&limit, part))
    };
    Ok(vec![
        row("take 100,000 into the pool", |took| took.insertion),
        row("give 100,000 in order", |took| took.selection),
        row("100,000 become canonical", |took| took.removal),
    ])
}

fn ours(
    world: &World,
    transactions: &[Transaction],
    base_fee: u64,
) -> Result<(Took, Vec<B256>), Wrong> {
    let limits = PoolLimits {
        transactions: TRANSACTIONS,
        per_sender: PER_SENDER,
        nonce_gap: PER_SENDER as u64,
        ..PoolLimits::default()
    };
    let mut pool = Pool::new(limits);
    let accounts: Result<Vec<_>, _> =
        transactions.iter().map(|sent| world.state.account(sent.signer())).collect();
    let accounts = accounts.map_err(|need| Wrong(need.to_string()))?;
    let (insertion, taken) = on_this_thread(|| {
        let mut all = transactions.iter().zip(accounts);
        all.try_for_each(|(sent, account)| pool.insert(sent.clone(), account).map(drop))
    });
    taken.map_err(|refused| Wrong(format!("what is taken: {refused:?}")))?;
    let (selection, given) = on_this_thread(|| {
        let mut given = Vec::with_capacity(TRANSACTIONS);
        let mut selection = pool.select(base_fee);
        while let Some(sent) = selection.next(&pool) {
            selection.included(&pool, sent.signer(), sent.envelope().nonce());
            given.push(*sent.hash());
        }
        given
    });
    let (removal, ()) = on_this_thread(|| {
        for sent in transactions {
            pool.mined(&sent.signer(), sent.envelope().nonce());
        }
    });
    same("what is left", &pool.len(), &0)?;
    Ok((Took { insertion, selection, removal }, given))
}

fn limit(transactions: &[Transaction], base_fee: u64) -> (Took, Vec<B256>) {
    // Each with its arrival, which decides between equal tips.
    let mut queues = HashMap::<Address, VecDeque<(usize, Transaction)>>::new();
    let (insertion, ()) = on_this_thread(|| {
        for (arrival, sent) in transactions.iter().enumerate() {
            queues.entry(sent.signer()).or_default().push_back((arrival, sent.clone()));
        }
    });
    let (selection, given) = on_this_thread(|| {
        let mut given = Vec::with_capacity(TRANSACTIONS);
        let mut positions = HashMap::<Address, usize>::with_capacity(queues.len());
        let head = |(arrival, sent): &(usize, Transaction)| {
            (tip(sent, base_fee), Reverse(*arrival), sent.signer())
        };
        let mut heads: BinaryHeap<_> =
            queues.values().filter_map(VecDeque::front).map(head).collect();
        while let Some((_, _, sender)) = heads.pop() {
            let Some(queue) = queues.get(&sender) else { continue };
            let at = positions.entry(sender).or_default();
            given.push(*queue[*at].1.hash());
            *at += 1;
            heads.extend(queue.get(*at).map(head));
        }
        given
    });
    let (removal, ()) = on_this_thread(|| {
        for sent in transactions {
            if let Some(queue) = queues.get_mut(&sent.signer()) {
                queue.pop_front();
            }
        }
    });
    (Took { insertion, selection, removal }, given)
}

fn tip(sent: &Transaction, base_fee: u64) -> u128 {
    sent.envelope().effective_tip_per_gas(base_fee).unwrap_or_default()
}
