//! Builder, signer and execution client in this process, over real sockets.

use std::{net::SocketAddr, os::unix::fs::PermissionsExt, pin::Pin, sync::Arc, time::Duration};

use alloy_consensus::{
    EthereumTxEnvelope, SignableTransaction, Transaction as _, TxEip1559, TxEip4844,
};
use alloy_eips::{
    eip2718::Encodable2718, eip7002::WITHDRAWAL_REQUEST_PREDEPLOY_ADDRESS, eip7685::Requests,
};
use alloy_primitives::{Address, B256, Bytes, TxKind, U256};
use alloy_rpc_types_engine::{
    ExecutionPayloadEnvelopeV4, ExecutionPayloadV3, ForkchoiceState, PayloadAttributes, PayloadId,
    PayloadStatus,
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
use preconf_primitives::{
    AbandonReason, Arrival, Digest, Flashblock, Position, Progress, Succession,
};
use preconf_signing::{Checked, PublicKey, Verifier};
use preconf_wire::{
    feed::{FeedClient, FeedItem, Received},
    ingress::{IngressClient, IngressError},
    signer::SignerClient,
};
use tempfile::TempDir;
use tokio::{runtime::Runtime, time::timeout};

/// Longer than anything here takes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
pub(crate) const CHAIN_ID: u64 = 1337;
const BLS_KEY: &str = "144b27828e305a2d67fc7f4eea6de706b405cdd1ab8ad2daec046ccdeeec8b79";
const BLS_PUBLIC_KEY: &str = "0x95a254501b7733239ed3cec4d56737977bd09ede881d8a234560e83e5525017add3b1dcc3eabfb85e12a4131b19c253b";
const LOOPBACK: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// How long a lease lasts here.
pub(crate) const LEASE: Duration = Duration::from_millis(1_000);

/// A sequencer with everything it needs, and a reader that checks what it publishes.
pub(crate) struct System {
    pub(crate) client: Arc<ExecutionClient>,
    /// Of the builder that the consensus client and readers talk to.
    pub(crate) engine: EngineClient,
    pub(crate) ingress: IngressClient,
    feed: Pin<Box<dyn Stream<Item = Received> + Send>>,
    verifier: Verifier,
    progress: Progress,
    preconfirmed: usize,
    signer: Option<Context>,
    builders: Vec<Builder>,
    running: Running,
    directory: TempDir,
}

/// A builder as in a process of its own: with its own runtime, so that it can be killed.
pub(crate) struct Builder {
    name: &'static str,
    engine_addr: SocketAddr,
    pub(crate) context: Context,
    runtime: Runtime,
}

impl System {
    pub(crate) async fn start() -> Self {
        Self::start_with(&genesis(false), true, &[]).await
    }

    /// One whose chain is Osaka from the start.
    pub(crate) async fn start_on_osaka() -> Self {
        Self::start_with(&genesis(true), true, &[]).await
    }

    pub(crate) async fn start_without_signer() -> Self {
        Self::start_with(&genesis(false), false, &[]).await
    }

    /// One whose builder has these flags as well.
    pub(crate) async fn start_flagged(flags: &[&str]) -> Self {
        Self::start_with(&genesis(false), true, flags).await
    }

    async fn start_with(genesis: &str, with_signer: bool, flags: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let write = |name: &str, text: &str| {
            std::fs::write(path(name), text).unwrap();
            let owner_only = std::fs::Permissions::from_mode(0o600);
            std::fs::set_permissions(path(name), owner_only).unwrap();
        };
        write("genesis.json", genesis);
        write("jwt.hex", &"ab".repeat(32));
        write("key.hex", BLS_KEY);
        let spec = Arc::new(ChainSpec::from_genesis_json(genesis).unwrap());
        let jwt = Arc::new(JwtSecret::from_bytes([0xab; 32]));
        let client = ExecutionClient::new(spec, ClientConfig::default());
        let running = serve(client.clone(), LOOPBACK, jwt.clone(), LOOPBACK).await.unwrap();

        let signer = if with_signer { Some(signer(&directory).await) } else { None };
        let key: PublicKey = BLS_PUBLIC_KEY.parse().unwrap();
        let builder = Builder::start("a", free_address(), &directory, &running, flags).await;
        timeout(DEADLINE, builder.context.health.until_ready()).await.unwrap();
        Self {
            client,
            engine: engine(&builder),
            ingress: ingress(&builder, &directory),
            feed: feed(&builder, &directory, None).await,
            verifier: Verifier::new(CHAIN_ID, vec![key]),
            progress: Progress::new(),
            preconfirmed: 0,
            signer,
            builders: vec![builder],
            running,
            directory,
        }
    }

    /// Starts a second builder, which listens to the first one. It is not ready.
    pub(crate) async fn start_standby(&mut self) -> &Builder {
        let feed = socket(&self.directory, "a-feed");
        let flags = ["--standby-feed", &feed];
        let Self { directory, running, builders, .. } = self;
        let builder = Builder::start("b", free_address(), directory, running, &flags).await;
        builders.push(builder);
        &builders[1]
    }

    /// Kills the first builder, and talks to the second one from here on.
    pub(crate) async fn fail_over(&mut self) {
        self.builders.remove(0).kill();
        self.reconnect().await;
    }

    /// Kills the builder, and starts it again where it was.
    pub(crate) async fn restart_builder(&mut self) {
        let killed = self.builders.remove(0);
        let (name, address) = (killed.name, killed.engine_addr);
        killed.kill();
        // Its threads let go of the address a moment later; a process would have done so at once.
        let freed = async {
            while std::net::TcpListener::bind(address).is_err() {
                tokio::task::yield_now().await;
            }
        };
        timeout(DEADLINE, freed).await.unwrap();
        let builder = Builder::start(name, address, &self.directory, &self.running, &[]).await;
        self.builders.insert(0, builder);
        self.reconnect().await;
    }

    async fn reconnect(&mut self) {
        let builder = &self.builders[0];
        self.engine = engine(builder);
        self.ingress = ingress(builder, &self.directory);
        let next = |last: Position| Position::new(last.seq, last.index + 1);
        let cursor = self.progress.position().map(next);
        self.feed = feed(builder, &self.directory, cursor).await;
    }

    /// The digest of the last flashblock that was seen.
    pub(crate) fn last_digest(&self) -> Option<Digest> {
        self.progress.digest()
    }

    /// How many builds have ended so, and how many in another way.
    pub(crate) fn ended(&self, end: &str) -> (u64, u64) {
        let metrics = self.builders[0].context.registry.encode();
        let mut counted = (0, 0);
        for line in metrics.lines().filter(|line| line.contains("builds_total{")) {
            let count = line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap();
            let ended_so = line.contains(&format!("end=\"{end}\""));
            *(if ended_so { &mut counted.0 } else { &mut counted.1 }) += count;
        }
        counted
    }

    /// Waits until the one build has ended so.
    pub(crate) async fn until_ended(&self, end: &str) {
        let ended = async {
            while self.ended(end) != (1, 0) {
                assert_eq!(self.ended(end).1, 0, "{}", self.builders[0].context.registry.encode());
                tokio::task::yield_now().await;
            }
        };
        timeout(DEADLINE, ended).await.unwrap();
    }

    /// Reads on until the session ends, and says why it was given up; none if it was sealed.
    pub(crate) async fn session_end(&mut self) -> Option<AbandonReason> {
        loop {
            match self.item().await {
                FeedItem::Abandoned(abandoned) => return Some(abandoned.statement.reason),
                FeedItem::Sealed(_) => return None,
                _ => {}
            }
        }
    }

    /// Stops the signer.
    pub(crate) async fn stop_signer(&mut self) {
        let signer = self.signer.take().unwrap();
        signer.finish(DEADLINE).await.map_err(|exit| exit.to_string()).unwrap();
    }

    /// Starts a signer in the place of one that was stopped, with its record.
    pub(crate) async fn start_signer(&mut self) {
        let stopped = self.signer.replace(signer(&self.directory).await);
        assert!(stopped.is_none(), "there is one signer");
    }

    /// Stops the builder, which has the time to say so.
    pub(crate) async fn stop_builder(&self) {
        let stopped = self.builders[0].context.finish(DEADLINE);
        stopped.await.map_err(|exit| exit.to_string()).unwrap();
    }

    /// Takes the lease away from the builder.
    pub(crate) async fn steal_lease(&self) {
        let endpoint: Endpoint = socket(&self.directory, "signer").parse().unwrap();
        let channel = channel(&endpoint, &Security::default()).unwrap();
        SignerClient::new(channel, DEADLINE).acquire_lease("a", LEASE).await.unwrap();
    }

    /// A contract that is created with all the gas there is, and then is not.
    pub(crate) fn burner(&self, nonce: u64, gas_limit: u64) -> Transaction {
        let transaction = TxEip1559 {
            gas_limit,
            to: TxKind::Create,
            value: U256::ZERO,
            // INVALID
            input: Bytes::from_static(&[0xfe]),
            ..unsigned(CHAIN_ID, nonce)
        };
        signed(transaction, 0)
    }

    /// A call that has the block request a withdrawal (EIP-7002).
    pub(crate) fn withdrawal_request(&self, nonce: u64) -> Transaction {
        let transaction = TxEip1559 {
            gas_limit: 500_000,
            to: TxKind::Call(WITHDRAWAL_REQUEST_PREDEPLOY_ADDRESS),
            // A validator's key, and how much.
            input: Bytes::from_static(&[0x11; 56]),
            ..unsigned(CHAIN_ID, nonce)
        };
        signed(transaction, 0)
    }

    pub(crate) fn head(&self) -> B256 {
        self.client.head().header().hash_slow()
    }

    /// Asks for a block on the head.
    pub(crate) async fn build(&self, attributes: PayloadAttributes) -> Option<PayloadId> {
        self.build_on(self.head(), attributes).await
    }

    /// Makes a block the head, and asks for one on it.
    pub(crate) async fn build_on(
        &self,
        head: B256,
        attributes: PayloadAttributes,
    ) -> Option<PayloadId> {
        let state = forkchoice(head);
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
        self.validate(payload, &envelope.execution_requests).await
    }

    pub(crate) async fn validate(
        &self,
        payload: &ExecutionPayloadV3,
        requests: &Requests,
    ) -> PayloadStatus {
        let encoded = &payload.payload_inner.payload_inner.transactions;
        let sent = encoded.iter().map(|encoded| Transaction::decode(encoded.clone()).unwrap());
        let blobs: Vec<B256> = sent
            .flat_map(|sent| sent.envelope().blob_versioned_hashes().unwrap_or_default().to_vec())
            .collect();
        let requests: Vec<_> = requests.iter().cloned().collect();
        let root = B256::ZERO;
        self.engine.new_payload_v4(payload, &blobs, root, &requests, DEADLINE).await.unwrap()
    }

    /// Hands in a transaction, again as long as the builder asks for that: one that has just been
    /// started does not know the head yet.
    pub(crate) async fn submit(&self, transaction: &Transaction) -> Result<B256, IngressError> {
        let until = tokio::time::Instant::now() + DEADLINE;
        loop {
            match self.ingress.submit(transaction.encoded().clone()).await {
                Err(IngressError::Refused(refusal))
                    if refusal.detail.ends_with("send it again")
                        && tokio::time::Instant::now() < until =>
                {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                answer => return answer,
            }
        }
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
        signed(unsigned(chain_id, nonce), account)
    }

    /// Stops everything, and fails if something did not stop in order.
    pub(crate) async fn stop(self) {
        drop(self.feed);
        for builder in self.builders {
            builder.context.finish(DEADLINE).await.map_err(|exit| exit.to_string()).unwrap();
            builder.kill();
        }
        if let Some(signer) = self.signer {
            signer.finish(DEADLINE).await.map_err(|exit| exit.to_string()).unwrap();
        }
        self.running.stop().await;
    }
}

impl Builder {
    async fn start(
        name: &'static str,
        engine_addr: SocketAddr,
        directory: &TempDir,
        running: &Running,
        more: &[&str],
    ) -> Self {
        let path = |name: &str| directory.path().join(name).display().to_string();
        let engine_url = format!("http://{}", running.engine_addr);
        let rpc_url = format!("http://{}", running.rpc_addr);
        let [feed, ingress] =
            ["feed", "ingress"].map(|door| socket(directory, &format!("{name}-{door}")));
        let lease = LEASE.as_millis().to_string();
        let flags = [
            ["--engine-addr", &engine_addr.to_string()],
            ["--engine-jwt-secret", &path("jwt.hex")],
            ["--execution-engine-url", &engine_url],
            ["--execution-url", &rpc_url],
            ["--execution-ws-url", &rpc_url.replace("http", "ws")],
            ["--genesis", &path("genesis.json")],
            ["--signer", &socket(directory, "signer")],
            ["--feed-listen", &feed],
            ["--ingress-listen", &ingress],
            ["--seal-budget-ms", "5000"],
            ["--lease-holder", name],
            ["--journal", &path(&format!("{name}.journal"))],
        ];
        let lease = if more.contains(&"--lease-ms") { vec![] } else { vec!["--lease-ms", &lease] };
        let flags = flags.iter().flatten().chain(&lease).chain(more);
        let config = builder::Config::parse_from(std::iter::once(&"builder").chain(flags));
        let runtime = Runtime::new().unwrap();
        let context = Context::for_test();
        let serving = context.clone();
        let started = runtime.spawn(async move {
            builder::serve(builder::Prepared::read(&config).unwrap(), serving).await
        });
        started.await.unwrap().map_err(|exit| exit.to_string()).unwrap();
        Self { name, engine_addr, context, runtime }
    }

    /// Ends it where it stands.
    fn kill(self) {
        self.runtime.shutdown_background();
    }
}

/// Starts a signer that goes on where its record ends.
async fn signer(directory: &TempDir) -> Context {
    let path = |name: &str| directory.path().join(name).display().to_string();
    let config = preconf_signer::Config::parse_from([
        "signer",
        "--listen",
        &socket(directory, "signer"),
        "--flashblock-signing-key",
        &path("key.hex"),
        "--chain-id",
        &CHAIN_ID.to_string(),
        "--record",
        &path("signer.record"),
    ]);
    let context = Context::for_test();
    preconf_signer::serve(config.prepare().unwrap(), context.clone()).await.unwrap();
    context
}

fn socket(directory: &TempDir, name: &str) -> String {
    format!("unix:{}", directory.path().join(format!("{name}.sock")).display())
}

fn door(directory: &TempDir, builder: &Builder, name: &str) -> Endpoint {
    socket(directory, &format!("{}-{name}", builder.name)).parse().unwrap()
}

fn engine(builder: &Builder) -> EngineClient {
    let url = format!("http://{}", builder.engine_addr).parse().unwrap();
    EngineClient::new(&url, Arc::new(JwtSecret::from_bytes([0xab; 32]))).unwrap()
}

fn ingress(builder: &Builder, directory: &TempDir) -> IngressClient {
    let endpoint = door(directory, builder, "ingress");
    IngressClient::new(channel(&endpoint, &Security::default()).unwrap(), DEADLINE)
}

async fn feed(
    builder: &Builder,
    directory: &TempDir,
    cursor: Option<Position>,
) -> Pin<Box<dyn Stream<Item = Received> + Send>> {
    let endpoint = door(directory, builder, "feed");
    let mut client = FeedClient::new(channel(&endpoint, &Security::default()).unwrap());
    Box::pin(client.subscribe(cursor).await.unwrap())
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

fn unsigned(chain_id: u64, nonce: u64) -> TxEip1559 {
    let gwei = 1_000_000_000;
    TxEip1559 {
        chain_id,
        nonce,
        gas_limit: 21_000,
        max_fee_per_gas: 20 * gwei,
        max_priority_fee_per_gas: gwei,
        to: TxKind::Call(Address::repeat_byte(0xaa)),
        value: U256::from(1),
        ..TxEip1559::default()
    }
}

fn signed(transaction: TxEip1559, account: u8) -> Transaction {
    let signature = wallet(account).sign_hash_sync(&transaction.signature_hash()).unwrap();
    let envelope = EthereumTxEnvelope::<TxEip4844>::from(transaction.into_signed(signature));
    Transaction::decode(envelope.encoded_2718().into()).unwrap()
}

pub(crate) fn forkchoice(head: B256) -> ForkchoiceState {
    ForkchoiceState {
        head_block_hash: head,
        safe_block_hash: B256::ZERO,
        finalized_block_hash: B256::ZERO,
    }
}

pub(crate) fn wallet(account: u8) -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&B256::repeat_byte(account + 1)).unwrap()
}

fn free_address() -> SocketAddr {
    std::net::TcpListener::bind(LOOPBACK).unwrap().local_addr().unwrap()
}

/// Prague or Osaka from the start, and one account with money.
fn genesis(osaka: bool) -> String {
    let blobs = r#"{"target":6,"max":9,"baseFeeUpdateFraction":5007716}"#;
    let (osaka_time, osaka_blobs) = match osaka {
        true => (r#","osakaTime":0"#, format!(r#","osaka":{blobs}"#)),
        false => ("", String::new()),
    };
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
        "terminalTotalDifficultyPassed":true,"shanghaiTime":0,"cancunTime":0,"pragueTime":0{osaka_time},
        "blobSchedule":{{"cancun":{{"target":3,"max":6,"baseFeeUpdateFraction":3338477}},
        "prague":{blobs}{osaka_blobs}}}}},
        "nonce":"0x0","timestamp":"0x0","extraData":"0x","gasLimit":"0x1c9c380","difficulty":"0x0",
        "mixHash":"{zero}","coinbase":"0x0000000000000000000000000000000000000000",
        "alloc":{{{}}}}}"#,
        alloc.join(",")
    )
}
