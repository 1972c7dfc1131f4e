//! Why a call is not a transaction that could be executed, in the words that wallets look for.
//!
//! The EVM checks the same, in another order and with other words. Clients agree on these, and on
//! the order: nonce, fees, funds, and only then gas.

use alloy_eips::eip4844::DATA_GAS_PER_BLOB;
use alloy_evm::EvmEnv;
use alloy_primitives::{Address, U256};
use preconf_state::Account;
use revm::{
    context::{Cfg as _, TxEnv},
    context_interface::result::InvalidTransaction,
};

/// Why a call is not executed at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// An earlier transaction of the sender is missing.
    #[error("nonce too high: address {sender}, tx: {tx} state: {state}")]
    NonceTooHigh {
        /// Who sends it.
        sender: Address,
        /// The call's nonce.
        tx: u64,
        /// The sender's nonce.
        state: u64,
    },
    /// The sender has sent a transaction with this nonce.
    #[error("nonce too low: address {sender}, tx: {tx} state: {state}")]
    NonceTooLow {
        /// Who sends it.
        sender: Address,
        /// The call's nonce.
        tx: u64,
        /// The sender's nonce.
        state: u64,
    },
    /// The sender can never send again.
    #[error("nonce has max value: address {sender}, nonce: {nonce}")]
    NonceMax {
        /// Who sends it.
        sender: Address,
        /// The sender's nonce.
        nonce: u64,
    },
    /// The part is more than the whole.
    #[error(
        "max priority fee per gas higher than max fee per gas: address {sender}, \
         maxPriorityFeePerGas: {tip}, maxFeePerGas: {max}"
    )]
    TipAboveMaxFee {
        /// Who sends it.
        sender: Address,
        /// The most to pay beyond the base fee.
        tip: u128,
        /// The most to pay.
        max: u128,
    },
    /// It does not pay the base fee.
    #[error(
        "max fee per gas less than block base fee: address {sender}, maxFeePerGas: {max}, \
         baseFee: {base_fee}"
    )]
    MaxFeeTooLow {
        /// Who sends it.
        sender: Address,
        /// The most to pay.
        max: u128,
        /// What the block asks.
        base_fee: u64,
    },
    /// It does not pay the base fee of blobs.
    #[error(
        "max fee per blob gas less than block blob gas fee: address {sender} \
         blobGasFeeCap: {max}, blobBaseFee: {base_fee}"
    )]
    MaxBlobFeeTooLow {
        /// Who sends it.
        sender: Address,
        /// The most to pay.
        max: u128,
        /// What the block asks.
        base_fee: u128,
    },
    /// The sender cannot pay the most that it may cost.
    #[error("insufficient funds for gas * price + value: address {sender} have {have} want {want}")]
    InsufficientFunds {
        /// Who sends it.
        sender: Address,
        /// What the sender has.
        have: U256,
        /// What it may cost.
        want: U256,
    },
    /// Nobody can pay the most that it may cost.
    #[error(
        "insufficient funds for gas * price + value: address {0} required balance exceeds 256 bits"
    )]
    CostOverflow(Address),
    /// It cannot even begin.
    #[error("intrinsic gas too low: have {have}, want {want}")]
    IntrinsicGas {
        /// The gas it has.
        have: u64,
        /// What it needs to begin.
        want: u64,
    },
    /// It cannot pay for its data (EIP-7623).
    #[error("insufficient gas for floor data gas cost: have {have}, want {want}")]
    FloorGas {
        /// The gas it has.
        have: u64,
        /// What its data costs.
        want: u64,
    },
    /// The code that creates the contract is too long (EIP-3860).
    #[error("max initcode size exceeded: code size {size} limit {limit}")]
    InitCodeTooLarge {
        /// How long it is.
        size: usize,
        /// How long it may be.
        limit: usize,
    },
    /// It is none for another reason.
    #[error("{0}")]
    Invalid(Box<InvalidTransaction>),
}

impl Refusal {
    /// The code that `eth_simulateV1` has for it.
    pub fn code(&self) -> i64 {
        match self {
            Self::NonceTooLow { .. } => -38_010,
            Self::NonceTooHigh { .. } => -38_011,
            Self::MaxFeeTooLow { .. } => -38_012,
            Self::IntrinsicGas { .. } | Self::FloorGas { .. } => -38_013,
            Self::InsufficientFunds { .. } | Self::CostOverflow(_) => -38_014,
            Self::InitCodeTooLarge { .. } => -38_025,
            Self::TipAboveMaxFee { .. } => -32_602,
            Self::NonceMax { .. } | Self::MaxBlobFeeTooLow { .. } | Self::Invalid(_) => -32_603,
        }
    }

    /// Sorts what the EVM refused, which is what was not found before.
    pub(crate) fn of(invalid: InvalidTransaction, form: &TxEnv, env: &EvmEnv) -> Self {
        if let InvalidTransaction::CallGasCostMoreThanGasLimit { initial_gas, gas_limit } = invalid
        {
            return Self::IntrinsicGas { have: gas_limit, want: initial_gas };
        }
        if let InvalidTransaction::GasFloorMoreThanGasLimit { gas_floor, gas_limit } = invalid {
            return Self::FloorGas { have: gas_limit, want: gas_floor };
        }
        if matches!(invalid, InvalidTransaction::CreateInitCodeSizeLimit) {
            let (size, limit) = (form.data.len(), env.cfg_env.max_initcode_size());
            return Self::InitCodeTooLarge { size, limit };
        }
        Self::Invalid(Box::new(invalid))
    }

    /// Tells whether more gas might help.
    pub(crate) fn is_too_little_gas(&self) -> bool {
        matches!(self, Self::IntrinsicGas { .. } | Self::FloorGas { .. })
    }
}

/// Refuses a sender whose nonce is another one.
pub(crate) fn check_nonce(form: &TxEnv, nonce: u64, account: &Account) -> Result<(), Refusal> {
    let (sender, tx, state) = (form.caller, nonce, account.nonce);
    if tx > state {
        return Err(Refusal::NonceTooHigh { sender, tx, state });
    }
    if tx < state {
        return Err(Refusal::NonceTooLow { sender, tx, state });
    }
    if state == u64::MAX {
        return Err(Refusal::NonceMax { sender, nonce: state });
    }
    Ok(())
}

/// Refuses fees that are too low, and senders that cannot pay. Where base fees are not checked,
/// whoever names no price pays none.
pub(crate) fn check_payment(form: &TxEnv, env: &EvmEnv, account: &Account) -> Result<(), Refusal> {
    let (sender, max) = (form.caller, form.gas_price);
    let tip = form.gas_priority_fee.unwrap_or_default();
    let free = env.cfg_env.disable_base_fee;
    if !(free && max == 0 && tip == 0) {
        if tip > max {
            return Err(Refusal::TipAboveMaxFee { sender, tip, max });
        }
        let base_fee = env.block_env.basefee;
        if max < u128::from(base_fee) {
            return Err(Refusal::MaxFeeTooLow { sender, max, base_fee });
        }
    }
    let blob_gas = form.blob_hashes.len() as u64 * DATA_GAS_PER_BLOB;
    let max = form.max_fee_per_blob_gas;
    if blob_gas > 0 && !(free && max == 0) {
        let blob = env.block_env.blob_excess_gas_and_price;
        let base_fee = blob.map_or(0, |blob| blob.blob_gasprice);
        if max < base_fee {
            return Err(Refusal::MaxBlobFeeTooLow { sender, max, base_fee });
        }
    }
    let gas = U256::from(form.gas_limit) * U256::from(form.gas_price);
    let blobs = U256::from(blob_gas) * U256::from(form.max_fee_per_blob_gas);
    let want = gas.checked_add(blobs).and_then(|sum| sum.checked_add(form.value));
    let want = want.ok_or(Refusal::CostOverflow(sender))?;
    let have = account.balance;
    if have < want {
        return Err(Refusal::InsufficientFunds { sender, have, want });
    }
    Ok(())
}
