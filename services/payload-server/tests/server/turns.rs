//! Whose turn it is, as a consensus client says and as a CometBFT node says.

use std::{net::SocketAddr, sync::Arc};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use parking_lot::Mutex;
use preconf_chassis::{Context, Security, channel};
use preconf_payload_api::ValidatorPubkey;
use preconf_wire::payload::{Proposer, ProposersClient};
use tokio::net::TcpListener;

use crate::{
    builder::Builder,
    world::{Answer, KEYS, NOW, REQUEST, SLOT, SOON, World, directory, prepare_with, start},
};

#[tokio::test]
async fn a_later_round_of_a_slot_has_its_own_proposer() {
    let world = World::new().await;
    assert_eq!(world.ask(0, REQUEST).await.status, 200);

    world.propose(SLOT, 2, 1).await;

    assert_eq!(world.ask(1, REQUEST).await.status, 200);
    assert_eq!(world.ask(0, REQUEST).await.status, 403);
    // A word that comes late.
    world.propose(SLOT, 1, 0).await;
    assert_eq!(world.ask(1, REQUEST).await.status, 200);
    world.end().await;
}

#[tokio::test]
async fn a_round_change_of_one_slot_leaves_the_next_one_alone() {
    let world = World::new().await;
    world.propose(SLOT + 1, 0, 0).await;
    // The block is proposed again: nobody processes it a second time.
    world.propose(SLOT, 1, 1).await;
    assert_eq!(world.ask(0, &REQUEST.replace("0x64", "0x65")).await.status, 200);
    world.end().await;
}

#[tokio::test]
async fn a_key_that_is_no_point_is_refused() {
    let world = World::new().await;
    let endpoint = world.addresses.proposers.clone().unwrap();
    let client = ProposersClient::new(channel(&endpoint, &Security::default()).unwrap(), SOON);
    let pubkey = ValidatorPubkey([0x11; 48]);
    let refused = client.set_proposer(Proposer { slot: 1, round: 0, pubkey }).await.unwrap_err();
    assert_eq!(refused.message(), "pubkey: is no point of the curve");
    world.end().await;
}

/// A node whose consensus state is what it is told.
#[derive(Clone)]
struct Node(Arc<Mutex<Option<(u64, u32, usize)>>>);

impl Node {
    async fn start() -> (Self, SocketAddr) {
        let node = Self(Arc::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/consensus_state", get(state)).with_state(node.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (node, address)
    }

    fn is_in(&self, height: u64, round: u32, proposer: usize) {
        *self.0.lock() = Some((height, round, proposer));
    }
}

async fn state(State(node): State<Node>) -> Result<String, StatusCode> {
    let (height, round, proposer) = node.0.lock().ok_or(StatusCode::INTERNAL_SERVER_ERROR)?;
    let pubkey: ValidatorPubkey = KEYS[proposer].parse().unwrap();
    // CometBFT writes addresses in upper case.
    let address = pubkey.address().unwrap().to_string().to_ascii_uppercase();
    Ok(format!(
        r#"{{"jsonrpc":"2.0","id":-1,"result":{{"round_state":{{
        "height/round/step":"{height}/{round}/1","start_time":"2026-04-07T11:52:38Z",
        "proposal_block_hash":"","locked_block_hash":"","valid_block_hash":"","height_vote_set":[],
        "proposer":{{"address":"{address}","index":0}}}}}}}}"#
    ))
}

/// A server that asks a node.
async fn following(node: SocketAddr) -> World {
    let directory = directory();
    let builder = Builder::start(&directory.path().join("builder.sock")).await;
    let context = Context::for_test();
    let rpc = format!("http://{node}/");
    let flags = ["--cometbft-rpc", rpc.as_str(), "--cometbft-poll-ms", "5"];
    let prepared = prepare_with(&directory, &flags).unwrap().with_clock(|| NOW);
    let addresses = start(prepared, &context).await;
    World { directory, builder, context, addresses }
}

/// Asks until it is answered so.
async fn until_answered(world: &World, validator: usize, body: &str, status: u16) -> Answer {
    let asking = async {
        loop {
            let answer = world.ask(validator, body).await;
            if answer.status == status {
                return answer;
            }
        }
    };
    tokio::time::timeout(SOON, asking).await.expect("it is answered so in time")
}

#[tokio::test]
async fn what_a_cometbft_node_says_counts_from_the_start_and_through_rounds() {
    let (node, address) = Node::start().await;
    node.is_in(SLOT, 0, 0);
    let world = following(address).await;
    world.context.health.until_ready().await;
    assert_eq!(world.ask(0, REQUEST).await.status, 200);

    node.is_in(SLOT, 1, 1);
    until_answered(&world, 1, REQUEST, 200).await;
    assert_eq!(world.ask(0, REQUEST).await.status, 403);

    // Heights that the server never heard of.
    node.is_in(SLOT + 900, 0, 0);
    until_answered(&world, 0, &REQUEST.replace("0x64", "0x3e8"), 200).await;
    world.end().await;
}

#[tokio::test]
async fn a_node_that_does_not_answer_is_waited_for() {
    let (node, address) = Node::start().await;
    let world = following(address).await;
    assert_eq!(world.ask(0, REQUEST).await.status, 403);
    assert!(!world.context.health.is_ready());

    node.is_in(SLOT, 0, 0);

    world.context.health.until_ready().await;
    assert_eq!(world.ask(0, REQUEST).await.status, 200);
    // What was said stays said.
    *node.0.lock() = None;
    world.until("the node is missed", || !world.context.health.is_ready()).await;
    assert_eq!(world.ask(0, REQUEST).await.status, 200);
    world.end().await;
}
