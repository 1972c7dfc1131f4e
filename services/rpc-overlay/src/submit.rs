//! The sequencer's pool: where transactions go, and where those that wait are found.

use std::{sync::Arc, time::Duration};

use alloy_primitives::{Address, B256, Bytes, keccak256};
use alloy_rlp::Header;
use preconf_chain::Transaction;
use preconf_chassis::Chain;
use preconf_primitives::{TransactionRefusal, TransactionRefusalReason};
use preconf_telemetry::Remembered;
use preconf_wire::ingress::{IngressClient, IngressError};
use tracing::{Instrument, debug, info_span, warn};

use crate::{complaints::Complaints, failure::Failure, metrics::Metrics};

/// The most bytes of a transaction with its blobs that are offered to the sequencer.
const MAX_SUBMITTED_BYTES: usize = 3 * 512 * 1024;

/// The type of transactions with blobs.
const BLOBS: u8 = 3;

/// How long a question about the pool may take. It only adds to what the snapshot says.
pub(crate) const LOOKUP: Duration = Duration::from_secs(1);

/// The sequencer's pool, from outside.
#[derive(Debug)]
pub(crate) struct Pool {
    submissions: IngressClient,
    lookups: IngressClient,
    metrics: Metrics,
    /// How transactions were sent, by their hashes.
    traces: Arc<Remembered<B256>>,
    complaints: Complaints,
}

impl Pool {
    /// `submissions` and `lookups` differ in how long they wait.
    pub(crate) fn new(
        submissions: IngressClient,
        lookups: IngressClient,
        metrics: Metrics,
        traces: Arc<Remembered<B256>>,
    ) -> Self {
        Self { submissions, lookups, metrics, traces, complaints: Complaints::new() }
    }

    /// Offers a transaction; its hash if the sequencer takes it.
    pub(crate) async fn submit(&self, transaction: Bytes) -> Result<B256, Failure> {
        let bytes = transaction.len();
        let outcome = if bytes > MAX_SUBMITTED_BYTES {
            let detail = format!("{bytes} bytes, limit {MAX_SUBMITTED_BYTES}");
            Err(Failure::Refused(TransactionRefusal::new(
                TransactionRefusalReason::Oversized,
                detail,
            )))
        } else {
            // Before it can be in a snapshot.
            self.traces.remember(hash_of(&transaction));
            let span =
                info_span!("preconf.builder.v1.Ingress/SubmitTransaction", otel.kind = "client");
            let submitted = self.submissions.submit(transaction).instrument(span).await;
            submitted.map_err(|error| match error {
                IngressError::Refused(refusal) => Failure::Refused(refusal),
                error @ (IngressError::Unavailable(_) | IngressError::Invalid(_)) => {
                    self.complain(&error);
                    Failure::Sequencer(Box::new(error))
                }
            })
        };
        let label = match &outcome {
            Ok(_) => "accepted",
            Err(Failure::Refused(_)) => "refused",
            Err(_) => "failed",
        };
        self.metrics.submitted.get([label]).inc();
        outcome
    }

    fn complain(&self, error: &IngressError) {
        if let Some(suppressed) = self.complaints.admit() {
            warn!(error = %Chain(error), suppressed, "the sequencer takes no transactions");
        }
    }

    /// A transaction that waits. One that cannot be asked for counts as unknown.
    pub(crate) async fn transaction(&self, hash: B256) -> Option<Transaction> {
        let span = info_span!("preconf.builder.v1.Ingress/GetTransaction", otel.kind = "client");
        let encoded = match self.lookups.transaction(hash).instrument(span).await {
            Ok(encoded) => encoded?,
            Err(error) => {
                debug!(error = %Chain(&error), "the sequencer could not be asked");
                return None;
            }
        };
        let decoded = Transaction::decode(encoded);
        decoded.inspect_err(|error| debug!(error = %Chain(error), %hash, "cannot be shown")).ok()
    }

    /// The nonce after the sender's transactions that wait, if there are any and the sequencer can
    /// be asked.
    pub(crate) async fn next_nonce(&self, sender: Address) -> Option<u64> {
        let span = info_span!("preconf.builder.v1.Ingress/GetNextNonce", otel.kind = "client");
        let nonce = self.lookups.next_nonce(sender).instrument(span).await;
        let unknown = |error: &IngressError| {
            debug!(error = %Chain(error), "the sequencer could not be asked");
        };
        nonce.inspect_err(unknown).ok().flatten()
    }
}

/// The hash of a transaction as it is sent. One that brings its blobs (EIP-4844) is a list whose first
/// item is what the hash is of.
fn hash_of(sent: &[u8]) -> B256 {
    let signed = sent.strip_prefix(&[BLOBS]).and_then(first_list);
    signed.map_or_else(|| keccak256(sent), |signed| keccak256([&[BLOBS], signed].concat()))
}

/// The first item of a list, if that is a list too.
fn first_list(mut list: &[u8]) -> Option<&[u8]> {
    Header::decode(&mut list).ok()?;
    let first = Header::decode(&mut &*list).ok().filter(|first| first.list)?;
    list.get(..first.length_with_payload())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_with_blobs_has_the_hash_of_what_is_in_the_block() {
        // The list of a signed transaction, and the same with lists of blobs and proofs.
        let signed = [0xc3, 1, 2, 3];
        let alone = [&[BLOBS], &signed[..]].concat();
        let with_blobs = [&[BLOBS, 0xc7], &signed[..], &[0xc1, 4, 0xc0]].concat();
        assert_ne!(with_blobs, alone);

        assert_eq!(hash_of(&alone), keccak256(&alone));
        assert_eq!(hash_of(&with_blobs), keccak256(&alone));
    }

    #[test]
    fn what_is_no_transaction_has_a_hash_too() {
        for sent in [&[][..], &[BLOBS], &[BLOBS, 0xff], &[BLOBS, 0xc1, 0xc5], &[2, 0xc1, 0xc0]] {
            assert_eq!(hash_of(sent), keccak256(sent));
        }
    }
}
