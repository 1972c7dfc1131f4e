//! Which account has a code that is known by its hash only.
//!
//! Execution asks for code by hash; JSON-RPC gives it by address. Code normally comes along with
//! its account, so this is needed only when a cache has dropped one and kept the other.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use alloy_primitives::{Address, B256};

/// How many codes are remembered; the one noted first is forgotten first. About 10 MB.
const REMEMBERED: usize = 65_536;

#[derive(Debug, Default)]
pub(crate) struct CodeOwners(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    owners: HashMap<B256, Address>,
    noted: VecDeque<B256>,
}

impl CodeOwners {
    /// Notes that `owner` has the code with this hash; the latest owner counts.
    pub(crate) fn note(&self, code_hash: B256, owner: Address) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.owners.insert(code_hash, owner).is_some() {
            return;
        }
        inner.noted.push_back(code_hash);
        if inner.noted.len() > REMEMBERED
            && let Some(oldest) = inner.noted.pop_front()
        {
            inner.owners.remove(&oldest);
        }
    }

    /// An account that has this code, or had it when it was read.
    pub(crate) fn owner(&self, code_hash: B256) -> Option<Address> {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.owners.get(&code_hash).copied()
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::U256;

    use super::*;

    fn hash(n: usize) -> B256 {
        U256::from(n).into()
    }

    #[test]
    fn the_latest_owner_counts() {
        let owners = CodeOwners::default();
        owners.note(hash(1), Address::repeat_byte(1));
        owners.note(hash(1), Address::repeat_byte(2));
        assert_eq!(owners.owner(hash(1)), Some(Address::repeat_byte(2)));
        assert_eq!(owners.owner(hash(2)), None);
    }

    #[test]
    fn the_code_noted_first_is_forgotten_first() {
        let owners = CodeOwners::default();
        for n in 0..=REMEMBERED {
            owners.note(hash(n), Address::ZERO);
        }
        assert_eq!(owners.owner(hash(0)), None);
        assert!(owners.owner(hash(1)).is_some() && owners.owner(hash(REMEMBERED)).is_some());
    }
}
