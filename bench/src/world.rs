//! The chain that everything is measured on: many senders, a token, and transactions of both.

use std::sync::Arc;

use alloy_consensus::{EthereumTxEnvelope, SignableTransaction, TxEip1559, TxEip4844};
use alloy_primitives::{Address, B256, Bytes, TxKind, U256, address, hex, keccak256};
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use preconf_chain::{ChainSpec, Header, Transaction, system_contracts};
use preconf_evm::NextBlock;
use preconf_state::{Key, MemoryState, StateCache, StateReader, Value};
use revm::{
    database::{CacheDB, EmptyDB},
    state::AccountInfo,
};
use serde_json::{Map, json};

pub(crate) const CHAIN_ID: u64 = 7_777;
/// Room for every block that is measured.
const GAS_LIMIT: u64 = 1_000_000_000_000;
const GWEI: u128 = 1_000_000_000;
const FEE_RECIPIENT: Address = address!("0x00000000000000000000000000000000000000fe");
const TOKEN: Address = address!("0x00000000000000000000000000000000000000c1");
const SENDERS: u64 = 1_000;

/// `transfer(to, amount)` of a token whose balances are in the mapping at slot 0: it reverts if the
/// caller has too few, and logs the transfer.
const TOKEN_CODE: &[u8] = &hex!(
    // Anything but transfer reverts, at 0x0e.
    "5f35 60e0 1c 63a9059cbb 14 6012 57 5b 5f 5f fd"
    // balance := slot[keccak(caller, 0)]; revert if amount > balance; slot -= amount.
    "5b 33 5f 52 6040 5f 20 80 54 6024 35 80 82 10 600e 57 80 91 03 90 91 55"
    // slot[keccak(to, 0)] += amount.
    "6004 35 5f 52 6040 5f 20 80 54 82 01 90 55"
    // log Transfer(caller, to, amount); return true.
    "5f 52 6004 35 33 7fddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"
    "6020 5f a3 6001 5f 52 6020 5f f3"
);

/// A chain at its genesis, and who sends on it.
pub(crate) struct World {
    pub(crate) spec: Arc<ChainSpec>,
    pub(crate) genesis: Header,
    pub(crate) genesis_hash: B256,
    pub(crate) state: MemoryState,
    senders: Vec<Sender>,
    fresh: u64,
}

struct Sender {
    signer: PrivateKeySigner,
    nonce: u64,
}

/// Who receives.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Recipient {
    /// One of a thousand who have received before.
    Existing(u64),
    /// Somebody who has never received.
    Fresh,
}

impl World {
    pub(crate) fn new() -> Self {
        let senders: Vec<Sender> = (0..SENDERS).map(Sender::new).collect();
        let spec = ChainSpec::from_genesis_json(&genesis_json(&senders));
        let spec = Arc::new(spec.expect("the genesis below is valid"));
        let mut state = MemoryState::from_genesis(&spec.genesis().alloc);
        let (genesis, genesis_hash) = (spec.genesis_header(), spec.genesis_hash());
        state.set_block_hash(0, genesis_hash);
        Self { spec, genesis, genesis_hash, state, senders, fresh: 0 }
    }

    /// A transfer of one wei.
    pub(crate) fn transfer(&mut self, sender: usize, to: Recipient) -> Transaction {
        let to = self.address(to);
        self.sign(sender, 21_000, to, U256::ONE, Bytes::new())
    }

    /// A transfer of one token.
    pub(crate) fn token_transfer(&mut self, sender: usize, to: Recipient) -> Transaction {
        let to = self.address(to);
        let (selector, to, amount) =
            (hex!("a9059cbb"), to.into_word(), U256::ONE.to_be_bytes::<32>());
        let input = [&selector[..], to.as_slice(), &amount];
        self.sign(sender, 100_000, TOKEN, U256::ZERO, input.concat().into())
    }

    /// The first block after the genesis.
    pub(crate) fn next_block(&self) -> NextBlock {
        let timestamp = self.genesis.timestamp + 2;
        NextBlock {
            parent_hash: self.genesis_hash,
            parent_beacon_block_root: Some(B256::repeat_byte(0xbb)),
            number: self.genesis.number + 1,
            timestamp,
            fee_recipient: FEE_RECIPIENT,
            prev_randao: B256::repeat_byte(0xaa),
            gas_limit: GAS_LIMIT,
            base_fee_per_gas: self.spec.next_base_fee(&self.genesis),
            excess_blob_gas: self.spec.next_excess_blob_gas(&self.genesis, timestamp),
            ..NextBlock::default()
        }
    }

    /// The whole state as revm's own database in memory.
    pub(crate) fn cache_db(&self) -> CacheDB<EmptyDB> {
        let mut db = CacheDB::new(EmptyDB::new());
        for (address, account, slots) in self.state.iter() {
            let code = self.state.code(account.code_hash).expect("the state is complete");
            let info = AccountInfo { code: Some(code), ..account.into() };
            db.insert_account_info(address, info);
            for (slot, value) in slots {
                let Ok(()) = db.insert_account_storage(address, slot, value);
            }
        }
        db
    }

    /// Reads keys into a cache. An account brings its code, as it does from an execution client.
    pub(crate) fn fill(&self, cache: &StateCache, keys: &[Key]) {
        for key in keys {
            let value = match *key {
                Key::Account(address) => self.state.account(address).map(Value::Account),
                Key::Slot(address, slot) => self.state.slot(address, slot).map(Value::Slot),
                Key::Code(hash) => self.state.code(hash).map(Value::Code),
                Key::BlockHash(number) => self.state.block_hash(number).map(Value::BlockHash),
            };
            let value = value.expect("the state is complete");
            if let Value::Account(Some(account)) = &value {
                let code = self.state.code(account.code_hash).expect("the state is complete");
                cache.insert(Key::Code(account.code_hash), Value::Code(code));
            }
            cache.insert(*key, value);
        }
    }

    fn address(&mut self, recipient: Recipient) -> Address {
        match recipient {
            Recipient::Existing(number) => existing(number % SENDERS),
            Recipient::Fresh => {
                self.fresh += 1;
                numbered("fresh", self.fresh)
            }
        }
    }

    fn sign(
        &mut self,
        sender: usize,
        gas_limit: u64,
        to: Address,
        value: U256,
        input: Bytes,
    ) -> Transaction {
        let count = self.senders.len();
        let sender = &mut self.senders[sender % count];
        let nonce = sender.nonce;
        sender.nonce += 1;
        // Tips of 1 to 5 gwei that follow no pattern, so that the pool has something to sort.
        let noise = keccak256([sender.signer.address().as_slice(), &nonce.to_be_bytes()].concat());
        let tip = 1 + u128::from(noise[0] % 5);
        let transaction = TxEip1559 {
            chain_id: CHAIN_ID,
            nonce,
            gas_limit,
            max_fee_per_gas: 100 * GWEI,
            max_priority_fee_per_gas: tip * GWEI,
            to: TxKind::Call(to),
            value,
            input,
            ..TxEip1559::default()
        };
        let signature = sender.signer.sign_hash_sync(&transaction.signature_hash());
        let signed = transaction.into_signed(signature.expect("the key is in memory"));
        let envelope = EthereumTxEnvelope::<TxEip4844>::from(signed);
        Transaction::from_envelope(envelope.into(), sender.signer.address())
    }
}

impl Sender {
    fn new(number: u64) -> Self {
        let key = keccak256(number.to_be_bytes());
        let signer = PrivateKeySigner::from_bytes(&key).expect("a hash is in the field");
        Self { signer, nonce: 0 }
    }
}

fn existing(number: u64) -> Address {
    numbered("existing", number)
}

/// An address that looks like any other.
fn numbered(name: &str, number: u64) -> Address {
    Address::from_word(keccak256(format!("{name} {number}")))
}

fn balance_slot(owner: Address) -> B256 {
    keccak256([owner.into_word(), B256::ZERO].concat())
}

fn genesis_json(senders: &[Sender]) -> String {
    let senders: Vec<Address> = senders.iter().map(|sender| sender.signer.address()).collect();
    let mut alloc = Map::new();
    let mut balances = Map::new();
    for (sender, number) in senders.iter().zip(0..) {
        let recipient = existing(number);
        alloc.insert(sender.to_string(), json!({ "balance": "0x3635c9adc5dea00000" }));
        alloc.insert(recipient.to_string(), json!({ "balance": "0x1" }));
        for owner in [*sender, recipient] {
            balances.insert(balance_slot(owner).to_string(), json!(B256::with_last_byte(100)));
        }
    }
    let code = Bytes::from_static(TOKEN_CODE);
    let token = json!({ "balance": "0x0", "nonce": "0x1", "code": code, "storage": balances });
    alloc.insert(TOKEN.to_string(), token);
    for (address, code) in system_contracts() {
        alloc
            .insert(address.to_string(), json!({ "balance": "0x0", "nonce": "0x1", "code": code }));
    }
    let blobs = json!({ "target": 3, "max": 6, "baseFeeUpdateFraction": 3_338_477 });
    let config = json!({
        "chainId": CHAIN_ID, "homesteadBlock": 0, "eip150Block": 0, "eip155Block": 0,
        "eip158Block": 0, "byzantiumBlock": 0, "constantinopleBlock": 0, "petersburgBlock": 0,
        "istanbulBlock": 0, "berlinBlock": 0, "londonBlock": 0, "terminalTotalDifficulty": 0,
        "terminalTotalDifficultyPassed": true, "mergeNetsplitBlock": 0, "shanghaiTime": 0,
        "cancunTime": 0, "pragueTime": 0, "blobSchedule": { "cancun": blobs, "prague": blobs },
    });
    json!({
        "config": config, "alloc": alloc, "gasLimit": format!("{GAS_LIMIT:#x}"),
        "difficulty": "0x0", "timestamp": "0x1", "extraData": "0x", "nonce": "0x0",
        "mixHash": B256::ZERO, "coinbase": Address::ZERO, "baseFeePerGas": "0x3b9aca00",
    })
    .to_string()
}
