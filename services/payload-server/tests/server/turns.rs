//! Whose turn it is, as a consensus client says and as a CometBFT node says.

use std::{
    net::SocketAddr,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, Uri},
    routing::get,
};
use parking_lot::Mutex;
use preconf_chassis::{Context, Security, channel};
use preconf_payload_api::ValidatorPubkey;
use preconf_wire::payload::{Proposer, ProposersClient};
use tokio::{net::TcpListener, sync::watch};

use crate::{
    builder::Builder,
    world::{Answer, KEYS, NOW, REQUEST, SLOT, SOON, World, directory, prepare_with, start, until},
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
async fn whoever_asks_too_early_waits_for_his_turn_to_be_announced_and_not_for_long() {
    let world = World::new().await;
    let next = REQUEST.replace("0x64", "0x65");
    let began = Instant::now();
    assert_eq!(world.ask(1, &next).await.status, 403);
    let waited = began.elapsed();
    assert!(waited >= Duration::from_millis(200) && waited < SOON / 2, "{waited:?}");

    // Whoever announces it is connected before: the time is for the announcement alone.
    let client = proposers(&world);
    let announce = async |slot| {
        let pubkey = KEYS[1].parse().unwrap();
        client.set_proposer(Proposer { slot, round: 0, pubkey }).await.unwrap();
    };
    announce(SLOT + 2).await;
    let (answer, ()) = tokio::join!(world.ask(1, &next), announce(SLOT + 1));
    assert_eq!(answer.status, 200);
    world.end().await;
}

#[tokio::test]
async fn a_key_that_is_no_point_is_refused() {
    let world = World::new().await;
    let pubkey = ValidatorPubkey([0x11; 48]);
    let refused =
        proposers(&world).set_proposer(Proposer { slot: 1, round: 0, pubkey }).await.unwrap_err();
    assert_eq!(refused.message(), "pubkey: is no point of the curve");
    world.end().await;
}

/// A client of those who say whose turn it is.
fn proposers(world: &World) -> ProposersClient {
    let endpoint = world.addresses.proposers.clone().unwrap();
    ProposersClient::new(channel(&endpoint, &Security::default()).unwrap(), SOON)
}

/// A node whose consensus state is what it is told.
#[derive(Clone)]
struct Node {
    state: Arc<Mutex<Option<(u64, u32, usize)>>>,
    asked: Arc<AtomicUsize>,
    /// The questions, by number, that are not answered yet; what is answered was read before.
    held: watch::Sender<Range<usize>>,
}

impl Node {
    async fn start() -> (Self, SocketAddr) {
        let held = watch::Sender::new(0..0);
        let node = Self { state: Arc::default(), asked: Arc::default(), held };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/consensus_state", get(state));
        let router = router.route("/validators", get(validators)).with_state(node.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (node, address)
    }

    fn is_in(&self, height: u64, round: u32, proposer: usize) {
        *self.state.lock() = Some((height, round, proposer));
    }

    /// Waits until it was asked so many times more, and says how often it was then.
    async fn until_asked(&self, more: usize) -> usize {
        let asked = || self.asked.load(Ordering::SeqCst);
        let enough = asked() + more;
        until("the node is asked", || asked() >= enough).await;
        asked()
    }
}

async fn state(State(node): State<Node>) -> Result<String, StatusCode> {
    let said = *node.state.lock();
    let number = node.asked.fetch_add(1, Ordering::SeqCst);
    node.held.subscribe().wait_for(|held| !held.contains(&number)).await.unwrap();
    let (height, round, proposer) = said.ok_or(StatusCode::INTERNAL_SERVER_ERROR)?;
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

/// Two validators with the same power, one on each page: who proposes has just paid for it, so the
/// other one is next.
async fn validators(State(node): State<Node>, uri: Uri) -> Result<String, StatusCode> {
    let (_, _, proposer) = (*node.state.lock()).ok_or(StatusCode::INTERNAL_SERVER_ERROR)?;
    let query = uri.query().unwrap();
    let asked = |name: &str| query.split('&').find_map(|part| part.strip_prefix(name)).unwrap();
    let (height, page) = (asked("height="), asked("page="));
    let at = page.parse::<usize>().unwrap() - 1;
    let pubkey: ValidatorPubkey = KEYS[at].parse().unwrap();
    let address = pubkey.address().unwrap().to_string().to_ascii_uppercase();
    let priority = if at == proposer { -1 } else { 1 };
    Ok(format!(
        r#"{{"jsonrpc":"2.0","id":-1,"result":{{"block_height":"{height}","validators":[{{
        "address":"{address}","pub_key":{{"type":"cometbft/PubKeyBls12_381","value":"AA=="}},
        "voting_power":"1","proposer_priority":"{priority}"}}],"count":"1","total":"2"}}}}"#
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

    // The node, or its chain, begins the height anew.
    node.is_in(SLOT, 0, 0);
    until_answered(&world, 0, REQUEST, 200).await;
    assert_eq!(world.ask(1, REQUEST).await.status, 403);

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
    *node.state.lock() = None;
    world.until("the node is missed", || !world.context.health.is_ready()).await;
    assert_eq!(world.ask(0, REQUEST).await.status, 200);
    world.end().await;
}

#[tokio::test]
async fn a_node_that_is_busy_with_a_block_is_not_missed_and_its_late_answers_change_nothing() {
    let (node, address) = Node::start().await;
    node.is_in(SLOT, 0, 0);
    let world = following(address).await;
    world.context.health.until_ready().await;

    // A question that is not answered in time, and the one after it.
    node.held.send_replace(0..usize::MAX);
    node.until_asked(2).await;
    assert!(world.context.health.is_ready());
    assert_eq!(world.ask(0, REQUEST).await.status, 200);

    // Its round is over; questions from here on are answered, and then the old ones.
    node.is_in(SLOT, 1, 1);
    node.held.send_replace(0..node.until_asked(1).await);
    until_answered(&world, 1, REQUEST, 200).await;
    node.held.send_replace(0..0);
    node.until_asked(10).await;
    assert_eq!(world.ask(1, REQUEST).await.status, 200);
    assert_eq!(world.ask(0, REQUEST).await.status, 403);
    assert!(world.context.health.is_ready());
    world.end().await;
}

#[tokio::test]
async fn the_next_proposer_is_known_before_its_height_while_the_validators_stay_the_same() {
    let (node, address) = Node::start().await;
    node.is_in(SLOT - 1, 0, 1);
    let world = following(address).await;
    world.context.health.until_ready().await;
    // It was not right yet, so it is not believed.
    assert_eq!(world.ask(0, REQUEST).await.status, 403);

    node.is_in(SLOT, 0, 0);
    let next = REQUEST.replace("0x64", "0x65");
    until_answered(&world, 1, &next, 200).await;
    assert_eq!(world.ask(0, &next).await.status, 403);

    // The node has the last word; and what was wrong is not believed of the height after.
    node.is_in(SLOT + 1, 0, 0);
    until_answered(&world, 0, &next, 200).await;
    assert_eq!(world.ask(1, &next).await.status, 403);
    assert_eq!(world.ask(1, &REQUEST.replace("0x64", "0x66")).await.status, 403);
    world.end().await;
}
