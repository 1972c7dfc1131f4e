//! Fields of received messages: present, of the right length, with a known meaning.

use std::fmt;

#[cfg(any(feature = "payload", feature = "pending"))]
use alloy_primitives::U256;
use alloy_primitives::{Address, FixedBytes};
use tonic::Status;

/// A received message that has no meaning, with the path of the field that has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    path: String,
    reason: String,
}

impl Invalid {
    /// The field at `path` is wrong because of `reason`.
    pub(crate) fn new(path: &str, reason: impl Into<String>) -> Self {
        Self { path: path.to_owned(), reason: reason.into() }
    }

    /// The path of the field.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.reason)
    }
}

impl std::error::Error for Invalid {}

impl From<Invalid> for Status {
    fn from(invalid: Invalid) -> Self {
        Self::invalid_argument(invalid.to_string())
    }
}

/// Puts the name of the outer field before the path.
pub(crate) trait Scope<T> {
    fn within(self, outer: &str) -> Result<T, Invalid>;
    fn at(self, outer: &str, index: usize) -> Result<T, Invalid>;
}

impl<T> Scope<T> for Result<T, Invalid> {
    fn within(self, outer: &str) -> Self {
        self.map_err(|Invalid { path, reason }| Invalid { path: format!("{outer}.{path}"), reason })
    }

    fn at(self, outer: &str, index: usize) -> Self {
        self.map_err(|Invalid { path, reason }| Invalid {
            path: format!("{outer}[{index}].{path}"),
            reason,
        })
    }
}

/// A field that must be there.
pub(crate) fn required<T>(path: &str, field: Option<T>) -> Result<T, Invalid> {
    field.ok_or_else(|| Invalid::new(path, "is missing"))
}

/// Bytes of exactly `N`.
pub(crate) fn fixed<const N: usize>(path: &str, bytes: &[u8]) -> Result<FixedBytes<N>, Invalid> {
    FixedBytes::try_from(bytes)
        .map_err(|_| Invalid::new(path, format!("has {} bytes, not {N}", bytes.len())))
}

/// Bytes of exactly `N`, or none at all.
pub(crate) fn optional_fixed<const N: usize>(
    path: &str,
    bytes: &[u8],
) -> Result<Option<FixedBytes<N>>, Invalid> {
    if bytes.is_empty() {
        return Ok(None);
    }
    fixed(path, bytes).map(Some)
}

/// An address of 20 bytes.
pub(crate) fn address(path: &str, bytes: &[u8]) -> Result<Address, Invalid> {
    fixed(path, bytes).map(Address)
}

/// Minimal big-endian bytes of at most 256 bits.
#[cfg(any(feature = "payload", feature = "pending"))]
pub(crate) fn uint(path: &str, bytes: &[u8]) -> Result<U256, Invalid> {
    if bytes.len() > 32 {
        return Err(Invalid::new(path, format!("has {} bytes, more than 32", bytes.len())));
    }
    if bytes.first() == Some(&0) {
        return Err(Invalid::new(path, "has leading zeros"));
    }
    Ok(U256::from_be_slice(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_the_field_from_the_outside_in() {
        let inner: Result<FixedBytes<32>, _> = fixed("parent_hash", &[1, 2]);
        let outer = inner.within("base").at("items", 3).unwrap_err();
        assert_eq!(outer.to_string(), "items[3].base.parent_hash: has 2 bytes, not 32");
    }

    #[cfg(any(feature = "payload", feature = "pending"))]
    #[test]
    fn a_number_is_minimal_and_fits() {
        assert_eq!(uint("n", &[]), Ok(U256::ZERO));
        assert_eq!(uint("n", &[1, 0]), Ok(U256::from(256)));
        assert!(uint("n", &[0, 1]).is_err());
        assert!(uint("n", &[1; 33]).is_err());
    }
}
