//! A small chain with funded accounts, and transactions on it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use alloy_consensus::{EthereumTxEnvelope, SignableTransaction, TxEip1559};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{Address, B256, Bytes, TxKind, U256, address};
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use preconf_chain::{ChainSpec, Transaction, system_contracts};
use preconf_evm::NextBlock;
use preconf_state::{
    Account, AccountDiff, Bytecode, Diff, Key, MemoryState, NeedState, StateReader,
};

pub(crate) const CHAIN_ID: u64 = 1337;
pub(crate) const GAS_LIMIT: u64 = 30_000_000;
pub(crate) const BASE_FEE: u64 = 1_000_000_000;
pub(crate) const RECIPIENT: Address = address!("0x00000000000000000000000000000000000000aa");

/// One ether.
pub(crate) const ETHER: u128 = 1_000_000_000_000_000_000;

pub(crate) fn signer(number: u8) -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&B256::repeat_byte(number)).unwrap()
}

pub(crate) fn account(ether: u128) -> Option<Account> {
    let balance = U256::from(ether * ETHER);
    Some(Account { nonce: 0, balance, code_hash: alloy_primitives::KECCAK256_EMPTY })
}

/// What a transfer is to be like.
#[derive(Clone, Copy)]
pub(crate) struct Transfer {
    pub(crate) from: u8,
    pub(crate) nonce: u64,
    pub(crate) tip_gwei: u128,
    pub(crate) fee_gwei: u128,
    pub(crate) gas_limit: u64,
    pub(crate) data_bytes: usize,
}

impl Transfer {
    pub(crate) const fn new(from: u8, nonce: u64, tip_gwei: u128) -> Self {
        Self { from, nonce, tip_gwei, fee_gwei: tip_gwei + 10, gas_limit: 21_000, data_bytes: 0 }
    }

    pub(crate) fn sign(self) -> Transaction {
        let gwei = 1_000_000_000;
        let transaction = TxEip1559 {
            chain_id: CHAIN_ID,
            nonce: self.nonce,
            gas_limit: self.gas_limit,
            max_fee_per_gas: self.fee_gwei * gwei,
            max_priority_fee_per_gas: self.tip_gwei * gwei,
            to: TxKind::Call(RECIPIENT),
            value: U256::from(1),
            access_list: Default::default(),
            input: Bytes::from(vec![0; self.data_bytes]),
        };
        let signature = signer(self.from).sign_hash_sync(&transaction.signature_hash()).unwrap();
        let envelope = EthereumTxEnvelope::<alloy_consensus::TxEip4844>::from(
            transaction.into_signed(signature),
        );
        Transaction::decode(envelope.encoded_2718().into()).unwrap()
    }
}

pub(crate) fn spec() -> Arc<ChainSpec> {
    spec_with("")
}

/// Berachain's rules from the start.
pub(crate) fn berachain() -> Arc<ChainSpec> {
    spec_with(
        r#","berachain":{"prague1":{"time":0,"baseFeeChangeDenominator":48,"minimumBaseFeeWei":0,
        "polDistributorAddress":"0x4200000000000000000000000000000000000042"},
        "prague2":{"time":0,"minimumBaseFeeWei":0}}"#,
    )
}

fn spec_with(section: &str) -> Arc<ChainSpec> {
    let mut alloc = BTreeMap::new();
    for number in 1..=9 {
        alloc.insert(
            signer(number).address().to_string(),
            r#"{"balance":"0x56bc75e2d63100000"}"#.to_owned(),
        );
    }
    for (address, code) in system_contracts() {
        alloc.insert(
            address.to_string(),
            format!(r#"{{"balance":"0x0","nonce":"0x1","code":"{code}"}}"#),
        );
    }
    let alloc: Vec<String> =
        alloc.iter().map(|(address, account)| format!("\"{address}\":{account}")).collect();
    let genesis = format!(
        r#"{{"config":{{"chainId":{CHAIN_ID},"homesteadBlock":0,"eip150Block":0,"eip155Block":0,
        "eip158Block":0,"byzantiumBlock":0,"constantinopleBlock":0,"petersburgBlock":0,
        "istanbulBlock":0,"berlinBlock":0,"londonBlock":0,"terminalTotalDifficulty":0,
        "terminalTotalDifficultyPassed":true,"shanghaiTime":0,"cancunTime":0,"pragueTime":0,
        "blobSchedule":{{"cancun":{{"target":3,"max":6,"baseFeeUpdateFraction":3338477}},
        "prague":{{"target":6,"max":9,"baseFeeUpdateFraction":5007716}}}}{section}}},
        "nonce":"0x0","timestamp":"0x0","extraData":"0x","gasLimit":"0x1c9c380","difficulty":"0x0",
        "mixHash":"0x0000000000000000000000000000000000000000000000000000000000000000",
        "coinbase":"0x0000000000000000000000000000000000000000","alloc":{{{}}}}}"#,
        alloc.join(",")
    );
    Arc::new(ChainSpec::from_genesis_json(&genesis).unwrap())
}

pub(crate) fn next_block(spec: &ChainSpec) -> NextBlock {
    let parent = spec.genesis_header();
    NextBlock {
        parent_hash: spec.genesis_hash(),
        parent_beacon_block_root: Some(B256::ZERO),
        number: 1,
        timestamp: 2,
        gas_limit: GAS_LIMIT,
        base_fee_per_gas: BASE_FEE,
        excess_blob_gas: spec.next_excess_blob_gas(&parent, 2),
        ..NextBlock::default()
    }
}

/// The whole state, of which a reader sees only what has been asked for before.
#[derive(Clone, Debug)]
pub(crate) struct Hidden {
    state: Arc<MemoryState>,
    seen: Arc<Mutex<std::collections::HashSet<Key>>>,
}

impl Hidden {
    /// Hides everything.
    pub(crate) fn all(spec: &ChainSpec) -> Self {
        let state = Arc::new(MemoryState::from_genesis(&spec.genesis().alloc));
        Self { state, seen: Arc::default() }
    }

    /// The account has used the nonces below this one.
    pub(crate) fn move_nonce(&mut self, address: Address, nonce: u64) {
        let account = self.state.account(address).unwrap();
        let account = account.map(|account| Account { nonce, ..account });
        let mut diff = Diff::default();
        diff.accounts.insert(address, AccountDiff { account, ..AccountDiff::default() });
        Arc::make_mut(&mut self.state).apply(&diff);
    }

    /// Shows these keys from now on.
    pub(crate) fn show(&self, keys: &[Key]) {
        self.seen.lock().unwrap().extend(keys);
    }

    fn look(&self, key: Key) -> Result<(), NeedState> {
        if self.seen.lock().unwrap().contains(&key) { Ok(()) } else { Err(NeedState(key)) }
    }
}

impl StateReader for Hidden {
    fn account(&self, address: Address) -> Result<Option<Account>, NeedState> {
        self.look(Key::Account(address))?;
        self.state.account(address)
    }

    fn slot(&self, address: Address, slot: U256) -> Result<U256, NeedState> {
        self.look(Key::Slot(address, slot))?;
        self.state.slot(address, slot)
    }

    fn code(&self, hash: B256) -> Result<Bytecode, NeedState> {
        self.look(Key::Code(hash))?;
        self.state.code(hash)
    }

    fn block_hash(&self, number: u64) -> Result<B256, NeedState> {
        self.look(Key::BlockHash(number))?;
        self.state.block_hash(number)
    }
}
