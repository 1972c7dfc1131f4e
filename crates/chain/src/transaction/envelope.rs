//! The envelope that holds a transaction of any type of either chain.
//!
//! Blob transactions are held without their sidecar, as a block holds them. The envelope has no
//! JSON of its own: a transaction's one JSON form is [`crate::rpc::RpcTransaction`].

use alloy_consensus::{
    EthereumTxEnvelope, InMemorySize, TransactionEnvelope, TxEip4844,
    crypto::RecoveryError,
    transaction::{SignerRecoverable, TxHashRef},
};
use alloy_eips::eip4788::SYSTEM_ADDRESS;
use alloy_evm::{FromRecoveredTx, FromTxWithEncoded};
use alloy_primitives::{Address, B256, Bytes, Sealed, TxKind};
use revm::context::TxEnv;

use super::PolTx;

/// A signed transaction of any type, or Berachain's unsigned one.
#[derive(Clone, Debug, TransactionEnvelope)]
#[envelope(tx_type_name = TxType, serde_cfg(any()))]
pub enum TxEnvelope {
    /// One of Ethereum's types.
    #[envelope(flatten)]
    Ethereum(EthereumTxEnvelope<TxEip4844>),
    /// Berachain's proof-of-liquidity transaction.
    #[envelope(ty = 126)]
    Pol(Sealed<PolTx>),
}

impl TxEnvelope {
    /// The transaction's hash.
    pub fn hash(&self) -> &B256 {
        match self {
            Self::Ethereum(transaction) => transaction.tx_hash(),
            Self::Pol(transaction) => transaction.hash_ref(),
        }
    }

    /// Whether it is the chain's own: nobody sent it, so nobody is promised it.
    pub const fn is_pol(&self) -> bool {
        match self {
            Self::Ethereum(_) => false,
            Self::Pol(_) => true,
        }
    }
}

impl From<EthereumTxEnvelope<TxEip4844>> for TxEnvelope {
    fn from(transaction: EthereumTxEnvelope<TxEip4844>) -> Self {
        Self::Ethereum(transaction)
    }
}

impl From<PolTx> for TxEnvelope {
    fn from(transaction: PolTx) -> Self {
        Self::Pol(Sealed::new(transaction))
    }
}

impl TxHashRef for TxEnvelope {
    fn tx_hash(&self) -> &B256 {
        self.hash()
    }
}

/// The sender of a proof-of-liquidity transaction is the system, which does not sign.
impl SignerRecoverable for TxEnvelope {
    fn recover_signer(&self) -> Result<Address, RecoveryError> {
        match self {
            Self::Ethereum(transaction) => transaction.recover_signer(),
            Self::Pol(transaction) => pol_sender(transaction),
        }
    }

    fn recover_signer_unchecked(&self) -> Result<Address, RecoveryError> {
        match self {
            Self::Ethereum(transaction) => transaction.recover_signer_unchecked(),
            Self::Pol(transaction) => pol_sender(transaction),
        }
    }
}

fn pol_sender(transaction: &PolTx) -> Result<Address, RecoveryError> {
    if transaction.from == SYSTEM_ADDRESS {
        Ok(transaction.from)
    } else {
        Err(RecoveryError::new())
    }
}

impl InMemorySize for TxEnvelope {
    fn size(&self) -> usize {
        match self {
            Self::Ethereum(transaction) => transaction.size(),
            Self::Pol(transaction) => transaction.size() + size_of::<B256>(),
        }
    }
}

impl InMemorySize for TxType {
    fn size(&self) -> usize {
        size_of::<Self>()
    }
}

/// A proof-of-liquidity transaction is executed as a system call, not by this conversion, which
/// only describes it.
impl FromRecoveredTx<TxEnvelope> for TxEnv {
    fn from_recovered_tx(transaction: &TxEnvelope, sender: Address) -> Self {
        match transaction {
            TxEnvelope::Ethereum(transaction) => Self::from_recovered_tx(transaction, sender),
            TxEnvelope::Pol(transaction) => Self {
                tx_type: super::POL_TX_TYPE,
                caller: sender,
                gas_limit: transaction.gas_limit,
                gas_price: transaction.gas_price,
                kind: TxKind::Call(transaction.to),
                data: transaction.input.clone(),
                nonce: transaction.nonce,
                chain_id: Some(transaction.chain_id),
                ..Self::default()
            },
        }
    }
}

impl FromTxWithEncoded<TxEnvelope> for TxEnv {
    fn from_encoded_tx(transaction: &TxEnvelope, sender: Address, _encoded: Bytes) -> Self {
        Self::from_recovered_tx(transaction, sender)
    }
}

#[cfg(test)]
mod tests {
    use alloy_consensus::{Transaction as _, Typed2718};
    use alloy_eips::eip2718::Decodable2718;

    use super::*;
    use crate::{
        PolTx,
        testing::{chain, pol, signed, signer},
    };

    #[test]
    fn every_type_survives_encoding_and_keeps_its_sender() {
        for (name, transaction) in signed() {
            let encoded = alloy_eips::eip2718::Encodable2718::encoded_2718(&transaction);
            let decoded = TxEnvelope::decode_2718_exact(&encoded).unwrap();
            assert_eq!(decoded, transaction, "{name}");
            assert_eq!(decoded.recover_signer().unwrap(), signer().address(), "{name}");
        }
    }

    #[test]
    fn a_type_is_its_number_and_back() {
        for number in [0_u8, 1, 2, 3, 4, 0x7e] {
            assert_eq!(TxType::try_from(number).unwrap().ty(), number);
        }
        for number in [5_u8, 0x7d, 0x7f] {
            assert!(TxType::try_from(number).is_err());
        }
    }

    #[test]
    fn only_the_system_can_send_a_proof_of_liquidity_transaction() {
        assert_eq!(TxEnvelope::from(pol()).recover_signer().unwrap(), SYSTEM_ADDRESS);
        let forged = PolTx { from: Address::ZERO, ..pol() };
        assert!(TxEnvelope::from(forged).recover_signer().is_err());
    }

    #[test]
    fn the_public_chain_holds_every_ethereum_type_and_all_senders_can_be_recovered() {
        let mut seen = [false; 5];
        for transaction in chain().iter().flat_map(|block| &block.body.transactions) {
            seen[usize::from(transaction.ty())] = true;
            assert!(transaction.recover_signer().is_ok());
        }
        assert_eq!(seen, [true; 5]);
    }

    #[test]
    fn the_executors_form_has_the_fields_of_the_transaction() {
        for (name, transaction) in signed() {
            let form = TxEnv::from_recovered_tx(&transaction, signer().address());
            assert_eq!(form.tx_type, transaction.ty(), "{name}");
            assert_eq!(form.kind, transaction.kind(), "{name}");
            assert_eq!(form.nonce, transaction.nonce(), "{name}");
            assert_eq!(form.data, *transaction.input(), "{name}");
        }
        let form = TxEnv::from_recovered_tx(&TxEnvelope::from(pol()), SYSTEM_ADDRESS);
        assert_eq!(form.tx_type, 0x7e);
        assert_eq!(form.gas_limit, 30_000_000);
    }
}
