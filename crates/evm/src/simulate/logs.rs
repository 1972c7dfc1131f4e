//! The logs of an execution, on request with one more for each transfer of the chain's own coin
//! (ERC-7528).
//!
//! Transfers stand where they happened between the logs of contracts. A log goes with the frame it
//! was made in when that fails, but its number is not given to another: as in geth, what is counted
//! is what was logged. No receipt has the logs of transfers.

use alloy_primitives::{Address, B256, Log, LogData, U256, address, b256};
use revm::{
    Inspector,
    context::{ContextTr, JournalTr},
    interpreter::{CallInputs, CallOutcome, CallScheme, CreateInputs, CreateOutcome},
};

/// The address that stands for the chain's own coin.
const COIN: Address = address!("0xeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee");

/// `Transfer(address,address,uint256)`.
const TRANSFER: B256 = b256!("0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef");

/// Collects the logs of one transaction of a block after the other.
#[derive(Clone, Debug)]
pub(super) struct SeenLogs {
    transfers: bool,
    /// How many logs there were in the block.
    count: u64,
    /// Each with its number.
    logs: Vec<(u64, Log)>,
    /// How many logs there were when each open frame began.
    frames: Vec<usize>,
}

impl SeenLogs {
    /// Starts after `count` logs of the block, which nobody saw.
    pub(super) fn new(transfers: bool, count: usize) -> Self {
        Self { transfers, count: count as u64, logs: Vec::new(), frames: Vec::new() }
    }

    /// Hands over the logs of a transaction, and begins the next one.
    pub(super) fn take(&mut self) -> Vec<(u64, Log)> {
        self.frames.clear();
        std::mem::take(&mut self.logs)
    }

    fn enter(&mut self) {
        self.frames.push(self.logs.len());
    }

    fn leave(&mut self, succeeded: bool) {
        let before = self.frames.pop().unwrap_or_default();
        if !succeeded {
            self.logs.truncate(before);
        }
    }

    fn transfer(&mut self, from: Address, to: Address, value: U256) {
        if !self.transfers || value.is_zero() {
            return;
        }
        let topics = vec![TRANSFER, from.into_word(), to.into_word()];
        let data = LogData::new_unchecked(topics, value.to_be_bytes::<32>().into());
        self.add(Log { address: COIN, data });
    }

    fn add(&mut self, log: Log) {
        self.logs.push((self.count, log));
        self.count += 1;
    }
}

impl<C: ContextTr> Inspector<C> for SeenLogs {
    fn call(&mut self, _: &mut C, inputs: &mut CallInputs) -> Option<CallOutcome> {
        self.enter();
        if matches!(inputs.scheme, CallScheme::Call)
            && let Some(value) = inputs.transfer_value()
        {
            self.transfer(inputs.transfer_from(), inputs.transfer_to(), value);
        }
        None
    }

    fn call_end(&mut self, _: &mut C, _: &CallInputs, outcome: &mut CallOutcome) {
        self.leave(outcome.result.is_ok());
    }

    fn create(&mut self, context: &mut C, inputs: &mut CreateInputs) -> Option<CreateOutcome> {
        self.enter();
        let (creator, value) = (inputs.caller(), inputs.value());
        if let Ok(account) = context.journal_mut().load_account(creator) {
            let created = inputs.created_address(account.data.info.nonce);
            self.transfer(creator, created, value);
        }
        None
    }

    fn create_end(&mut self, _: &mut C, _: &CreateInputs, outcome: &mut CreateOutcome) {
        self.leave(outcome.result.is_ok());
    }

    fn log(&mut self, _: &mut C, log: Log) {
        self.add(log);
    }

    fn selfdestruct(&mut self, contract: Address, target: Address, value: U256) {
        self.transfer(contract, target, value);
    }
}
