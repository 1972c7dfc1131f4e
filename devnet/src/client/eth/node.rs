//! What the client says about itself.

use alloy_primitives::U64;

use crate::client::methods::{Method, answer};

pub(super) const METHODS: &[Method] = &[
    Method::new("eth_chainId", |client, _| answer(&U64::from(client.spec.chain_id()))),
    Method::new("net_version", |client, _| answer(&client.spec.chain_id().to_string())),
    Method::new("web3_clientVersion", |_, _| {
        answer(&concat!("preconf-devnet/v", env!("CARGO_PKG_VERSION")))
    }),
    // Whatever it knows of the chain, it has executed.
    Method::new("eth_syncing", |_, _| answer(&false)),
];
