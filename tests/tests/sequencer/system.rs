//! Builder, signer and execution client in this process, over real sockets.

use std::{net::SocketAddr, os::unix::fs::PermissionsExt, pin::Pin, sync::Arc, time::Duration};

use alloy_consensus::{EthereumTxEnvelope, SignableTransaction, TxEip1559, TxEip4844};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{Address, B256, TxKind, U256};
use alloy_rpc_types_engine::{
    ExecutionPayloadEnvelopeV4, ForkchoiceState, PayloadAttributes, PayloadId, PayloadStatus,
};
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use clap::Parser;
use futures_util::{Stream, StreamExt};
use preconf_builder as builder;
use preconf_chain::{ChainSpec, Transaction, system_contracts};
use preconf_chassis::{Context, Endpoint, Security, channel};
use preconf_devnet::client::{ClientConfig, ExecutionClient, Running, serve};
use preconf_engine::{EngineClient, JwtSecret};
use preconf_primitives::{Arrival, Flashblock, Progress, Succession};
use preconf_signing::{Checked, PublicKey, Verifier};
use preconf_wire::{
    feed::{FeedClient, FeedItem, Received},
    ingress::{IngressClient, IngressError},
};
use tempfile::TempDir;
use tokio::time::timeout;

/// Longer than anything here takes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
const CHAIN_ID: u64 = 1337;
const BLS_KEY: &str = "144b27828e305a2d67fc7f4eea6de706b405cdd1ab8ad2daec046ccdeeec8b79";
const BLS_PUBLIC_KEY: &str = "0x95a254501b7733239ed3cec4d56737977bd09ede881d8a234560e83e5525017add3b1dcc3eabfb85e12a4131b19c253b";
const LOOPBACK: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// A sequencer with everything it needs, and a reader that checks what it publishes.
pub(crate) struct System {
    pub(crate) client: Arc<ExecutionClient>,
    pub(crate) engine: EngineClient,
    pub(crate) ingress: IngressClient,
    feed: Pin<Box<dyn Stream<Item = Received> + Send>>,
    verifier: Verifier,
    progress: Progress,
    preconfirmed: usize,
    contexts: Vec<Context>,
    running: Running,
    _directory: TempDir,
}

impl System {
    pub(crate) async fn start() -> Self {
        Self::start_with(true).await
    }

    pub(crate) async fn start_without_signer() -> Self {
        Self::start_with(false).await
    }

    async fn start_with(with_signer: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let write = |name: &str, text: &str| {
            std::fs::write(path(name), text).unwrap();
            let owner_only = std::fs::Permissions::from_mode(0o600);
            std::fs::set_permissions(path(name), owner_only).unwrap();
        };
        write("genesis.json", &genesis());
        write("jwt.hex", &"ab".repeat(32));
        write("key.hex", BLS_KEY);
        let spec = Arc::new(ChainSpec::from_genesis_json(&genesis()).unwrap());
        let jwt = Arc::new(JwtSecret::from_bytes([0xab; 32]));
        let client = ExecutionClient::new(spec, ClientConfig::default());
        let running = serve(client.clone(), LOOPBACK, jwt.clone(), LOOPBACK).await.unwrap();

        let mut contexts = Vec::new();
        let socket = |name: &str| format!("unix:{}", path(name));
        if with_signer {
            let config = preconf_signer::Config::parse_from([
                "signer",
                "--listen",
                &socket("signer.sock"),
                "--flashblock-signing-key",
                &path("key.hex"),
                "--chain-id",
                &CHAIN_ID.to_string(),
            ]);
            let context = Context::for_test();
            preconf_signer::serve(config.prepare().unwrap(), context.clone()).await.unwrap();
            contexts.push(context);
        }
        let engine_addr = free_address();
        let config = builder::Config::parse_from([
            "builder",
            "--engine-addr",
            &engine_addr.to_string(),
            "--engine-jwt-secret",
            &path("jwt.hex"),
            "--execution-engine-url",
            &format!("http://{}", running.engine_addr),
            "--execution-url",
            &format!("http://{}", running.rpc_addr),
            "--genesis",
            &path("genesis.json"),
            "--signer",
            &socket("signer.sock"),
            "--feed-listen",
            &socket("feed.sock"),
            "--ingress-listen",
            &socket("ingress.sock"),
            "--seal-budget-ms",
            "5000",
        ]);
        let context = Context::for_test();
        let prepared = builder::Prepared::read(&config).unwrap();
        builder::serve(prepared, context.clone()).await.unwrap();
        timeout(DEADLINE, context.health.until_ready()).await.unwrap();
        contexts.push(context);

        let security = Security::default();
        let connect = |name: &str| {
            let endpoint: Endpoint = socket(name).parse().unwrap();
            channel(&endpoint, &security).unwrap()
        };
        let feed = FeedClient::new(connect("feed.sock")).subscribe(None).await.unwrap();
        let key: PublicKey = BLS_PUBLIC_KEY.parse().unwrap();
        let engine_url = format!("http://{engine_addr}").parse().unwrap();
        Self {
            client,
            engine: EngineClient::new(&engine_url, jwt).unwrap(),
            ingress: IngressClient::new(connect("ingress.sock"), DEADLINE),
            feed: Box::pin(feed),
            verifier: Verifier::new(CHAIN_ID, vec![key]),
            progress: Progress::new(),
            preconfirmed: 0,
            contexts,
            running,
            _directory: directory,
        }
    }

    pub(crate) fn head(&self) -> B256 {
        self.client.head().header().hash_slow()
    }

    /// Asks for a block on the head.
    pub(crate) async fn build(&self, attributes: PayloadAttributes) -> Option<PayloadId> {
        let state = forkchoice(self.head());
        let answer =
            self.engine.fork_choice_updated_v3(state, Some(&attributes), DEADLINE).await.unwrap();
        assert!(answer.is_valid());
        answer.payload_id
    }

    /// Makes a block the head, without asking for another one.
    pub(crate) async fn advance(&self, head: B256) {
        let answer = self.engine.fork_choice_updated_v3(forkchoice(head), None, DEADLINE);
        assert!(answer.await.unwrap().is_valid());
    }

    pub(crate) async fn payload(&self, id: PayloadId) -> ExecutionPayloadEnvelopeV4 {
        self.engine.get_payload_v4(id, DEADLINE).await.unwrap()
    }

    pub(crate) async fn new_payload(&self, envelope: &ExecutionPayloadEnvelopeV4) -> PayloadStatus {
        let payload = &envelope.envelope_inner.execution_payload;
        let requests: Vec<_> = envelope.execution_requests.iter().cloned().collect();
        let root = B256::ZERO;
        self.engine.new_payload_v4(payload, &[], root, &requests, DEADLINE).await.unwrap()
    }

    pub(crate) async fn submit(&self, transaction: &Transaction) -> Result<B256, IngressError> {
        self.ingress.submit(transaction.encoded().clone()).await
    }

    /// The next item of the feed, verified; flashblocks must follow each other.
    pub(crate) async fn item(&mut self) -> FeedItem {
        let item = timeout(DEADLINE, self.feed.next()).await.unwrap().unwrap().unwrap();
        match &item {
            FeedItem::Flashblock(signed) => {
                let verified = self.verifier.flashblock(signed.clone(), Checked::Both).unwrap();
                let arrival = Arrival::of(verified.flashblock(), verified.digest());
                let succession = self.progress.succession(&arrival);
                let follows = matches!(
                    succession,
                    Succession::Next | Succession::NewSession | Succession::Rewind
                );
                assert!(follows, "{}: {succession:?}", arrival.position);
                self.progress.accept(&arrival);
                self.preconfirmed += signed.flashblock.transactions().len();
            }
            FeedItem::Sealed(signed) => {
                self.verifier.sealed(signed.clone()).unwrap();
            }
            FeedItem::Abandoned(signed) => {
                self.verifier.abandoned(signed.clone()).unwrap();
            }
            FeedItem::Retracted(signed) => {
                self.verifier.retracted(signed.clone()).unwrap();
            }
            FeedItem::Gap { .. } | FeedItem::Goodbye { .. } => panic!("unexpected {item:?}"),
        }
        item
    }

    /// The next flashblock; whatever is said between is checked and passed over.
    pub(crate) async fn flashblock(&mut self) -> Flashblock {
        loop {
            if let FeedItem::Flashblock(signed) = self.item().await {
                return signed.flashblock;
            }
        }
    }

    /// Reads on until this many more transactions are preconfirmed.
    pub(crate) async fn until_preconfirmed(&mut self, more: usize) {
        let wanted = self.preconfirmed + more;
        while self.preconfirmed < wanted {
            self.flashblock().await;
        }
    }

    pub(crate) fn transfer(&self, account: u8, nonce: u64) -> Transaction {
        self.transfer_on(CHAIN_ID, account, nonce)
    }

    pub(crate) fn transfer_on(&self, chain_id: u64, account: u8, nonce: u64) -> Transaction {
        let gwei = 1_000_000_000;
        let transaction = TxEip1559 {
            chain_id,
            nonce,
            gas_limit: 21_000,
            max_fee_per_gas: 20 * gwei,
            max_priority_fee_per_gas: gwei,
            to: TxKind::Call(Address::repeat_byte(0xaa)),
            value: U256::from(1),
            ..TxEip1559::default()
        };
        let signature = wallet(account).sign_hash_sync(&transaction.signature_hash()).unwrap();
        let envelope = EthereumTxEnvelope::<TxEip4844>::from(transaction.into_signed(signature));
        Transaction::decode(envelope.encoded_2718().into()).unwrap()
    }

    /// Stops everything, and fails if something did not stop in order.
    pub(crate) async fn stop(self) {
        drop(self.feed);
        for context in self.contexts.iter().rev() {
            context.finish(DEADLINE).await.map_err(|exit| exit.to_string()).unwrap();
        }
        self.running.stop().await;
    }
}

pub(crate) fn attributes(timestamp: u64) -> PayloadAttributes {
    PayloadAttributes {
        timestamp,
        prev_randao: B256::repeat_byte(timestamp as u8),
        suggested_fee_recipient: Address::repeat_byte(0xfe),
        withdrawals: Some(vec![]),
        parent_beacon_block_root: Some(B256::ZERO),
        slot_number: None,
        target_gas_limit: None,
    }
}

fn forkchoice(head: B256) -> ForkchoiceState {
    ForkchoiceState {
        head_block_hash: head,
        safe_block_hash: B256::ZERO,
        finalized_block_hash: B256::ZERO,
    }
}

fn wallet(account: u8) -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&B256::repeat_byte(account + 1)).unwrap()
}

fn free_address() -> SocketAddr {
    std::net::TcpListener::bind(LOOPBACK).unwrap().local_addr().unwrap()
}

/// Prague from the start, and one account with money.
fn genesis() -> String {
    let mut alloc =
        vec![format!(r#""{}":{{"balance":"0x56bc75e2d63100000"}}"#, wallet(0).address())];
    for (address, code) in system_contracts() {
        alloc.push(format!(r#""{address}":{{"balance":"0x0","nonce":"0x1","code":"{code}"}}"#));
    }
    let zero = B256::ZERO;
    format!(
        r#"{{"config":{{"chainId":{CHAIN_ID},"homesteadBlock":0,"eip150Block":0,"eip155Block":0,
        "eip158Block":0,"byzantiumBlock":0,"constantinopleBlock":0,"petersburgBlock":0,
        "istanbulBlock":0,"berlinBlock":0,"londonBlock":0,"terminalTotalDifficulty":0,
        "terminalTotalDifficultyPassed":true,"shanghaiTime":0,"cancunTime":0,"pragueTime":0,
        "blobSchedule":{{"cancun":{{"target":3,"max":6,"baseFeeUpdateFraction":3338477}},
        "prague":{{"target":6,"max":9,"baseFeeUpdateFraction":5007716}}}}}},
        "nonce":"0x0","timestamp":"0x0","extraData":"0x","gasLimit":"0x1c9c380","difficulty":"0x0",
        "mixHash":"{zero}","coinbase":"0x0000000000000000000000000000000000000000",
        "alloc":{{{}}}}}"#,
        alloc.join(",")
    )
}
