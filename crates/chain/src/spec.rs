//! Which rules apply to which block.
//!
//! Decides, from the genesis, the forks, the blob schedule and the fees, and checks a header
//! against its parent. Invariants: the forks are in order, and every blob schedule in it can be
//! calculated with.
//!
//! Never looks at a block's transactions: what they do is the business of execution.

mod berachain;
mod fees;
mod forks;
mod prague3;
mod validation;

use alloy_eips::eip7840::BlobParams;
use alloy_evm::eth::spec::EthExecutorSpec;
use alloy_genesis::Genesis;
use alloy_hardforks::{EthereumChainHardforks, EthereumHardfork, EthereumHardforks, ForkCondition};
use alloy_primitives::{Address, B256};

pub(crate) use berachain::ignored_keys;
pub use berachain::{
    BerachainConfig, CodeLimits, MissingProposerKey, Osaka1, Prague1, Prague2, Prague3, Prague4,
};
pub use fees::{BASE_FEE_ELASTICITY, base_fee};
pub use prague3::{BuildingRefused, Prague3Violation};
pub use validation::{HeaderError, HeaderField};

use crate::{
    Block, GenesisError, Header,
    genesis::{self, GenesisFile},
};

/// EIP-7934: 10 MiB, less 2 MiB for the beacon block around it.
const MAX_RLP_BLOCK_SIZE: usize = 8 << 20;

/// The rules of one chain.
#[derive(Clone, Debug)]
pub struct ChainSpec {
    genesis: Genesis,
    genesis_header: Header,
    genesis_hash: B256,
    forks: EthereumChainHardforks,
    /// By time; of two at the same time, the later fork comes later.
    blob_schedule: Vec<(u64, BlobParams)>,
    berachain: Option<BerachainConfig>,
    ignored_keys: Vec<String>,
}

impl ChainSpec {
    /// Reads the rules from the text of a genesis file as geth writes it.
    ///
    /// # Errors
    ///
    /// If the text is not such a file, names a fork that is not known, or schedules forks that
    /// cannot be.
    pub fn from_genesis_json(text: &str) -> Result<Self, GenesisError> {
        let file = genesis::parse(text)?;
        let config = &file.genesis.config;
        let forks = forks::read(config)?;
        berachain::check(file.berachain.as_ref(), config)?;
        let blob_schedule = forks::read_blob_schedule(config, file.berachain.is_some())?;
        let genesis_header = genesis::first_header(&file, &forks)?;
        let genesis_hash = genesis_header.hash_slow();
        let GenesisFile { genesis, berachain, ignored_keys, .. } = file;
        Ok(Self {
            genesis,
            genesis_header,
            genesis_hash,
            forks,
            blob_schedule,
            berachain,
            ignored_keys,
        })
    }

    /// The chain's id.
    pub fn chain_id(&self) -> u64 {
        self.genesis.config.chain_id
    }

    /// The genesis as it was read.
    pub fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// The keys of `config.berachain` that mean nothing here, as paths: whoever reads the file
    /// should warn of them.
    pub fn ignored_keys(&self) -> &[String] {
        &self.ignored_keys
    }

    /// The header of the first block.
    pub fn genesis_header(&self) -> Header {
        self.genesis_header.clone()
    }

    /// The hash of the first block.
    pub fn genesis_hash(&self) -> B256 {
        self.genesis_hash
    }

    /// The first block, which has no transactions.
    pub fn genesis_block(&self) -> Block {
        let mut block = Block::new(self.genesis_header(), Default::default());
        block.body.withdrawals = self.genesis_header.withdrawals_root.map(|_| Default::default());
        block
    }

    /// The blob parameters of a block at this time; none before Cancun.
    pub fn blob_params_at(&self, timestamp: u64) -> Option<BlobParams> {
        let mut schedule = self.blob_schedule.iter().rev();
        let (_, mut params) = *schedule.find(|(from, _)| *from <= timestamp)?;
        if let Some(least) = self.berachain().and_then(|own| own.least_blob_base_fee(timestamp)) {
            params.min_blob_fee = least;
        }
        Some(params)
    }

    /// The most bytes that the RLP of a block of this time may have (EIP-7934); no limit before
    /// Osaka.
    pub fn max_block_bytes_at(&self, timestamp: u64) -> Option<usize> {
        self.is_osaka(timestamp).then_some(MAX_RLP_BLOCK_SIZE)
    }

    fn is_osaka(&self, timestamp: u64) -> bool {
        self.is_osaka_active_at_timestamp(timestamp)
    }
}

impl EthereumHardforks for ChainSpec {
    fn ethereum_fork_activation(&self, fork: EthereumHardfork) -> ForkCondition {
        self.forks.ethereum_fork_activation(fork)
    }
}

impl EthExecutorSpec for ChainSpec {
    fn deposit_contract_address(&self) -> Option<Address> {
        let named = self.genesis.config.deposit_contract_address;
        named.or(self.berachain.as_ref().map(|_| berachain::DEPOSIT_CONTRACT))
    }
}

#[cfg(test)]
mod berachain_tests;
#[cfg(test)]
mod tests;
