//! Signing transactions.

use alloy_consensus::{
    SignableTransaction, Signed, TxEip1559, TxEnvelope, TxLegacy, transaction::RlpEcdsaEncodableTx,
};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{Address, Bytes, Signature, TxKind, U256};
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;

/// What a transaction pays for gas at most, in wei: far above any base fee of a devnet.
const MAX_FEE: u128 = 20_000_000_000;
/// What it gives to the proposer, in wei.
const TIP: u128 = 1_000_000_000;

/// What a transaction does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// Whom it calls, or that it creates.
    pub to: TxKind,
    /// What it pays him, in wei.
    pub value: U256,
    /// What it says to him.
    pub input: Bytes,
    /// The most gas it may use.
    pub gas_limit: u64,
    /// In the format of before EIP-2718.
    pub legacy: bool,
}

impl Intent {
    /// A payment.
    pub const fn payment(to: Address, value: U256) -> Self {
        Self { to: TxKind::Call(to), value, input: Bytes::new(), gas_limit: 21_000, legacy: false }
    }

    /// A call of a contract.
    pub const fn call(contract: Address, input: Bytes) -> Self {
        let gas_limit = 100_000;
        Self { to: TxKind::Call(contract), value: U256::ZERO, input, gas_limit, legacy: false }
    }

    /// A creation.
    pub const fn creation(code: Bytes, gas_limit: u64) -> Self {
        Self { to: TxKind::Create, value: U256::ZERO, input: code, gas_limit, legacy: false }
    }

    /// The signed transaction as it is handed in.
    pub fn sign(self, signer: &PrivateKeySigner, chain_id: u64, nonce: u64) -> Bytes {
        let Self { to, value, input, gas_limit, legacy } = self;
        let envelope: TxEnvelope = if legacy {
            let chain_id = Some(chain_id);
            let gas_price = MAX_FEE;
            let unsigned = TxLegacy { chain_id, nonce, gas_price, gas_limit, to, value, input };
            signed(unsigned, signer).into()
        } else {
            let unsigned = TxEip1559 {
                chain_id,
                nonce,
                gas_limit,
                max_fee_per_gas: MAX_FEE,
                max_priority_fee_per_gas: TIP,
                to,
                value,
                access_list: Default::default(),
                input,
            };
            signed(unsigned, signer).into()
        };
        envelope.encoded_2718().into()
    }
}

fn signed<T: SignableTransaction<Signature> + RlpEcdsaEncodableTx>(
    unsigned: T,
    signer: &PrivateKeySigner,
) -> Signed<T> {
    let signature = signer
        .sign_hash_sync(&unsigned.signature_hash())
        .expect("a key in memory signs every hash");
    unsigned.into_signed(signature)
}
