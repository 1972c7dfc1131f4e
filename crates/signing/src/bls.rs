//! BLS12-381 with public keys in G1 and signatures in G2 (`min_pk`), as the consensus layer uses.

use std::{fmt, str::FromStr};

use alloy_primitives::{B256, FixedBytes, hex};
use blst::{BLST_ERROR, min_pk};

/// The domain separation tag of both schemes.
pub const SIGNATURE_DST: &[u8] = b"BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_";

/// A compressed signature (96 bytes). Not known to be a point of the curve, let alone valid.
pub type Signature = FixedBytes<96>;

/// A public key that is a point of the right subgroup and not the point at infinity.
#[derive(Clone, Copy)]
pub struct PublicKey {
    point: min_pk::PublicKey,
    bytes: FixedBytes<48>,
}

/// Bytes or text that are not a usable public key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPublicKey {
    /// The text is not 48 bytes of hex.
    #[error("a public key is 0x and 96 hex digits")]
    NotHex,
    /// The bytes are not a point of the subgroup G1, or are the point at infinity.
    #[error("0x{} is not a valid BLS12-381 public key", hex::encode(.0))]
    NotAPoint(FixedBytes<48>),
}

/// A signature that is not by this key over this message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signature is not by the given key over this message")]
pub struct BadSignature;

impl PublicKey {
    /// Reads a compressed public key and validates the point, once.
    ///
    /// # Errors
    /// If the bytes are not a point of G1's subgroup or are the point at infinity.
    pub fn from_bytes(bytes: FixedBytes<48>) -> Result<Self, InvalidPublicKey> {
        let point = min_pk::PublicKey::key_validate(bytes.as_slice())
            .map_err(|_| InvalidPublicKey::NotAPoint(bytes))?;
        Ok(Self { point, bytes })
    }

    /// The compressed bytes.
    pub const fn to_bytes(&self) -> FixedBytes<48> {
        self.bytes
    }

    /// The uncompressed bytes: both coordinates of the point.
    pub fn to_uncompressed(&self) -> FixedBytes<96> {
        FixedBytes(self.point.serialize())
    }

    /// Checks a signature over a 32-byte message, subgroup check included.
    ///
    /// # Errors
    /// If it does not verify, for whatever reason.
    pub fn verify(&self, message: B256, signature: &Signature) -> Result<(), BadSignature> {
        let signature =
            min_pk::Signature::uncompress(signature.as_slice()).map_err(|_| BadSignature)?;
        let result =
            signature.verify(true, message.as_slice(), SIGNATURE_DST, &[], &self.point, false);
        match result {
            BLST_ERROR::BLST_SUCCESS => Ok(()),
            BLST_ERROR::BLST_BAD_ENCODING
            | BLST_ERROR::BLST_POINT_NOT_ON_CURVE
            | BLST_ERROR::BLST_POINT_NOT_IN_GROUP
            | BLST_ERROR::BLST_AGGR_TYPE_MISMATCH
            | BLST_ERROR::BLST_VERIFY_FAIL
            | BLST_ERROR::BLST_PK_IS_INFINITY
            | BLST_ERROR::BLST_BAD_SCALAR => Err(BadSignature),
        }
    }
}

impl FromStr for PublicKey {
    type Err = InvalidPublicKey;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = hex::decode_to_array(text.trim()).map_err(|_| InvalidPublicKey::NotHex)?;
        Self::from_bytes(FixedBytes(bytes))
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for PublicKey {}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bytes.fmt(f)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.bytes)
    }
}
