//! A flashblock in the upstream's JSON, with our optional keys.

use alloy_primitives::{Address, B64, B256, Bytes, FixedBytes, U256};
use preconf_primitives::{
    Base, Digest, Flashblock, FlashblockParts, Opening, PayloadId, Position, PublicKeyBytes, Seq,
    Traceparent, Withdrawal,
};
use preconf_signing::{Signature, SignedFlashblock};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use super::FrameError;

/// A flashblock as any sequencer of the upstream format writes it.
///
/// Without the extension it has no session number and no seal: whoever reads such a feed numbers
/// sessions on arrival.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamFlashblock {
    /// The session's id on the wire.
    pub payload_id: PayloadId,
    /// The index inside the session.
    pub index: u64,
    /// The number of the block.
    pub block_number: u64,
    /// Base and withdrawals, where the frame has a base.
    pub opening: Option<Opening>,
    /// The new transactions.
    pub transactions: Vec<Bytes>,
    /// Whether the session ends here.
    pub is_last: bool,
    /// The v1 signature.
    pub signature: Signature,
    /// Our additions.
    pub extension: Option<Extension>,
}

/// The keys we add to the upstream's format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    /// The session.
    pub seq: Seq,
    /// The digest before.
    pub parent_digest: Digest,
    /// The v2 seal.
    pub seal: Signature,
    /// Milliseconds since the Unix epoch.
    pub published_at_ms: u64,
    /// The trace it belongs to.
    pub traceparent: Option<Traceparent>,
}

/// Writes a flashblock: keys in the upstream's order, ours after them.
pub fn encode_flashblock(signed: &SignedFlashblock) -> String {
    let json = FlashblockJson::from(signed);
    serde_json::to_string(&json).expect("maps with string keys and hex strings always serialise")
}

impl UpstreamFlashblock {
    /// Reads one from JSON.
    ///
    /// # Errors
    /// If the JSON has another shape, or carries withdrawals without a base.
    pub fn from_json(json: &[u8]) -> Result<Self, FrameError> {
        let json: FlashblockJson = serde_json::from_slice(json).map_err(FrameError::Json)?;
        let FlashblockJson {
            payload_id,
            index,
            base,
            diff: DiffJson { transactions, withdrawals },
            metadata: MetadataJson { block_number },
            signature,
            is_last,
            session,
            parent_digest,
            seal,
            published_at_ms,
            traceparent,
        } = json;
        if base.is_none() && !withdrawals.is_empty() {
            let refusal = preconf_primitives::InvalidFlashblock::UnexpectedBase { index };
            return Err(FrameError::Flashblock(refusal));
        }
        let extension = match (session, seal) {
            (Some(seq), Some(seal)) => Some(Extension {
                seq: Seq::new(seq),
                parent_digest: Digest::new(
                    parent_digest.ok_or(FrameError::Unsealed("parent_digest"))?,
                ),
                seal,
                published_at_ms: published_at_ms.ok_or(FrameError::Unsealed("published_at_ms"))?,
                traceparent: traceparent.map(parse_traceparent).transpose()?,
            }),
            _ => None,
        };
        let opening = base.map(|base| Opening {
            base: base.into(),
            withdrawals: withdrawals.into_iter().map(Withdrawal::from).collect(),
        });
        Ok(Self {
            payload_id,
            index,
            block_number,
            opening,
            transactions,
            is_last,
            signature,
            extension,
        })
    }

    /// The flashblock with both signatures.
    ///
    /// # Errors
    /// If our additions are missing or the fields contradict each other.
    pub fn into_signed(self) -> Result<SignedFlashblock, FrameError> {
        let extension = self.extension.ok_or(FrameError::Unsealed("session or seal"))?;
        let flashblock = Flashblock::new(FlashblockParts {
            payload_id: self.payload_id,
            position: Position::new(extension.seq, self.index),
            block_number: self.block_number,
            opening: self.opening,
            transactions: self.transactions,
            is_last: self.is_last,
            published_at_ms: extension.published_at_ms,
            traceparent: extension.traceparent,
            parent_digest: extension.parent_digest,
        })
        .map_err(FrameError::Flashblock)?;
        Ok(SignedFlashblock { flashblock, signature: self.signature, seal: extension.seal })
    }
}

fn parse_traceparent(text: String) -> Result<Traceparent, FrameError> {
    text.parse().map_err(|_| FrameError::Unknown { field: "traceparent", value: text })
}

#[derive(Serialize, Deserialize)]
struct FlashblockJson {
    payload_id: B64,
    index: u64,
    #[serde(default)]
    base: Option<BaseJson>,
    diff: DiffJson,
    metadata: MetadataJson,
    signature: FixedBytes<96>,
    is_last: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    session: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parent_digest: Option<B256>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seal: Option<FixedBytes<96>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    published_at_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct BaseJson {
    parent_beacon_block_root: B256,
    parent_hash: B256,
    fee_recipient: Address,
    prev_randao: B256,
    #[serde(with = "alloy_serde::quantity")]
    block_number: u64,
    #[serde(with = "alloy_serde::quantity")]
    gas_limit: u64,
    #[serde(with = "alloy_serde::quantity")]
    timestamp: u64,
    extra_data: Bytes,
    #[serde(serialize_with = "alloy_serde::quantity::serialize", deserialize_with = "base_fee")]
    base_fee_per_gas: u64,
    prev_proposer_pubkey: Option<PublicKeyBytes>,
}

#[derive(Serialize, Deserialize)]
struct DiffJson {
    transactions: Vec<Bytes>,
    withdrawals: Vec<WithdrawalJson>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WithdrawalJson {
    #[serde(with = "alloy_serde::quantity")]
    index: u64,
    #[serde(with = "alloy_serde::quantity")]
    validator_index: u64,
    address: Address,
    #[serde(with = "alloy_serde::quantity")]
    amount: u64,
}

#[derive(Serialize, Deserialize)]
struct MetadataJson {
    block_number: u64,
}

/// The upstream's field is a `U256`: a hex quantity, a decimal string or a number. A base fee above
/// 2^64 − 1 wei is no chain's.
fn base_fee<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let fee = U256::deserialize(deserializer)?;
    fee.try_into().map_err(|_| D::Error::custom("base_fee_per_gas is above 2^64 - 1"))
}

impl From<&SignedFlashblock> for FlashblockJson {
    fn from(signed: &SignedFlashblock) -> Self {
        let flashblock = &signed.flashblock;
        let withdrawals = flashblock.opening().map_or(&[][..], |opening| &opening.withdrawals);
        Self {
            payload_id: flashblock.payload_id(),
            index: flashblock.index(),
            base: flashblock.opening().map(|opening| BaseJson::from(&opening.base)),
            diff: DiffJson {
                transactions: flashblock.transactions().to_vec(),
                withdrawals: withdrawals.iter().map(WithdrawalJson::from).collect(),
            },
            metadata: MetadataJson { block_number: flashblock.block_number() },
            signature: signed.signature,
            is_last: flashblock.is_last(),
            session: Some(flashblock.seq().get()),
            parent_digest: Some(flashblock.parent_digest().get()),
            seal: Some(signed.seal),
            published_at_ms: Some(flashblock.published_at_ms()),
            traceparent: flashblock.traceparent().map(ToString::to_string),
        }
    }
}

impl From<&Base> for BaseJson {
    fn from(base: &Base) -> Self {
        let Base {
            parent_beacon_block_root,
            parent_hash,
            fee_recipient,
            prev_randao,
            block_number,
            gas_limit,
            timestamp,
            extra_data,
            base_fee_per_gas,
            prev_proposer_pubkey,
        } = base;
        Self {
            parent_beacon_block_root: *parent_beacon_block_root,
            parent_hash: *parent_hash,
            fee_recipient: *fee_recipient,
            prev_randao: *prev_randao,
            block_number: *block_number,
            gas_limit: *gas_limit,
            timestamp: *timestamp,
            extra_data: extra_data.clone(),
            base_fee_per_gas: *base_fee_per_gas,
            prev_proposer_pubkey: *prev_proposer_pubkey,
        }
    }
}

impl From<BaseJson> for Base {
    fn from(json: BaseJson) -> Self {
        let BaseJson {
            parent_beacon_block_root,
            parent_hash,
            fee_recipient,
            prev_randao,
            block_number,
            gas_limit,
            timestamp,
            extra_data,
            base_fee_per_gas,
            prev_proposer_pubkey,
        } = json;
        Self {
            parent_beacon_block_root,
            parent_hash,
            fee_recipient,
            prev_randao,
            block_number,
            gas_limit,
            timestamp,
            extra_data,
            base_fee_per_gas,
            prev_proposer_pubkey,
        }
    }
}

impl From<&Withdrawal> for WithdrawalJson {
    fn from(withdrawal: &Withdrawal) -> Self {
        let Withdrawal { index, validator_index, address, amount_gwei } = *withdrawal;
        Self { index, validator_index, address, amount: amount_gwei }
    }
}

impl From<WithdrawalJson> for Withdrawal {
    fn from(json: WithdrawalJson) -> Self {
        let WithdrawalJson { index, validator_index, address, amount } = json;
        Self { index, validator_index, address, amount_gwei: amount }
    }
}
