//! A sequencer that signs what it is told to.

use alloy_primitives::{Address, B256, Bytes, FixedBytes};
use blst::min_pk::SecretKey;
use preconf_primitives::{
    AbandonReason, Abandoned, Base, Digest, Flashblock, FlashblockParts, Opening, PayloadId,
    Position, Sealed, Seq,
};
use preconf_signing::{
    PublicKey, SIGNATURE_DST, Signature, SignedFlashblock, SignedStatement, v1, v2,
};
use preconf_wire::feed::FeedItem;

pub(crate) const CHAIN_ID: u64 = 80_094;

/// Signs flashblocks and statements for one chain with one key.
pub(crate) struct Sequencer {
    key: SecretKey,
    chain_id: u64,
    last_digest: Digest,
}

impl Sequencer {
    pub(crate) fn new() -> Self {
        Self::with(1, CHAIN_ID)
    }

    /// A sequencer with another key or for another chain.
    pub(crate) fn with(key: u8, chain_id: u64) -> Self {
        let key = SecretKey::key_gen(&[key; 32], &[]).unwrap();
        Self { key, chain_id, last_digest: Digest::ZERO }
    }

    pub(crate) fn public_key(&self) -> PublicKey {
        PublicKey::from_bytes(FixedBytes(self.key.sk_to_pk().compress())).unwrap()
    }

    /// The flashblock at `seq:index`, which follows the one that was made last.
    pub(crate) fn flashblock(&mut self, seq: u64, index: u64) -> FeedItem {
        self.with_transactions(seq, index, &[&[2, seq as u8, index as u8]])
    }

    /// The same with transactions of the caller's.
    pub(crate) fn with_transactions(
        &mut self,
        seq: u64,
        index: u64,
        transactions: &[&[u8]],
    ) -> FeedItem {
        let parts = FlashblockParts {
            payload_id: PayloadId::from(seq.to_be_bytes()),
            position: Position::new(Seq::new(seq), index),
            block_number: 100 + seq,
            opening: (index == 0).then(|| opening(100 + seq)),
            transactions: transactions.iter().map(|bytes| Bytes::copy_from_slice(bytes)).collect(),
            is_last: false,
            published_at_ms: 1_700_000_000_000 + index,
            traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().ok(),
            parent_digest: self.last_digest,
        };
        FeedItem::Flashblock(self.sign(Flashblock::new(parts).unwrap()))
    }

    fn sign(&mut self, flashblock: Flashblock) -> SignedFlashblock {
        let message = v1::message(
            v1::domain(self.chain_id),
            flashblock.block_number(),
            flashblock.payload_id(),
            flashblock.index(),
            v1::transactions_hash(flashblock.transactions()),
        );
        self.last_digest = v2::flashblock_digest(&flashblock);
        let seal = self.seal(self.last_digest);
        SignedFlashblock { signature: self.signature(message), seal, flashblock }
    }

    pub(crate) fn sealed(&self, seq: u64) -> FeedItem {
        let statement = Sealed {
            seq: Seq::new(seq),
            block_number: 100 + seq,
            last_digest: self.last_digest,
            block_hash: B256::repeat_byte(7),
            state_root: B256::repeat_byte(8),
        };
        let seal = self.seal(v2::sealed_digest(&statement));
        FeedItem::Sealed(SignedStatement { statement, seal })
    }

    pub(crate) fn abandoned(&self, seq: u64) -> FeedItem {
        let statement = Abandoned {
            seq: Seq::new(seq),
            block_number: 100 + seq,
            last_digest: self.last_digest,
            reason: AbandonReason::HeadChanged,
        };
        let seal = self.seal(v2::abandoned_digest(&statement));
        FeedItem::Abandoned(SignedStatement { statement, seal })
    }

    fn seal(&self, digest: Digest) -> Signature {
        self.signature(v2::message(v2::domain(self.chain_id), digest))
    }

    fn signature(&self, message: B256) -> Signature {
        FixedBytes(self.key.sign(message.as_slice(), SIGNATURE_DST, &[]).compress())
    }
}

fn opening(block_number: u64) -> Opening {
    let base = Base {
        parent_beacon_block_root: B256::repeat_byte(4),
        parent_hash: B256::repeat_byte(1),
        fee_recipient: Address::repeat_byte(3),
        prev_randao: B256::repeat_byte(2),
        block_number,
        gas_limit: 36_000_000,
        timestamp: 1_700_000_000,
        extra_data: Bytes::new(),
        base_fee_per_gas: 1_000_000_000,
        prev_proposer_pubkey: None,
    };
    Opening { base, withdrawals: vec![] }
}
