//! What precompiles are called with: inputs that they accept, and the same ones spoilt.
//!
//! Points are multiples of the generators, so that each input is another. Where a valid input cannot
//! be made without what only a prover knows, it is a published vector.

use alloy_primitives::{B256, U256, hex};
use alloy_signer::SignerSync;
use blst::{min_pk, min_sig};
use sha2::{Digest, Sha256};

use super::signer;
use crate::{choices::Choices, random::kind::P256_VERIFY};

/// The highest precompile of EIP-2537, and a number beyond the last.
const LAST: u64 = 0x11;
const ABSENT: u16 = 0x12;

/// The negative of alt_bn128's first generator, which is (1, 2), and the second generator
/// (EIP-197).
const BN_MINUS_TWO: [u8; 32] =
    hex!("30644e72e131a029b85045b68181585d97816a916871ca8d3c208c16d87cfd45");
const BN_G2: [u8; 128] = hex!(
    "198e9393920d483a7260bfb731fb5d25f1aa493335a9e71297e485b7aef312c2"
    "1800deef121f1e76426a00665e5c4479674322d4f75edadd46debd5cd992f6ed"
    "090689d0585ff075ec9e99ad690c3395bc4b313370b38ef355acdadcd122975b"
    "12c85ea5db8c6deb4aab71808dcb408fe3d1e7690c43d37b4ce6cc0166fa7daa"
);

/// One less than the order of BLS12-381's groups: the scalar of a generator's negative.
const BLS_MINUS_ONE: [u8; 32] =
    hex!("73eda753299d7d483339d80809a1d80553bda402fffe5bfeffffffff00000000");

/// A proof of c-kzg-4844's test `verify_kzg_proof_case_correct_proof_4_4`: commitment, point, value
/// and proof.
const KZG_COMMITMENT: [u8; 48] = hex!(
    "8f59a8d2a1a625a17f3fea0fe5eb8c896db3764f3185481bc22f91b4aaffcca2"
    "5f26936857bc3a7c2539ea8ec3a952b7"
);
const KZG_VALUE: [u8; 32] =
    hex!("1522a4a7f34e1ea350ae07c29c96c7e79655aa926122e95fe69fcbd932ca49e9");
const KZG_PROOF: [u8; 48] = hex!(
    "a62ad71d14c5719385c0686f1871430475bf3a00f0aa3f7b8dd99a9abc216074"
    "4faf0070725e00b60ad9a026a15b1a8c"
);

/// A signature of RIP-7212's tests: hash, r, s, and the public key.
const P256_SIGNED: [u8; 160] = hex!(
    "4cee90eb86eaa050036147a12d49004b6b9c72bd725d39d4785011fe190f0b4d"
    "a73bd4903f0ce3b639bbbf6e8e80d16931ff4bcf5993d58468e8fb19086e8cac"
    "36dbcd03009df8c59286b162af3bd7fcc0450c9aa81be5d10d312af6c66b1d60"
    "4aebd3099c618202fcfe16ae7770b0c49ab5eadf74b754204a3bb6060e44eff3"
    "7618b065f9832de4ca6ca971a7a1adc826d0f7c00181a5fb2ddf79ae00b4e10e"
);

/// The number of a precompile and what it is called with.
pub(super) fn call(choices: &mut Choices<'_>) -> Vec<u8> {
    let number = match choices.roll(LAST + 4) {
        0 => ABSENT,
        number if number <= LAST => number as u16,
        _ => P256_VERIFY,
    };
    let mut input = accepted(choices, number);
    if choices.once_in(2) {
        spoil(choices, &mut input);
    }
    [number.to_be_bytes().to_vec(), input].concat()
}

/// Something that a precompile takes and answers.
fn accepted(choices: &mut Choices<'_>, number: u16) -> Vec<u8> {
    match number {
        0x01 => recovery(choices),
        0x05 => exponentiation(choices),
        0x06 => [bn_g1(choices), bn_g1(choices)].concat(),
        0x07 => [bn_g1(choices), scalar(choices)].concat(),
        0x08 => [bn_g1(choices), BN_G2.to_vec(), bn_g1(choices), BN_G2.to_vec()].concat(),
        0x09 => compression(choices),
        0x0a => evaluation(choices),
        0x0b => [g1(choices), g1(choices)].concat(),
        0x0c => several(choices, |choices| [g1(choices), scalar(choices)].concat()),
        0x0d => [g2(choices), g2(choices)].concat(),
        0x0e => several(choices, |choices| [g2(choices), scalar(choices)].concat()),
        0x0f => pairs(choices),
        0x10 => field(choices),
        0x11 => [field(choices), field(choices)].concat(),
        P256_VERIFY => P256_SIGNED.to_vec(),
        // Hashes, the identity, and nobody.
        _ => bytes(choices, 1, 250),
    }
}

/// Makes another input of one, which is seldom valid.
fn spoil(choices: &mut Choices<'_>, input: &mut Vec<u8>) {
    let at = choices.roll(input.len() as u64) as usize;
    match choices.roll(4) {
        0 | 1 => input[at] ^= 1 << choices.roll(8),
        2 => input.truncate(at),
        _ => input.extend(bytes(choices, 1, 40)),
    }
}

fn bytes(choices: &mut Choices<'_>, least: u64, more: u64) -> Vec<u8> {
    let length = least + choices.roll(more);
    (0..length).map(|_| choices.roll(256) as u8).collect()
}

fn word(value: u64) -> Vec<u8> {
    U256::from(value).to_be_bytes_vec()
}

fn scalar(choices: &mut Choices<'_>) -> Vec<u8> {
    bytes(choices, 32, 1)
}

fn several(choices: &mut Choices<'_>, mut one: impl FnMut(&mut Choices<'_>) -> Vec<u8>) -> Vec<u8> {
    (0..=choices.roll(2)).flat_map(|_| one(choices)).collect()
}

fn recovery(choices: &mut Choices<'_>) -> Vec<u8> {
    let hash = B256::from(U256::from(choices.roll(u64::MAX)));
    let signed = signer(choices).sign_hash_sync(&hash).expect("the key is in memory");
    let v = word(27 + u64::from(signed.v()));
    let (r, s) = (signed.r().to_be_bytes_vec(), signed.s().to_be_bytes_vec());
    [hash.to_vec(), v, r, s].concat()
}

fn exponentiation(choices: &mut Choices<'_>) -> Vec<u8> {
    let parts = [bytes(choices, 1, 64), bytes(choices, 1, 32), bytes(choices, 1, 64)];
    let lengths = parts.iter().flat_map(|part| word(part.len() as u64)).collect::<Vec<u8>>();
    [lengths, parts.concat()].concat()
}

/// A point of alt_bn128's first group: its generator, that one's negative, or nothing.
fn bn_g1(choices: &mut Choices<'_>) -> Vec<u8> {
    match choices.roll(5) {
        0 => vec![0; 64],
        1 | 2 => [word(1), BN_MINUS_TWO.to_vec()].concat(),
        _ => [word(1), word(2)].concat(),
    }
}

fn compression(choices: &mut Choices<'_>) -> Vec<u8> {
    let rounds = choices.roll(1_000) as u32;
    let is_last = choices.roll(2) as u8;
    [rounds.to_be_bytes().to_vec(), bytes(choices, 208, 1), vec![is_last]].concat()
}

/// A polynomial that is a constant everywhere, which anybody can prove, or one of somebody else's.
fn evaluation(choices: &mut Choices<'_>) -> Vec<u8> {
    let (commitment, point, value, proof) = if choices.roll(2) == 0 {
        (KZG_COMMITMENT, BLS_MINUS_ONE, KZG_VALUE, KZG_PROOF)
    } else {
        let constant = small_scalar(choices);
        let mut nothing = [0; 48];
        nothing[0] = 0xc0;
        (g1_key(&constant).compress(), small_scalar(choices), constant, nothing)
    };
    let mut hash = Sha256::digest(commitment).to_vec();
    hash[0] = 1;
    [&hash[..], &point, &value, &commitment, &proof].concat()
}

/// Above zero and below the order of BLS12-381's groups.
fn small_scalar(choices: &mut Choices<'_>) -> [u8; 32] {
    U256::from(1 + choices.roll(1 << 40)).to_be_bytes()
}

fn g1_key(scalar: &[u8; 32]) -> min_pk::PublicKey {
    min_pk::SecretKey::from_bytes(scalar).expect("the scalar is in range").sk_to_pk()
}

fn g1(choices: &mut Choices<'_>) -> Vec<u8> {
    if choices.once_in(8) { vec![0; 128] } else { g1_of(&small_scalar(choices)) }
}

fn g2(choices: &mut Choices<'_>) -> Vec<u8> {
    if choices.once_in(8) { vec![0; 256] } else { g2_of(&small_scalar(choices)) }
}

/// A multiple of the first generator, its coordinates in words as EIP-2537 has them.
fn g1_of(scalar: &[u8; 32]) -> Vec<u8> {
    g1_key(scalar).serialize().chunks(48).flat_map(padded).collect()
}

/// A multiple of the second generator. EIP-2537 has the real parts first, blst the imaginary ones.
fn g2_of(scalar: &[u8; 32]) -> Vec<u8> {
    let key = min_sig::SecretKey::from_bytes(scalar).expect("the scalar is in range").sk_to_pk();
    let parts = key.serialize();
    [48, 0, 144, 96].into_iter().flat_map(|at| padded(&parts[at..at + 48])).collect()
}

fn padded(coordinate: &[u8]) -> Vec<u8> {
    [&[0; 16], coordinate].concat()
}

/// Two pairs, whose product is one more often than not: e(kP, Q) and e(-P, kQ).
fn pairs(choices: &mut Choices<'_>) -> Vec<u8> {
    let (one, k) = (U256::from(1).to_be_bytes(), small_scalar(choices));
    let other = if choices.once_in(3) { small_scalar(choices) } else { k };
    [g1_of(&k), g2_of(&one), g1_of(&BLS_MINUS_ONE), g2_of(&other)].concat()
}

fn field(choices: &mut Choices<'_>) -> Vec<u8> {
    [vec![0; 32], scalar(choices)].concat()
}
