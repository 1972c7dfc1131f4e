//! How long a validator waits for its block, from the request over HTTP to its own execution client
//! calling the block valid, by how much is in the block.
//!
//! Ours: through the payload server, with its token, whitelist and turn. The limit: the same builder
//! asked on its Engine API, and the same execution client asked to validate. A block is sealed by
//! whoever asks for it first, so the two take turns, block by block. The validator's execution client
//! is its own: it has not seen the block.

use std::time::{Duration, Instant};

use alloy_consensus::{
    EthereumTxEnvelope, SignableTransaction as _, TxEip4844, TxEip4844WithSidecar,
};
use alloy_eips::{
    eip2718::Encodable2718 as _,
    eip4844::{Blob, BlobTransactionSidecar, Bytes48, kzg_to_versioned_hash},
};
use alloy_primitives::{Address, B256, Bytes, FixedBytes};
use alloy_rpc_types_engine::{ExecutionPayloadV3, ForkchoiceState};
use alloy_signer::SignerSync as _;
use clap::Parser as _;
use preconf_chassis::{Context, Endpoint, Security, channel};
use preconf_devnet::client::{Running, serve};
use preconf_engine::EngineClient;
use preconf_payload_api::{
    ClientConfig, MAX_RESPONSE_BYTES, PayloadClient, PayloadRequest, ValidatorPubkey,
    ValidatorSecret,
};
use preconf_wire::payload::{Proposer, ProposersClient};
use tokio::time::sleep;

use super::{
    block_on, quantile,
    system::{CHAIN_ID, DEADLINE, LOOPBACK, System},
    wrong,
};
use crate::{
    measure::{Rounds, Wrong, same},
    report::{Goal, Row},
};

/// How many transactions are in the block, and how many blobs.
const SIZES: [(usize, usize); 4] = [(10, 0), (100, 0), (1_000, 0), (10, 6)];
/// How many blocks for each round and side.
const BLOCKS: usize = 4;
/// How long the transactions of a block have to be preconfirmed.
const SETTLE: Duration = Duration::from_millis(300);
/// What the p99 of 1,000 transactions is aimed at.
const AIM: Duration = Duration::from_millis(50);

/// A validator of beacon-kit's devnet.
const VALIDATOR: &str = "0x93247f2209abcacf57b75a51dafae777f9dd38bc7053d1af526f220a7489a6d3a2753e5f3e8b1cfe39b56f43611df74a";
const SECRET: &str = "0x1234567890abcdef1234567890abcdef1234567890abcdef1234567890abcdef";

pub(crate) fn measure(rounds: Rounds) -> Result<Vec<Row>, Wrong> {
    let mut rows = Vec::new();
    for (transactions, blobs) in SIZES {
        let (ours, limit) = block_on(of(transactions, blobs, rounds.get() * BLOCKS))?;
        let what = match blobs {
            0 => format!("{transactions} transactions"),
            blobs => format!("{transactions} transactions, {blobs} blobs"),
        };
        for (end, ours, limit) in [
            ("payload", &ours.payload, &limit.payload),
            ("validated", &ours.validated, &limit.validated),
        ] {
            for share in [0.5, 0.99] {
                let name = format!("request to {end}, {what}, p{:.0}", share * 100.);
                let row = Row::time(name, &[quantile(ours, share)]);
                rows.push(row.beside(1, &[quantile(limit, share)]));
            }
        }
        if transactions == 1_000 {
            let name = "the same p99, beside what is aimed at";
            let aimed = Row::time(name, &[quantile(&ours.validated, 0.99)]).beside(1, &[AIM]);
            rows.push(aimed.goal(Goal::AtMost(1.)));
        }
    }
    Ok(rows)
}

/// How long each block took, from the request.
#[derive(Default)]
struct Times {
    /// Until the validator had it.
    payload: Vec<Duration>,
    /// Until its execution client had called it valid.
    validated: Vec<Duration>,
}

async fn of(transactions: usize, blobs: usize, blocks: usize) -> Result<(Times, Times), Wrong> {
    let mut system = System::start().await?;
    let validator = Validator::start(&system).await?;
    let (mut ours, mut limit) = (Times::default(), Times::default());
    for number in 0..2 * blocks {
        let transfers = system.transfers(transactions)?;
        let attributes = system.attributes();
        let (head, parent) = system.head();
        let id = system.choose(parent, Some(&attributes)).await?;
        let id = id.ok_or(Wrong("an id".to_owned()))?;
        for transfer in transfers {
            system.submit(transfer).await?;
        }
        if blobs > 0 {
            let transaction = blob_transaction(&mut system, blobs)?;
            system.submit(transaction).await?;
        }
        validator.announce(head + 1).await?;
        sleep(SETTLE).await;
        let root = attributes.parent_beacon_block_root.unwrap_or_default();
        let started = Instant::now();
        let fetched = if number % 2 == 0 {
            validator.fetch(PayloadRequest { slot: head + 1, parent_block_root: root }).await?
        } else {
            let envelope = system.payload(id).await?;
            let requests = envelope.execution_requests.iter().cloned().collect();
            let inner = envelope.envelope_inner;
            let commitments = inner.blobs_bundle.commitments;
            Fetched { payload: inner.execution_payload, commitments, requests }
        };
        let times = if number % 2 == 0 { &mut ours } else { &mut limit };
        times.payload.push(started.elapsed());
        validator.validate(&fetched, root).await?;
        times.validated.push(started.elapsed());

        let payload = &fetched.payload.payload_inner.payload_inner;
        let expected = transactions + usize::from(blobs > 0);
        same("the number of transactions", &payload.transactions.len(), &expected)?;
        same("the number of blobs", &fetched.commitments.len(), &blobs)?;
        let hash = payload.block_hash;
        fetched.check(&system.engine, root).await?;
        system.choose(hash, None).await?;
        validator.follow(hash).await?;
    }
    validator.stop().await?;
    system.stop().await?;
    Ok((ours, limit))
}

/// A payload as a validator has it.
struct Fetched {
    payload: ExecutionPayloadV3,
    commitments: Vec<FixedBytes<48>>,
    requests: Vec<Bytes>,
}

impl Fetched {
    async fn check(&self, engine: &EngineClient, root: B256) -> Result<(), Wrong> {
        let Self { payload, commitments, requests } = self;
        let blobs: Vec<_> =
            commitments.iter().map(|point| kzg_to_versioned_hash(point.as_slice())).collect();
        let status = engine.new_payload_v4(payload, &blobs, root, requests, DEADLINE).await;
        let status = status.map_err(|error| wrong("newPayload", &error))?;
        if status.is_valid() { Ok(()) } else { Err(Wrong(format!("a block that is {status}"))) }
    }
}

/// A validator with an execution client of its own, and the payload server that knows it.
struct Validator {
    engine: EngineClient,
    running: Running,
    context: Context,
    proposers: ProposersClient,
    client: PayloadClient,
    pubkey: ValidatorPubkey,
}

impl Validator {
    async fn start(system: &System) -> Result<Self, Wrong> {
        let (own, jwt) = system.another_client();
        let running = serve(own, LOOPBACK, jwt.clone(), LOOPBACK).await;
        let running = running.map_err(|error| wrong("the validator's client", &error))?;
        let url = format!("http://{}", running.engine_addr).parse();
        let url = url.map_err(|error| wrong("an address", &error))?;
        let engine = EngineClient::new(&url, jwt).map_err(|error| wrong("an engine", &error))?;

        system.write("whitelist.json", &format!("[{VALIDATOR:?}]"))?;
        system.write("jwts.json", &format!("{{{VALIDATOR:?}:{SECRET:?}}}"))?;
        let proposers = format!("unix:{}", system.path("proposers.sock"));
        let flags = [
            ["--payload-addr", "127.0.0.1:0"],
            ["--builder-payloads", &format!("unix:{}", system.path("payloads.sock"))],
            ["--whitelist", &system.path("whitelist.json")],
            ["--validator-jwts", &system.path("jwts.json")],
            ["--proposers-listen", &proposers],
        ];
        let flags = std::iter::once("payload-server").chain(flags.into_iter().flatten());
        let prepared = preconf_payload_server::Config::parse_from(flags).prepare();
        let prepared = prepared.map_err(|error| wrong("the payload server's flags", &error))?;
        let context = Context::for_test();
        let served = preconf_payload_server::start(prepared, context.clone()).await;
        let addresses = served.map_err(|exit| Wrong(format!("the payload server: {exit}")))?;

        let endpoint: Endpoint = proposers.parse().map_err(|error| wrong("a socket", &error))?;
        let proposers = channel(&endpoint, &Security::default());
        let proposers = proposers.map_err(|error| wrong("the proposers", &error))?;
        let url = format!("http://{}", addresses.payloads).parse();
        let client = PayloadClient::new(ClientConfig {
            url: url.map_err(|error| wrong("an address", &error))?,
            secret: ValidatorSecret::parse(SECRET).map_err(|error| wrong("a secret", &error))?,
            authorities: None,
            max_response_bytes: MAX_RESPONSE_BYTES,
        });
        Ok(Self {
            engine,
            running,
            context,
            proposers: ProposersClient::new(proposers, DEADLINE),
            client: client.map_err(|error| wrong("a client", &error))?,
            pubkey: VALIDATOR.parse().map_err(|error| wrong("a key", &error))?,
        })
    }

    async fn announce(&self, slot: u64) -> Result<(), Wrong> {
        let proposer = Proposer { slot, round: 0, pubkey: self.pubkey };
        let told = self.proposers.set_proposer(proposer).await;
        told.map_err(|error| wrong("telling whose turn it is", &error))
    }

    async fn fetch(&self, request: PayloadRequest) -> Result<Fetched, Wrong> {
        let fetched = self.client.fetch(&request, DEADLINE).await;
        let fetched = fetched.map_err(|error| wrong("fetching", &error))?;
        Ok(Fetched {
            payload: fetched.execution_payload,
            commitments: fetched.blobs_bundle.commitments,
            requests: fetched.execution_requests,
        })
    }

    async fn validate(&self, fetched: &Fetched, root: B256) -> Result<(), Wrong> {
        fetched.check(&self.engine, root).await
    }

    async fn follow(&self, head: B256) -> Result<(), Wrong> {
        let zero = B256::ZERO;
        let state = ForkchoiceState {
            head_block_hash: head,
            safe_block_hash: zero,
            finalized_block_hash: zero,
        };
        let answer = self.engine.fork_choice_updated_v3(state, None, DEADLINE).await;
        answer.map(drop).map_err(|error| wrong("forkchoiceUpdated", &error))
    }

    async fn stop(self) -> Result<(), Wrong> {
        let finished = self.context.finish(DEADLINE).await;
        finished.map_err(|exit| Wrong(format!("stopping: {exit}")))?;
        self.running.stop().await;
        Ok(())
    }
}

/// The next transaction of the first sender, with so many blobs of zeros.
fn blob_transaction(system: &mut System, blobs: usize) -> Result<Bytes, Wrong> {
    // What a blob of zeros is committed to and proved with: the point at infinity.
    let mut infinity = Bytes48::ZERO;
    infinity[0] = 0xc0;
    let points = vec![infinity; blobs];
    let sidecar = BlobTransactionSidecar {
        blobs: vec![Blob::ZERO; blobs],
        commitments: points.clone(),
        proofs: points,
    };
    let (wallet, nonce) = system.first_sender();
    let tx = TxEip4844 {
        chain_id: CHAIN_ID,
        nonce,
        gas_limit: 21_000,
        max_fee_per_gas: 100_000_000_000,
        max_priority_fee_per_gas: 1_000_000_000,
        max_fee_per_blob_gas: 1_000_000_000_000,
        to: Address::repeat_byte(0xee),
        blob_versioned_hashes: vec![kzg_to_versioned_hash(infinity.as_slice()); blobs],
        ..TxEip4844::default()
    };
    let signature = wallet.sign_hash_sync(&tx.signature_hash());
    let signature = signature.map_err(|error| wrong("signing", &error))?;
    let signed = TxEip4844WithSidecar { tx, sidecar }.into_signed(signature);
    Ok(EthereumTxEnvelope::Eip4844(signed).encoded_2718().into())
}
