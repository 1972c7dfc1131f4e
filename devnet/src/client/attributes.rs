//! What a consensus client wants a payload to have.

use alloy_rpc_types_engine::PayloadAttributes;
use preconf_chain::ProposerPublicKey;
use preconf_engine::{BerachainAttributes, ForkchoiceVersion};

/// The attributes of a payload, on either chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Those that Ethereum has.
    pub ethereum: PayloadAttributes,
    /// The key of the previous block's proposer, on Berachain since Prague1.
    pub prev_proposer_pubkey: Option<ProposerPublicKey>,
}

impl Attributes {
    /// The version of forkchoiceUpdated they come with.
    pub(crate) const fn version(&self) -> ForkchoiceVersion {
        match self.prev_proposer_pubkey {
            Some(_) => ForkchoiceVersion::V3P11,
            None => ForkchoiceVersion::V3,
        }
    }
}

impl From<PayloadAttributes> for Attributes {
    fn from(ethereum: PayloadAttributes) -> Self {
        Self { ethereum, prev_proposer_pubkey: None }
    }
}

impl From<&PayloadAttributes> for Attributes {
    fn from(ethereum: &PayloadAttributes) -> Self {
        ethereum.clone().into()
    }
}

impl From<BerachainAttributes> for Attributes {
    fn from(attributes: BerachainAttributes) -> Self {
        let BerachainAttributes { attributes: ethereum, parent_proposer_pubkey } = attributes;
        Self { ethereum, prev_proposer_pubkey: Some(parent_proposer_pubkey) }
    }
}

impl From<&Self> for Attributes {
    fn from(attributes: &Self) -> Self {
        attributes.clone()
    }
}
