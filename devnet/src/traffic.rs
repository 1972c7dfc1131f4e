//! Mixed traffic through the overlay, each transaction followed from the wallet to the chain.
//!
//! Of every transaction is measured how long it takes from being sent to the first receipt at the
//! overlay, asked for every [`POLL`]. If the RPC node did not have the block then, so that the
//! overlay cannot have the receipt from there, it is kept, and compared with what the RPC node says
//! once the block is canonical, and with what the overlay says then. A receipt that came later is
//! counted as late and proves nothing.
//!
//! Bounds: at most [`AT_ONCE`] transactions are followed; when that many are, none is sent. If more
//! than [`AT_FULL_RATE`] wait for a receipt, each is asked for less often, so that asking does not
//! become the load that is measured; what is measured then is at most that much too long. For the
//! same reason a block's receipts, which could all be compared at once, are compared
//! [`COMPARED_AT_ONCE`] at a time; the others wait.

mod compare;
pub mod contracts;
mod follow;
mod wallet;

use std::{sync::Arc, time::Duration};

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_signer_local::PrivateKeySigner;
use preconf_chassis::Chain;
use tokio::{
    sync::{Mutex, Semaphore, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};

use crate::{
    rpc::{Rpc, RpcFailure},
    samples::Samples,
};

pub use compare::{Difference, preconfirmed_and_canonical, same};
pub use wallet::Intent;

use follow::{Follower, Seen, Verdict};

/// How often a receipt is asked for.
pub const POLL: Duration = Duration::from_millis(5);
/// How many receipts are asked for that often.
const AT_FULL_RATE: usize = 10;
/// How many transactions are followed at once.
const AT_ONCE: usize = 2_048;
/// How many receipts are compared at once.
const COMPARED_AT_ONCE: usize = 16;
/// How long a transaction may be without a receipt before it counts as unanswered.
const UNANSWERED: Duration = Duration::from_secs(30);
/// How long somebody waits before it hands in the same transaction again.
const RESEND: Duration = Duration::from_millis(100);
/// How long comparisons under way may take at the end.
const LAST_COMPARISONS: Duration = Duration::from_secs(15);
/// How many failures and how many refusals are told in words; all are counted.
const TOLD: usize = 10;
/// What each account has of the token.
const TOKENS: u64 = 1_000_000_000;

/// Where traffic goes, and whose it is.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it is sent, and where receipts are asked for.
    pub overlay: Rpc,
    /// The client whose receipts count.
    pub rpc_node: Rpc,
    /// The chain.
    pub chain_id: u64,
    /// Who sends. At least one.
    pub accounts: Vec<PrivateKeySigner>,
    /// Transactions per second; at least one.
    pub per_second: u32,
    /// The newest canonical block.
    pub head: watch::Receiver<u64>,
    /// Whether the next block is being built.
    pub window: watch::Receiver<bool>,
}

/// What was measured.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Transactions that the overlay took.
    pub sent: u64,
    /// Transactions that it did not take.
    pub refused: u64,
    /// Transactions without a receipt for [`UNANSWERED`].
    pub unanswered: u64,
    /// From sending to the first receipt.
    pub latency: Samples,
    /// The same, of those sent while the next block was being built.
    pub latency_in_window: Samples,
    /// First receipts that came when the RPC node did not have their block.
    pub early: u64,
    /// First receipts that the overlay may have had from the RPC node. They are not compared.
    pub late: u64,
    /// Receipts that were compared.
    pub comparisons_made: u64,
    /// Comparisons that did not hold.
    pub comparisons_failed: u64,
    /// The first failures, in words.
    pub failures: Vec<String>,
    /// The first refusals, in words.
    pub refusals: Vec<String>,
}

/// Traffic that goes on until it is finished or dropped.
#[derive(Debug)]
pub struct Traffic {
    last_block: watch::Sender<Option<u64>>,
    task: JoinHandle<Measured>,
}

impl Traffic {
    /// Starts: the token is deployed, then everybody sends.
    pub fn start(config: Config) -> Self {
        let (last_block, finish) = watch::channel(None);
        let task = tokio::spawn(run(config, finish));
        Self { last_block, task }
    }

    /// Ends it. What is promised for blocks up to `last_block` is compared to the end; the rest is
    /// left open and not counted.
    pub async fn finish(mut self, last_block: u64) -> Measured {
        self.last_block.send_replace(Some(last_block));
        match (&mut self.task).await {
            Ok(measured) => measured,
            Err(ended) => match ended.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Nobody aborts it before it is dropped.
                Err(_) => Measured::default(),
            },
        }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A transaction that the overlay took.
#[derive(Clone, Copy, Debug)]
struct Sent {
    hash: B256,
    nonce: u64,
    at: Instant,
    in_window: bool,
}

/// What became of one transaction.
#[derive(Debug)]
struct Outcome {
    in_window: bool,
    end: End,
}

#[derive(Debug)]
enum End {
    /// The overlay did not take it.
    Refused(RpcFailure),
    /// The traffic ended before its receipt came.
    Open,
    /// There was no receipt in time.
    Unanswered,
    /// There was one.
    Seen(Seen),
}

async fn run(config: Config, mut finish: watch::Receiver<Option<u64>>) -> Measured {
    let mut ticks = interval(Duration::from_secs(1) / config.per_second.max(1));
    // What could not be sent in time is not caught up with: bursts would measure something else.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut measured = Measured::default();
    let mut followed = JoinSet::new();
    let crowd = Arc::new(Crowd::new(config, finish.clone()));
    let token = tokio::select! {
        token = crowd.clone().deploy_token(&mut followed) => token,
        _ = finish.wait_for(Option::is_some) => None,
    };
    let mut number = 0;
    loop {
        tokio::select! {
            _ = ticks.tick(), if followed.len() < AT_ONCE => {
                let (crowd, intent) = (crowd.clone(), mixed(number, token));
                let sender = crowd.sender(number);
                followed.spawn(async move { crowd.send_and_follow(sender, intent).await });
                number += 1;
            }
            Some(outcome) = followed.join_next() => record(&mut measured, outcome),
            _ = finish.wait_for(Option::is_some) => break,
        }
    }
    let rest = async {
        while let Some(outcome) = followed.join_next().await {
            record(&mut measured, outcome);
        }
    };
    if timeout(LAST_COMPARISONS, rest).await.is_err() {
        let left = followed.len() as u64;
        measured.comparisons_made += left;
        measured.fail(left, format!("{left} comparisons were not done after {LAST_COMPARISONS:?}"));
    }
    measured
}

fn record(measured: &mut Measured, outcome: Result<Outcome, tokio::task::JoinError>) {
    match outcome {
        Ok(outcome) => measured.record(outcome),
        Err(ended) => {
            if let Ok(panic) = ended.try_into_panic() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

impl Measured {
    fn record(&mut self, Outcome { in_window, end }: Outcome) {
        match end {
            End::Refused(failure) => {
                self.refused += 1;
                tell(&mut self.refusals, Chain(&failure).to_string());
            }
            End::Open => self.sent += 1,
            End::Unanswered => {
                self.sent += 1;
                self.unanswered += 1;
                let failure = format!("a transaction had no receipt for {UNANSWERED:?}");
                tell(&mut self.failures, failure);
            }
            End::Seen(seen) => self.seen(seen, in_window),
        }
    }

    fn seen(&mut self, Seen { latency, verdict }: Seen, in_window: bool) {
        let milliseconds = latency.as_secs_f64() * 1_000.0;
        self.sent += 1;
        self.latency.add(milliseconds);
        if in_window {
            self.latency_in_window.add(milliseconds);
        }
        if let Verdict::Late = verdict {
            self.late += 1;
            return;
        }
        self.early += 1;
        match verdict {
            Verdict::Late | Verdict::Open => {}
            Verdict::Compared(result) => {
                self.comparisons_made += 1;
                if let Err(difference) = result {
                    self.fail(1, difference.to_string());
                }
            }
            Verdict::NotCompared(failure) => {
                self.comparisons_made += 1;
                self.fail(1, format!("a receipt could not be compared: {}", Chain(&failure)));
            }
        }
    }

    fn fail(&mut self, comparisons: u64, failure: String) {
        self.comparisons_failed += comparisons;
        tell(&mut self.failures, failure);
    }
}

fn tell(told: &mut Vec<String>, words: String) {
    if told.len() < TOLD {
        told.push(words);
    }
}

/// The accounts, each with the nonce it uses next.
struct Crowd {
    config: Config,
    nonces: Vec<Mutex<Option<u64>>>,
    follower: Follower,
}

impl Crowd {
    fn new(config: Config, finish: watch::Receiver<Option<u64>>) -> Self {
        let nonces = config.accounts.iter().map(|_| Mutex::new(None)).collect();
        let follower = Follower {
            overlay: config.overlay.clone(),
            rpc_node: config.rpc_node.clone(),
            head: config.head.clone(),
            finish,
            waiting: Arc::default(),
            turns: Arc::new(Semaphore::new(COMPARED_AT_ONCE)),
        };
        Self { config, nonces, follower }
    }

    /// Everybody in turn.
    fn sender(&self, number: u64) -> usize {
        (number % self.config.accounts.len() as u64) as usize
    }

    /// Deploys the token and waits until that is preconfirmed; `None` if it is not.
    async fn deploy_token(self: Arc<Self>, followed: &mut JoinSet<Outcome>) -> Option<Address> {
        let owners: Vec<_> = self.config.accounts.iter().map(PrivateKeySigner::address).collect();
        let code = contracts::token(&owners, U256::from(TOKENS));
        let sent = self.send(0, Intent::creation(code, 2_000_000)).await;
        let creation = sent.as_ref().ok().map(|sent| (sent.hash, owners[0].create(sent.nonce)));
        let overlay = self.config.overlay.clone();
        followed.spawn(async move { self.follow(sent).await });
        let (creation, token) = creation?;
        let preconfirmed = async {
            let mut polls = interval(POLL);
            while !matches!(overlay.receipt(creation).await, Ok(Some(_))) {
                polls.tick().await;
            }
        };
        timeout(UNANSWERED, preconfirmed).await.ok().map(|()| token)
    }

    async fn send_and_follow(&self, sender: usize, intent: Intent) -> Outcome {
        self.follow(self.send(sender, intent).await).await
    }

    /// Signs and hands in a transaction of one of the accounts.
    async fn send(&self, sender: usize, intent: Intent) -> Result<Sent, RpcFailure> {
        let account = &self.config.accounts[sender];
        let overlay = &self.config.overlay;
        // Held while it is sent, so that an account's transactions arrive in the order of nonces.
        let mut next = self.nonces[sender].lock().await;
        let nonce = match *next {
            Some(nonce) => nonce,
            None => overlay.next_nonce(account.address()).await?,
        };
        let transaction = intent.sign(account, self.config.chain_id, nonce);
        let in_window = *self.config.window.borrow();
        let at = Instant::now();
        let taken = self.hand_in(&transaction).await;
        // What is known of the nonce after a refusal is not worth much: ask again.
        *next = taken.is_ok().then_some(nonce + 1);
        Ok(Sent { hash: taken?, nonce, at, in_window })
    }

    /// Hands in a transaction, again and again as long as nobody knows whether it was taken.
    async fn hand_in(&self, transaction: &Bytes) -> Result<B256, RpcFailure> {
        let started = Instant::now();
        let mut is_first = true;
        loop {
            match self.config.overlay.send_raw_transaction(transaction).await {
                // Then it was taken before.
                Err(failure) if !is_first && says_that_it_is_there(&failure) => {
                    return Ok(keccak256(transaction));
                }
                Err(failure) if can_be_repeated(&failure) && started.elapsed() < UNANSWERED => {}
                answer => return answer,
            }
            is_first = false;
            sleep(RESEND).await;
        }
    }

    async fn follow(&self, sent: Result<Sent, RpcFailure>) -> Outcome {
        match sent {
            Ok(Sent { hash, at, in_window, .. }) => {
                let end = self.follower.follow(hash, at, UNANSWERED).await;
                Outcome { in_window, end }
            }
            Err(failure) => Outcome { in_window: false, end: End::Refused(failure) },
        }
    }
}

/// Whether a refusal of what was sent before means that it was taken then.
fn says_that_it_is_there(failure: &RpcFailure) -> bool {
    let words = failure.refusal().unwrap_or_default();
    words.starts_with("already known") || words.starts_with("nonce too low")
}

/// Whether sending it again is safe, and may help: there was no answer, or the answer says so.
fn can_be_repeated(failure: &RpcFailure) -> bool {
    failure.refusal().is_none_or(|words| words.contains("again"))
}

/// The mix: of ten transactions four move tokens, four pay (two of them somebody new), one reverts
/// and one creates a contract. Without a token everybody pays.
fn mixed(number: u64, token: Option<Address>) -> Intent {
    let known = Address::repeat_byte(0x11);
    let fresh = Address::from_word(keccak256(number.to_be_bytes()));
    let value = U256::from(number + 1);
    let Some(token) = token else { return Intent::payment(known, value) };
    let tokens = |to, amount| Intent::call(token, contracts::transfer(to, U256::from(amount)));
    match number % 10 {
        0 => Intent::payment(known, value),
        1 | 5 | 9 => tokens(known, 1),
        2 | 6 => Intent::payment(fresh, value),
        // More than anybody has.
        4 => tokens(known, u64::MAX),
        7 => tokens(fresh, 2),
        8 => Intent::creation(contracts::answer(), 200_000),
        _ => Intent { legacy: true, ..Intent::payment(known, value) },
    }
}

#[cfg(test)]
mod tests;
