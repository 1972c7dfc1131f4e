//! A second opinion: blocks executed by what shares as little as possible with this project.
//!
//! Its own are the rules of the forks, fees, the chain's own calls and transaction, requests,
//! withdrawals, roots and the header, all from the text of the genesis file ([`rules`],
//! [`encoding`]); its state is revm's `CacheDB`, kept whole from the genesis on.
//!
//! What it cannot help sharing with the rest: revm's interpreter and precompiles, alloy's types of
//! transactions with their decoding and the recovery of senders, and alloy-trie's hashing of sorted
//! leaves. A mistake in those shows nowhere in the comparison; public test suites are for them.
//!
//! It never sees this project's executor, its overlay of state, or what either came to, except to
//! compare.

mod encoding;
mod rules;

use std::collections::BTreeMap;

use alloy_consensus::{
    EthereumTxEnvelope, Header, Transaction as _, TxEip4844, Typed2718,
    transaction::SignerRecoverable,
};
use alloy_eips::{
    eip2718::Decodable2718, eip2935::HISTORY_STORAGE_ADDRESS, eip4788::BEACON_ROOTS_ADDRESS,
    eip4895::Withdrawal, eip7002::WITHDRAWAL_REQUEST_PREDEPLOY_ADDRESS,
    eip7251::CONSOLIDATION_REQUEST_PREDEPLOY_ADDRESS,
};
use alloy_genesis::Genesis;
use alloy_primitives::{Address, B256, Bloom, Bytes, FixedBytes, TxKind, U256};
use alloy_trie::{
    TrieAccount,
    root::{
        ordered_trie_root, ordered_trie_root_encoded, state_root_unhashed, storage_root_unhashed,
    },
};
use preconf_chain::{Header as ClaimedHeader, Receipt};
use revm::{
    Context, Database, ExecuteCommitEvm, ExecuteEvm, MainBuilder, MainContext, MainnetEvm,
    context::{BlockEnv, CfgEnv, ContextSetters, TxEnv},
    context_interface::{
        block::BlobExcessGasAndPrice,
        either::Either,
        result::{EVMError, ExecutionResult, HaltReason},
    },
    database::{CacheDB, EmptyDB},
    handler::{Handler, MainnetContext, MainnetHandler},
    state::{AccountInfo, Bytecode},
};

use encoding::{Outcome, REWARD_TYPE, SYSTEM, SYSTEM_GAS};
use rules::{BLOB_GAS, Fees, Rules};

type State = CacheDB<EmptyDB>;
type Evm = MainnetEvm<MainnetContext<State>>;

/// The rules of one chain.
#[derive(Debug)]
pub struct Oracle {
    rules: Rules,
}

/// A block as the oracle came to it, with everything there is after it.
#[derive(Clone, Debug)]
pub struct Tip {
    /// Its hash.
    pub hash: B256,
    number: u64,
    fees: Fees,
    state: State,
}

/// A transaction that was tried in a block.
#[derive(Clone, Debug)]
pub struct Tried {
    /// As it is encoded.
    pub encoded: Bytes,
    /// Whether the block holds it.
    pub is_in: bool,
}

/// What somebody says of a block.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// Its header.
    pub header: &'a ClaimedHeader,
    /// Its hash.
    pub hash: B256,
    /// Its transactions, as they are encoded.
    pub transactions: &'a [Bytes],
    /// Its withdrawals.
    pub withdrawals: &'a [Withdrawal],
    /// The receipts of its transactions.
    pub receipts: &'a [Receipt],
    /// Its requests, each with its type.
    pub requests: &'a [Bytes],
    /// What was tried, in this order.
    pub tried: &'a [Tried],
}

/// A block in the middle of being executed.
struct Executing {
    evm: Evm,
    blob_gas_used: u64,
    transactions: Vec<Bytes>,
    outcomes: Vec<Outcome>,
}

impl Oracle {
    /// The chain of a genesis file, at its beginning.
    ///
    /// # Errors
    /// If the text is no such file.
    pub fn new(json: &str) -> Result<(Self, Tip), String> {
        let value = serde_json::from_str(json).map_err(|error| error.to_string())?;
        let genesis: Genesis = serde_json::from_str(json).map_err(|error| error.to_string())?;
        let oracle = Self { rules: Rules::new(&value) };
        let mut state = State::default();
        for (address, account) in &genesis.alloc {
            let code = account.code.clone().map(Bytecode::new_raw).unwrap_or_default();
            let info = AccountInfo::default()
                .with_balance(account.balance)
                .with_nonce(account.nonce.unwrap_or_default())
                .with_code(code);
            state.insert_account_info(*address, info);
            for (slot, value) in account.storage.iter().flatten() {
                let stored =
                    state.insert_account_storage(*address, (*slot).into(), (*value).into());
                stored.map_err(|error| error.to_string())?;
            }
        }
        let is_prague = oracle.rules.is_prague(genesis.timestamp);
        let header = Header {
            state_root: root_of(&state),
            gas_limit: genesis.gas_limit,
            timestamp: genesis.timestamp,
            extra_data: genesis.extra_data,
            base_fee_per_gas: genesis.base_fee_per_gas.map(|fee| fee as u64),
            withdrawals_root: Some(ordered_trie_root::<Withdrawal>(&[])),
            blob_gas_used: genesis.blob_gas_used,
            excess_blob_gas: genesis.excess_blob_gas,
            parent_beacon_block_root: Some(B256::ZERO),
            requests_hash: is_prague.then(|| encoding::requests_hash(&[])),
            ..Header::default()
        };
        let first = oracle.rules.distributor(genesis.timestamp).map(|_| FixedBytes::ZERO);
        let tip = Tip::new(&header, encoding::header_hash(&header, first.as_ref()), state);
        Ok((oracle, tip))
    }

    /// Executes the block after a tip, and compares everything that is said of it.
    ///
    /// # Errors
    /// The first thing that is not so.
    pub fn follow(&self, tip: &Tip, claim: &Claim<'_>) -> Result<Tip, String> {
        let Claim { header, withdrawals, .. } = *claim;
        let base_fee = self.rules.base_fee_after(&tip.fees);
        same("base fee", &header.base_fee_per_gas, &Some(base_fee))?;
        let mut executing = Executing {
            evm: self.evm(tip, header, base_fee),
            blob_gas_used: 0,
            transactions: Vec::new(),
            outcomes: Vec::new(),
        };
        self.begin(&mut executing, tip, claim, base_fee)?;
        for (at, tried) in claim.tried.iter().enumerate() {
            let outcome = self.try_transaction(&mut executing, tried, header.timestamp);
            match (tried.is_in, outcome) {
                (true, Ok(())) | (false, Err(_)) => (),
                (true, Err(why)) => {
                    return Err(format!("transaction {at} tried is refused: {why}"));
                }
                (false, Ok(())) => return Err(format!("transaction {at} tried is not refused")),
            }
        }
        let requests = self.end(&mut executing, header.timestamp, withdrawals)?;
        same("requests", &claim.requests, &requests.as_slice())?;
        same("transactions", &claim.transactions, &executing.transactions.as_slice())?;
        compare_receipts(claim.receipts, &executing.outcomes)?;
        let computed = self.header(tip, claim, &executing, &requests, base_fee);
        let state = executing.evm.ctx.journaled_state.database;
        let computed = Header { state_root: root_of(&state), ..computed };
        compare_headers(header, &computed)?;
        let hash = encoding::header_hash(&computed, header.prev_proposer_pubkey.as_ref());
        same("hash", &claim.hash, &hash)?;
        Ok(Tip::new(&computed, hash, state))
    }

    fn evm(&self, tip: &Tip, header: &ClaimedHeader, base_fee: u64) -> Evm {
        let time = header.timestamp;
        let mut cfg: CfgEnv = CfgEnv::new_with_spec(self.rules.evm_rules(time));
        cfg.chain_id = self.rules.chain_id();
        cfg.tx_chain_id_check = true;
        cfg.max_blobs_per_tx = Some(self.rules.most_blobs_of_one(time));
        if let Some((code, init_code)) = self.rules.code_limits(time) {
            cfg.limit_contract_code_size = Some(code);
            cfg.limit_contract_initcode_size = Some(init_code);
        }
        let excess_blob_gas = self.rules.excess_after(&tip.fees, time);
        let blob_gasprice = self.rules.blobs(time).fee(excess_blob_gas).saturating_to();
        let block = BlockEnv {
            number: U256::from(tip.number + 1),
            beneficiary: header.beneficiary,
            timestamp: U256::from(time),
            gas_limit: header.gas_limit,
            basefee: base_fee,
            difficulty: U256::ZERO,
            prevrandao: Some(header.mix_hash),
            blob_excess_gas_and_price: Some(BlobExcessGasAndPrice {
                excess_blob_gas,
                blob_gasprice,
            }),
            ..BlockEnv::default()
        };
        let state = tip.state.clone();
        Context::mainnet().with_db(state).with_cfg(cfg).with_block(block).build_mainnet()
    }

    /// What the chain does before the first transaction, and its own transaction.
    fn begin(
        &self,
        executing: &mut Executing,
        tip: &Tip,
        claim: &Claim<'_>,
        base_fee: u64,
    ) -> Result<(), String> {
        let ClaimedHeader {
            timestamp: time, parent_beacon_block_root, prev_proposer_pubkey, ..
        } = *claim.header;
        if self.rules.is_prague(time) {
            executing.call_by_chain(HISTORY_STORAGE_ADDRESS, tip.hash.into())?;
        }
        let beacon = parent_beacon_block_root.ok_or("the header has no beacon block root")?;
        executing.call_by_chain(BEACON_ROOTS_ADDRESS, beacon.into())?;
        let distributor = self.rules.distributor(time);
        same("proposer's key", &prev_proposer_pubkey.is_some(), &distributor.is_some())?;
        let (Some(distributor), Some(key)) = (distributor, prev_proposer_pubkey) else {
            return Ok(());
        };
        let result = executing.call_by_chain(distributor, encoding::reward_input(&key))?;
        executing.transactions.push(encoding::reward(
            self.rules.chain_id(),
            distributor,
            tip.number + 1,
            base_fee,
            &key,
        ));
        executing.outcomes.push(Outcome {
            kind: REWARD_TYPE,
            success: result.is_success(),
            cumulative_gas: 0,
            logs: result.into_logs(),
        });
        Ok(())
    }

    fn try_transaction(
        &self,
        executing: &mut Executing,
        tried: &Tried,
        time: u64,
    ) -> Result<(), String> {
        let decoded = EthereumTxEnvelope::<TxEip4844>::decode_2718_exact(&tried.encoded);
        let transaction = decoded.map_err(|error| error.to_string())?;
        let sender = transaction.recover_signer().map_err(|error| error.to_string())?;
        let used = executing.gas_used();
        if transaction.gas_limit() > executing.evm.ctx.block.gas_limit - used {
            return Err("its gas does not fit".to_owned());
        }
        let blobs = transaction.blob_versioned_hashes().unwrap_or_default();
        let blob_gas = executing.blob_gas_used + blobs.len() as u64 * BLOB_GAS;
        if blob_gas > self.rules.blobs(time).max * BLOB_GAS {
            return Err("its blobs do not fit".to_owned());
        }
        let result = executing.evm.transact_commit(form(&transaction, sender));
        let result = result.map_err(|error| error.to_string())?;
        executing.blob_gas_used = blob_gas;
        executing.transactions.push(tried.encoded.clone());
        executing.outcomes.push(Outcome {
            kind: transaction.ty(),
            success: result.is_success(),
            cumulative_gas: used + result.tx_gas_used(),
            logs: result.into_logs(),
        });
        Ok(())
    }

    /// What the chain does after the last transaction. Returns the requests.
    fn end(
        &self,
        executing: &mut Executing,
        time: u64,
        withdrawals: &[Withdrawal],
    ) -> Result<Vec<Bytes>, String> {
        let mut requests = Vec::new();
        if self.rules.is_prague(time) {
            let is_berachain = self.rules.is_berachain();
            let mut found = Vec::new();
            if !is_berachain || self.rules.is_osaka(time) {
                let logs = executing.outcomes.iter().flat_map(|outcome| &outcome.logs);
                found = encoding::deposits(logs, self.rules.deposit_contract(), is_berachain)?;
            }
            requests.push((0, found));
            for (kind, contract) in [
                (1, WITHDRAWAL_REQUEST_PREDEPLOY_ADDRESS),
                (2, CONSOLIDATION_REQUEST_PREDEPLOY_ADDRESS),
            ] {
                let result = executing.call_by_chain(contract, Bytes::new())?;
                match result {
                    ExecutionResult::Success { output, .. } => {
                        requests.push((kind, output.into_data().to_vec()));
                    }
                    ExecutionResult::Revert { .. } | ExecutionResult::Halt { .. } => {
                        return Err(format!("{contract} fails"));
                    }
                }
            }
        }
        let state = &mut executing.evm.ctx.journaled_state.database;
        for withdrawal in withdrawals {
            let account =
                state.load_account(withdrawal.address).map_err(|error| error.to_string())?;
            let mut info = account.info().unwrap_or_default();
            info.balance += U256::from(withdrawal.amount) * U256::from(1_000_000_000_u64);
            state.insert_account_info(withdrawal.address, info);
        }
        let full = requests.into_iter().filter(|(_, content)| !content.is_empty());
        Ok(full.map(|(kind, content)| [vec![kind], content].concat().into()).collect())
    }

    /// The header, but for its state root. What a proposer chooses is as it is claimed.
    fn header(
        &self,
        tip: &Tip,
        claim: &Claim<'_>,
        executing: &Executing,
        requests: &[Bytes],
        base_fee: u64,
    ) -> Header {
        let chosen = claim.header;
        let receipts: Vec<_> = executing.outcomes.iter().map(Outcome::encoded).collect();
        let logs = executing.outcomes.iter().flat_map(|outcome| &outcome.logs);
        let mut logs_bloom = Bloom::ZERO;
        logs.for_each(|log| logs_bloom.accrue_log(log));
        let is_prague = self.rules.is_prague(chosen.timestamp);
        Header {
            parent_hash: tip.hash,
            beneficiary: chosen.beneficiary,
            transactions_root: ordered_trie_root_encoded(&executing.transactions),
            receipts_root: ordered_trie_root_encoded(&receipts),
            logs_bloom,
            number: tip.number + 1,
            gas_limit: chosen.gas_limit,
            gas_used: executing.gas_used(),
            timestamp: chosen.timestamp,
            extra_data: chosen.extra_data.clone(),
            mix_hash: chosen.mix_hash,
            base_fee_per_gas: Some(base_fee),
            withdrawals_root: Some(ordered_trie_root(claim.withdrawals)),
            blob_gas_used: Some(executing.blob_gas_used),
            excess_blob_gas: Some(self.rules.excess_after(&tip.fees, chosen.timestamp)),
            parent_beacon_block_root: chosen.parent_beacon_block_root,
            requests_hash: is_prague.then(|| encoding::requests_hash(requests)),
            ..Header::default()
        }
    }
}

impl Tip {
    fn new(header: &Header, hash: B256, mut state: State) -> Self {
        state.cache.block_hashes.insert(U256::from(header.number), hash);
        let fees = Fees {
            timestamp: header.timestamp,
            gas_used: header.gas_used,
            gas_limit: header.gas_limit,
            base_fee: header.base_fee_per_gas.unwrap_or_default(),
            blob_gas_used: header.blob_gas_used.unwrap_or_default(),
            excess_blob_gas: header.excess_blob_gas.unwrap_or_default(),
        };
        Self { hash, number: header.number, fees, state }
    }
}

impl Executing {
    fn gas_used(&self) -> u64 {
        self.outcomes.last().map_or(0, |outcome| outcome.cumulative_gas)
    }

    /// Calls a contract as the chain itself: without fee, nonce and value.
    fn call_by_chain(&mut self, to: Address, data: Bytes) -> Result<ExecutionResult, String> {
        self.evm.set_tx(TxEnv {
            caller: SYSTEM,
            kind: TxKind::Call(to),
            data,
            gas_limit: SYSTEM_GAS,
            ..TxEnv::default()
        });
        let called: Result<ExecutionResult<HaltReason>, EVMError<<State as Database>::Error>> =
            MainnetHandler::default().run_system_call(&mut self.evm);
        let result = called.map_err(|error| error.to_string())?;
        let changes = self.evm.finalize();
        self.evm.commit(changes);
        Ok(result)
    }
}

/// A transaction as the EVM takes it.
fn form(transaction: &EthereumTxEnvelope<TxEip4844>, sender: Address) -> TxEnv {
    let authorizations = transaction.authorization_list().unwrap_or_default();
    TxEnv {
        tx_type: transaction.ty(),
        caller: sender,
        gas_limit: transaction.gas_limit(),
        gas_price: transaction.max_fee_per_gas(),
        kind: transaction.kind(),
        value: transaction.value(),
        data: transaction.input().clone(),
        nonce: transaction.nonce(),
        chain_id: transaction.chain_id(),
        access_list: transaction.access_list().cloned().unwrap_or_default(),
        gas_priority_fee: transaction.max_priority_fee_per_gas(),
        blob_hashes: transaction.blob_versioned_hashes().unwrap_or_default().to_vec(),
        max_fee_per_blob_gas: transaction.max_fee_per_blob_gas().unwrap_or_default(),
        authorization_list: authorizations.iter().cloned().map(Either::Left).collect(),
    }
}

/// The root of a whole state. An account without anything is none (EIP-161).
fn root_of(state: &State) -> B256 {
    let accounts = state.cache.accounts.iter().filter(|(_, account)| !account.info.is_empty());
    state_root_unhashed(accounts.map(|(address, account)| {
        let slots = account.storage.iter().filter(|(_, value)| !value.is_zero());
        let slots: BTreeMap<B256, U256> =
            slots.map(|(slot, value)| ((*slot).into(), *value)).collect();
        let AccountInfo { nonce, balance, code_hash, .. } = account.info;
        (*address, TrieAccount::new(nonce, balance, storage_root_unhashed(slots), code_hash))
    }))
}

fn compare_receipts(claimed: &[Receipt], computed: &[Outcome]) -> Result<(), String> {
    same("number of receipts", &claimed.len(), &computed.len())?;
    for (at, (claimed, computed)) in claimed.iter().zip(computed).enumerate() {
        let claimed = Outcome {
            kind: claimed.tx_type.into(),
            success: claimed.success,
            cumulative_gas: claimed.cumulative_gas_used,
            logs: claimed.logs.clone(),
        };
        same("receipt", &(at, &claimed), &(at, computed))?;
    }
    Ok(())
}

/// The telling fields first.
fn compare_headers(claimed: &ClaimedHeader, computed: &Header) -> Result<(), String> {
    same("gas used", &claimed.gas_used, &computed.gas_used)?;
    same("receipts root", &claimed.receipts_root, &computed.receipts_root)?;
    same("logs bloom", &claimed.logs_bloom, &computed.logs_bloom)?;
    same("transactions root", &claimed.transactions_root, &computed.transactions_root)?;
    same("withdrawals root", &claimed.withdrawals_root, &computed.withdrawals_root)?;
    same("blob gas used", &claimed.blob_gas_used, &computed.blob_gas_used)?;
    same("excess blob gas", &claimed.excess_blob_gas, &computed.excess_blob_gas)?;
    same("requests hash", &claimed.requests_hash, &computed.requests_hash)?;
    same("state root", &claimed.state_root, &computed.state_root)
}

fn same<T: PartialEq + std::fmt::Debug>(
    what: &str,
    claimed: &T,
    computed: &T,
) -> Result<(), String> {
    if claimed == computed {
        return Ok(());
    }
    Err(format!("the {what} is {claimed:?}, and by the oracle {computed:?}"))
}

#[cfg(test)]
mod tests {
    use alloy_primitives::keccak256;

    use super::*;

    #[test]
    fn the_deposit_events_topic_is_the_hash_of_its_signature() {
        let event = "DepositEvent(bytes,bytes,bytes,bytes,bytes)";
        assert_eq!(keccak256(event), encoding::ETHEREUM_DEPOSIT);
    }
}
