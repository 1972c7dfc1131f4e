//! `preconf.types.v1`.

use alloy_primitives::{B256, Bytes};
use preconf_primitives::{
    AbandonReason, Abandoned, Base, Digest, Flashblock, FlashblockParts, Opening, Position,
    Retracted, Retraction, RetractionCause, Sealed, Seq, Withdrawal,
};
use preconf_signing::{Signature, SignedFlashblock, SignedStatement};

use super::{Invalid, InvalidScope, address, fixed, optional_fixed, required};
use crate::generated::types::v1 as proto;

impl From<Position> for proto::Position {
    fn from(position: Position) -> Self {
        let Position { seq, index } = position;
        Self { seq: seq.get(), index }
    }
}

impl From<proto::Position> for Position {
    fn from(message: proto::Position) -> Self {
        let proto::Position { seq, index } = message;
        Self::new(Seq::new(seq), index)
    }
}

impl From<&Withdrawal> for proto::Withdrawal {
    fn from(withdrawal: &Withdrawal) -> Self {
        let Withdrawal { index, validator_index, address, amount_gwei } = *withdrawal;
        Self { index, validator_index, address: bytes(address.as_slice()), amount_gwei }
    }
}

impl TryFrom<proto::Withdrawal> for Withdrawal {
    type Error = Invalid;

    fn try_from(message: proto::Withdrawal) -> Result<Self, Invalid> {
        let proto::Withdrawal { index, validator_index, address: to, amount_gwei } = message;
        Ok(Self { index, validator_index, address: address("address", &to)?, amount_gwei })
    }
}

impl From<&Base> for proto::Base {
    fn from(base: &Base) -> Self {
        let Base {
            parent_beacon_block_root,
            parent_hash,
            fee_recipient,
            prev_randao,
            block_number: _,
            gas_limit,
            timestamp,
            extra_data,
            base_fee_per_gas,
            prev_proposer_pubkey,
        } = base;
        Self {
            parent_beacon_block_root: bytes(parent_beacon_block_root.as_slice()),
            parent_hash: bytes(parent_hash.as_slice()),
            fee_recipient: bytes(fee_recipient.as_slice()),
            prev_randao: bytes(prev_randao.as_slice()),
            gas_limit: *gas_limit,
            timestamp_seconds: *timestamp,
            extra_data: extra_data.clone().into(),
            base_fee_per_gas: *base_fee_per_gas,
            prev_proposer_pubkey: prev_proposer_pubkey
                .as_ref()
                .map_or_else(Default::default, |key| bytes(key.as_slice())),
        }
    }
}

/// A base, which on the wire leaves the block number to the message around it.
pub(crate) fn base(message: proto::Base, block_number: u64) -> Result<Base, Invalid> {
    let proto::Base {
        parent_beacon_block_root,
        parent_hash,
        fee_recipient,
        prev_randao,
        gas_limit,
        timestamp_seconds,
        extra_data,
        base_fee_per_gas,
        prev_proposer_pubkey,
    } = message;
    Ok(Base {
        parent_beacon_block_root: fixed("parent_beacon_block_root", &parent_beacon_block_root)?,
        parent_hash: fixed("parent_hash", &parent_hash)?,
        fee_recipient: address("fee_recipient", &fee_recipient)?,
        prev_randao: fixed("prev_randao", &prev_randao)?,
        block_number,
        gas_limit,
        timestamp: timestamp_seconds,
        extra_data: extra_data.into(),
        base_fee_per_gas,
        prev_proposer_pubkey: optional_fixed("prev_proposer_pubkey", &prev_proposer_pubkey)?,
    })
}

fn opening(message: proto::Opening, block_number: u64) -> Result<Opening, Invalid> {
    let proto::Opening { base: base_message, withdrawals } = message;
    let base = base(required("base", base_message)?, block_number).within("base")?;
    Ok(Opening { base, withdrawals: list("withdrawals", withdrawals)? })
}

/// Converts each element, naming the index of one that is wrong.
pub(crate) fn list<M, T>(path: &str, messages: Vec<M>) -> Result<Vec<T>, Invalid>
where
    T: TryFrom<M, Error = Invalid>,
{
    let converted = messages.into_iter().enumerate();
    converted.map(|(index, message)| T::try_from(message).at(path, index)).collect()
}

impl From<&SignedFlashblock> for proto::Flashblock {
    fn from(signed: &SignedFlashblock) -> Self {
        let SignedFlashblock { flashblock, signature, seal } = signed;
        Self {
            position: Some(flashblock.position().into()),
            payload_id: bytes(flashblock.payload_id().as_slice()),
            block_number: flashblock.block_number(),
            opening: flashblock.opening().map(|opening| proto::Opening {
                base: Some((&opening.base).into()),
                withdrawals: opening.withdrawals.iter().map(Into::into).collect(),
            }),
            transactions: flashblock.transactions().iter().map(|tx| tx.clone().into()).collect(),
            is_last: flashblock.is_last(),
            published_at_ms: flashblock.published_at_ms(),
            traceparent: flashblock.traceparent().map_or_else(String::new, ToString::to_string),
            parent_digest: bytes(flashblock.parent_digest().get().as_slice()),
            signature: bytes(signature.as_slice()),
            seal: bytes(seal.as_slice()),
            touched: Vec::new(),
        }
    }
}

impl TryFrom<proto::Flashblock> for SignedFlashblock {
    type Error = Invalid;

    fn try_from(message: proto::Flashblock) -> Result<Self, Invalid> {
        let proto::Flashblock {
            position,
            payload_id,
            block_number,
            opening: opening_message,
            transactions,
            is_last,
            published_at_ms,
            traceparent,
            parent_digest,
            signature,
            seal,
            touched: _,
        } = message;
        let opening = opening_message
            .map(|message| opening(message, block_number))
            .transpose()
            .within("opening")?;
        let traceparent = (!traceparent.is_empty())
            .then(|| traceparent.parse())
            .transpose()
            .map_err(|error| Invalid::new("traceparent", format!("{error}")))?;
        let flashblock = Flashblock::new(FlashblockParts {
            payload_id: fixed("payload_id", &payload_id)?,
            position: required("position", position)?.into(),
            block_number,
            opening,
            transactions: transactions.into_iter().map(Bytes::from).collect(),
            is_last,
            published_at_ms,
            traceparent,
            parent_digest: digest("parent_digest", &parent_digest)?,
        })
        .map_err(|error| Invalid::new("flashblock", error.to_string()))?;
        Ok(Self {
            flashblock,
            signature: fixed("signature", &signature)?,
            seal: fixed("seal", &seal)?,
        })
    }
}

impl From<AbandonReason> for proto::AbandonReason {
    fn from(reason: AbandonReason) -> Self {
        Self::try_from(i32::from(reason.number())).expect("both sides list the same numbers")
    }
}

/// The reason behind a number.
pub(crate) fn abandon_reason(path: &str, number: i32) -> Result<AbandonReason, Invalid> {
    let reason = u8::try_from(number).ok().and_then(AbandonReason::from_number);
    reason.ok_or_else(|| Invalid::new(path, format!("{number} is not known")))
}

impl From<&SignedStatement<Abandoned>> for proto::Abandoned {
    fn from(signed: &SignedStatement<Abandoned>) -> Self {
        let Abandoned { seq, block_number, last_digest, reason } = &signed.statement;
        Self {
            seq: seq.get(),
            block_number: *block_number,
            last_digest: bytes(last_digest.get().as_slice()),
            reason: proto::AbandonReason::from(*reason).into(),
            seal: bytes(signed.seal.as_slice()),
        }
    }
}

impl TryFrom<proto::Abandoned> for SignedStatement<Abandoned> {
    type Error = Invalid;

    fn try_from(message: proto::Abandoned) -> Result<Self, Invalid> {
        let proto::Abandoned { seq, block_number, last_digest, reason, seal } = message;
        let statement = Abandoned {
            seq: Seq::new(seq),
            block_number,
            last_digest: digest("last_digest", &last_digest)?,
            reason: abandon_reason("reason", reason)?,
        };
        Ok(Self { statement, seal: fixed("seal", &seal)? })
    }
}

impl From<&SignedStatement<Sealed>> for proto::Sealed {
    fn from(signed: &SignedStatement<Sealed>) -> Self {
        let Sealed { seq, block_number, last_digest, block_hash, state_root } = &signed.statement;
        Self {
            seq: seq.get(),
            block_number: *block_number,
            last_digest: bytes(last_digest.get().as_slice()),
            block_hash: bytes(block_hash.as_slice()),
            state_root: bytes(state_root.as_slice()),
            seal: bytes(signed.seal.as_slice()),
        }
    }
}

impl TryFrom<proto::Sealed> for SignedStatement<Sealed> {
    type Error = Invalid;

    fn try_from(message: proto::Sealed) -> Result<Self, Invalid> {
        let proto::Sealed { seq, block_number, last_digest, block_hash, state_root, seal } =
            message;
        let statement = Sealed {
            seq: Seq::new(seq),
            block_number,
            last_digest: digest("last_digest", &last_digest)?,
            block_hash: fixed("block_hash", &block_hash)?,
            state_root: fixed("state_root", &state_root)?,
        };
        Ok(Self { statement, seal: fixed("seal", &seal)? })
    }
}

impl From<&Retraction> for proto::Retraction {
    fn from(retraction: &Retraction) -> Self {
        let Retraction { transaction, cause } = *retraction;
        Self { transaction_hash: bytes(transaction.as_slice()), cause: cause.number().into() }
    }
}

impl TryFrom<proto::Retraction> for Retraction {
    type Error = Invalid;

    fn try_from(message: proto::Retraction) -> Result<Self, Invalid> {
        let proto::Retraction { transaction_hash, cause } = message;
        let known = u8::try_from(cause).ok().and_then(RetractionCause::from_number);
        Ok(Self {
            transaction: fixed("transaction_hash", &transaction_hash)?,
            cause: known.ok_or_else(|| Invalid::new("cause", format!("{cause} is not known")))?,
        })
    }
}

impl From<&SignedStatement<Retracted>> for proto::Retracted {
    fn from(signed: &SignedStatement<Retracted>) -> Self {
        let Retracted { at, block_number, retractions } = &signed.statement;
        Self {
            at: Some((*at).into()),
            block_number: *block_number,
            retractions: retractions.iter().map(Into::into).collect(),
            seal: bytes(signed.seal.as_slice()),
        }
    }
}

impl TryFrom<proto::Retracted> for SignedStatement<Retracted> {
    type Error = Invalid;

    fn try_from(message: proto::Retracted) -> Result<Self, Invalid> {
        let proto::Retracted { at, block_number, retractions, seal } = message;
        let statement = Retracted {
            at: required("at", at)?.into(),
            block_number,
            retractions: list("retractions", retractions)?,
        };
        Ok(Self { statement, seal: signature("seal", &seal)? })
    }
}

/// A digest of 32 bytes.
pub(crate) fn digest(path: &str, bytes: &[u8]) -> Result<Digest, Invalid> {
    fixed::<32>(path, bytes).map(|digest: B256| Digest::new(digest))
}

/// A signature of 96 bytes.
pub(crate) fn signature(path: &str, bytes: &[u8]) -> Result<Signature, Invalid> {
    fixed(path, bytes)
}

/// A copy of some bytes, as messages hold them.
pub(crate) fn bytes(slice: &[u8]) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(slice)
}
