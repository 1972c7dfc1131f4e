//! Berachain's section of a genesis, and the forks that only Berachain has.
//!
//! A genesis without the section is Ethereum's.
//!
//! Invariants: those of `checks`, which looks at the section before anything follows from it.

mod checks;

use alloy_eips::eip7840::BlobParams;
use alloy_primitives::{Address, B256, address, b256};
use serde::Deserialize;
use thiserror::Error;

pub(super) use checks::check;
pub(crate) use checks::ignored_keys;

use super::ChainSpec;
use crate::{PolTx, ProposerPublicKey};

/// The chain ids of the public networks, whose genesis files always have the section, and what
/// their first blocks hash to.
const PUBLIC_NETWORKS: [(u64, Option<B256>); 2] = [
    (80_094, Some(b256!("0xd57819422128da1c44339fc7956662378c17e2213e669b427ac91cd11dfcfb38"))),
    (80_069, None),
];

/// Where validators deposit, on every Berachain network that does not say otherwise.
pub(super) const DEPOSIT_CONTRACT: Address = address!("0x4242424242424242424242424242424242424242");

/// How large code may be (BRIP-0010), and the code that creates it.
const OSAKA_CODE_LIMITS: CodeLimits = CodeLimits { code: 32_768, init_code: 65_536 };

/// `config.berachain` of a genesis.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BerachainConfig {
    /// Proof of liquidity, the 22nd field of the header, and a slower base fee.
    pub prague1: Prague1,
    /// Another floor of the base fee.
    pub prague2: Prague2,
    /// Transfers of some addresses are refused.
    #[serde(default)]
    pub prague3: Option<Prague3>,
    /// The end of Prague3.
    #[serde(default)]
    pub prague4: Option<Prague4>,
    /// Floors of the base fee and of the blob base fee.
    #[serde(default)]
    pub osaka1: Option<Osaka1>,
}

/// See [`BerachainConfig::prague1`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Prague1 {
    /// From when on, in seconds.
    pub time: u64,
    /// The base fee moves by at most this part of itself.
    pub base_fee_change_denominator: u64,
    /// The floor of the base fee.
    pub minimum_base_fee_wei: u64,
    /// The contract that the first transaction of every block calls.
    pub pol_distributor_address: Address,
}

/// See [`BerachainConfig::prague2`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Prague2 {
    /// From when on, in seconds.
    pub time: u64,
    /// The floor of the base fee.
    pub minimum_base_fee_wei: u64,
}

/// See [`BerachainConfig::prague3`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Prague3 {
    /// From when on, in seconds.
    pub time: u64,
    /// Who may transfer tokens to nobody but the rescue address, and receive none.
    pub blocked_addresses: Vec<Address>,
    /// To whom the blocked may transfer.
    pub rescue_address: Address,
    /// A vault that may not move at all.
    pub bex_vault_address: Address,
}

/// See [`BerachainConfig::prague4`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Prague4 {
    /// From when on, in seconds.
    pub time: u64,
}

/// See [`BerachainConfig::osaka1`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Osaka1 {
    /// From when on, in seconds.
    pub time: u64,
    /// The floor of the base fee.
    pub minimum_base_fee_wei: u64,
    /// The floor of the blob base fee.
    pub minimum_blob_base_fee_wei: u64,
}

/// How large code may be where that differs from Ethereum's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeLimits {
    /// The code of a contract, in bytes.
    pub code: usize,
    /// The code that creates it, in bytes.
    pub init_code: usize,
}

/// A block needs the key of the previous block's proposer, and it is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the block needs the key of the previous block's proposer")]
pub struct MissingProposerKey;

/// A fork's blob parameters: Ethereum's, but never with a base cost (EIP-7918 is not part of
/// BRIP-0010).
pub(super) fn blob_params(ethereum: BlobParams) -> BlobParams {
    BlobParams { blob_base_cost: 0, ..ethereum }
}

impl BerachainConfig {
    /// The denominator and the floor of the base fee after a block of this time.
    pub(super) fn base_fee_rules(&self, parent_timestamp: u64) -> Option<(u64, u64)> {
        let Self { prague1, prague2, osaka1, .. } = self;
        if parent_timestamp < prague1.time {
            return None;
        }
        let floors = [
            Some((prague1.time, prague1.minimum_base_fee_wei)),
            Some((prague2.time, prague2.minimum_base_fee_wei)),
            osaka1.as_ref().map(|fork| (fork.time, fork.minimum_base_fee_wei)),
        ];
        let active = floors.into_iter().flatten().rev().find(|(time, _)| *time <= parent_timestamp);
        Some((prague1.base_fee_change_denominator, active.map_or(0, |(_, floor)| floor)))
    }

    /// Where the curve of the blob base fee begins, in a block of this time, if not where
    /// Ethereum's does: it multiplies the whole curve, as in EIP-7762.
    pub(super) fn least_blob_base_fee(&self, timestamp: u64) -> Option<u128> {
        let active = self.osaka1.as_ref().filter(|fork| fork.time <= timestamp)?;
        Some(active.minimum_blob_base_fee_wei.into())
    }
}

impl ChainSpec {
    /// Berachain's section of the genesis; none on Ethereum.
    pub fn berachain(&self) -> Option<&BerachainConfig> {
        self.berachain.as_ref()
    }

    /// Whether a block of this time has a proof-of-liquidity transaction and the key that it is
    /// made from.
    pub fn is_prague1_active_at_timestamp(&self, timestamp: u64) -> bool {
        self.berachain.as_ref().is_some_and(|section| section.prague1.time <= timestamp)
    }

    /// What the genesis of this public network hashes to, as far as it is known here.
    pub fn public_genesis_hash(&self) -> Option<B256> {
        let known = PUBLIC_NETWORKS.iter().find(|(id, _)| *id == self.chain_id());
        known.and_then(|(_, hash)| *hash)
    }

    /// How large code may be in a block of this time, where that differs from Ethereum's.
    pub fn code_limits_at(&self, timestamp: u64) -> Option<CodeLimits> {
        (self.berachain.is_some() && self.is_osaka(timestamp)).then_some(OSAKA_CODE_LIMITS)
    }

    /// Whether blobs come with cell proofs (EIP-7594, sidecars of version 1) in a block of this
    /// time. On Berachain they keep the sidecars of EIP-4844.
    pub fn has_cell_proofs_at(&self, timestamp: u64) -> bool {
        self.berachain.is_none() && self.is_osaka(timestamp)
    }

    /// The transaction that a block must begin with; none before Prague1.
    ///
    /// # Errors
    ///
    /// If the block must have one and the key is absent.
    pub fn pol_transaction(
        &self,
        block_number: u64,
        timestamp: u64,
        base_fee: u64,
        prev_proposer: Option<&ProposerPublicKey>,
    ) -> Result<Option<PolTx>, MissingProposerKey> {
        let Some(section) = self.berachain.as_ref() else { return Ok(None) };
        if timestamp < section.prague1.time {
            return Ok(None);
        }
        let distributor = section.prague1.pol_distributor_address;
        let key = prev_proposer.ok_or(MissingProposerKey)?;
        Ok(Some(PolTx::for_block(self.chain_id(), distributor, block_number, base_fee, key)))
    }
}
