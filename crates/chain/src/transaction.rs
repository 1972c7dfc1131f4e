//! Transactions: the envelope that holds any of them, Berachain's own type, and the form the rest
//! of the system passes around.

mod batch;
mod decoded;
mod envelope;
mod pol;

pub use decoded::{InvalidTransaction, MAX_TX_BYTES, Transaction};
pub use envelope::{TxEnvelope, TxType};
pub use pol::{POL_GAS_LIMIT, POL_TX_TYPE, PolTx};
