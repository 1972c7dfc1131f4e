//! What a caller asks for, and the transaction that it means.

use alloy_consensus::constants::{
    EIP1559_TX_TYPE_ID, EIP2930_TX_TYPE_ID, EIP4844_TX_TYPE_ID, EIP7702_TX_TYPE_ID,
    LEGACY_TX_TYPE_ID,
};
use alloy_eips::{eip2930::AccessList, eip7702::SignedAuthorization};
use alloy_primitives::{Address, B256, Bytes, TxKind, U256};
use alloy_rpc_types_eth::TransactionRequest;
use preconf_chain::ChainSpec;
use revm::context::{TxEnv, either::Either};

use super::CallError;

/// What `eth_call` is given. Whatever is absent has the default that geth gives it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallRequest {
    /// Who calls; the zero address if nobody is named.
    pub from: Option<Address>,
    /// Who is called; a contract is created if nobody is named.
    pub to: Option<Address>,
    /// The most gas to use; [`GAS_CAP`](super::GAS_CAP) applies in any case.
    pub gas: Option<u64>,
    /// Price of gas; excludes the two below.
    pub gas_price: Option<u128>,
    /// The most to pay for gas.
    pub max_fee_per_gas: Option<u128>,
    /// The most to pay beyond the base fee.
    pub max_priority_fee_per_gas: Option<u128>,
    /// The most to pay for blob gas.
    pub max_fee_per_blob_gas: Option<u128>,
    /// What is transferred.
    pub value: Option<U256>,
    /// What the callee is given.
    pub data: Bytes,
    /// A call ignores it: the account's own nonce counts. A simulation that validates does not.
    pub nonce: Option<u64>,
    /// The chain that is meant; ours if none is named.
    pub chain_id: Option<u64>,
    /// What is to be warm from the start.
    pub access_list: Option<AccessList>,
    /// The blobs that come with it (EIP-4844).
    pub blob_versioned_hashes: Option<Vec<B256>>,
    /// Code to be set (EIP-7702).
    pub authorization_list: Option<Vec<SignedAuthorization>>,
}

impl TryFrom<TransactionRequest> for CallRequest {
    type Error = CallError;

    fn try_from(request: TransactionRequest) -> Result<Self, CallError> {
        let input = request.input.try_into_unique_input();
        Ok(Self {
            from: request.from,
            to: request.to.and_then(|to| to.to().copied()),
            gas: request.gas,
            gas_price: request.gas_price,
            max_fee_per_gas: request.max_fee_per_gas,
            max_priority_fee_per_gas: request.max_priority_fee_per_gas,
            max_fee_per_blob_gas: request.max_fee_per_blob_gas,
            value: request.value,
            data: input.map_err(|_| CallError::ConflictingInput)?.unwrap_or_default(),
            nonce: request.nonce,
            chain_id: request.chain_id,
            access_list: request.access_list,
            blob_versioned_hashes: request.blob_versioned_hashes,
            authorization_list: request.authorization_list,
        })
    }
}

impl CallRequest {
    /// Refuses a request that contradicts itself or is meant for another chain.
    pub(crate) fn check(&self, spec: &ChainSpec) -> Result<(), CallError> {
        if self.is_dynamic() && self.gas_price.is_some() {
            return Err(CallError::ConflictingFees);
        }
        let (have, want) = (self.chain_id.unwrap_or(spec.chain_id()), spec.chain_id());
        if have != want {
            return Err(CallError::WrongChain { have, want });
        }
        Ok(())
    }

    fn is_dynamic(&self) -> bool {
        self.max_fee_per_gas.is_some() || self.max_priority_fee_per_gas.is_some()
    }

    /// The request as the EVM takes it, without its gas limit.
    pub(super) fn form(&self, spec: &ChainSpec) -> Result<TxEnv, CallError> {
        self.check(spec)?;
        let authorizations = self.authorization_list.clone().unwrap_or_default();
        let tx_type = if !authorizations.is_empty() {
            EIP7702_TX_TYPE_ID
        } else if self.blob_versioned_hashes.is_some() {
            EIP4844_TX_TYPE_ID
        } else if self.is_dynamic() {
            EIP1559_TX_TYPE_ID
        } else if self.access_list.is_some() {
            EIP2930_TX_TYPE_ID
        } else {
            LEGACY_TX_TYPE_ID
        };
        let price = self.gas_price.or(self.max_fee_per_gas).unwrap_or_default();
        let tip = match self.gas_price {
            Some(price) => price,
            None => self.max_priority_fee_per_gas.unwrap_or_default(),
        };
        Ok(TxEnv {
            tx_type,
            caller: self.from.unwrap_or_default(),
            gas_price: price,
            gas_priority_fee: (tx_type >= EIP1559_TX_TYPE_ID).then_some(tip),
            kind: self.to.map_or(TxKind::Create, TxKind::Call),
            value: self.value.unwrap_or_default(),
            data: self.data.clone(),
            chain_id: Some(spec.chain_id()),
            access_list: self.access_list.clone().unwrap_or_default(),
            blob_hashes: self.blob_versioned_hashes.clone().unwrap_or_default(),
            max_fee_per_blob_gas: self.max_fee_per_blob_gas.unwrap_or_default(),
            authorization_list: authorizations.into_iter().map(Either::Left).collect(),
            ..TxEnv::default()
        })
    }
}
