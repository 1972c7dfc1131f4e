//! The first block of a devnet: which chain it is, and what is there before anybody does anything.
//!
//! Berachain's has every fork of its own from the start, and two contracts that stand for its
//! proof of liquidity: a distributor, which the chain calls in every block with the key of the
//! block before's proposer, and a ledger that it calls in turn. So each block of an otherwise idle
//! devnet has a log and two changed slots.

use std::fmt;

use alloy_primitives::{Address, B256, Bytes, address, hex};
use alloy_signer_local::PrivateKeySigner;
use alloy_sol_types::{SolEvent, sol};
use clap::ValueEnum;
use preconf_chain::system_contracts;
use serde_json::{Map, Value, json};

/// What each account has at the genesis: a million ether, in wei.
const BALANCE: &str = "0xd3c21bcecceda1000000";
/// The gas limit of the genesis.
const GAS_LIMIT: &str = "0x2255100";

/// Where Berachain's own development network has the distributor.
pub const DISTRIBUTOR: Address = address!("0x4200000000000000000000000000000000000042");
/// What the distributor calls: it counts, in slot 0, and keeps the hash of the last key, in slot 1.
pub const LEDGER: Address = address!("0x4200000000000000000000000000000000000043");

sol! {
    /// What the distributor logs in each block.
    event Distributed(bytes proposerKey);
}

/// Whose rules a devnet follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ChainName {
    /// Berachain's, with all forks through Osaka1.
    Berachain,
    /// Ethereum's, in Prague.
    Ethereum,
}

impl ChainName {
    /// The chain id (EIP-155).
    pub const fn id(self) -> u64 {
        match self {
            Self::Berachain => 80_087,
            Self::Ethereum => 1_337,
        }
    }

    /// The genesis, with money for these accounts.
    pub(crate) fn genesis(self, accounts: &[PrivateKeySigner], time: u64) -> Value {
        let mut alloc = Map::new();
        for account in accounts {
            alloc.insert(account.address().to_string(), json!({ "balance": BALANCE }));
        }
        let mut contracts = system_contracts();
        if self == Self::Berachain {
            contracts.extend([(DISTRIBUTOR, distributor()), (LEDGER, ledger())]);
        }
        for (address, code) in contracts {
            let account = json!({ "balance": "0x0", "nonce": "0x1", "code": code });
            alloc.insert(address.to_string(), account);
        }
        json!({
            "config": self.config(),
            "nonce": "0x0",
            "timestamp": format!("{time:#x}"),
            "extraData": "0x",
            "gasLimit": GAS_LIMIT,
            "difficulty": "0x0",
            "mixHash": B256::ZERO,
            "coinbase": Address::ZERO,
            "alloc": alloc,
        })
    }

    fn config(self) -> Value {
        const BLOCK_FORKS: [&str; 10] = [
            "homesteadBlock",
            "eip150Block",
            "eip155Block",
            "eip158Block",
            "byzantiumBlock",
            "constantinopleBlock",
            "petersburgBlock",
            "istanbulBlock",
            "berlinBlock",
            "londonBlock",
        ];
        let mut config = json!({
            "chainId": self.id(),
            "terminalTotalDifficulty": 0,
            "terminalTotalDifficultyPassed": true,
            "shanghaiTime": 0,
            "cancunTime": 0,
            "pragueTime": 0,
        });
        for fork in BLOCK_FORKS {
            config[fork] = json!(0);
        }
        match self {
            Self::Ethereum => {
                let cancun = json!({ "target": 3, "max": 6, "baseFeeUpdateFraction": 3_338_477 });
                let prague = json!({ "target": 6, "max": 9, "baseFeeUpdateFraction": 5_007_716 });
                config["blobSchedule"] = json!({ "cancun": cancun, "prague": prague });
            }
            Self::Berachain => {
                let blobs = json!({ "target": 3, "max": 6, "baseFeeUpdateFraction": 3_338_477 });
                config["blobSchedule"] =
                    json!({ "cancun": blobs, "prague": blobs, "osaka": blobs });
                config["osakaTime"] = json!(0);
                config["depositContractAddress"] =
                    json!("0x4242424242424242424242424242424242424242");
                config["berachain"] = json!({
                    "prague1": {
                        "time": 0,
                        "baseFeeChangeDenominator": 48,
                        "minimumBaseFeeWei": 1_000_000_000,
                        "polDistributorAddress": DISTRIBUTOR,
                    },
                    "prague2": { "time": 0, "minimumBaseFeeWei": 0 },
                    "osaka1": {
                        "time": 0,
                        "minimumBaseFeeWei": 1_000_000_000,
                        "minimumBlobBaseFeeWei": 1_000_000_000,
                    },
                });
            }
        }
        config
    }
}

impl fmt::Display for ChainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Berachain => "berachain",
            Self::Ethereum => "ethereum",
        })
    }
}

/// `distributeFor(bytes)`, for the system's caller only: logs the key and hands it to the ledger.
fn distributor() -> Bytes {
    let code: [&[u8]; 5] = [
        // Revert unless the caller is 0xff…fe.
        &hex!("33 73 fffffffffffffffffffffffffffffffffffffffe 14 601d 57 5f 5f fd 5b"),
        // Memory 0..128 := the arguments: offset, length, the key and zeros.
        &hex!("6080 6004 5f 37 7f"),
        Distributed::SIGNATURE_HASH.as_slice(),
        // log1(0..128); call the ledger with 64..112, the key. Its address goes after this.
        &hex!("6080 5f a1 5f 5f 6030 6040 5f 73"),
        LEDGER.as_slice(),
    ];
    // With all gas that is left; revert if it fails.
    [code.concat().as_slice(), &hex!("5a f1 606d 57 5f 5f fd 5b 00")].concat().into()
}

/// Slot 0 += 1; slot 1 := keccak256(calldata).
fn ledger() -> Bytes {
    hex!("5f 54 6001 01 5f 55 36 5f 5f 37 36 5f 20 6001 55 00").into()
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{U256, keccak256};
    use preconf_chain::{ChainSpec, ProposerPublicKey};
    use preconf_evm::{NextBlock, Paused};
    use preconf_state::{MemoryState, Overlay, StateReader};

    use super::*;

    #[test]
    fn each_block_of_berachain_logs_the_key_and_has_it_counted() {
        let genesis = ChainName::Berachain.genesis(&[], 1_800_000_000);
        let spec = std::sync::Arc::new(ChainSpec::from_genesis_json(&genesis.to_string()).unwrap());
        let state = MemoryState::from_genesis(&spec.genesis().alloc);
        let key = ProposerPublicKey::repeat_byte(7);
        let parent = spec.genesis_header();
        let mut header = parent.clone();
        header.number = 1;
        header.timestamp += 2;
        header.parent_hash = spec.genesis_hash();
        header.prev_proposer_pubkey = Some(key);
        header.base_fee_per_gas = Some(spec.next_base_fee(&parent));
        let block = NextBlock::from_header(&header, vec![]);
        let paused = Paused::begin(spec, block, Overlay::new(&state)).unwrap();

        let [receipt] = paused.receipts() else { panic!("{:?}", paused.receipts()) };
        let [log] = receipt.logs.as_slice() else { panic!("{receipt:?}") };
        assert_eq!(Distributed::decode_log(log).unwrap().proposerKey.as_ref(), key.as_slice());
        assert_eq!(log.address, DISTRIBUTOR);
        let slot = |slot: u64| paused.overlay().slot(LEDGER, U256::from(slot)).unwrap();
        assert_eq!(slot(0), U256::from(1));
        assert_eq!(B256::from(slot(1)), keccak256(key));
    }
}
