//! Roots of Merkle Patricia tries, rebuilt as a whole.
//!
//! For a genesis, for the lists of a block, and for comparing: a chain's state is too large to
//! rebuild its trie for every block.

use alloy_consensus::{ReceiptWithBloom, TxReceipt, proofs::calculate_receipt_root};
use alloy_primitives::{Address, B256, U256};
use alloy_trie::{
    TrieAccount,
    root::{ordered_trie_root_encoded, state_root_unhashed, storage_root_unhashed},
};

use crate::Receipt;

/// An account as the trie holds it, with its storage.
#[derive(Clone, Debug)]
pub struct TrieAccountParts<S> {
    /// The nonce.
    pub nonce: u64,
    /// The balance, in wei.
    pub balance: U256,
    /// The hash of the code.
    pub code_hash: B256,
    /// Slots and their values, each slot once. Zero values count as absent.
    pub storage: S,
}

/// The root of a state given as a whole, each account once.
pub fn state_root<A, S>(accounts: A) -> B256
where
    A: IntoIterator<Item = (Address, TrieAccountParts<S>)>,
    S: IntoIterator<Item = (U256, U256)>,
{
    state_root_unhashed(accounts.into_iter().map(|(address, account)| {
        let TrieAccountParts { nonce, balance, code_hash, storage } = account;
        let storage_root = storage_root_unhashed(
            storage
                .into_iter()
                .filter(|(_, value)| !value.is_zero())
                .map(|(slot, value)| (B256::from(slot), value)),
        );
        (address, TrieAccount::new(nonce, balance, storage_root, code_hash))
    }))
}

/// The root of a block's transactions, given as EIP-2718 bytes in order.
pub fn transactions_root<T: AsRef<[u8]>>(encoded: &[T]) -> B256 {
    ordered_trie_root_encoded(encoded)
}

/// The root of a block's receipts.
pub fn receipts_root(receipts: &[Receipt]) -> B256 {
    let with_bloom: Vec<ReceiptWithBloom<&Receipt>> =
        receipts.iter().map(TxReceipt::with_bloom_ref).collect();
    calculate_receipt_root(&with_bloom)
}

#[cfg(test)]
mod tests {
    use alloy_consensus::constants::KECCAK_EMPTY;
    use alloy_eips::eip2718::Encodable2718;
    use alloy_trie::EMPTY_ROOT_HASH;

    use super::*;
    use crate::testing::chain;

    fn account(nonce: u64, slots: &[(u64, u64)]) -> TrieAccountParts<Vec<(U256, U256)>> {
        TrieAccountParts {
            nonce,
            balance: U256::from(1),
            code_hash: KECCAK_EMPTY,
            storage: slots.iter().map(|(k, v)| (U256::from(*k), U256::from(*v))).collect(),
        }
    }

    #[test]
    fn nothing_has_the_empty_root() {
        let no_accounts = std::iter::empty::<(Address, TrieAccountParts<Vec<_>>)>();
        assert_eq!(state_root(no_accounts), EMPTY_ROOT_HASH);
        assert_eq!(receipts_root(&[]), EMPTY_ROOT_HASH);
        assert_eq!(transactions_root::<Vec<u8>>(&[]), EMPTY_ROOT_HASH);
    }

    #[test]
    fn the_order_does_not_matter_and_a_slot_that_is_zero_is_absent() {
        let [a, b] = [1, 2].map(Address::repeat_byte);
        let root = state_root([(a, account(1, &[(1, 9), (2, 8)])), (b, account(2, &[]))]);
        let other =
            state_root([(b, account(2, &[(7, 0)])), (a, account(1, &[(2, 8), (3, 0), (1, 9)]))]);
        assert_eq!(root, other);
        assert_ne!(root, state_root([(a, account(1, &[(1, 9)])), (b, account(2, &[]))]));
    }

    #[test]
    fn the_transactions_of_the_public_chain_have_the_roots_of_its_headers() {
        for block in chain() {
            let encoded: Vec<_> =
                block.body.transactions.iter().map(Encodable2718::encoded_2718).collect();
            assert_eq!(transactions_root(&encoded), block.header.transactions_root);
        }
    }
}
