//! Prague3: some months of Berachain's history in which tokens of some addresses could not move.
//!
//! Whoever executes a block of that time looks at its logs; whoever builds does not build at all,
//! because a transaction's logs are known only when it is promised already.

use alloy_primitives::{Address, B256, Log, b256};
use thiserror::Error;

use super::{ChainSpec, berachain::Prague3};

/// `Transfer(address,address,uint256)`.
const TRANSFER: B256 = b256!("0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef");

/// `InternalBalanceChanged(address,address,int256)`.
const INTERNAL_BALANCE_CHANGED: B256 =
    b256!("0x18e1ea4139e68413d7d08aa752e71568e36b2c5bf940893314c2c5b01eaa0c42");

/// Why a block of Prague3 is not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Prague3Violation {
    /// A token moved from or to the vault.
    #[error("a token moved between the vault and {0}")]
    Vault(Address),
    /// A token moved from a blocked address, and not to the rescue address.
    #[error("a token moved from {from}, which is blocked, to {to}")]
    FromBlocked {
        /// Who is blocked.
        from: Address,
        /// Who received it.
        to: Address,
    },
    /// A token moved to a blocked address.
    #[error("a token moved to {0}, which is blocked")]
    ToBlocked(Address),
    /// The vault's books changed.
    #[error("a balance inside the vault changed")]
    InternalBalance,
}

/// No block may be built for this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("no block is built for time {timestamp}: Prague3 is active")]
pub struct BuildingRefused {
    /// The time of the block.
    pub timestamp: u64,
}

impl Prague3 {
    fn check(&self, log: &Log) -> Result<(), Prague3Violation> {
        match log.topics() {
            [event, from, to, ..] if *event == TRANSFER => {
                self.check_transfer(Address::from_word(*from), Address::from_word(*to))
            }
            [event, ..]
                if *event == INTERNAL_BALANCE_CHANGED && log.address == self.bex_vault_address =>
            {
                Err(Prague3Violation::InternalBalance)
            }
            _ => Ok(()),
        }
    }

    fn check_transfer(&self, from: Address, to: Address) -> Result<(), Prague3Violation> {
        let blocked = |address| self.blocked_addresses.contains(&address);
        if from == self.bex_vault_address {
            return Err(Prague3Violation::Vault(to));
        }
        if to == self.bex_vault_address {
            return Err(Prague3Violation::Vault(from));
        }
        if blocked(from) && to != self.rescue_address {
            return Err(Prague3Violation::FromBlocked { from, to });
        }
        if blocked(to) {
            return Err(Prague3Violation::ToBlocked(to));
        }
        Ok(())
    }
}

impl ChainSpec {
    /// Whether a block may be built for this time.
    ///
    /// # Errors
    ///
    /// While Prague3 is active.
    pub fn check_building(&self, timestamp: u64) -> Result<(), BuildingRefused> {
        match self.prague3_at(timestamp) {
            Some(_) => Err(BuildingRefused { timestamp }),
            None => Ok(()),
        }
    }

    /// Whether a block of this time may have written these logs.
    ///
    /// # Errors
    ///
    /// The first log that Prague3 forbids.
    pub fn check_logs<'a>(
        &self,
        timestamp: u64,
        logs: impl IntoIterator<Item = &'a Log>,
    ) -> Result<(), Prague3Violation> {
        let Some(rules) = self.prague3_at(timestamp) else { return Ok(()) };
        logs.into_iter().try_for_each(|log| rules.check(log))
    }

    fn prague3_at(&self, timestamp: u64) -> Option<&Prague3> {
        let section = self.berachain()?;
        let over = section.prague4.as_ref().is_some_and(|fork| fork.time <= timestamp);
        section.prague3.as_ref().filter(|fork| fork.time <= timestamp && !over)
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{LogData, keccak256};
    use serde_json::json;

    use super::*;
    use crate::testing::{berachain_genesis, spec_of};

    const VAULT: Address = Address::repeat_byte(0xbe);
    const RESCUE: Address = Address::repeat_byte(0x5e);
    const BLOCKED: Address = Address::repeat_byte(0xb1);
    const ANYBODY: Address = Address::repeat_byte(0xaa);

    fn spec() -> ChainSpec {
        let mut genesis = berachain_genesis();
        genesis["config"]["berachain"]["prague3"] = json!({
            "time": 1_000, "blockedAddresses": [BLOCKED], "rescueAddress": RESCUE,
            "bexVaultAddress": VAULT,
        });
        genesis["config"]["berachain"]["prague4"] = json!({ "time": 2_000 });
        genesis["config"]["osakaTime"] = json!(3_000);
        genesis["config"]["berachain"]["osaka1"]["time"] = json!(3_000);
        spec_of(&genesis).unwrap()
    }

    fn transfer(from: Address, to: Address) -> Log {
        let topics = vec![TRANSFER, from.into_word(), to.into_word()];
        Log { address: ANYBODY, data: LogData::new_unchecked(topics, Default::default()) }
    }

    fn check(log: &Log) -> Result<(), Prague3Violation> {
        spec().check_logs(1_000, [&transfer(ANYBODY, ANYBODY), log])
    }

    #[test]
    fn the_events_have_the_topics_of_their_signatures() {
        assert_eq!(keccak256("Transfer(address,address,uint256)"), TRANSFER);
        let changed = keccak256("InternalBalanceChanged(address,address,int256)");
        assert_eq!(changed, INTERNAL_BALANCE_CHANGED);
    }

    #[test]
    fn tokens_of_the_blocked_move_to_the_rescue_address_only() {
        assert_eq!(check(&transfer(BLOCKED, RESCUE)), Ok(()));
        assert_eq!(check(&transfer(ANYBODY, RESCUE)), Ok(()));
        let from_blocked = Prague3Violation::FromBlocked { from: BLOCKED, to: ANYBODY };
        assert_eq!(check(&transfer(BLOCKED, ANYBODY)), Err(from_blocked));
        assert_eq!(check(&transfer(ANYBODY, BLOCKED)), Err(Prague3Violation::ToBlocked(BLOCKED)));
        assert_eq!(check(&transfer(VAULT, RESCUE)), Err(Prague3Violation::Vault(RESCUE)));
        assert_eq!(check(&transfer(ANYBODY, VAULT)), Err(Prague3Violation::Vault(ANYBODY)));
    }

    #[test]
    fn a_transfer_without_both_topics_is_none() {
        let topics = vec![TRANSFER, BLOCKED.into_word()];
        let log = Log { address: ANYBODY, data: LogData::new_unchecked(topics, [].into()) };
        assert_eq!(check(&log), Ok(()));
    }

    #[test]
    fn the_books_of_the_vault_and_of_no_other_contract_are_closed() {
        let log = |address| {
            let data = LogData::new_unchecked(vec![INTERNAL_BALANCE_CHANGED], [].into());
            Log { address, data }
        };
        assert_eq!(check(&log(VAULT)), Err(Prague3Violation::InternalBalance));
        assert_eq!(check(&log(ANYBODY)), Ok(()));
    }

    #[test]
    fn outside_of_its_time_everything_moves_and_blocks_are_built() {
        let spec = spec();
        let forbidden = transfer(BLOCKED, ANYBODY);
        for (time, active) in [(999, false), (1_000, true), (1_999, true), (2_000, false)] {
            assert_eq!(spec.check_logs(time, [&forbidden]).is_err(), active, "{time}");
            assert_eq!(spec.check_building(time).is_err(), active, "{time}");
        }
        let ethereum = spec_of(&crate::testing::prague_genesis()).unwrap();
        assert_eq!(ethereum.check_building(1_500), Ok(()));
    }
}
