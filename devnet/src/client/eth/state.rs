//! State: accounts, code, slots, and proofs of them.

use std::collections::BTreeMap;

use alloy_eips::{BlockId, BlockNumberOrTag};
use alloy_primitives::{Address, B256, Bytes, U64, U256};
use alloy_trie::TrieAccount;
use preconf_engine::RpcError;
use preconf_engine::rpc::Params;
use preconf_state::{Account, Diff, NeedState, StateReader};
use serde::Serialize;

use super::at;
use crate::client::methods::{Answer, Method, answer};
use crate::client::proof::{SlotProof, prove};
use crate::client::validate::state_after;
use crate::client::{ClientError, ExecutionClient};

/// The most slots that are read, or proved, at once.
const MAX_SLOTS: usize = 1_024;

pub(super) const METHODS: &[Method] = &[
    Method::new("eth_getBalance", balance),
    Method::new("eth_getTransactionCount", transaction_count),
    Method::new("eth_getCode", get_code),
    Method::new("eth_getStorageAt", storage_at),
    Method::new("eth_getStorageValues", storage_values),
    Method::new("eth_getProof", proof),
];

fn balance(client: &ExecutionClient, params: &Params) -> Answer {
    let (account, _) = account(client, params)?;
    answer(&account.balance)
}

/// At `pending`, what waits in the pool counts.
fn transaction_count(client: &ExecutionClient, params: &Params) -> Answer {
    let (Account { nonce, .. }, address) = account(client, params)?;
    let block = params.optional::<BlockId>(1, "block")?;
    let nonce = match block {
        Some(BlockId::Number(BlockNumberOrTag::Pending)) => {
            client.pool.lock().next_nonce(address, nonce)
        }
        Some(_) | None => nonce,
    };
    answer(&U64::from(nonce))
}

fn get_code(client: &ExecutionClient, params: &Params) -> Answer {
    let address = at::address(params, 0)?;
    let (_, state) = at::state(client, params, 1)?;
    let account = read(state.account(address))?.unwrap_or_default();
    answer(&read(state.code(account.code_hash))?.original_bytes())
}

fn storage_at(client: &ExecutionClient, params: &Params) -> Answer {
    let address = at::address(params, 0)?;
    let slot = Slot::parse(&params.required::<String>(1, "slot")?)?;
    let (_, state) = at::state(client, params, 2)?;
    answer(&B256::from(read(state.slot(address, slot.number))?))
}

fn storage_values(client: &ExecutionClient, params: &Params) -> Answer {
    let wanted: BTreeMap<Address, Vec<B256>> = params.required(0, "slots by address")?;
    check_count(wanted.values().map(Vec::len).sum())?;
    let (_, state) = at::state(client, params, 1)?;
    let value = |address, slot: B256| read(state.slot(address, slot.into())).map(B256::from);
    let values = wanted.into_iter().map(|(address, slots)| {
        let values = slots.into_iter().map(|slot| value(address, slot));
        Ok((address, values.collect::<Result<Vec<_>, RpcError>>()?))
    });
    answer(&values.collect::<Result<BTreeMap<_, _>, RpcError>>()?)
}

/// An account and its proof as EIP-1186 has it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownProof {
    address: Address,
    account_proof: Vec<Bytes>,
    balance: U256,
    code_hash: B256,
    nonce: U64,
    storage_hash: B256,
    storage_proof: Vec<ShownSlotProof>,
}

#[derive(Serialize)]
struct ShownSlotProof {
    key: String,
    value: U256,
    proof: Vec<Bytes>,
}

fn proof(client: &ExecutionClient, params: &Params) -> Answer {
    let address = at::address(params, 0)?;
    let keys: Vec<String> = params.optional(1, "storage keys")?.unwrap_or_default();
    check_count(keys.len())?;
    let keys = keys.iter().map(|key| Slot::parse(key)).collect::<Result<Vec<_>, _>>()?;
    let (_, state) = at::state(client, params, 2)?;
    let whole = state_after(&state, &Diff::default());
    let slots: Vec<U256> = keys.iter().map(|key| key.number).collect();
    let proved = prove(&whole, address, &slots);
    let TrieAccount { nonce, balance, storage_root, code_hash, .. } = proved.account;
    let slots = keys.iter().zip(proved.slots);
    answer(&ShownProof {
        address,
        account_proof: proved.nodes,
        balance,
        code_hash,
        nonce: U64::from(nonce),
        storage_hash: storage_root,
        storage_proof: slots
            .map(|(key, SlotProof { value, nodes: proof })| ShownSlotProof {
                key: key.shown(),
                value,
                proof,
            })
            .collect(),
    })
}

/// A slot as it was written: a number or a hash, with or without leading zeros.
struct Slot {
    number: U256,
    /// Whether it had all 64 digits, and is shown with them.
    whole: bool,
}

impl Slot {
    fn parse(text: &str) -> Result<Self, RpcError> {
        let refuse = |reason: &str| {
            RpcError::invalid_params(format!("unable to decode storage key: {reason}"))
        };
        let digits = text.strip_prefix("0x").unwrap_or(text);
        if digits.is_empty() || digits.len() > 64 {
            return Err(refuse("it has not 1 to 64 digits"));
        }
        let number = U256::from_str_radix(digits, 16).map_err(|_| refuse("it is not hex"))?;
        Ok(Self { number, whole: digits.len() == 64 })
    }

    fn shown(&self) -> String {
        if self.whole { B256::from(self.number).to_string() } else { format!("{:#x}", self.number) }
    }
}

fn check_count(slots: usize) -> Result<(), RpcError> {
    if slots <= MAX_SLOTS {
        return Ok(());
    }
    Err(RpcError::invalid_params(format!("{slots} slots, more than {MAX_SLOTS}")))
}

fn account(client: &ExecutionClient, params: &Params) -> Result<(Account, Address), RpcError> {
    let address = at::address(params, 0)?;
    let (_, state) = at::state(client, params, 1)?;
    Ok((read(state.account(address))?.unwrap_or_default(), address))
}

fn read<T>(value: Result<T, NeedState>) -> Result<T, RpcError> {
    value.map_err(|missing| ClientError::Incomplete(missing).into())
}
