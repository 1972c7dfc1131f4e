//! The key on one chain: what it signs of what was recorded.
//!
//! Messages are computed here, from records, and never taken from outside. A BLS signature follows
//! from key and message alone, so signatures are not kept: what was recorded can be signed again,
//! and gives the same bytes.

use alloy_primitives::B256;
use preconf_primitives::Digest;
use preconf_signing::{PublicKey, Signature, v1, v2};

use crate::{SigningKey, watermark::Entry};

/// Signs for one chain.
#[derive(Debug)]
pub struct Signatory {
    key: SigningKey,
    chain_id: u64,
    v1_domain: B256,
    v2_domain: B256,
}

impl Signatory {
    /// Binds a key to a chain.
    pub fn new(key: SigningKey, chain_id: u64) -> Self {
        Self { key, chain_id, v1_domain: v1::domain(chain_id), v2_domain: v2::domain(chain_id) }
    }

    /// The public key.
    pub const fn public_key(&self) -> PublicKey {
        self.key.public_key()
    }

    /// The chain.
    pub const fn chain_id(&self) -> u64 {
        self.chain_id
    }

    /// The v1 signature of a recorded flashblock.
    pub(crate) fn signature(&self, entry: &Entry) -> Signature {
        let Entry { position, block_number, payload_id, transactions, .. } = *entry;
        let index = position.index;
        let message = v1::message(self.v1_domain, block_number, payload_id, index, transactions);
        self.key.sign(message)
    }

    /// The v2 seal over a recorded digest.
    pub(crate) fn seal(&self, digest: Digest) -> Signature {
        self.key.sign(v2::message(self.v2_domain, digest))
    }
}
