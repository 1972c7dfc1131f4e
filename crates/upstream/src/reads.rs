//! Reading state at one block.
//!
//! Reads are pinned to the block by its hash (EIP-1898). A client that refuses such a pin is read
//! by number instead, and the block's hash is checked before and after, so that what comes out is
//! of that block or an error. Which of the two a client needs is found out once.

use std::sync::atomic::{AtomicU8, Ordering};

use alloy_primitives::{Address, B256, Bytes, KECCAK256_EMPTY, U64, U256, keccak256};
use preconf_state::{Account, Key, Value};
use revm::bytecode::Bytecode;
use serde_json::json;
use serde_json::value::RawValue;
use tracing::info;

use crate::blocks::Named;
use crate::client::{Request, Upstream};
use crate::error::{RpcError, UpstreamError};

/// JSON-RPC: the parameters do not fit.
const INVALID_PARAMS: i32 = -32602;

/// How a client lets itself be pinned to a block. Stored in an atomic byte, zero at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pinning {
    /// Not found out yet.
    Unknown,
    /// It takes an object with the block's hash.
    ByHash,
    /// It takes a number only.
    ByNumber,
}

impl Pinning {
    fn load(from: &AtomicU8) -> Self {
        match from.load(Ordering::Relaxed) {
            1 => Self::ByHash,
            2 => Self::ByNumber,
            _ => Self::Unknown,
        }
    }

    fn store(self, to: &AtomicU8) {
        let byte = match self {
            Self::Unknown => 0,
            Self::ByHash => 1,
            Self::ByNumber => 2,
        };
        to.store(byte, Ordering::Relaxed);
    }
}

/// The block that is read at.
#[derive(Clone, Copy)]
struct At {
    number: u64,
    hash: B256,
    pinning: Pinning,
}

impl At {
    fn parameter(&self) -> serde_json::Value {
        match self.pinning {
            Pinning::ByNumber => json!(U64::from(self.number)),
            Pinning::ByHash | Pinning::Unknown => {
                json!({ "blockHash": self.hash, "requireCanonical": false })
            }
        }
    }
}

impl Upstream {
    /// Reads `keys` as they are at the end of `block` (number and hash). An account with code
    /// brings the code with it.
    ///
    /// # Errors
    ///
    /// See [`UpstreamError`]. Nothing is returned unless everything could be read.
    pub async fn fetch(
        &self,
        block: (u64, B256),
        keys: &[Key],
    ) -> Result<Vec<(Key, Value)>, UpstreamError> {
        let (number, hash) = block;
        let pinning = Pinning::load(&self.0.pinning);
        let outcome = self.fetch_at(At { number, hash, pinning }, keys).await;
        if pinning != Pinning::Unknown || keys.iter().all(|key| !is_pinned(key)) {
            return outcome;
        }
        let refused = match &outcome {
            Ok(_) => false,
            Err(error) => error.refusal().is_some_and(|refusal| refusal.code() == INVALID_PARAMS),
        };
        if !refused {
            if outcome.is_ok() {
                Pinning::ByHash.store(&self.0.pinning);
            }
            return outcome;
        }
        let values = self.fetch_at(At { number, hash, pinning: Pinning::ByNumber }, keys).await?;
        info!(host = self.host(), "the client refuses EIP-1898: reading by number");
        Pinning::ByNumber.store(&self.0.pinning);
        Ok(values)
    }

    async fn fetch_at(&self, at: At, keys: &[Key]) -> Result<Vec<(Key, Value)>, UpstreamError> {
        // An ancestor's hash is asked for by number, whatever the rest is pinned by.
        let by_number = at.pinning == Pinning::ByNumber
            || keys.iter().any(|key| matches!(key, Key::BlockHash(_)));
        if by_number {
            self.expect_canonical(&at).await?;
        }
        let requests = self.requests(&at, keys)?;
        let about = format!("state at block {} ({})", at.number, at.hash);
        let answers = self.batch(&about, &requests).await?;
        if by_number {
            self.expect_canonical(&at).await?;
        }
        let answers = requests.iter().zip(answers);
        let mut answers = Answers { upstream: self, about: &about, answers };
        let mut values = Vec::with_capacity(keys.len());
        for key in keys {
            self.read(&at, *key, &mut answers, &mut values)?;
        }
        Ok(values)
    }

    fn requests(&self, at: &At, keys: &[Key]) -> Result<Vec<Request>, UpstreamError> {
        let pin = at.parameter();
        let mut requests = Vec::with_capacity(keys.len() * 3);
        for key in keys {
            match key {
                Key::Account(address) => {
                    requests.push(Request::new("eth_getBalance", (address, &pin)));
                    requests.push(Request::new("eth_getTransactionCount", (address, &pin)));
                    requests.push(Request::new("eth_getCode", (address, &pin)));
                }
                Key::Slot(address, slot) => {
                    let slot = B256::from(*slot);
                    requests.push(Request::new("eth_getStorageAt", (address, slot, &pin)));
                }
                Key::Code(hash) => {
                    let owner = self.code_owner(*hash)?;
                    requests.push(Request::new("eth_getCode", (owner, &pin)));
                }
                Key::BlockHash(number) if *number == at.number => {}
                Key::BlockHash(number) => {
                    let params = (U64::from(*number), false);
                    requests.push(Request::new("eth_getBlockByNumber", params));
                }
            }
        }
        Ok(requests)
    }

    /// Takes from `answers` what [`Self::requests`] asked for one key.
    fn read<'a>(
        &self,
        at: &At,
        key: Key,
        answers: &mut Answers<'_, impl Iterator<Item = (&'a Request, Answer)>>,
        values: &mut Vec<(Key, Value)>,
    ) -> Result<(), UpstreamError> {
        match key {
            Key::Account(address) => {
                let balance: U256 = answers.next()?;
                let nonce: U64 = answers.next()?;
                let code: Bytes = answers.next()?;
                let code_hash = if code.is_empty() { KECCAK256_EMPTY } else { keccak256(&code) };
                if !code.is_empty() {
                    self.0.code_owners.note(code_hash, address);
                    values.push((Key::Code(code_hash), Value::Code(bytecode(code))));
                }
                let account = Account { nonce: nonce.to(), balance, code_hash };
                let account = Some(account).filter(|account| !account.is_empty());
                values.push((key, Value::Account(account)));
            }
            Key::Slot(..) => values.push((key, Value::Slot(answers.next()?))),
            Key::Code(hash) => {
                let code: Bytes = answers.next()?;
                // The account may have another code by now, such as another delegation.
                if keccak256(&code) != hash {
                    return Err(self.without_owner(hash));
                }
                values.push((key, Value::Code(bytecode(code))));
            }
            Key::BlockHash(number) if number == at.number => {
                values.push((key, Value::BlockHash(at.hash)));
            }
            Key::BlockHash(_) => {
                let Named { hash } = answers.next()?;
                values.push((key, Value::BlockHash(hash)));
            }
        }
        Ok(())
    }

    async fn expect_canonical(&self, at: &At) -> Result<(), UpstreamError> {
        let At { number, hash, .. } = *at;
        let params = (U64::from(number), false);
        let found: Option<Named> = self.call("eth_getBlockByNumber", params, number).await?;
        match found {
            Some(found) if found.hash == hash => Ok(()),
            Some(_) | None => {
                let host = self.0.host.clone();
                Err(UpstreamError::NotCanonical { number, hash, host })
            }
        }
    }

    fn code_owner(&self, hash: B256) -> Result<Address, UpstreamError> {
        self.0.code_owners.owner(hash).ok_or_else(|| self.without_owner(hash))
    }

    fn without_owner(&self, hash: B256) -> UpstreamError {
        UpstreamError::CodeWithoutOwner { hash, host: self.0.host.clone() }
    }
}

type Answer = Result<Box<RawValue>, RpcError>;

/// The answers of a batch that have not been read yet, with their requests.
struct Answers<'u, I> {
    upstream: &'u Upstream,
    about: &'u str,
    answers: I,
}

impl<'a, I: Iterator<Item = (&'a Request, Answer)>> Answers<'_, I> {
    fn next<R: serde::de::DeserializeOwned>(&mut self) -> Result<R, UpstreamError> {
        let (request, answer) =
            self.answers.next().expect("there is an answer to every request of a batch");
        let call = format!("{} of {}", request.method, self.about);
        match answer {
            Ok(result) => self.upstream.decode(&call, &result),
            Err(error) => {
                let host = self.upstream.0.host.clone();
                Err(UpstreamError::Refused { call, host, error })
            }
        }
    }
}

/// Whether reading this key needs the block as a parameter.
fn is_pinned(key: &Key) -> bool {
    match key {
        Key::Account(_) | Key::Slot(..) | Key::Code(_) => true,
        Key::BlockHash(_) => false,
    }
}

/// Code as the EVM wants it. What begins like a delegation but is none can only be old data.
fn bytecode(code: Bytes) -> Bytecode {
    Bytecode::new_raw_checked(code.clone()).unwrap_or_else(|_| Bytecode::new_legacy(code))
}
