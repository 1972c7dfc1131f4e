//! Random transactions, good and bad, from a seed.

use alloy_consensus::{TxEip1559, TxEip2930, TxEip4844, TxEip7702, TxLegacy};
use alloy_eips::{
    eip2930::{AccessList, AccessListItem},
    eip7002::WITHDRAWAL_REQUEST_PREDEPLOY_ADDRESS,
    eip7251::CONSOLIDATION_REQUEST_PREDEPLOY_ADDRESS,
    eip7702::{Authorization, SignedAuthorization},
};
use alloy_primitives::{Address, B256, Bytes, TxKind, U256};
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use preconf_chain::Transaction;
use preconf_state::StateReader;

use super::{
    BURN, CHAIN_ID, DEPOSIT, DESTRUCT, EPHEMERAL, FACTORY, FEE_RECIPIENT, GWEI, OBSERVE, REVERT,
    SIGNERS, STORE, sign, signer, word,
};

/// A generator that is the same everywhere (SplitMix64).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }

    fn signer(&mut self) -> PrivateKeySigner {
        signer(1 + self.roll(u64::from(SIGNERS)) as u8)
    }
}

/// What a transaction calls, and with what.
struct Act {
    to: TxKind,
    value: u64,
    input: Bytes,
    gas: u64,
}

fn act(dice: &mut Dice) -> Act {
    let call = |to, value, input: Vec<u8>, gas| Act {
        to: TxKind::Call(to),
        value,
        input: input.into(),
        gas,
    };
    match dice.roll(16) {
        0 => {
            call(Address::left_padding_from(&dice.roll(u64::MAX).to_be_bytes()), 7, vec![], 21_000)
        }
        1 => call(signer(1 + dice.roll(8) as u8).address(), dice.roll(9), vec![], 21_000),
        2 => call(FEE_RECIPIENT, 1, vec![], 21_000),
        // Touching what does not exist changes nothing.
        3 => call(Address::repeat_byte(0x55), 0, vec![], 21_000),
        4..=6 => {
            let input = [word(dice.roll(4)), word(dice.roll(3))].concat();
            call(STORE, 0, input, 100_000)
        }
        7 => call(REVERT, dice.roll(2), vec![], 60_000),
        8 => call(BURN, 0, vec![], 30_000 + dice.roll(10_000)),
        9 => call(DESTRUCT, 3, vec![], 60_000),
        10 => call(OBSERVE, 0, vec![], 100_000),
        11 => call(FACTORY, 0, EPHEMERAL.to_vec(), 200_000),
        // Deploys one that stays, one that is gone at once, and one that fails.
        12 => Act { to: TxKind::Create, value: 2, input: EPHEMERAL.into(), gas: 120_000 },
        13 => Act { to: TxKind::Create, value: 0, input: vec![0x32, 0xff].into(), gas: 90_000 },
        14 => {
            Act { to: TxKind::Create, value: 0, input: vec![0x5f, 0x5f, 0xfd].into(), gas: 90_000 }
        }
        _ => match dice.roll(3) {
            0 => call(WITHDRAWAL_REQUEST_PREDEPLOY_ADDRESS, 100, vec![3; 56], 200_000),
            1 => call(CONSOLIDATION_REQUEST_PREDEPLOY_ADDRESS, 100, vec![4; 96], 250_000),
            _ => call(DEPOSIT, 0, deposit_log(), 100_000),
        },
    }
}

/// The data of a deposit's log: five byte strings as Solidity encodes them.
fn deposit_log() -> Vec<u8> {
    let parts: [&[u8]; 5] = [&[1; 48], &[2; 32], &[3; 8], &[4; 96], &[5; 8]];
    let mut offsets = Vec::new();
    let mut tail = Vec::new();
    for part in parts {
        offsets.extend_from_slice(&word((parts.len() * 32 + tail.len()) as u64));
        tail.extend_from_slice(&word(part.len() as u64));
        tail.extend_from_slice(part);
        tail.resize(tail.len().next_multiple_of(32), 0);
    }
    offsets.extend(tail);
    offsets
}

/// The next transaction. Most are valid on `state`; some are not, each in its own way.
pub(crate) fn transaction(dice: &mut Dice, state: &impl StateReader) -> Transaction {
    let key = dice.signer();
    let account = state.account(key.address()).unwrap_or_default().unwrap_or_default();
    let mut nonce = account.nonce;
    let Act { to, mut value, input, mut gas } = act(dice);
    match dice.roll(20) {
        0 => nonce += 1 + dice.roll(3),
        1 => nonce = nonce.saturating_sub(1),
        2 => gas = 40_000_000,
        3 => gas = 20_000,
        4 => value = u64::MAX,
        _ => (),
    }
    let value = U256::from(value) * U256::from(if value == u64::MAX { 1_000_000 } else { 1 });
    let (max_fee_per_gas, max_priority_fee_per_gas) = (3 * GWEI, u128::from(dice.roll(2)) * GWEI);
    match (dice.roll(8), to) {
        (0 | 1, _) => sign(
            &key,
            TxLegacy {
                chain_id: Some(CHAIN_ID),
                nonce,
                gas_price: max_fee_per_gas,
                gas_limit: gas,
                to,
                value,
                input,
            },
        ),
        (2, _) => sign(
            &key,
            TxEip2930 {
                chain_id: CHAIN_ID,
                nonce,
                gas_price: max_fee_per_gas,
                gas_limit: gas + 10_000,
                to,
                value,
                access_list: access_list(),
                input,
            },
        ),
        (3, TxKind::Call(to)) => sign(
            &key,
            TxEip4844 {
                chain_id: CHAIN_ID,
                nonce,
                gas_limit: gas,
                max_fee_per_gas,
                max_priority_fee_per_gas,
                to,
                value,
                access_list: AccessList::default(),
                blob_versioned_hashes: vec![versioned_hash(); 1 + dice.roll(3) as usize],
                max_fee_per_blob_gas: GWEI,
                input,
            },
        ),
        (4, TxKind::Call(to)) => {
            let authorization_list = authorizations(dice, state, &key, nonce);
            sign(
                &key,
                TxEip7702 {
                    chain_id: CHAIN_ID,
                    nonce,
                    gas_limit: gas + 60_000,
                    max_fee_per_gas,
                    max_priority_fee_per_gas,
                    to,
                    value,
                    access_list: AccessList::default(),
                    authorization_list,
                    input,
                },
            )
        }
        _ => sign(
            &key,
            TxEip1559 {
                chain_id: CHAIN_ID,
                nonce,
                gas_limit: gas,
                max_fee_per_gas,
                max_priority_fee_per_gas,
                to,
                value,
                access_list: AccessList::default(),
                input,
            },
        ),
    }
}

pub(crate) fn versioned_hash() -> B256 {
    let mut hash = B256::repeat_byte(0x11);
    hash.0[0] = 1;
    hash
}

fn access_list() -> AccessList {
    let storage_keys = vec![B256::ZERO, B256::with_last_byte(1)];
    AccessList(vec![AccessListItem { address: STORE, storage_keys }])
}

/// Delegations to a contract, to nobody, and with a nonce that does not fit.
fn authorizations(
    dice: &mut Dice,
    state: &impl StateReader,
    sender: &PrivateKeySigner,
    sender_nonce: u64,
) -> Vec<SignedAuthorization> {
    (0..=dice.roll(2))
        .map(|_| {
            let authority = dice.signer();
            let account = state.account(authority.address()).unwrap_or_default();
            let own = authority.address() == sender.address();
            let nonce = if own { sender_nonce + 1 } else { account.unwrap_or_default().nonce };
            let authorization = Authorization {
                chain_id: U256::from(CHAIN_ID * dice.roll(2)),
                address: if dice.roll(3) == 0 { Address::ZERO } else { STORE },
                nonce: nonce + u64::from(dice.roll(4) == 0),
            };
            let signature = authority.sign_hash_sync(&authorization.signature_hash());
            authorization.into_signed(signature.expect("the key is in memory"))
        })
        .collect()
}
