//! `preconf-NAME probe`: asks whether processes of ours can do their work, as the kubelet asks.
//!
//! For where there is no other program to ask with: an image holds its service and nothing else. It
//! asks health ports over gRPC. A name stands for every process behind it: each of its addresses must
//! answer SERVING, and a name without an address is a failure. What is not so yet is asked again,
//! until time is up.
//!
//! It needs no flag of the service, reads no file, and listens nowhere.

use std::{
    io::{self, Write},
    net::SocketAddr,
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{
    net::lookup_host,
    runtime,
    time::{Instant, error::Elapsed, sleep, timeout},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{
    Chain, ConfigError, Endpoint, Errand, Exit, Security, channel,
    endpoint::{EndpointError, HostPort},
};

/// What the first argument says instead of the service's flags.
pub(crate) const NAME: &str = "probe";

/// How long a look-up, or an answer, may take.
const ANSWER: Duration = Duration::from_secs(2);
/// From one try to the next.
const PAUSE: Duration = Duration::from_millis(500);
/// How long a look-up that nobody waits for any more may hold up the end.
const LEFTOVERS: Duration = Duration::from_millis(100);
const MAX_ANSWER_BYTES: usize = 1024;

/// Asks health ports whether their processes can do their work; exits with 0 if all of them can.
#[derive(Debug, clap::Parser)]
#[command(name = NAME)]
pub(crate) struct ProbeArgs {
    /// A health port, `http://host:port`. A host stands for all of its addresses. Several with commas,
    /// or by repeating the flag.
    #[arg(
        long = "url",
        value_name = "URL",
        required = true,
        value_delimiter = ',',
        value_parser = health_port
    )]
    urls: Vec<HostPort>,

    /// What is asked.
    #[arg(
        long,
        value_name = "SERVICE",
        default_value = "readiness",
        value_parser = ["readiness", "liveness", "startup"]
    )]
    service: String,

    /// How long it is asked again if the answer is no.
    #[arg(long, value_name = "MS", default_value_t = 30_000)]
    within_ms: u64,
}

/// Why a probe failed.
#[derive(Debug, thiserror::Error)]
#[error("{failed} of {asked} probes failed")]
struct ProbesFailed {
    failed: usize,
    asked: usize,
}

/// Why one health port did not answer as it should.
#[derive(Debug, thiserror::Error)]
enum Obstacle {
    #[error("asking")]
    Channel(#[source] ConfigError),
    #[error("looking up the host")]
    LookUp(#[source] io::Error),
    #[error("looking up the host")]
    LookUpTookLong(#[source] Elapsed),
    #[error("the host has no address")]
    NoAddress,
    /// What a status says, without the whole chain in its source, which repeats it.
    #[error("asking {address}: {said}")]
    Ask { address: SocketAddr, said: String },
    #[error("asking {address}")]
    AnswerTookLong { address: SocketAddr, source: Elapsed },
    #[error("{address} says {}", status.as_str_name())]
    NotServing { address: SocketAddr, status: ServingStatus },
}

#[derive(Debug, thiserror::Error)]
enum UrlError {
    #[error("reading the URL")]
    Malformed(#[source] EndpointError),
    #[error("a health port is http://host:port")]
    NoHealthPort,
}

fn health_port(text: &str) -> Result<HostPort, UrlError> {
    match text.parse().map_err(UrlError::Malformed)? {
        Endpoint::Plaintext(at) => Ok(at),
        Endpoint::Unix(_) | Endpoint::Tls(_) => Err(UrlError::NoHealthPort),
    }
}

/// Asks, and writes a line for each URL.
impl Errand for ProbeArgs {
    fn run(self) -> Result<(), Exit> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let outcome = runtime.block_on(ask(&self, &mut io::stdout()));
        runtime.shutdown_timeout(LEFTOVERS);
        Ok(outcome?)
    }
}

async fn ask(args: &ProbeArgs, report: &mut impl Write) -> Result<(), ProbesFailed> {
    let deadline = Instant::now() + Duration::from_millis(args.within_ms);
    let asked = args.urls.iter().map(|at| until_serving(at, &args.service, deadline));
    let mut failed = 0;
    for (at, answer) in args.urls.iter().zip(join_all(asked).await) {
        let said = match answer {
            Ok(addresses) => format!("ok ({})", list(&addresses)),
            Err(obstacle) => {
                failed += 1;
                format!("failed: {}", Chain(&obstacle))
            }
        };
        // The exit code says it too.
        let _ = writeln!(report, "http://{at} {}: {said}", args.service);
    }
    if failed == 0 { Ok(()) } else { Err(ProbesFailed { failed, asked: args.urls.len() }) }
}

fn list(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ")
}

async fn until_serving(
    at: &HostPort,
    service: &str,
    deadline: Instant,
) -> Result<Vec<SocketAddr>, Obstacle> {
    loop {
        let answer = serving(at, service).await;
        if answer.is_ok() || Instant::now() + PAUSE >= deadline {
            return answer;
        }
        sleep(PAUSE).await;
    }
}

/// The addresses of a host, if each of them serves.
async fn serving(at: &HostPort, service: &str) -> Result<Vec<SocketAddr>, Obstacle> {
    let found = timeout(ANSWER, lookup_host((at.resolvable(), at.port))).await;
    let mut addresses: Vec<_> =
        found.map_err(Obstacle::LookUpTookLong)?.map_err(Obstacle::LookUp)?.collect();
    // A process that listens for one family listens for IPv4.
    if addresses.iter().any(SocketAddr::is_ipv4) {
        addresses.retain(SocketAddr::is_ipv4);
    }
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.is_empty() {
        return Err(Obstacle::NoAddress);
    }
    for &address in &addresses {
        check(address, service).await?;
    }
    Ok(addresses)
}

async fn check(address: SocketAddr, service: &str) -> Result<(), Obstacle> {
    let endpoint = Endpoint::Plaintext(address.into());
    let channel = channel(&endpoint, &Security::plaintext_anywhere()).map_err(Obstacle::Channel)?;
    let mut client = HealthClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer = timeout(ANSWER, client.check(request))
        .await
        .map_err(|source| Obstacle::AnswerTookLong { address, source })?
        .map_err(|status| Obstacle::Ask { address, said: said(&status) })?;
    let status = answer.into_inner().status();
    if status == ServingStatus::Serving {
        Ok(())
    } else {
        Err(Obstacle::NotServing { address, status })
    }
}

fn said(status: &tonic::Status) -> String {
    if status.message().is_empty() {
        status.code().to_string()
    } else {
        status.message().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::{Context, grpc, health};

    /// Says where the health of a process is served that is not ready until its check is.
    async fn process() -> (Context, crate::Check, String) {
        let context = Context::for_test();
        let check = context.health.check("upstream");
        let endpoint = "http://127.0.0.1:0".parse().unwrap();
        let listener = context.bind("health", &endpoint, &Security::default()).await.unwrap();
        let url = listener.local().to_string();
        let routes = health::routes(&context.health, &context.registry);
        context
            .tasks
            .spawn("health", grpc::serve_plainly(listener, routes, context.shutdown.clone()));
        (context, check, url)
    }

    async fn probe(words: &[&str]) -> (bool, String) {
        let args = ProbeArgs::try_parse_from([&[NAME], words].concat()).unwrap();
        let mut report = Vec::new();
        let outcome = ask(&args, &mut report).await;
        (outcome.is_ok(), String::from_utf8(report).unwrap())
    }

    #[tokio::test]
    async fn each_url_is_asked_and_one_that_is_not_ready_fails_the_probe() {
        let (_kept, ready, first) = process().await;
        let (_also_kept, _not_ready, second) = process().await;
        ready.ready();

        let (is_ok, report) = probe(&["--url", &first, "--url", &second, "--within-ms", "0"]).await;

        assert!(!is_ok);
        let at = |url: &str| url.trim_start_matches("http://").to_owned();
        let expected = format!(
            "{first} readiness: ok ({})\n{second} readiness: failed: {} says NOT_SERVING\n",
            at(&first),
            at(&second)
        );
        assert_eq!(report, expected);
        let live = probe(&["--url", &second, "--service", "liveness", "--within-ms", "0"]).await;
        assert!(live.0, "{}", live.1);
    }

    #[tokio::test]
    async fn what_is_not_ready_yet_is_asked_again() {
        let (context, check, url) = process().await;
        let asked_once = context.clone();
        tokio::spawn(async move {
            // The first answer was no.
            let count = "connections_accepted_total{listener=\"health\"} 1";
            while !asked_once.registry.encode().contains(count) {
                tokio::task::yield_now().await;
            }
            check.ready();
        });

        let (is_ok, report) = probe(&["--url", &url, "--within-ms", "20000"]).await;

        assert!(is_ok, "{report}");
    }

    #[tokio::test]
    async fn nobody_listening_is_a_failure_that_says_where() {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();

        let (is_ok, report) =
            probe(&["--url", &format!("http://{nobody}"), "--within-ms", "0"]).await;

        assert!(!is_ok);
        assert!(report.contains(&format!("failed: asking {nobody}: ")), "{report}");
    }

    #[test]
    fn only_a_health_port_is_asked_and_only_what_it_knows() {
        let refused = |words: &[&str]| {
            ProbeArgs::try_parse_from([&[NAME], words].concat()).unwrap_err().to_string()
        };

        assert!(refused(&[]).contains("--url"));
        assert!(refused(&["--url", "https://a:1"]).contains("a health port is http://host:port"));
        assert!(refused(&["--url", "a:1"]).contains("reading the URL"));
        assert!(refused(&["--url", "http://a:1", "--service", "feed"]).contains("readiness"));
    }
}
