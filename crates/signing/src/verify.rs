//! Turning what claims to be signed into what is: the only way to a [`Verified`] value.

use alloy_primitives::B256;
use preconf_primitives::{Abandoned, Digest, Flashblock, Retracted, Sealed};

use crate::{PublicKey, Signature, v1, v2};

/// A flashblock with the two signatures it came with. Nothing about them is known yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedFlashblock {
    /// The content.
    pub flashblock: Flashblock,
    /// The v1 signature.
    pub signature: Signature,
    /// The v2 seal; zero if it came without one.
    pub seal: Signature,
}

/// A statement about a session with its seal. Nothing about the seal is known yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedStatement<T> {
    /// The content.
    pub statement: T,
    /// The v2 seal over its digest.
    pub seal: Signature,
}

/// A value whose signature was checked against a configured key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<T> {
    value: T,
    digest: Digest,
    key: PublicKey,
}

impl<T> Verified<T> {
    /// The value.
    pub const fn get(&self) -> &T {
        &self.value
    }

    /// The digest of the value: what a seal covers.
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// The key that signed.
    pub const fn key(&self) -> &PublicKey {
        &self.key
    }

    /// The value, giving up the knowledge that it was verified.
    pub fn into_inner(self) -> T {
        self.value
    }
}

impl Verified<SignedFlashblock> {
    /// The content.
    pub const fn flashblock(&self) -> &Flashblock {
        &self.value.flashblock
    }
}

/// Which signatures of a flashblock are checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checked {
    /// The seal alone: it covers all that the signature covers.
    #[default]
    Seal,
    /// Both, so that those who know only the signature are not served a bad one.
    Both,
}

/// Why a signature was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The seal is by none of the configured keys.
    #[error("the seal does not verify against any configured key")]
    BadSeal,
    /// The seal is good and the v1 signature is not.
    #[error("the seal verifies and the v1 signature does not")]
    BadSignature,
}

/// Checks signatures of one chain against a set of keys (several during a rotation).
#[derive(Clone, Debug)]
pub struct Verifier {
    keys: Vec<PublicKey>,
    v1_domain: B256,
    v2_domain: B256,
}

impl Verifier {
    /// A verifier of `chain_id` that trusts `keys`.
    pub fn new(chain_id: u64, keys: Vec<PublicKey>) -> Self {
        Self { keys, v1_domain: v1::domain(chain_id), v2_domain: v2::domain(chain_id) }
    }

    /// The trusted keys.
    pub fn keys(&self) -> &[PublicKey] {
        &self.keys
    }

    /// Checks the seal of a flashblock, and its signature if `checked` says so.
    ///
    /// # Errors
    /// Says which of the two does not verify.
    pub fn flashblock(
        &self,
        signed: SignedFlashblock,
        checked: Checked,
    ) -> Result<Verified<SignedFlashblock>, Refusal> {
        let content = v2::Content::of(&signed.flashblock);
        let digest = content.digest();
        let key = self.sealed_by(digest, &signed.seal)?;
        if checked == Checked::Both {
            let message = self.v1_message(&content);
            key.verify(message, &signed.signature).map_err(|_| Refusal::BadSignature)?;
        }
        Ok(Verified { value: signed, digest, key })
    }

    /// Checks a flashblock of a feed that knows no seal, by its v1 signature.
    ///
    /// What that signature does not cover is the caller's word, and so is the digest over it: the
    /// session's number, the base, the withdrawals, `is_last`, the time and the past.
    ///
    /// # Errors
    /// If the signature is by none of the keys.
    pub fn unsealed(
        &self,
        flashblock: Flashblock,
        signature: Signature,
    ) -> Result<Verified<SignedFlashblock>, Refusal> {
        let content = v2::Content::of(&flashblock);
        let message = self.v1_message(&content);
        let key = self.signed_by(message, &signature).ok_or(Refusal::BadSignature)?;
        let signed = SignedFlashblock { flashblock, signature, seal: Signature::ZERO };
        Ok(Verified { value: signed, digest: content.digest(), key })
    }

    /// Checks the v1 signature alone, for feeds that know no seal, and says whose it is.
    ///
    /// # Errors
    /// If it is by none of the keys.
    pub fn v1(
        &self,
        block_number: u64,
        payload_id: preconf_primitives::PayloadId,
        index: u64,
        transactions: &[alloy_primitives::Bytes],
        signature: &Signature,
    ) -> Result<PublicKey, Refusal> {
        let hash = v1::transactions_hash(transactions);
        let message = v1::message(self.v1_domain, block_number, payload_id, index, hash);
        self.signed_by(message, signature).ok_or(Refusal::BadSignature)
    }

    /// Checks the seal of an abandon.
    ///
    /// # Errors
    /// If it is by none of the keys.
    pub fn abandoned(
        &self,
        signed: SignedStatement<Abandoned>,
    ) -> Result<Verified<SignedStatement<Abandoned>>, Refusal> {
        let digest = v2::abandoned_digest(&signed.statement);
        self.statement(signed, digest)
    }

    /// Checks the seal of a sealed.
    ///
    /// # Errors
    /// If it is by none of the keys.
    pub fn sealed(
        &self,
        signed: SignedStatement<Sealed>,
    ) -> Result<Verified<SignedStatement<Sealed>>, Refusal> {
        let digest = v2::sealed_digest(&signed.statement);
        self.statement(signed, digest)
    }

    /// Checks the seal of a list of retractions.
    ///
    /// # Errors
    /// If it is by none of the keys.
    pub fn retracted(
        &self,
        signed: SignedStatement<Retracted>,
    ) -> Result<Verified<SignedStatement<Retracted>>, Refusal> {
        let digest = v2::retracted_digest(&signed.statement);
        self.statement(signed, digest)
    }

    fn statement<T>(
        &self,
        signed: SignedStatement<T>,
        digest: Digest,
    ) -> Result<Verified<SignedStatement<T>>, Refusal> {
        let key = self.sealed_by(digest, &signed.seal)?;
        Ok(Verified { value: signed, digest, key })
    }

    fn sealed_by(&self, digest: Digest, seal: &Signature) -> Result<PublicKey, Refusal> {
        let message = v2::message(self.v2_domain, digest);
        self.signed_by(message, seal).ok_or(Refusal::BadSeal)
    }

    fn v1_message(&self, content: &v2::Content) -> B256 {
        v1::message(
            self.v1_domain,
            content.block_number,
            content.payload_id,
            content.position.index,
            content.hashes.transactions,
        )
    }

    fn signed_by(&self, message: B256, signature: &Signature) -> Option<PublicKey> {
        self.keys.iter().find(|key| key.verify(message, signature).is_ok()).copied()
    }
}
