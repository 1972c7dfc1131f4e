//! Authorizations of EIP-7702: delegations to contracts, to nobody, and many that do not apply.

use alloy_eips::eip7702::{Authorization, SignedAuthorization};
use alloy_primitives::{Address, Signature, U256, address};
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use preconf_state::StateReader;

use super::signer;
use crate::{
    choices::Choices,
    random::{
        kind::Kind,
        world::{CHAIN_ID, DESTRUCT, OBSERVE, STORE, TRANSIENT},
    },
};

/// Code that is no contract's.
const IDENTITY: Address = address!("0x0000000000000000000000000000000000000004");

/// One to three, with what is special about them.
pub(super) fn several(
    choices: &mut Choices<'_>,
    state: &impl StateReader,
    sender: &PrivateKeySigner,
    sender_nonce: u64,
) -> (Vec<SignedAuthorization>, Vec<Kind>) {
    let mut kinds = Vec::new();
    let list = (0..=choices.roll(3))
        .map(|_| one(choices, state, sender, sender_nonce, &mut kinds))
        .collect();
    (list, kinds)
}

fn one(
    choices: &mut Choices<'_>,
    state: &impl StateReader,
    sender: &PrivateKeySigner,
    sender_nonce: u64,
    kinds: &mut Vec<Kind>,
) -> SignedAuthorization {
    let authority = if choices.once_in(4) { sender } else { signer(choices) };
    let account = state.account(authority.address()).unwrap_or_default().unwrap_or_default();
    let mut nonce = account.nonce;
    if authority.address() == sender.address() {
        kinds.push(Kind::OfSender);
        nonce = sender_nonce + 1;
    }
    if choices.once_in(6) {
        kinds.push(Kind::WrongNonce);
        nonce = if choices.roll(2) == 0 { nonce + 1 } else { nonce.wrapping_sub(1) };
    }
    let chain_id = match choices.roll(6) {
        0 => {
            kinds.push(Kind::ForeignChain);
            CHAIN_ID + 1
        }
        1 => {
            kinds.push(Kind::AnyChain);
            0
        }
        _ => CHAIN_ID,
    };
    let address = match choices.roll(8) {
        0 | 1 => {
            kinds.push(Kind::Clearing);
            Address::ZERO
        }
        2 => {
            kinds.push(Kind::SelfDelegation);
            authority.address()
        }
        3 => signer(choices).address(),
        _ => choices.pick(&[STORE, TRANSIENT, DESTRUCT, OBSERVE, IDENTITY]),
    };
    let authorization = Authorization { chain_id: U256::from(chain_id), address, nonce };
    let signature = authority.sign_hash_sync(&authorization.signature_hash());
    let mut signature = signature.expect("the key is in memory");
    if choices.once_in(6) {
        kinds.push(Kind::BadSignature);
        signature = if choices.roll(2) == 0 {
            // Its mirror image, which EIP-2 has made invalid.
            Signature::new(signature.r(), U256::MAX - signature.s(), !signature.v())
        } else {
            Signature::new(U256::ZERO, signature.s(), signature.v())
        };
    }
    authorization.into_signed(signature)
}
