//! Which rules hold when, read from the text of a genesis file, and what follows from a parent.
//!
//! Written from the specifications (EIP-1559, 4844, 7691, 7892, 7918, BRIP-0004, BRIP-0010) and not
//! from this project's own rules, with which it shares no code.

use alloy_primitives::{Address, U256};
use revm::primitives::hardfork::SpecId;
use serde_json::Value;

/// Gas of one blob.
pub(super) const BLOB_GAS: u64 = 1 << 17;
/// What EIP-7918 compares blobs with, in units of gas.
const BLOB_BASE_COST: u64 = 1 << 13;
/// The most blobs of one transaction (EIP-7594).
const MOST_BLOBS_OF_ONE: u64 = 6;

/// The rules of a chain.
#[derive(Debug)]
pub(super) struct Rules {
    config: Value,
}

/// The blob parameters of a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blobs {
    pub(super) target: u64,
    pub(super) max: u64,
    fraction: u64,
    /// The factor of the exponential.
    least_fee: u64,
    /// Whether the excess stays up while blobs are cheap.
    has_reserve: bool,
}

/// What a header says that the next one is computed from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fees {
    pub(super) timestamp: u64,
    pub(super) gas_used: u64,
    pub(super) gas_limit: u64,
    pub(super) base_fee: u64,
    pub(super) blob_gas_used: u64,
    pub(super) excess_blob_gas: u64,
}

impl Rules {
    pub(super) fn new(genesis: &Value) -> Self {
        Self { config: genesis["config"].clone() }
    }

    pub(super) fn chain_id(&self) -> u64 {
        self.config["chainId"].as_u64().unwrap_or_default()
    }

    pub(super) fn deposit_contract(&self) -> Option<Address> {
        self.config["depositContractAddress"].as_str()?.parse().ok()
    }

    pub(super) fn is_berachain(&self) -> bool {
        self.config["berachain"].is_object()
    }

    pub(super) fn is_prague(&self, time: u64) -> bool {
        has_come(&self.config["pragueTime"], time)
    }

    pub(super) fn is_osaka(&self, time: u64) -> bool {
        has_come(&self.config["osakaTime"], time)
    }

    pub(super) fn distributor(&self, time: u64) -> Option<Address> {
        let prague1 = &self.config["berachain"]["prague1"];
        let address = prague1["polDistributorAddress"].as_str()?;
        has_come(&prague1["time"], time).then(|| address.parse().ok()).flatten()
    }

    pub(super) fn evm_rules(&self, time: u64) -> SpecId {
        match (self.is_prague(time), self.is_osaka(time)) {
            (_, true) => SpecId::OSAKA,
            (true, false) => SpecId::PRAGUE,
            (false, false) => SpecId::CANCUN,
        }
    }

    /// The largest contract and the largest init code, where they are not Ethereum's.
    pub(super) fn code_limits(&self, time: u64) -> Option<(usize, usize)> {
        (self.is_berachain() && self.is_osaka(time)).then_some((32_768, 65_536))
    }

    /// The most blobs of one transaction.
    pub(super) fn most_blobs_of_one(&self, time: u64) -> u64 {
        let max = self.blobs(time).max;
        if self.is_osaka(time) { max.min(MOST_BLOBS_OF_ONE) } else { max }
    }

    pub(super) fn blobs(&self, time: u64) -> Blobs {
        let mut schedule = "cancun";
        for (fork, key) in [("prague", "pragueTime"), ("osaka", "osakaTime"), ("bpo1", "bpo1Time")]
        {
            if has_come(&self.config[key], time) {
                schedule = fork;
            }
        }
        let params = &self.config["blobSchedule"][schedule];
        let number = |key: &str| params[key].as_u64().unwrap_or_default();
        let osaka1 = &self.config["berachain"]["osaka1"];
        let floor = osaka1["minimumBlobBaseFeeWei"].as_u64();
        Blobs {
            target: number("target"),
            max: number("max"),
            fraction: number("baseFeeUpdateFraction"),
            least_fee: floor.filter(|_| has_come(&osaka1["time"], time)).unwrap_or(1),
            has_reserve: self.is_osaka(time) && !self.is_berachain(),
        }
    }

    /// The base fee of the block after one.
    pub(super) fn base_fee_after(&self, parent: &Fees) -> u64 {
        let own = &self.config["berachain"];
        let is_own = has_come(&own["prague1"]["time"], parent.timestamp);
        let denominator = own["prague1"]["baseFeeChangeDenominator"].as_u64();
        let denominator = denominator.filter(|_| is_own).unwrap_or(8);
        let mut floor = 0;
        for fork in ["prague1", "prague2", "osaka1"] {
            if has_come(&own[fork]["time"], parent.timestamp) {
                floor = own[fork]["minimumBaseFeeWei"].as_u64().unwrap_or_default();
            }
        }
        let target = i128::from(parent.gas_limit / 2);
        let (fee, used) = (i128::from(parent.base_fee), i128::from(parent.gas_used));
        let change = fee * (used - target).abs() / target / i128::from(denominator);
        let next = match used - target {
            0 => fee,
            above if above > 0 => fee + change.max(1),
            _ => fee - change,
        };
        u64::try_from(next).unwrap_or_default().max(floor)
    }

    /// The excess blob gas of a block at this time after another.
    pub(super) fn excess_after(&self, parent: &Fees, time: u64) -> u64 {
        let blobs = self.blobs(time);
        let (target, used) = (blobs.target * BLOB_GAS, parent.blob_gas_used);
        if parent.excess_blob_gas + used < target {
            return 0;
        }
        let carried = U256::from(BLOB_BASE_COST) * U256::from(parent.base_fee);
        let blob = U256::from(BLOB_GAS) * blobs.fee(parent.excess_blob_gas);
        if blobs.has_reserve && carried > blob {
            parent.excess_blob_gas + used * (blobs.max - blobs.target) / blobs.max
        } else {
            parent.excess_blob_gas + used - target
        }
    }
}

impl Blobs {
    /// EIP-4844's `fake_exponential`.
    pub(super) fn fee(&self, excess: u64) -> U256 {
        let (excess, fraction) = (U256::from(excess), U256::from(self.fraction));
        let mut term = U256::from(self.least_fee) * fraction;
        let (mut sum, mut step) = (U256::ZERO, U256::from(1));
        while !term.is_zero() {
            sum += term;
            term = term * excess / (fraction * step);
            step += U256::from(1);
        }
        sum / fraction
    }
}

/// Whether a fork's time has come.
fn has_come(fork: &Value, time: u64) -> bool {
    fork.as_u64().is_some_and(|from| from <= time)
}
