//! TLS: what the port shows, when it changes, and our own client on it.

use std::time::Duration;

use preconf_chassis::{Context, Endpoint, Security, SecurityArgs, channel};
use preconf_payload_api::{
    ClientConfig, FetchError, FetchFailure, MAX_RESPONSE_BYTES, PayloadClient, PayloadRequest,
    ValidatorSecret, client::Authorities,
};
use preconf_wire::payload::{Proposer, ProposersClient};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use crate::{
    builder::payload,
    world::{KEYS, SECRETS, SLOT, SOON, World, directory, prepare, prepare_with, start, write},
};

/// Who signs certificates.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    fn certify(&self, names: &[&str]) -> Chain {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(names).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Chain { authority: self.pem.clone(), certificate, key: key.serialize_pem() }
    }

    /// How a process with this name is known on links between processes.
    fn link(&self, name: &str) -> Security {
        let directory = tempfile::tempdir().unwrap();
        let chain = self.certify(&[name, "localhost"]);
        chain.write(&directory);
        write(&directory, "ca.pem", &self.pem, 0o644);
        let path = |name: &str| Some(directory.path().join(name));
        let (tls_cert, tls_key, tls_ca) = (path("cert.pem"), path("key.pem"), path("ca.pem"));
        Security::load(&SecurityArgs { tls_cert, tls_key, tls_ca, ..Default::default() }).unwrap()
    }
}

/// An authority, and a certificate of it.
struct Chain {
    authority: String,
    certificate: String,
    key: String,
}

impl Chain {
    /// For this machine.
    fn new() -> Self {
        Authority::new().certify(&["localhost", "127.0.0.1"])
    }

    fn write(&self, directory: &TempDir) {
        write(directory, "cert.pem", &self.certificate, 0o644);
        write(directory, "key.pem", &self.key, 0o600);
    }
}

async fn serving(chain: &Chain) -> World {
    let directory = directory();
    chain.write(&directory);
    let paths = ["cert.pem", "key.pem"].map(|name| directory.path().join(name));
    let [certificate, key] = paths.each_ref().map(|path| path.to_str().unwrap());
    let flags = ["--payload-tls-cert", certificate, "--payload-tls-key", key];
    // The client's tokens are of this machine's time.
    let prepared = prepare(&directory, &flags).unwrap();
    World::start(directory, prepared).await
}

fn client(world: &World, authority: &str) -> PayloadClient {
    write(&world.directory, "ca.pem", authority, 0o644);
    let authorities = Authorities::read(&world.directory.path().join("ca.pem")).unwrap();
    let url = format!("https://localhost:{}/", world.addresses.payloads.port());
    PayloadClient::new(ClientConfig {
        url: url.parse().unwrap(),
        secret: ValidatorSecret::parse(SECRETS[0]).unwrap(),
        authorities: Some(authorities),
        max_response_bytes: MAX_RESPONSE_BYTES,
    })
    .unwrap()
}

fn wanted() -> PayloadRequest {
    PayloadRequest { slot: SLOT, ..Default::default() }
}

#[tokio::test]
async fn our_client_fetches_over_tls_from_the_authority_that_it_trusts_and_no_other() {
    let chain = Chain::new();
    let world = serving(&chain).await;

    let ours = client(&world, &chain.authority);
    assert_eq!(ours.fetch(&wanted(), SOON).await.unwrap(), payload());
    world.until("the builder is asked", || world.context.health.is_ready()).await;
    let healthy = async {
        while ours.health(SOON).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, healthy).await.unwrap();

    let strange = client(&world, &Chain::new().authority);
    let refused = strange.fetch(&wanted(), SOON).await.unwrap_err();
    assert!(matches!(refused, FetchError::Transport { .. }), "{refused:?}");
    assert_eq!(refused.failure(), FetchFailure::Unavailable);
    world.end().await;
}

#[tokio::test]
async fn a_certificate_is_replaced_at_the_signal_and_a_bad_one_is_not_taken() {
    let (before, after) = (Chain::new(), Chain::new());
    let world = serving(&before).await;

    write(&world.directory, "cert.pem", &after.certificate, 0o644);
    world.reread("certificate", "failed").await;
    assert!(client(&world, &before.authority).fetch(&wanted(), SOON).await.is_ok());

    after.write(&world.directory);
    world.reread("certificate", "ok").await;
    assert!(client(&world, &after.authority).fetch(&wanted(), SOON).await.is_ok());
    let stale = client(&world, &before.authority).fetch(&wanted(), SOON).await;
    assert!(matches!(stale, Err(FetchError::Transport { .. })));
    world.end().await;
}

#[tokio::test]
async fn who_speaks_plaintext_or_nothing_at_all_holds_up_nobody() {
    let chain = Chain::new();
    let world = serving(&chain).await;
    let silent = tokio::net::TcpStream::connect(world.addresses.payloads).await.unwrap();
    let mut plain = tokio::net::TcpStream::connect(world.addresses.payloads).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut plain, b"GET / HTTP/1.1\r\n\r\n").await.unwrap();

    let client = client(&world, &chain.authority);
    assert!(client.fetch(&wanted(), Duration::from_secs(5)).await.is_ok());

    drop((silent, plain));
    world.end().await;
}

#[tokio::test]
async fn only_who_has_the_name_for_it_says_whose_turn_it_is() {
    let authority = Authority::new();
    let directory = directory();
    let ours = authority.certify(&["payload-server", "localhost"]);
    ours.write(&directory);
    write(&directory, "ca.pem", &authority.pem, 0o644);
    let paths = ["cert.pem", "key.pem", "ca.pem"].map(|name| directory.path().join(name));
    let [cert, key, ca] = paths.each_ref().map(|path| path.to_str().unwrap());
    let links = ["--tls-cert", cert, "--tls-key", key, "--tls-ca", ca];
    let flags = [&links[..], &["--proposers-listen", "https://localhost:0"]].concat();
    let context = Context::for_test();
    let addresses = start(prepare_with(&directory, &flags).unwrap(), &context).await;
    let endpoint: Endpoint = addresses.proposers.unwrap();
    let say = async |security: &Security| {
        let client = ProposersClient::new(channel(&endpoint, security).unwrap(), SOON);
        let pubkey = KEYS[0].parse().unwrap();
        client.set_proposer(Proposer { slot: SLOT, round: 0, pubkey }).await
    };

    assert!(say(&authority.link("consensus")).await.is_ok());
    // A certificate of ours with another name, and one of somebody else with the right name.
    assert!(say(&authority.link("gateway")).await.is_err());
    assert!(say(&Authority::new().link("consensus")).await.is_err());

    context.finish(SOON).await.map_err(|exit| exit.to_string()).unwrap();
}
