//! Whose turn it is, as a CometBFT node says over its RPC.
//!
//! A payload server beside beacon-kit asks its node `/consensus_state`. Here the devnet's consensus is
//! what such a node would show: the height that is being decided, its round, and who proposes in it,
//! from the first one on.

use std::{io, net::SocketAddr, sync::Arc};

use axum::{Json, Router, extract::State, http::StatusCode, routing::get};
use preconf_wire::payload::Proposer;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use url::Url;

/// The RPC of a node, on loopback. Dropped, it is gone.
#[derive(Debug)]
pub struct Node {
    turn: watch::Sender<Option<Proposer>>,
    url: Url,
    _serving: JoinSet<io::Result<()>>,
}

impl Node {
    /// Starts to answer at `address`, that it is `first`'s turn.
    ///
    /// # Errors
    /// If it cannot listen there.
    pub async fn serve(address: SocketAddr, first: Proposer) -> io::Result<Arc<Self>> {
        let listener = TcpListener::bind(address).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let url = url.parse().expect("an address makes a URL");
        let (turn, turns) = watch::channel(Some(first));
        let router = Router::new().route("/consensus_state", get(state)).with_state(turns);
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await });
        Ok(Arc::new(Self { turn, url, _serving: serving }))
    }

    /// Where it is asked.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Where it hears what it says.
    pub(super) fn turn(&self) -> watch::Sender<Option<Proposer>> {
        self.turn.clone()
    }
}

async fn state(
    State(turns): State<watch::Receiver<Option<Proposer>>>,
) -> Result<Json<Value>, StatusCode> {
    let turn = *turns.borrow();
    let Proposer { slot, round, pubkey } = turn.ok_or(StatusCode::INTERNAL_SERVER_ERROR)?;
    let address = pubkey.address().map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(Json(json!({
        "jsonrpc": "2.0",
        "id": -1,
        "result": {
            "round_state": {
                // The step is that in which a block is proposed.
                "height/round/step": format!("{slot}/{round}/3"),
                "proposal_block_hash": "",
                "locked_block_hash": "",
                "valid_block_hash": "",
                "height_vote_set": [],
                "proposer": { "address": address.to_string().to_uppercase(), "index": 0 },
            },
        },
    })))
}
