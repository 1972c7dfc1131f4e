//! The client over TLS: whom it believes, and what becomes of a handshake that took too long.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use preconf_payload_api::{
    Authorities, ClientConfig, FetchError, PayloadClient, PayloadRequest, ValidatorSecret,
};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd,
};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

const RESPONSE: &str = include_str!("../testdata/response.json");
/// Longer than anything takes, even on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// A server of this machine.
struct Server {
    address: SocketAddr,
    /// Each handshake waits for one permit.
    gate: Arc<Semaphore>,
    /// Told of each handshake that was completed.
    shaken: mpsc::Receiver<()>,
}

impl Server {
    async fn start(certificate: &Certificate, key: &KeyPair) -> Self {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let tls = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (gate, (tell, shaken)) = (Arc::new(Semaphore::new(0)), mpsc::channel(100));
        let opened = Arc::clone(&gate);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (tls, gate, tell) = (tls.clone(), Arc::clone(&opened), tell.clone());
                tokio::spawn(async move {
                    gate.acquire().await.unwrap().forget();
                    let Ok(mut stream) = tls.accept(stream).await else { return };
                    tell.send(()).await.unwrap();
                    let mut request = Vec::new();
                    while !request.ends_with(b"}") {
                        let mut piece = [0; 4096];
                        match stream.read(&mut piece).await {
                            Ok(read @ 1..) => request.extend_from_slice(&piece[..read]),
                            Ok(0) | Err(_) => return,
                        }
                    }
                    let length = RESPONSE.len();
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
                    stream.write_all((answer + RESPONSE).as_bytes()).await.unwrap();
                });
            }
        });
        Self { address, gate, shaken }
    }

    fn client(&self, pinned: &Certificate) -> PayloadClient {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), pinned.pem()).unwrap();
        self.client_of(Authorities::read(file.path()).unwrap())
    }

    fn client_of(&self, authorities: Authorities) -> PayloadClient {
        PayloadClient::new(ClientConfig {
            url: format!("https://localhost:{}", self.address.port()).parse().unwrap(),
            secret: ValidatorSecret::from_bytes([7; 32]),
            authorities: Some(authorities),
            max_response_bytes: 1 << 20,
        })
        .unwrap()
    }
}

fn of(name: &str) -> CertificateParams {
    with(CertificateParams::new([name.to_owned()]).unwrap(), |params| {
        params.distinguished_name.push(DnType::CommonName, name);
    })
}

/// As `openssl req -x509` makes it: authority and server at once.
fn of_both(name: &str) -> CertificateParams {
    with(of(name), |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))
}

fn with(
    mut params: CertificateParams,
    change: impl FnOnce(&mut CertificateParams),
) -> CertificateParams {
    change(&mut params);
    params
}

/// Whether a server with this certificate is believed by who has pinned that one.
async fn is_believed(certificate: &Certificate, key: &KeyPair, pinned: &Certificate) -> bool {
    let server = Server::start(certificate, key).await;
    server.gate.add_permits(100);
    let fetched = server.client(pinned).fetch(&PayloadRequest::default(), SOON).await;
    assert!(matches!(fetched, Ok(_) | Err(FetchError::Transport { .. })), "{fetched:?}");
    fetched.is_ok()
}

#[tokio::test]
async fn a_server_is_believed_that_presents_what_was_pinned_whoever_has_issued_it() {
    let key = KeyPair::generate().unwrap();
    for params in [of_both("localhost"), of("localhost")] {
        let pinned = params.self_signed(&key).unwrap();
        assert!(is_believed(&pinned, &key, &pinned).await, "{:?}", params.is_ca);
        // The same name, another certificate.
        let stranger = KeyPair::generate().unwrap();
        let strange = params.self_signed(&stranger).unwrap();
        assert!(!is_believed(&strange, &stranger, &pinned).await);
    }
    // One of an authority that nobody knows here.
    let authority = Issuer::new(of_both("authority"), KeyPair::generate().unwrap());
    let leaf = of("localhost").signed_by(&key, &authority).unwrap();
    assert!(is_believed(&leaf, &key, &leaf).await);
}

#[tokio::test]
async fn what_was_pinned_is_not_believed_under_another_name_or_at_another_time() {
    let key = KeyPair::generate().unwrap();
    let (past, future) = (date_time_ymd(2020, 1, 1), date_time_ymd(4000, 1, 1));
    let authority = Issuer::new(of_both("authority"), KeyPair::generate().unwrap());
    for wrong in [
        of_both("elsewhere"),
        with(of_both("localhost"), |params| params.not_after = past),
        with(of_both("localhost"), |params| params.not_before = future),
        of("elsewhere"),
        with(of("localhost"), |params| params.not_after = past),
    ] {
        let of_itself = wrong.self_signed(&key).unwrap();
        assert!(!is_believed(&of_itself, &key, &of_itself).await, "{wrong:?}");
        let of_others = wrong.signed_by(&key, &authority).unwrap();
        assert!(!is_believed(&of_others, &key, &of_others).await, "{wrong:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_used_of_a_file_is_left_out_and_nothing_but_that_is_refused() {
    let key = KeyPair::generate().unwrap();
    let good = of("localhost").self_signed(&key).unwrap();
    let section =
        |body: &str| format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
    let other_kind = KeyPair::generate().unwrap().serialize_pem();
    let mut endless = good.pem();
    endless.truncate(endless.len() / 2);
    endless.push('\n');
    let unusable = [section("AAAA"), section("%"), endless, good.pem().replacen("--\n", "-\n", 1)];
    for wrong in unusable {
        let read = |pem: String| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), pem).unwrap();
            Authorities::read(file.path())
        };
        let error = read(wrong.clone() + &other_kind).unwrap_err().to_string();
        assert!(error.contains("holds no usable certificate"), "{wrong}: {error}");
        let error = read(other_kind.clone()).unwrap_err().to_string();
        assert!(error.contains("holds no PEM certificate"), "{error}");
        for pem in [wrong.clone() + &good.pem(), other_kind.clone() + &good.pem() + &wrong] {
            let server = Server::start(&good, &key).await;
            server.gate.add_permits(100);
            let client = server.client_of(read(pem).unwrap());
            client.fetch(&PayloadRequest::default(), SOON).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_handshake_that_nobody_waited_for_is_completed_and_left_to_the_next_request() {
    let key = KeyPair::generate().unwrap();
    let certificate = of("localhost").self_signed(&key).unwrap();
    let mut server = Server::start(&certificate, &key).await;
    let client = server.client(&certificate);
    let request = PayloadRequest::default();
    let given_up = client.fetch(&request, Duration::from_millis(100)).await;
    assert!(matches!(given_up, Err(FetchError::Timeout { .. })), "{given_up:?}");
    // One handshake, and no more: a new connection would be of no use.
    server.gate.add_permits(1);
    timeout(SOON, server.shaken.recv()).await.unwrap().unwrap();
    client.fetch(&request, Duration::from_secs(4)).await.unwrap();
}
