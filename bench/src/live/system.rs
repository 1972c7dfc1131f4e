//! One sequencer with everything around it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::Arc,
    time::Duration,
};

use alloy_consensus::{EthereumTxEnvelope, SignableTransaction as _, TxEip1559, TxEip4844};
use alloy_eips::eip2718::Encodable2718 as _;
use alloy_primitives::{Address, B256, Bytes, TxKind, U256};
use alloy_rpc_types_engine::{
    ExecutionPayloadEnvelopeV4, ForkchoiceState, PayloadAttributes, PayloadId,
};
use alloy_signer::SignerSync as _;
use alloy_signer_local::PrivateKeySigner;
use clap::Parser as _;
use preconf_chain::{ChainSpec, system_contracts};
use preconf_chassis::{Context, Endpoint, Security, channel};
use preconf_devnet::client::{ClientConfig, ExecutionClient, Running, serve};
use preconf_engine::{EngineClient, JwtSecret};
use preconf_upstream::{Upstream, UpstreamConfig};
use preconf_wire::ingress::IngressClient;
use serde_json::json;
use tempfile::TempDir;

use super::wrong;
use crate::measure::Wrong;

pub(super) const CHAIN_ID: u64 = 1_337;
pub(super) const LOOPBACK: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// Longer than anything here takes.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);
/// How many accounts send.
const SENDERS: usize = 64;

/// A sequencer and whoever asks it for blocks.
pub(super) struct System {
    pub(super) client: Arc<ExecutionClient>,
    /// The builder's Engine API.
    pub(super) engine: EngineClient,
    /// The execution client's, and its RPC.
    pub(super) direct: (EngineClient, Upstream),
    pub(super) ingress: IngressClient,
    contexts: Vec<Context>,
    running: Running,
    wallets: Vec<PrivateKeySigner>,
    nonces: Vec<u64>,
    next_sender: usize,
    spec: Arc<ChainSpec>,
    jwt: Arc<JwtSecret>,
    directory: TempDir,
}

impl System {
    pub(super) async fn start() -> Result<Self, Wrong> {
        let directory = tempfile::tempdir().map_err(|error| wrong("a directory", &error))?;
        let path = |name: &str| directory.path().join(name).display().to_string();
        let wallets: Vec<_> = (1..=SENDERS).map(wallet).collect();
        let genesis = genesis(&wallets);
        for (name, text) in [
            ("genesis.json", genesis.as_str()),
            ("jwt.hex", &"ab".repeat(32)),
            // A well known key.
            ("key.hex", "144b27828e305a2d67fc7f4eea6de706b405cdd1ab8ad2daec046ccdeeec8b79"),
        ] {
            write_private(directory.path(), name, text)?;
        }
        let spec =
            ChainSpec::from_genesis_json(&genesis).map_err(|error| wrong("genesis", &error))?;
        let jwt = Arc::new(JwtSecret::from_bytes([0xab; 32]));
        let spec = Arc::new(spec);
        let client = ExecutionClient::new(spec.clone(), ClientConfig::default());
        let running = serve(client.clone(), LOOPBACK, jwt.clone(), LOOPBACK).await;
        let running = running.map_err(|error| wrong("the execution client", &error))?;

        let socket = |name: &str| format!("unix:{}", path(name));
        let contexts = vec![Context::for_test(), Context::for_test()];
        let signer = [
            ["--listen", &socket("signer.sock")],
            ["--flashblock-signing-key", &path("key.hex")],
            ["--chain-id", &CHAIN_ID.to_string()],
        ];
        let flags = std::iter::once("signer").chain(signer.into_iter().flatten());
        let prepared = preconf_signer::Config::parse_from(flags).prepare();
        let prepared = prepared.map_err(|error| wrong("the signer's flags", &error))?;
        let served = preconf_signer::serve(prepared, contexts[0].clone()).await;
        served.map_err(|exit| Wrong(format!("the signer: {exit}")))?;
        let engine_addr = free_address().map_err(|error| wrong("a port", &error))?;
        let builder = [
            ["--engine-addr", &engine_addr.to_string()],
            ["--engine-jwt-secret", &path("jwt.hex")],
            ["--execution-engine-url", &format!("http://{}", running.engine_addr)],
            ["--execution-url", &format!("http://{}", running.rpc_addr)],
            ["--genesis", &path("genesis.json")],
            ["--signer", &socket("signer.sock")],
            ["--feed-listen", &socket("feed.sock")],
            ["--ingress-listen", &socket("ingress.sock")],
            ["--payloads-listen", &socket("payloads.sock")],
            ["--slot-rule", "number"],
            ["--journal", &path("journal")],
            ["--seal-budget-ms", "2000"],
            ["--builder.gaslimit", "60000000"],
        ];
        let flags = std::iter::once("builder").chain(builder.into_iter().flatten());
        let prepared = preconf_builder::Prepared::read(&preconf_builder::Config::parse_from(flags));
        let prepared = prepared.map_err(|error| wrong("the builder's flags", &error))?;
        let served = preconf_builder::serve(prepared, contexts[1].clone()).await;
        served.map_err(|exit| Wrong(format!("the builder: {exit}")))?;
        contexts[1].health.until_ready().await;

        let engine = |address: SocketAddr| {
            let url = format!("http://{address}").parse();
            let url = url.map_err(|error| wrong("an address", &error))?;
            EngineClient::new(&url, jwt.clone()).map_err(|error| wrong("an engine", &error))
        };
        let ingress: Endpoint =
            socket("ingress.sock").parse().map_err(|error| wrong("a socket", &error))?;
        let ingress = channel(&ingress, &Security::default());
        let ingress = ingress.map_err(|error| wrong("the ingress", &error))?;
        let rpc = format!("http://{}", running.rpc_addr).parse();
        let rpc = rpc.map_err(|error| wrong("an address", &error))?;
        let rpc = Upstream::new(UpstreamConfig::new(rpc));
        Ok(Self {
            client,
            engine: engine(engine_addr)?,
            direct: (engine(running.engine_addr)?, rpc.map_err(|error| wrong("the rpc", &error))?),
            ingress: IngressClient::new(ingress, DEADLINE),
            contexts,
            running,
            nonces: vec![0; wallets.len()],
            wallets,
            next_sender: 0,
            spec,
            jwt,
            directory,
        })
    }

    /// A file or socket in the directory of the services.
    pub(super) fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    /// Writes a file there that nobody else may read.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<(), Wrong> {
        write_private(self.directory.path(), name, text)
    }

    /// An execution client of somebody else with the same genesis, and the secret of all.
    pub(super) fn another_client(&self) -> (Arc<ExecutionClient>, Arc<JwtSecret>) {
        let client = ExecutionClient::new(self.spec.clone(), ClientConfig::default());
        (client, self.jwt.clone())
    }

    /// The first sender, and the nonce that its next transaction has.
    pub(super) fn first_sender(&mut self) -> (&PrivateKeySigner, u64) {
        let nonce = self.nonces[0];
        self.nonces[0] += 1;
        (&self.wallets[0], nonce)
    }

    /// The builder's metrics, as Prometheus reads them.
    pub(super) fn metrics(&self) -> String {
        self.contexts[1].registry.encode()
    }

    /// The next transfers, of all senders in turn.
    pub(super) fn transfers(&mut self, count: usize) -> Result<Vec<Bytes>, Wrong> {
        let mut transfers = Vec::with_capacity(count);
        for _ in 0..count {
            let sender = self.next_sender;
            self.next_sender = (sender + 1) % SENDERS;
            let transfer = TxEip1559 {
                chain_id: CHAIN_ID,
                nonce: self.nonces[sender],
                gas_limit: 21_000,
                max_fee_per_gas: 100_000_000_000,
                max_priority_fee_per_gas: 1_000_000_000,
                to: TxKind::Call(Address::left_padding_from(&[0xee, sender as u8])),
                value: U256::ONE,
                ..TxEip1559::default()
            };
            self.nonces[sender] += 1;
            let signature = self.wallets[sender].sign_hash_sync(&transfer.signature_hash());
            let signature = signature.map_err(|error| wrong("signing", &error))?;
            let envelope = EthereumTxEnvelope::<TxEip4844>::from(transfer.into_signed(signature));
            transfers.push(envelope.encoded_2718().into());
        }
        Ok(transfers)
    }

    pub(super) async fn submit(&self, transaction: Bytes) -> Result<(), Wrong> {
        let taken = self.ingress.submit(transaction).await;
        taken.map(drop).map_err(|error| wrong("submitting", &error))
    }

    pub(super) fn head(&self) -> (u64, B256) {
        let head = self.client.head();
        (head.number(), head.header().hash_slow())
    }

    /// What the next block is ordered with.
    pub(super) fn attributes(&self) -> PayloadAttributes {
        let timestamp = 2 * (self.head().0 + 1);
        PayloadAttributes {
            timestamp,
            prev_randao: B256::repeat_byte(timestamp as u8),
            suggested_fee_recipient: Address::repeat_byte(0xfe),
            withdrawals: Some(Vec::new()),
            parent_beacon_block_root: Some(B256::ZERO),
            slot_number: None,
            target_gas_limit: None,
        }
    }

    /// Makes this block the head, and orders the next one if there are attributes.
    pub(super) async fn choose(
        &self,
        head: B256,
        attributes: Option<&PayloadAttributes>,
    ) -> Result<Option<PayloadId>, Wrong> {
        let zero = B256::ZERO;
        let state = ForkchoiceState {
            head_block_hash: head,
            safe_block_hash: zero,
            finalized_block_hash: zero,
        };
        let answer = self.engine.fork_choice_updated_v3(state, attributes, DEADLINE).await;
        let answer = answer.map_err(|error| wrong("forkchoiceUpdated", &error))?;
        if answer.is_valid() { Ok(answer.payload_id) } else { Err(Wrong("the head".to_owned())) }
    }

    /// The builder's block.
    pub(super) async fn payload(&self, id: PayloadId) -> Result<ExecutionPayloadEnvelopeV4, Wrong> {
        let payload = self.engine.get_payload_v4(id, DEADLINE).await;
        payload.map_err(|error| wrong("getPayload", &error))
    }

    /// Has a block checked, through the builder's door or at the client itself.
    pub(super) async fn check(
        &self,
        engine: &EngineClient,
        envelope: &ExecutionPayloadEnvelopeV4,
    ) -> Result<B256, Wrong> {
        let payload = &envelope.envelope_inner.execution_payload;
        let requests: Vec<_> = envelope.execution_requests.iter().cloned().collect();
        let status = engine.new_payload_v4(payload, &[], B256::ZERO, &requests, DEADLINE).await;
        let status = status.map_err(|error| wrong("newPayload", &error))?;
        if status.is_valid() {
            Ok(payload.payload_inner.payload_inner.block_hash)
        } else {
            Err(Wrong(format!("a block that is {status}")))
        }
    }

    pub(super) async fn stop(self) -> Result<(), Wrong> {
        for context in self.contexts.iter().rev() {
            let finished = context.finish(DEADLINE).await;
            finished.map_err(|exit| Wrong(format!("stopping: {exit}")))?;
        }
        self.running.stop().await;
        Ok(())
    }
}

fn write_private(directory: &Path, name: &str, text: &str) -> Result<(), Wrong> {
    let path = directory.join(name);
    let only_ours = std::fs::Permissions::from_mode(0o600);
    let written = std::fs::write(&path, text);
    let written = written.and_then(|()| std::fs::set_permissions(&path, only_ours));
    written.map_err(|error| wrong("a file", &error))
}

fn wallet(number: usize) -> PrivateKeySigner {
    let key = B256::left_padding_from(&(number as u64).to_be_bytes());
    PrivateKeySigner::from_bytes(&key).expect("small numbers are keys")
}

fn free_address() -> std::io::Result<SocketAddr> {
    std::net::TcpListener::bind(LOOPBACK)?.local_addr()
}

fn genesis(wallets: &[PrivateKeySigner]) -> String {
    let rich = wallets
        .iter()
        .map(|wallet| (wallet.address().to_string(), json!({ "balance": "0x56bc75e2d63100000" })));
    let contracts = system_contracts().into_iter().map(|(address, code)| {
        (address.to_string(), json!({ "balance": "0x0", "nonce": "0x1", "code": code }))
    });
    let alloc: serde_json::Map<_, _> = rich.chain(contracts).collect();
    let blobs = json!({ "target": 6, "max": 9, "baseFeeUpdateFraction": 5_007_716 });
    let zero = B256::ZERO;
    json!({
        "config": {
            "chainId": CHAIN_ID, "homesteadBlock": 0, "eip150Block": 0, "eip155Block": 0,
            "eip158Block": 0, "byzantiumBlock": 0, "constantinopleBlock": 0,
            "petersburgBlock": 0, "istanbulBlock": 0, "berlinBlock": 0, "londonBlock": 0,
            "terminalTotalDifficulty": 0, "terminalTotalDifficultyPassed": true,
            "shanghaiTime": 0, "cancunTime": 0, "pragueTime": 0,
            "blobSchedule": { "cancun": blobs, "prague": blobs },
        },
        "nonce": "0x0", "timestamp": "0x0", "extraData": "0x", "gasLimit": "0x3938700",
        "difficulty": "0x0", "mixHash": zero, "coinbase": Address::ZERO, "alloc": alloc,
    })
    .to_string()
}
