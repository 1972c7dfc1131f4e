//! TLS: what the port shows, when it changes, and our own client on it.

use std::{io, sync::Arc, time::Duration};

use preconf_chassis::{Context, Endpoint, Security, SecurityArgs, channel};
use preconf_payload_api::{
    ClientConfig as Sequencer, FetchError, FetchFailure, MAX_RESPONSE_BYTES, PayloadClient,
    PayloadRequest, ValidatorSecret, client::Authorities,
};
use preconf_wire::payload::{Proposer, ProposersClient};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    ClientConfig, ProtocolVersion, RootCertStore, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
    version::{TLS12, TLS13},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

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
    PayloadClient::new(Sequencer {
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

    // Nor the end of the process.
    tokio::time::timeout(Duration::from_secs(5), world.end()).await.expect("it ends at once");
    drop((silent, plain));
}

/// What the server says to these bytes until it closes the connection.
async fn said_to(world: &World, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(world.addresses.payloads).await.unwrap();
    let (beginning, rest) = bytes.split_at(1);
    stream.write_all(beginning).await.unwrap();
    stream.flush().await.unwrap();
    stream.write_all(rest).await.unwrap();
    let mut said = Vec::new();
    // What it has not read before it closes is told as an error, after what it said.
    let read = timeout(SOON, stream.read_to_end(&mut said)).await;
    let _ = read.expect("it is closed in time");
    said
}

#[tokio::test]
async fn who_speaks_cleartext_is_told_so_in_the_words_of_gos_server() {
    let world = serving(&Chain::new()).await;
    let body = "x".repeat(2_000);
    let head = "HTTP/1.1\r\nHost: x\r\nContent-Length: 2000\r\n\r\n";
    for method in ["GET", "HEAD", "POST", "PUT", "OPTIONS"] {
        let request = format!("{method} /eth/v1/preconf/payload {head}{body}");
        let said = String::from_utf8(said_to(&world, request.as_bytes()).await).unwrap();
        let told = "HTTP/1.0 400 Bad Request\r\n\r\n\
            Client sent an HTTP request to an HTTPS server.\n";
        assert_eq!(said, told, "{method}");
    }
    // What is neither TLS nor what Go takes for HTTP is not answered in HTTP.
    for other in ["PATCH / HTTP/1.1\r\n\r\n", "SSH-2.0-x\r\n\r\n\r\n"] {
        assert!(!said_to(&world, other.as_bytes()).await.starts_with(b"HTTP"), "{other}");
    }
    world.end().await;
}

/// What a client and the server agree upon.
async fn agreed(
    world: &World,
    chain: &Chain,
    versions: &[&'static SupportedProtocolVersion],
    protocols: &[&[u8]],
) -> io::Result<(Option<ProtocolVersion>, Option<Vec<u8>>)> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(chain.authority.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions);
    let mut config = config.unwrap().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let stream = TcpStream::connect(world.addresses.payloads).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let connection = stream.get_ref().1;
    Ok((connection.protocol_version(), connection.alpn_protocol().map(<[u8]>::to_vec)))
}

/// What the server says first to the hello of a client whose newest version is this minor one.
async fn begun(world: &World, minor: u8) -> [u8; 7] {
    let extensions: [&[u8]; 2] = [
        &[0, 10, 0, 4, 0, 2, 0, 23], // The group is P-256,
        &[0, 13, 0, 4, 0, 2, 4, 3],  // signatures are with it and SHA-256,
    ];
    let extensions = extensions.concat();
    let suite = [0, 2, 0xc0, 0x2b]; // and so is the suite.
    let parts: [&[u8]; 7] =
        [&[3, minor], &[7; 32], &[0], &suite, &[1, 0], &[0, extensions.len() as u8], &extensions];
    let hello = parts.concat();
    let message = [&[1, 0, 0, hello.len() as u8], hello.as_slice()].concat();
    let record = [&[22, 3, 1, 0, message.len() as u8], message.as_slice()].concat();
    let mut stream = TcpStream::connect(world.addresses.payloads).await.unwrap();
    stream.write_all(&record).await.unwrap();
    let mut said = [0; 7];
    timeout(SOON, stream.read_exact(&mut said)).await.expect("it is answered in time").unwrap();
    said
}

#[tokio::test]
async fn tls_is_spoken_from_1_2_on_and_http_2_is_not_chosen() {
    let chain = Chain::new();
    let world = serving(&chain).await;
    for (version, named) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)]
    {
        let both = agreed(&world, &chain, &[version], &[b"h2", b"http/1.1"]).await.unwrap();
        assert_eq!(both, (Some(named), Some(b"http/1.1".to_vec())));
        let none = agreed(&world, &chain, &[version], &[]).await.unwrap();
        assert_eq!(none, (Some(named), None));
        assert!(agreed(&world, &chain, &[version], &[b"h2"]).await.is_err());
    }
    // The same hello is one of TLS 1.2 or of 1.1; that is an alert, fatal: protocol version.
    let said = begun(&world, 3).await;
    assert_eq!(said[0], 22, "a handshake goes on: {said:?}");
    let said = begun(&world, 2).await;
    assert_eq!((said[0], &said[5..]), (21, &[2, 70][..]), "{said:?}");
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
