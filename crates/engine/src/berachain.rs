//! What Berachain's Engine API says beyond Ethereum's, since Prague1: the key of the previous
//! block's proposer, without which neither a block's hash nor its first transaction is known.
//!
//! The key is `parentProposerPubKey` here, and only here: a header's JSON spells it differently.

use alloy_rpc_types_engine::{ExecutionPayloadEnvelopeV4, PayloadAttributes};
use preconf_chain::ProposerPublicKey;
use serde::{Deserialize, Serialize};

/// The attributes of `engine_forkchoiceUpdatedV3P11`. Without the key they are none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BerachainAttributes {
    /// Those that Ethereum has too.
    #[serde(flatten)]
    pub attributes: PayloadAttributes,
    /// The key of the previous block's proposer.
    #[serde(rename = "parentProposerPubKey")]
    pub parent_proposer_pubkey: ProposerPublicKey,
}

/// The answer to `engine_getPayloadV4P11`. Blobs are of EIP-4844, with one proof each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BerachainEnvelope {
    /// What Ethereum answers too.
    #[serde(flatten)]
    pub envelope: ExecutionPayloadEnvelopeV4,
    /// The key of the previous block's proposer. Older clients neither write nor read it.
    #[serde(rename = "parentProposerPubKey", skip_serializing_if = "Option::is_none")]
    pub parent_proposer_pubkey: Option<ProposerPublicKey>,
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{B256, hex};
    use serde_json::json;

    use super::*;

    #[test]
    fn attributes_are_read_and_written_as_the_consensus_client_spells_them() {
        let key = ProposerPublicKey::repeat_byte(0x95);
        let json = json!({
            "timestamp": "0x6b49d200", "prevRandao": B256::repeat_byte(1),
            "suggestedFeeRecipient": "0x3333333333333333333333333333333333333333",
            "withdrawals": [{
                "index": "0xffffffffffffffff", "validatorIndex": "0xffffffffffffffff",
                "address": "0x1ae7dd7ae06f6c58b4524d9c1f816094b1bccd8e", "amount": "0x65a03c40"
            }],
            "parentBeaconBlockRoot": B256::repeat_byte(2),
            "parentProposerPubKey": format!("0x{}", hex::encode(key)),
        });
        let read: BerachainAttributes = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(read.parent_proposer_pubkey, key);
        assert_eq!(read.attributes.timestamp, 1_800_000_000);
        assert_eq!(read.attributes.withdrawals.as_ref().unwrap()[0].amount, 0x65a0_3c40);
        assert_eq!(serde_json::to_value(&read).unwrap(), json);
    }

    #[test]
    fn attributes_without_a_whole_key_are_refused_by_its_name() {
        let mut json = json!({
            "timestamp": "0x5", "prevRandao": B256::ZERO,
            "suggestedFeeRecipient": "0x3333333333333333333333333333333333333333",
            "withdrawals": [], "parentBeaconBlockRoot": B256::ZERO,
        });
        let error = serde_json::from_value::<BerachainAttributes>(json.clone()).unwrap_err();
        assert!(error.to_string().contains("parentProposerPubKey"), "{error}");
        json["parentProposerPubKey"] = json!("0x1234");
        assert!(serde_json::from_value::<BerachainAttributes>(json).is_err());
    }
}
