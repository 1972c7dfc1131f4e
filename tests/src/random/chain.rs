//! One chain of random blocks, each executed in every way there is.
//!
//! * Built: one transaction at a time, among others that cannot be in the block, with pauses, copies,
//!   frozen layers, and rebuilding from what was built so far.
//! * In one go, by somebody who is handed the whole block.
//! * Received: cut into flashblocks at random, by a consumer that knows nothing in advance; with
//!   sessions that are abandoned, blocks on top of blocks that are not canonical yet, and consumers
//!   that are started anew and are told again what was said.
//! * As a payload, by the embedded execution client.

use std::{collections::VecDeque, error::Error, fmt, sync::Arc};

use alloy_eips::{eip4895::Withdrawal, eip7685::Requests};
use alloy_primitives::{Address, B256, Bytes, FixedBytes, U256};
use preconf_chain::{Block, Header, Receipt};
use preconf_chassis::Chain as Causes;
use preconf_devnet::client::{ClientConfig, ExecutionClient, PayloadContext};
use preconf_engine::payload::{to_payload, versioned_hashes};
use preconf_evm::{NextBlock, Paused, Running, TxError, execute_block};
use preconf_pending::{Audit, HeadRelation};
use preconf_state::{Diff, MemoryState, Overlay, StateReader};

use super::{
    Rules, Tally, traffic,
    world::{DESTRUCT, FEE_RECIPIENT, STORE, World, signers},
};
use crate::{
    choices::Choices,
    feed::{
        Consumer, Heard, Known, Message, OpenSession, Sequencer, Split, base_of, compare, root_of,
        sendable, withdrawals_of,
    },
};

/// The most transactions that are tried for one block, and one more.
const TRIED: u64 = 14;
/// The most blocks on top of the canonical one.
const MAX_AHEAD: usize = 3;

type State = Arc<MemoryState>;

/// What is done with one chain.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Its rules.
    pub rules: Rules,
    /// Its length.
    pub blocks: u64,
    /// Whether the embedded execution client is asked, too.
    pub with_client: bool,
}

/// Two ways did not come to the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The number of the block.
    pub block: u64,
    /// Which way, and what came out.
    pub what: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block {}: {}", self.block, self.what)
    }
}

/// Makes a chain and executes it in every way.
///
/// # Errors
/// The first difference.
pub fn check(choices: &mut Choices<'_>, plan: Plan, tally: &mut Tally) -> Result<(), Difference> {
    let mut block = 0;
    run(choices, plan, tally, &mut block).map_err(|what| Difference { block, what })
}

fn run(
    choices: &mut Choices<'_>,
    plan: Plan,
    tally: &mut Tally,
    number: &mut u64,
) -> Result<(), String> {
    let world = World::of(plan.rules);
    let client =
        plan.with_client.then(|| ExecutionClient::new(world.spec.clone(), ClientConfig::default()));
    let mut builder = Builder { world, parent: world.genesis.clone() };
    let mut receiver = Receiver::new(world)?;
    for _ in 0..plan.blocks {
        *number += 1;
        let built = builder.build(choices, tally)?;
        in_one_go(world, &builder.parent, &built)?;
        if let Some(client) = &client {
            as_payload(client, &built)?;
            tally.payloads += 1;
        }
        receiver.receive(choices, tally, &builder.parent, &built)?;
        builder.parent = built.known;
        tally.blocks += 1;
    }
    receiver.catch_up()
}

/// A block as it was built.
struct Built {
    block: Block,
    receipts: Vec<Receipt>,
    requests: Requests,
    known: Known,
}

struct Builder {
    world: &'static World,
    parent: Known,
}

impl Builder {
    fn build(&self, choices: &mut Choices<'_>, tally: &mut Tally) -> Result<Built, String> {
        let next = next_block(choices, self.world, &self.parent.header);
        let begin = || {
            let overlay = Overlay::new(self.parent.state.clone());
            Paused::begin(self.world.spec.clone(), next.clone(), overlay)
        };
        let mut running = begin().map_err(|error| said("beginning", &error))?.resume();
        let own = running.transactions().len();
        for _ in 0..choices.roll(TRIED) {
            for _ in 0..choices.roll(3) {
                running = match choices.roll(5) {
                    0 => running.pause().resume(),
                    1 | 2 => {
                        running.freeze();
                        running
                    }
                    3 => {
                        let paused = running.pause();
                        let finished = paused.clone().finish();
                        finished.map_err(|error| said("finishing a copy", &error))?;
                        paused.resume()
                    }
                    _ => {
                        tally.restarts += 1;
                        let begun = begin().map_err(|error| said("beginning again", &error))?;
                        again(begun.resume(), &running, own)?
                    }
                };
            }
            let transaction = traffic::transaction(choices, self.world.rules, running.overlay());
            match running.execute(&transaction) {
                Ok(_) => (),
                Err(error @ (TxError::NeedState(_) | TxError::Fatal(_))) => {
                    return Err(said("building", &error));
                }
                Err(_) => tally.refused += 1,
            }
        }
        let finished = running.pause().finish();
        let outcome = finished.map_err(|error| said("finishing", &error))?;
        let diff = outcome.diff();
        tally.count_receipts(&outcome.receipts);
        count(tally, &self.parent.state, &diff, &outcome.requests);
        let mut state = self.parent.state.as_ref().clone();
        state.apply(&diff);
        let block = outcome.block(root_of(&state));
        let known = Known::new(block.header.clone(), state);
        Ok(Built { block, receipts: outcome.receipts, requests: outcome.requests, known })
    }
}

/// The same block built anew, from nothing but its transactions.
fn again(
    mut anew: Running<State>,
    before: &Running<State>,
    own: usize,
) -> Result<Running<State>, String> {
    for transaction in &before.transactions()[own..] {
        anew.execute(transaction).map_err(|error| said("building again", &error))?;
    }
    if anew.receipts() != before.receipts() {
        return Err("building again gives other receipts".to_owned());
    }
    Ok(anew)
}

/// An environment that may follow a block.
fn next_block(choices: &mut Choices<'_>, world: &World, parent: &Header) -> NextBlock {
    // Now and then far enough for the shortest chain to come to the last fork.
    let most = if choices.once_in(8) { 64 } else { 8 };
    let timestamp = parent.timestamp + 1 + choices.roll(most);
    let recipients = [FEE_RECIPIENT, FEE_RECIPIENT, signers()[0].address(), STORE, DESTRUCT];
    let withdrawals = (0..choices.roll(4))
        .map(|index| Withdrawal {
            index,
            validator_index: choices.roll(1_000),
            address: choices.pick(&[STORE, Address::repeat_byte(0x77), Address::repeat_byte(0x78)]),
            amount: choices.roll(3),
        })
        .collect();
    let key = world.spec.is_prague1_active_at_timestamp(timestamp);
    NextBlock {
        parent_hash: parent.hash_slow(),
        parent_beacon_block_root: Some(hash(choices)),
        number: parent.number + 1,
        timestamp,
        fee_recipient: choices.pick(&recipients),
        prev_randao: hash(choices),
        gas_limit: parent.gas_limit - 500 + choices.roll(1_001),
        base_fee_per_gas: world.spec.next_base_fee(parent),
        extra_data: vec![b'x'; choices.roll(33) as usize].into(),
        withdrawals,
        excess_blob_gas: world.spec.next_excess_blob_gas(parent, timestamp),
        prev_proposer_pubkey: key.then(|| FixedBytes::repeat_byte(choices.roll(256) as u8)),
    }
}

fn hash(choices: &mut Choices<'_>) -> B256 {
    B256::from(U256::from(choices.roll(u64::MAX)))
}

fn count(tally: &mut Tally, before: &MemoryState, diff: &Diff, requests: &Requests) {
    for (address, change) in &diff.accounts {
        let had = before.account(*address).unwrap_or_default();
        tally.destroyed += u64::from(change.account.is_none());
        let has_code = change.account.is_some_and(|account| account.has_code());
        tally.created += u64::from(has_code && !had.is_some_and(|account| account.has_code()));
        tally.cleared += change.slots.values().filter(|value| value.is_zero()).count() as u64;
    }
    for kind in requests.iter().filter_map(|request| request.first()) {
        *tally.requests.entry(*kind).or_default() += 1;
    }
}

fn in_one_go(world: &World, parent: &Known, built: &Built) -> Result<(), String> {
    let Built { block, receipts, requests, known } = built;
    let overlay = Overlay::new(parent.state.clone());
    let outcome = execute_block(&world.spec, &parent.header, block, Some(requests), overlay);
    let outcome = outcome.map_err(|error| said("in one go", &error))?;
    if outcome.receipts != *receipts {
        return Err("in one go, the receipts are others".to_owned());
    }
    let mut state = parent.state.as_ref().clone();
    state.apply(&outcome.diff());
    let (got, expected) = (root_of(&state), known.header.state_root);
    if got == expected {
        Ok(())
    } else {
        Err(format!("in one go, the state root is {got}, not {expected}"))
    }
}

fn as_payload(client: &ExecutionClient, built: &Built) -> Result<(), String> {
    let Header { parent_beacon_block_root, prev_proposer_pubkey, requests_hash, .. } =
        built.block.header;
    let context = PayloadContext {
        versioned_hashes: versioned_hashes(&built.block),
        parent_beacon_block_root: parent_beacon_block_root.unwrap_or_default(),
        requests: requests_hash.map(|_| built.requests.iter().cloned().collect()),
        prev_proposer_pubkey,
    };
    let status = client.new_payload(to_payload(&built.block), &context);
    let status = status.map_err(|error| said("as a payload", &error))?;
    if status.is_valid() { Ok(()) } else { Err(format!("as a payload, it is {}", status.status)) }
}

/// The consumer's side.
struct Receiver {
    world: &'static World,
    sequencer: Sequencer,
    consumer: Consumer,
    canonical: Known,
    /// Blocks above the canonical one, lowest first, with how many transactions each is shown with.
    waiting: VecDeque<(Known, u64)>,
    /// What was heard about blocks above the canonical one, with their numbers.
    heard: Vec<(u64, Heard)>,
}

impl Receiver {
    fn new(world: &'static World) -> Result<Self, String> {
        let sequencer = Sequencer::new(world.spec.chain_id());
        let canonical = world.genesis.clone();
        let consumer = Consumer::new(&world.spec, sequencer.public_key(), &canonical);
        let consumer = consumer.map_err(|error| said("starting a consumer", &error))?;
        let (waiting, heard) = (VecDeque::new(), Vec::new());
        Ok(Self { world, sequencer, consumer, canonical, waiting, heard })
    }

    fn receive(
        &mut self,
        choices: &mut Choices<'_>,
        tally: &mut Tally,
        parent: &Known,
        built: &Built,
    ) -> Result<(), String> {
        let header = &built.block.header;
        let number = header.number;
        let transactions = sendable(&built.block);
        if choices.once_in(8) {
            self.abandon(choices, tally, built, &transactions)?;
        }
        let mut session = self.sequencer.open(base_of(header), withdrawals_of(&built.block));
        let pieces = Split::Random.pieces(choices, transactions.len());
        let last = pieces.len() - 1;
        for (at, piece) in pieces.into_iter().enumerate() {
            self.flashblock(number, &mut session, &transactions[piece], at == last)?;
            tally.flashblocks += 1;
            if choices.once_in(10) {
                self.start_anew()?;
                tally.restarts += 1;
            }
        }
        let shown = self.consumer.whole(number).map_err(|error| said("received", &error))?;
        let (_, found) = compare(&self.world.spec, &parent.state, shown, header);
        if let Some(mismatch) = found.first() {
            return Err(format!("received, {mismatch}"));
        }
        // Nobody is promised the chain's own.
        let own = u64::from(header.prev_proposer_pubkey.is_some());
        self.waiting.push_back((built.known.clone(), shown.transaction_count as u64 - own));
        if self.waiting.len() < MAX_AHEAD && choices.once_in(4) {
            tally.ahead += 1;
            return self
                .say(number, Message::Sealed(self.sequencer.sealed(&session, &built.known)));
        }
        self.catch_up()
    }

    /// Begins a block and does not end it, or ends it and takes it back.
    fn abandon(
        &mut self,
        choices: &mut Choices<'_>,
        tally: &mut Tally,
        built: &Built,
        transactions: &[Bytes],
    ) -> Result<(), String> {
        let number = built.block.header.number;
        let mut base = base_of(&built.block.header);
        base.prev_randao = hash(choices);
        let promised = choices.roll(transactions.len() as u64 + 1) as usize;
        let mut session = self.sequencer.open(base, withdrawals_of(&built.block));
        let is_last = choices.roll(2) == 1;
        self.flashblock(number, &mut session, &transactions[..promised], is_last)?;
        tally.flashblocks += 1;
        tally.abandoned += 1;
        if choices.roll(2) == 1 {
            self.say(number, Message::Abandoned(self.sequencer.abandoned(&session)))?;
        }
        Ok(())
    }

    fn flashblock(
        &mut self,
        number: u64,
        session: &mut OpenSession,
        transactions: &[Bytes],
        is_last: bool,
    ) -> Result<(), String> {
        let signed = self.sequencer.flashblock(session, transactions.to_vec(), is_last);
        let signed = signed.map_err(|error| said("cutting", &error))?;
        self.say(number, Message::Flashblock(signed.into()))
    }

    fn say(&mut self, number: u64, message: Message) -> Result<(), String> {
        let heard = self.consumer.hear(message).map_err(|error| said("receiving", &error))?;
        self.heard.push((number, heard.clone()));
        self.consumer.take(heard).map_err(|error| said("receiving", &error))
    }

    /// Another consumer, which is told everything from the canonical block on.
    fn start_anew(&mut self) -> Result<(), String> {
        let failed = |error| said("receiving again", &error);
        let (spec, key) = (&self.world.spec, self.sequencer.public_key());
        self.consumer = Consumer::new(spec, key, &self.canonical).map_err(failed)?;
        for (_, heard) in &self.heard {
            self.consumer.take(heard.clone()).map_err(failed)?;
        }
        Ok(())
    }

    /// Makes every block canonical that was built.
    fn catch_up(&mut self) -> Result<(), String> {
        while let Some((known, transactions)) = self.waiting.pop_front() {
            let report = self.consumer.head(&known);
            let report = report.map_err(|error| said("becoming canonical", &error))?;
            if report.relation != HeadRelation::Ours {
                let relation = report.relation.as_str();
                return Err(format!("the canonical block is taken as {relation}"));
            }
            let expected = Audit { kept: transactions, ..Audit::default() };
            if report.audit != expected {
                return Err(format!("the audit is {:?}, not {expected:?}", report.audit));
            }
            self.heard.retain(|(number, _)| *number > known.header.number);
            self.canonical = known;
        }
        Ok(())
    }
}

fn said(what: &str, error: &(dyn Error + 'static)) -> String {
    format!("{what}: {}", Causes(error))
}
