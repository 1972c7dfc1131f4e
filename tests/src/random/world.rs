//! A small chain with contracts that do what contracts do, and accounts that can sign.
//!
//! Its forks come a few blocks apart, so that a short chain crosses them all.

use std::sync::{Arc, LazyLock};

use alloy_primitives::{Address, B256, address, hex, keccak256};
use alloy_signer_local::PrivateKeySigner;
use preconf_chain::{ChainSpec, system_contracts};
use serde_json::{Map, Value, json};

use super::Rules;
use crate::feed::Known;

/// One gwei, in wei.
pub const GWEI: u128 = 1_000_000_000;
/// The chain's id.
pub const CHAIN_ID: u64 = 7_777;
/// How many accounts sign.
pub const SIGNERS: u64 = 8;

/// Who usually gets the priority fees.
pub const FEE_RECIPIENT: Address = address!("0x00000000000000000000000000000000000000fe");
/// Writes slot `data[0..32]` to `data[32..64]` and logs it.
pub const STORE: Address = address!("0x00000000000000000000000000000000000000c1");
/// Writes a slot and reverts with 42.
pub const REVERT: Address = address!("0x00000000000000000000000000000000000000c2");
/// Loops until its gas is gone.
pub const BURN: Address = address!("0x00000000000000000000000000000000000000c3");
/// Self-destructs in favour of its caller.
pub const DESTRUCT: Address = address!("0x00000000000000000000000000000000000000c4");
/// Keeps the parent's hash under the block's number and the fee recipient's balance in slot 0, and
/// logs what else a contract can see of its block.
pub const OBSERVE: Address = address!("0x00000000000000000000000000000000000000c5");
/// Creates a contract from its data with CREATE2, and calls it.
pub const FACTORY: Address = address!("0x00000000000000000000000000000000000000c6");
/// Logs its data as the deposit contract would.
pub const DEPOSIT: Address = address!("0x00000000000000000000000000000000000000c7");
/// Creates a contract from its data with CREATE, with what it is paid, and keeps its address.
pub const CREATOR: Address = address!("0x00000000000000000000000000000000000000c8");
/// Counts in transient storage, and keeps the count in the slot of that number.
pub const TRANSIENT: Address = address!("0x00000000000000000000000000000000000000c9");
/// Calls the precompile `data[0..2]` with the rest and half of the gas, keeps the hash of what it
/// returns, and logs that with the precompile's number and whether it succeeded.
pub const PRECOMPILE: Address = address!("0x00000000000000000000000000000000000000ca");
/// Calls the contract `data[0..32]` twice with the rest, whatever comes of it.
pub const TWICE: Address = address!("0x00000000000000000000000000000000000000cb");
/// Keeps how many zeros its data begins with, where there is an instruction for that.
pub const ZEROS: Address = address!("0x00000000000000000000000000000000000000cc");
/// Counts the rewards that the chain distributes, in itself and in [`STORE`].
pub const DISTRIBUTOR: Address = address!("0x4200000000000000000000000000000000000042");

/// Code that the contracts have.
const CONTRACTS: [(Address, &str); 12] = [
    (STORE, "5f356020359055 60405f5f37 5f3560206020a1 00"),
    (REVERT, "60015f55 602a5f52 60205ffd"),
    (BURN, "5b5f56"),
    (DESTRUCT, "33ff"),
    // Blob base fee, base fee, number, time, randomness, gas limit, chain, first blob, gas price.
    (
        OBSERVE,
        "600143034043 55 41315f55 4a5f52 48602052 43604052 42606052 44608052 4560a052 4660c052 \
         5f4960e052 3a61010052 6101205fa0 00",
    ),
    (FACTORY, "365f5f37 5f365f5f f5 5f5f5f5f5f855af1 00"),
    // The topic comes with the rules.
    (DEPOSIT, "365f5f37 7f{deposit} 365fa1 00"),
    (CREATOR, "365f5f37 365f34f0 5f55 00"),
    (TRANSIENT, "5f5c600101 80 5f5d 8055 00"),
    (
        PRECOMPILE,
        "365f5f37 5f5f 60023603 6002 5f5160f01c 5a60011c fa 5f3560f01c 3d5f5f3e 3d5f20 8255 3d5fa2 00",
    ),
    (TWICE, "60203603 6020 5f 37 5f5f 60203603 5f5f 5f35 5af150 5f5f 60203603 5f5f 5f35 5af150 00"),
    (ZEROS, "5f351e5f55 00"),
];

impl Rewards {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Paid, Self::Reverted, Self::Burnt, Self::Nobody];

    /// The distributor's code, if it has any.
    const fn code(self) -> Option<&'static str> {
        match self {
            // Adds one to slot 0, keeps the hash of its data in slot 1, logs its gas, writes to
            // STORE.
            Self::Paid => Some(
                "365f5f37 365f20600155 5f546001015f55 5a5f52 60205fa0 5f5f 60405f 5f 60c1 5af1 00",
            ),
            // Writes a slot, logs and reverts with 42.
            Self::Reverted => Some("60015f55 365fa0 602a5f52 60205ffd"),
            // Writes a slot, logs and asks for more memory than any gas can pay.
            Self::Burnt => Some("60015f55 365fa0 63ffffffff51 00"),
            Self::Nobody => None,
        }
    }
}

/// The event of a deposit: Ethereum's and Berachain's.
const DEPOSIT_EVENTS: [&str; 2] =
    ["DepositEvent(bytes,bytes,bytes,bytes,bytes)", "Deposit(bytes,bytes,uint64,bytes,uint64)"];

/// What becomes of the rewards of a chain that distributes some.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rewards {
    /// They are distributed.
    Paid,
    /// The distributor reverts.
    Reverted,
    /// The distributor runs out of gas.
    Burnt,
    /// There is no distributor.
    Nobody,
}

/// A chain at its beginning.
#[derive(Debug)]
pub struct World {
    /// Which rules it has.
    pub rules: Rules,
    /// What becomes of its rewards, if its rules know any.
    pub rewards: Rewards,
    /// The text of its genesis file.
    pub json: String,
    /// The rules.
    pub spec: Arc<ChainSpec>,
    /// The first block.
    pub genesis: Known,
}

static ETHEREUM: LazyLock<World> = LazyLock::new(|| World::new(Rules::Ethereum, Rewards::Nobody));
static BERACHAIN: LazyLock<[World; 4]> =
    LazyLock::new(|| Rewards::ALL.map(|rewards| World::new(Rules::Berachain, rewards)));
static KEYS: LazyLock<Vec<PrivateKeySigner>> = LazyLock::new(|| {
    let key = |n| PrivateKeySigner::from_bytes(&B256::repeat_byte(n as u8));
    (1..=SIGNERS).map(|n| key(n).expect("the key is in the field")).collect()
});

impl World {
    /// The chain with these rules. On Ethereum there are no rewards.
    pub fn of(rules: Rules, rewards: Rewards) -> &'static Self {
        match rules {
            Rules::Ethereum => &ETHEREUM,
            Rules::Berachain => &BERACHAIN[rewards as usize],
        }
    }

    fn new(rules: Rules, rewards: Rewards) -> Self {
        let json = genesis_json(rules, rewards);
        let spec = ChainSpec::from_genesis_json(&json);
        let spec = Arc::new(spec.expect("the genesis below is valid"));
        Self { rules, rewards, json, genesis: Known::genesis(&spec), spec }
    }
}

/// The accounts that sign.
pub fn signers() -> &'static [PrivateKeySigner] {
    &KEYS
}

fn genesis_json(rules: Rules, rewards: Rewards) -> String {
    let mut alloc = Map::new();
    for key in signers() {
        alloc.insert(key.address().to_string(), json!({ "balance": "0x3635c9adc5dea00000" }));
    }
    let event = match rules {
        Rules::Ethereum => DEPOSIT_EVENTS[0],
        Rules::Berachain => DEPOSIT_EVENTS[1],
    };
    let topic = hex::encode(keccak256(event));
    // On Ethereum blobs cost about as much as the gas that EIP-7918 compares them with. On Berachain
    // the floor of Osaka1 is a factor, and they must remain affordable.
    let excess_blob_gas = match rules {
        Rules::Ethereum => "0x3938700",
        Rules::Berachain => "0x989680",
    };
    let distributor = rewards.code().map(|code| (DISTRIBUTOR, code));
    for (address, code) in CONTRACTS.into_iter().chain(distributor) {
        let code = format!("0x{}", code.replace("{deposit}", &topic).replace(' ', ""));
        let storage = json!({ format!("{:#066x}", 1): format!("{:#066x}", 9) });
        let account = json!({ "balance": "0x5", "nonce": "0x1", "code": code, "storage": storage });
        alloc.insert(address.to_string(), account);
    }
    for (address, code) in system_contracts() {
        let account = json!({ "balance": "0x0", "nonce": "0x1", "code": code });
        alloc.insert(address.to_string(), account);
    }
    json!({
        "config": config(rules), "alloc": alloc, "gasLimit": "0x2255100", "difficulty": "0x0",
        "timestamp": "0x1", "extraData": "0x", "nonce": "0x0",
        "mixHash": B256::ZERO, "coinbase": Address::ZERO, "baseFeePerGas": "0x3b9aca00",
        "excessBlobGas": excess_blob_gas, "blobGasUsed": "0x0",
    })
    .to_string()
}

fn config(rules: Rules) -> Value {
    let blobs = |target: u64, max: u64| json!({ "target": target, "max": max, "baseFeeUpdateFraction": 3_338_477 });
    let mut config = json!({
        "chainId": CHAIN_ID, "homesteadBlock": 0, "eip150Block": 0, "eip155Block": 0,
        "eip158Block": 0, "byzantiumBlock": 0, "constantinopleBlock": 0, "petersburgBlock": 0,
        "istanbulBlock": 0, "berlinBlock": 0, "londonBlock": 0, "terminalTotalDifficulty": 0,
        "terminalTotalDifficultyPassed": true, "mergeNetsplitBlock": 0, "shanghaiTime": 0,
        "cancunTime": 0, "depositContractAddress": DEPOSIT,
        "blobSchedule": { "cancun": blobs(2, 4), "prague": blobs(3, 6), "osaka": blobs(3, 6) },
    });
    match rules {
        Rules::Ethereum => {
            config["pragueTime"] = 15.into();
            config["osakaTime"] = 35.into();
            config["bpo1Time"] = 60.into();
            config["blobSchedule"]["bpo1"] = blobs(5, 9);
        }
        Rules::Berachain => {
            config["pragueTime"] = 0.into();
            config["osakaTime"] = 45.into();
            config["berachain"] = json!({
                "prague1": {
                    "time": 12, "baseFeeChangeDenominator": 48,
                    "minimumBaseFeeWei": 1_000_000_000, "polDistributorAddress": DISTRIBUTOR,
                },
                "prague2": { "time": 30, "minimumBaseFeeWei": 0 },
                "osaka1": {
                    "time": 65, "minimumBaseFeeWei": 1_000_000_000,
                    "minimumBlobBaseFeeWei": 1_000_000_000,
                },
            });
        }
    }
    config
}
