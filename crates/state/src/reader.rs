//! Reading the state of one block from memory.
//!
//! A [`StateReader`] answers at once or says [`NeedState`]. It never blocks, never fetches, and for
//! one reader two answers never come from two different blocks.

use std::{fmt, sync::Arc};

use alloy_primitives::{Address, B256, U256};
use revm::bytecode::Bytecode;

use crate::{Account, NeedState};

/// The state of one block, as far as it is in memory. `Debug` because executors ask it of their
/// database.
pub trait StateReader: fmt::Debug {
    /// Reads an account; `None` when it does not exist.
    ///
    /// # Errors
    /// [`NeedState`] when it is not in memory.
    fn account(&self, address: Address) -> Result<Option<Account>, NeedState>;

    /// Reads a storage slot; zero when it was never written.
    ///
    /// # Errors
    /// [`NeedState`] when it is not in memory.
    fn slot(&self, address: Address, slot: U256) -> Result<U256, NeedState>;

    /// Reads the code with a hash.
    ///
    /// # Errors
    /// [`NeedState`] when it is not in memory.
    fn code(&self, hash: B256) -> Result<Bytecode, NeedState>;

    /// Reads the hash of an ancestor.
    ///
    /// # Errors
    /// [`NeedState`] when it is not in memory.
    fn block_hash(&self, number: u64) -> Result<B256, NeedState>;
}

macro_rules! delegate_reader {
    ($($reader:ty),+) => {$(
        impl<R: StateReader + ?Sized> StateReader for $reader {
            fn account(&self, address: Address) -> Result<Option<Account>, NeedState> {
                (**self).account(address)
            }

            fn slot(&self, address: Address, slot: U256) -> Result<U256, NeedState> {
                (**self).slot(address, slot)
            }

            fn code(&self, hash: B256) -> Result<Bytecode, NeedState> {
                (**self).code(hash)
            }

            fn block_hash(&self, number: u64) -> Result<B256, NeedState> {
                (**self).block_hash(number)
            }
        }
    )+};
}

delegate_reader!(Arc<R>, &R, Box<R>);
