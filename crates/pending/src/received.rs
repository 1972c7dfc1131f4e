//! A flashblock on its way into the machine.

use std::sync::Arc;

use preconf_chain::{InvalidTransaction, Transaction};
use preconf_primitives::{Digest, Flashblock};
use preconf_signing::{SignedFlashblock, Verified};

/// A verified flashblock whose transactions were decoded and whose senders were recovered.
///
/// Recovering senders costs more than executing, so it is done before the machine, by whoever
/// verifies. Clones share the content.
#[derive(Clone, Debug)]
pub struct Received {
    signed: Arc<Verified<SignedFlashblock>>,
    transactions: Result<Arc<[Transaction]>, Arc<Undecodable>>,
}

/// A transaction of a verified flashblock that is not one: the sequencer's mistake.
#[derive(Debug, thiserror::Error)]
#[error("decoding transaction {index} of the flashblock")]
pub struct Undecodable {
    /// Its place in the flashblock.
    pub index: usize,
    /// What is wrong with it.
    #[source]
    pub source: InvalidTransaction,
}

impl Received {
    /// Decodes the transactions, on all cores. That one of them is not a transaction is known from
    /// here on, and told when its turn to be executed comes.
    pub fn decode(signed: Verified<SignedFlashblock>) -> Self {
        let decoded = Transaction::decode_all(signed.flashblock().transactions()).into_iter();
        let decoded: Result<Vec<Transaction>, Undecodable> = decoded
            .enumerate()
            .map(|(index, decoded)| decoded.map_err(|source| Undecodable { index, source }))
            .collect();
        Self { signed: Arc::new(signed), transactions: decoded.map(Into::into).map_err(Arc::new) }
    }

    /// The content.
    pub fn flashblock(&self) -> &Flashblock {
        self.signed.flashblock()
    }

    /// What its seal covers.
    pub fn digest(&self) -> Digest {
        self.signed.digest()
    }

    /// The content with its signatures: what proves who said it.
    pub fn signed(&self) -> &SignedFlashblock {
        self.signed.get()
    }

    pub(crate) fn transactions(&self) -> Result<&Arc<[Transaction]>, &Arc<Undecodable>> {
        self.transactions.as_ref()
    }
}
