//! A sequencer that signs whatever it is given, executed or not.

use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{Bytes, FixedBytes};
use blst::min_pk::SecretKey;
use preconf_chain::{Block, Header, TxEnvelope};
use preconf_evm::NextBlock;
use preconf_primitives::{
    AbandonReason, Abandoned, Base, Digest, Flashblock, FlashblockParts, InvalidFlashblock,
    Opening, PayloadId, Position, Sealed, Seq, Withdrawal,
};
use preconf_signing::{PublicKey, SIGNATURE_DST, Signature, SignedFlashblock, SignedStatement, v2};

use super::Known;

/// A sequencer with its key. Sessions are numbered in the order in which they are opened.
#[derive(Debug)]
pub struct Sequencer {
    key: SecretKey,
    chain_id: u64,
    last_seq: u64,
    last_digest: Digest,
}

/// A session that was opened and not ended.
#[derive(Clone, Debug)]
pub struct OpenSession {
    seq: Seq,
    opening: Opening,
    next_index: u64,
    last_digest: Digest,
}

impl Sequencer {
    /// A sequencer of a chain. The same each time.
    ///
    /// # Panics
    /// Never: 32 bytes are enough for a key.
    pub fn new(chain_id: u64) -> Self {
        let key = SecretKey::key_gen(&[7; 32], &[]).expect("32 bytes are enough for a key");
        Self { key, chain_id, last_seq: 0, last_digest: Digest::ZERO }
    }

    /// Whom to trust.
    ///
    /// # Panics
    /// Never: the key is one.
    pub fn public_key(&self) -> PublicKey {
        let bytes = FixedBytes(self.key.sk_to_pk().compress());
        PublicKey::from_bytes(bytes).expect("the public key of a key is one")
    }

    /// Opens a session.
    pub fn open(&mut self, base: Base, withdrawals: Vec<Withdrawal>) -> OpenSession {
        self.last_seq += 1;
        OpenSession {
            seq: Seq::new(self.last_seq),
            opening: Opening { base, withdrawals },
            next_index: 0,
            last_digest: self.last_digest,
        }
    }

    /// The next flashblock of a session. It carries the seal, which covers everything, and no
    /// signature for those who know no seal.
    ///
    /// # Errors
    /// If these transactions are more than a flashblock can hold.
    pub fn flashblock(
        &mut self,
        session: &mut OpenSession,
        transactions: Vec<Bytes>,
        is_last: bool,
    ) -> Result<SignedFlashblock, InvalidFlashblock> {
        let index = session.next_index;
        let flashblock = Flashblock::new(FlashblockParts {
            payload_id: PayloadId::from(session.seq.get().to_be_bytes()),
            position: Position::new(session.seq, index),
            block_number: session.opening.base.block_number,
            opening: (index == 0).then(|| session.opening.clone()),
            transactions,
            is_last,
            published_at_ms: 1_700_000_000_000 + index,
            traceparent: None,
            parent_digest: session.last_digest,
        })?;
        let digest = v2::flashblock_digest(&flashblock);
        session.next_index += 1;
        session.last_digest = digest;
        self.last_digest = digest;
        Ok(SignedFlashblock { flashblock, signature: Signature::ZERO, seal: self.seal(digest) })
    }

    /// Says which block a session became.
    pub fn sealed(&self, session: &OpenSession, block: &Known) -> SignedStatement<Sealed> {
        let statement = Sealed {
            seq: session.seq,
            block_number: block.header.number,
            last_digest: session.last_digest,
            block_hash: block.hash,
            state_root: block.header.state_root,
        };
        let seal = self.seal(v2::sealed_digest(&statement));
        SignedStatement { statement, seal }
    }

    /// Says that a session becomes no block.
    pub fn abandoned(&self, session: &OpenSession) -> SignedStatement<Abandoned> {
        let statement = Abandoned {
            seq: session.seq,
            block_number: session.opening.base.block_number,
            last_digest: session.last_digest,
            reason: AbandonReason::AttributesChanged,
        };
        let seal = self.seal(v2::abandoned_digest(&statement));
        SignedStatement { statement, seal }
    }

    fn seal(&self, digest: Digest) -> Signature {
        let message = v2::message(v2::domain(self.chain_id), digest);
        FixedBytes(self.key.sign(message.as_slice(), SIGNATURE_DST, &[]).compress())
    }
}

/// What a first flashblock says of the block with this header.
pub fn base_of(header: &Header) -> Base {
    let NextBlock {
        parent_hash,
        parent_beacon_block_root,
        number,
        timestamp,
        fee_recipient,
        prev_randao,
        difficulty: _,
        gas_limit,
        base_fee_per_gas,
        extra_data,
        withdrawals: _,
        excess_blob_gas: _,
        prev_proposer_pubkey,
    } = NextBlock::from_header(header, Vec::new());
    Base {
        parent_beacon_block_root: parent_beacon_block_root.unwrap_or_default(),
        parent_hash,
        fee_recipient,
        prev_randao,
        block_number: number,
        gas_limit,
        timestamp,
        extra_data,
        base_fee_per_gas,
        prev_proposer_pubkey,
    }
}

/// The withdrawals of a block.
pub fn withdrawals_of(block: &Block) -> Vec<Withdrawal> {
    let withdrawals = block.body.withdrawals.iter().flat_map(|withdrawals| withdrawals.iter());
    withdrawals
        .map(|withdrawal| Withdrawal {
            index: withdrawal.index,
            validator_index: withdrawal.validator_index,
            address: withdrawal.address,
            amount_gwei: withdrawal.amount,
        })
        .collect()
}

/// The transactions of a block that somebody sent, as a flashblock carries them. Those that the
/// chain makes itself are in no flashblock.
pub fn sendable(block: &Block) -> Vec<Bytes> {
    let sent = block.body.transactions.iter().filter(|transaction| match transaction {
        TxEnvelope::Ethereum(_) => true,
        TxEnvelope::Pol(_) => false,
    });
    sent.map(|transaction| transaction.encoded_2718().into()).collect()
}
