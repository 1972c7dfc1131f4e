//! Services may be started in any order: who misses a peer waits for it, and says so.

use std::time::Duration;

use preconf_devnet::{
    Console,
    children::{ChildError, Children},
    clients::Clients,
    consensus::{self, Consensus, Doors},
    keys::{Directory, Keys},
    services::{BuilderSeat, CommandLines, Sockets},
};
use preconf_engine::EngineClient;
use preconf_tests::cluster::{DEADLINE, Turn, assert_builders, options};
use tokio::time::timeout;

#[tokio::test(flavor = "multi_thread")]
async fn services_that_start_before_their_peers_wait_for_them() {
    let turn = Turn::take().await;
    let options = options(&[]);
    let directory = Directory::new(false).unwrap();
    let keys = Keys::create(&directory, options.chain, 1, 2, 1_800_000_000).unwrap();
    let sockets = Sockets::new(&directory).unwrap();
    let clients = Clients::start(&options, &keys).await.unwrap();
    let seats = BuilderSeat::all(&options, &directory, &sockets).unwrap();
    let lines = CommandLines {
        options: &options,
        binaries: &turn.binaries,
        keys: &keys,
        sockets: &sockets,
        ways: &sockets,
        clients: &clients,
    };
    let mut children = Children::new(&directory.file("logs"));

    for service in [lines.overlay(), lines.consumer(&lines.sockets.gateway), lines.gateway()] {
        let service = service.unwrap();
        let lonely = service.name;
        children.start(service, &["health"]).await.unwrap();
        let ready = children.until_ready(&[lonely], Duration::ZERO, Console::Silent).await;
        let Err(ChildError::NotReady { name, .. }) = ready else { panic!("{lonely}: {ready:?}") };
        assert_eq!(name, lonely);
    }
    let builder = children.start(lines.builder(&seats[0]).unwrap(), &["engine"]).await.unwrap();
    children.start(lines.signer().unwrap(), &["health"]).await.unwrap();
    let first = ["signer", "builder", "gateway"];
    children.until_ready(&first, DEADLINE, Console::Silent).await.unwrap();

    let engine = builder["engine"].parse().unwrap();
    let doors = Doors {
        sequencer: EngineClient::new(&engine, keys.builder_secret.jwt.clone()).unwrap(),
        validators: clients.validators.engine().unwrap(),
        rpc_node: clients.rpc_node.engine().unwrap(),
        ways: consensus::Ways::default(),
    };
    let config = consensus::Config {
        spec: keys.spec.clone(),
        validators: keys.validators.clone(),
        slot: options.slot(),
        proposal_delay: options.proposal_delay(),
        patience: options.patience(),
        faults: consensus::Faults::default(),
    };
    let (consensus, mut blocks) = Consensus::start(config, doors).await.unwrap();
    let then = ["consumer", "rpc-overlay"];
    children.until_ready(&then, DEADLINE, Console::Silent).await.unwrap();
    for number in 1..=2 {
        let block = timeout(DEADLINE, blocks.recv()).await.unwrap().unwrap();
        assert_eq!(block.number, number);
        assert_builders(&block);
    }

    consensus.stop().await;
    children.stop().await.unwrap();
    clients.stop().await;
}
