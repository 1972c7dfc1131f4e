//! A validator: its execution client, its sidecar, and what its consensus client does. And what a
//! sequencer would build for it.

use std::{
    fs::{self, Permissions},
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    sync::Arc,
    time::{Duration, Instant},
};

use alloy_primitives::{Address, B256, Bytes};
use alloy_rpc_types_engine::{
    ExecutionPayloadEnvelopeV4, ForkchoiceState, PayloadAttributes, PayloadStatusEnum,
};
use clap::Parser;
use preconf_assembly::Unproved;
use preconf_chain::{ChainSpec, ProposerPublicKey, system_contracts};
use preconf_chassis::Context;
use preconf_devnet::client::{ClientConfig, ExecutionClient, Running, serve};
use preconf_engine::{BerachainAttributes, EngineClient, JwtSecret, payload::versioned_hashes};
use preconf_payload_api::{ForkVersion, PayloadResponse};
use preconf_validator_sidecar::Config;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

pub(crate) const CHAIN_ID: u64 = 1_337;
/// Longer than anything takes, even on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(60);
/// The key of the proposer before.
pub(crate) const KEY: ProposerPublicKey = ProposerPublicKey::repeat_byte(0x95);
/// What the sequencers know the validator by.
pub(crate) const SECRET: &str =
    "0xabababababababababababababababababababababababababababababababab";
const GENESIS_TIME: u64 = 100;
const SEQUENCERS: &[u8] = b"sequencer";

/// An execution client behind its Engine API.
pub(crate) struct Client {
    pub(crate) client: Arc<ExecutionClient>,
    pub(crate) engine: EngineClient,
    running: Running,
}

impl Client {
    async fn start(spec: Arc<ChainSpec>, extra_data: &'static [u8]) -> Self {
        let extra_data = Bytes::from_static(extra_data);
        let config = ClientConfig { extra_data, ..ClientConfig::default() };
        let client = ExecutionClient::new(spec, config);
        let secret = Arc::new(JwtSecret::from_bytes([7; 32]));
        let any = "127.0.0.1:0".parse().unwrap();
        let running = serve(client.clone(), any, secret.clone(), any).await.unwrap();
        let url = format!("http://{}", running.engine_addr).parse().unwrap();
        Self { client, engine: EngineClient::new(&url, secret).unwrap(), running }
    }
}

pub(crate) struct World {
    directory: TempDir,
    own: Client,
    sequencer: Client,
    is_berachain: bool,
    /// Where the sidecar finds the validator's execution client.
    pub(crate) engine_addr: SocketAddr,
    pub(crate) attributes: PayloadAttributes,
}

/// A sidecar that runs.
pub(crate) struct Proxied {
    pub(crate) context: Context,
    pub(crate) door: EngineClient,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::of(false).await
    }

    pub(crate) async fn on_berachain() -> Self {
        Self::of(true).await
    }

    async fn of(is_berachain: bool) -> Self {
        let spec = genesis(is_berachain).to_string();
        let spec = Arc::new(ChainSpec::from_genesis_json(&spec).unwrap());
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in [("jwt.hex", "07".repeat(32)), ("sequencer.hex", SECRET.to_owned())] {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        }
        let attributes = PayloadAttributes {
            timestamp: GENESIS_TIME + 2,
            prev_randao: B256::repeat_byte(0x22),
            suggested_fee_recipient: Address::repeat_byte(0xfe),
            withdrawals: Some(Vec::new()),
            parent_beacon_block_root: Some(B256::repeat_byte(0x33)),
            ..PayloadAttributes::default()
        };
        let own = Client::start(spec.clone(), b"own").await;
        Self {
            directory,
            engine_addr: own.running.engine_addr,
            own,
            sequencer: Client::start(spec, SEQUENCERS).await,
            is_berachain,
            attributes,
        }
    }

    /// The validator's execution client itself.
    pub(crate) fn own(&self) -> &EngineClient {
        &self.own.engine
    }

    /// Writes a file, and says where it is.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.directory.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// Gives the sequencer a transaction.
    pub(crate) fn send(&self, encoded: &Bytes) {
        let sent = Unproved::decode(encoded).unwrap().prove().unwrap();
        self.sequencer.client.submit(sent).unwrap();
    }

    /// What the sequencer builds with these attributes.
    pub(crate) async fn built(&self, attributes: &PayloadAttributes) -> PayloadResponse {
        self.built_after(attributes, KEY).await
    }

    pub(crate) async fn built_after(
        &self,
        attributes: &PayloadAttributes,
        key: ProposerPublicKey,
    ) -> PayloadResponse {
        let engine = &self.sequencer.engine;
        let key = self.is_berachain.then_some(key);
        let envelope = build(engine, self.head(), attributes, key, SOON).await;
        let ExecutionPayloadEnvelopeV4 { envelope_inner, execution_requests } = envelope;
        let is_berachain = self.is_berachain;
        PayloadResponse {
            fork_version: if is_berachain { ForkVersion::ELECTRA1 } else { ForkVersion::ELECTRA },
            execution_payload: envelope_inner.execution_payload,
            blobs_bundle: envelope_inner.blobs_bundle.into(),
            block_value: envelope_inner.block_value,
            execution_requests: execution_requests.iter().cloned().collect(),
        }
    }

    pub(crate) fn head(&self) -> B256 {
        self.own.client.head().hash
    }

    /// Starts a sidecar that asks these sequencers.
    pub(crate) async fn sidecar(&self, urls: &[String], flags: &[&str]) -> Proxied {
        let named = self.flags(urls);
        let (pairs, _) = named.as_chunks::<2>();
        // What a test says counts instead.
        let others = pairs.iter().filter(|[name, _]| !flags.contains(&name.as_str()));
        let flags = others.flatten().map(String::as_str).chain(flags.iter().copied());
        let config = Config::parse_from(["validator-sidecar"].into_iter().chain(flags));
        let context = Context::for_test();
        let started = preconf_validator_sidecar::start(config.prepare().unwrap(), context.clone());
        let address = started.await.map_err(|exit| exit.to_string()).unwrap();
        Proxied { context, door: door(address) }
    }

    /// What a sidecar of this validator is started with.
    pub(crate) fn flags(&self, urls: &[String]) -> Vec<String> {
        let path = |name: &str| self.directory.path().join(name).display().to_string();
        let url = format!("http://{}", self.engine_addr);
        let (jwt, secret, urls) = (path("jwt.hex"), path("sequencer.hex"), urls.join(","));
        let named = [
            ["--engine-addr", "127.0.0.1:0"],
            ["--engine-jwt-secret", &jwt],
            ["--execution-engine-url", &url],
            ["--sequencer-url", &urls],
            ["--sequencer-jwt-secret", &secret],
            ["--slot-rule", "number"],
            ["--health-addr", "127.0.0.1:0"],
        ];
        named.as_flattened().iter().map(ToString::to_string).collect()
    }

    /// One slot of the consensus client. Whether the block was the sequencer's; the validator's own
    /// execution client calls it VALID in any case.
    pub(crate) async fn propose(&self, sidecar: &Proxied) -> bool {
        self.propose_by(&sidecar.door).await
    }

    /// The same, through this door.
    pub(crate) async fn propose_by(&self, door: &EngineClient) -> bool {
        self.propose_within(door, SOON / 2).await
    }

    /// The same, and the consensus client has waited for the payload for less than this.
    pub(crate) async fn propose_within(&self, door: &EngineClient, within: Duration) -> bool {
        let key = self.is_berachain.then_some(KEY);
        let envelope = build(door, self.head(), &self.attributes, key, within).await;
        let payload = &envelope.envelope_inner.execution_payload;
        let requests: Vec<Bytes> = envelope.execution_requests.iter().cloned().collect();
        let root = self.attributes.parent_beacon_block_root.unwrap();
        let hashes: Vec<B256> = envelope.envelope_inner.blobs_bundle.versioned_hashes();
        let (engine, hashes) = (&self.own.engine, &hashes[..]);
        let status = match key {
            Some(key) => {
                engine.new_payload_v4_p11(payload, hashes, root, &requests, &key, SOON).await
            }
            None => engine.new_payload_v4(payload, hashes, root, &requests, SOON).await,
        };
        assert_eq!(status.unwrap().status, PayloadStatusEnum::Valid);
        *payload.payload_inner.payload_inner.extra_data == *SEQUENCERS
    }
}

impl Proxied {
    /// What was counted or measured.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let (text, name) = (self.context.registry.encode(), format!("preconf_test_{name} "));
        let line = text.lines().find_map(|line| line.strip_prefix(&name));
        line.map_or(0.0, |number| number.parse().unwrap())
    }

    pub(crate) async fn stop(self) {
        self.context.finish(SOON).await.map_err(|exit| exit.to_string()).unwrap();
    }
}

/// A sidecar, as its consensus client sees it.
pub(crate) fn door(address: SocketAddr) -> EngineClient {
    let url = format!("http://{address}").parse().unwrap();
    EngineClient::new(&url, Arc::new(JwtSecret::from_bytes([7; 32]))).unwrap()
}

/// Has a payload built and asks for it, and has it within this time.
async fn build(
    engine: &EngineClient,
    head: B256,
    attributes: &PayloadAttributes,
    key: Option<ProposerPublicKey>,
    within: Duration,
) -> ExecutionPayloadEnvelopeV4 {
    let state = ForkchoiceState { head_block_hash: head, ..ForkchoiceState::default() };
    let (envelope, took) = match key {
        Some(parent_proposer_pubkey) => {
            let attributes =
                BerachainAttributes { attributes: attributes.clone(), parent_proposer_pubkey };
            let updated = engine.fork_choice_updated_v3_p11(state, Some(&attributes), SOON);
            let id = updated.await.unwrap().payload_id.unwrap();
            let asked = Instant::now();
            (engine.get_payload_v4_p11(id, SOON).await, asked.elapsed())
        }
        None => {
            let updated = engine.fork_choice_updated_v3(state, Some(attributes), SOON);
            let id = updated.await.unwrap().payload_id.unwrap();
            let asked = Instant::now();
            (engine.get_payload_v4(id, SOON).await, asked.elapsed())
        }
    };
    assert!(took < within, "it took {took:?}, not {within:?}");
    envelope.unwrap()
}

/// The same block with another header, hashed anew.
pub(crate) fn forged(
    response: &PayloadResponse,
    beside: &preconf_engine::payload::BesidePayload,
    change: impl FnOnce(&mut preconf_chain::Header),
) -> PayloadResponse {
    let payload = response.execution_payload.clone();
    let mut block = preconf_engine::payload::from_payload(payload, beside).unwrap();
    assert!(versioned_hashes(&block).is_empty());
    change(&mut block.header);
    let execution_payload = preconf_engine::payload::to_payload(&block);
    PayloadResponse { execution_payload, ..response.clone() }
}

fn genesis(is_berachain: bool) -> Value {
    let mut alloc = Map::new();
    for (address, code) in system_contracts() {
        let contract = json!({ "balance": "0x0", "nonce": "0x1", "code": code });
        alloc.insert(address.to_string(), contract);
    }
    let wallet = crate::choices::wallet().address().to_string();
    alloc.insert(wallet, json!({ "balance": "0xd3c21bcecceda1000000" }));
    let blobs = json!({ "target": 6, "max": 9, "baseFeeUpdateFraction": 5_007_716 });
    let mut genesis = json!({
        "config": {
            "chainId": CHAIN_ID, "homesteadBlock": 0, "eip150Block": 0, "eip155Block": 0,
            "eip158Block": 0, "byzantiumBlock": 0, "constantinopleBlock": 0,
            "petersburgBlock": 0, "istanbulBlock": 0, "berlinBlock": 0, "londonBlock": 0,
            "terminalTotalDifficulty": 0, "terminalTotalDifficultyPassed": true,
            "shanghaiTime": 0, "cancunTime": 0, "pragueTime": 0,
            "blobSchedule": { "cancun": blobs, "prague": blobs },
        },
        "gasLimit": "0x1c9c380", "timestamp": format!("{GENESIS_TIME:#x}"), "difficulty": "0x0",
        "nonce": "0x0", "alloc": alloc,
    });
    if is_berachain {
        genesis["config"]["berachain"] = json!({
            "prague1": {
                "time": 0, "baseFeeChangeDenominator": 48, "minimumBaseFeeWei": 1_000_000_000,
                "polDistributorAddress": "0x4200000000000000000000000000000000000042",
            },
            "prague2": { "time": 0, "minimumBaseFeeWei": 0 },
        });
    }
    genesis
}
