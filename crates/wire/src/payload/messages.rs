//! `preconf.payload.v1`: the payload and its parts.

use alloy_eips::{eip4844::Blob, eip4895::Withdrawal};
use alloy_primitives::{Bloom, FixedBytes};
use alloy_rpc_types_engine::{ExecutionPayloadV1, ExecutionPayloadV2, ExecutionPayloadV3};
use bytes::Bytes;
use preconf_payload_api::{BlobsBundle, ForkVersion, PayloadResponse};

use crate::{
    convert::{Invalid, InvalidScope, address, bytes, fixed, required, uint},
    generated::{payload::v1 as proto, types::v1 as types},
};

impl From<PayloadResponse> for proto::Payload {
    fn from(payload: PayloadResponse) -> Self {
        let PayloadResponse {
            fork_version,
            execution_payload,
            blobs_bundle,
            block_value,
            execution_requests,
        } = payload;
        Self {
            fork_version: bytes(&fork_version.0),
            execution_payload: Some(execution_payload.into()),
            blobs_bundle: Some(blobs_bundle.into()),
            block_value: block_value.to_be_bytes_trimmed_vec().into(),
            execution_requests: execution_requests.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<proto::Payload> for PayloadResponse {
    type Error = Invalid;

    fn try_from(message: proto::Payload) -> Result<Self, Invalid> {
        let proto::Payload {
            fork_version,
            execution_payload,
            blobs_bundle,
            block_value,
            execution_requests,
        } = message;
        Ok(Self {
            fork_version: ForkVersion(fixed("fork_version", &fork_version)?.0),
            execution_payload: required("execution_payload", execution_payload)?
                .try_into()
                .within("execution_payload")?,
            blobs_bundle: required("blobs_bundle", blobs_bundle)?
                .try_into()
                .within("blobs_bundle")?,
            block_value: uint("block_value", &block_value)?,
            execution_requests: execution_requests.into_iter().map(Into::into).collect(),
        })
    }
}

impl From<ExecutionPayloadV3> for proto::ExecutionPayload {
    fn from(payload: ExecutionPayloadV3) -> Self {
        let ExecutionPayloadV3 { payload_inner, blob_gas_used, excess_blob_gas } = payload;
        let ExecutionPayloadV2 { payload_inner, withdrawals } = payload_inner;
        let ExecutionPayloadV1 {
            parent_hash,
            fee_recipient,
            state_root,
            receipts_root,
            logs_bloom,
            prev_randao,
            block_number,
            gas_limit,
            gas_used,
            timestamp,
            extra_data,
            base_fee_per_gas,
            block_hash,
            transactions,
        } = payload_inner;
        Self {
            parent_hash: bytes(parent_hash.as_slice()),
            fee_recipient: bytes(fee_recipient.as_slice()),
            state_root: bytes(state_root.as_slice()),
            receipts_root: bytes(receipts_root.as_slice()),
            logs_bloom: bytes(logs_bloom.as_slice()),
            prev_randao: bytes(prev_randao.as_slice()),
            block_number,
            gas_limit,
            gas_used,
            timestamp_seconds: timestamp,
            extra_data: extra_data.into(),
            base_fee_per_gas: base_fee_per_gas.to_be_bytes_trimmed_vec().into(),
            block_hash: bytes(block_hash.as_slice()),
            transactions: transactions.into_iter().map(Into::into).collect(),
            withdrawals: withdrawals.iter().map(written).collect(),
            blob_gas_used,
            excess_blob_gas,
        }
    }
}

impl TryFrom<proto::ExecutionPayload> for ExecutionPayloadV3 {
    type Error = Invalid;

    fn try_from(message: proto::ExecutionPayload) -> Result<Self, Invalid> {
        let proto::ExecutionPayload {
            parent_hash,
            fee_recipient,
            state_root,
            receipts_root,
            logs_bloom,
            prev_randao,
            block_number,
            gas_limit,
            gas_used,
            timestamp_seconds,
            extra_data,
            base_fee_per_gas,
            block_hash,
            transactions,
            withdrawals,
            blob_gas_used,
            excess_blob_gas,
        } = message;
        let payload_inner = ExecutionPayloadV1 {
            parent_hash: fixed("parent_hash", &parent_hash)?,
            fee_recipient: address("fee_recipient", &fee_recipient)?,
            state_root: fixed("state_root", &state_root)?,
            receipts_root: fixed("receipts_root", &receipts_root)?,
            logs_bloom: Bloom(fixed("logs_bloom", &logs_bloom)?),
            prev_randao: fixed("prev_randao", &prev_randao)?,
            block_number,
            gas_limit,
            gas_used,
            timestamp: timestamp_seconds,
            extra_data: extra_data.into(),
            base_fee_per_gas: uint("base_fee_per_gas", &base_fee_per_gas)?,
            block_hash: fixed("block_hash", &block_hash)?,
            transactions: transactions.into_iter().map(Into::into).collect(),
        };
        let withdrawals = withdrawals.into_iter().enumerate();
        let withdrawals =
            withdrawals.map(|(index, read)| withdrawal(read).at("withdrawals", index));
        let withdrawals = withdrawals.collect::<Result<_, _>>()?;
        let payload_inner = ExecutionPayloadV2 { payload_inner, withdrawals };
        Ok(Self { payload_inner, blob_gas_used, excess_blob_gas })
    }
}

fn written(withdrawal: &Withdrawal) -> types::Withdrawal {
    let Withdrawal { index, validator_index, address, amount } = *withdrawal;
    types::Withdrawal {
        index,
        validator_index,
        address: bytes(address.as_slice()),
        amount_gwei: amount,
    }
}

fn withdrawal(message: types::Withdrawal) -> Result<Withdrawal, Invalid> {
    let types::Withdrawal { index, validator_index, address: to, amount_gwei } = message;
    Ok(Withdrawal {
        index,
        validator_index,
        address: address("address", &to)?,
        amount: amount_gwei,
    })
}

impl From<BlobsBundle> for proto::BlobsBundle {
    fn from(bundle: BlobsBundle) -> Self {
        let BlobsBundle { commitments, proofs, blobs } = bundle;
        let short =
            |all: Vec<FixedBytes<48>>| all.iter().map(|one| bytes(one.as_slice())).collect();
        Self {
            commitments: short(commitments),
            proofs: short(proofs),
            blobs: blobs.iter().map(|blob| bytes(blob.as_slice())).collect(),
        }
    }
}

impl TryFrom<proto::BlobsBundle> for BlobsBundle {
    type Error = Invalid;

    fn try_from(message: proto::BlobsBundle) -> Result<Self, Invalid> {
        let proto::BlobsBundle { commitments, proofs, blobs } = message;
        Ok(Self {
            commitments: all("commitments", &commitments)?,
            proofs: all("proofs", &proofs)?,
            blobs: all::<{ Blob::len_bytes() }>("blobs", &blobs)?,
        })
    }
}

/// A list of bytes of exactly `N`. Nothing is reserved for those that were not looked at: a message
/// of a few bytes may have a great many that are empty.
fn all<const N: usize>(path: &str, list: &[Bytes]) -> Result<Vec<FixedBytes<N>>, Invalid> {
    let mut read = Vec::new();
    for (index, one) in list.iter().enumerate() {
        read.push(fixed(&format!("{path}[{index}]"), one)?);
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{Address, B256, U256};

    use super::*;

    fn payload() -> PayloadResponse {
        let payload_inner = ExecutionPayloadV1 {
            parent_hash: B256::repeat_byte(1),
            fee_recipient: Address::repeat_byte(2),
            state_root: B256::repeat_byte(3),
            receipts_root: B256::repeat_byte(4),
            logs_bloom: Bloom::repeat_byte(5),
            prev_randao: B256::repeat_byte(6),
            block_number: 7,
            gas_limit: 8,
            gas_used: 9,
            timestamp: 10,
            extra_data: vec![11].into(),
            base_fee_per_gas: U256::from(12),
            block_hash: B256::repeat_byte(13),
            transactions: vec![vec![14, 14].into(), vec![15].into()],
        };
        let withdrawals = vec![Withdrawal {
            index: u64::MAX,
            validator_index: 16,
            address: Address::repeat_byte(17),
            amount: 18,
        }];
        PayloadResponse {
            fork_version: ForkVersion::FULU,
            execution_payload: ExecutionPayloadV3 {
                payload_inner: ExecutionPayloadV2 { payload_inner, withdrawals },
                blob_gas_used: 19,
                excess_blob_gas: 20,
            },
            blobs_bundle: BlobsBundle {
                commitments: vec![FixedBytes::repeat_byte(21)],
                proofs: vec![FixedBytes::repeat_byte(22)],
                blobs: vec![Blob::repeat_byte(23)],
            },
            block_value: U256::from(1_000_000),
            execution_requests: vec![vec![0, 1].into()],
        }
    }

    #[test]
    fn a_payload_is_the_same_after_its_journey() {
        let sent = proto::Payload::from(payload());
        assert_eq!(PayloadResponse::try_from(sent), Ok(payload()));
    }

    #[test]
    fn nothing_is_reserved_for_blobs_that_are_empty() {
        let mut sent = proto::Payload::from(payload());
        // Each would be 128 KiB: more than any machine has.
        sent.blobs_bundle.as_mut().unwrap().blobs = vec![Bytes::new(); 1 << 20];
        let error = PayloadResponse::try_from(sent).unwrap_err();
        assert_eq!(error.path(), "blobs_bundle.blobs[0]");
    }

    #[test]
    fn what_has_the_wrong_length_is_named() {
        type Spoil = fn(&mut proto::Payload);
        let cases: [(&str, Spoil); 4] = [
            ("fork_version", |payload| payload.fork_version = vec![1].into()),
            ("blobs_bundle.blobs[0]", |payload| {
                payload.blobs_bundle.as_mut().unwrap().blobs[0] = vec![1].into();
            }),
            ("execution_payload.withdrawals[0].address", |payload| {
                payload.execution_payload.as_mut().unwrap().withdrawals[0].address = Bytes::new();
            }),
            ("block_value", |payload| payload.block_value = vec![1; 33].into()),
        ];
        for (path, spoil) in cases {
            let mut sent = proto::Payload::from(payload());
            spoil(&mut sent);
            assert_eq!(PayloadResponse::try_from(sent).unwrap_err().path(), path);
        }
    }
}
