//! What the tests of this crate build on: a small chain, and transactions that nobody signed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use alloy_consensus::{EthereumTxEnvelope, SignableTransaction, Signed, TxEip1559, TxEip4844};
use alloy_eips::{
    eip4844::{Blob, BlobTransactionSidecar, Bytes48, kzg_to_versioned_hash},
    eip7594::{BlobTransactionSidecarEip7594, CELLS_PER_EXT_BLOB},
};
use alloy_primitives::{Address, B256, Signature, TxKind, U256};
use preconf_chain::{ChainSpec, Transaction};
use preconf_evm::NextBlock;
use preconf_state::{Account, Key, Overlay, StateCache, Value};

use crate::{
    Assembler, BuildId, CanonicalBlock, Cut, Effect, PoolLimits, Sidecar, SidecarForm, Submission,
    Timing, Wake,
};

pub(crate) const GWEI: u128 = 1_000_000_000;
pub(crate) const SENDER: Address = Address::repeat_byte(0x51);
pub(crate) const OTHER: Address = Address::repeat_byte(0x52);
pub(crate) const RECIPIENT: Address = Address::repeat_byte(0xaa);
pub(crate) const BENEFICIARY: Address = Address::repeat_byte(0xfe);

const TIMING: Timing =
    Timing { interval: Duration::from_millis(200), deadline: Duration::from_secs(3_600) };

/// A canonical block in which this sender has used its first nonce.
pub(crate) fn holding(sender: Address, hash: &B256) -> CanonicalBlock {
    CanonicalBlock { used: vec![(sender, 0, *hash)], ..empty(1) }
}

/// A canonical block without transactions.
pub(crate) fn empty(number: u64) -> CanonicalBlock {
    CanonicalBlock { number, hash: B256::with_last_byte(0xb0), used: Vec::new() }
}

pub(crate) fn shanghai() -> ChainSpec {
    chain("")
}

pub(crate) fn prague() -> ChainSpec {
    chain(
        r#","cancunTime":0,"pragueTime":0,
        "blobSchedule":{"cancun":{"target":3,"max":6,"baseFeeUpdateFraction":3338477},
        "prague":{"target":6,"max":9,"baseFeeUpdateFraction":5007716}}"#,
    )
}

pub(crate) fn osaka() -> ChainSpec {
    chain(
        r#","cancunTime":0,"pragueTime":0,"osakaTime":0,
        "blobSchedule":{"cancun":{"target":3,"max":6,"baseFeeUpdateFraction":3338477},
        "prague":{"target":6,"max":9,"baseFeeUpdateFraction":5007716},
        "osaka":{"target":6,"max":9,"baseFeeUpdateFraction":5007716}}"#,
    )
}

fn chain(later_forks: &str) -> ChainSpec {
    let zero = B256::ZERO;
    let genesis = format!(
        r#"{{"config":{{"chainId":1337,"homesteadBlock":0,"eip150Block":0,"eip155Block":0,
        "eip158Block":0,"byzantiumBlock":0,"constantinopleBlock":0,"petersburgBlock":0,
        "istanbulBlock":0,"berlinBlock":0,"londonBlock":0,"terminalTotalDifficulty":0,
        "terminalTotalDifficultyPassed":true,"shanghaiTime":0{later_forks}}},
        "nonce":"0x0","timestamp":"0x0","extraData":"0x","gasLimit":"0x1c9c380","difficulty":"0x0",
        "mixHash":"{zero}","coinbase":"0x0000000000000000000000000000000000000000","alloc":{{}}}}"#
    );
    ChainSpec::from_genesis_json(&genesis).unwrap()
}

pub(crate) fn transfer(nonce: u64) -> TxEip1559 {
    TxEip1559 {
        chain_id: 1337,
        nonce,
        gas_limit: 21_000,
        max_fee_per_gas: 10 * GWEI,
        max_priority_fee_per_gas: GWEI,
        to: TxKind::Call(RECIPIENT),
        value: U256::from(1),
        ..TxEip1559::default()
    }
}

/// The point at infinity: what a blob of zeros is committed to and proved with.
pub(crate) fn infinity() -> Bytes48 {
    let mut point = Bytes48::ZERO;
    point[0] = 0xc0;
    point
}

/// So many blobs of zeros.
pub(crate) fn sidecar(form: SidecarForm, blobs: usize) -> Sidecar {
    let commitments = vec![infinity(); blobs];
    match form {
        SidecarForm::BlobProofs => {
            let (blobs, proofs) = (vec![Blob::ZERO; blobs], commitments.clone());
            BlobTransactionSidecar { blobs, commitments, proofs }.into()
        }
        SidecarForm::CellProofs => {
            let proofs = vec![infinity(); blobs * CELLS_PER_EXT_BLOB];
            BlobTransactionSidecarEip7594::new(vec![Blob::ZERO; blobs], commitments, proofs).into()
        }
    }
}

/// A transfer with so many blobs of zeros.
pub(crate) fn blob_transfer(nonce: u64, blobs: usize) -> TxEip4844 {
    let TxEip1559 { chain_id, gas_limit, max_fee_per_gas, max_priority_fee_per_gas, .. } =
        transfer(nonce);
    TxEip4844 {
        chain_id,
        nonce,
        gas_limit,
        max_fee_per_gas,
        max_priority_fee_per_gas,
        max_fee_per_blob_gas: GWEI,
        to: RECIPIENT,
        value: U256::from(1),
        blob_versioned_hashes: vec![kzg_to_versioned_hash(infinity().as_slice()); blobs],
        ..TxEip4844::default()
    }
}

/// A transaction with its blobs, as if `sender` had signed it.
pub(crate) fn with_blobs(transaction: TxEip4844, sender: Address) -> Submission {
    let blobs = transaction.blob_versioned_hashes.len();
    Submission::unproved(unsigned(transaction, sender), sidecar(SidecarForm::BlobProofs, blobs))
}

/// A transaction as if `sender` had signed it.
pub(crate) fn unsigned<T>(transaction: T, sender: Address) -> Transaction
where
    T: SignableTransaction<Signature>,
    EthereumTxEnvelope<TxEip4844>: From<Signed<T>>,
{
    // The sender is part of the signature, so that equal transactions of two senders differ.
    let r = U256::from_be_slice(sender.as_slice());
    let signed = transaction.into_signed(Signature::new(r, U256::ONE, false));
    Transaction::from_envelope(EthereumTxEnvelope::from(signed).into(), sender)
}

/// The sender with this number.
pub(crate) fn sender(number: u64) -> Address {
    Address::left_padding_from(&(number + 0x1_0000).to_be_bytes())
}

pub(crate) fn rich(nonce: u64) -> Option<Account> {
    Some(Account { nonce, balance: U256::from(1_000_000_000 * GWEI), ..Account::default() })
}

/// A machine with a clock that the test moves.
pub(crate) struct Machine {
    pub(crate) assembler: Assembler<StateCache>,
    pub(crate) cache: StateCache,
    pub(crate) now: Instant,
    builds: u64,
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self::on(shanghai())
    }

    pub(crate) fn on(spec: ChainSpec) -> Self {
        let cache = StateCache::new(0, B256::ZERO, 10_000);
        let nobody = [RECIPIENT, BENEFICIARY].map(|address| (address, None));
        for (address, account) in nobody.into_iter().chain([(SENDER, rich(0)), (OTHER, rich(0))]) {
            cache.insert(Key::Account(address), Value::Account(account));
        }
        let assembler = Assembler::new(Arc::new(spec), TIMING, PoolLimits::default());
        Self { assembler, cache, now: Instant::now(), builds: 0 }
    }

    /// One that knows of the contracts which a block opens with that they are not there.
    pub(crate) fn without_contracts(spec: ChainSpec) -> Self {
        let mut machine = Self::on(spec.clone());
        let (_, block) = machine.next_build(0);
        for key in block.keys(&spec) {
            let nothing = match key {
                Key::Account(_) => Value::Account(None),
                Key::Slot(..) | Key::Code(_) | Key::BlockHash(_) => Value::Slot(Default::default()),
            };
            machine.cache.insert(key, nothing);
        }
        machine
    }

    /// Begins a build with this gas limit.
    pub(crate) fn open(&mut self, gas_limit: u64) -> BuildId {
        let (build, block) = self.next_build(gas_limit);
        self.assembler.open(build, block, Overlay::new(self.cache.clone()), self.now);
        build
    }

    /// Begins a build that follows another builder's.
    pub(crate) fn follow(&mut self, gas_limit: u64) -> BuildId {
        let (build, block) = self.next_build(gas_limit);
        self.assembler.follow(build, block, Overlay::new(self.cache.clone()), self.now);
        build
    }

    fn next_build(&mut self, gas_limit: u64) -> (BuildId, NextBlock) {
        self.builds += 1;
        let block = NextBlock {
            number: 1,
            timestamp: 2,
            fee_recipient: BENEFICIARY,
            gas_limit,
            base_fee_per_gas: GWEI as u64,
            parent_beacon_block_root: Some(B256::ZERO),
            excess_blob_gas: Some(0),
            ..NextBlock::default()
        };
        (BuildId(self.builds), block)
    }

    pub(crate) fn submit(&mut self, transaction: &Transaction) {
        self.assembler.submit(transaction.clone(), rich(0)).unwrap();
    }

    /// Takes a transaction with its blobs.
    pub(crate) fn submit_blobs(&mut self, submission: &Submission) -> Transaction {
        self.assembler.submit(submission.clone(), rich(0)).unwrap();
        submission.transaction().clone()
    }

    /// Works until there is nothing to do, and says what is to be done for it.
    pub(crate) fn run(&mut self) -> Vec<Effect<StateCache>> {
        let mut effects = Vec::new();
        for _ in 0..1_000 {
            let wake = self.assembler.work(self.now);
            effects.extend(std::iter::from_fn(|| self.assembler.poll_effect()));
            match wake {
                Wake::Now => {}
                Wake::At(at) if at <= self.now => panic!("it would never rest"),
                Wake::At(_) | Wake::OnInput => return effects,
            }
        }
        panic!("it never rests: {effects:?}")
    }

    /// Runs, publishing each flashblock at once.
    pub(crate) fn publish(&mut self) -> Vec<Cut> {
        let mut cuts = Vec::new();
        loop {
            let effects = self.run();
            let before = cuts.len();
            for effect in effects {
                match effect {
                    Effect::Publish { build, cut } => {
                        self.assembler.published(build, cut.index);
                        cuts.push(cut);
                    }
                    Effect::Need { .. }
                    | Effect::Locate { .. }
                    | Effect::Recheck { .. }
                    | Effect::Complete { .. }
                    | Effect::Failed { .. } => panic!("unexpected {effect:?}"),
                }
            }
            if cuts.len() == before {
                return cuts;
            }
        }
    }

    pub(crate) fn tick(&mut self) {
        self.now += TIMING.interval;
    }
}
