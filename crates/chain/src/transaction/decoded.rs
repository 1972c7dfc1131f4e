//! A transaction as the rest of the system passes it around: decoded, with its sender, and with the
//! bytes it came in.
//!
//! Decides what bytes are a transaction. Invariants: the bytes are the canonical encoding of the
//! envelope and not longer than [`MAX_TX_BYTES`], and the hash is theirs.
//!
//! Never decides whether the chain would take it: chain id, nonce, balance, fees and gas are the
//! business of execution.

use std::{fmt, sync::Arc};

use alloy_consensus::{
    crypto::RecoveryError,
    transaction::{Recovered, SignerRecoverable},
};
use alloy_eips::eip2718::{
    Decodable2718, EIP4844_TX_TYPE_ID, Eip2718Error, Encodable2718, IsTyped2718,
};
use alloy_primitives::{Address, B256, Bytes};
use thiserror::Error;

use super::{POL_TX_TYPE, TxEnvelope, TxType};

/// The longest transaction that is taken, as execution clients have it.
pub const MAX_TX_BYTES: usize = 128 * 1024;

/// Why bytes are not a transaction.
#[derive(Debug, Error)]
pub enum InvalidTransaction {
    /// Nothing was given.
    #[error("the transaction is empty")]
    Empty,
    /// It is above [`MAX_TX_BYTES`].
    #[error("the transaction has {bytes} bytes, more than {MAX_TX_BYTES}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// It is Berachain's, which only a block may hold.
    #[error("transactions of type 0x7e are made by the chain and cannot be sent")]
    Reserved,
    /// No such type is known.
    #[error("transactions of type {0:#04x} are not supported")]
    UnsupportedType(u8),
    /// It carries its blobs, as it would between pools.
    #[error("the blob transaction carries its sidecar")]
    BlobSidecar,
    /// The bytes do not decode.
    #[error("decoding the transaction")]
    Malformed(#[source] Eip2718Error),
    /// Something follows it.
    #[error("{bytes} bytes follow the transaction")]
    TrailingBytes {
        /// How many.
        bytes: usize,
    },
    /// It decodes, but another encoding is the right one.
    #[error("the transaction is not in its canonical encoding")]
    NotCanonical,
    /// Nobody can have signed it.
    #[error("recovering the sender from the signature")]
    Signature(#[source] RecoveryError),
}

/// A transaction, its sender and its bytes. Cloning it copies a pointer.
#[derive(Clone)]
pub struct Transaction(Arc<Inner>);

struct Inner {
    envelope: Recovered<TxEnvelope>,
    encoded: Bytes,
}

impl Transaction {
    /// Decodes a transaction that somebody sent and recovers who signed it.
    ///
    /// # Errors
    ///
    /// If the bytes are too many, are not exactly one transaction in its canonical encoding without
    /// a sidecar, are of a type that cannot be sent, or carry a signature that nobody can have made.
    pub fn decode(encoded: Bytes) -> Result<Self, InvalidTransaction> {
        let envelope = decode_envelope(&encoded)?;
        let signer = envelope.recover_signer().map_err(InvalidTransaction::Signature)?;
        Ok(Self::from_parts(envelope, signer, encoded))
    }

    /// Decodes a transaction whose sender a trusted peer already recovered.
    ///
    /// # Errors
    ///
    /// As [`Self::decode`], but the signature is not looked at.
    pub fn decode_with_sender(encoded: Bytes, sender: Address) -> Result<Self, InvalidTransaction> {
        let envelope = decode_envelope(&encoded)?;
        Ok(Self::from_parts(envelope, sender, encoded))
    }

    /// Decodes a transaction of a block, whose sender a trusted peer knows. Also one that only the
    /// chain itself can make.
    ///
    /// # Errors
    ///
    /// As [`Self::decode_with_sender`], but type 0x7e is taken.
    pub fn decode_included(encoded: Bytes, sender: Address) -> Result<Self, InvalidTransaction> {
        let envelope = match encoded.first() {
            Some(&POL_TX_TYPE) => decode_canonical(&encoded)?,
            Some(_) | None => decode_envelope(&encoded)?,
        };
        Ok(Self::from_parts(envelope, sender, encoded))
    }

    /// Takes a transaction of a block, whose sender is known. Of any type and size, unlike what can
    /// be sent.
    pub fn from_envelope(envelope: TxEnvelope, sender: Address) -> Self {
        let encoded = envelope.encoded_2718().into();
        Self::from_parts(envelope, sender, encoded)
    }

    fn from_parts(envelope: TxEnvelope, signer: Address, encoded: Bytes) -> Self {
        // Hashed once, and ahead of execution.
        envelope.hash();
        let envelope = Recovered::new_unchecked(envelope, signer);
        Self(Arc::new(Inner { envelope, encoded }))
    }

    /// The transaction's hash.
    pub fn hash(&self) -> &B256 {
        self.envelope().hash()
    }

    /// Who sent it.
    pub fn signer(&self) -> Address {
        self.0.envelope.signer()
    }

    /// Its EIP-2718 bytes.
    pub fn encoded(&self) -> &Bytes {
        &self.0.encoded
    }

    /// Its fields.
    pub fn envelope(&self) -> &TxEnvelope {
        self.0.envelope.inner()
    }

    /// Its fields and who sent it, as the executor takes them.
    pub fn recovered(&self) -> Recovered<&TxEnvelope> {
        self.0.envelope.as_recovered_ref()
    }
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction")
            .field("hash", self.hash())
            .field("signer", &self.signer())
            .field("bytes", &self.encoded().len())
            .finish_non_exhaustive()
    }
}

/// The bytes decide: they are what was signed, and the sender follows from them.
impl PartialEq for Transaction {
    fn eq(&self, other: &Self) -> bool {
        self.0.encoded == other.0.encoded && self.signer() == other.signer()
    }
}

impl Eq for Transaction {}

fn decode_envelope(encoded: &Bytes) -> Result<TxEnvelope, InvalidTransaction> {
    refuse_type(encoded)?;
    decode_canonical(encoded)
}

fn decode_canonical(encoded: &Bytes) -> Result<TxEnvelope, InvalidTransaction> {
    if encoded.len() > MAX_TX_BYTES {
        return Err(InvalidTransaction::TooLong { bytes: encoded.len() });
    }
    let mut rest = encoded.as_ref();
    let envelope = TxEnvelope::decode_2718(&mut rest).map_err(InvalidTransaction::Malformed)?;
    if !rest.is_empty() {
        return Err(InvalidTransaction::TrailingBytes { bytes: rest.len() });
    }
    if envelope.encoded_2718() != encoded.as_ref() {
        return Err(InvalidTransaction::NotCanonical);
    }
    Ok(envelope)
}

/// Looks at the type before the length, so that a blob transaction with its sidecar, which is
/// always too long, is refused for what it is.
fn refuse_type(encoded: &[u8]) -> Result<(), InvalidTransaction> {
    let (&first, payload) = encoded.split_first().ok_or(InvalidTransaction::Empty)?;
    match first {
        POL_TX_TYPE => Err(InvalidTransaction::Reserved),
        EIP4844_TX_TYPE_ID if has_sidecar(payload) => Err(InvalidTransaction::BlobSidecar),
        0x80.. => Ok(()),
        0 => Err(InvalidTransaction::UnsupportedType(0)),
        kind if TxType::is_type(kind) => Ok(()),
        kind => Err(InvalidTransaction::UnsupportedType(kind)),
    }
}

/// The first field of a blob transaction is its chain id; with a sidecar, it is the transaction.
fn has_sidecar(mut payload: &[u8]) -> bool {
    alloy_rlp::Header::decode(&mut payload).is_ok_and(|outer| outer.list)
        && alloy_rlp::Header::decode(&mut payload).is_ok_and(|first| first.list)
}

#[cfg(test)]
mod tests {
    use alloy_consensus::{SignableTransaction, TxEip4844, TxLegacy};
    use alloy_primitives::{Signature, U256, keccak256};
    use alloy_rlp::Encodable;

    use super::*;
    use crate::testing::{blob, pol, sign, signed, signer};

    fn refusal(encoded: impl Into<Bytes>) -> InvalidTransaction {
        Transaction::decode(encoded.into()).unwrap_err()
    }

    /// A transaction with so much input that it has this many bytes.
    fn of_length(bytes: usize) -> Vec<u8> {
        let with = |input: usize| {
            let input = vec![1; input].into();
            sign(TxLegacy { chain_id: Some(1), input, ..Default::default() }).encoded_2718()
        };
        let overhead = with(bytes).len() - bytes;
        with(bytes - overhead)
    }

    #[test]
    fn what_was_signed_is_decoded_with_its_sender() {
        for (name, envelope) in signed() {
            let encoded: Bytes = envelope.encoded_2718().into();
            let transaction = Transaction::decode(encoded.clone()).unwrap();
            assert_eq!(transaction.signer(), signer().address(), "{name}");
            assert_eq!(*transaction.hash(), keccak256(&encoded), "{name}");
            assert_eq!(*transaction.encoded(), encoded, "{name}");
            assert_eq!(*transaction.recovered().inner(), &envelope, "{name}");
        }
    }

    #[test]
    fn a_sender_that_is_already_known_is_not_recovered() {
        let encoded: Bytes = signed()[0].1.encoded_2718().into();
        let sender = Address::repeat_byte(0x11);
        let transaction = Transaction::decode_with_sender(encoded, sender).unwrap();
        assert_eq!(transaction.signer(), sender);
    }

    #[test]
    fn the_chains_own_transaction_is_taken_from_a_block_but_not_from_a_sender() {
        let encoded: Bytes = TxEnvelope::from(pol()).encoded_2718().into();
        let sender = alloy_eips::eip4788::SYSTEM_ADDRESS;
        let refused = Transaction::decode_with_sender(encoded.clone(), sender).unwrap_err();
        assert!(matches!(refused, InvalidTransaction::Reserved));
        let included = Transaction::decode_included(encoded.clone(), sender).unwrap();
        assert_eq!((included.signer(), included.encoded()), (sender, &encoded));
        let mut longer = encoded.to_vec();
        longer.push(0);
        assert!(Transaction::decode_included(longer.into(), sender).is_err());
    }

    #[test]
    fn nothing_is_not_a_transaction() {
        assert!(matches!(refusal(Bytes::new()), InvalidTransaction::Empty));
    }

    #[test]
    fn bytes_behind_a_transaction_are_refused() {
        for (name, envelope) in signed() {
            let mut encoded = envelope.encoded_2718();
            encoded.extend([0, 1]);
            let error = refusal(encoded);
            assert!(matches!(error, InvalidTransaction::TrailingBytes { bytes: 2 }), "{name}");
        }
    }

    #[test]
    fn every_truncation_is_refused() {
        for (name, envelope) in signed() {
            let encoded = envelope.encoded_2718();
            for length in 1..encoded.len() {
                let error = refusal(encoded[..length].to_vec());
                assert!(matches!(error, InvalidTransaction::Malformed(_)), "{name} {length}");
            }
        }
    }

    #[test]
    fn the_longest_transaction_is_taken_and_one_byte_more_is_not() {
        assert!(Transaction::decode(of_length(MAX_TX_BYTES).into()).is_ok());
        let error = refusal(of_length(MAX_TX_BYTES + 1));
        assert!(
            matches!(error, InvalidTransaction::TooLong { bytes } if bytes == MAX_TX_BYTES + 1)
        );
    }

    #[test]
    fn a_proof_of_liquidity_transaction_cannot_be_sent() {
        let encoded: Bytes = pol().encoded_2718().into();
        assert!(matches!(refusal(encoded.clone()), InvalidTransaction::Reserved));
        let error = Transaction::decode_with_sender(encoded, Address::ZERO).unwrap_err();
        assert!(matches!(error, InvalidTransaction::Reserved));
    }

    #[test]
    fn types_that_are_not_known_are_refused_by_number() {
        for kind in [0, 5, 0x7d, 0x7f] {
            let error = refusal(vec![kind, 0xc0]);
            assert!(matches!(error, InvalidTransaction::UnsupportedType(k) if k == kind));
        }
    }

    #[test]
    fn a_blob_transaction_with_its_sidecar_is_refused_for_what_it_is() {
        let signed: Vec<u8> = sign(blob()).encoded_2718();
        let mut payload = signed[1..].to_vec();
        vec![Bytes::from(vec![0; 131_072])].encode(&mut payload);
        let mut encoded = vec![3];
        alloy_rlp::Header { list: true, payload_length: payload.len() }.encode(&mut encoded);
        encoded.extend(payload);
        assert!(matches!(refusal(encoded), InvalidTransaction::BlobSidecar));
    }

    #[test]
    fn signatures_that_nobody_can_have_made_are_refused() {
        let high = U256::MAX >> 1;
        for (r, s) in [(U256::ZERO, U256::ONE), (U256::ONE, U256::ZERO), (U256::ONE, high)] {
            let signature = Signature::new(r, s, false);
            let envelope: alloy_consensus::EthereumTxEnvelope<TxEip4844> =
                TxLegacy::default().into_signed(signature).into();
            let error = refusal(TxEnvelope::from(envelope).encoded_2718());
            assert!(matches!(error, InvalidTransaction::Signature(_)), "{r} {s}");
        }
    }

    #[test]
    fn another_encoding_of_the_same_transaction_is_refused() {
        let encoded = signed()[0].1.encoded_2718();
        let mut rest = encoded.as_slice();
        let payload = alloy_rlp::Header::decode_bytes(&mut rest, true).unwrap();
        // The list's length in two bytes although one would do.
        let mut longer = vec![0xf9, 0, payload.len() as u8];
        longer.extend(payload);
        assert!(matches!(
            refusal(longer),
            InvalidTransaction::Malformed(_) | InvalidTransaction::NotCanonical
        ));
    }

    #[test]
    fn arbitrary_bytes_never_panic() {
        let valid: Vec<Vec<u8>> = signed().iter().map(|(_, tx)| tx.encoded_2718()).collect();
        for encoded in valid {
            for position in 0..encoded.len() {
                for flip in [0x01, 0x80, 0xff] {
                    let mut bytes = encoded.clone();
                    bytes[position] ^= flip;
                    if let Ok(transaction) = Transaction::decode(bytes.clone().into()) {
                        assert_eq!(transaction.envelope().encoded_2718(), bytes);
                    }
                }
            }
        }
    }
}
