//! How the services come to each other: straight, or over links that a scenario can break.
//!
//! Without a scenario nothing stands between them. With one, each [`Line`] is a link of ours, whole
//! until it is said otherwise.

use std::{io, net::SocketAddr};

use preconf_chassis::Endpoint;
use serde::Deserialize;
use url::Url;

use crate::{
    impostor::Impostor,
    keys::{Directory, Validator},
    links::{Address, Condition, Link},
    services::Sockets,
};

/// A connection between two services, by whom it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Line {
    /// From the builders to the signer.
    Signer,
    /// From the gateway to the builder's feed.
    Feed,
    /// From the overlay to the builder's ingress.
    Ingress,
    /// From the consumer to the gateway.
    Gateway,
    /// From the overlay to the consumer's snapshots.
    Pending,
    /// From the payload server to the builder.
    Payloads,
    /// From the validators to the payload server.
    PayloadServer,
}

impl Line {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Signer,
        Self::Feed,
        Self::Ingress,
        Self::Gateway,
        Self::Pending,
        Self::Payloads,
        Self::PayloadServer,
    ];
}

/// The lines of a devnet. Dropping it closes those that are links.
#[derive(Debug)]
pub struct Wiring {
    /// Where those who use a socket find it.
    pub ways: Sockets,
    links: Vec<(Line, Link)>,
    /// Where the payload server is, and who may stand before it.
    before: Option<(SocketAddr, Impostor)>,
}

impl Wiring {
    /// Nothing in between.
    pub fn straight(sockets: &Sockets) -> Self {
        Self { ways: sockets.clone(), links: Vec::new(), before: None }
    }

    /// A link in each line; `gateway` is where the gateway's WebSocket will be.
    ///
    /// # Errors
    /// If nobody can listen at one of them.
    pub async fn over_links(
        directory: &Directory,
        sockets: &Sockets,
        gateway: SocketAddr,
    ) -> io::Result<Self> {
        let mut wiring = Self::straight(sockets);
        let ways = &mut wiring.ways;
        for (line, way) in [
            (Line::Signer, &mut ways.signer),
            (Line::Feed, &mut ways.feed),
            (Line::Ingress, &mut ways.ingress),
            (Line::Pending, &mut ways.pending),
            (Line::Payloads, &mut ways.payloads),
        ] {
            let Endpoint::Unix(to) = way.clone() else { continue };
            let name = to.file_stem().unwrap_or_default().to_string_lossy();
            let at = directory.file(&format!("{name}-link.sock"));
            *way = Endpoint::Unix(at.clone());
            let link = Link::open(&Address::Unix(at), Some(Address::Unix(to))).await?;
            wiring.links.push((line, link));
        }
        let link = Link::open(&Address::ANY, Some(Address::Tcp(gateway))).await?;
        wiring.links.push((Line::Gateway, link));
        Ok(wiring)
    }

    /// A link to the payload server at this address, and an impostor who may stand before it.
    ///
    /// # Errors
    /// If nobody can listen.
    pub async fn before_payload_server(
        &mut self,
        server: SocketAddr,
        validators: &[Validator],
    ) -> io::Result<()> {
        let keys = validators.iter().map(|validator| validator.public_key).collect();
        let impostor = Impostor::open(server, keys).await?;
        let link = Link::open(&Address::ANY, Some(Address::Tcp(server))).await?;
        self.links.push((Line::PayloadServer, link));
        self.before = Some((server, impostor));
        Ok(())
    }

    /// Has what the payload server says altered on its way, or not.
    pub fn lie(&self, lies: bool) {
        let link = self.link(Line::PayloadServer);
        if let (Some(link), Some((server, impostor))) = (link, &self.before) {
            let to = if lies { impostor.at() } else { *server };
            link.lead_to(Some(Address::Tcp(to)));
        }
    }

    /// Where the consumer finds the gateway that listens at `url`.
    pub fn gateway(&self, url: &Url) -> Url {
        self.over(Line::Gateway, url)
    }

    /// Where validators find the payload server that listens at `url`.
    pub fn payload_server(&self, url: &Url) -> Url {
        self.over(Line::PayloadServer, url)
    }

    fn over(&self, line: Line, url: &Url) -> Url {
        let mut url = url.clone();
        if let Some(Address::Tcp(at)) = self.link(line).map(Link::at) {
            // A URL with a host may have a port.
            url.set_port(Some(at.port())).ok();
        }
        url
    }

    /// Changes how a line is, if it is a link.
    pub fn set(&self, line: Line, condition: Condition) {
        if let Some(link) = self.link(line) {
            link.set(condition);
        }
    }

    fn link(&self, line: Line) -> Option<&Link> {
        self.links.iter().find_map(|(name, link)| (*name == line).then_some(link))
    }
}
