//! Between messages and domain types: total when sending, checked when receiving.

mod field;
mod types;

pub use field::Invalid;
#[cfg(any(feature = "payload", feature = "pending"))]
pub(crate) use field::uint;
pub(crate) use field::{Scope as InvalidScope, address, fixed, optional_fixed, required};
#[cfg(feature = "pending")]
pub(crate) use types::base;
pub(crate) use types::{abandon_reason, bytes, digest, list, signature};
