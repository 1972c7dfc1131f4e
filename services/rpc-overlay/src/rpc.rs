//! From a request to its answer.
//!
//! A request takes one view, once, and is answered from it and from nothing newer. What the view
//! has no say in is asked of the execution client. Two answers look beyond the snapshot on purpose:
//! the nonce at `pending`, and a transaction by its hash, also ask the pool that transactions go to:
//! the sequencer's, or the execution client's where that has no ingress.

mod client;
mod logs;
mod state;

use std::{fmt, pin::pin, sync::Arc};

use alloy_primitives::{Address, B256, Bytes, U64, U256};
use alloy_rpc_types_eth::{BlockId, Index};
use futures_util::future::join;
use preconf_chain::{ChainSpec, Transaction, rpc::RpcTransaction};
use preconf_upstream::StateFetcher;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use tokio::{sync::Semaphore, time::timeout};
use tracing::{Span, error};

use crate::{
    Answer, Latest,
    answers::{blocks, call::Aim, receipts, transactions},
    failure::Failure,
    follow::Views,
    forward::Forwarder,
    methods::{self, AtBlock, Handling, Question, Served},
    metrics::Metrics,
    params::Params,
    pin::{self, Pinned},
    submit::{LOOKUP, Pool},
    tags::{self, Target},
    view::View,
};

/// Everything that answers are made of.
#[derive(Debug)]
pub(crate) struct Rpc {
    pub(crate) spec: Arc<ChainSpec>,
    pub(crate) latest: Latest,
    pub(crate) gas_cap: u64,
    pub(crate) views: Views,
    pub(crate) client: Forwarder,
    pub(crate) fetcher: StateFetcher,
    /// The sequencer's; without it, the execution client has the pool.
    pub(crate) pool: Option<Pool>,
    /// Places for work that would hold up the runtime.
    pub(crate) workers: Arc<Semaphore>,
    pub(crate) metrics: Metrics,
}

/// A request on its way to an answer.
struct Ask<'a> {
    method: &'a str,
    raw: Option<&'a RawValue>,
    params: Params<'a>,
    view: Option<Arc<View>>,
}

impl Ask<'_> {
    fn as_written(&self) -> Option<Box<RawValue>> {
        self.raw.map(ToOwned::to_owned)
    }
}

impl Rpc {
    /// Answers one request.
    pub(crate) async fn answer(&self, method: &str, raw: Option<&RawValue>) -> Answer {
        let view = self.views.current();
        match (methods::find(method).handling, view) {
            (Handling::Refused(reason), _) => {
                // A name of any length can come in; only its beginning goes back out.
                let method = method.chars().take(64).collect();
                Err(Failure::NotOffered { method, reason })
            }
            (Handling::Pinned(how), Some(view)) => {
                let params = Params::parse(raw)?;
                match pin::pin(how, method, &params, &view.snapshot)? {
                    Pinned::AsWritten => {
                        self.ask_elsewhere(&view, method, raw.map(ToOwned::to_owned)).await
                    }
                    Pinned::Canonical(question) => self.ask_canonical(&view, question).await,
                }
            }
            (Handling::Forwarded, _) | (Handling::Pinned(_), None) => {
                self.client.ask(method, raw.map(ToOwned::to_owned)).await
            }
            (Handling::Served(served), view) => {
                let params = Params::parse(raw)?;
                self.serve(served, Ask { method, raw, params, view }).await
            }
        }
    }

    async fn serve(&self, served: Served, ask: Ask<'_>) -> Answer {
        match served {
            Served::At(at) => self.at_block(at, ask).await,
            Served::BlockNumber => match &ask.view {
                Some(view) => {
                    Ok(json(&U64::from(tags::latest_number(&view.snapshot, self.latest))))
                }
                None => self.forward(&ask).await,
            },
            Served::GasPrice => self.gas_price(ask).await,
            Served::Logs => self.logs(ask).await,
            Served::Receipt => self.receipt(ask).await,
            Served::SendRawTransaction => match &self.pool {
                Some(pool) => {
                    let transaction: Bytes = ask.params.required(0, "transaction")?;
                    pool.submit(transaction).await.map(|hash| json(&hash))
                }
                None => self.client.ask(ask.method, ask.as_written()).await,
            },
            Served::TransactionByHash => self.transaction_by_hash(ask).await,
        }
    }

    async fn forward(&self, ask: &Ask<'_>) -> Answer {
        match &ask.view {
            Some(view) => self.ask_elsewhere(view, ask.method, ask.as_written()).await,
            None => self.client.ask(ask.method, ask.as_written()).await,
        }
    }

    async fn at_block(&self, at: AtBlock, ask: Ask<'_>) -> Answer {
        let block = at.block(&ask.params)?;
        if at.question == Question::Nonce && block == BlockId::pending() {
            return self.pending_nonce(at, &ask).await;
        }
        self.at_target(at, block, &ask).await
    }

    /// Answers from the block that is meant, wherever that is.
    async fn at_target(&self, at: AtBlock, block: BlockId, ask: &Ask<'_>) -> Answer {
        let Some(view) = &ask.view else { return self.forward(ask).await };
        match tags::resolve(block, &view.snapshot, self.latest) {
            Target::Pending(place) => self.at_pending(at.question, view, place, &ask.params).await,
            Target::Canonical => {
                let canonical = &view.snapshot.canonical;
                let question =
                    pin::question(ask.method, &ask.params, at.index, at.takes(), canonical);
                self.ask_canonical(view, question).await
            }
            Target::Elsewhere => self.forward(ask).await,
            Target::Above => match at.question {
                Question::Block
                | Question::BlockReceipts
                | Question::Transaction
                | Question::TransactionCount => Ok(RawValue::NULL.to_owned()),
                Question::AccessList
                | Question::Balance
                | Question::Call
                | Question::Code
                | Question::EstimateGas
                | Question::Nonce
                | Question::Simulation
                | Question::Slot => Err(Failure::UnknownBlock),
            },
        }
    }

    async fn at_pending(
        &self,
        question: Question,
        view: &Arc<View>,
        place: usize,
        params: &Params<'_>,
    ) -> Answer {
        match question {
            Question::Block => {
                let full = params.optional(1, "full transactions")?.unwrap_or_default();
                self.block(view, place, full).await
            }
            Question::BlockReceipts => {
                let (view, spec) = (Arc::clone(view), Arc::clone(&self.spec));
                self.apart(move || json(&receipts::of_block(&spec, view.block(place)))).await
            }
            Question::TransactionCount => Ok(json(&U64::from(view.block(place).transaction_count))),
            Question::Transaction => {
                let index: Index = params.required(1, "index")?;
                let index = usize::from(index) as u64;
                Ok(json(&transactions::at_index(&self.spec, view.block(place), index)))
            }
            Question::Balance => {
                let address = params.required(0, "address")?;
                self.balance(view, place, address).await.map(|balance| json(&balance))
            }
            Question::Nonce => {
                let address = params.required(0, "address")?;
                self.nonce(view, place, address).await.map(|nonce| json(&U64::from(nonce)))
            }
            Question::Code => {
                let address = params.required(0, "address")?;
                self.code(view, place, address).await.map(|code| json(&code))
            }
            Question::Slot => {
                let address = params.required(0, "address")?;
                let slot: U256 = params.required(1, "slot")?;
                self.slot(view, place, address, slot).await.map(|value| json(&value))
            }
            Question::Call => self.call(Aim::Outcome, view, place, params).await,
            Question::EstimateGas => self.call(Aim::Gas, view, place, params).await,
            Question::AccessList => self.call(Aim::AccessList, view, place, params).await,
            Question::Simulation => self.simulate(view, place, params).await,
        }
    }

    async fn block(&self, view: &Arc<View>, place: usize, full: bool) -> Answer {
        let (view, spec) = (Arc::clone(view), Arc::clone(&self.spec));
        self.apart(move || {
            let header = view.header(place, &spec);
            json(&blocks::block(view.block(place), header, full))
        })
        .await
    }

    /// The nonce after everything the sender has sent: what the snapshot says, or what waits in the
    /// pool.
    async fn pending_nonce(&self, at: AtBlock, ask: &Ask<'_>) -> Answer {
        let address: Address = ask.params.required(0, "address")?;
        let answer = self.at_target(at, BlockId::pending(), ask);
        let (answer, waiting) = join(answer, self.waiting_nonce(address)).await;
        let answer = answer?;
        let Some(waiting) = waiting else { return Ok(answer) };
        match serde_json::from_str::<U64>(answer.get()) {
            Ok(nonce) => Ok(json(&nonce.max(U64::from(waiting)))),
            // Not for us to judge what the execution client says.
            Err(_) => Ok(answer),
        }
    }

    /// The nonce after the sender's transactions that wait, if the pool can be asked.
    async fn waiting_nonce(&self, sender: Address) -> Option<u64> {
        let Some(pool) = &self.pool else {
            let params = Some(json(&(sender, BlockId::pending())));
            let nonce = timeout(LOOKUP, self.client.ask("eth_getTransactionCount", params)).await;
            let nonce = nonce.ok()?.ok()?;
            return serde_json::from_str::<U64>(nonce.get()).ok().map(|nonce| nonce.to());
        };
        pool.next_nonce(sender).await
    }

    async fn waiting_transaction(&self, hash: B256) -> Option<Transaction> {
        // The execution client looks into its own pool when it is asked.
        self.pool.as_ref()?.transaction(hash).await
    }

    async fn transaction_by_hash(&self, ask: Ask<'_>) -> Answer {
        let hash: B256 = ask.params.required(0, "transaction hash")?;
        if let Some(view) = &ask.view
            && let Some(location) = view.snapshot.locate(&hash)
        {
            return Ok(json(&transactions::at_location(&self.spec, &view.snapshot, location)));
        }
        let is_known = |answer: &Answer| answer.as_ref().is_ok_and(|found| found.get() != "null");
        let mut canonical = pin!(self.forward(&ask));
        let mut waiting = pin!(self.waiting_transaction(hash));
        let (canonical, waiting) = tokio::select! {
            canonical = &mut canonical => match is_known(&canonical) {
                true => (canonical, None),
                false => (canonical, waiting.await),
            },
            waiting = &mut waiting => (canonical.await, waiting),
        };
        match waiting {
            Some(waiting) if !is_known(&canonical) => Ok(json(&RpcTransaction::pending(&waiting))),
            Some(_) | None => canonical,
        }
    }

    async fn receipt(&self, ask: Ask<'_>) -> Answer {
        let hash: B256 = ask.params.required(0, "transaction hash")?;
        if let Some(view) = &ask.view
            && let Some(location) = view.snapshot.locate(&hash)
        {
            return Ok(json(&receipts::receipt(&self.spec, &view.snapshot, location)));
        }
        self.forward(&ask).await
    }

    /// What the execution client suggests as a tip, on top of the pending block's base fee.
    async fn gas_price(&self, ask: Ask<'_>) -> Answer {
        let Some(block) = ask.view.as_ref().and_then(|view| view.snapshot.tip()) else {
            return self.forward(&ask).await;
        };
        let tip = self.client.ask("eth_maxPriorityFeePerGas", None).await;
        let tip = tip.ok().and_then(|tip| serde_json::from_str::<U256>(tip.get()).ok());
        match tip {
            Some(tip) => {
                let base_fee = U256::from(block.environment.base_fee_per_gas);
                Ok(json(&tip.saturating_add(base_fee)))
            }
            None => self.forward(&ask).await,
        }
    }

    /// Does work that would hold up the runtime elsewhere, when there is a place for it. The place
    /// is taken until the work is done, even if nobody waits for it any more.
    async fn apart<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let workers = Arc::clone(&self.workers);
        let place = workers.acquire_owned().await.expect("the semaphore is never closed");
        let span = Span::current();
        let done = tokio::task::spawn_blocking(move || {
            let _place = place;
            span.in_scope(work)
        });
        done.await.map_err(|failed| {
            error!(error = %failed, "answering failed");
            Failure::Internal
        })
    }
}

impl fmt::Debug for Ask<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ask").field("method", &self.method).finish_non_exhaustive()
    }
}

fn json(value: &impl Serialize) -> Box<RawValue> {
    to_raw_value(value).expect("answers have string keys only, so they can be written")
}
