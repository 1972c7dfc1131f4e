//! The nouns of state: what can be asked for ([`Key`]), what the answer is ([`Value`]), and the
//! error that says an answer is not in memory ([`NeedState`]).
//!
//! They never say *where* state comes from; that is the business of whoever fetches it.

use std::hash::{Hash, Hasher};

use alloy_primitives::{Address, B256, FixedBytes, KECCAK256_EMPTY, U256};
use revm::{bytecode::Bytecode, context::DBErrorMarker, state::AccountInfo};

/// One thing that can be read of a block's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// Nonce, balance and code hash of an account.
    Account(Address),
    /// One storage slot of an account.
    Slot(Address, U256),
    /// The code with this hash. It does not depend on a block.
    Code(B256),
    /// The hash of the canonical block with this number, among the ancestors of the state's block.
    BlockHash(u64),
}

/// In words and not in bytes, as the derived one would: every read of the state hashes a key.
impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::Account(address) => hash_words(&address.0, state),
            Self::Slot(address, slot) => {
                hash_words(&address.0, state);
                hash_number(slot, state);
            }
            Self::Code(hash) => hash_words(hash, state),
            Self::BlockHash(number) => state.write_u64(*number),
        }
    }
}

pub(crate) fn hash_number(number: &U256, state: &mut impl Hasher) {
    number.as_limbs().iter().for_each(|word| state.write_u64(*word));
}

pub(crate) fn hash_words<const N: usize>(bytes: &FixedBytes<N>, state: &mut impl Hasher) {
    let (words, rest) = bytes.0.as_chunks::<8>();
    words.iter().for_each(|word| state.write_u64(u64::from_ne_bytes(*word)));
    if let Some(rest) = rest.first_chunk::<4>() {
        state.write_u32(u32::from_ne_bytes(*rest));
    }
}

/// The answer to a [`Key`], in the variant of the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// The account, or `None` when it does not exist.
    Account(Option<Account>),
    /// The slot's value; zero when it was never written.
    Slot(U256),
    /// The code.
    Code(Bytecode),
    /// The hash.
    BlockHash(B256),
}

impl Value {
    /// Tells whether this value is of the kind that `key` asks for.
    pub fn answers(&self, key: &Key) -> bool {
        matches!(
            (self, key),
            (Self::Account(_), Key::Account(_))
                | (Self::Slot(_), Key::Slot(..))
                | (Self::Code(_), Key::Code(_))
                | (Self::BlockHash(_), Key::BlockHash(_))
        )
    }
}

/// An account without its storage. One that does not exist is `Option::<Account>::None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// Number of transactions sent, or of contracts created.
    pub nonce: u64,
    /// Balance in wei.
    pub balance: U256,
    /// Keccak-256 of the code; [`KECCAK256_EMPTY`] when there is none.
    pub code_hash: B256,
}

impl Account {
    /// Tells whether EIP-161 calls this account empty: no nonce, no balance, no code.
    pub fn is_empty(&self) -> bool {
        self.nonce == 0 && self.balance.is_zero() && !self.has_code()
    }

    /// Tells whether the account has code.
    #[inline]
    pub fn has_code(&self) -> bool {
        self.code_hash != KECCAK256_EMPTY && !self.code_hash.is_zero()
    }
}

impl Default for Account {
    fn default() -> Self {
        Self { nonce: 0, balance: U256::ZERO, code_hash: KECCAK256_EMPTY }
    }
}

impl From<&AccountInfo> for Account {
    #[inline]
    fn from(info: &AccountInfo) -> Self {
        // revm treats a zero hash as "no code"; here that has one spelling.
        let code_hash = if info.code_hash.is_zero() { KECCAK256_EMPTY } else { info.code_hash };
        Self { nonce: info.nonce, balance: info.balance, code_hash }
    }
}

impl From<Account> for AccountInfo {
    #[inline]
    fn from(account: Account) -> Self {
        // Code is left to be fetched by its hash; only "none" is known already.
        let none = Self { nonce: account.nonce, balance: account.balance, ..Self::default() };
        if account.has_code() {
            Self { code_hash: account.code_hash, code: None, ..none }
        } else {
            none
        }
    }
}

/// A read needs state that is not in memory: fetch the key and ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("state is not in memory: {0:?}")]
pub struct NeedState(pub Key);

impl DBErrorMarker for NeedState {}
