//! Deposits of validators, read from a block's logs (EIP-6110).
//!
//! Ethereum's contract writes another event than Berachain's; of each chain only its own is read,
//! and only if its deposit contract wrote it.

use alloy_evm::{
    block::{BlockExecutionError, BlockValidationError},
    eth::{eip6110, spec::EthExecutorSpec},
};
use alloy_hardforks::EthereumHardforks;
use alloy_primitives::{Bytes, Log};
use alloy_sol_types::{SolEvent, sol};
use preconf_chain::{ChainSpec, Receipt};

sol! {
    /// What Berachain's deposit contract writes.
    event Deposit(
        bytes pubkey,
        bytes credentials,
        uint64 amount,
        bytes signature,
        uint64 index
    );
}

/// The deposits of a block of this time in the encoding of their request; empty if there are none.
pub(crate) fn requested(
    spec: &ChainSpec,
    timestamp: u64,
    receipts: &[Receipt],
) -> Result<Bytes, BlockExecutionError> {
    if spec.berachain().is_none() {
        return Ok(eip6110::parse_deposits_from_receipts(spec, receipts)?);
    }
    if !spec.is_osaka_active_at_timestamp(timestamp) {
        return Ok(Bytes::new());
    }
    let contract = spec.deposit_contract_address();
    let mut request = Vec::new();
    for log in receipts.iter().flat_map(|receipt| &receipt.logs) {
        let is_deposit = log.topics().first() == Some(&Deposit::SIGNATURE_HASH);
        if is_deposit && Some(log.address) == contract {
            append(log, &mut request)?;
        }
    }
    Ok(request.into())
}

/// The two numbers are little endian in a request, as Ethereum's contract writes them.
fn append(log: &Log, request: &mut Vec<u8>) -> Result<(), BlockValidationError> {
    let undecodable = |reason: String| BlockValidationError::DepositRequestDecode(reason);
    let Deposit { pubkey, credentials, amount, signature, index } =
        Deposit::decode_log_data(&log.data).map_err(|error| undecodable(error.to_string()))?;
    for (name, field, bytes) in
        [("pubkey", &pubkey, 48), ("credentials", &credentials, 32), ("signature", &signature, 96)]
    {
        if field.len() != bytes {
            return Err(undecodable(format!("{name} has {} bytes, not {bytes}", field.len())));
        }
    }
    request.extend_from_slice(&pubkey);
    request.extend_from_slice(&credentials);
    request.extend_from_slice(&amount.to_le_bytes());
    request.extend_from_slice(&signature);
    request.extend_from_slice(&index.to_le_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use alloy_primitives::hex;

    use super::*;

    #[test]
    fn the_event_has_the_topic_of_berachains_contract() {
        let topic = Deposit::SIGNATURE_HASH;
        assert_eq!(topic[..4], hex!("68af7516"));
        assert_eq!(topic[30..], hex!("1d46"));
    }

    #[test]
    fn a_field_of_another_length_is_refused_by_name() {
        let deposit = Deposit {
            pubkey: vec![1; 48].into(),
            credentials: vec![2; 31].into(),
            amount: 1,
            signature: vec![3; 96].into(),
            index: 2,
        };
        let log = Log { data: deposit.encode_log_data(), ..Log::default() };
        let error = append(&log, &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("credentials has 31 bytes, not 32"), "{error}");
    }
}
