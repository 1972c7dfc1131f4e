//! A sequencer that signs a block in flashblocks, as a feed would deliver them.

use alloy_primitives::{Bytes, FixedBytes};
use blst::{BLST_ERROR, min_pk};
use preconf_chain::Transaction;
use preconf_evm::NextBlock;
use preconf_primitives::{
    Base, Digest, Flashblock, FlashblockParts, Opening, PayloadId, Position, Seq,
};
use preconf_signing::{PublicKey, SIGNATURE_DST, Signature, SignedFlashblock, Verifier, v2};

use crate::{
    measure::{Wrong, same},
    world::CHAIN_ID,
};

/// A sequencer with its key.
pub(crate) struct Sequencer(min_pk::SecretKey);

/// What blst needs to check one seal, and nothing else.
pub(crate) struct RawSeal {
    message: [u8; 32],
    seal: Signature,
}

impl Sequencer {
    pub(crate) fn new() -> Self {
        Self(min_pk::SecretKey::key_gen(&[7; 32], &[]).expect("32 bytes are enough"))
    }

    /// Who checks its seals.
    pub(crate) fn verifier(&self) -> Verifier {
        let bytes = FixedBytes(self.0.sk_to_pk().compress());
        Verifier::new(CHAIN_ID, vec![PublicKey::from_bytes(bytes).expect("it is a key")])
    }

    /// A block in flashblocks of so many transactions, the last of which ends the session.
    pub(crate) fn flashblocks(
        &self,
        block: &NextBlock,
        transactions: &[Transaction],
        size: usize,
    ) -> Vec<SignedFlashblock> {
        let seq = Seq::new(1);
        let count = transactions.chunks(size).len() as u64;
        let mut parent_digest = Digest::ZERO;
        let mut sign = |(transactions, index): (&[Transaction], u64)| {
            let encoded = transactions.iter().map(|transaction| transaction.encoded().clone());
            let flashblock = Flashblock::new(FlashblockParts {
                payload_id: PayloadId::from(seq.get().to_be_bytes()),
                position: Position::new(seq, index),
                block_number: block.number,
                opening: (index == 0).then(|| opening(block)),
                transactions: encoded.collect::<Vec<Bytes>>(),
                is_last: index + 1 == count,
                published_at_ms: 1_700_000_000_000 + index,
                traceparent: None,
                parent_digest,
            });
            let flashblock = flashblock.expect("it is consistent");
            parent_digest = v2::flashblock_digest(&flashblock);
            let message = v2::message(v2::domain(CHAIN_ID), parent_digest);
            let seal = FixedBytes(self.0.sign(message.as_slice(), SIGNATURE_DST, &[]).compress());
            // Nobody here reads the older signature.
            SignedFlashblock { flashblock, signature: seal, seal }
        };
        transactions.chunks(size).zip(0..).map(&mut sign).collect()
    }

    /// Checks seals with blst alone.
    pub(crate) fn verify_raw(&self, seals: &[RawSeal]) -> Result<(), Wrong> {
        let key = self.0.sk_to_pk();
        for RawSeal { message, seal } in seals {
            let seal = min_pk::Signature::uncompress(seal.as_slice())
                .map_err(|error| Wrong(format!("the encoding of a seal: {error:?}")))?;
            let verified = seal.verify(true, message, SIGNATURE_DST, &[], &key, false);
            same("a seal", &verified, &BLST_ERROR::BLST_SUCCESS)?;
        }
        Ok(())
    }
}

impl RawSeal {
    pub(crate) fn of(signed: &SignedFlashblock) -> Self {
        let digest = v2::flashblock_digest(&signed.flashblock);
        Self { message: v2::message(v2::domain(CHAIN_ID), digest).0, seal: signed.seal }
    }
}

fn opening(block: &NextBlock) -> Opening {
    let base = Base {
        parent_beacon_block_root: block.parent_beacon_block_root.unwrap_or_default(),
        parent_hash: block.parent_hash,
        fee_recipient: block.fee_recipient,
        prev_randao: block.prev_randao,
        block_number: block.number,
        gas_limit: block.gas_limit,
        timestamp: block.timestamp,
        extra_data: block.extra_data.clone(),
        base_fee_per_gas: block.base_fee_per_gas,
        prev_proposer_pubkey: block.prev_proposer_pubkey,
    };
    Opening { base, withdrawals: Vec::new() }
}
