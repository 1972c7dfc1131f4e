//! The simulated consensus on three execution clients: whose block is proposed, and what it does
//! without a builder, or with a bad or silent one.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use alloy_primitives::B256;
use alloy_rpc_types_engine::{ExecutionPayloadEnvelopeV4, ForkchoiceUpdated, PayloadId};
use clap::Parser;
use preconf_chain::ProposerPublicKey;
use preconf_devnet::{
    Options,
    clients::{Clients, Node},
    consensus::{
        Blocks, CanonicalBlock, Config, Consensus, Doors, Faults, RoundFault, Source, Ways,
    },
    keys::{Directory, Keys},
};
use preconf_engine::{
    EngineClient, EngineHooks, EngineProxy, ProxyConfig,
    payload::{BesidePayload, PayloadError, from_payload, requests_hash},
    proxy::{ForkchoiceCall, HookFuture, PayloadVersion},
};
use serde_json::value::{RawValue, to_raw_value};
use tokio::{net::TcpListener, time::timeout};

const DEADLINE: Duration = Duration::from_secs(30);

struct Network {
    _directory: Directory,
    keys: Keys,
    clients: Clients,
}

impl Network {
    async fn start() -> Self {
        Self::start_on("ethereum").await
    }

    async fn start_on(chain: &str) -> Self {
        let options = Options::parse_from(["devnet", "--base-port", "0", "--chain", chain]);
        let directory = Directory::new(false).unwrap();
        let keys = Keys::create(&directory, options.chain, 1, 3, 1_800_000_000).unwrap();
        let clients = Clients::start(&options, &keys).await.unwrap();
        Self { _directory: directory, keys, clients }
    }

    /// A chain whose sequencer is behind this door.
    async fn chain(&self, sequencer: EngineClient) -> (Consensus, Blocks) {
        self.chain_with(sequencer, Faults::default()).await
    }

    /// One in which something goes wrong.
    async fn chain_with(&self, sequencer: EngineClient, faults: Faults) -> (Consensus, Blocks) {
        let config = Config {
            spec: self.keys.spec.clone(),
            validators: self.keys.validators.clone(),
            slot: Duration::from_millis(300),
            proposal_delay: Duration::from_millis(50),
            patience: Duration::from_millis(200),
            faults,
        };
        let doors = Doors {
            sequencer,
            validators: self.clients.validators.engine().unwrap(),
            rpc_node: self.clients.rpc_node.engine().unwrap(),
            ways: Ways::default(),
        };
        Consensus::start(config, doors).await.unwrap()
    }
}

async fn next(blocks: &mut Blocks) -> Arc<CanonicalBlock> {
    timeout(DEADLINE, blocks.recv()).await.unwrap().unwrap()
}

fn reason(block: &CanonicalBlock) -> &str {
    match &block.source {
        Source::Fallback(reason) => reason,
        Source::Builder => panic!("block {} is the builder's", block.number),
    }
}

#[tokio::test]
async fn proposers_take_turns_and_everybody_has_the_same_chain_of_ethereum() {
    everybody_has_the_same_chain("ethereum").await;
}

#[tokio::test]
async fn proposers_take_turns_and_everybody_has_the_same_chain_of_berachain() {
    everybody_has_the_same_chain("berachain").await;
}

async fn everybody_has_the_same_chain(chain: &str) {
    let network = Network::start_on(chain).await;
    // Nobody proposed the genesis.
    let mut parents_proposer = ProposerPublicKey::ZERO;
    let door = network.clients.sequencer.engine().unwrap();
    let (consensus, mut blocks) = network.chain(door).await;

    let (mut window, mut slot) = (consensus.window(), 0);
    for number in 1..=4 {
        let block = next(&mut blocks).await;
        // It builds the next block: it has been told of this one.
        timeout(DEADLINE, window.wait_for(|open| *open)).await.unwrap().unwrap();

        assert_eq!((block.number, &block.source), (number, &Source::Builder));
        let clients = &network.clients;
        for node in [&clients.sequencer, &clients.validators, &clients.rpc_node] {
            let known = node.client().block_by_number(number).unwrap();
            assert_eq!(known.hash, block.hash);
            let proposer = network.keys.validators[block.proposer];
            assert_eq!(known.header().beneficiary, proposer.address);
            let withdrawals = known.block.body.withdrawals.as_ref().unwrap();
            if chain == "ethereum" {
                assert_eq!(known.header().prev_proposer_pubkey, None);
                let paid = (withdrawals[0].index, withdrawals[0].address);
                assert_eq!(paid, (number - 1, proposer.address));
            } else {
                assert_eq!(known.header().prev_proposer_pubkey, Some(parents_proposer));
                let minted = (withdrawals[0].index, withdrawals[0].amount);
                assert_eq!(minted, (u64::MAX, 0x65a0_3c40));
            }
        }
        assert!(block.transactions.is_empty(), "nobody sent any");
        parents_proposer = network.keys.validators[block.proposer].public_key;
        assert!(block.slot > slot, "one block each");
        slot = block.slot;
        assert_eq!(block.proposer as u32, slot % 3);
        assert_eq!(*consensus.head().borrow(), number);
    }
    consensus.stop().await;
}

#[tokio::test]
async fn without_a_builder_the_validators_build_and_the_chain_goes_on() {
    let network = Network::start().await;
    // A port where nobody listens: bound, and closed again.
    let (nobody, free) = network.closed_door().await;
    drop(free);
    let (consensus, mut blocks) = network.chain(nobody).await;

    for number in 1..=2 {
        let block = next(&mut blocks).await;

        assert_eq!(block.number, number);
        assert_eq!(reason(&block), "no block is being built");
        assert!(!*consensus.window().borrow());
    }
    consensus.stop().await;
}

/// A builder that hands out the client's block, changed.
struct BadBuilder {
    engine: EngineClient,
    change: fn(&mut ExecutionPayloadEnvelopeV4),
}

impl EngineHooks for BadBuilder {
    fn forkchoice_updated<'a>(
        &'a self,
        _call: &'a ForkchoiceCall,
        answer: &'a ForkchoiceUpdated,
    ) -> HookFuture<'a, Option<PayloadId>> {
        Box::pin(async { answer.payload_id })
    }

    fn get_payload(
        &self,
        _version: PayloadVersion,
        id: PayloadId,
    ) -> HookFuture<'_, Option<Box<RawValue>>> {
        Box::pin(async move {
            let mut envelope = self.engine.get_payload_v4(id, DEADLINE).await.unwrap();
            (self.change)(&mut envelope);
            Some(to_raw_value(&envelope).unwrap())
        })
    }

    fn forkchoice_unseen(&self, _head: Option<B256>) {}
}

impl Network {
    /// A door for the consensus client, and where whoever opens it listens.
    async fn closed_door(&self) -> (EngineClient, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let door = EngineClient::new(&url, self.keys.builder_secret.jwt.clone()).unwrap();
        (door, listener)
    }

    fn open(&self, listener: TcpListener, change: fn(&mut ExecutionPayloadEnvelopeV4)) {
        let engine = self.clients.sequencer.engine().unwrap();
        let secret = self.keys.builder_secret.jwt.clone();
        let hooks = Arc::new(BadBuilder { engine: engine.clone(), change });
        let proxy = EngineProxy::new(engine, secret, hooks, ProxyConfig::default());
        tokio::spawn(async move { axum::serve(listener, proxy.router()).await });
    }

    async fn bad_builder(&self, change: fn(&mut ExecutionPayloadEnvelopeV4)) -> EngineClient {
        let (door, listener) = self.closed_door().await;
        self.open(listener, change);
        door
    }
}

#[tokio::test]
async fn a_builder_that_never_answers_stalls_nobody_and_may_come_back() {
    let network = Network::start().await;
    // Connections are accepted by the system, and nobody reads them.
    let (door, listener) = network.closed_door().await;
    let (consensus, mut blocks) = network.chain(door).await;

    // Far less than the deadline of a single call.
    let three = timeout(Duration::from_secs(8), async {
        [next(&mut blocks).await, next(&mut blocks).await, next(&mut blocks).await]
    });
    for block in three.await.unwrap() {
        assert_eq!(reason(&block), "the builder has not answered what it was told");
    }
    assert!(!*consensus.window().borrow());

    network.open(listener, |_| {});
    let comes_back = async { while next(&mut blocks).await.source != Source::Builder {} };
    timeout(DEADLINE, comes_back).await.unwrap();
    let known = |node: &Node| node.client().block_by_number(1).map(|block| block.hash);
    assert_eq!(known(&network.clients.sequencer), known(&network.clients.rpc_node));
    consensus.stop().await;
}

/// Whether each forkchoice update was answered VALID, and whether it asked for a block.
#[derive(Default)]
struct Listener(Mutex<Vec<(bool, bool)>>);

impl EngineHooks for Listener {
    fn forkchoice_updated<'a>(
        &'a self,
        call: &'a ForkchoiceCall,
        answer: &'a ForkchoiceUpdated,
    ) -> HookFuture<'a, Option<PayloadId>> {
        self.0.lock().unwrap().push((answer.is_valid(), call.attributes.is_some()));
        Box::pin(async { None })
    }

    fn get_payload(
        &self,
        _version: PayloadVersion,
        _id: PayloadId,
    ) -> HookFuture<'_, Option<Box<RawValue>>> {
        Box::pin(async { None })
    }

    fn forkchoice_unseen(&self, _head: Option<B256>) {}
}

#[tokio::test]
async fn a_sequencer_that_hears_of_blocks_in_another_order_catches_up() {
    let network = Network::start().await;
    let (door, listener) = network.closed_door().await;
    let heard = Arc::new(Listener::default());
    let engine = network.clients.sequencer.engine().unwrap();
    let secret = network.keys.builder_secret.jwt.clone();
    let proxy = EngineProxy::new(engine, secret, heard.clone(), ProxyConfig::default());
    tokio::spawn(async move { axum::serve(listener, proxy.router()).await });
    let faults = Faults::default();
    faults.order(3, RoundFault::LatePayload(Duration::from_millis(20)));
    faults.order(5, RoundFault::SkippedProposal(Duration::from_millis(20)));
    let (consensus, mut blocks) = network.chain_with(door, faults).await;

    for number in 1..=5 {
        assert_eq!(next(&mut blocks).await.number, number);
    }
    let comes_back = async { while next(&mut blocks).await.source != Source::Builder {} };
    timeout(DEADLINE, comes_back).await.unwrap();
    let known = |node: &Node| node.client().block_by_number(5).map(|block| block.hash);
    assert_eq!(known(&network.clients.sequencer), known(&network.clients.rpc_node));
    let heard = heard.0.lock().unwrap().clone();
    // Syncing, then caught up; and the head of a final block before what is built upon it.
    for expected in [[(false, true), (true, true)], [(true, false), (true, true)]] {
        assert!(heard.windows(2).any(|two| two == expected), "{heard:?}");
    }
    consensus.stop().await;
}

#[tokio::test]
async fn the_rounds_of_a_validator_are_lost_from_its_being_stopped_to_its_being_started() {
    let network = Network::start().await;
    let faults = Faults::default();
    faults.stop(1);
    let sequencer = network.clients.sequencer.engine().unwrap();
    let (consensus, mut blocks) = network.chain_with(sequencer, faults.clone()).await;

    let mut lost = 0;
    for number in 1..=4 {
        let block = next(&mut blocks).await;
        assert_eq!((block.number, block.proposer == 1), (number, false));
        lost += block.lost_rounds;
    }
    assert!(lost >= 1);
    faults.start(1);
    let comes_back = async { while next(&mut blocks).await.proposer != 1 {} };
    timeout(DEADLINE, comes_back).await.unwrap();
    consensus.stop().await;
}

/// A state root that is wrong, in a block that hashes to what it says.
fn wrong_root(envelope: &mut ExecutionPayloadEnvelopeV4) {
    let requests: Vec<_> = envelope.execution_requests.iter().cloned().collect();
    let payload = &mut envelope.envelope_inner.execution_payload;
    let timestamp = payload.payload_inner.payload_inner.timestamp;
    payload.payload_inner.payload_inner.state_root = B256::repeat_byte(1);
    let number = payload.payload_inner.payload_inner.block_number;
    let root = [b"beacon block".as_slice(), &number.to_be_bytes()].concat();
    let beside = BesidePayload {
        parent_beacon_block_root: Some(alloy_primitives::keccak256(root)),
        requests_hash: Some(requests_hash(&requests).unwrap()),
        prev_proposer_pubkey: None,
    };
    match from_payload(payload.clone(), &beside) {
        Err(PayloadError::BlockHash { got, .. }) => {
            payload.payload_inner.payload_inner.block_hash = got;
        }
        other => panic!("at {timestamp}: {other:?}"),
    }
}

#[tokio::test]
async fn a_block_that_is_not_valid_is_not_proposed() {
    let network = Network::start().await;
    let door = network.bad_builder(wrong_root).await;
    let (consensus, mut blocks) = network.chain(door).await;

    for number in 1..=2 {
        let block = next(&mut blocks).await;

        assert_eq!(block.number, number);
        let reason = reason(&block);
        assert!(reason.starts_with("the block is not valid: "), "{reason}");
        assert!(reason.contains("state root"), "{reason}");
    }
    consensus.stop().await;
}

#[tokio::test]
async fn a_block_that_does_not_hash_to_what_it_says_is_not_proposed() {
    let network = Network::start().await;
    let door = network
        .bad_builder(|envelope| {
            let payload = &mut envelope.envelope_inner.execution_payload.payload_inner;
            payload.payload_inner.fee_recipient.0[0] ^= 1;
        })
        .await;
    let (consensus, mut blocks) = network.chain(door).await;

    let block = next(&mut blocks).await;

    let reason = reason(&block);
    assert!(reason.starts_with("the payload is not a block: block hash mismatch"), "{reason}");
    consensus.stop().await;
}

#[tokio::test]
async fn without_its_validators_the_chain_ends_and_says_why() {
    let network = Network::start().await;
    let door = network.clients.sequencer.engine().unwrap();
    let (mut consensus, mut blocks) = network.chain(door).await;
    next(&mut blocks).await;
    let Clients { validators, sequencer: _sequencer, rpc_node: _rpc_node } = network.clients;

    drop(validators);
    let error = timeout(DEADLINE, consensus.failed()).await.unwrap();

    assert_eq!(error.to_string(), "the validators' own block is not acceptable");
    assert!(!*consensus.window().borrow());
    timeout(DEADLINE, consensus.stop()).await.unwrap();
}
