//! A small Prague chain and a sequencer of it that signs with a key of its own: what the receiving
//! side is fed with. It executes on complete states, apart from everything that is tested.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::{collections::HashMap, sync::Arc};

use alloy_consensus::{EthereumTxEnvelope, SignableTransaction, TxEip1559, TxEip4844};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{Address, B256, Bytes, FixedBytes, TxKind, U256, address};
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use blst::min_pk::SecretKey;
use preconf_chain::{
    Block, ChainSpec, Header, Receipt, Transaction, TrieAccountParts, state_root, system_contracts,
};
use preconf_evm::Paused;
use preconf_pending::next_block;
use preconf_primitives::{
    AbandonReason, Abandoned, Base, Digest, Flashblock, FlashblockParts, Opening, PayloadId,
    Position, Retracted, Retraction, Sealed, Seq, Withdrawal,
};
use preconf_signing::{
    PublicKey, SIGNATURE_DST, Signature, SignedFlashblock, SignedStatement, v1, v2,
};
use preconf_state::{
    Account, Key, MemoryState, NeedState, Overlay, StateCache, StateReader, Value,
};
use serde_json::{Map, json};

pub(crate) const CHAIN_ID: u64 = 7_777;
pub(crate) const SIGNERS: u8 = 8;
pub(crate) const FEE_RECIPIENT: Address = address!("0x00000000000000000000000000000000000000fe");
/// Adds one to its slot 0 and logs 32 bytes.
pub(crate) const COUNTER: Address = address!("0x00000000000000000000000000000000000000c1");
/// Does what it is asked once and reverts ever after.
pub(crate) const ONCE: Address = address!("0x00000000000000000000000000000000000000c2");
/// Keeps the hash of the parent under the number of the block.
pub(crate) const PARENT: Address = address!("0x00000000000000000000000000000000000000c3");

const CONTRACTS: [(Address, &str); 3] = [
    (COUNTER, "0x5f546001015f5560205fa000"),
    (ONCE, "0x5f54600a5760015f55005b5f5ffd"),
    (PARENT, "0x600143034043550000"),
];

/// A canonical block that this chain knows, with the complete state after it.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) hash: B256,
    pub(crate) header: Header,
    pub(crate) block: Block,
    pub(crate) transactions: Vec<Transaction>,
    pub(crate) receipts: Vec<Receipt>,
    pub(crate) state: Arc<MemoryState>,
}

impl Known {
    /// The transactions with their receipts.
    pub(crate) fn content(&self) -> Vec<(B256, Receipt)> {
        let hashes = self.transactions.iter().map(|transaction| *transaction.hash());
        hashes.zip(self.receipts.iter().cloned()).collect()
    }
}

/// The text of the genesis file.
pub(crate) fn genesis_json() -> String {
    let mut alloc = Map::new();
    for n in 1..=SIGNERS {
        alloc.insert(signer(n).address().to_string(), json!({ "balance": "0x3635c9adc5dea00000" }));
    }
    for (address, code) in CONTRACTS {
        alloc
            .insert(address.to_string(), json!({ "balance": "0x5", "nonce": "0x1", "code": code }));
    }
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
        "config": config, "alloc": alloc, "gasLimit": "0x1c9c380", "difficulty": "0x0",
        "timestamp": "0x1", "extraData": "0x", "nonce": "0x0",
        "mixHash": B256::ZERO, "coinbase": Address::ZERO, "baseFeePerGas": "0x3b9aca00",
    })
    .to_string()
}

/// The rules of the chain and its first block.
pub(crate) fn genesis() -> (Arc<ChainSpec>, Known) {
    let spec = ChainSpec::from_genesis_json(&genesis_json()).expect("the genesis above is valid");
    let mut state = MemoryState::from_genesis(&spec.genesis().alloc);
    state.set_block_hash(0, spec.genesis_hash());
    let known = Known {
        hash: spec.genesis_hash(),
        header: spec.genesis_header(),
        block: spec.genesis_block(),
        transactions: Vec::new(),
        receipts: Vec::new(),
        state: Arc::new(state),
    };
    (Arc::new(spec), known)
}

pub(crate) fn signer(n: u8) -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&B256::repeat_byte(n)).expect("the key is in the field")
}

/// A transfer of one wei, or a call of a contract.
pub(crate) fn transaction(from: u8, nonce: u64, to: Address) -> Transaction {
    let transaction = TxEip1559 {
        chain_id: CHAIN_ID,
        nonce,
        gas_limit: 100_000,
        max_fee_per_gas: 10_000_000_000,
        max_priority_fee_per_gas: 1_000_000_000,
        to: TxKind::Call(to),
        value: if to == Address::repeat_byte(0xee) { U256::ONE } else { U256::ZERO },
        ..TxEip1559::default()
    };
    let signature =
        signer(from).sign_hash_sync(&transaction.signature_hash()).expect("the key is in memory");
    let envelope: EthereumTxEnvelope<TxEip4844> = transaction.into_signed(signature).into();
    Transaction::decode(envelope.encoded_2718().into()).expect("it was just signed")
}

/// A transfer to an account that nobody else uses.
pub(crate) fn transfer(from: u8, nonce: u64) -> Transaction {
    transaction(from, nonce, Address::repeat_byte(0xee))
}

pub(crate) fn hashes(transactions: &[Transaction]) -> Vec<B256> {
    transactions.iter().map(|transaction| *transaction.hash()).collect()
}

fn root(state: &MemoryState) -> B256 {
    state_root(state.iter().map(|(address, account, storage)| {
        let Account { nonce, balance, code_hash } = account;
        (address, TrieAccountParts { nonce, balance, code_hash, storage })
    }))
}

/// Answers for the state of blocks by their hash.
#[derive(Clone, Debug, Default)]
pub(crate) struct States(HashMap<B256, Arc<MemoryState>>);

impl States {
    pub(crate) fn insert(&mut self, known: &Known) {
        self.0.insert(known.hash, known.state.clone());
    }

    /// Reads keys into a cache. An account brings its code, as it does from an execution client.
    pub(crate) fn fill(&self, cache: &StateCache, keys: &[Key]) {
        assert!(!keys.is_empty(), "nothing is needed and yet it is asked for");
        let state = &self.0[&cache.block().1];
        for key in keys {
            let value = match *key {
                Key::Account(address) => state.account(address).map(Value::Account),
                Key::Slot(address, slot) => state.slot(address, slot).map(Value::Slot),
                Key::Code(hash) => state.code(hash).map(Value::Code),
                Key::BlockHash(number) => state.block_hash(number).map(Value::BlockHash),
            };
            let value = value.unwrap_or_else(|NeedState(key)| panic!("nobody has {key:?}"));
            if let Value::Account(Some(Account { code_hash, .. })) = &value {
                let code = state.code(*code_hash).expect("the state is complete");
                cache.insert(Key::Code(*code_hash), Value::Code(code));
            }
            cache.insert(*key, value);
        }
    }
}

/// A sequencer with its key.
#[derive(Debug)]
pub(crate) struct Sequencer {
    spec: Arc<ChainSpec>,
    key: SecretKey,
    chain_id: u64,
    last_seq: u64,
    last_digest: Digest,
}

/// A block that a sequencer is building.
#[derive(Clone, Debug)]
pub(crate) struct Building {
    pub(crate) seq: Seq,
    pub(crate) base: Base,
    pub(crate) withdrawals: Vec<Withdrawal>,
    next_index: u64,
    last_digest: Digest,
    parent: Known,
    paused: Option<Paused<Arc<MemoryState>>>,
}

impl Sequencer {
    pub(crate) fn new(spec: &Arc<ChainSpec>, seed: u8) -> Self {
        let key = SecretKey::key_gen(&[seed; 32], &[]).expect("32 bytes are enough");
        let chain_id = spec.chain_id();
        let last_digest = Digest::ZERO;
        Self { spec: spec.clone(), key, chain_id, last_seq: 0, last_digest }
    }

    /// Signs for another chain.
    pub(crate) fn for_chain(mut self, chain_id: u64) -> Self {
        self.chain_id = chain_id;
        self
    }

    pub(crate) fn public_key(&self) -> PublicKey {
        PublicKey::from_bytes(FixedBytes(self.key.sk_to_pk().compress())).expect("it is a key")
    }

    /// Opens a session on a block.
    pub(crate) fn open(&mut self, parent: &Known) -> Building {
        self.last_seq += 1;
        let base = Base {
            parent_beacon_block_root: B256::repeat_byte(0xbb),
            parent_hash: parent.hash,
            fee_recipient: FEE_RECIPIENT,
            prev_randao: B256::from(U256::from(self.last_seq)),
            block_number: parent.header.number + 1,
            gas_limit: parent.header.gas_limit,
            timestamp: parent.header.timestamp + 2,
            extra_data: Bytes::new(),
            base_fee_per_gas: self.spec.next_base_fee(&parent.header),
            prev_proposer_pubkey: None,
        };
        let withdrawals = vec![Withdrawal {
            index: self.last_seq,
            validator_index: 1,
            address: Address::repeat_byte(0x77),
            amount_gwei: 3,
        }];
        Building {
            seq: Seq::new(self.last_seq),
            base,
            withdrawals,
            next_index: 0,
            last_digest: self.last_digest,
            parent: parent.clone(),
            paused: None,
        }
    }

    /// The next flashblock of a session, with valid transactions.
    pub(crate) fn flashblock(
        &mut self,
        building: &mut Building,
        transactions: &[Transaction],
    ) -> SignedFlashblock {
        self.next(building, transactions, false)
    }

    /// The last flashblock of a session.
    pub(crate) fn last(
        &mut self,
        building: &mut Building,
        transactions: &[Transaction],
    ) -> SignedFlashblock {
        self.next(building, transactions, true)
    }

    fn next(
        &mut self,
        building: &mut Building,
        transactions: &[Transaction],
        is_last: bool,
    ) -> SignedFlashblock {
        let paused = match building.paused.take() {
            Some(paused) => paused,
            None => self.begin(building),
        };
        let mut running = paused.resume();
        for transaction in transactions {
            running.execute(transaction).expect("the test's transaction is valid");
        }
        building.paused = Some(running.pause());
        let encoded = transactions.iter().map(|transaction| transaction.encoded().clone());
        self.unchecked(building, encoded.collect(), is_last)
    }

    fn begin(&self, building: &Building) -> Paused<Arc<MemoryState>> {
        let Building { base, withdrawals, parent, .. } = building;
        let excess = self.spec.next_excess_blob_gas(&parent.header, base.timestamp);
        let block = next_block(base, withdrawals, excess);
        Paused::begin(self.spec.clone(), block, Overlay::new(parent.state.clone()))
            .expect("the state is complete")
    }

    /// The next flashblock with whatever bytes for transactions, executed or not.
    pub(crate) fn unchecked(
        &mut self,
        building: &mut Building,
        transactions: Vec<Bytes>,
        is_last: bool,
    ) -> SignedFlashblock {
        let index = building.next_index;
        let Building { base, withdrawals, .. } = building;
        let opening =
            (index == 0).then(|| Opening { base: base.clone(), withdrawals: withdrawals.clone() });
        let flashblock = Flashblock::new(FlashblockParts {
            payload_id: PayloadId::from(building.seq.get().to_be_bytes()),
            position: Position::new(building.seq, index),
            block_number: base.block_number,
            opening,
            transactions,
            is_last,
            published_at_ms: 1_700_000_000_000 + index,
            traceparent: None,
            parent_digest: building.last_digest,
        });
        let signed = self.sign(flashblock.expect("it is consistent"));
        building.next_index += 1;
        building.last_digest = v2::flashblock_digest(&signed.flashblock);
        self.last_digest = building.last_digest;
        signed
    }

    /// Signs a flashblock as it is.
    pub(crate) fn sign(&self, flashblock: Flashblock) -> SignedFlashblock {
        let hash = v1::transactions_hash(flashblock.transactions());
        let message = v1::message(
            v1::domain(self.chain_id),
            flashblock.block_number(),
            flashblock.payload_id(),
            flashblock.index(),
            hash,
        );
        let seal = self.seal_digest(v2::flashblock_digest(&flashblock));
        SignedFlashblock { signature: self.sign_message(message), seal, flashblock }
    }

    /// Seals the block of a session whose last flashblock is out.
    pub(crate) fn seal(&self, building: &Building) -> (SignedStatement<Sealed>, Known) {
        let known = self.finish(building);
        let statement = Sealed {
            seq: building.seq,
            block_number: building.base.block_number,
            last_digest: building.last_digest,
            block_hash: known.hash,
            state_root: known.header.state_root,
        };
        (self.sealed(statement), known)
    }

    /// The block as it would be if the session ended now.
    pub(crate) fn finish(&self, building: &Building) -> Known {
        let paused = building.paused.clone().unwrap_or_else(|| self.begin(building));
        let outcome = paused.finish().expect("the state is complete");
        let mut state = MemoryState::clone(&building.parent.state);
        state.apply(&outcome.diff());
        let block = outcome.block(root(&state));
        let header = block.header.clone();
        let hash = header.hash_slow();
        state.set_block_hash(header.number, hash);
        Known {
            hash,
            header,
            block,
            transactions: outcome.transactions.to_vec(),
            receipts: outcome.receipts,
            state: Arc::new(state),
        }
    }

    pub(crate) fn sealed(&self, statement: Sealed) -> SignedStatement<Sealed> {
        let seal = self.seal_digest(v2::sealed_digest(&statement));
        SignedStatement { statement, seal }
    }

    pub(crate) fn abandon(&self, building: &Building) -> SignedStatement<Abandoned> {
        let statement = Abandoned {
            seq: building.seq,
            block_number: building.base.block_number,
            last_digest: building.last_digest,
            reason: AbandonReason::HeadChanged,
        };
        let seal = self.seal_digest(v2::abandoned_digest(&statement));
        SignedStatement { statement, seal }
    }

    pub(crate) fn retract(
        &self,
        building: &Building,
        retractions: Vec<Retraction>,
    ) -> SignedStatement<Retracted> {
        let at = Position::new(building.seq, building.next_index.saturating_sub(1));
        let block_number = building.base.block_number;
        let statement = Retracted { at, block_number, retractions };
        let seal = self.seal_digest(v2::retracted_digest(&statement));
        SignedStatement { statement, seal }
    }

    /// A block of the chain that nobody announced.
    pub(crate) fn foreign(&self, parent: &Known, transactions: &[Transaction]) -> Known {
        let mut other = Self::new(&self.spec, 99);
        let mut building = other.open(parent);
        building.base.prev_randao = B256::repeat_byte(0xf0);
        other.last(&mut building, transactions);
        other.finish(&building)
    }

    fn seal_digest(&self, digest: Digest) -> Signature {
        self.sign_message(v2::message(v2::domain(self.chain_id), digest))
    }

    fn sign_message(&self, message: B256) -> Signature {
        FixedBytes(self.key.sign(message.as_slice(), SIGNATURE_DST, &[]).compress())
    }
}
