//! Links between processes: who is let in, who is not, and what happens at the end.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    sync::{Arc, Mutex},
    time::Duration,
};

use preconf_chassis::{
    Backoff, Context, Endpoint, Exit, Listener, Peer, Security, SecurityArgs, channel, grpc,
};
use rcgen::KeyPair;
use tokio::{net::UnixListener, time::timeout};
use tonic::{
    Code, Request, Status,
    service::Routes,
    transport::{Certificate, Channel, ClientTlsConfig},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use self::authority::{Authority, write_secret};

mod authority;

const DEADLINE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_process_of_our_own_user_is_admitted_to_a_unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.sock");
    let server = Server::start(&Endpoint::Unix(path.clone()), &Security::default(), &[]).await;
    let file = fs::metadata(&path).unwrap();

    server.call(&Security::default()).await.unwrap();

    assert_eq!(file.permissions().mode() & 0o777, 0o600);
    let peer = server.seen();
    let pid = std::process::id() as i32;
    assert_eq!(peer, Peer::Unix { uid: file.uid(), pid: Some(pid) });
    server.finish().await.unwrap();
    assert!(!path.exists(), "the socket is removed at the end");
}

#[tokio::test]
async fn a_socket_is_open_to_other_users_only_with_a_list_that_decides() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.sock");
    let args = SecurityArgs { allow_uids: vec![4_000_000_000], ..Default::default() };
    let security = Security::load(&args).unwrap();

    let server = Server::start(&Endpoint::Unix(path.clone()), &security, &[]).await;

    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
    server.call(&security).await.unwrap();
    server.finish().await.unwrap();
}

#[tokio::test]
async fn a_socket_that_nobody_listens_on_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());

    let server = Server::start(&Endpoint::Unix(path), &Security::default(), &[]).await;

    server.call(&Security::default()).await.unwrap();
    server.finish().await.unwrap();
}

#[tokio::test]
async fn a_socket_that_somebody_listens_on_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.sock");
    let _alive = UnixListener::bind(&path).unwrap();

    let refused = bind(&Endpoint::Unix(path.clone()), &Security::default()).await.unwrap_err();

    assert_eq!(
        Exit::from(refused).to_string(),
        format!("another process listens on {}", path.display())
    );
    tokio::net::UnixStream::connect(&path).await.unwrap();
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("precious");
    fs::write(&path, "content").unwrap();

    let refused = bind(&Endpoint::Unix(path.clone()), &Security::default()).await.unwrap_err();

    assert!(Exit::from(refused).to_string().ends_with("precious exists and is not a socket"));
    assert_eq!(fs::read_to_string(&path).unwrap(), "content");
}

#[tokio::test]
async fn plaintext_beyond_loopback_is_refused_unless_the_operator_insists() {
    let anywhere = "http://0.0.0.0:0".parse().unwrap();

    let exit = Exit::from(bind(&anywhere, &Security::default()).await.unwrap_err());

    assert_eq!(exit.code(), 2);
    assert!(exit.to_string().starts_with("refusing to listen: http://0.0.0.0:0: is plaintext"));
    let insisting = SecurityArgs { insecure_plaintext: true, ..Default::default() };
    assert!(bind(&anywhere, &Security::load(&insisting).unwrap()).await.is_ok());
    let elsewhere = "http://192.0.2.1:9000".parse().unwrap();
    assert!(channel(&elsewhere, &Security::default()).is_err(), "clients refuse it too");
}

#[tokio::test]
async fn a_listener_on_port_0_knows_its_port() {
    let server = Server::start(&loopback(), &Security::default(), &[]).await;

    let Endpoint::Plaintext(at) = &server.endpoint else { panic!("{}", server.endpoint) };
    assert_ne!(at.port, 0);
    server.call(&Security::default()).await.unwrap();
    assert!(matches!(server.seen(), Peer::Plaintext(address) if address.ip().is_loopback()));
    server.finish().await.unwrap();
}

#[tokio::test]
async fn a_certificate_of_the_authority_is_admitted_and_its_names_are_known() {
    let authority = Authority::new();
    let server = Server::start(&tls(), &authority.issue("signer"), &[]).await;

    server.call(&authority.issue("builder")).await.unwrap();

    let names = ["builder".to_owned(), "localhost".to_owned()];
    assert_eq!(server.seen(), Peer::Certificate { names: names.into() });
    server.finish().await.unwrap();
}

#[tokio::test]
async fn a_certificate_without_an_allowed_name_is_denied() {
    let authority = Authority::new();
    let server = Server::start(&tls(), &authority.issue("signer"), &["builder"]).await;

    server.call(&authority.issue("builder")).await.unwrap();
    let denied = server.call(&authority.issue("gateway")).await.unwrap_err();

    assert_eq!(denied.code(), Code::PermissionDenied);
    server.finish().await.unwrap();
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let authority = Authority::new();
    let server = Server::start(&tls(), &authority.issue("signer"), &[]).await;
    let ca = fs::read(authority.directory.path().join("ca.pem")).unwrap();
    let anonymous = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
    let endpoint = tonic::transport::Endpoint::from_shared(server.endpoint.to_string()).unwrap();
    let channel = endpoint.tls_config(anonymous).unwrap().connect_lazy();

    check(channel).await.unwrap_err();

    server.until_refused("handshake").await;
    assert!(server.peers.lock().unwrap().is_empty(), "no request came through");
    server.finish().await.unwrap();
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused_by_either_side() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let server = Server::start(&tls(), &ours.issue("signer"), &[]).await;

    // It trusts our authority, so it is the server that refuses.
    server.call(&theirs.issue_trusting("builder", &ours)).await.unwrap_err();
    server.until_refused("handshake").await;

    // It shows a certificate of ours, but does not trust us.
    let refused = server.call(&ours.issue_trusting("builder", &theirs)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);

    assert!(server.peers.lock().unwrap().is_empty(), "no request came through");
    server.finish().await.unwrap();
}

#[tokio::test]
async fn a_peer_that_is_down_at_start_is_reached_when_it_appears() {
    let directory = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::Unix(directory.path().join("x.sock"));
    let channel = channel(&endpoint, &Security::default()).unwrap();
    let down = check(channel.clone()).await.unwrap_err();
    assert_eq!(down.code(), Code::Unavailable);

    let server = Server::start(&endpoint, &Security::default(), &[]).await;

    let reached = async {
        let mut backoff = Backoff::new();
        while check(channel.clone()).await.is_err() {
            backoff.wait().await;
        }
    };
    timeout(DEADLINE, reached).await.unwrap();
    server.finish().await.unwrap();
}

#[tokio::test]
async fn a_stream_that_does_not_end_is_cut_at_the_drain_deadline() {
    let server = Server::start(&loopback(), &Security::default(), &[]).await;
    let channel = channel(&server.endpoint, &Security::default()).unwrap();
    let request = HealthCheckRequest { service: String::new() };
    let mut stream = HealthClient::new(channel).watch(request).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();

    let finished = server.context.finish(Duration::from_millis(50));
    timeout(DEADLINE, finished).await.unwrap().unwrap();

    let end = timeout(DEADLINE, stream.message()).await.expect("the connection is cut");
    assert!(!matches!(end, Ok(Some(_))), "nothing more is sent: {end:?}");
}

#[tokio::test]
async fn a_key_that_does_not_belong_to_the_certificate_is_named() {
    let authority = Authority::new();
    authority.issue("signer");
    let directory = authority.directory.path();
    write_secret(&directory.join("other.key"), &KeyPair::generate().unwrap().serialize_pem());
    let args = SecurityArgs {
        tls_cert: Some(directory.join("signer.pem")),
        tls_key: Some(directory.join("other.key")),
        tls_ca: Some(directory.join("ca.pem")),
        ..Default::default()
    };

    let refused = Security::load(&args).unwrap_err().to_string();

    assert!(refused.ends_with("signer.pem: does not go with the private key"), "{refused}");
}

#[tokio::test]
async fn a_renewed_certificate_is_used_without_a_restart() {
    let (old, new) = (Authority::new(), Authority::new());
    let (signer, builder) = (old.issue("signer"), old.issue("builder"));
    let server = Server::start(&tls(), &signer, &[]).await;
    let before = channel(&server.endpoint, &builder).unwrap();
    check(before.clone()).await.unwrap();

    for name in ["signer", "builder"] {
        new.issue(name);
        old.take_over(name, &new);
    }
    server.context.follow_certificates(&signer);
    server.until_counted("certificates_reloaded_total{outcome=\"ok\"} 1").await;

    server.call(&new.issue("gateway")).await.unwrap();
    check(before).await.expect("a connection that was made stays");
    server.call(&builder).await.expect_err("the client still shows the old one");
    assert!(builder.reload().unwrap());
    server.call(&builder).await.unwrap();
    assert!(!builder.reload().unwrap(), "nothing has changed since");
    server.finish().await.unwrap();
}

#[tokio::test]
async fn a_renewal_that_cannot_be_used_leaves_the_old_certificate_in_use() {
    let authority = Authority::new();
    let signer = authority.issue("signer");
    let server = Server::start(&tls(), &signer, &[]).await;
    let key = authority.directory.path().join("signer.key");
    write_secret(&key, &KeyPair::generate().unwrap().serialize_pem());

    server.context.follow_certificates(&signer);

    server.until_counted("certificates_reloaded_total{outcome=\"failed\"} 1").await;
    server.call(&authority.issue("builder")).await.unwrap();
    server.finish().await.unwrap();
}

fn loopback() -> Endpoint {
    "http://127.0.0.1:0".parse().unwrap()
}

fn tls() -> Endpoint {
    "https://localhost:0".parse().unwrap()
}

async fn bind(
    endpoint: &Endpoint,
    security: &Security,
) -> Result<Listener, preconf_chassis::listener::BindError> {
    Context::for_test().bind("test", endpoint, security).await
}

async fn check(channel: Channel) -> Result<(), Status> {
    let request = HealthCheckRequest { service: String::new() };
    let check = async { HealthClient::new(channel).check(request).await };
    timeout(DEADLINE, check).await.expect("a call has a deadline").map(drop)
}

/// A gRPC server that remembers who called.
struct Server {
    context: Context,
    endpoint: Endpoint,
    peers: Arc<Mutex<Vec<Peer>>>,
}

impl Server {
    async fn start(endpoint: &Endpoint, security: &Security, names: &[&str]) -> Self {
        let context = Context::for_test();
        let listener = context.bind("test", endpoint, security).await.unwrap();
        let listener = listener.allow_names(names.iter().map(|&name| name.to_owned()));
        let endpoint = listener.local().clone();

        let peers = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&peers);
        let remember = move |request: Request<()>| {
            seen.lock().unwrap().push(Peer::of(&request).expect("every request has one").clone());
            Ok(request)
        };
        let (_, health) = tonic_health::server::health_reporter();
        let routes =
            Routes::new(tonic::service::interceptor::InterceptedService::new(health, remember));
        let serving = grpc::serve(listener, routes, context.shutdown.clone());
        context.tasks.spawn("grpc", serving);
        Self { context, endpoint, peers }
    }

    async fn call(&self, security: &Security) -> Result<(), Status> {
        check(channel(&self.endpoint, security).unwrap()).await
    }

    fn seen(&self) -> Peer {
        self.peers.lock().unwrap().last().expect("somebody called").clone()
    }

    async fn until_refused(&self, reason: &str) {
        let labels = format!("listener=\"test\",reason=\"{reason}\"");
        self.until_counted(&format!("connections_refused_total{{{labels}}} 1")).await;
    }

    async fn until_counted(&self, line: &str) {
        let line = format!("preconf_test_{line}");
        let counted = async {
            while !self.context.registry.encode().contains(&line) {
                tokio::task::yield_now().await;
            }
        };
        timeout(DEADLINE, counted).await.expect("it is counted");
    }

    async fn finish(self) -> Result<(), Exit> {
        timeout(DEADLINE, self.context.finish(DEADLINE)).await.expect("no stream is open")
    }
}
