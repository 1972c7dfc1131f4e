//! Proofs of what a state holds, from the trie of the whole state.
//!
//! Decides the shape of a proof (EIP-1186): the nodes from the root down to the key, or to where
//! the key would be. Nothing is kept between proofs, so each costs as much as a state root.

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_trie::proof::ProofRetainer;
use alloy_trie::{EMPTY_ROOT_HASH, HashBuilder, KECCAK_EMPTY, Nibbles, TrieAccount};
use preconf_state::MemoryState;

/// Nodes shorter than this lie within their parent and are not listed on their own.
const HASHED_NODE_BYTES: usize = 32;

/// An account with the proof that the state holds it, or that it does not.
#[derive(Clone, Debug)]
pub(crate) struct AccountProof {
    pub(crate) account: TrieAccount,
    pub(crate) nodes: Vec<Bytes>,
    /// In the order in which they were asked for.
    pub(crate) slots: Vec<SlotProof>,
}

/// The value of a slot that was asked for, with its proof.
#[derive(Clone, Debug)]
pub(crate) struct SlotProof {
    pub(crate) value: U256,
    pub(crate) nodes: Vec<Bytes>,
}

/// Proves an account and some of its slots.
pub(crate) fn prove(state: &MemoryState, address: Address, slots: &[U256]) -> AccountProof {
    let mut proved = AccountProof {
        account: TrieAccount { code_hash: KECCAK_EMPTY, ..TrieAccount::default() },
        nodes: Vec::new(),
        slots: Vec::new(),
    };
    let mut leaves = Vec::new();
    let mut storage = Vec::new();
    for (other, account, values) in state.iter() {
        let values: Vec<(U256, U256)> = values.collect();
        let mut account = TrieAccount {
            nonce: account.nonce,
            balance: account.balance,
            storage_root: EMPTY_ROOT_HASH,
            code_hash: account.code_hash,
        };
        if !values.is_empty() {
            account.storage_root = trie(storage_leaves(&values), &[]).0;
        }
        if other == address {
            proved.account = account;
            storage = values;
        }
        leaves.push((keccak256(other), alloy_rlp::encode(account)));
    }
    let targets: Vec<B256> = slots.iter().map(|slot| keccak256(B256::from(*slot))).collect();
    let (_, proofs) = trie(storage_leaves(&storage), &targets);
    let value = |slot: &U256| storage.iter().find(|(other, _)| other == slot);
    proved.slots = slots
        .iter()
        .zip(proofs)
        .map(|(slot, nodes)| {
            let value = value(slot).map(|(_, value)| *value).unwrap_or_default();
            SlotProof { value, nodes }
        })
        .collect();
    let (_, proofs) = trie(leaves, &[keccak256(address)]);
    proved.nodes = proofs.into_iter().next().unwrap_or_default();
    proved
}

fn storage_leaves(values: &[(U256, U256)]) -> Vec<(B256, Vec<u8>)> {
    let values = values.iter().filter(|(_, value)| !value.is_zero());
    values.map(|(slot, value)| (keccak256(B256::from(*slot)), alloy_rlp::encode(value))).collect()
}

/// The root of a trie with these leaves, and the nodes on the way to each target. A trie without
/// leaves has no nodes.
fn trie(mut leaves: Vec<(B256, Vec<u8>)>, targets: &[B256]) -> (B256, Vec<Vec<Bytes>>) {
    if leaves.is_empty() {
        return (EMPTY_ROOT_HASH, vec![Vec::new(); targets.len()]);
    }
    leaves.sort_unstable_by_key(|(key, _)| *key);
    let targets: Vec<Nibbles> = targets.iter().map(Nibbles::unpack).collect();
    let retainer = ProofRetainer::new(targets.clone());
    let mut builder = HashBuilder::default().with_proof_retainer(retainer);
    for (key, value) in &leaves {
        builder.add_leaf(Nibbles::unpack(key), value);
    }
    let root = builder.root();
    let nodes = builder.take_proof_nodes();
    let of_target = |target: &Nibbles| {
        let path = nodes.matching_nodes_sorted(target).into_iter();
        path.filter(|(path, node)| path.is_empty() || node.len() >= HASHED_NODE_BYTES)
            .map(|(_, node)| node)
            .collect()
    };
    (root, targets.iter().map(of_target).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use alloy_genesis::GenesisAccount;
    use alloy_trie::proof::verify_proof;

    use super::*;
    use crate::client::validate::root_of;

    fn account(n: u64) -> Address {
        Address::from_word(B256::from(U256::from(n)))
    }

    /// Account n has n slots, 3·k holding k + 1.
    fn state() -> MemoryState {
        let alloc: BTreeMap<Address, GenesisAccount> = (0..60)
            .map(|n| {
                let slots =
                    (0..n).map(|k| (B256::from(U256::from(3 * k)), B256::from(U256::from(k + 1))));
                let genesis = GenesisAccount::default().with_balance(U256::from(n + 1));
                (account(n), genesis.with_storage(Some(slots.collect())))
            })
            .collect();
        MemoryState::from_genesis(&alloc)
    }

    #[test]
    fn what_is_there_and_what_is_not_can_be_verified_against_the_state_root() {
        let state = state();
        let root = root_of(&state);
        for n in 0..80 {
            let slots: Vec<U256> = (0..40).map(U256::from).collect();
            let proof = prove(&state, account(n), &slots);
            let expected = (n < 60).then(|| alloy_rlp::encode(proof.account));
            let key = Nibbles::unpack(keccak256(account(n)));
            verify_proof(root, key, expected, &proof.nodes).unwrap();
            for (slot, SlotProof { value, nodes }) in slots.iter().zip(&proof.slots) {
                let k = slot.to::<u64>();
                let there = n < 60 && k.is_multiple_of(3) && k / 3 < n;
                assert_eq!(*value, if there { U256::from(k / 3 + 1) } else { U256::ZERO });
                let key = Nibbles::unpack(keccak256(B256::from(*slot)));
                let expected = there.then(|| alloy_rlp::encode(value));
                verify_proof(proof.account.storage_root, key, expected, nodes).unwrap();
            }
        }
    }
}
