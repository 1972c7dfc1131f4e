//! The services with the flags that make a system of them.
//!
//! Between our own processes there are Unix sockets in the temporary directory; ports are for what
//! speaks another protocol. All of them listen on loopback only.

use std::{ffi::OsString, fmt::Display, path::PathBuf};

use preconf_chassis::{Endpoint, endpoint::EndpointError};
use url::Url;

use crate::{
    build::{Binaries, BuildError},
    children::Service,
    clients::Clients,
    consensus::slot_rule,
    keys::{Directory, Keys},
    options::{MAX_SIDECARS, Options, Port},
};

/// What the payload server is called.
pub const PAYLOAD_SERVER: &str = "payload-server";
/// What the sidecars of the validators are called.
pub const SIDECARS: [&str; MAX_SIDECARS] =
    ["sidecar-0", "sidecar-1", "sidecar-2", "sidecar-3", "sidecar-4", "sidecar-5"];

/// How long the right to build lasts without being renewed: half a slot.
const LEASE_MS: u64 = 1_000;

/// The sockets between our processes.
#[derive(Clone, Debug)]
pub struct Sockets {
    /// Builders ask the signer here.
    pub signer: Endpoint,
    /// The builder's feed, or the entrance to both builders'.
    pub feed: Endpoint,
    /// Overlays hand transactions to the builder here, or to the entrance.
    pub ingress: Endpoint,
    /// The gateway's feed.
    pub gateway: Endpoint,
    /// The consumer's snapshots.
    pub pending: Endpoint,
    /// The builder's blocks for the payload server, or the entrance to both builders'.
    pub payloads: Endpoint,
    /// Where the payload server is told whose turn it is.
    pub proposers: Endpoint,
}

impl Sockets {
    /// Sockets in a directory.
    ///
    /// # Errors
    /// If the path is too long for a socket.
    pub fn new(directory: &Directory) -> Result<Self, EndpointError> {
        let socket = |name| socket(directory, name);
        Ok(Self {
            signer: socket("signer")?,
            feed: socket("feed")?,
            ingress: socket("ingress")?,
            gateway: socket("gateway")?,
            pending: socket("pending")?,
            payloads: socket("payloads")?,
            proposers: socket("proposers")?,
        })
    }
}

fn socket(directory: &Directory, name: &str) -> Result<Endpoint, EndpointError> {
    format!("unix:{}", directory.file(&format!("{name}.sock")).display()).parse()
}

/// What belongs to one builder.
#[derive(Clone, Debug)]
pub struct BuilderSeat {
    /// What it is called.
    pub name: &'static str,
    /// Its Engine API.
    pub engine: Port,
    /// Health and metrics.
    pub health: Port,
    /// Its feed.
    pub feed: Endpoint,
    /// Where it takes transactions.
    pub ingress: Endpoint,
    /// Where it has blocks for the payload server.
    pub payloads: Endpoint,
    /// What it writes down.
    pub journal: PathBuf,
    /// The other builder's feed, if there is one.
    pub other: Option<Endpoint>,
}

impl BuilderSeat {
    /// As many as were asked for. One alone sits where everybody looks for the builder.
    ///
    /// # Errors
    /// If the path is too long for a socket.
    pub fn all(
        options: &Options,
        directory: &Directory,
        sockets: &Sockets,
    ) -> Result<Vec<Self>, EndpointError> {
        if options.builders == 1 {
            return Ok(vec![Self {
                name: "builder",
                engine: Port::BuilderEngine,
                health: Port::BuilderHealth,
                feed: sockets.feed.clone(),
                ingress: sockets.ingress.clone(),
                payloads: sockets.payloads.clone(),
                journal: directory.file("builder.journal"),
                other: None,
            }]);
        }
        let feeds = [socket(directory, "builder-0-feed")?, socket(directory, "builder-1-feed")?];
        let seat = |name, engine, health, own: usize| {
            Ok(Self {
                name,
                engine,
                health,
                feed: feeds[own].clone(),
                ingress: socket(directory, &format!("{name}-ingress"))?,
                payloads: socket(directory, &format!("{name}-payloads"))?,
                journal: directory.file(&format!("{name}.journal")),
                other: Some(feeds[1 - own].clone()),
            })
        };
        Ok(vec![
            seat("builder-0", Port::FirstBuilderEngine, Port::BuilderHealth, 0)?,
            seat("builder-1", Port::SecondBuilderEngine, Port::SecondBuilderHealth, 1)?,
        ])
    }
}

/// What all command lines are made of.
#[derive(Debug)]
pub struct CommandLines<'a> {
    /// The flags of the devnet.
    pub options: &'a Options,
    /// Where the binaries are.
    pub binaries: &'a Binaries,
    /// Keys and files.
    pub keys: &'a Keys,
    /// The sockets that are listened on.
    pub sockets: &'a Sockets,
    /// Where those who use a socket find it: there, or at a link that leads there.
    pub ways: &'a Sockets,
    /// The execution clients.
    pub clients: &'a Clients,
}

impl CommandLines<'_> {
    /// The signer.
    ///
    /// # Errors
    /// If its binary is not there.
    pub fn signer(&self) -> Result<Service, BuildError> {
        let mut flags = Flags::new(self.options, Port::SignerHealth);
        flags.add("--listen", &self.sockets.signer);
        flags.add("--flashblock-signing-key", self.keys.signing_key.display());
        flags.add("--chain-id", self.options.chain.id());
        flags.add("--record", self.keys.signing_key.with_file_name("signer.record").display());
        self.service("signer", "preconf-signer", flags)
    }

    /// A builder.
    ///
    /// # Errors
    /// If its binary is not there.
    pub fn builder(&self, seat: &BuilderSeat) -> Result<Service, BuildError> {
        let sequencer = &self.clients.sequencer;
        let mut flags = Flags::new(self.options, seat.health);
        flags.add("--engine-addr", self.options.address(seat.engine));
        flags.add("--engine-jwt-secret", self.keys.builder_secret.path.display());
        flags.add("--execution-engine-url", sequencer.engine_url());
        flags.add("--execution-jwt-secret", self.keys.sequencer_secret.path.display());
        flags.add("--execution-url", sequencer.rpc_url());
        flags.add("--execution-ws-url", websocket(sequencer.rpc_url()));
        flags.add("--genesis", self.keys.genesis.display());
        flags.add("--signer", &self.ways.signer);
        flags.add("--journal", seat.journal.display());
        flags.add("--lease-holder", seat.name);
        flags.add("--lease-ms", LEASE_MS);
        flags.add("--feed-listen", &seat.feed);
        flags.add("--ingress-listen", &seat.ingress);
        if self.options.fetch.has_server() {
            flags.add("--payloads-listen", &seat.payloads);
            flags.add("--slot-rule", slot_rule(&self.keys.spec));
        }
        if let Some(other) = &seat.other {
            flags.add("--standby-feed", other);
        }
        flags.add("--flashblock-interval-ms", self.options.interval_ms);
        flags.add("--seal-budget-ms", self.options.seal_budget_ms);
        self.service(seat.name, "preconf-builder", flags)
    }

    /// The payload server, which asks the CometBFT node at `node`, or is told, whose turn it is.
    ///
    /// # Errors
    /// If its binary is not there.
    pub fn payload_server(&self, node: Option<&Url>) -> Result<Service, BuildError> {
        let mut flags = Flags::new(self.options, Port::PayloadServerHealth);
        flags.add("--payload-addr", self.options.address(Port::PayloadServer));
        flags.add("--builder-payloads", &self.ways.payloads);
        match node {
            Some(node) => flags.add("--cometbft-rpc", node),
            None => flags.add("--proposers-listen", &self.sockets.proposers),
        }
        flags.add("--whitelist", self.keys.whitelist.display());
        flags.add("--validator-jwts", self.keys.validator_jwts.display());
        if self.options.has_tls() {
            let tls = &self.keys.payload_tls;
            flags.add("--payload-tls-cert", tls.certificate.display());
            flags.add("--payload-tls-key", tls.key.display());
        }
        self.service(PAYLOAD_SERVER, "preconf-payload-server", flags)
    }

    /// The sidecar of a validator, which asks the payload server at `sequencer`.
    ///
    /// # Errors
    /// If its binary is not there.
    pub fn sidecar(&self, validator: usize, sequencer: &Url) -> Result<Service, BuildError> {
        let secret = self.keys.validators_secret.path.display();
        let [engine, health] = self.options.sidecar(validator);
        let mut flags = Flags(Vec::new());
        flags.add("--health-addr", health);
        flags.add("--engine-addr", engine);
        flags.add("--engine-jwt-secret", &secret);
        flags.add("--execution-engine-url", self.clients.validators.engine_url());
        flags.add("--execution-jwt-secret", &secret);
        flags.add("--sequencer-url", sequencer);
        if self.options.has_tls() {
            flags.add("--sequencer-ca-cert", self.keys.payload_tls.authority.display());
        }
        let shared = &self.keys.validator_secrets[validator];
        flags.add("--sequencer-jwt-secret", shared.path.display());
        flags.add("--slot-rule", slot_rule(&self.keys.spec));
        flags.add("--fetch-budget-ms", self.options.patience().as_millis());
        self.service(SIDECARS[validator], "preconf-validator-sidecar", flags)
    }

    /// The gateway.
    ///
    /// # Errors
    /// If its binary is not there.
    pub fn gateway(&self) -> Result<Service, BuildError> {
        let mut flags = Flags::new(self.options, Port::GatewayHealth);
        flags.add("--upstream", &self.ways.feed);
        flags.add("--sequencer-pubkey", self.keys.public_key);
        flags.add("--chain-id", self.options.chain.id());
        flags.add("--flashblock-ws-addr", self.options.address(Port::GatewayWebSocket));
        flags.add("--feed-listen", &self.sockets.gateway);
        self.service("gateway", "preconf-gateway", flags)
    }

    /// The consumer, which follows the gateway at `feed`.
    ///
    /// # Errors
    /// If its binary is not there.
    pub fn consumer(&self, feed: impl Display) -> Result<Service, BuildError> {
        let rpc_node = &self.clients.rpc_node;
        let mut flags = Flags::new(self.options, Port::ConsumerHealth);
        flags.add("--flashblocks-url", feed);
        flags.add("--sequencer-pubkey", self.keys.public_key);
        flags.add("--execution-url", rpc_node.rpc_url());
        flags.add("--execution-ws-url", websocket(rpc_node.rpc_url()));
        flags.add("--genesis", self.keys.genesis.display());
        flags.add("--pending-listen", &self.sockets.pending);
        self.service("consumer", "preconf-consumer", flags)
    }

    /// The RPC overlay.
    ///
    /// # Errors
    /// If its binary is not there.
    pub fn overlay(&self) -> Result<Service, BuildError> {
        let mut flags = Flags::new(self.options, Port::OverlayHealth);
        flags.add("--http-addr", self.options.address(Port::Overlay));
        flags.add("--pending", &self.ways.pending);
        flags.add("--ingress", &self.ways.ingress);
        flags.add("--execution-url", self.clients.rpc_node.rpc_url());
        flags.add("--genesis", self.keys.genesis.display());
        // All the traffic comes from this machine.
        flags.add("--max-connections-per-address", 0);
        self.service("rpc-overlay", "preconf-rpc-overlay", flags)
    }

    fn service(
        &self,
        name: &'static str,
        package: &str,
        flags: Flags,
    ) -> Result<Service, BuildError> {
        let program: PathBuf = self.binaries.find(package)?;
        Ok(Service { name, program, flags: flags.0 })
    }
}

/// A command line that begins with what every service is given.
struct Flags(Vec<OsString>);

impl Flags {
    fn new(options: &Options, health: Port) -> Self {
        let mut flags = Self(Vec::new());
        flags.add("--health-addr", options.address(health));
        flags
    }

    fn add(&mut self, flag: &str, value: impl Display) {
        self.0.extend([flag.into(), value.to_string().into()]);
    }
}

/// The same address, over WebSocket.
fn websocket(mut url: Url) -> Url {
    // `http` may become `ws`: both are special schemes.
    url.set_scheme("ws").ok();
    url
}
