//! The environment of a pending block: what its first flashblock says of it, and whether that can
//! follow its parent.
//!
//! Nothing here is believed because it is signed. The block's number, time, gas limit, base fee and
//! extra data are checked against the parent by the rules of the chain, and the excess blob gas,
//! which no flashblock carries, is computed from it.

use alloy_eips::eip4895;
use alloy_hardforks::EthereumHardforks;
use alloy_primitives::{B256, U256};
use preconf_chain::{ChainSpec, Header, HeaderError};
use preconf_evm::NextBlock;
use preconf_primitives::{Base, Opening, Withdrawal};

/// The environment that a first flashblock describes.
///
/// A beacon root of zero stands for an absent one on the wire; a fork without beacon roots ignores
/// it.
pub fn next_block(
    base: &Base,
    withdrawals: &[Withdrawal],
    excess_blob_gas: Option<u64>,
) -> NextBlock {
    let Base {
        parent_beacon_block_root,
        parent_hash,
        fee_recipient,
        prev_randao,
        block_number,
        gas_limit,
        timestamp,
        extra_data,
        base_fee_per_gas,
        prev_proposer_pubkey,
    } = base;
    NextBlock {
        parent_hash: *parent_hash,
        parent_beacon_block_root: Some(*parent_beacon_block_root),
        number: *block_number,
        timestamp: *timestamp,
        fee_recipient: *fee_recipient,
        prev_randao: *prev_randao,
        difficulty: U256::ZERO,
        gas_limit: *gas_limit,
        base_fee_per_gas: *base_fee_per_gas,
        extra_data: extra_data.clone(),
        withdrawals: withdrawals.iter().map(withdrawal).collect(),
        excess_blob_gas,
        prev_proposer_pubkey: *prev_proposer_pubkey,
    }
}

fn withdrawal(withdrawal: &Withdrawal) -> eip4895::Withdrawal {
    let Withdrawal { index, validator_index, address, amount_gwei } = *withdrawal;
    eip4895::Withdrawal { index, validator_index, address, amount: amount_gwei }
}

/// The environment of a block that is to follow `parent`.
///
/// # Errors
/// If by the rules of the chain no block with these values can follow it.
pub(crate) fn follow(
    spec: &ChainSpec,
    parent: &Header,
    opening: &Opening,
) -> Result<NextBlock, HeaderError> {
    let Opening { base, withdrawals } = opening;
    let excess_blob_gas = spec.next_excess_blob_gas(parent, base.timestamp);
    let block = next_block(base, withdrawals, excess_blob_gas);
    spec.validate_header(&empty(spec, &block), parent)?;
    Ok(block)
}

/// The header of the block if it had no transactions, as far as its parent can judge it: roots and
/// hashes are there where the fork has them, and say nothing.
fn empty(spec: &ChainSpec, block: &NextBlock) -> Header {
    let shanghai = spec.is_shanghai_active_at_timestamp(block.timestamp);
    let cancun = spec.is_cancun_active_at_timestamp(block.timestamp);
    let prague = spec.is_prague_active_at_timestamp(block.timestamp);
    Header {
        parent_hash: block.parent_hash,
        beneficiary: block.fee_recipient,
        number: block.number,
        gas_limit: block.gas_limit,
        timestamp: block.timestamp,
        extra_data: block.extra_data.clone(),
        mix_hash: block.prev_randao,
        base_fee_per_gas: spec
            .is_london_active_at_block(block.number)
            .then_some(block.base_fee_per_gas),
        withdrawals_root: shanghai.then_some(B256::ZERO),
        blob_gas_used: cancun.then_some(0),
        excess_blob_gas: block.excess_blob_gas.filter(|_| cancun),
        parent_beacon_block_root: block.parent_beacon_block_root.filter(|_| cancun),
        requests_hash: prague.then_some(B256::ZERO),
        prev_proposer_pubkey: block.prev_proposer_pubkey,
        ..Header::default()
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{Address, Bytes};

    use super::*;

    const GENESIS: &str = r#"{
        "config": {
            "chainId": 1337, "homesteadBlock": 0, "eip150Block": 0, "eip155Block": 0,
            "eip158Block": 0, "byzantiumBlock": 0, "constantinopleBlock": 0, "petersburgBlock": 0,
            "istanbulBlock": 0, "berlinBlock": 0, "londonBlock": 0, "mergeNetsplitBlock": 0,
            "terminalTotalDifficulty": 0, "terminalTotalDifficultyPassed": true,
            "shanghaiTime": 0, "cancunTime": 0, "pragueTime": 0,
            "blobSchedule": {
                "cancun": {"target": 3, "max": 6, "baseFeeUpdateFraction": 3338477},
                "prague": {"target": 6, "max": 9, "baseFeeUpdateFraction": 5007716}
            }
        },
        "nonce": "0x0", "timestamp": "0x64", "extraData": "0x", "gasLimit": "0x1c9c380",
        "difficulty": "0x0", "baseFeePerGas": "0x3b9aca00", "alloc": {}
    }"#;

    fn spec() -> ChainSpec {
        ChainSpec::from_genesis_json(GENESIS).unwrap()
    }

    /// What a block on genesis must say.
    fn opening(spec: &ChainSpec) -> Opening {
        let parent = spec.genesis_header();
        let base = Base {
            parent_beacon_block_root: B256::repeat_byte(7),
            parent_hash: spec.genesis_hash(),
            fee_recipient: Address::repeat_byte(1),
            prev_randao: B256::repeat_byte(2),
            block_number: 1,
            gas_limit: parent.gas_limit,
            timestamp: parent.timestamp + 2,
            extra_data: Bytes::from_static(b"x"),
            base_fee_per_gas: spec.next_base_fee(&parent),
            prev_proposer_pubkey: None,
        };
        Opening { base, withdrawals: vec![] }
    }

    #[test]
    fn the_environment_that_follows_is_taken_with_the_blob_gas_of_the_chain() {
        let spec = spec();
        let mut opening = opening(&spec);
        let address = Address::repeat_byte(9);
        opening.withdrawals =
            vec![Withdrawal { index: 4, validator_index: 5, address, amount_gwei: 6 }];

        let block = follow(&spec, &spec.genesis_header(), &opening).unwrap();

        assert_eq!(block.excess_blob_gas, Some(0));
        assert_eq!(block.parent_beacon_block_root, Some(B256::repeat_byte(7)));
        let paid = eip4895::Withdrawal { index: 4, validator_index: 5, address, amount: 6 };
        assert_eq!(block.withdrawals, [paid]);
        assert_eq!((block.number, block.timestamp), (1, 102));
    }

    type Change = fn(&mut Base);

    #[test]
    fn each_value_that_does_not_follow_is_refused() {
        let spec = spec();
        let parent = spec.genesis_header();
        let changes: [(&str, Change); 7] = [
            ("parent hash", |base| base.parent_hash = B256::ZERO),
            ("number", |base| base.block_number = 2),
            ("time", |base| base.timestamp = 100),
            ("gas limit up", |base| base.gas_limit += base.gas_limit / 1024),
            ("gas limit down", |base| base.gas_limit -= base.gas_limit / 1024),
            ("base fee", |base| base.base_fee_per_gas += 1),
            ("proposer", |base| base.prev_proposer_pubkey = Some(Default::default())),
        ];
        for (name, change) in changes {
            let mut opening = opening(&spec);
            change(&mut opening.base);
            assert!(follow(&spec, &parent, &opening).is_err(), "{name}");
        }
    }
}
