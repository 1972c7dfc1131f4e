//! Blob transactions come with their blobs, and the payload that holds them does too.

use std::sync::Arc;

use alloy_consensus::{EthereumTxEnvelope, SignableTransaction, TxEip4844, TxEip4844WithSidecar};
use alloy_eips::eip2718::Encodable2718;
use alloy_eips::eip4844::{Blob, BlobTransactionSidecar, Bytes48, kzg_to_versioned_hash};
use alloy_eips::eip7594::{BlobTransactionSidecarEip7594, CELLS_PER_EXT_BLOB};
use alloy_primitives::{Address, B256, Bytes, U64};
use alloy_signer::SignerSync as _;
use preconf_chain::ChainSpec;
use preconf_devnet::client::{ClientConfig, Sidecar};
use serde_json::{Value, json};

use crate::harness::*;

/// The point at infinity: what a blob of zeros is committed to and proved with.
fn infinity() -> Bytes48 {
    let mut point = Bytes48::ZERO;
    point[0] = 0xc0;
    point
}

fn sidecar() -> BlobTransactionSidecar {
    let (commitments, proofs) = (vec![infinity()], vec![infinity()]);
    BlobTransactionSidecar { blobs: vec![Blob::ZERO], commitments, proofs }
}

/// A transaction of sender 1 with these blobs, as it is sent.
fn pooled(nonce: u64, sidecar: impl Into<Sidecar>) -> Bytes {
    let transaction = TxEip4844 {
        chain_id: CHAIN_ID,
        nonce,
        gas_limit: 100_000,
        max_fee_per_gas: 100 * GWEI,
        max_priority_fee_per_gas: GWEI,
        max_fee_per_blob_gas: GWEI,
        to: Address::repeat_byte(0xb0),
        blob_versioned_hashes: vec![kzg_to_versioned_hash(infinity().as_slice())],
        ..TxEip4844::default()
    };
    let signature = signer(1).sign_hash_sync(&transaction.signature_hash()).unwrap();
    let whole = TxEip4844WithSidecar { tx: transaction, sidecar: sidecar.into() };
    EthereumTxEnvelope::Eip4844(whole.into_signed(signature)).encoded_2718().into()
}

#[tokio::test]
async fn blobs_go_from_the_pool_into_the_payload_and_not_into_the_block() {
    let node = Node::start().await;
    let hash: B256 = node.call("eth_sendRawTransaction", [pooled(0, sidecar())]).await;
    let status: Value = node.call("txpool_status", [(); 0]).await;
    assert_eq!(status, json!({ "pending": "0x1", "queued": "0x0" }));
    let sender = signer(1).address();
    let nonce: U64 = node.call("eth_getTransactionCount", (sender, "pending")).await;
    assert_eq!(nonce, U64::from(1));

    let versioned = kzg_to_versioned_hash(infinity().as_slice());
    let blobs: Value = node
        .engine
        .request("engine_getBlobsV1", &[[versioned, B256::ZERO]], DEADLINE)
        .await
        .unwrap();
    assert_eq!(blobs, json!([{ "blob": Blob::ZERO, "proof": infinity() }, null]));

    let head = node.client.head();
    let envelope = node.payload(head.hash, &attributes(head.header().timestamp + 2)).await;
    let bundle = &envelope.envelope_inner.blobs_bundle;
    assert_eq!((&bundle.blobs, &bundle.commitments), (&sidecar().blobs, &sidecar().commitments));
    assert!(node.new_payload(&envelope, &[versioned]).await.is_valid());
    node.make_head(hash_of(&envelope)).await;
    let included: Value = node.call("eth_getTransactionByHash", [hash]).await;
    assert_eq!(included["blockNumber"], json!("0x1"));
    assert_eq!(node.client.waiting(), 0);
}

#[tokio::test]
async fn a_sidecar_that_proves_nothing_is_refused() {
    let node = Node::start().await;
    let mut unproved = sidecar();
    unproved.blobs[0][31] = 1;
    let mut foreign = sidecar();
    foreign.commitments[0][47] = 1;
    let none = BlobTransactionSidecar { proofs: Vec::new(), ..sidecar() };
    let proofs = vec![infinity(); CELLS_PER_EXT_BLOB];
    let cells = BlobTransactionSidecarEip7594::new(sidecar().blobs, sidecar().commitments, proofs);
    for (sidecar, reason) in [
        (Sidecar::from(unproved), "the proofs of the sidecar do not hold"),
        (Sidecar::from(foreign), "commitment 0 is not that of the transaction"),
        (Sidecar::from(none), "the sidecar has another number"),
        // Before Osaka there are no cells.
        (Sidecar::from(cells), "transaction type not supported: the sidecar has proofs of cells"),
    ] {
        let refusal = node.refusal("eth_sendRawTransaction", [pooled(0, sidecar)]).await;
        assert_eq!(refusal.code, -32000);
        assert!(refusal.message.starts_with(reason), "{refusal}");
    }
    assert_eq!(node.client.waiting(), 0);
}

#[tokio::test]
async fn from_osaka_on_blobs_are_handed_out_with_the_proofs_of_their_cells_all_or_none() {
    let mut genesis = genesis(json!(0));
    genesis["config"]["osakaTime"] = json!(0);
    let spec = ChainSpec::from_genesis_json(&genesis.to_string()).unwrap();
    let node = Node::with(Arc::new(spec), ClientConfig::default()).await;
    let proofs = vec![infinity(); CELLS_PER_EXT_BLOB];
    let sidecar =
        BlobTransactionSidecarEip7594::new(sidecar().blobs, sidecar().commitments, proofs.clone());
    let _: B256 = node.call("eth_sendRawTransaction", [pooled(0, sidecar)]).await;
    let versioned = kzg_to_versioned_hash(infinity().as_slice());
    let ask = async |method: &str, hashes: &[B256]| {
        node.engine.request::<_, Value>(method, &[hashes], DEADLINE).await
    };
    let found = ask("engine_getBlobsV2", &[versioned]).await.unwrap();
    assert_eq!(found, json!([{ "blob": Blob::ZERO, "proofs": proofs }]));
    let found = ask("engine_getBlobsV2", &[versioned, B256::ZERO]).await.unwrap();
    assert_eq!(found, Value::Null);
    let old = refused(ask("engine_getBlobsV1", &[versioned]).await);
    assert_eq!(old.code, preconf_engine::rpc::code::UNSUPPORTED_FORK);
}
