//! A transaction in JSON.

use alloy_consensus::{
    EthereumTxEnvelope, SignableTransaction, Signed, Transaction as _, TxEip1559, TxEip2930,
    TxEip4844, TxEip7702, TxLegacy, Typed2718,
};
use alloy_eips::{eip2930::AccessList, eip4788::SYSTEM_ADDRESS, eip7702::SignedAuthorization};
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U8, U64, U128, U256};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Inclusion;
use crate::{PolTx, Transaction, TxEnvelope, TxType};

/// A transaction as `eth_getTransactionByHash` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "TransactionJson", try_from = "TransactionJson")]
pub struct RpcTransaction {
    /// What was signed.
    pub transaction: TxEnvelope,
    /// Who sent it. Taken as shown when it is read, not recovered.
    pub from: Address,
    /// The block's hash; none while it is pending.
    pub block_hash: Option<B256>,
    /// The block's number; none while it is in the pool.
    pub block_number: Option<u64>,
    /// The block's timestamp, where the client shows it.
    pub block_timestamp: Option<u64>,
    /// Where in the block it is.
    pub transaction_index: Option<u64>,
    /// What it paid for each unit of gas, or would at most.
    pub gas_price: u128,
}

/// Why JSON is not a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvalidRpcTransaction {
    /// Its type requires a field.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A field holds what it cannot.
    #[error("{0} is out of range")]
    OutOfRange(&'static str),
    /// Its type is not known.
    #[error("type {0:#04x} is not supported")]
    UnsupportedType(u8),
    /// Its fields do not hash to what it says, so one of them is not known or not right.
    #[error("the fields hash to {computed}, not to {shown}")]
    Hash {
        /// What it says.
        shown: B256,
        /// What the fields hash to.
        computed: B256,
    },
}

impl RpcTransaction {
    /// A transaction of a block.
    pub fn included(transaction: &Transaction, inclusion: &Inclusion, index: u64) -> Self {
        Self {
            transaction: transaction.envelope().clone(),
            from: transaction.signer(),
            block_hash: inclusion.block_hash,
            block_number: Some(inclusion.block_number),
            block_timestamp: Some(inclusion.block_timestamp),
            transaction_index: Some(index),
            gas_price: transaction.envelope().effective_gas_price(inclusion.base_fee_per_gas),
        }
    }

    /// A transaction that waits in the pool.
    pub fn pending(transaction: &Transaction) -> Self {
        Self {
            transaction: transaction.envelope().clone(),
            from: transaction.signer(),
            block_hash: None,
            block_number: None,
            block_timestamp: None,
            transaction_index: None,
            gas_price: transaction.envelope().max_fee_per_gas(),
        }
    }

    /// The transaction, with the sender that was shown.
    pub fn to_transaction(&self) -> Transaction {
        Transaction::from_envelope(self.transaction.clone(), self.from)
    }
}

/// Every field of every type, in the order in which clients write them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TransactionJson {
    block_hash: Option<B256>,
    block_number: Option<U64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    block_timestamp: Option<U64>,
    from: Address,
    gas: U64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gas_price: Option<U128>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_fee_per_gas: Option<U128>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_priority_fee_per_gas: Option<U128>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_fee_per_blob_gas: Option<U128>,
    hash: B256,
    #[serde(alias = "data")]
    input: Bytes,
    nonce: U64,
    to: Option<Address>,
    transaction_index: Option<U64>,
    #[serde(default)]
    value: U256,
    #[serde(default, rename = "type")]
    kind: U8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    access_list: Option<AccessList>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    chain_id: Option<U64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    blob_versioned_hashes: Option<Vec<B256>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    authorization_list: Option<Vec<SignedAuthorization>>,
    #[serde(default)]
    v: Option<U128>,
    #[serde(default)]
    r: U256,
    #[serde(default)]
    s: U256,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    y_parity: Option<U8>,
}

impl From<RpcTransaction> for TransactionJson {
    fn from(shown: RpcTransaction) -> Self {
        let transaction = &shown.transaction;
        let dynamic = transaction.is_dynamic_fee();
        let json = Self {
            block_hash: shown.block_hash,
            block_number: shown.block_number.map(U64::from),
            block_timestamp: shown.block_timestamp.map(U64::from),
            from: shown.from,
            gas: U64::from(transaction.gas_limit()),
            gas_price: Some(U128::from(shown.gas_price)),
            max_fee_per_gas: dynamic.then(|| U128::from(transaction.max_fee_per_gas())),
            max_priority_fee_per_gas: transaction.max_priority_fee_per_gas().map(U128::from),
            max_fee_per_blob_gas: transaction.max_fee_per_blob_gas().map(U128::from),
            hash: *transaction.hash(),
            input: transaction.input().clone(),
            nonce: U64::from(transaction.nonce()),
            to: transaction.to(),
            transaction_index: shown.transaction_index.map(U64::from),
            value: transaction.value(),
            kind: U8::from(transaction.ty()),
            access_list: transaction.access_list().cloned(),
            chain_id: transaction.chain_id().map(U64::from),
            blob_versioned_hashes: transaction.blob_versioned_hashes().map(<[B256]>::to_vec),
            authorization_list: transaction.authorization_list().map(<[_]>::to_vec),
            ..Self::default()
        };
        json.with_signature(transaction)
    }
}

impl TransactionJson {
    fn with_signature(mut self, transaction: &TxEnvelope) -> Self {
        let signature = match transaction {
            TxEnvelope::Ethereum(transaction) => *transaction.signature(),
            TxEnvelope::Pol(_) => {
                self.v = Some(U128::ZERO);
                return self;
            }
        };
        let parity = u128::from(signature.v());
        self.r = signature.r();
        self.s = signature.s();
        self.v = Some(U128::from(if transaction.is_legacy() {
            // EIP-155 puts the chain id into `v`; before it, `v` was 27 or 28.
            transaction.chain_id().map_or(27, |id| 35 + 2 * u128::from(id)) + parity
        } else {
            self.y_parity = Some(U8::from(parity));
            parity
        }));
        self
    }
}

impl TryFrom<TransactionJson> for RpcTransaction {
    type Error = InvalidRpcTransaction;

    fn try_from(json: TransactionJson) -> Result<Self, Self::Error> {
        let transaction = json.envelope()?;
        let computed = *transaction.hash();
        if computed != json.hash {
            return Err(InvalidRpcTransaction::Hash { shown: json.hash, computed });
        }
        let gas_price = match json.gas_price {
            Some(price) => price.to(),
            None => transaction.max_fee_per_gas(),
        };
        Ok(Self {
            transaction,
            from: json.from,
            block_hash: json.block_hash,
            block_number: json.block_number.map(|number| number.to()),
            block_timestamp: json.block_timestamp.map(|timestamp| timestamp.to()),
            transaction_index: json.transaction_index.map(|index| index.to()),
            gas_price,
        })
    }
}

impl TransactionJson {
    fn envelope(&self) -> Result<TxEnvelope, InvalidRpcTransaction> {
        use alloy_consensus::TxType as E;
        let kind: u8 = self.kind.to();
        let kind =
            TxType::try_from(kind).map_err(|_| InvalidRpcTransaction::UnsupportedType(kind))?;
        Ok(match kind {
            TxType::Ethereum(E::Legacy) => self.signed_legacy()?,
            TxType::Ethereum(E::Eip2930) => self.signed(self.eip2930()?)?,
            TxType::Ethereum(E::Eip1559) => self.signed(self.eip1559()?)?,
            TxType::Ethereum(E::Eip4844) => self.signed(self.eip4844()?)?,
            TxType::Ethereum(E::Eip7702) => self.signed(self.eip7702()?)?,
            TxType::Pol => self.pol()?.into(),
        })
    }

    fn signed<T>(&self, transaction: T) -> Result<TxEnvelope, InvalidRpcTransaction>
    where
        T: SignableTransaction<Signature>,
        EthereumTxEnvelope<TxEip4844>: From<Signed<T>>,
    {
        let parity = match (self.y_parity, self.v) {
            (Some(parity), _) => parity.to::<u128>(),
            (None, Some(v)) => v.to(),
            (None, None) => return Err(InvalidRpcTransaction::Missing("yParity")),
        };
        if parity > 1 {
            return Err(InvalidRpcTransaction::OutOfRange("yParity"));
        }
        let signature = Signature::new(self.r, self.s, parity == 1);
        Ok(TxEnvelope::Ethereum(transaction.into_signed(signature).into()))
    }

    fn signed_legacy(&self) -> Result<TxEnvelope, InvalidRpcTransaction> {
        let v: u128 = self.v.ok_or(InvalidRpcTransaction::Missing("v"))?.to();
        let out_of_range = InvalidRpcTransaction::OutOfRange("v");
        let (chain_id, odd) = match v {
            27 | 28 => (None, v == 28),
            35.. => {
                let id = u64::try_from((v - 35) / 2).map_err(|_| out_of_range)?;
                (Some(id), (v - 35) % 2 == 1)
            }
            _ => return Err(out_of_range),
        };
        let transaction = TxLegacy {
            chain_id,
            nonce: self.nonce.to(),
            gas_price: required("gasPrice", self.gas_price)?.to(),
            gas_limit: self.gas.to(),
            to: self.kind_of_call(),
            value: self.value,
            input: self.input.clone(),
        };
        let signature = Signature::new(self.r, self.s, odd);
        Ok(TxEnvelope::Ethereum(transaction.into_signed(signature).into()))
    }

    fn eip2930(&self) -> Result<TxEip2930, InvalidRpcTransaction> {
        Ok(TxEip2930 {
            chain_id: self.chain_id()?,
            nonce: self.nonce.to(),
            gas_price: required("gasPrice", self.gas_price)?.to(),
            gas_limit: self.gas.to(),
            to: self.kind_of_call(),
            value: self.value,
            access_list: self.access_list()?,
            input: self.input.clone(),
        })
    }

    fn eip1559(&self) -> Result<TxEip1559, InvalidRpcTransaction> {
        Ok(TxEip1559 {
            chain_id: self.chain_id()?,
            nonce: self.nonce.to(),
            gas_limit: self.gas.to(),
            max_fee_per_gas: self.max_fee_per_gas()?,
            max_priority_fee_per_gas: self.max_priority_fee_per_gas()?,
            to: self.kind_of_call(),
            value: self.value,
            access_list: self.access_list()?,
            input: self.input.clone(),
        })
    }

    fn eip4844(&self) -> Result<TxEip4844, InvalidRpcTransaction> {
        Ok(TxEip4844 {
            chain_id: self.chain_id()?,
            nonce: self.nonce.to(),
            gas_limit: self.gas.to(),
            max_fee_per_gas: self.max_fee_per_gas()?,
            max_priority_fee_per_gas: self.max_priority_fee_per_gas()?,
            to: required("to", self.to)?,
            value: self.value,
            access_list: self.access_list()?,
            blob_versioned_hashes: required(
                "blobVersionedHashes",
                self.blob_versioned_hashes.clone(),
            )?,
            max_fee_per_blob_gas: required("maxFeePerBlobGas", self.max_fee_per_blob_gas)?.to(),
            input: self.input.clone(),
        })
    }

    fn eip7702(&self) -> Result<TxEip7702, InvalidRpcTransaction> {
        Ok(TxEip7702 {
            chain_id: self.chain_id()?,
            nonce: self.nonce.to(),
            gas_limit: self.gas.to(),
            max_fee_per_gas: self.max_fee_per_gas()?,
            max_priority_fee_per_gas: self.max_priority_fee_per_gas()?,
            to: required("to", self.to)?,
            value: self.value,
            access_list: self.access_list()?,
            authorization_list: required("authorizationList", self.authorization_list.clone())?,
            input: self.input.clone(),
        })
    }

    /// Its sender is always the system, whatever `from` says.
    fn pol(&self) -> Result<PolTx, InvalidRpcTransaction> {
        Ok(PolTx {
            chain_id: self.chain_id()?,
            from: SYSTEM_ADDRESS,
            to: required("to", self.to)?,
            nonce: self.nonce.to(),
            gas_limit: self.gas.to(),
            gas_price: required("gasPrice", self.gas_price)?.to(),
            input: self.input.clone(),
        })
    }

    fn chain_id(&self) -> Result<u64, InvalidRpcTransaction> {
        required("chainId", self.chain_id).map(|id| id.to())
    }

    fn access_list(&self) -> Result<AccessList, InvalidRpcTransaction> {
        required("accessList", self.access_list.clone())
    }

    fn max_fee_per_gas(&self) -> Result<u128, InvalidRpcTransaction> {
        required("maxFeePerGas", self.max_fee_per_gas).map(|fee| fee.to())
    }

    fn max_priority_fee_per_gas(&self) -> Result<u128, InvalidRpcTransaction> {
        required("maxPriorityFeePerGas", self.max_priority_fee_per_gas).map(|fee| fee.to())
    }

    fn kind_of_call(&self) -> TxKind {
        self.to.map_or(TxKind::Create, TxKind::Call)
    }
}

fn required<T>(field: &'static str, value: Option<T>) -> Result<T, InvalidRpcTransaction> {
    value.ok_or(InvalidRpcTransaction::Missing(field))
}
