//! What is known about a block before its transactions: the environment they run in.

use alloy_consensus::constants::EMPTY_OMMER_ROOT_HASH;
use alloy_eips::{eip2935, eip4788, eip4895::Withdrawal, eip7002, eip7251};
use alloy_evm::EvmEnv;
use alloy_hardforks::EthereumHardforks;
use alloy_primitives::{Address, B256, Bytes, FixedBytes, U256};
use preconf_chain::{ChainSpec, Header};
use preconf_state::Key;

/// The slots in which the contracts of EIP-7002 and EIP-7251 keep excess, count, head and tail.
const REQUEST_QUEUE_SLOTS: u64 = 4;

/// How many entries each of the two ring buffers of EIP-4788 has.
const BEACON_ROOTS_BUFFER: u64 = 8_191;

/// A block that is about to be executed.
///
/// Its fork follows from `timestamp`; fields of later forks are ignored by earlier ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NextBlock {
    /// Hash of the block below.
    pub parent_hash: B256,
    /// Root of the parent beacon block, which EIP-4788 makes readable.
    pub parent_beacon_block_root: Option<B256>,
    /// Number of the block.
    pub number: u64,
    /// Time of the block, in seconds.
    pub timestamp: u64,
    /// Who gets the priority fees.
    pub fee_recipient: Address,
    /// What PREVRANDAO returns.
    pub prev_randao: B256,
    /// What DIFFICULTY returns before the merge; zero since then.
    pub difficulty: U256,
    /// The most gas its transactions may use.
    pub gas_limit: u64,
    /// What each unit of gas costs at least.
    pub base_fee_per_gas: u64,
    /// Whatever the builder wants to say.
    pub extra_data: Bytes,
    /// Payments from the consensus layer, made after the transactions.
    pub withdrawals: Vec<Withdrawal>,
    /// How much blob gas the blocks below used beyond the target.
    pub excess_blob_gas: Option<u64>,
    /// Public key of the previous block's proposer, on chains whose header has it.
    pub prev_proposer_pubkey: Option<FixedBytes<48>>,
}

impl NextBlock {
    /// The environment that a finished block was executed in.
    pub fn from_header(header: &Header, withdrawals: Vec<Withdrawal>) -> Self {
        Self {
            parent_hash: header.parent_hash,
            parent_beacon_block_root: header.parent_beacon_block_root,
            number: header.number,
            timestamp: header.timestamp,
            fee_recipient: header.beneficiary,
            prev_randao: header.mix_hash,
            difficulty: header.difficulty,
            gas_limit: header.gas_limit,
            base_fee_per_gas: header.base_fee_per_gas.unwrap_or_default(),
            extra_data: header.extra_data.clone(),
            withdrawals,
            excess_blob_gas: header.excess_blob_gas,
            prev_proposer_pubkey: header.prev_proposer_pubkey,
        }
    }

    /// The state that executing this block reads whatever its transactions are, as far as it can be
    /// named in advance: worth fetching together before it begins.
    pub fn keys(&self, spec: &ChainSpec) -> Vec<Key> {
        let mut keys =
            vec![Key::Account(eip4788::SYSTEM_ADDRESS), Key::Account(self.fee_recipient)];
        if spec.is_cancun_active_at_timestamp(self.timestamp) {
            let contract = eip4788::BEACON_ROOTS_ADDRESS;
            let slot = self.timestamp % BEACON_ROOTS_BUFFER;
            keys.push(Key::Account(contract));
            keys.push(Key::Slot(contract, U256::from(slot)));
            keys.push(Key::Slot(contract, U256::from(slot + BEACON_ROOTS_BUFFER)));
        }
        if spec.is_prague_active_at_timestamp(self.timestamp) {
            let contract = eip2935::HISTORY_STORAGE_ADDRESS;
            let slot = self.number.saturating_sub(1) % eip2935::HISTORY_SERVE_WINDOW as u64;
            keys.push(Key::Account(contract));
            keys.push(Key::Slot(contract, U256::from(slot)));
            for contract in [
                eip7002::WITHDRAWAL_REQUEST_PREDEPLOY_ADDRESS,
                eip7251::CONSOLIDATION_REQUEST_PREDEPLOY_ADDRESS,
            ] {
                keys.push(Key::Account(contract));
                keys.extend(
                    (0..REQUEST_QUEUE_SLOTS).map(|slot| Key::Slot(contract, U256::from(slot))),
                );
            }
        }
        if spec.is_prague1_active_at_timestamp(self.timestamp) {
            let distributor = spec.berachain().map(|own| own.prague1.pol_distributor_address);
            keys.extend(distributor.map(Key::Account));
        }
        keys.extend(self.withdrawals.iter().map(|withdrawal| Key::Account(withdrawal.address)));
        keys
    }

    /// The header as far as it is known now: without roots, bloom and gas used.
    pub(crate) fn header(&self, spec: &ChainSpec) -> Header {
        let london = spec.is_london_active_at_block(self.number);
        let cancun = spec.is_cancun_active_at_timestamp(self.timestamp);
        let prague1 = spec.is_prague1_active_at_timestamp(self.timestamp);
        Header {
            parent_hash: self.parent_hash,
            ommers_hash: EMPTY_OMMER_ROOT_HASH,
            beneficiary: self.fee_recipient,
            number: self.number,
            gas_limit: self.gas_limit,
            timestamp: self.timestamp,
            extra_data: self.extra_data.clone(),
            mix_hash: self.prev_randao,
            difficulty: self.difficulty,
            base_fee_per_gas: london.then_some(self.base_fee_per_gas),
            excess_blob_gas: self.excess_blob_gas.filter(|_| cancun),
            parent_beacon_block_root: self.parent_beacon_block_root.filter(|_| cancun),
            prev_proposer_pubkey: self.prev_proposer_pubkey.filter(|_| prague1),
            ..Header::default()
        }
    }
}

/// The EVM's view of a block.
pub(crate) fn evm_env(spec: &ChainSpec, header: &Header) -> EvmEnv {
    let blob_params = spec.blob_params_at(header.timestamp);
    let mut env = EvmEnv::for_eth_block(header, spec, spec.chain_id(), blob_params);
    if let Some(limits) = spec.code_limits_at(header.timestamp) {
        env.cfg_env.limit_contract_code_size = Some(limits.code);
        env.cfg_env.limit_contract_initcode_size = Some(limits.init_code);
    }
    env
}
