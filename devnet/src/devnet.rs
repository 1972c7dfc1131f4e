//! The whole system on this machine: started in order, watched, and stopped in order.
//!
//! What runs in this process: the execution clients and the consensus client, and with two builders
//! the entrance to them. What runs in processes of its own: the services. Traffic, the observer and the report are not part of
//! it; whoever starts a devnet adds what he wants.

use std::{
    collections::BTreeMap,
    fmt, io,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use alloy_signer_local::PrivateKeySigner;
use preconf_chassis::{Endpoint, endpoint::EndpointError};
use preconf_engine::{EngineClient, EngineError};
use preconf_signing::{PublicKey, Verifier};
use preconf_subscribe::{FeedUrl, FeedUrlError};
use tokio::sync::broadcast::error::RecvError;
use url::{ParseError, Url};

use crate::{
    build::{Binaries, BuildError},
    children::{ChildError, Children, Service},
    client::ServeError,
    clients::Clients,
    consensus::{self, Blocks, CanonicalBlock, Consensus, ConsensusError, Doors, Faults},
    console::Console,
    entrance::{Behind, Entrance},
    keys::{Directory, Keys, KeysError},
    links::Address,
    options::{Options, Port},
    services::{BuilderSeat, CommandLines, Sockets},
    wiring::Wiring,
};

/// How long the services may take to be ready.
const READY: Duration = Duration::from_secs(60);

/// Those without whom no block can be built or seen. A second builder is not ready as long as the
/// first one builds.
const FIRST: [&str; 4] = ["signer", "builder", "builder-0", "gateway"];
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
        let wiring = wire(options, &directory, &sockets).await.map_err(DevnetError::Wiring)?;
        let lines = CommandLines {
            options,
            binaries,
            keys: &keys,
            sockets: &sockets,
            ways: &wiring.ways,
            clients: &clients,
        };
        let mut children = Children::new(&directory.file("logs"));
        console.line("starting the services");
        let entrance = enter(options, &sockets, &seats).await.map_err(DevnetError::Wiring)?;
        let endpoints =
            start_all(&mut children, &lines, &wiring, &seats, entrance.as_ref()).await?;
        let doors = doors(&endpoints, &keys, &clients).map_err(DevnetError::Doors)?;
        let ready = children.until_ready(&FIRST, READY, console).await;
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
        let consensus = Consensus::start(config, doors).await;
        let (consensus, blocks) = consensus.map_err(DevnetError::Consensus)?;
        children.until_ready(&THEN, READY, console).await.map_err(DevnetError::Child)?;
        let Keys { public_key, accounts, .. } = keys;
        Ok(Devnet {
            endpoints,
            public_key,
            accounts,
            consensus,
            blocks,
            clients,
            faults,
            wiring,
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

/// Links for whoever may break them.
async fn wire(options: &Options, directory: &Directory, sockets: &Sockets) -> io::Result<Wiring> {
    match options.scenario {
        None => Ok(Wiring::straight(sockets)),
        Some(_) => {
            let gateway = options.address(Port::GatewayWebSocket);
            Wiring::over_links(directory, sockets, gateway).await
        }
    }
}

/// The entrance to several builders.
async fn enter(
    options: &Options,
    sockets: &Sockets,
    seats: &[BuilderSeat],
) -> io::Result<Option<Entrance>> {
    if seats.len() < 2 {
        return Ok(None);
    }
    let doors = |engine, feed: &Endpoint, ingress: &Endpoint| {
        let files = [feed, ingress].into_iter().filter_map(|endpoint| match endpoint {
            Endpoint::Unix(path) => Some(Address::Unix(path.clone())),
            Endpoint::Plaintext(_) | Endpoint::Tls(_) => None,
        });
        let engine = Address::Tcp(options.address(engine));
        std::iter::once(engine).chain(files).collect::<Vec<_>>()
    };
    let behind = |seat: &BuilderSeat| Behind {
        name: seat.name,
        health: options.address(seat.health).to_string(),
        doors: doors(seat.engine, &seat.feed, &seat.ingress),
    };
    let at = doors(Port::BuilderEngine, &sockets.feed, &sockets.ingress);
    Entrance::open(&at, seats.iter().map(behind).collect()).await.map(Some)
}

/// Starts the services in the order in which they know each other.
async fn start_all(
    children: &mut Children,
    lines: &CommandLines<'_>,
    wiring: &Wiring,
    seats: &[BuilderSeat],
    entrance: Option<&Entrance>,
) -> Result<Endpoints, DevnetError> {
    let mut starting = Starting { children, health: Vec::new(), bound: BTreeMap::new() };
    starting.start(lines.signer(), "signer").await?;
    for seat in seats {
        starting.start(lines.builder(seat), "engine").await?;
    }
    starting.start(lines.gateway(), "websocket").await?;
    let gateway = starting.url("gateway", "websocket")?;
    starting.start(lines.consumer(wiring.gateway(&gateway)), "pending").await?;
    starting.start(lines.overlay(), "json-rpc").await?;
    let gateway_url = starting.bound["websocket"].clone();
    let builder_engine = match entrance {
        None => starting.url("builder", "engine")?,
        // What the entrance listens at was given as an address.
        Some(entrance) => format!("http://{}", entrance.at()[0])
            .parse()
            .map_err(|source| unusable("entrance", &entrance.at()[0].to_string(), source))?,
    };
    Ok(Endpoints {
        overlay: starting.url("rpc-overlay", "json-rpc")?,
        gateway: gateway_url.parse().map_err(DevnetError::Feed)?,
        gateway_url,
        builder_engine,
        pending: lines.sockets.pending.clone(),
        rpc_node: lines.clients.rpc_node.rpc_url(),
        sequencer: lines.clients.sequencer.rpc_url(),
        validators: lines.clients.validators.rpc_url(),
        health: starting.health,
    })
}

/// The services so far, and where they listen.
struct Starting<'a> {
    children: &'a mut Children,
    health: Vec<(&'static str, String)>,
    /// The first of each kind.
    bound: BTreeMap<&'static str, String>,
}

impl Starting<'_> {
    async fn start(
        &mut self,
        service: Result<Service, BuildError>,
        listener: &'static str,
    ) -> Result<(), DevnetError> {
        let service = service.map_err(DevnetError::Build)?;
        let name = service.name;
        let started = self.children.start(service, &["health", listener]).await;
        let mut started = started.map_err(DevnetError::Child)?;
        self.health.push((name, started.remove("health").unwrap_or_default()));
        self.bound.entry(listener).or_insert(started.remove(listener).unwrap_or_default());
        Ok(())
    }

    fn url(&self, service: &'static str, listener: &str) -> Result<Url, DevnetError> {
        let address = &self.bound[listener];
        address.parse::<Url>().map_err(|source| unusable(service, address, source))
    }
}

fn unusable(service: &'static str, address: &str, source: ParseError) -> DevnetError {
    DevnetError::Address { service, address: address.to_owned(), source }
}

/// Where the consensus client goes.
fn doors(endpoints: &Endpoints, keys: &Keys, clients: &Clients) -> Result<Doors, EngineError> {
    let builder = keys.builder_secret.jwt.clone();
    Ok(Doors {
        sequencer: EngineClient::new(&endpoints.builder_engine, builder)?,
        validators: clients.validators.engine()?,
        rpc_node: clients.rpc_node.engine()?,
    })
}
