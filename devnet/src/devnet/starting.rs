//! How the services of a devnet are started and come to each other.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use preconf_chassis::{Endpoint, Security, channel};
use preconf_engine::{EngineClient, EngineError};
use preconf_payload_api::{
    Authorities, ClientConfig, MAX_RESPONSE_BYTES, PayloadClient, SequencerUrl, ValidatorPubkey,
};
use preconf_wire::payload::{Proposer, ProposersClient};
use url::{ParseError, Url};

use crate::{
    build::BuildError,
    children::{Children, Service},
    clients::Clients,
    consensus::{Doors, Native, Node, Oracle, Outsiders, Way, Ways, slot_rule},
    entrance::{Behind, Entrance},
    keys::{Directory, Keys},
    links::Address,
    options::{Options, Port},
    services::{BuilderSeat, CommandLines, PAYLOAD_SERVER, Sockets},
    wiring::Wiring,
};

use super::{DevnetError, Endpoints};

/// How long the payload server may take to hear whose turn it is.
const TELLING: Duration = Duration::from_millis(500);

/// Links for whoever may break them.
pub(super) async fn wire(
    options: &Options,
    directory: &Directory,
    sockets: &Sockets,
    keys: &Keys,
) -> io::Result<Wiring> {
    if options.scenario.is_none() {
        return Ok(Wiring::straight(sockets));
    }
    let gateway = options.address(Port::GatewayWebSocket);
    let mut wiring = Wiring::over_links(directory, sockets, gateway).await?;
    if options.fetch.has_server() {
        let server = options.address(Port::PayloadServer);
        wiring.before_payload_server(server, &keys.validators).await?;
    }
    Ok(wiring)
}

/// The entrance to several builders.
pub(super) async fn enter(
    options: &Options,
    sockets: &Sockets,
    seats: &[BuilderSeat],
) -> io::Result<Option<Entrance>> {
    if seats.len() < 2 {
        return Ok(None);
    }
    let doors = |engine, sockets: [&Endpoint; 3]| {
        let files = sockets.into_iter().filter_map(|endpoint| match endpoint {
            Endpoint::Unix(path) => Some(Address::Unix(path.clone())),
            Endpoint::Plaintext(_) | Endpoint::Tls(_) => None,
        });
        let engine = Address::Tcp(options.address(engine));
        std::iter::once(engine).chain(files).collect::<Vec<_>>()
    };
    let behind = |seat: &BuilderSeat| Behind {
        name: seat.name,
        health: options.address(seat.health).to_string(),
        doors: doors(seat.engine, [&seat.feed, &seat.ingress, &seat.payloads]),
    };
    let at = doors(Port::BuilderEngine, [&sockets.feed, &sockets.ingress, &sockets.payloads]);
    Entrance::open(&at, seats.iter().map(behind).collect()).await.map(Some)
}

/// Starts the services in the order in which they know each other.
pub(super) async fn start_all(
    children: &mut Children,
    lines: &CommandLines<'_>,
    wiring: &Wiring,
    seats: &[BuilderSeat],
    entrance: Option<&Entrance>,
) -> Result<(Endpoints, Ways), DevnetError> {
    let mut starting = Starting { children, health: Vec::new(), bound: BTreeMap::new() };
    starting.start(lines.signer(), "signer").await?;
    for seat in seats {
        starting.start(lines.builder(seat), "engine").await?;
    }
    let (ways, payload_server) = start_for_validators(&mut starting, lines, wiring).await?;
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
    let endpoints = Endpoints {
        overlay: starting.url("rpc-overlay", "json-rpc")?,
        gateway: gateway_url.parse().map_err(DevnetError::Feed)?,
        gateway_url,
        builder_engine,
        payload_server,
        pending: lines.sockets.pending.clone(),
        rpc_node: lines.clients.rpc_node.rpc_url(),
        sequencer: lines.clients.sequencer.rpc_url(),
        validators: lines.clients.validators.rpc_url(),
        health: starting.health,
    };
    Ok((endpoints, ways))
}

/// Starts what validators need to come to the sequencer's block, and says where they ask for it.
async fn start_for_validators(
    starting: &mut Starting<'_>,
    lines: &CommandLines<'_>,
    wiring: &Wiring,
) -> Result<(Ways, Option<Url>), DevnetError> {
    let CommandLines { options, keys, sockets, .. } = lines;
    if !options.fetch.has_server() {
        return Ok((Ways::default(), None));
    }
    // A CometBFT node's height is the number of a block.
    let node = match options.fetch.is_native() && keys.spec.berachain().is_some() {
        true => {
            let pubkey = ValidatorPubkey(keys.validators[0].public_key.0);
            let first = Proposer { slot: 1, round: 0, pubkey };
            let address = options.address(Port::CometBft);
            Some(Node::serve(address, first).await.map_err(DevnetError::Node)?)
        }
        false => None,
    };
    let url = node.as_ref().map(|node| node.url());
    starting.start(lines.payload_server(url), "payloads").await?;
    let server = starting.url(PAYLOAD_SERVER, "payloads")?;
    let asked = wiring.payload_server(&server);
    let sequencer: SequencerUrl = asked.as_str().parse().map_err(DevnetError::Sequencer)?;
    let authority = options.has_tls().then(|| Authorities::read(&keys.payload_tls.authority));
    let authorities = authority.transpose().map_err(DevnetError::Validators)?;
    let mut of = Vec::new();
    for (number, shared) in keys.validator_secrets.iter().enumerate() {
        of.push(if options.fetch.has_sidecar(number) {
            let address = starting.start(lines.sidecar(number, &asked), "engine").await?;
            let url = address.parse().map_err(|source| unusable("sidecar", &address, source))?;
            let engine = EngineClient::new(&url, keys.validators_secret.jwt.clone());
            Way::Sidecar(engine.map_err(DevnetError::Doors)?)
        } else {
            let client = PayloadClient::new(ClientConfig {
                url: sequencer.clone(),
                secret: shared.secret.clone(),
                authorities: authorities.clone(),
                max_response_bytes: MAX_RESPONSE_BYTES,
            });
            Way::Native(Arc::new(Native::new(client.map_err(DevnetError::Validators)?)))
        });
    }
    let oracle = match node {
        Some(node) => Oracle::Asks(node),
        None => {
            let told = channel(&sockets.proposers, &Security::default());
            Oracle::Told(ProposersClient::new(told.map_err(DevnetError::Validators)?, TELLING))
        }
    };
    let rule = slot_rule(&keys.spec).parse().expect("a rule of ours is one");
    let ways = Ways { of, server: Some((oracle, rule)), outsiders: Outsiders::default() };
    Ok((ways, Some(server)))
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
    ) -> Result<String, DevnetError> {
        let service = service.map_err(DevnetError::Build)?;
        let name = service.name;
        let started = self.children.start(service, &["health", listener]).await;
        let mut started = started.map_err(DevnetError::Child)?;
        self.health.push((name, started.remove("health").unwrap_or_default()));
        let address = started.remove(listener).unwrap_or_default();
        self.bound.entry(listener).or_insert_with(|| address.clone());
        Ok(address)
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
pub(super) fn doors(
    endpoints: &Endpoints,
    keys: &Keys,
    clients: &Clients,
    ways: Ways,
) -> Result<Doors, EngineError> {
    let builder = keys.builder_secret.jwt.clone();
    Ok(Doors {
        sequencer: EngineClient::new(&endpoints.builder_engine, builder)?,
        validators: clients.validators.engine()?,
        rpc_node: clients.rpc_node.engine()?,
        ways,
    })
}
