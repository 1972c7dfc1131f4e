//! What a consumer does with a feed, on one thread and without a network: verify, decode, hand to
//! the machine, read the state that it names, fold its updates into snapshots.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use alloy_primitives::B256;
use preconf_chain::{ChainSpec, Receipt};
use preconf_pending::{
    Audit, CanonicalHead, Effect, HeadReport, Limits, Machine, Need, Received, Reception, Refusal,
    StatementReception, Step,
    snapshot::{BadUpdate, PendingBlock, Snapshot, SnapshotStore},
};
use preconf_primitives::{Abandoned, Position, Retraction, Sealed};
use preconf_signing::{
    Checked, PublicKey, Refusal as BadSignature, SignedFlashblock, SignedStatement, Verified,
    Verifier,
};
use preconf_state::{Account, Key, MemoryState, NeedState, StateCache, StateReader, Value};

use super::Known;

/// The most steps that one message may take. More are a machine that goes in circles.
const MAX_STEPS: u32 = 100_000;
/// The capacity of the consumer's cache: small, so that it drops what it knows now and then.
const CACHE: usize = 16_384;

/// A consumer in this process.
#[derive(Debug)]
pub struct Consumer {
    machine: Machine,
    verifier: Verifier,
    store: SnapshotStore,
    snapshot: Option<Snapshot>,
    /// The state after each canonical block whose state may still be asked for.
    states: BTreeMap<(u64, B256), Arc<MemoryState>>,
    /// What may be asked for, and what came of it.
    replacement: Option<Replacement>,
    /// What readers were told is not kept.
    retracted: Vec<Retraction>,
    now: Instant,
}

/// The content of a canonical block, and how promises turned out when it was looked at.
#[derive(Debug)]
struct Replacement {
    hash: B256,
    content: Vec<(B256, Receipt)>,
    audit: Option<Audit>,
}

/// What a sequencer says.
#[derive(Clone, Debug)]
pub enum Message {
    /// A flashblock.
    Flashblock(Box<SignedFlashblock>),
    /// A session became a block.
    Sealed(SignedStatement<Sealed>),
    /// A session became none.
    Abandoned(SignedStatement<Abandoned>),
}

/// What a sequencer said, verified and decoded.
#[derive(Clone, Debug)]
pub enum Heard {
    /// A flashblock.
    Flashblock(Received),
    /// A session became a block.
    Sealed(Verified<SignedStatement<Sealed>>),
    /// A session became none.
    Abandoned(Verified<SignedStatement<Abandoned>>),
}

/// What should not happen to a feed of valid messages.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// A signature was not accepted.
    #[error("the signature does not verify")]
    Signature(#[source] BadSignature),
    /// A message was not accepted.
    #[error("a {message} was taken as {reception}")]
    Reception {
        /// What it was.
        message: &'static str,
        /// What the machine took it for.
        reception: &'static str,
    },
    /// A session goes no further.
    #[error("the session is refused at {position}")]
    Refused {
        /// The first flashblock that was not executed.
        position: Position,
        /// Why.
        #[source]
        refusal: Refusal,
    },
    /// The machine asks for what the feed has brought.
    #[error("a replay from {0} is asked for")]
    Replay(Position),
    /// An update is none.
    #[error("an update does not follow from those before it")]
    Update(#[source] BadUpdate),
    /// The machine asks for state that nobody has.
    #[error("state that nobody has is asked for: {0:?}")]
    Nobody(Key),
    /// The machine does not come to an end.
    #[error("the machine goes in circles")]
    Circles,
    /// Readers are not shown the block.
    #[error("block {0} is not shown")]
    NotShown(u64),
    /// What readers are shown is not the whole block.
    #[error("block {0} is shown without its end")]
    NotWhole(u64),
}

impl Consumer {
    /// A consumer that trusts one key and has been told the canonical head.
    ///
    /// # Errors
    /// If the machine does something odd with the head.
    pub fn new(spec: &Arc<ChainSpec>, key: PublicKey, head: &Known) -> Result<Self, Trouble> {
        let limits = Limits { cache: CACHE, ..Limits::default() };
        let mut consumer = Self {
            machine: Machine::new(spec.clone(), limits),
            verifier: Verifier::new(spec.chain_id(), vec![key]),
            store: SnapshotStore::new(),
            snapshot: None,
            states: BTreeMap::new(),
            replacement: None,
            retracted: Vec::new(),
            now: Instant::now(),
        };
        consumer.head(head)?;
        Ok(consumer)
    }

    /// The block that its pending chain builds upon.
    pub fn canonical(&self) -> Option<B256> {
        self.machine.canonical().map(|head| head.hash)
    }

    /// Verifies and decodes a message.
    ///
    /// # Errors
    /// If its signature is not the sequencer's.
    pub fn hear(&self, message: Message) -> Result<Heard, Trouble> {
        let verifier = &self.verifier;
        let heard = match message {
            Message::Flashblock(signed) => verifier
                .flashblock(*signed, Checked::Seal)
                .map(|verified| Heard::Flashblock(Received::decode(verified))),
            Message::Sealed(signed) => verifier.sealed(signed).map(Heard::Sealed),
            Message::Abandoned(signed) => verifier.abandoned(signed).map(Heard::Abandoned),
        };
        heard.map_err(Trouble::Signature)
    }

    /// Takes a message and does all the work that it brings.
    ///
    /// # Errors
    /// If it is not accepted, or what follows from it cannot be done.
    pub fn take(&mut self, heard: Heard) -> Result<(), Trouble> {
        self.accept(heard)?;
        self.settle()
    }

    /// Takes a message and does only so many steps of the work that it brings; whatever comes next
    /// finds the rest undone. Says whether there is no rest.
    ///
    /// # Errors
    /// If it is not accepted, or what follows from it cannot be done.
    pub fn take_partly(&mut self, heard: Heard, steps: u64) -> Result<bool, Trouble> {
        self.accept(heard)?;
        for _ in 0..steps {
            if self.step()? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn accept(&mut self, heard: Heard) -> Result<(), Trouble> {
        // A machine that is out of step asks for replays; later is when it would ask again.
        self.now += Duration::from_millis(200);
        let (message, reception) = match heard {
            Heard::Flashblock(received) => {
                let reception = self.machine.flashblock(received, self.now);
                let accepted = matches!(reception, Reception::Accepted);
                ("flashblock", (!accepted).then(|| reception.as_str()))
            }
            Heard::Sealed(sealed) => ("seal", not_accepted(&self.machine.sealed(sealed, self.now))),
            Heard::Abandoned(abandoned) => {
                ("abandon", not_accepted(&self.machine.abandoned(abandoned, self.now)))
            }
        };
        match reception {
            Some(reception) => Err(Trouble::Reception { message, reception }),
            None => Ok(()),
        }
    }

    /// Takes the head of the canonical chain, and says what the machine makes of it.
    ///
    /// # Errors
    /// If what follows from it cannot be done.
    pub fn head(&mut self, head: &Known) -> Result<HeadReport, Trouble> {
        let Known { hash, header, state } = head;
        self.states.insert((header.number, *hash), state.clone());
        let lowest = header.number.saturating_sub(1);
        self.states.retain(|(number, _), _| *number >= lowest);
        let report = self.machine.head(CanonicalHead { hash: *hash, header: header.clone() });
        self.settle()?;
        Ok(report)
    }

    /// Takes the head of the canonical chain, whose content can be had if the machine asks for it.
    /// Says also how promises turned out, if it did ask.
    ///
    /// # Errors
    /// If what follows from it cannot be done.
    pub fn head_with(
        &mut self,
        head: &Known,
        content: Vec<(B256, Receipt)>,
    ) -> Result<(HeadReport, Option<Audit>), Trouble> {
        self.replacement = Some(Replacement { hash: head.hash, content, audit: None });
        let report = self.head(head)?;
        Ok((report, self.replacement.take().and_then(|replacement| replacement.audit)))
    }

    /// What readers were told is not kept, since this was asked last.
    pub fn take_retracted(&mut self) -> Vec<Retraction> {
        std::mem::take(&mut self.retracted)
    }

    /// A pending block as readers are shown it, executed to its end.
    ///
    /// # Errors
    /// If they are not.
    pub fn whole(&self, number: u64) -> Result<&PendingBlock, Trouble> {
        let block = self.snapshot.as_ref().and_then(|snapshot| snapshot.block(number));
        let block = block.ok_or(Trouble::NotShown(number))?;
        if block.reference.closing.is_none() {
            return Err(Trouble::NotWhole(number));
        }
        Ok(block)
    }

    fn settle(&mut self) -> Result<(), Trouble> {
        for _ in 0..MAX_STEPS {
            if self.step()? {
                return Ok(());
            }
        }
        Err(Trouble::Circles)
    }

    /// Does one step of the work. Says whether that was all.
    fn step(&mut self) -> Result<bool, Trouble> {
        self.carry_out()?;
        match self.machine.work() {
            Step::Idle => {
                self.carry_out()?;
                return Ok(true);
            }
            Step::Opened(_) | Step::Executed(_) | Step::Closed(_) => (),
            Step::Waiting => {
                let Some(Need { id, cache, keys, .. }) = self.machine.need().cloned() else {
                    return Err(Trouble::Circles);
                };
                self.fill(&cache, &keys)?;
                self.machine.state_arrived(id);
            }
            Step::Refused { position, refusal } => {
                return Err(Trouble::Refused { position, refusal });
            }
        }
        Ok(false)
    }

    fn carry_out(&mut self) -> Result<(), Trouble> {
        while let Some(effect) = self.machine.poll_effect() {
            match effect {
                Effect::Publish(update) => {
                    let snapshot = self.store.apply(&update).map_err(Trouble::Update)?;
                    self.snapshot = Some(snapshot);
                    self.retracted.extend(&update.retracted);
                }
                Effect::RequestReplay(position) => return Err(Trouble::Replay(position)),
                Effect::FetchCanonical(hash) => self.look_into(hash),
            }
        }
        Ok(())
    }

    /// Shows the machine a canonical block that is not ours, if somebody has brought it.
    fn look_into(&mut self, hash: B256) {
        match &mut self.replacement {
            Some(replacement) if replacement.hash == hash => {
                let audit = self.machine.content(hash, Some(&replacement.content));
                replacement.audit = audit;
            }
            Some(_) | None => drop(self.machine.content(hash, None)),
        }
    }

    /// Reads keys into a cache. An account brings its code, as it does from an execution client.
    fn fill(&self, cache: &StateCache, keys: &[Key]) -> Result<(), Trouble> {
        let Some(state) = self.states.get(&cache.block()) else {
            return Err(keys.first().map_or(Trouble::Circles, |key| Trouble::Nobody(*key)));
        };
        let nobody = |NeedState(key)| Trouble::Nobody(key);
        for key in keys {
            let value = match *key {
                Key::Account(address) => state.account(address).map(Value::Account),
                Key::Slot(address, slot) => state.slot(address, slot).map(Value::Slot),
                Key::Code(hash) => state.code(hash).map(Value::Code),
                Key::BlockHash(number) => state.block_hash(number).map(Value::BlockHash),
            };
            let value = value.map_err(nobody)?;
            if let Value::Account(Some(Account { code_hash, .. })) = &value {
                let code = state.code(*code_hash).map_err(nobody)?;
                cache.insert(Key::Code(*code_hash), Value::Code(code));
            }
            cache.insert(*key, value);
        }
        Ok(())
    }
}

fn not_accepted(reception: &StatementReception) -> Option<&'static str> {
    (!matches!(reception, StatementReception::Accepted)).then(|| reception.as_str())
}
