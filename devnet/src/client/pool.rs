//! The transactions that this client would put into a block of its own.
//!
//! The rules are those of [`Pool`]; added here is what only somebody with the chain at hand can
//! do: refuse what no block can hold, take blob transactions, list what waits, and take back what
//! a reorg set free.

use std::collections::BTreeMap;
use std::sync::Arc;

use alloy_consensus::Transaction as _;
use alloy_primitives::{Address, B256, U256};
use preconf_assembly::{DropCause, Pool, PoolLimits, Selection};
use preconf_chain::{ChainSpec, Header, Transaction};
use preconf_primitives::{TransactionRefusal, TransactionRefusalReason as Reason};
use preconf_state::Account;

use super::blobs::{BlobPlace, BlobPool, Sidecar};

/// No transaction uses less gas.
const LEAST_GAS: u64 = 21_000;

/// How many entries of the list may be out of date before it is tidied.
const UNTIDY: usize = 1_024;

/// What the chain would take at its head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    chain_id: u64,
    block_gas_limit: u64,
    /// The most blobs of one transaction; none before Cancun.
    blobs: Option<u64>,
    /// Whether blobs come with proofs of their cells (EIP-7594).
    cell_proofs: bool,
}

impl Rules {
    pub(crate) fn of(spec: &ChainSpec, head: &Header) -> Self {
        let params = spec.blob_params_at(head.timestamp);
        Self {
            chain_id: spec.chain_id(),
            block_gas_limit: head.gas_limit,
            blobs: params.map(|params| params.max_blobs_per_tx.min(params.max_blob_count)),
            cell_proofs: spec.has_cell_proofs_at(head.timestamp),
        }
    }
}

/// The transactions that wait.
#[derive(Debug)]
pub(crate) struct TransactionPool {
    limits: PoolLimits,
    pool: Pool,
    blobs: BlobPool,
    /// What was taken, by sender and nonce; the pool itself may have dropped some of it since.
    taken: BTreeMap<(Address, u64), B256>,
}

impl TransactionPool {
    pub(crate) fn new(limits: PoolLimits) -> Self {
        let (pool, blobs) = (Pool::new(limits), BlobPool::default());
        Self { limits, pool, blobs, taken: BTreeMap::new() }
    }

    /// Takes a transaction that could be executed in a block.
    pub(crate) fn insert(
        &mut self,
        transaction: Transaction,
        account: Option<Account>,
        rules: Rules,
    ) -> Result<B256, TransactionRefusal> {
        check(&transaction, rules)?;
        let place = place(&transaction);
        if self.blobs.at(&place).is_some() {
            let detail = "a blob transaction with this nonce waits".to_owned();
            return Err(TransactionRefusal::new(Reason::ReplacementUnderpriced, detail));
        }
        let hash = self.pool.insert(transaction, account)?;
        self.taken.insert(place, hash);
        if self.taken.len() > 2 * self.pool.len() + UNTIDY {
            self.taken.retain(|_, hash| self.pool.get(hash).is_some());
        }
        Ok(hash)
    }

    /// Takes a blob transaction whose sidecar was checked. It is never replaced.
    pub(crate) fn insert_blobs(
        &mut self,
        transaction: Transaction,
        sidecar: Arc<Sidecar>,
        account: Option<Account>,
        rules: Rules,
    ) -> Result<B256, TransactionRefusal> {
        check(&transaction, rules)?;
        check_blobs(&transaction, &sidecar, rules)?;
        let refuse = |reason, detail: String| Err(TransactionRefusal::new(reason, detail));
        let (hash, place) = (*transaction.hash(), place(&transaction));
        let Account { nonce, balance, .. } = account.unwrap_or_default();
        if place.1 < nonce {
            return refuse(Reason::NonceTooLow, format!("next nonce {nonce}, nonce {}", place.1));
        }
        if place.1 - nonce > self.limits.nonce_gap {
            let detail = format!("next nonce {nonce}, nonce {}", place.1);
            return refuse(Reason::NonceGapTooLarge, detail);
        }
        if cost(&transaction).is_none_or(|cost| cost > balance) {
            return refuse(
                Reason::InsufficientFunds,
                format!("address {} have {balance}", place.0),
            );
        }
        if self.get(&hash).is_some() {
            return refuse(Reason::AlreadyKnown, String::new());
        }
        let waiting = self.taken.get(&place).and_then(|hash| self.pool.get(hash));
        if waiting.is_some() || self.blobs.at(&place).is_some() {
            let detail = "a transaction with this nonce waits".to_owned();
            return refuse(Reason::ReplacementUnderpriced, detail);
        }
        if self.blobs.is_full() {
            return refuse(Reason::PoolFull, "blob transactions".to_owned());
        }
        self.blobs.insert(place, transaction, sidecar);
        Ok(hash)
    }

    pub(crate) fn get(&self, hash: &B256) -> Option<&Transaction> {
        self.pool.get(hash).or_else(|| self.blobs.get(hash).map(|(transaction, _)| transaction))
    }

    /// The blobs of a transaction that waits.
    pub(crate) fn sidecar(&self, hash: &B256) -> Option<Arc<Sidecar>> {
        self.blobs.get(hash).map(|(_, sidecar)| sidecar.clone())
    }

    /// The blob with this hash, if it waits.
    pub(crate) fn blob(&self, versioned_hash: &B256) -> Option<BlobPlace> {
        self.blobs.blob(versioned_hash)
    }

    /// The nonce after what waits of a sender whose account has this one.
    pub(crate) fn next_nonce(&self, sender: Address, account_nonce: u64) -> u64 {
        let waits = |nonce: &u64| self.waits(&(sender, *nonce));
        (account_nonce..).find(|nonce| !waits(nonce)).unwrap_or(account_nonce)
    }

    pub(crate) fn remove(&mut self, transaction: &Transaction) {
        let nonce = transaction.envelope().nonce();
        self.pool.remove(&transaction.signer(), nonce, DropCause::Invalid);
    }

    /// A canonical block holds this transaction.
    pub(crate) fn mined(&mut self, transaction: &Transaction) {
        let (sender, nonce) = place(transaction);
        self.pool.mined(&sender, nonce);
        self.blobs.mined(&sender, nonce);
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

    /// The blob transactions, each sender's in the order of their nonces.
    pub(crate) fn blob_transactions(&self) -> Vec<Transaction> {
        self.blobs.iter().map(|(_, transaction)| transaction.clone()).collect()
    }

    /// Whatever waits, by sender and nonce.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &Transaction> {
        let plain = self.taken.values().filter_map(|hash| self.pool.get(hash));
        plain.chain(self.blobs.iter().map(|(_, transaction)| transaction))
    }

    /// Begins anew after a reorg: with what waits and with what is no longer in a block, as far as
    /// it still can be executed on the new head.
    pub(crate) fn rebuild(
        &mut self,
        set_free: Vec<Transaction>,
        account: impl Fn(Address) -> Option<Account>,
        rules: Rules,
    ) {
        let keyed = |transaction: &Transaction| (place(transaction), transaction.clone());
        let mut all: BTreeMap<_, _> = set_free.iter().map(keyed).collect();
        all.extend(self.taken.values().filter_map(|hash| self.pool.get(hash)).map(keyed));
        let blobs = std::mem::take(&mut self.blobs);
        *self = Self { blobs, ..Self::new(self.limits) };
        for ((sender, _), transaction) in all {
            // Whatever is refused here is invalid on this branch.
            self.insert(transaction, account(sender), rules).ok();
        }
        let senders: Vec<Address> = self.blobs.iter().map(|((sender, _), _)| *sender).collect();
        for sender in senders {
            if let Some(last) = account(sender).and_then(|account| account.nonce.checked_sub(1)) {
                self.blobs.mined(&sender, last);
            }
        }
    }

    fn waits(&self, place: &(Address, u64)) -> bool {
        let plain = self.taken.get(place).is_some_and(|hash| self.pool.get(hash).is_some());
        plain || self.blobs.at(place).is_some()
    }
}

fn place(transaction: &Transaction) -> (Address, u64) {
    (transaction.signer(), transaction.envelope().nonce())
}

fn check(transaction: &Transaction, rules: Rules) -> Result<(), TransactionRefusal> {
    let envelope = transaction.envelope();
    let refuse = |reason, detail| Err(TransactionRefusal::new(reason, detail));
    if let Some(id) = envelope.chain_id()
        && id != rules.chain_id
    {
        return refuse(Reason::WrongChain, format!("have {id}, want {}", rules.chain_id));
    }
    let gas = envelope.gas_limit();
    if gas < LEAST_GAS {
        return refuse(
            Reason::IntrinsicGasTooLow,
            format!("gas {gas}, minimum needed {LEAST_GAS}"),
        );
    }
    let limit = rules.block_gas_limit;
    if gas > limit {
        return refuse(Reason::GasLimitTooHigh, format!("gas {gas}, limit {limit}"));
    }
    Ok(())
}

fn check_blobs(
    transaction: &Transaction,
    sidecar: &Sidecar,
    rules: Rules,
) -> Result<(), TransactionRefusal> {
    let refuse = |detail: String| Err(TransactionRefusal::new(Reason::UnsupportedType, detail));
    let Some(most) = rules.blobs else {
        return refuse("there are no blobs before Cancun".to_owned());
    };
    let blobs = transaction.envelope().blob_count().unwrap_or_default();
    if blobs == 0 || blobs > most {
        return refuse(format!("{blobs} blobs, of 1 to {most}"));
    }
    match (sidecar, rules.cell_proofs) {
        (Sidecar::Eip4844(_), false) | (Sidecar::Eip7594(_), true) => Ok(()),
        (Sidecar::Eip4844(_), true) => refuse("the sidecar has no proofs of cells".to_owned()),
        (Sidecar::Eip7594(_), false) => refuse("the sidecar has proofs of cells".to_owned()),
    }
}

/// The most that a blob transaction can cost its sender; `None` above 2^256 − 1.
fn cost(transaction: &Transaction) -> Option<U256> {
    let envelope = transaction.envelope();
    let gas = U256::from(envelope.gas_limit());
    let gas = gas.checked_mul(U256::from(envelope.max_fee_per_gas()))?;
    let blob_gas = U256::from(envelope.blob_gas_used().unwrap_or_default());
    let blob_fee = U256::from(envelope.max_fee_per_blob_gas().unwrap_or_default());
    let blob_gas = blob_gas.checked_mul(blob_fee)?;
    gas.checked_add(blob_gas)?.checked_add(envelope.value())
}
