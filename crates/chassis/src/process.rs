//! The life of a process: parse, prepare, bind, serve, drain, exit code.
//!
//! Files are read before any socket is open. The health port opens next and closes last, so that
//! it tells of starting and draining. The first SIGINT or SIGTERM drains; a second one ends the
//! process on the spot.
//!
//! Exit codes: 0 after an orderly end, 1 after a failure, 2 if flags or files are wrong, 130 after
//! a second signal. Codes 1 and 2 come with one line on stderr: `preconf-NAME: error: CAUSE`.

use std::{
    ffi::OsString,
    future::Future,
    io::{self, Write},
    net::SocketAddr,
    process::ExitCode,
    time::Duration,
};

use clap::ArgMatches;
use preconf_telemetry::{TelemetryArgs, TelemetryError};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    runtime,
    signal::unix::{Signal, SignalKind, signal},
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use crate::{
    ConfigError, Context, Endpoint, Exit, Security, Shutdown, grpc, health, listener::BindError,
    probe::ProbeArgs,
};

/// How long spans may take to be sent at the end.
const FLUSH: Duration = Duration::from_secs(2);
/// How long probes under way may take at the end.
const LAST_PROBES: Duration = Duration::from_millis(200);
/// How long blocking work that nobody owns may take at the end.
const LEFTOVERS: Duration = Duration::from_millis(100);
/// What a shell reports for a process ended by an interrupt.
const INTERRUPTED: i32 = 130;

/// Flags of every process.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Process")]
pub struct ProcessArgs {
    /// Where `/livez`, `/readyz`, `/metrics` and gRPC health are served, in plaintext; off if unset.
    #[arg(long, env = "PRECONF_HEALTH_ADDR", value_name = "HOST:PORT")]
    pub health_addr: Option<SocketAddr>,

    /// How long work under way may take after a signal, before it is aborted.
    #[arg(long, env = "PRECONF_DRAIN_TIMEOUT_MS", default_value_t = 5000, value_name = "MS")]
    pub drain_timeout_ms: u64,

    /// What is logged, and how.
    #[command(flatten)]
    pub telemetry: TelemetryArgs,
}

/// Reads the flags and the environment of the process that is called `preconf-NAME`, or does what
/// `preconf-NAME probe` asks for.
///
/// # Errors
/// The code to exit with: 2 after one line on stderr that names the flag, 0 after help that was
/// asked for, or what became of the probe.
pub fn parse<C: clap::Parser>(name: &str) -> Result<C, ExitCode> {
    parse_among(name, &[Subcommand::of::<ProbeArgs>()])
}

/// As [`parse`], for a process that has an errand of its own as well.
///
/// # Errors
/// As [`parse`], or what became of the errand.
pub fn parse_with<C: clap::Parser, E: Errand>(name: &str) -> Result<C, ExitCode> {
    parse_among(name, &[Subcommand::of::<ProbeArgs>(), Subcommand::of::<E>()])
}

/// Something that a service's program does instead of serving: a subcommand, called as the parser's
/// name says.
pub trait Errand: clap::Parser {
    /// Does it.
    ///
    /// # Errors
    /// Whatever kept it from being done.
    fn run(self) -> Result<(), Exit>;
}

type Outcome = Result<(), Exit>;

/// An errand by its name.
struct Subcommand {
    command: clap::Command,
    run: fn(&ArgMatches) -> Result<Outcome, clap::Error>,
}

impl Subcommand {
    fn of<E: Errand>() -> Self {
        Self { command: E::command(), run: |own| E::from_arg_matches(own).map(E::run) }
    }
}

fn parse_among<C: clap::Parser>(name: &str, errands: &[Subcommand]) -> Result<C, ExitCode> {
    match wish::<C>(std::env::args_os(), errands) {
        Ok(Wish::Serve(config)) => Ok(config),
        Ok(Wish::Done(outcome)) => Err(ExitCode::from(code(name, outcome))),
        Err(error) if !error.use_stderr() => {
            let _ = error.print();
            Err(ExitCode::SUCCESS)
        }
        Err(error) => {
            let said = first_sentence(&error.to_string());
            let _ = writeln!(io::stderr(), "preconf-{name}: {said}");
            Err(ExitCode::from(2))
        }
    }
}

/// What a command line asks for.
enum Wish<C> {
    Serve(C),
    /// An errand, which is done.
    Done(Outcome),
}

fn wish<C: clap::Parser>(
    words: impl Iterator<Item = OsString>,
    errands: &[Subcommand],
) -> Result<Wish<C>, clap::Error> {
    let mut command = C::command()
        .subcommands(errands.iter().map(|errand| &errand.command))
        .subcommand_negates_reqs(true)
        .disable_help_subcommand(true);
    let matches = command.try_get_matches_from_mut(words)?;
    let asked = matches.subcommand().and_then(|(asked, own)| {
        Some((errands.iter().find(|errand| errand.command.get_name() == asked)?, own))
    });
    let wish = match asked {
        Some((errand, own)) => (errand.run)(own).map(Wish::Done),
        None => C::from_arg_matches(&matches).map(Wish::Serve),
    };
    wish.map_err(|error| error.format(&mut command))
}

/// What the parser says is wrong, without its hints and the usage: one line.
fn first_sentence(text: &str) -> String {
    let lines = text.lines().map(str::trim).take_while(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(" ")
}

/// Runs a service to its end.
///
/// `prepare` reads files, before any socket is open. `serve` receives what it returned, binds,
/// spawns the service's tasks and returns; the process then lives until a signal comes or a task
/// ends. If `serve` spawned no task, its return is the end of the process.
pub fn run<T, Fut>(
    name: &'static str,
    args: &ProcessArgs,
    prepare: impl FnOnce() -> Result<T, ConfigError>,
    serve: impl FnOnce(T, Context) -> Fut,
) -> ExitCode
where
    Fut: Future<Output = Result<(), Exit>>,
{
    ExitCode::from(code(name, live(name, args, prepare, serve)))
}

fn code(name: &str, outcome: Result<(), Exit>) -> u8 {
    let Err(exit) = outcome else { return 0 };
    // If stderr is closed there is nobody left to tell.
    let _ = writeln!(io::stderr(), "preconf-{name}: error: {exit}");
    exit.code()
}

fn live<T, Fut>(
    name: &'static str,
    args: &ProcessArgs,
    prepare: impl FnOnce() -> Result<T, ConfigError>,
    serve: impl FnOnce(T, Context) -> Fut,
) -> Result<(), Exit>
where
    Fut: Future<Output = Result<(), Exit>>,
{
    raise_open_files();
    // A second call, or a library that was faster, leaves a provider that serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = runtime::Builder::new_multi_thread().thread_name(name).enable_all().build()?;
    let context = Context::new(name);
    let telemetry = {
        let _inside = runtime.enter();
        preconf_telemetry::init(name, &args.telemetry, &context.exports).map_err(refuse)?
    };
    let prepared = prepare()?;
    let outcome = runtime.block_on(async {
        let _signals = watch_signals(context.shutdown.clone())?;
        let health = HealthPort::open(&context, args.health_addr).await?;
        let body = serve(prepared, context.clone());
        let drain = Duration::from_millis(args.drain_timeout_ms);
        let outcome = context.supervise(body, drain).await;
        health.close().await;
        outcome
    });
    runtime.block_on(telemetry.shutdown(FLUSH));
    runtime.shutdown_timeout(LEFTOVERS);
    outcome
}

/// Takes as many open files as are allowed: what a process is started with may be few, for the sake
/// of programs that use `select`, and each connection is one.
fn raise_open_files() {
    let allowed = getrlimit(Resource::Nofile).maximum;
    // As many as there were are what is left if this fails.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: allowed, maximum: allowed });
}

/// The environment is configuration, too.
fn refuse(error: TelemetryError) -> Exit {
    match error {
        TelemetryError::Exporter(_) => {
            ConfigError::flag("OTEL_EXPORTER_OTLP_*", "cannot be used").because(error).into()
        }
        TelemetryError::Protocol(protocol) => {
            let reason = format!("is {protocol}: only grpc is spoken");
            ConfigError::flag("OTEL_EXPORTER_OTLP_PROTOCOL", reason).into()
        }
        TelemetryError::Install(_) => error.into(),
    }
}

/// Drains at the first signal and ends the process at the second.
fn watch_signals(shutdown: Shutdown) -> io::Result<AbortOnDropHandle<()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(AbortOnDropHandle::new(tokio::spawn(async move {
        let name = next_signal(&mut interrupt, &mut terminate).await;
        info!(signal = name, "shutting down");
        shutdown.trigger();
        let name = next_signal(&mut interrupt, &mut terminate).await;
        warn!(signal = name, "ending without a drain");
        std::process::exit(INTERRUPTED);
    })))
}

async fn next_signal(interrupt: &mut Signal, terminate: &mut Signal) -> &'static str {
    tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    }
}

/// The port for probes and scrapers, which outlives the service.
struct HealthPort {
    close: Shutdown,
    serving: Option<AbortOnDropHandle<Result<(), grpc::ServeError>>>,
}

impl HealthPort {
    async fn open(context: &Context, address: Option<SocketAddr>) -> Result<Self, BindError> {
        let close = Shutdown::new();
        let Some(address) = address else { return Ok(Self { close, serving: None }) };
        // It tells no secrets and takes no orders, and probes present no certificate.
        let anywhere = Security::plaintext_anywhere();
        let endpoint = Endpoint::Plaintext(address.into());
        let listener = context.bind("health", &endpoint, &anywhere).await?;
        let routes = health::routes(&context.health, &context.registry);
        let serving = tokio::spawn(grpc::serve_plainly(listener, routes, close.clone()));
        Ok(Self { close, serving: Some(AbortOnDropHandle::new(serving)) })
    }

    async fn close(self) {
        self.close.trigger();
        if let Some(serving) = self.serving {
            // Probes that linger are cut: nothing depends on their answer any more.
            let _ = timeout(LAST_PROBES, serving).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        future::pending,
        net::TcpListener,
        path::Path,
        process::{ExitStatus, Stdio},
    };

    use tokio::{
        io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
        net::TcpStream,
        process::{Child, ChildStdout, Command},
    };
    use tonic_health::pb::{
        HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
    };

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);
    const ROLE: &str = "PRECONF_TEST_ROLE";
    const HEALTH: &str = "PRECONF_TEST_HEALTH";

    #[derive(Debug, clap::Parser)]
    struct Flags {
        #[arg(long)]
        key: String,
    }

    #[derive(Debug, clap::Parser)]
    #[command(name = "fail")]
    struct Failing {
        with: String,
    }

    impl Errand for Failing {
        fn run(self) -> Result<(), Exit> {
            Err(io::Error::other(self.with).into())
        }
    }

    fn asked_for(words: &[&str]) -> Result<Wish<Flags>, clap::Error> {
        wish(words.iter().map(Into::into), &[Subcommand::of::<Failing>()])
    }

    #[test]
    fn an_errand_needs_no_flag_of_the_service_and_the_service_still_needs_its_own() {
        let Ok(Wish::Done(Err(failed))) = asked_for(&["x", "fail", "this"]) else {
            panic!("it is an errand")
        };
        assert_eq!(failed.to_string(), "this");
        assert!(asked_for(&["x", "fail"]).is_err());

        let served = asked_for(&["x", "--key", "k"]);
        assert!(matches!(served, Ok(Wish::Serve(Flags { key })) if key == "k"));

        let Err(refused) = asked_for(&["x"]) else { panic!("it has no key") };
        assert!(first_sentence(&refused.to_string()).contains("--key"), "{refused}");
    }

    /// The other tests start this test as a process of its own; by itself it does nothing.
    #[test]
    fn child_process() {
        let Ok(role) = std::env::var(ROLE) else { return };
        let args = ProcessArgs {
            health_addr: std::env::var(HEALTH).ok().map(|address| address.parse().unwrap()),
            drain_timeout_ms: DEADLINE.as_millis() as u64,
            telemetry: TelemetryArgs::default(),
        };
        let prepare = || match role.as_str() {
            "unprepared" => crate::read_secret(Path::new("/nonexistent/key")).map(drop),
            _ => Ok(()),
        };
        let outcome = live("child", &args, prepare, |(), context| serve(&role, context));
        std::process::exit(code("child", outcome).into());
    }

    async fn serve(role: &str, context: Context) -> Result<(), Exit> {
        let (role, shutdown) = (role.to_owned(), context.shutdown.clone());
        context.health.check("peer").ready();
        context.tasks.spawn("work", async move {
            tracing::info_span!("preconf").in_scope(|| info!("working"));
            match role.as_str() {
                "failing" => return Err(io::Error::other("disk is full")),
                "stuck" => pending::<()>().await,
                _ => shutdown.cancelled().await,
            }
            Ok(())
        });
        Ok(())
    }

    #[tokio::test]
    async fn a_signal_drains_and_exits_0() {
        let mut child = start("serving", Some("127.0.0.1:0"));
        let address = child.listening().await;

        assert!(until_ready(&address).await.ends_with("ok\n"));
        assert!(get(&address, "/livez").await.starts_with("HTTP/1.1 200"));
        assert!(get(&address, "/metrics").await.contains("preconf_child_build_info{version="));
        assert!(get(&address, "/anything").await.starts_with("HTTP/1.1 404"));
        assert_eq!(grpc_health(&address, "readiness").await, ServingStatus::Serving);

        child.signal("TERM").await;

        assert_eq!(child.end().await.0.code(), Some(0));
    }

    #[tokio::test]
    async fn a_second_signal_ends_a_process_that_does_not_drain() {
        let mut child = start("stuck", Some("127.0.0.1:0"));
        let address = child.listening().await;
        until_ready(&address).await;

        child.signal("INT").await;
        let draining = async {
            while !get(&address, "/readyz").await.contains("process: draining") {
                tokio::task::yield_now().await;
            }
        };
        timeout(DEADLINE, draining).await.unwrap();
        child.signal("TERM").await;

        assert_eq!(child.end().await.0.code(), Some(130));
    }

    #[tokio::test]
    async fn a_bad_file_exits_2_before_any_socket_is_open() {
        // If the process tried to open its health port first, it would fail on that and exit 1.
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();

        let (status, stderr) = start("unprepared", Some(&address)).end().await;

        assert_eq!(status.code(), Some(2));
        let line = "preconf-child: error: /nonexistent/key: cannot be read: No such file";
        assert!(stderr.starts_with(line), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }

    #[tokio::test]
    async fn a_task_that_fails_exits_1_and_is_named() {
        let (status, stderr) = start("failing", None).end().await;

        assert_eq!(status.code(), Some(1));
        let last = stderr.lines().last().unwrap_or_default();
        assert_eq!(last, "preconf-child: error: task work failed: disk is full");
    }

    #[tokio::test]
    async fn a_health_port_that_is_taken_exits_1_and_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();

        let (status, stderr) = start("serving", Some(&address)).end().await;

        assert_eq!(status.code(), Some(1));
        let line =
            format!("preconf-child: error: binding http://{address}: Address already in use");
        assert!(stderr.contains(&line), "{stderr}");
    }

    #[tokio::test]
    async fn a_collector_that_does_not_answer_does_not_hold_up_the_end() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let collector = format!("http://{}", silent.local_addr().unwrap());
        let mut command = command("serving", Some("127.0.0.1:0"));
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector);
        let mut child = TestChild::spawn(command);
        until_ready(&child.listening().await).await;

        let signalled = tokio::time::Instant::now();
        child.signal("TERM").await;

        assert_eq!(child.end().await.0.code(), Some(0));
        let took = signalled.elapsed();
        assert!(took < FLUSH + Duration::from_secs(3), "{took:?}");
    }

    #[tokio::test]
    async fn a_service_without_tasks_ends_when_it_returns() {
        let context = Context::for_test();

        let outcome = context.supervise(async { Ok(()) }, DEADLINE).await;

        assert!(outcome.is_ok());
        assert!(context.shutdown.is_cancelled());
    }

    #[tokio::test]
    async fn a_service_that_cannot_start_ends_its_tasks_and_tells_its_own_error() {
        let context = Context::for_test();
        let shutdown = context.shutdown.clone();
        context.tasks.spawn("feed", async move {
            shutdown.cancelled().await;
            Ok::<(), Infallible>(())
        });

        let body = async { Err(Exit::from("the peer is of another chain")) };
        let exit = context.supervise(body, DEADLINE).await.unwrap_err();

        assert_eq!(exit.to_string(), "the peer is of another chain");
        assert!(context.tasks.is_empty());
    }

    fn start(role: &str, health: Option<&str>) -> TestChild {
        TestChild::spawn(command(role, health))
    }

    fn command(role: &str, health: Option<&str>) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["process::tests::child_process", "--exact", "--nocapture"]);
        command.env(ROLE, role).envs(health.map(|address| (HEALTH, address)));
        command.env_remove("OTEL_EXPORTER_OTLP_ENDPOINT");
        command
    }

    struct TestChild {
        child: Child,
        stdout: Lines<BufReader<ChildStdout>>,
    }

    impl TestChild {
        fn spawn(mut command: Command) -> Self {
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.kill_on_drop(true).spawn().unwrap();
            let stdout = BufReader::new(child.stdout.take().unwrap()).lines();
            Self { child, stdout }
        }

        /// The address in the line that announces the health port.
        async fn listening(&mut self) -> String {
            let announced = async {
                loop {
                    let line = self.stdout.next_line().await.unwrap().expect("it announces");
                    if let Some((_, address)) = line.split_once("listening health http://") {
                        return address.to_owned();
                    }
                }
            };
            timeout(DEADLINE, announced).await.unwrap()
        }

        async fn signal(&self, name: &str) {
            let kill = format!("kill -{name} {}", self.child.id().unwrap());
            assert!(Command::new("sh").args(["-c", &kill]).status().await.unwrap().success());
        }

        /// How it ended and what it wrote to stderr.
        async fn end(mut self) -> (ExitStatus, String) {
            let (mut pipe, mut stderr) = (self.child.stderr.take().unwrap(), String::new());
            let ended = async { tokio::join!(self.child.wait(), pipe.read_to_string(&mut stderr)) };
            let (status, read) = timeout(DEADLINE, ended).await.unwrap();
            read.unwrap();
            (status.unwrap(), stderr)
        }
    }

    async fn until_ready(address: &str) -> String {
        let ready = async {
            loop {
                let response = get(address, "/readyz").await;
                if response.starts_with("HTTP/1.1 200") {
                    return response;
                }
            }
        };
        timeout(DEADLINE, ready).await.unwrap()
    }

    async fn get(address: &str, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        response
    }

    async fn grpc_health(address: &str, service: &str) -> ServingStatus {
        let endpoint = format!("http://{address}").parse().unwrap();
        let channel = crate::channel(&endpoint, &Security::default()).unwrap();
        let request = HealthCheckRequest { service: service.to_owned() };
        HealthClient::new(channel).check(request).await.unwrap().into_inner().status()
    }
}
