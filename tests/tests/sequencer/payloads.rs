//! What payload servers hand out: the builder's own answer, whichever of them is asked, and all of it.

use std::{
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use clap::Parser;
use preconf_chassis::{Context, Security, channel};
use preconf_payload_api::{
    ForkVersion, PAYLOAD_PATH, PayloadRequest, PayloadResponse, ValidatorPubkey, ValidatorSecret,
};
use preconf_payload_server::{Addresses, Config};
use preconf_wire::payload::{Proposer, ProposersClient};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    blobs::blob_transaction,
    system::{DEADLINE, System, attributes},
};

/// A validator, and the secret that it is known by.
const PUBKEY: &str = "0x93247f2209abcacf57b75a51dafae777f9dd38bc7053d1af526f220a7489a6d3a2753e5f3e8b1cfe39b56f43611df74a";
const SECRET: &str = "0x1234567890abcdef1234567890abcdef1234567890abcdef1234567890abcdef";
/// Slots are seconds here, from the genesis on.
const SLOT: u64 = 2;

/// A payload server that takes the validator for the proposer of [`SLOT`].
struct Server {
    context: Context,
    addresses: Addresses,
}

impl Server {
    async fn start(directory: &Path, name: &str, builder: &str) -> Self {
        let write = |file: &str, text: String| {
            let path = directory.join(format!("{name}-{file}"));
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            path.display().to_string()
        };
        let config = Config::parse_from([
            "payload-server",
            "--payload-addr",
            "127.0.0.1:0",
            "--builder-payloads",
            builder,
            "--proposers-listen",
            &socket(directory, &format!("{name}-proposers")),
            "--whitelist",
            &write("whitelist.json", format!("[{PUBKEY:?}]")),
            "--validator-jwts",
            &write("jwts.json", format!("{{{PUBKEY:?}:{SECRET:?}}}")),
        ]);
        let context = Context::for_test();
        let started = preconf_payload_server::start(config.prepare().unwrap(), context.clone());
        let addresses = started.await.map_err(|exit| exit.to_string()).unwrap();
        let told = channel(addresses.proposers.as_ref().unwrap(), &Security::default()).unwrap();
        let pubkey: ValidatorPubkey = PUBKEY.parse().unwrap();
        let told = ProposersClient::new(told, DEADLINE);
        told.set_proposer(Proposer { slot: SLOT, round: 0, pubkey }).await.unwrap();
        Self { context, addresses }
    }

    /// The body of its answer, to the byte.
    async fn ask(&self, request: &PayloadRequest) -> Vec<u8> {
        let body = String::from_utf8(request.to_json()).unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let token = ValidatorSecret::parse(SECRET).unwrap().sign(now);
        let request = format!(
            "POST {PAYLOAD_PATH} HTTP/1.1\r\nHost: sequencer\r\nConnection: close\r\n\
             Authorization: Bearer {token}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let exchange = async {
            let mut stream = TcpStream::connect(self.addresses.payloads).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            String::from_utf8(answer).unwrap()
        };
        let answer = timeout(DEADLINE, exchange).await.expect("it is answered in time");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
        assert!(head.starts_with("HTTP/1.1 200 "), "{answer}");
        body.into()
    }

    async fn stop(self) {
        self.context.finish(DEADLINE).await.map_err(|exit| exit.to_string()).unwrap();
    }
}

fn socket(directory: &Path, name: &str) -> String {
    format!("unix:{}", directory.join(format!("{name}.sock")).display())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_payload_server_hands_out_all_of_what_the_builder_answers_itself() {
    let directory = tempfile::tempdir().unwrap();
    let payloads = socket(directory.path(), "payloads");
    let flags = ["--payloads-listen", &payloads, "--slot-rule", "time:0:1"];
    let mut system = System::start_flagged(&flags).await;
    let first = Server::start(directory.path(), "first", &payloads).await;
    let second = Server::start(directory.path(), "second", &payloads).await;
    let attributes = attributes(SLOT);
    let parent_block_root = attributes.parent_beacon_block_root.unwrap();
    let request = PayloadRequest { slot: SLOT, parent_block_root };
    let id = system.build(attributes).await.unwrap();
    system.ingress.submit(blob_transaction(0, 2)).await.unwrap();
    system.submit(&system.withdrawal_request(1)).await.unwrap();
    system.until_preconfirmed(2).await;

    // Whoever asks first has it sealed; nobody gets another one.
    let (served, again) = tokio::join!(first.ask(&request), second.ask(&request));
    let own = system.payload(id).await;
    let later = second.ask(&request).await;

    assert!(served == again && served == later, "not the same bytes");
    let served = PayloadResponse::decode(&served).unwrap();
    let (envelope, requests) = (own.envelope_inner, own.execution_requests.take());
    assert_eq!(served.execution_payload, envelope.execution_payload);
    assert_eq!(served.block_value, envelope.block_value);
    assert_eq!(served.execution_requests, requests);
    assert!(served.blobs_bundle == envelope.blobs_bundle.into(), "not the same blobs");
    assert_eq!(served.fork_version, ForkVersion::ELECTRA);
    // None of it is empty.
    assert_eq!((served.blobs_bundle.blobs.len(), requests.len()), (2, 1));
    assert!(!served.block_value.is_zero());
    let transactions = served.execution_payload.payload_inner.payload_inner.transactions;
    assert_eq!(transactions.len(), 2);
    first.stop().await;
    second.stop().await;
    system.stop().await;
}
