//! The whole system on this machine: started in order, watched, and stopped in order.
//!
//! What runs in this process: the execution clients and the consensus client, and with two builders
//! the entrance to them. What runs in processes of its own: the services. Traffic, the observer and
//! the report are not part of it; whoever starts a devnet adds what he wants.

mod starting;

use std::{
    fmt, fs, io,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use alloy_signer_local::PrivateKeySigner;
use preconf_chassis::{ConfigError, Endpoint, endpoint::EndpointError};
use preconf_engine::EngineError;
use preconf_payload_api::client::UrlError;
use preconf_signing::{PublicKey, Verifier};
use preconf_subscribe::{FeedUrl, FeedUrlError};
use tokio::sync::broadcast::error::RecvError;
use url::{ParseError, Url};

use crate::{
    build::{Binaries, BuildError},
    children::{ChildError, Children},
    client::ServeError,
    clients::Clients,
    consensus::{
        self, Blocks, CanonicalBlock, Consensus, ConsensusError, Doors, Faults, Way, Ways,
    },
    console::Console,
    entrance::Entrance,
    keys::{Directory, Keys, KeysError, PayloadTls, Validator, ValidatorFile, whitelist_of},
    options::Options,
    services::{BuilderSeat, CommandLines, PAYLOAD_SERVER, SIDECARS, Sockets},
    traces::Collector,
    wiring::Wiring,
};

use starting::{doors, enter, start_all, wire};

/// How long the services may take to be ready.
const READY: Duration = Duration::from_secs(60);

/// Those without whom no block can be built or seen. A second builder is not ready as long as the
/// first one builds.
const FIRST: [&str; 5] = ["signer", "builder", "builder-0", PAYLOAD_SERVER, "gateway"];
/// Those who are ready when there is something to read.
const THEN: [&str; 2] = ["consumer", "rpc-overlay"];

/// Why there is no devnet, or not any more.
#[derive(Debug, thiserror::Error)]
pub enum DevnetError {
    /// The binaries are not there.
    #[error("getting the service binaries")]
    Build(#[source] BuildError),
    /// The files are not there.
    #[error("making keys and genesis")]
    Keys(#[source] KeysError),
    /// There is no range of free ports.
    #[error("finding free ports")]
    Ports(#[source] std::io::Error),
    /// The temporary directory has too long a name.
    #[error("naming the sockets")]
    Sockets(#[source] EndpointError),
    /// There is no link, or no entrance.
    #[error("connecting the services")]
    Wiring(#[source] std::io::Error),
    /// An execution client cannot be reached.
    #[error("starting the execution clients")]
    Clients(#[source] ServeError),
    /// A door to an Engine API cannot be used.
    #[error("connecting the consensus client")]
    Doors(#[source] EngineError),
    /// A service says that it listens at something that is no address.
    #[error("{service} listens at {address:?}, which is no URL")]
    Address {
        /// Who.
        service: &'static str,
        /// What it said.
        address: String,
        /// What the parser said.
        #[source]
        source: ParseError,
    },
    /// The gateway says that it listens at something that is no feed.
    #[error("the gateway listens at something that is no feed")]
    Feed(#[source] FeedUrlError),
    /// Where validators ask is no URL of a sequencer.
    #[error("telling the validators where to ask")]
    Sequencer(#[source] UrlError),
    /// Validators cannot ask, or nobody can say whose turn it is.
    #[error("connecting the validators")]
    Validators(#[source] ConfigError),
    /// There is no port for the CometBFT node's RPC.
    #[error("serving the CometBFT node's RPC")]
    Node(#[source] io::Error),
    /// A service died or did not become ready.
    #[error(transparent)]
    Child(ChildError),
    /// The chain went on, and nobody looked.
    #[error("the chain went on faster than it was followed")]
    Behind,
    /// The chain cannot go on.
    #[error("the chain stopped")]
    Consensus(#[source] ConsensusError),
}

/// Where everything is.
#[derive(Clone, Debug)]
pub struct Endpoints {
    /// The overlay's JSON-RPC.
    pub overlay: Url,
    /// The gateway's WebSocket.
    pub gateway: FeedUrl,
    /// The same, as text.
    pub gateway_url: String,
    /// The builder's Engine API.
    pub builder_engine: Url,
    /// The consumer's snapshots.
    pub pending: Endpoint,
    /// Where validators ask for payloads, if they do.
    pub payload_server: Option<Url>,
    /// The JSON-RPC of the RPC node's client.
    pub rpc_node: Url,
    /// The JSON-RPC of the sequencer's client.
    pub sequencer: Url,
    /// The JSON-RPC of the validators' client.
    pub validators: Url,
    /// The health ports, by service.
    pub health: Vec<(&'static str, String)>,
}

impl fmt::Display for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |url: &Url| url.as_str().trim_end_matches('/').to_owned();
        writeln!(f, "  wallets and dapps       {}", plain(&self.overlay))?;
        writeln!(f, "  flashblocks             {}", self.gateway_url)?;
        writeln!(f, "  builder, Engine API     {}", plain(&self.builder_engine))?;
        if let Some(url) = &self.payload_server {
            writeln!(f, "  payloads for validators {}", plain(url))?;
        }
        writeln!(f, "  RPC node's client       {}", plain(&self.rpc_node))?;
        writeln!(f, "  sequencer's client      {}", plain(&self.sequencer))?;
        write!(f, "  validators' client      {}", plain(&self.validators))?;
        for (service, address) in &self.health {
            write!(f, "\n  health and metrics      {address} ({service})")?;
        }
        Ok(())
    }
}

/// A system that runs. Dropping it kills the services and stops the chain.
#[derive(Debug)]
pub struct Devnet {
    /// Where everything is.
    pub endpoints: Endpoints,
    /// The sequencer's public key.
    pub public_key: PublicKey,
    /// The accounts with money.
    pub accounts: Vec<PrivateKeySigner>,
    /// The chain.
    pub consensus: Consensus,
    /// All its blocks.
    pub blocks: Blocks,
    /// The execution clients.
    pub clients: Clients,
    /// What goes wrong in the consensus.
    pub faults: Faults,
    /// How the services come to each other.
    pub wiring: Wiring,
    /// The validators, by their number.
    pub validators: Vec<Validator>,
    /// What the payload server knows them by, by their number.
    pub validator_secrets: Vec<ValidatorFile>,
    /// What they know the payload server by.
    pub payload_tls: PayloadTls,
    ways: Ways,
    whitelist: PathBuf,
    seats: Vec<BuilderSeat>,
    /// There is none with one builder.
    entrance: Option<Entrance>,
    children: Children,
    directory: Directory,
}

/// A system whose services run and whose chain has not begun: nothing was published yet.
#[derive(Debug)]
pub struct Prepared {
    endpoints: Endpoints,
    keys: Keys,
    clients: Clients,
    wiring: Wiring,
    seats: Vec<BuilderSeat>,
    entrance: Option<Entrance>,
    children: Children,
    directory: Directory,
    doors: Doors,
    options: Options,
    console: Console,
}

impl Prepared {
    /// Starts the services and waits until a block could be built.
    ///
    /// Must be called on a thread that lives as long as the devnet: the services die with it.
    ///
    /// # Errors
    /// If a binary, a file or a port cannot be had, or a service is not ready in time.
    pub async fn start(
        options: &Options,
        binaries: &Binaries,
        console: Console,
    ) -> Result<Self, DevnetError> {
        let options = &options.with_lasting_ports().map_err(DevnetError::Ports)?;
        let seed = options.seed.unwrap_or_else(rand::random);
        let directory = Directory::new(options.keep).map_err(DevnetError::Keys)?;
        console.line(format_args!("seed {seed}, files in {}", directory.path().display()));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let keys = Keys::create(&directory, options.chain, seed, options.validators, now);
        let keys = keys.map_err(DevnetError::Keys)?;
        let sockets = Sockets::new(&directory).map_err(DevnetError::Sockets)?;
        let clients = Clients::start(options, &keys).await.map_err(DevnetError::Clients)?;
        let seats = BuilderSeat::all(options, &directory, &sockets);
        let seats = seats.map_err(DevnetError::Sockets)?;
        let wiring = wire(options, &directory, &sockets, &keys).await;
        let wiring = wiring.map_err(DevnetError::Wiring)?;
        let lines = CommandLines {
            options,
            binaries,
            keys: &keys,
            sockets: &sockets,
            ways: &wiring.ways,
            clients: &clients,
        };
        let mut children = Children::new(&directory.file("logs"));
        children
            .set_environment(options.collector.iter().flat_map(Collector::environment).collect());
        console.line("starting the services");
        let entrance = enter(options, &sockets, &seats).await.map_err(DevnetError::Wiring)?;
        let (endpoints, ways) =
            start_all(&mut children, &lines, &wiring, &seats, entrance.as_ref()).await?;
        let doors = doors(&endpoints, &keys, &clients, ways).map_err(DevnetError::Doors)?;
        let first: Vec<_> = FIRST.into_iter().chain(SIDECARS).collect();
        let ready = children.until_ready(&first, READY, console).await;
        ready.map_err(DevnetError::Child)?;
        let options = options.clone();
        Ok(Self {
            endpoints,
            keys,
            clients,
            wiring,
            seats,
            entrance,
            children,
            directory,
            doors,
            options,
            console,
        })
    }

    /// Where everything is.
    pub const fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// What the feed is verified with.
    pub fn verifier(&self) -> Verifier {
        Verifier::new(self.options.chain.id(), vec![self.keys.public_key])
    }

    /// Lets the chain begin, and waits until everybody is ready.
    ///
    /// # Errors
    /// If a client does not take part, or a service is not ready in time.
    pub async fn begin(self) -> Result<Devnet, DevnetError> {
        let Self { endpoints, keys, clients, wiring, seats, entrance, .. } = self;
        let Self { mut children, directory, doors, options, console, .. } = self;
        let config = consensus::Config {
            spec: keys.spec.clone(),
            validators: keys.validators.clone(),
            slot: options.slot(),
            proposal_delay: options.proposal_delay(),
            patience: options.patience(),
            faults: Faults::default(),
        };
        let faults = config.faults.clone();
        let ways = doors.ways.clone();
        let consensus = Consensus::start(config, doors).await;
        let (consensus, blocks) = consensus.map_err(DevnetError::Consensus)?;
        children.until_ready(&THEN, READY, console).await.map_err(DevnetError::Child)?;
        let Keys { public_key, accounts, validators, validator_secrets, .. } = keys;
        Ok(Devnet {
            endpoints,
            public_key,
            accounts,
            consensus,
            blocks,
            clients,
            faults,
            wiring,
            validators,
            validator_secrets,
            payload_tls: keys.payload_tls,
            ways,
            whitelist: keys.whitelist,
            seats,
            entrance,
            children,
            directory,
        })
    }
}

impl Devnet {
    /// Starts everything.
    ///
    /// Must be called on a thread that lives as long as the devnet: the services die with it.
    ///
    /// # Errors
    /// If something cannot be had or is not ready in time.
    pub async fn start(
        options: &Options,
        binaries: &Binaries,
        console: Console,
    ) -> Result<Self, DevnetError> {
        Prepared::start(options, binaries, console).await?.begin().await
    }

    /// The builder to which everybody is led, and the one that stands by.
    pub fn builders(&self) -> (&'static str, Option<&'static str>) {
        let current = self.entrance.as_ref().map_or(0, |entrance| *entrance.current().borrow());
        let standby = self.seats.iter().enumerate().find(|(at, _)| *at != current);
        (self.seats[current].name, standby.map(|(_, seat)| seat.name))
    }

    /// All builders.
    pub fn all_builders(&self) -> Vec<&'static str> {
        self.seats.iter().map(|seat| seat.name).collect()
    }

    /// Whether validators get their blocks from a payload server.
    pub const fn has_payload_server(&self) -> bool {
        self.endpoints.payload_server.is_some()
    }

    /// The sidecars.
    pub fn sidecars(&self) -> Vec<&'static str> {
        let has_sidecar = |(at, way): (usize, &Way)| match way {
            Way::Sidecar(_) => Some(SIDECARS[at]),
            Way::Direct | Way::Native(_) => None,
        };
        self.ways.of.iter().enumerate().filter_map(has_sidecar).collect()
    }

    /// How each validator comes to the sequencer's block.
    pub fn ways(&self) -> &[Way] {
        &self.ways.of
    }

    /// Has these validators, and no others, on the whitelist of the sequencer: it builds for them, from
    /// the next block that is ordered on, and its payload server reads the list anew.
    ///
    /// # Errors
    /// If the file cannot be replaced.
    pub fn set_whitelist(&mut self, validators: &[usize]) -> io::Result<()> {
        let listed = validators.iter().filter_map(|at| self.validators.get(*at));
        // Whoever reads it meanwhile finds all of the one or all of the other.
        let new = self.whitelist.with_extension("new");
        fs::write(&new, whitelist_of(listed))?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
        fs::rename(&new, &self.whitelist)?;
        let all = 0..self.validators.len();
        self.ways.outsiders.set(all.filter(|at| !validators.contains(at)));
        self.children.hang_up(PAYLOAD_SERVER);
        Ok(())
    }

    /// The services, for whoever does something to them.
    pub const fn children(&mut self) -> &mut Children {
        &mut self.children
    }

    /// Waits for the next block. Cancel safe.
    ///
    /// # Errors
    /// As soon as something fails.
    pub async fn next_block(&mut self) -> Result<Arc<CanonicalBlock>, DevnetError> {
        tokio::select! {
            error = self.children.first_end() => Err(DevnetError::Child(error)),
            error = self.consensus.failed() => Err(DevnetError::Consensus(error)),
            Ok(next) = next(&mut self.blocks) => next,
        }
    }

    /// Stops everything, the last started first.
    ///
    /// # Errors
    /// Names the services that did not end as they should. All of them have ended.
    pub async fn stop(self) -> Result<(), Vec<ChildError>> {
        let Self { consensus, clients, children, directory, .. } = self;
        consensus.stop().await;
        let stopped = children.stop().await;
        clients.stop().await;
        drop(directory);
        stopped
    }
}

/// The next block; `Err(())` if there will be none, of which the chain itself says why.
async fn next(blocks: &mut Blocks) -> Result<Result<Arc<CanonicalBlock>, DevnetError>, ()> {
    match blocks.recv().await {
        Ok(block) => Ok(Ok(block)),
        Err(RecvError::Lagged(_)) => Ok(Err(DevnetError::Behind)),
        Err(RecvError::Closed) => Err(()),
    }
}
