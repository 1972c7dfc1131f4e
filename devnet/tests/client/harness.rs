//! A chain with two funded senders, clients that serve it, and transactions.

use std::sync::Arc;
use std::time::Duration;

use alloy_consensus::{EthereumTxEnvelope, SignableTransaction, TxEip1559, TxEip4844};
use alloy_eips::eip2718::Encodable2718;
use alloy_eips::eip2930::AccessList;
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256, bytes};
use alloy_rpc_types_engine::{
    ExecutionPayloadEnvelopeV4, ExecutionPayloadV3, ForkchoiceState, ForkchoiceUpdated,
    PayloadAttributes, PayloadStatus,
};
use alloy_signer::SignerSync as _;
use alloy_signer_local::PrivateKeySigner;
use preconf_chain::{ChainSpec, Transaction, TxEnvelope, system_contracts};
use preconf_devnet::client::{ClientConfig, ExecutionClient, Running, serve};
use preconf_engine::{EngineClient, EngineError, JwtSecret, RpcError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

pub(crate) const CHAIN_ID: u64 = 1_337;
pub(crate) const GWEI: u128 = 1_000_000_000;
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Stores its argument in slot 0, logs with topic 42, and returns what it stored.
pub(crate) const STORE: Bytes = bytes!("6011600a5f3960115ff35f355f55602a5f5fa15f545f5260205ff3");
/// Reverts while it is created.
pub(crate) const REVERT: Bytes = bytes!("5f5ffd");

pub(crate) fn signer(seed: u8) -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&B256::repeat_byte(seed)).unwrap()
}

/// Rules through Prague from the start; the senders 1 to 3 are rich.
pub(crate) fn spec() -> Arc<ChainSpec> {
    spec_with(json!(0))
}

/// The same with another time of Prague, or without it.
pub(crate) fn spec_with(prague: Value) -> Arc<ChainSpec> {
    Arc::new(ChainSpec::from_genesis_json(&genesis(prague).to_string()).unwrap())
}

/// The genesis of those rules.
pub(crate) fn genesis(prague: Value) -> Value {
    let mut alloc = Map::new();
    for (address, code) in system_contracts() {
        alloc
            .insert(address.to_string(), json!({ "balance": "0x0", "nonce": "0x1", "code": code }));
    }
    for seed in 1..=3 {
        let rich = json!({ "balance": "0xd3c21bcecceda1000000" });
        alloc.insert(signer(seed).address().to_string(), rich);
    }
    let blobs = json!({ "target": 6, "max": 9, "baseFeeUpdateFraction": 5007716 });
    json!({
        "config": {
            "chainId": CHAIN_ID,
            "homesteadBlock": 0, "eip150Block": 0, "eip155Block": 0, "eip158Block": 0,
            "byzantiumBlock": 0, "constantinopleBlock": 0, "petersburgBlock": 0,
            "istanbulBlock": 0, "berlinBlock": 0, "londonBlock": 0, "mergeNetsplitBlock": 0,
            "terminalTotalDifficulty": "0x0", "terminalTotalDifficultyPassed": true,
            "shanghaiTime": 0, "cancunTime": 0, "pragueTime": prague,
            "blobSchedule": { "cancun": blobs, "prague": blobs },
            "depositContractAddress": "0x4242424242424242424242424242424242424242",
        },
        "gasLimit": "0x1c9c380", "timestamp": "0x64", "difficulty": "0x0", "nonce": "0x0",
        "alloc": alloc,
    })
}

/// A client and the connections to its two ports.
pub(crate) struct Node {
    pub(crate) client: Arc<ExecutionClient>,
    pub(crate) engine: EngineClient,
    /// The public port speaks JSON-RPC over HTTP too, and does not look at tokens.
    pub(crate) rpc: EngineClient,
    pub(crate) running: Running,
}

impl Node {
    pub(crate) async fn start() -> Self {
        Self::with(spec(), ClientConfig::default()).await
    }

    pub(crate) async fn with(spec: Arc<ChainSpec>, config: ClientConfig) -> Self {
        let client = ExecutionClient::new(spec, config);
        let secret = Arc::new(JwtSecret::from_bytes([7; 32]));
        let any = "127.0.0.1:0".parse().unwrap();
        let running = serve(client.clone(), any, secret.clone(), any).await.unwrap();
        let connect = |address| {
            EngineClient::new(&format!("http://{address}").parse().unwrap(), secret.clone())
        };
        let (engine, rpc) =
            (connect(running.engine_addr).unwrap(), connect(running.rpc_addr).unwrap());
        Self { client, engine, rpc, running }
    }

    pub(crate) fn genesis(&self) -> B256 {
        self.client.spec().genesis_hash()
    }

    /// A call on the public port.
    pub(crate) async fn call<R: DeserializeOwned>(
        &self,
        method: &str,
        params: impl Serialize + Sync,
    ) -> R {
        self.rpc.request(method, &params, DEADLINE).await.unwrap()
    }

    /// The error of a call on the public port.
    pub(crate) async fn refusal(&self, method: &str, params: impl Serialize + Sync) -> RpcError {
        refused(self.rpc.request::<_, Value>(method, &params, DEADLINE).await)
    }

    pub(crate) async fn send(&self, transaction: &Transaction) {
        let hash: B256 = self.call("eth_sendRawTransaction", [transaction.encoded()]).await;
        assert_eq!(hash, *transaction.hash());
    }

    pub(crate) async fn forkchoice(
        &self,
        head: B256,
        attributes: Option<&PayloadAttributes>,
    ) -> ForkchoiceUpdated {
        let state = ForkchoiceState { head_block_hash: head, ..ForkchoiceState::default() };
        self.engine.fork_choice_updated_v3(state, attributes, DEADLINE).await.unwrap()
    }

    pub(crate) async fn make_head(&self, head: B256) {
        assert!(self.forkchoice(head, None).await.is_valid());
    }

    /// Has a payload built on `parent` and fetches it.
    pub(crate) async fn payload(
        &self,
        parent: B256,
        attributes: &PayloadAttributes,
    ) -> ExecutionPayloadEnvelopeV4 {
        let answer = self.forkchoice(parent, Some(attributes)).await;
        let id = answer.payload_id.expect("attributes were given");
        self.engine.get_payload_v4(id, DEADLINE).await.unwrap()
    }

    pub(crate) async fn new_payload(
        &self,
        envelope: &ExecutionPayloadEnvelopeV4,
        versioned_hashes: &[B256],
    ) -> PayloadStatus {
        let payload = &envelope.envelope_inner.execution_payload;
        let requests: Vec<Bytes> = envelope.execution_requests.iter().cloned().collect();
        let root = beacon_root(payload.payload_inner.payload_inner.timestamp);
        self.engine
            .new_payload_v4(payload, versioned_hashes, root, &requests, DEADLINE)
            .await
            .unwrap()
    }

    /// Takes a payload as the next head.
    pub(crate) async fn import(&self, envelope: &ExecutionPayloadEnvelopeV4) -> B256 {
        let status = self.new_payload(envelope, &[]).await;
        assert!(status.is_valid(), "{status:?}");
        let hash = hash_of(envelope);
        self.make_head(hash).await;
        hash
    }

    /// Builds a block of what waits on the head and takes it.
    pub(crate) async fn advance(&self) -> ExecutionPayloadEnvelopeV4 {
        let head = self.client.head();
        let envelope = self.payload(head.hash, &attributes(head.header().timestamp + 2)).await;
        self.import(&envelope).await;
        envelope
    }
}

pub(crate) fn refused<T: std::fmt::Debug>(answer: Result<T, EngineError>) -> RpcError {
    match answer {
        Err(EngineError::Rpc { error, .. }) => error,
        other => panic!("not refused: {other:?}"),
    }
}

pub(crate) fn payload_of(envelope: &ExecutionPayloadEnvelopeV4) -> &ExecutionPayloadV3 {
    &envelope.envelope_inner.execution_payload
}

pub(crate) fn hash_of(envelope: &ExecutionPayloadEnvelopeV4) -> B256 {
    payload_of(envelope).payload_inner.payload_inner.block_hash
}

pub(crate) fn transactions_of(envelope: &ExecutionPayloadEnvelopeV4) -> &[Bytes] {
    &payload_of(envelope).payload_inner.payload_inner.transactions
}

/// Follows from the time, so that whoever has the payload knows it.
pub(crate) fn beacon_root(timestamp: u64) -> B256 {
    B256::from(U256::from(timestamp))
}

pub(crate) fn attributes(timestamp: u64) -> PayloadAttributes {
    PayloadAttributes {
        timestamp,
        prev_randao: B256::repeat_byte(0x22),
        suggested_fee_recipient: Address::repeat_byte(0xfe),
        withdrawals: Some(Vec::new()),
        parent_beacon_block_root: Some(beacon_root(timestamp)),
        ..PayloadAttributes::default()
    }
}

pub(crate) fn eip1559(nonce: u64, to: TxKind) -> TxEip1559 {
    TxEip1559 {
        chain_id: CHAIN_ID,
        nonce,
        gas_limit: 200_000,
        max_fee_per_gas: 100 * GWEI,
        max_priority_fee_per_gas: GWEI,
        to,
        value: U256::ZERO,
        access_list: AccessList::default(),
        input: Bytes::new(),
    }
}

pub(crate) fn transfer(seed: u8, nonce: u64, to: Address, wei: u64) -> Transaction {
    sign(seed, TxEip1559 { value: U256::from(wei), ..eip1559(nonce, TxKind::Call(to)) })
}

pub(crate) fn create(seed: u8, nonce: u64, code: Bytes) -> Transaction {
    sign(seed, TxEip1559 { input: code, ..eip1559(nonce, TxKind::Create) })
}

pub(crate) fn call(seed: u8, nonce: u64, to: Address, word: u64) -> Transaction {
    let input = B256::from(U256::from(word)).into();
    sign(seed, TxEip1559 { input, ..eip1559(nonce, TxKind::Call(to)) })
}

pub(crate) fn blob_transaction(seed: u8, nonce: u64, versioned_hash: B256) -> Transaction {
    let TxEip1559 { chain_id, gas_limit, max_fee_per_gas, max_priority_fee_per_gas, .. } =
        eip1559(nonce, TxKind::Create);
    sign(
        seed,
        TxEip4844 {
            chain_id,
            nonce,
            gas_limit,
            max_fee_per_gas,
            max_priority_fee_per_gas,
            to: Address::repeat_byte(0xb0),
            blob_versioned_hashes: vec![versioned_hash],
            max_fee_per_blob_gas: GWEI,
            ..TxEip4844::default()
        },
    )
}

pub(crate) fn sign<T>(seed: u8, transaction: T) -> Transaction
where
    T: SignableTransaction<Signature>,
    EthereumTxEnvelope<TxEip4844>: From<alloy_consensus::Signed<T>>,
{
    let signature = signer(seed).sign_hash_sync(&transaction.signature_hash()).unwrap();
    let signed = TxEnvelope::Ethereum(transaction.into_signed(signature).into());
    Transaction::decode(signed.encoded_2718().into()).unwrap()
}
