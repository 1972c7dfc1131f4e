//! Where a call runs: in a block's environment, or in what its caller wants that to be.

use std::collections::BTreeMap;

use alloy_evm::{EvmEnv, precompiles::PrecompilesMap};
use alloy_primitives::B256;
use alloy_rpc_types_eth::{BlockOverrides, state::StateOverride};
use preconf_chain::{ChainSpec, Header};
use preconf_state::{Overlay, StateReader};

use super::{
    CallError,
    overrides::{InvalidOverride, Precompiles, StateChange, small},
};
use crate::{NextBlock, block::evm_env};

/// How far back BLOCKHASH sees.
const BLOCK_HASH_WINDOW: u64 = 256;

/// The block in which a call is simulated.
#[derive(Clone, Debug)]
pub struct BlockContext {
    header: Header,
    blob_base_fee: Option<u128>,
    block_hashes: BTreeMap<u64, B256>,
    precompiles: Precompiles,
}

impl BlockContext {
    fn new(header: Header) -> Self {
        let (block_hashes, precompiles) = (BTreeMap::new(), Precompiles::default());
        Self { header, blob_base_fee: None, block_hashes, precompiles }
    }

    /// Puts the caller's wishes in the place of what the block says. Its fork follows from the
    /// number and time that result.
    ///
    /// # Errors
    /// [`CallError::Override`] if a wish cannot be fulfilled.
    pub fn override_block(&mut self, wanted: &BlockOverrides) -> Result<(), CallError> {
        let BlockOverrides {
            number,
            difficulty,
            time,
            gas_limit,
            coinbase,
            random,
            base_fee,
            blob_base_fee,
            beacon_root,
            block_hash,
        } = wanted;
        if beacon_root.is_some() {
            return Err(InvalidOverride::Unsupported("beaconRoot").into());
        }
        let header = &mut self.header;
        if let Some(number) = number {
            let number: u64 = small("number", *number)?;
            // Nobody knows the hashes of blocks that are still to come.
            let unknown = header.number.max(number.saturating_sub(BLOCK_HASH_WINDOW))..number;
            self.block_hashes.extend(unknown.map(|number| (number, B256::ZERO)));
            header.number = number;
        }
        self.block_hashes.extend(block_hash.iter().flatten());
        header.timestamp = time.unwrap_or(header.timestamp);
        header.gas_limit = gas_limit.unwrap_or(header.gas_limit);
        header.beneficiary = coinbase.unwrap_or(header.beneficiary);
        header.mix_hash = random.unwrap_or(header.mix_hash);
        // Since the merge nobody sees it.
        header.difficulty = difficulty.unwrap_or(header.difficulty);
        if let Some(fee) = base_fee {
            header.base_fee_per_gas = Some(small("baseFeePerGas", *fee)?);
        }
        self.blob_base_fee =
            blob_base_fee.map(|fee| small("blobBaseFee", fee)).transpose()?.or(self.blob_base_fee);
        Ok(())
    }

    /// Changes the state that `overlay` shows to what the caller wants it to be, and remembers
    /// which precompiles are then elsewhere.
    ///
    /// # Errors
    /// [`CallError::NeedState`] if state is not in memory, [`CallError::Override`] if a wish cannot
    /// be fulfilled.
    pub fn override_state<R: StateReader>(
        &mut self,
        spec: &ChainSpec,
        wanted: &StateOverride,
        overlay: &mut Overlay<R>,
    ) -> Result<(), CallError> {
        let fork = *self.evm_env(spec).spec_id();
        let StateChange { diff, precompiles } = StateChange::read(wanted, fork, overlay)?;
        self.precompiles = precompiles;
        overlay.push_layer(diff.into());
        Ok(())
    }

    /// The block's header, as far as it has one.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The block's gas limit.
    pub fn gas_limit(&self) -> u64 {
        self.header.gas_limit
    }

    pub(crate) fn evm_env(&self, spec: &ChainSpec) -> EvmEnv {
        let mut env = evm_env(spec, &self.header);
        if let Some(fee) = self.blob_base_fee {
            set_blob_base_fee(&mut env, fee);
        }
        env
    }

    /// The precompiles as the caller wants them; none if they are the fork's.
    pub(crate) fn precompiles(&self, env: &EvmEnv) -> Option<PrecompilesMap> {
        self.precompiles.map(*env.spec_id())
    }

    /// Tells the state which block hashes the caller wants.
    pub(crate) fn set_block_hashes<R>(&self, overlay: &mut Overlay<R>) {
        for (number, hash) in &self.block_hashes {
            overlay.set_block_hash(*number, *hash);
        }
    }
}

/// What a unit of blob gas costs, whatever the excess is.
pub(crate) fn set_blob_base_fee(env: &mut EvmEnv, fee: u128) {
    if let Some(blob) = &mut env.block_env.blob_excess_gas_and_price {
        blob.blob_gasprice = fee;
    }
}

impl From<&Header> for BlockContext {
    fn from(header: &Header) -> Self {
        Self::new(header.clone())
    }
}

impl From<&NextBlock> for BlockContext {
    fn from(block: &NextBlock) -> Self {
        Self::new(Header {
            parent_hash: block.parent_hash,
            beneficiary: block.fee_recipient,
            number: block.number,
            gas_limit: block.gas_limit,
            timestamp: block.timestamp,
            mix_hash: block.prev_randao,
            base_fee_per_gas: Some(block.base_fee_per_gas),
            excess_blob_gas: block.excess_blob_gas,
            parent_beacon_block_root: block.parent_beacon_block_root,
            ..Header::default()
        })
    }
}
