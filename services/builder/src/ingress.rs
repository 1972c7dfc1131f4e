//! Where transactions come in: decoded and checked here, taken by the pool on the build thread.
//!
//! They come from overlays, and out of the execution client's pool, where its peers and its own RPC
//! put them; that client does not say what blobs go with a transaction, so those with blobs come
//! from overlays only.
//!
//! Blobs are large, and their proofs take milliseconds each: only [`BLOBS_AT_ONCE`] transactions
//! with blobs are looked at, a further one is refused at once, and the proofs of [`PROVED_AT_ONCE`]
//! are checked, away from the runtime, of those that are fine otherwise. If the head does not show that
//! the sender can pay, they are checked only while nobody else waits for that.
//!
//! Every wait has its deadline: for a place, for the sender's account (the upstream's own), for the
//! proofs, and for the build thread. Who is refused because one of them is over may offer the transaction again.

use std::{sync::Arc, time::Duration};

use alloy_consensus::Transaction as _;
use alloy_primitives::{Address, B256, Bytes};
use futures_util::StreamExt as _;
use preconf_assembly::{
    SidecarError, Submission, Unproved, check_gas_limit, check_sender, is_blob_transaction,
};
use preconf_chain::{InvalidTransaction, Transaction};
use preconf_chassis::Backoff;
use preconf_primitives::{TransactionRefusal, TransactionRefusalReason as Reason};
use preconf_state::{Account, Key, StateReader};
use preconf_upstream::{Upstream, UpstreamError};
use preconf_wire::ingress::IngressService;
use tokio::{
    sync::{Semaphore, SemaphorePermit, oneshot},
    task::spawn_blocking,
    time::timeout,
};
use tracing::debug;

use crate::{
    build::Order,
    sequencer::{HeadState, Sequencer},
    speculation::Speculation,
};

/// How many requests are served at once; more wait for [`PLACE`].
const AT_ONCE: usize = 1_024;
/// How many transactions of the execution client's pool are looked at at once; the others wait
/// there.
const POOL_AT_ONCE: usize = 64;
/// How often such a transaction is tried for which there is no room or no time.
const POOL_ATTEMPTS: usize = 4;
/// How many transactions with blobs are looked at at once, each of a megabyte or so.
const BLOBS_AT_ONCE: usize = 64;
/// Of how many the proofs are checked at once. It takes a core, and goes faster than any chain takes
/// blobs.
const PROVED_AT_ONCE: usize = 1;
/// How long a transaction may wait for its proofs to be looked at.
const PROOFS: Duration = Duration::from_secs(2);
/// How many transactions are on their way to the execution client; further ones are not handed on.
const SHARED_AT_ONCE: usize = 256;
/// How long the answer to whoever sent a transaction may wait for that.
const SHARED: Duration = Duration::from_millis(250);
/// How long a request may wait for its place.
const PLACE: Duration = Duration::from_millis(500);
/// How long the build thread may take to answer.
const ANSWER: Duration = Duration::from_secs(1);

/// The builder's ingress.
pub(crate) struct Ingress {
    sequencer: Arc<Sequencer>,
    speculation: Speculation,
    room: Semaphore,
    blobs: Semaphore,
    provers: Semaphore,
    /// Turns to hand transactions to the execution client; none if they are kept private.
    sharing: Option<Arc<Semaphore>>,
}

impl Ingress {
    pub(crate) fn new(
        sequencer: Arc<Sequencer>,
        speculation: Speculation,
        keeps_private: bool,
    ) -> Self {
        let [room, blobs, provers] = [AT_ONCE, BLOBS_AT_ONCE, PROVED_AT_ONCE].map(Semaphore::new);
        let sharing = (!keeps_private).then(|| Arc::new(Semaphore::new(SHARED_AT_ONCE)));
        Self { sequencer, speculation, room, blobs, provers, sharing }
    }

    /// Hands a transaction to the execution client as well: so its own blocks, which are the
    /// fallback, hold it, and it is not lost with this process. Whoever sent it is told that it was
    /// taken when that is done, or has taken longer than [`SHARED`]; it is built in meanwhile.
    async fn share(&self, encoded: Bytes) {
        let Some(sharing) = &self.sharing else { return };
        let Ok(turn) = sharing.clone().try_acquire_owned() else {
            return self.sequencer.metrics.shared("no_turn");
        };
        let sequencer = self.sequencer.clone();
        let shared = tokio::spawn(async move {
            let _turn = turn;
            let outcome = match sequencer.fetcher.upstream().send_raw_transaction(&encoded).await {
                Ok(_) => "taken",
                // It has it already, or does not want it.
                Err(UpstreamError::Refused { .. }) => "refused",
                Err(error) => {
                    debug!(error = &error as &dyn std::error::Error, "was not handed on");
                    "failed"
                }
            };
            sequencer.metrics.shared(outcome);
        });
        // It goes on when nobody waits any more.
        let _ = timeout(SHARED, shared).await;
    }

    /// Takes what is in the execution client's pool and what comes into it, until it is dropped.
    pub(crate) async fn follow_pool(&self, upstream: Upstream) {
        // Nothing can be looked at before the head is known, and what is there is said only once.
        let mut head = self.sequencer.head.subscribe();
        if head.wait_for(Option::is_some).await.is_err() {
            return;
        }
        let taken = upstream.pool().for_each_concurrent(POOL_AT_ONCE, |encoded| async {
            let outcome = self.take_patiently(encoded).await;
            self.count("execution_client", &outcome);
        });
        taken.await;
    }

    /// Takes a transaction, if need be when there is room again.
    async fn take_patiently(&self, encoded: Bytes) -> Result<B256, TransactionRefusal> {
        let mut backoff = Backoff::new();
        for _ in 1..POOL_ATTEMPTS {
            match self.take(encoded.clone()).await {
                Err(refusal) if refusal.reason == Reason::PoolFull => backoff.wait().await,
                outcome => return outcome,
            }
        }
        self.take(encoded).await
    }

    fn count(&self, source: &'static str, outcome: &Result<B256, TransactionRefusal>) {
        let label = outcome.as_ref().map_or_else(|refusal| refusal.reason.as_str(), |_| "accepted");
        self.sequencer.metrics.submission(source, label);
    }

    async fn take(&self, encoded: Bytes) -> Result<B256, TransactionRefusal> {
        if is_blob_transaction(&encoded) {
            return self.take_with_blobs(encoded).await;
        }
        let transaction = Transaction::decode(encoded).map_err(malformed)?;
        let head = self.check(&transaction)?;
        let account = self.account(&head.cache, transaction.signer()).await?;
        self.give(transaction.into(), account).await
    }

    async fn take_with_blobs(&self, encoded: Bytes) -> Result<B256, TransactionRefusal> {
        let Ok(_place) = self.blobs.try_acquire() else {
            return Err(not_ready("too many transactions with blobs wait"));
        };
        let decoded = blocking(move || Unproved::decode(&encoded)).await?;
        let unproved = decoded.map_err(|error| not_proved(&error))?;
        let transaction = unproved.transaction();
        let head = self.check(transaction)?;
        unproved.check_blobs(&self.sequencer.spec, head.header.timestamp + 1)?;
        let account = self.account(&head.cache, transaction.signer()).await?;
        let patience = match check_sender(transaction, account.as_ref()) {
            Ok(()) => PROOFS,
            // The block in the making may have paid its sender, as the pool knows. Who cannot pay
            // delays nobody who can.
            Err(refusal) if refusal.reason == Reason::InsufficientFunds => Duration::ZERO,
            Err(refusal) => return Err(refusal),
        };
        let submission = self.prove(unproved, patience).await?;
        self.give(submission, account).await
    }

    /// Checks the proofs, if its turn comes in this time.
    async fn prove(
        &self,
        unproved: Unproved,
        patience: Duration,
    ) -> Result<Submission, TransactionRefusal> {
        match timeout(patience, self.provers.acquire()).await {
            Ok(Ok(_prover)) => {
                let proved = blocking(move || unproved.prove()).await?;
                proved.map_err(|error| not_proved(&error))
            }
            Ok(Err(_)) => Err(not_ready("the builder is stopping")),
            Err(_) => Err(not_ready("too many proofs of blobs wait to be checked")),
        }
    }

    /// Gives a transaction to the pool.
    async fn give(
        &self,
        submission: Submission,
        account: Option<Account>,
    ) -> Result<B256, TransactionRefusal> {
        let ahead = submission.transaction().clone();
        // Before it is in a flashblock.
        self.sequencer.submissions.remember(*ahead.hash());
        let taken = self.ask(|answer| Order::Submit { submission, account, answer }).await??;
        self.speculation.consider(&ahead);
        Ok(taken)
    }

    /// Refuses what no block on the head can hold. Returns that head.
    fn check(&self, transaction: &Transaction) -> Result<HeadState, TransactionRefusal> {
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
        // As the next block will count, whose fork is that of the head or a later one.
        let (number, timestamp) = (head.header.number + 1, head.header.timestamp + 1);
        check_gas_limit(&self.sequencer.spec, number, timestamp, transaction)?;
        Ok(head)
    }

    async fn place(&self) -> Result<SemaphorePermit<'_>, TransactionRefusal> {
        match timeout(PLACE, self.room.acquire()).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) => Err(not_ready("the builder is stopping")),
            Err(_) => Err(not_ready("too many requests wait")),
        }
    }

    /// What the build thread answers, if it does so in time. An order that it comes to later is not
    /// carried out.
    async fn ask<T>(
        &self,
        order: impl FnOnce(oneshot::Sender<T>) -> Order,
    ) -> Result<T, TransactionRefusal> {
        let (answer, answered) = oneshot::channel();
        let offered = self.sequencer.orders.offer(order(answer));
        offered.map_err(|error| not_ready(&error.to_string()))?;
        match timeout(ANSWER, answered).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(not_ready("the builder is stopping")),
            Err(_) => Err(not_ready("the build thread did not answer in time")),
        }
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
        let outcome = match self.place().await {
            Ok(_place) => self.take(transaction.clone()).await,
            Err(refusal) => Err(refusal),
        };
        self.count("ingress", &outcome);
        if outcome.is_ok() {
            self.share(transaction).await;
        }
        outcome
    }

    async fn transaction(&self, hash: B256) -> Option<Bytes> {
        let _place = self.place().await.ok()?;
        self.ask(|answer| Order::Find { hash, answer }).await.ok().flatten()
    }

    async fn next_nonce(&self, sender: Address) -> Option<u64> {
        let _place = self.place().await.ok()?;
        self.ask(|answer| Order::NextNonce { sender, answer }).await.ok().flatten()
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

/// Why a transaction is not taken for what is wrong with its blobs.
fn not_proved(error: &SidecarError) -> TransactionRefusal {
    let reason = match error {
        SidecarError::Missing => Reason::UnsupportedType,
        SidecarError::Transaction(InvalidTransaction::TooLong { .. }) => Reason::Oversized,
        SidecarError::Decode(_)
        | SidecarError::Transaction(_)
        | SidecarError::Count
        | SidecarError::Commitment { .. }
        | SidecarError::Kzg(_)
        | SidecarError::Proof => Reason::Malformed,
    };
    TransactionRefusal::new(reason, error.to_string())
}

/// Runs work that takes longer than the runtime should wait.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, TransactionRefusal> {
    spawn_blocking(work).await.map_err(|_| not_ready("the builder failed to look at it"))
}

/// There is no room now; it may be offered again.
fn not_ready(why: &str) -> TransactionRefusal {
    TransactionRefusal::new(Reason::PoolFull, format!("{why}: send it again"))
}
