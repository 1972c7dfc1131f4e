//! One chain of random blocks, each executed in every way there is.
//!
//! * Built ([`builder`]): one transaction at a time, among others that cannot be in the block, with
//!   pauses, copies, frozen layers, and rebuilding from what was built so far.
//! * In one go, by somebody who is handed the whole block.
//! * By the oracle, which shares nothing with the rest that it can help sharing.
//! * As a payload, by the embedded execution client.
//! * Received ([`receiver`]): cut into flashblocks at random, by a consumer that knows nothing in
//!   advance; with sessions that are abandoned in the middle of it, blocks on top of blocks that are
//!   not canonical yet, blocks in place of those that were promised or canonical, and consumers that
//!   are started anew and are told again what was said.

mod builder;
mod receiver;

use std::{error::Error, fmt, sync::Arc};

use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{B256, Bytes, U256};
use preconf_chain::Header;
use preconf_chassis::Chain as Causes;
use preconf_devnet::client::{ClientConfig, ExecutionClient, PayloadContext};
use preconf_engine::payload::{to_payload, versioned_hashes};
use preconf_evm::execute_block;
use preconf_state::Overlay;

use super::{
    Rules, Tally,
    kind::Kind,
    oracle::{Claim, Oracle, Tip},
    world::{Rewards, World},
};
use crate::{
    choices::Choices,
    feed::{Known, root_of},
};
use builder::Built;
use receiver::Receiver;

/// The most blocks on top of the canonical one.
const MAX_AHEAD: usize = 3;

/// What is done with one chain.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Its rules.
    pub rules: Rules,
    /// How many times a block is built on its newest one.
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

/// A block, as both sides came to it: where the next one can be built.
#[derive(Clone, Debug)]
struct Place {
    known: Known,
    tip: Tip,
}

/// A chain, and everybody who executes it.
struct Checked {
    world: &'static World,
    oracle: Oracle,
    client: Option<Arc<ExecutionClient>>,
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
    let world = World::of(plan.rules, choices.pick(&Rewards::ALL));
    let (checked, mut newest) = Checked::new(world, plan.with_client)?;
    let mut receiver = Receiver::new(world, newest.clone())?;
    for _ in 0..plan.blocks {
        *number = newest.known.header.number + 1;
        let built = checked.make(choices, tally, &newest, None)?;
        receiver.receive(choices, tally, &newest.known, &built)?;
        newest = built.place.clone();
        match choices.roll(16) {
            0..=3 if receiver.waiting() < MAX_AHEAD => {
                tally.ahead += 1;
                receiver.seal()?;
            }
            4 => newest = replace(choices, tally, &checked, &mut receiver)?,
            5 => {
                receiver.catch_up()?;
                newest = reorganise(choices, tally, &checked, &mut receiver)?;
            }
            _ => receiver.catch_up()?,
        }
    }
    receiver.catch_up()
}

/// Lets another block become canonical in place of the lowest that was promised.
fn replace(
    choices: &mut Choices<'_>,
    tally: &mut Tally,
    checked: &Checked,
    receiver: &mut Receiver,
) -> Result<Place, String> {
    let canonical = receiver.canonical().clone();
    let Some(promised) = receiver.take_promised() else { return Ok(canonical) };
    let other = checked.make(choices, tally, &canonical, Some(&promised))?;
    tally.note(if receiver.drop_waiting() { Kind::ReplacedBelow } else { Kind::Replaced });
    receiver.stand_in(&promised, other)
}

/// Lets another block take the place of the canonical one.
fn reorganise(
    choices: &mut Choices<'_>,
    tally: &mut Tally,
    checked: &Checked,
    receiver: &mut Receiver,
) -> Result<Place, String> {
    let canonical = receiver.canonical().clone();
    let Some((below, kept)) = receiver.take_newest() else { return Ok(canonical) };
    let other = checked.make(choices, tally, &below, Some(&kept))?;
    tally.note(Kind::Reorganised);
    receiver.stand_in(&kept, other)
}

impl Checked {
    /// A chain at its beginning.
    fn new(world: &'static World, with_client: bool) -> Result<(Self, Place), String> {
        let (oracle, tip) = Oracle::new(&world.json)?;
        let (known, got) = (world.genesis.clone(), tip.hash);
        if known.hash != got {
            return Err(format!("the first block is {}, and by the oracle {got}", known.hash));
        }
        let client = || ExecutionClient::new(world.spec.clone(), ClientConfig::default());
        let client = with_client.then(client);
        Ok((Self { world, oracle, client }, Place { known, tip }))
    }

    /// Makes a block and executes it in every way but the consumer's. One that stands in for
    /// another holds some of its transactions.
    fn make(
        &self,
        choices: &mut Choices<'_>,
        tally: &mut Tally,
        parent: &Place,
        instead: Option<&Built>,
    ) -> Result<Arc<Built>, String> {
        let mut built = builder::build(choices, tally, self.world, parent, instead)?;
        self.in_one_go(&parent.known, &built)?;
        built.place.tip = self.by_oracle(&parent.tip, &built)?;
        tally.doubted += built.tried.iter().filter(|tried| !tried.is_in).count() as u64;
        if let Some(client) = &self.client {
            as_payload(client, &built)?;
            tally.payloads += 1;
        }
        tally.blocks += 1;
        Ok(Arc::new(built))
    }

    fn in_one_go(&self, parent: &Known, built: &Built) -> Result<(), String> {
        let Built { block, receipts, requests, place, .. } = built;
        let overlay = Overlay::new(parent.state.clone());
        let spec = &self.world.spec;
        let outcome = execute_block(spec, &parent.header, block, Some(requests), overlay);
        let outcome = outcome.map_err(|error| said("in one go", &error))?;
        if outcome.receipts != *receipts {
            return Err("in one go, the receipts are others".to_owned());
        }
        let mut state = parent.state.as_ref().clone();
        state.apply(&outcome.diff());
        let (got, expected) = (root_of(&state), place.known.header.state_root);
        if got == expected {
            Ok(())
        } else {
            Err(format!("in one go, the state root is {got}, not {expected}"))
        }
    }

    fn by_oracle(&self, parent: &Tip, built: &Built) -> Result<Tip, String> {
        let body = &built.block.body;
        let encoded = body.transactions.iter().map(|envelope| envelope.encoded_2718().into());
        let transactions: Vec<Bytes> = encoded.collect();
        let requests: Vec<Bytes> = built.requests.iter().cloned().collect();
        let claim = Claim {
            header: &built.block.header,
            hash: built.place.known.hash,
            transactions: &transactions,
            withdrawals: body.withdrawals.as_deref().map_or(&[], |all| all.as_slice()),
            receipts: &built.receipts,
            requests: &requests,
            tried: &built.tried,
        };
        self.oracle.follow(parent, &claim).map_err(|what| format!("by the oracle, {what}"))
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

fn hash(choices: &mut Choices<'_>) -> B256 {
    B256::from(U256::from(choices.roll(u64::MAX)))
}

fn said(what: &str, error: &(dyn Error + 'static)) -> String {
    format!("{what}: {}", Causes(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::oracle::Tried;

    /// A block with something of everything that is changed below.
    fn block(rules: Rules) -> (Checked, Place, Built) {
        let (checked, mut place) = Checked::new(World::of(rules, Rewards::Paid), false).unwrap();
        let mut choices = Choices::of_seed(1);
        loop {
            let tally = &mut Tally::default();
            let built = checked.make(&mut choices, tally, &place, None).unwrap();
            let of = |is_in| built.tried.iter().any(|tried| tried.is_in == is_in);
            let has_logs = built.receipts.iter().any(|receipt| !receipt.logs.is_empty());
            let withdrawals =
                built.block.body.withdrawals.as_ref().is_some_and(|all| all.len() > 1);
            if of(true) && of(false) && has_logs && withdrawals && !built.requests.is_empty() {
                return (checked, place, Built::clone(&built));
            }
            place = built.place.clone();
        }
    }

    #[test]
    fn the_oracle_contradicts_whoever_says_something_else() {
        type Lie = fn(&mut Built);
        let lies: [Lie; 17] = [
            |built| built.receipts.last_mut().unwrap().success ^= true,
            |built| built.receipts.last_mut().unwrap().cumulative_gas_used += 1,
            |built| built.receipts.iter_mut().for_each(|receipt| receipt.logs.clear()),
            |built| drop(built.receipts.pop()),
            |built| drop(built.block.body.transactions.pop()),
            |built| built.block.body.withdrawals.as_mut().unwrap().0.truncate(1),
            |built| built.block.header.gas_used += 1,
            |built| built.block.header.logs_bloom.0[0] ^= 1,
            |built| built.block.header.base_fee_per_gas = Some(7),
            |built| built.block.header.blob_gas_used = Some(1),
            |built| *built.block.header.excess_blob_gas.as_mut().unwrap() += 1,
            |built| built.block.header.state_root.0[31] ^= 1,
            |built| built.block.header.requests_hash = None,
            |built| built.block.header.timestamp += 1,
            |built| built.place.known.hash.0[0] ^= 1,
            |built| built.requests.push_request_with_type(9, [1]),
            |built| built.block.header.prev_proposer_pubkey = Some([1; 48].into()),
        ];
        for rules in [Rules::Ethereum, Rules::Berachain] {
            let (checked, parent, built) = block(rules);
            assert!(checked.by_oracle(&parent.tip, &built).is_ok());
            for (at, lie) in lies.iter().enumerate() {
                let mut lying = built.clone();
                lie(&mut lying);
                assert!(checked.by_oracle(&parent.tip, &lying).is_err(), "{rules:?}, lie {at}");
            }
            for at in 0..built.tried.len() {
                let mut lying = built.clone();
                let Tried { is_in, .. } = &mut lying.tried[at];
                *is_in ^= true;
                assert!(checked.by_oracle(&parent.tip, &lying).is_err(), "{rules:?}, tried {at}");
            }
        }
    }
}
