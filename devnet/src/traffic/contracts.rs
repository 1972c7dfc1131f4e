//! Two contracts, assembled by hand so that no compiler is needed: a token, and one that answers.

use alloy_primitives::{Address, Bytes, U256, hex, keccak256};
use alloy_sol_types::{SolCall, SolEvent, SolValue, sol};

sol! {
    /// What the token can be told and asked.
    interface Token {
        /// Written for every transfer.
        event Transfer(address indexed from, address indexed to, uint256 value);
        /// Moves the caller's tokens; reverts if he has fewer.
        function transfer(address to, uint256 amount) returns (bool);
        /// How many tokens somebody has.
        function balanceOf(address owner) returns (uint256);
    }
}

/// The token at run time. Balances are in the mapping at slot 0.
const TOKEN: [&[u8]; 5] = [
    // calldata[0..4]: transfer → 0x1c, balanceOf → 0x77, else revert at 0x18.
    &hex!("5f35 60e0 1c 80 63a9059cbb 14 601c 57 6370a08231 14 6077 57 5b 5f 5f fd"),
    // 0x1c: balance := slot[keccak(caller, 0)]; revert if amount > balance; slot -= amount.
    &hex!("5b 33 5f 52 6040 5f 20 80 54 6024 35 80 82 10 6018 57 80 91 03 90 91 55"),
    // slot[keccak(to, 0)] += amount.
    &hex!("6004 35 5f 52 6040 5f 20 80 54 82 01 90 55"),
    // log Transfer(caller, to, amount); return true. The topic goes between these two.
    &hex!("5f 52 6004 35 33 7f"),
    &hex!(
        "6020 5f a3 6001 5f 52 6020 5f f3"
        // 0x77: return slot[keccak(owner, 0)].
        "5b 6004 35 5f 52 6040 5f 20 54 5f 52 6020 5f f3"
    ),
];

/// A contract that answers every call with 42.
const ANSWER: &[u8] = &hex!("602a 5f 52 6020 5f f3");

const SSTORE: u8 = 0x55;
const PUSH2: u8 = 0x61;
const PUSH32: u8 = 0x7f;

/// What the creation of the token executes: it gives `amount` to each of `owners`.
pub fn token(owners: &[Address], amount: U256) -> Bytes {
    let [dispatch, debit, credit, log, rest] = TOKEN;
    let topic = Token::Transfer::SIGNATURE_HASH;
    let runtime = [dispatch, debit, credit, log, topic.as_slice(), rest].concat();
    let mut constructor = Vec::new();
    for owner in owners {
        let slot = keccak256((*owner, U256::ZERO).abi_encode());
        constructor.push(PUSH32);
        constructor.extend(amount.to_be_bytes::<32>());
        constructor.push(PUSH32);
        constructor.extend(slot);
        constructor.push(SSTORE);
    }
    creation(constructor, &runtime)
}

/// What the creation of the contract that answers executes.
pub fn answer() -> Bytes {
    creation(Vec::new(), ANSWER)
}

/// A call of the token's `transfer`.
pub fn transfer(to: Address, amount: U256) -> Bytes {
    Token::transferCall { to, amount }.abi_encode().into()
}

/// A call of the token's `balanceOf`.
pub fn balance_of(owner: Address) -> Bytes {
    Token::balanceOfCall { owner }.abi_encode().into()
}

/// A constructor that leaves `runtime` behind.
fn creation(mut constructor: Vec<u8>, runtime: &[u8]) -> Bytes {
    /// The bytes of the code below, which are not part of what it copies.
    const COPY_BYTES: usize = 13;
    let push = |value: usize| {
        let value = u16::try_from(value).expect("a contract has at most 24 kB");
        let [high, low] = value.to_be_bytes();
        [PUSH2, high, low]
    };
    let begins = constructor.len() + COPY_BYTES;
    constructor.extend(push(runtime.len()));
    constructor.extend(push(begins));
    // PUSH0 CODECOPY
    constructor.extend(hex!("5f 39"));
    constructor.extend(push(runtime.len()));
    // PUSH0 RETURN
    constructor.extend(hex!("5f f3"));
    constructor.extend(runtime);
    constructor.into()
}
