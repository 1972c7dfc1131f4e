//! A call as a transaction with a signature of zeros.

use alloy_consensus::{
    EthereumTxEnvelope, SignableTransaction, TxEip1559, TxEip4844, TxEip7702, TxLegacy,
};
use alloy_primitives::{Address, Signature, TxKind, U256};
use preconf_chain::TxEnvelope;
use revm::context_interface::result::InvalidTransaction;

use super::SimulateError;
use crate::call::{CallRequest, Refusal};

/// The transaction that a call means: of the newest type that holds what the call names.
pub(super) fn envelope(
    call: CallRequest,
    chain_id: u64,
    nonce: u64,
    gas_limit: u64,
) -> Result<TxEnvelope, SimulateError> {
    let callee = |missing| {
        let refusal = Refusal::Invalid(Box::new(missing));
        call.to.ok_or(SimulateError::Refused { refusal, gas: gas_limit })
    };
    let signature = Signature::new(U256::ZERO, U256::ZERO, false);
    let value = call.value.unwrap_or_default();
    let max_fee_per_gas = call.max_fee_per_gas.unwrap_or_default();
    let max_priority_fee_per_gas = call.max_priority_fee_per_gas.unwrap_or_default();
    let kind = call.to.map_or(TxKind::Create, TxKind::Call);
    let envelope: EthereumTxEnvelope<TxEip4844> = if let Some(gas_price) = call.gas_price {
        let (to, input) = (kind, call.data);
        TxLegacy { chain_id: None, nonce, gas_price, gas_limit, to, value, input }
            .into_signed(signature)
            .into()
    } else if let Some(authorization_list) = call.authorization_list {
        let to: Address = callee(InvalidTransaction::AuthorizationListInvalidFields)?;
        TxEip7702 {
            chain_id,
            nonce,
            gas_limit,
            max_fee_per_gas,
            max_priority_fee_per_gas,
            to,
            value,
            access_list: call.access_list.unwrap_or_default(),
            authorization_list,
            input: call.data,
        }
        .into_signed(signature)
        .into()
    } else if let Some(blob_versioned_hashes) = call.blob_versioned_hashes {
        let to = callee(InvalidTransaction::BlobCreateTransaction)?;
        TxEip4844 {
            chain_id,
            nonce,
            gas_limit,
            max_fee_per_gas,
            max_priority_fee_per_gas,
            to,
            value,
            access_list: call.access_list.unwrap_or_default(),
            blob_versioned_hashes,
            max_fee_per_blob_gas: call.max_fee_per_blob_gas.unwrap_or_default(),
            input: call.data,
        }
        .into_signed(signature)
        .into()
    } else {
        TxEip1559 {
            chain_id,
            nonce,
            gas_limit,
            max_fee_per_gas,
            max_priority_fee_per_gas,
            to: kind,
            value,
            access_list: call.access_list.unwrap_or_default(),
            input: call.data,
        }
        .into_signed(signature)
        .into()
    };
    Ok(envelope.into())
}
