//! Asking the execution client on behalf of a caller: parameters, result and error word for word.

use preconf_chassis::Chain;
use preconf_upstream::{Upstream, UpstreamError};
use serde::Deserialize;
use serde_json::value::RawValue;
use tracing::warn;

use crate::{Answer, complaints::Complaints, failure::Failure, metrics::Metrics};

/// The execution client, as callers reach it.
#[derive(Debug)]
pub(crate) struct Forwarder {
    upstream: Upstream,
    metrics: Metrics,
    complaints: Complaints,
}

impl Forwarder {
    pub(crate) const fn new(upstream: Upstream, metrics: Metrics) -> Self {
        Self { upstream, metrics, complaints: Complaints::new() }
    }

    /// Asks; what comes back is as it was written.
    pub(crate) async fn ask(&self, method: &str, params: Option<Box<RawValue>>) -> Answer {
        let answer = self.upstream.request(method, params).await;
        let outcome = match &answer {
            Ok(_) => "ok",
            Err(error) if error.refusal().is_some() => "refused",
            Err(error) => {
                self.complain(error);
                "failed"
            }
        };
        self.metrics.forwarded.get([outcome]).inc();
        answer.map_err(|error| Failure::Client(Box::new(error)))
    }

    /// Reads an answer of the client's.
    ///
    /// # Errors
    /// If it is not what the method returns.
    pub(crate) fn read<'a, T: Deserialize<'a>>(
        &self,
        method: &str,
        answer: &'a RawValue,
    ) -> Result<T, Failure> {
        serde_json::from_str(answer.get()).map_err(|source| {
            let (call, host) = (method.to_owned(), self.upstream.host().to_owned());
            let error = UpstreamError::Decode { call, host, source };
            self.complain(&error);
            Failure::Client(Box::new(error))
        })
    }

    /// Logs that the client could not be asked, once for many.
    pub(crate) fn complain(&self, error: &UpstreamError) {
        if let Some(suppressed) = self.complaints.admit() {
            warn!(error = %Chain(error), suppressed, "the execution client could not be asked");
        }
    }
}
