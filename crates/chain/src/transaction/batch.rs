//! Many transactions at once, on all cores.
//!
//! Recovering a sender costs ten times as much as executing a transfer, and each is independent of
//! the others. So a batch is recovered ahead of execution, by the caller and by helpers that live no
//! longer than the batch has transactions left. What comes out does not depend on the helpers, and
//! one that the system has not let begin is not waited for.

use std::{
    iter,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
        mpsc::sync_channel,
    },
    thread,
};

use alloy_consensus::crypto::RecoveryError;
use alloy_primitives::{Address, Bytes};

use super::{InvalidTransaction, Transaction, TxEnvelope};

/// For fewer transactions a helper costs more than it saves.
const LEAST_SHARE: usize = 4;

/// Asked once: the answer is read from the file system.
static CORES: LazyLock<usize> =
    LazyLock::new(|| thread::available_parallelism().map_or(1, usize::from));

/// Items of which each is worked on by whoever takes it first.
struct Batch<T, F> {
    items: Vec<T>,
    work: F,
    next: AtomicUsize,
}

impl Transaction {
    /// Decodes transactions that somebody sent and recovers who signed them, each as
    /// [`Self::decode`] does, in the same order.
    ///
    /// # Panics
    /// If decoding one of them does.
    pub fn decode_all(encoded: &[Bytes]) -> Vec<Result<Self, InvalidTransaction>> {
        on_all_cores(encoded.to_vec(), |encoded| Self::decode(encoded.clone()))
    }

    /// Finds the sender of each of these transactions with `recover`, in the same order.
    ///
    /// # Panics
    /// If `recover` does.
    pub fn recover_all(
        envelopes: Vec<TxEnvelope>,
        recover: fn(&TxEnvelope) -> Result<Address, RecoveryError>,
    ) -> Vec<Result<Self, RecoveryError>> {
        on_all_cores(envelopes, move |envelope| {
            recover(envelope).map(|sender| Self::from_envelope(envelope.clone(), sender))
        })
    }
}

/// What becomes of each item, in the same order.
fn on_all_cores<T, R, F>(items: Vec<T>, work: F) -> Vec<R>
where
    T: Send + Sync + 'static,
    R: Send + 'static,
    F: Fn(&T) -> R + Send + Sync + 'static,
{
    let length = items.len();
    let batch = Arc::new(Batch { items, work, next: AtomicUsize::new(0) });
    // There is room for all that helpers can find, so that none of them ever waits.
    let (find, found) = sync_channel(length);
    for _ in 1..(length / LEAST_SHARE).min(*CORES) {
        let (batch, find) = (batch.clone(), find.clone());
        let help = move || batch.share().try_for_each(|done| find.send(done));
        // A helper that the system does not grant leaves its share to the others.
        let _ = thread::Builder::new().spawn(help);
    }
    drop(find);
    let mut done: Vec<(usize, R)> = batch.share().collect();
    let missing = length - done.len();
    done.extend(found.iter().take(missing));
    assert_eq!(done.len(), length, "a helper panicked");
    done.sort_unstable_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

impl<T, F> Batch<T, F> {
    /// What is left, one at a time: whoever begins late has a smaller share.
    fn share<R>(&self) -> impl Iterator<Item = (usize, R)>
    where
        F: Fn(&T) -> R,
    {
        let taken = iter::repeat_with(|| self.next.fetch_add(1, Ordering::Relaxed));
        taken.map_while(|index| Some((index, (self.work)(self.items.get(index)?))))
    }
}

#[cfg(test)]
mod tests {
    use alloy_consensus::{Transaction as _, transaction::SignerRecoverable as _};
    use alloy_eips::eip2718::Encodable2718;

    use super::*;
    use crate::testing::signed;

    #[test]
    fn a_batch_is_decoded_in_its_order_whatever_is_in_it() {
        let valid = signed().into_iter().map(|(_, envelope)| envelope.encoded_2718().into());
        let kinds: Vec<Bytes> = valid.chain([Bytes::new(), vec![0x7e].into()]).collect();
        for length in [0, 1, 3, 4, 100] {
            let batch: Vec<Bytes> = kinds.iter().cycle().take(length).cloned().collect();
            let decoded = Transaction::decode_all(&batch);
            assert_eq!(decoded.len(), length);
            for (encoded, decoded) in batch.iter().zip(decoded) {
                match (Transaction::decode(encoded.clone()), decoded) {
                    (Ok(alone), Ok(decoded)) => assert_eq!(decoded, alone),
                    (Err(alone), Err(error)) => assert_eq!(error.to_string(), alone.to_string()),
                    (alone, decoded) => panic!("{alone:?} alone, {decoded:?} in the batch"),
                }
            }
        }
    }

    #[test]
    fn senders_are_recovered_in_the_order_of_their_transactions() {
        let envelopes: Vec<TxEnvelope> =
            signed().into_iter().map(|(_, envelope)| envelope).cycle().take(50).collect();
        let recovered = Transaction::recover_all(envelopes.clone(), |envelope| {
            if envelope.nonce() == 3 {
                Err(RecoveryError::new())
            } else {
                envelope.recover_signer()
            }
        });
        assert_eq!(recovered.len(), envelopes.len());
        for (envelope, recovered) in envelopes.iter().zip(recovered) {
            match recovered {
                Ok(transaction) => {
                    assert_eq!(transaction.envelope(), envelope);
                    assert_eq!(transaction.signer(), envelope.recover_signer().unwrap());
                }
                Err(_) => assert_eq!(envelope.nonce(), 3),
            }
        }
    }
}
