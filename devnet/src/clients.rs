//! The embedded execution clients, one for each role, behind real sockets.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use preconf_chain::ChainSpec;
use preconf_engine::{EngineClient, EngineError};
use tokio::time::timeout;
use url::Url;

use crate::{
    client::{self, ClientConfig, ExecutionClient, Running, ServeError},
    keys::{Keys, Secret},
    options::{Options, Port},
};

/// How long a client may take to close its ports.
const STOP: Duration = Duration::from_secs(2);

/// An execution client and its two ports.
#[derive(Debug)]
pub struct Node {
    client: Arc<ExecutionClient>,
    running: Running,
    secret: Secret,
}

/// The three clients.
#[derive(Debug)]
pub struct Clients {
    /// Behind the builder.
    pub sequencer: Node,
    /// Shared by the validators: it checks what is proposed, and builds when the builder does not.
    pub validators: Node,
    /// What the consumer and the overlay read.
    pub rpc_node: Node,
}

impl Clients {
    /// Starts all three, each with a chain of its own.
    ///
    /// # Errors
    /// If a port is taken.
    pub async fn start(options: &Options, keys: &Keys) -> Result<Self, ServeError> {
        let node = |secret: &Secret, engine: Port, rpc: Port| {
            Node::start(
                keys.spec.clone(),
                secret.clone(),
                options.address(engine),
                options.address(rpc),
            )
        };
        Ok(Self {
            sequencer: node(&keys.sequencer_secret, Port::SequencerEngine, Port::SequencerRpc)
                .await?,
            validators: node(&keys.validators_secret, Port::ValidatorsEngine, Port::ValidatorsRpc)
                .await?,
            rpc_node: node(&keys.rpc_node_secret, Port::RpcNodeEngine, Port::RpcNodeRpc).await?,
        })
    }

    /// Closes all ports.
    pub async fn stop(self) {
        let Self { sequencer, validators, rpc_node } = self;
        let started = Instant::now();
        for node in [sequencer, validators, rpc_node] {
            // Whoever is still connected is cut off when the node is dropped.
            let left = STOP.saturating_sub(started.elapsed());
            timeout(left, node.running.stop()).await.ok();
        }
    }
}

impl Node {
    async fn start(
        spec: Arc<ChainSpec>,
        secret: Secret,
        engine: SocketAddr,
        rpc: SocketAddr,
    ) -> Result<Self, ServeError> {
        let client = ExecutionClient::new(spec, ClientConfig::default());
        let running = client::serve(client.clone(), engine, secret.jwt.clone(), rpc).await?;
        Ok(Self { client, running, secret })
    }

    /// The client itself, for whoever wants to look without a socket.
    pub const fn client(&self) -> &Arc<ExecutionClient> {
        &self.client
    }

    /// Where its Engine API is.
    pub fn engine_url(&self) -> Url {
        http(self.running.engine_addr)
    }

    /// Where its JSON-RPC is.
    pub fn rpc_url(&self) -> Url {
        http(self.running.rpc_addr)
    }

    /// A client of its Engine API.
    ///
    /// # Errors
    /// Never for an address that was bound; the caller passes it on all the same.
    pub fn engine(&self) -> Result<EngineClient, EngineError> {
        EngineClient::new(&self.engine_url(), self.secret.jwt.clone())
    }
}

/// The URL of an address.
pub(crate) fn http(address: SocketAddr) -> Url {
    format!("http://{address}").parse().expect("an address makes a URL")
}
