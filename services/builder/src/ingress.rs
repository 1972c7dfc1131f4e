//! Where transactions come in: decoded and checked here, taken by the pool on the build thread.

use std::sync::Arc;

use alloy_consensus::Transaction as _;
use alloy_primitives::{Address, B256, Bytes};
use preconf_chain::{InvalidTransaction, Transaction};
use preconf_primitives::{TransactionRefusal, TransactionRefusalReason as Reason};
use preconf_state::{Account, Key, StateReader};
use preconf_wire::ingress::IngressService;
use tokio::sync::{Semaphore, oneshot};

use crate::{build::Order, sequencer::Sequencer};

/// How many requests are served at once; more wait in their connections.
const AT_ONCE: usize = 1_024;

/// The builder's ingress.
pub(crate) struct Ingress {
    sequencer: Arc<Sequencer>,
    room: Semaphore,
}

impl Ingress {
    pub(crate) fn new(sequencer: Arc<Sequencer>) -> Self {
        Self { sequencer, room: Semaphore::new(AT_ONCE) }
    }

    async fn take(&self, encoded: Bytes) -> Result<B256, TransactionRefusal> {
        let transaction = Transaction::decode(encoded).map_err(malformed)?;
        let envelope = transaction.envelope();
        let chain_id = self.sequencer.spec.chain_id();
        if envelope.chain_id().is_some_and(|signed| signed != chain_id) {
            let detail = format!("have {} want {chain_id}", envelope.chain_id().unwrap_or(0));
            return Err(TransactionRefusal::new(Reason::WrongChain, detail));
        }
        let head = self.sequencer.head.borrow().clone();
        let head = head.ok_or_else(|| not_ready("the execution client has not answered yet"))?;
        if envelope.gas_limit() > head.header.gas_limit {
            let detail = format!("gas {}, limit {}", envelope.gas_limit(), head.header.gas_limit);
            return Err(TransactionRefusal::new(Reason::GasLimitTooHigh, detail));
        }
        let account = self.account(&head.cache, transaction.signer()).await?;
        let (answer, answered) = oneshot::channel();
        let order = Order::Submit { transaction, account, answer };
        self.sequencer.orders.give(order).map_err(|error| not_ready(&error.to_string()))?;
        answered.await.unwrap_or_else(|_| Err(not_ready("the builder is stopping")))
    }

    async fn account(
        &self,
        cache: &preconf_state::StateCache,
        address: Address,
    ) -> Result<Option<Account>, TransactionRefusal> {
        let keys = [Key::Account(address)];
        if let Err(error) = self.sequencer.fetcher.ensure(cache, &keys).await {
            return Err(not_ready(&error.to_string()));
        }
        cache.account(address).map_err(|_| not_ready("the sender's account is not in memory"))
    }
}

impl IngressService for Ingress {
    async fn submit(&self, transaction: Bytes) -> Result<B256, TransactionRefusal> {
        let _room = self.room.acquire().await.map_err(|_| not_ready("the builder is stopping"))?;
        let outcome = self.take(transaction).await;
        let label = outcome.as_ref().map_or_else(|refusal| refusal.reason.as_str(), |_| "accepted");
        self.sequencer.metrics.submission(label);
        outcome
    }

    async fn transaction(&self, hash: B256) -> Option<Bytes> {
        let _room = self.room.acquire().await.ok()?;
        let (answer, answered) = oneshot::channel();
        self.sequencer.orders.give(Order::Find { hash, answer }).ok()?;
        answered.await.ok().flatten()
    }

    async fn next_nonce(&self, sender: Address) -> Option<u64> {
        let _room = self.room.acquire().await.ok()?;
        let (answer, answered) = oneshot::channel();
        self.sequencer.orders.give(Order::NextNonce { sender, answer }).ok()?;
        answered.await.ok().flatten()
    }
}

fn malformed(error: InvalidTransaction) -> TransactionRefusal {
    let reason = match error {
        InvalidTransaction::TooLong { .. } => Reason::Oversized,
        InvalidTransaction::Reserved
        | InvalidTransaction::UnsupportedType(_)
        | InvalidTransaction::BlobSidecar => Reason::UnsupportedType,
        InvalidTransaction::Empty
        | InvalidTransaction::Malformed(_)
        | InvalidTransaction::TrailingBytes { .. }
        | InvalidTransaction::NotCanonical
        | InvalidTransaction::Signature(_) => Reason::Malformed,
    };
    TransactionRefusal::new(reason, error.to_string())
}

/// There is no room now; it may be offered again.
fn not_ready(why: &str) -> TransactionRefusal {
    TransactionRefusal::new(Reason::PoolFull, why)
}
