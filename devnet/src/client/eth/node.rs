//! What the client says about itself.

use alloy_primitives::{U64, keccak256};

use crate::client::methods::{Method, answer};

pub(super) const METHODS: &[Method] = &[
    Method::new("eth_chainId", |client, _| answer(&U64::from(client.spec.chain_id()))),
    Method::new("net_version", |client, _| {
        let id = client.config.network_id.unwrap_or_else(|| client.spec.chain_id());
        answer(&id.to_string())
    }),
    // It speaks to no peers.
    Method::new("net_listening", |_, _| answer(&false)),
    Method::new("net_peerCount", |_, _| answer(&U64::ZERO)),
    Method::new("web3_clientVersion", |_, _| {
        answer(&concat!("preconf-devnet/v", env!("CARGO_PKG_VERSION")))
    }),
    Method::new("web3_sha3", |_, params| {
        answer(&keccak256(params.required::<alloy_primitives::Bytes>(0, "data")?))
    }),
    // Whatever it knows of the chain, it has executed.
    Method::new("eth_syncing", |_, _| answer(&false)),
    Method::new("eth_accounts", |_, _| answer::<[(); 0]>(&[])),
];
