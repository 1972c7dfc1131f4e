//! Random transactions. Most are valid where they come; some are not, each in its own way.
//!
//! * [`precompiles`] — what precompiles are called with.
//! * [`authorizations`] — who delegates to whom.

mod authorizations;
mod precompiles;

use alloy_consensus::{
    EthereumTxEnvelope, SignableTransaction, Signed, TxEip1559, TxEip2930, TxEip4844, TxEip7702,
    TxLegacy,
};
use alloy_eips::{
    eip2718::Encodable2718,
    eip2930::{AccessList, AccessListItem},
    eip7002::WITHDRAWAL_REQUEST_PREDEPLOY_ADDRESS,
    eip7251::CONSOLIDATION_REQUEST_PREDEPLOY_ADDRESS,
    eip7702::SignedAuthorization,
};
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256, hex};
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use preconf_chain::Transaction;
use preconf_state::StateReader;

use super::{
    Rules,
    kind::Kind,
    world::{
        BURN, CHAIN_ID, CREATOR, DEPOSIT, DESTRUCT, DISTRIBUTOR, FACTORY, GWEI, OBSERVE,
        PRECOMPILE, REVERT, SIGNERS, STORE, TRANSIENT, TWICE, ZEROS, signers,
    },
};
use crate::choices::Choices;

/// Contracts that can be called without anything else.
const CALLABLE: [Address; 9] =
    [REVERT, DESTRUCT, OBSERVE, TRANSIENT, STORE, FACTORY, CREATOR, DISTRIBUTOR, ZEROS];
/// Init code of a contract that writes a slot and, when it is called, self-destructs.
const EPHEMERAL: [u8; 14] = hex!("60075f556133ff5f526002601ef3");
/// Init code of a contract that keeps the number of its calls.
const COUNTER: [u8; 15] = hex!("665f546001015f555f5260076019f3");
/// Init code that self-destructs in favour of its sender before it is a contract.
const STILLBORN: [u8; 2] = hex!("32ff");
/// Init code that reverts.
const REVERTING: [u8; 3] = hex!("5f5ffd");
/// Init code that returns the first byte of contracts to come, which no contract may have.
const FORBIDDEN: [u8; 8] = hex!("60ef5f5360015ff3");
const INIT_CODES: [&[u8]; 5] = [&EPHEMERAL, &COUNTER, &STILLBORN, &REVERTING, &FORBIDDEN];
/// Sizes of contracts on both sides of what Ethereum and Berachain allow.
const CODE_SIZES: [u16; 4] = [24_576, 24_577, 32_768, 32_769];
/// Sizes of init code on both sides of what Ethereum and Berachain allow.
const INIT_CODE_SIZES: [usize; 4] = [49_152, 49_153, 65_536, 65_537];
/// More blobs than one transaction may have, whatever the block may.
const TOO_MANY_BLOBS: u64 = 10;

/// A transaction, and what is special about it.
#[derive(Debug)]
pub struct Made {
    /// The transaction.
    pub transaction: Transaction,
    /// What is special about it.
    pub kinds: Vec<Kind>,
}

/// What a transaction calls, and with what.
struct Act {
    to: TxKind,
    value: U256,
    input: Vec<u8>,
    gas: u64,
}

/// The next transaction.
///
/// # Panics
/// Never: the keys are in memory.
pub fn transaction(
    choices: &mut Choices<'_>,
    rules: Rules,
    blob_base_fee: u128,
    state: &impl StateReader,
) -> Made {
    let key = signer(choices);
    let account = state.account(key.address()).unwrap_or_default().unwrap_or_default();
    let mut nonce = account.nonce;
    let mut act = act(choices, rules);
    let mut is_spoilt = true;
    match choices.roll(24) {
        1 => nonce += 1 + choices.roll(3),
        2 => nonce = nonce.saturating_sub(1),
        3 => act.gas = 40_000_000,
        4 => act.gas = 20_000,
        5 => act.value = U256::from(u64::MAX) * U256::from(1_000_000),
        _ => is_spoilt = false,
    }
    let price = Price {
        max_fee: u128::from(30 + choices.roll(3)) * GWEI,
        tip: u128::from(choices.roll(3)) * GWEI,
        blob_base_fee,
    };
    let plain = |transaction| Made { transaction, kinds: Vec::new() };
    match (choices.roll(8), act.to) {
        (0 | 1, to) => {
            let chain_id = (!choices.once_in(4)).then_some(CHAIN_ID);
            let Act { value, input, gas, .. } = act;
            let gas_price = price.max_fee;
            let input = input.into();
            let gas_limit = gas;
            plain(sign(key, TxLegacy { chain_id, nonce, gas_price, gas_limit, to, value, input }))
        }
        (2, _) => plain(with_access_list(key, nonce, act, &price)),
        (3, TxKind::Call(to)) => {
            let mut made = with_blobs(choices, key, nonce, to, act, &price);
            // What is refused for another reason is not what it was meant to be.
            made.kinds.retain(|_| !is_spoilt);
            made
        }
        (4, TxKind::Call(to)) => {
            let (list, kinds) = authorizations::several(choices, state, key, nonce);
            let transaction = with_authorizations(key, nonce, to, act, &price, list);
            Made { transaction, kinds }
        }
        _ => plain(with_dynamic_fee(key, nonce, act, &price)),
    }
}

/// What gas may cost.
struct Price {
    max_fee: u128,
    tip: u128,
    /// What blob gas costs in the block.
    blob_base_fee: u128,
}

fn signer(choices: &mut Choices<'_>) -> &'static PrivateKeySigner {
    &signers()[choices.roll(SIGNERS) as usize]
}

fn act(choices: &mut Choices<'_>, rules: Rules) -> Act {
    match choices.roll(20) {
        0 => {
            call(Address::left_padding_from(&choices.roll(u64::MAX).to_be_bytes()), 7, &[], 21_000)
        }
        1 => call(signer(choices).address(), choices.roll(9), &[], 60_000),
        // An account that is there before the contract that will be gone again.
        2 => call(FACTORY.create2_from_code(B256::ZERO, EPHEMERAL), 1, &[], 21_000),
        // Touching what does not exist changes nothing.
        3 => call(Address::repeat_byte(0x55), 0, &[], 21_000),
        4..=6 => call(STORE, 0, &store(choices), 100_000),
        7 => call(REVERT, choices.roll(2), &[], 60_000),
        8 => call(BURN, 0, &[], 30_000 + choices.roll(10_000)),
        9 => call(DESTRUCT, 3, &[], 60_000),
        10 => call(OBSERVE, 0, &[], 100_000),
        11 => creation(choices),
        12 => {
            let mut input = word(u256(choices.pick(&CALLABLE))).to_vec();
            input.extend(store(choices));
            call(TWICE, 0, &input, 60_000 + 50_000 * choices.roll(6))
        }
        13 => {
            let leading = vec![0; choices.roll(33) as usize];
            call(ZEROS, 0, &[leading, vec![1; 32]].concat(), 80_000)
        }
        14 => call(TRANSIENT, 0, &[], 100_000),
        15..=18 => {
            let input = precompiles::call(choices);
            call(PRECOMPILE, 0, &input, 400_000 + choices.roll(100_000))
        }
        _ => match choices.roll(3) {
            0 => call(WITHDRAWAL_REQUEST_PREDEPLOY_ADDRESS, 100, &[3; 56], 200_000),
            1 => call(CONSOLIDATION_REQUEST_PREDEPLOY_ADDRESS, 100, &[4; 96], 250_000),
            _ => call(DEPOSIT, 0, &deposit_log(rules), 120_000),
        },
    }
}

fn call(to: Address, value: u64, input: &[u8], gas: u64) -> Act {
    Act { to: TxKind::Call(to), value: U256::from(value), input: input.to_vec(), gas }
}

/// A slot and a value; often zero, which clears it.
fn store(choices: &mut Choices<'_>) -> Vec<u8> {
    [choices.roll(4), choices.roll(3)].map(|number| word(U256::from(number))).concat()
}

fn creation(choices: &mut Choices<'_>) -> Act {
    let code = choices.pick(&INIT_CODES);
    let value = choices.roll(3);
    match choices.roll(4) {
        0 | 1 => call(FACTORY, 0, code, 250_000),
        2 => call(CREATOR, value, code, 200_000),
        _ => create(choices, value, code),
    }
}

/// A creation, now and then of something very large.
fn create(choices: &mut Choices<'_>, value: u64, code: &[u8]) -> Act {
    let (input, gas) = match choices.roll(8) {
        0 => (vec![0; choices.pick(&INIT_CODE_SIZES)], 900_000),
        1 | 2 => {
            let [high, low] = choices.pick(&CODE_SIZES).to_be_bytes();
            // Returns so many zeros.
            (vec![0x61, high, low, 0x5f, 0xf3], 7_000_000)
        }
        _ => (code.to_vec(), 150_000),
    };
    Act { to: TxKind::Create, value: U256::from(value), input, gas }
}

/// The data of a deposit's log: five values as Solidity encodes them. On Berachain two of them are
/// numbers.
fn deposit_log(rules: Rules) -> Vec<u8> {
    let number = word(U256::from(32_000_000_000_u64));
    let bytes = |bytes: &[u8]| Err::<[u8; 32], _>(bytes.to_vec());
    let parts = match rules {
        Rules::Ethereum => {
            [bytes(&[1; 48]), bytes(&[2; 32]), bytes(&[3; 8]), bytes(&[4; 96]), bytes(&[5; 8])]
        }
        Rules::Berachain => {
            [bytes(&[1; 48]), bytes(&[2; 32]), Ok(number), bytes(&[4; 96]), Ok(number)]
        }
    };
    let mut heads = Vec::new();
    let mut tail = Vec::new();
    for part in &parts {
        match part {
            Ok(number) => heads.extend_from_slice(number),
            Err(bytes) => {
                heads.extend_from_slice(&word(U256::from(parts.len() * 32 + tail.len())));
                tail.extend_from_slice(&word(U256::from(bytes.len())));
                tail.extend_from_slice(bytes);
                tail.resize(tail.len().next_multiple_of(32), 0);
            }
        }
    }
    heads.extend(tail);
    heads
}

fn word(value: U256) -> [u8; 32] {
    value.to_be_bytes()
}

fn u256(address: Address) -> U256 {
    U256::from_be_slice(address.as_slice())
}

fn with_access_list(key: &PrivateKeySigner, nonce: u64, act: Act, price: &Price) -> Transaction {
    let Act { to, value, input, gas } = act;
    let storage_keys = vec![B256::ZERO, B256::with_last_byte(1)];
    let access_list = AccessList(vec![AccessListItem { address: STORE, storage_keys }]);
    let transaction = TxEip2930 {
        chain_id: CHAIN_ID,
        nonce,
        gas_price: price.max_fee,
        gas_limit: gas + 10_000,
        to,
        value,
        access_list,
        input: input.into(),
    };
    sign(key, transaction)
}

fn with_blobs(
    choices: &mut Choices<'_>,
    key: &PrivateKeySigner,
    nonce: u64,
    to: Address,
    act: Act,
    price: &Price,
) -> Made {
    let mut kinds = Vec::new();
    let mut hash = B256::repeat_byte(0x11);
    hash.0[0] = if choices.once_in(16) { 2 } else { 1 };
    let fee = price.blob_base_fee;
    let (kind, max_fee_per_blob_gas) = match choices.roll(6) {
        0 => (Some(Kind::BlobFeeExact), fee),
        1 => (Some(Kind::BlobFeeBelow), fee.saturating_sub(1)),
        _ => (None, 100_000 * GWEI),
    };
    kinds.extend(kind.filter(|_| hash.0[0] == 1));
    let mut blobs = 1 + choices.roll(3);
    if choices.once_in(12) {
        blobs = TOO_MANY_BLOBS;
        kinds = vec![Kind::TooManyBlobs];
    }
    let transaction = TxEip4844 {
        chain_id: CHAIN_ID,
        nonce,
        gas_limit: act.gas,
        max_fee_per_gas: price.max_fee,
        max_priority_fee_per_gas: price.tip,
        to,
        value: act.value,
        access_list: AccessList::default(),
        blob_versioned_hashes: vec![hash; blobs as usize],
        max_fee_per_blob_gas,
        input: act.input.into(),
    };
    Made { transaction: sign(key, transaction), kinds }
}

fn with_authorizations(
    key: &PrivateKeySigner,
    nonce: u64,
    to: Address,
    act: Act,
    price: &Price,
    authorization_list: Vec<SignedAuthorization>,
) -> Transaction {
    let transaction = TxEip7702 {
        chain_id: CHAIN_ID,
        nonce,
        gas_limit: act.gas + 80_000,
        max_fee_per_gas: price.max_fee,
        max_priority_fee_per_gas: price.tip,
        to,
        value: act.value,
        access_list: AccessList::default(),
        authorization_list,
        input: act.input.into(),
    };
    sign(key, transaction)
}

fn with_dynamic_fee(key: &PrivateKeySigner, nonce: u64, act: Act, price: &Price) -> Transaction {
    let Act { to, value, input, gas } = act;
    let transaction = TxEip1559 {
        chain_id: CHAIN_ID,
        nonce,
        gas_limit: gas,
        max_fee_per_gas: price.max_fee,
        max_priority_fee_per_gas: price.tip,
        to,
        value,
        access_list: AccessList::default(),
        input: Bytes::from(input),
    };
    sign(key, transaction)
}

fn sign<T>(key: &PrivateKeySigner, transaction: T) -> Transaction
where
    T: SignableTransaction<Signature>,
    EthereumTxEnvelope<TxEip4844>: From<Signed<T>>,
{
    let signature = key.sign_hash_sync(&transaction.signature_hash());
    let signed = transaction.into_signed(signature.expect("the key is in memory"));
    let encoded: Bytes = EthereumTxEnvelope::from(signed).encoded_2718().into();
    Transaction::decode_with_sender(encoded, key.address()).expect("it was just made")
}
