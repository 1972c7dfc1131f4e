//! Requests as the JSON-RPC server hands them over: one, or many in a batch.
//!
//! Every request has a span, a deadline and a place among those under way; without a free place it
//! is refused at once. The entries of a batch run side by side, a few at a time, and are answered in
//! their order.
//!
//! The server takes a request whose id is negative, fractional or above 2^64 - 1 for a
//! notification, and notifications have no answer to be told apart by; so both are answered with
//! one error that says so, and are not carried out.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use jsonrpsee::{
    BatchResponseBuilder,
    core::middleware::{Batch, BatchEntry, BatchEntryErr, Notification, Request, RpcServiceT},
    server::{MethodResponse, ResponsePayload},
    types::{ErrorObject, ErrorObjectOwned, Id, error::INVALID_REQUEST_CODE},
};
use serde_json::value::RawValue;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};
use tracing::{Instrument, info_span};

use crate::{Answer, failure::Failure, methods, rpc::Rpc};

/// How many requests may be under way, over all connections.
const MAX_UNDER_WAY: usize = 4096;
/// How many entries of one batch run side by side.
const BATCH_WIDTH: usize = 16;
/// The largest answer: what the execution client may answer, and as much for a whole batch.
pub(crate) const MAX_ANSWER_BYTES: u32 = preconf_upstream::MAX_ANSWER_BYTES;

/// The service behind every connection. Clones share everything.
#[derive(Clone, Debug)]
pub(crate) struct Dispatch {
    rpc: Arc<Rpc>,
    under_way: Arc<Semaphore>,
    deadline: Duration,
}

impl Dispatch {
    pub(crate) fn new(rpc: Arc<Rpc>, deadline: Duration) -> Self {
        Self { rpc, under_way: Arc::new(Semaphore::new(MAX_UNDER_WAY)), deadline }
    }

    async fn respond(self, request: Request<'_>) -> MethodResponse {
        let method = methods::find(&request.method).name;
        let span = info_span!("rpc", otel.name = method, otel.kind = "server");
        let started = Instant::now();
        let answer =
            self.answer(&request.method, request.params.as_deref()).instrument(span.clone());
        let answer = answer.await;
        let outcome = answer.as_ref().map_or_else(Failure::outcome, |_| "ok");
        let metrics = &self.rpc.metrics;
        metrics.requests.get([method, outcome]).inc();
        let seconds = metrics.seconds.get([method]);
        span.in_scope(|| seconds.observe(started.elapsed().as_secs_f64()));
        match answer {
            Ok(result) => {
                let payload = ResponsePayload::success_borrowed(&result);
                MethodResponse::response(request.id, payload, MAX_ANSWER_BYTES as usize)
            }
            Err(failure) => MethodResponse::error(request.id, ErrorObjectOwned::from(failure)),
        }
    }

    async fn answer(&self, method: &str, params: Option<&RawValue>) -> Answer {
        let Ok(_place) = self.under_way.try_acquire() else { return Err(Failure::Busy) };
        match timeout(self.deadline, self.rpc.answer(method, params)).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::TimedOut(self.deadline)),
        }
    }

    async fn respond_to_all(self, batch: Batch<'_>) -> MethodResponse {
        let entries: Vec<_> =
            batch.into_iter().map(|entry| self.clone().respond_to_one(entry)).collect();
        let responses = stream::iter(entries);
        let mut responses = std::pin::pin!(responses.buffered(BATCH_WIDTH));
        let mut all = BatchResponseBuilder::new_with_limit(MAX_ANSWER_BYTES as usize);
        while let Some(response) = responses.next().await {
            if let Err(too_large) = all.append(response) {
                return too_large;
            }
        }
        MethodResponse::from_batch(all.finish())
    }

    async fn respond_to_one(self, entry: Entry<'_>) -> MethodResponse {
        match entry {
            Ok(BatchEntry::Call(request)) => self.respond(request).await,
            Ok(BatchEntry::Notification(_)) => without_id(),
            Err(malformed) => {
                let (error, id) = malformed.into_parts();
                MethodResponse::error(id, error)
            }
        }
    }
}

type Entry<'a> = Result<BatchEntry<'a>, BatchEntryErr<'a>>;

impl RpcServiceT for Dispatch {
    type MethodResponse = MethodResponse;
    type NotificationResponse = MethodResponse;
    type BatchResponse = MethodResponse;

    fn call<'a>(&self, request: Request<'a>) -> impl Future<Output = MethodResponse> + Send + 'a {
        self.clone().respond(request)
    }

    fn batch<'a>(&self, batch: Batch<'a>) -> impl Future<Output = MethodResponse> + Send + 'a {
        self.clone().respond_to_all(batch)
    }

    fn notification<'a>(
        &self,
        _notification: Notification<'a>,
    ) -> impl Future<Output = MethodResponse> + Send + 'a {
        std::future::ready(without_id())
    }
}

fn without_id() -> MethodResponse {
    let message = "the id must be a string, null or an integer from 0 to 2^64 - 1, and must not be \
                   missing; nothing was done";
    MethodResponse::error(Id::Null, ErrorObject::owned(INVALID_REQUEST_CODE, message, None::<()>))
}
