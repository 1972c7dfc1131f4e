//! The rules of the chain: what a header, a transaction, a receipt and a genesis are, and which
//! values of them a block may hold.
//!
//! One concrete set of types serves Ethereum and Berachain: a [`Header`] whose 22nd field is
//! optional and a [`TxEnvelope`] that knows type 0x7e. Nothing here is generic over the chain; a
//! [`ChainSpec`] says at run time which rules apply.
//!
//! This crate never executes a transaction, never holds state, never does IO and never reads a
//! clock.

mod forkenv;
mod genesis;
mod header;
mod payload_id;
mod receipt;
mod root;
pub mod rpc;
mod spec;
#[cfg(test)]
mod testing;
mod transaction;

pub use forkenv::apply_forkenv;
pub use genesis::{GenesisError, system_contracts};
pub use header::{Header, ProposerPublicKey};
pub use payload_id::{PayloadIdInput, PayloadIdVariant};
pub use receipt::Receipt;
pub use root::{TrieAccountParts, receipts_root, state_root, transactions_root};
pub use spec::{
    BASE_FEE_ELASTICITY, BerachainConfig, BuildingRefused, ChainSpec, CodeLimits, HeaderError,
    HeaderField, MissingProposerKey, Osaka1, Prague1, Prague2, Prague3, Prague3Violation, Prague4,
    base_fee,
};
pub use transaction::{
    InvalidTransaction, MAX_TX_BYTES, POL_GAS_LIMIT, POL_TX_TYPE, PolTx, Transaction, TxEnvelope,
    TxType,
};

/// A block of either chain.
pub type Block = alloy_consensus::Block<TxEnvelope, Header>;
