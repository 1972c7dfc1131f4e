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

use alloy_primitives::Bytes;

use super::{InvalidTransaction, Transaction};

/// For fewer transactions a helper costs more than it saves.
const LEAST_SHARE: usize = 4;

/// Asked once: the answer is read from the file system.
static CORES: LazyLock<usize> =
    LazyLock::new(|| thread::available_parallelism().map_or(1, usize::from));

/// Transactions of which each is decoded by whoever takes it first.
struct Batch {
    encoded: Vec<Bytes>,
    next: AtomicUsize,
}

type Decoded = Result<Transaction, InvalidTransaction>;

impl Transaction {
    /// Decodes transactions that somebody sent and recovers who signed them, each as
    /// [`Self::decode`] does, in the same order.
    ///
    /// # Panics
    /// If decoding one of them does.
    pub fn decode_all(encoded: &[Bytes]) -> Vec<Result<Self, InvalidTransaction>> {
        let batch = Arc::new(Batch { encoded: encoded.to_vec(), next: AtomicUsize::new(0) });
        // There is room for all that helpers can find, so that none of them ever waits.
        let (find, found) = sync_channel(encoded.len());
        for _ in 1..(encoded.len() / LEAST_SHARE).min(*CORES) {
            let (batch, find) = (batch.clone(), find.clone());
            let help = move || batch.share().try_for_each(|decoded| find.send(decoded));
            // A helper that the system does not grant leaves its share to the others.
            let _ = thread::Builder::new().spawn(help);
        }
        drop(find);
        let mut decoded: Vec<(usize, Decoded)> = batch.share().collect();
        let missing = encoded.len() - decoded.len();
        decoded.extend(found.iter().take(missing));
        assert_eq!(decoded.len(), encoded.len(), "a helper panicked");
        decoded.sort_unstable_by_key(|(index, _)| *index);
        decoded.into_iter().map(|(_, transaction)| transaction).collect()
    }
}

impl Batch {
    /// What is left, one at a time: whoever begins late has a smaller share.
    fn share(&self) -> impl Iterator<Item = (usize, Decoded)> {
        let taken = iter::repeat_with(|| self.next.fetch_add(1, Ordering::Relaxed));
        taken.map_while(|index| {
            let encoded = self.encoded.get(index)?;
            Some((index, Transaction::decode(encoded.clone())))
        })
    }
}

#[cfg(test)]
mod tests {
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
}
