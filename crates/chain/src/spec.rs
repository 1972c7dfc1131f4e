//! Which rules apply to which block.
//!
//! Decides, from the genesis, the forks, the blob schedule and the fees, and checks a header
//! against its parent. Invariants: the forks are in order, and every blob schedule in it can be
//! calculated with.
//!
//! Never looks at a block's transactions: what they do is the business of execution.

mod fees;
mod forks;
mod validation;

use alloy_eips::eip7840::BlobParams;
use alloy_evm::eth::spec::EthExecutorSpec;
use alloy_genesis::Genesis;
use alloy_hardforks::{EthereumChainHardforks, EthereumHardfork, EthereumHardforks, ForkCondition};
use alloy_primitives::{Address, B256};

pub use fees::{BASE_FEE_ELASTICITY, base_fee};
pub use validation::{HeaderError, HeaderField};

use crate::{Block, GenesisError, Header, genesis};

/// The rules of one chain.
#[derive(Clone, Debug)]
pub struct ChainSpec {
    genesis: Genesis,
    genesis_header: Header,
    genesis_hash: B256,
    forks: EthereumChainHardforks,
    /// By time; of two at the same time, the later fork comes later.
    blob_schedule: Vec<(u64, BlobParams)>,
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
        let forks = forks::read(&file.genesis.config)?;
        let blob_schedule = forks::read_blob_schedule(&file.genesis.config)?;
        let genesis_header = genesis::first_header(&file, &forks)?;
        let genesis_hash = genesis_header.hash_slow();
        Ok(Self { genesis: file.genesis, genesis_header, genesis_hash, forks, blob_schedule })
    }

    /// The chain's id.
    pub fn chain_id(&self) -> u64 {
        self.genesis.config.chain_id
    }

    /// The genesis as it was read.
    pub fn genesis(&self) -> &Genesis {
        &self.genesis
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
        self.blob_schedule
            .iter()
            .rev()
            .find(|(from, _)| *from <= timestamp)
            .map(|(_, params)| *params)
    }
}

impl EthereumHardforks for ChainSpec {
    fn ethereum_fork_activation(&self, fork: EthereumHardfork) -> ForkCondition {
        self.forks.ethereum_fork_activation(fork)
    }
}

impl EthExecutorSpec for ChainSpec {
    fn deposit_contract_address(&self) -> Option<Address> {
        self.genesis.config.deposit_contract_address
    }
}

#[cfg(test)]
mod tests;
