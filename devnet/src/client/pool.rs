//! The transactions that this client would put into a block of its own.
//!
//! The rules are those of [`Pool`]; added here is what only somebody with the chain at hand can
//! do: refuse what no block can hold, list what waits, and take back what a reorg set free.

use std::collections::BTreeMap;

use alloy_consensus::Transaction as _;
use alloy_primitives::{Address, B256};
use preconf_assembly::{Pool, PoolLimits, Selection};
use preconf_chain::Transaction;
use preconf_primitives::{TransactionRefusal, TransactionRefusalReason as Reason};
use preconf_state::Account;

/// No transaction uses less gas.
const LEAST_GAS: u64 = 21_000;

/// How many entries of the list may be out of date before it is tidied.
const UNTIDY: usize = 1_024;

/// The transactions that wait.
#[derive(Debug)]
pub(crate) struct TransactionPool {
    limits: PoolLimits,
    pool: Pool,
    /// What was taken, by sender and nonce; the pool itself may have dropped some of it since.
    taken: BTreeMap<(Address, u64), B256>,
}

impl TransactionPool {
    pub(crate) fn new(limits: PoolLimits) -> Self {
        Self { limits, pool: Pool::new(limits), taken: BTreeMap::new() }
    }

    /// Takes a transaction that could be executed in a block with this gas limit.
    pub(crate) fn insert(
        &mut self,
        transaction: Transaction,
        account: Option<Account>,
        chain_id: u64,
        block_gas_limit: u64,
    ) -> Result<B256, TransactionRefusal> {
        check(&transaction, chain_id, block_gas_limit)?;
        let place = (transaction.signer(), transaction.envelope().nonce());
        let hash = self.pool.insert(transaction, account)?;
        self.taken.insert(place, hash);
        if self.taken.len() > 2 * self.pool.len() + UNTIDY {
            self.taken.retain(|_, hash| self.pool.get(hash).is_some());
        }
        Ok(hash)
    }

    pub(crate) fn get(&self, hash: &B256) -> Option<&Transaction> {
        self.pool.get(hash)
    }

    pub(crate) fn next_nonce(&self, sender: &Address) -> Option<u64> {
        self.pool.next_nonce(sender)
    }

    pub(crate) fn remove(&mut self, transaction: &Transaction) {
        self.pool.remove(&transaction.signer(), transaction.envelope().nonce());
    }

    /// A canonical block holds this transaction.
    pub(crate) fn mined(&mut self, transaction: &Transaction) {
        self.pool.mined(&transaction.signer(), transaction.envelope().nonce());
    }

    /// The account of `sender` turned out to have this nonce: go on from there.
    pub(crate) fn used_below(&mut self, selection: &mut Selection, sender: &Address, nonce: u64) {
        if let Some(last) = nonce.checked_sub(1) {
            self.pool.mined(sender, last);
            selection.arrived(&self.pool, *sender, nonce);
        }
    }

    pub(crate) fn select(&self, base_fee: u64) -> Selection {
        self.pool.select(base_fee)
    }

    pub(crate) fn next(&self, selection: &mut Selection) -> Option<Transaction> {
        selection.next(&self.pool)
    }

    pub(crate) fn included(&self, selection: &mut Selection, transaction: &Transaction) {
        selection.included(&self.pool, transaction.signer(), transaction.envelope().nonce());
    }

    /// Whatever waits, by sender and nonce; with each, whether nothing is missing before it.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = (&Transaction, bool)> {
        self.taken.iter().filter_map(|((sender, nonce), hash)| {
            let transaction = self.pool.get(hash)?;
            let ready = self.pool.next_nonce(sender).is_some_and(|next| *nonce < next);
            Some((transaction, ready))
        })
    }

    /// Begins anew after a reorg: with what waits and with what is no longer in a block, as far as
    /// it still can be executed on the new head.
    pub(crate) fn rebuild(
        &mut self,
        set_free: Vec<Transaction>,
        account: impl Fn(Address) -> Option<Account>,
        chain_id: u64,
        block_gas_limit: u64,
    ) {
        let mut all: BTreeMap<(Address, u64), Transaction> =
            set_free.into_iter().map(keyed).collect();
        all.extend(self.waiting().map(|(transaction, _)| keyed(transaction.clone())));
        *self = Self::new(self.limits);
        for ((sender, _), transaction) in all {
            // Whatever is refused here is invalid on this branch.
            self.insert(transaction, account(sender), chain_id, block_gas_limit).ok();
        }
    }
}

fn keyed(transaction: Transaction) -> ((Address, u64), Transaction) {
    ((transaction.signer(), transaction.envelope().nonce()), transaction)
}

fn check(
    transaction: &Transaction,
    chain_id: u64,
    block_gas_limit: u64,
) -> Result<(), TransactionRefusal> {
    let envelope = transaction.envelope();
    let refuse = |reason, detail| Err(TransactionRefusal::new(reason, detail));
    if let Some(id) = envelope.chain_id()
        && id != chain_id
    {
        return refuse(Reason::WrongChain, format!("have {id}, want {chain_id}"));
    }
    let gas = envelope.gas_limit();
    if gas < LEAST_GAS {
        return refuse(
            Reason::IntrinsicGasTooLow,
            format!("gas {gas}, minimum needed {LEAST_GAS}"),
        );
    }
    if gas > block_gas_limit {
        return refuse(Reason::GasLimitTooHigh, format!("gas {gas}, limit {block_gas_limit}"));
    }
    Ok(())
}
