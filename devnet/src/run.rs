//! One run of `cargo devnet`, from the flags to the exit code.

use std::{
    io,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use preconf_chassis::ConfigError;
use preconf_telemetry::{Exports, Registry, TelemetryArgs, TelemetryError};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    build::Binaries,
    client::in_words,
    consensus::{CanonicalBlock, Kind, Source},
    console::Console,
    devnet::{Devnet, DevnetError, Prepared},
    observer::{Observer, SessionEnd},
    options::Options,
    report::{Expected, Report, Survived, objections, objections_after_faults, too_late},
    rpc::{Rpc, RpcFailure},
    samples::Samples,
    scenario::ScenarioError,
    story::{Done, Story},
    traffic::{self, Measured, Traffic},
    validators::{self, OfValidators, Turns},
    viewer::Viewer,
};

/// How long the end of a session may take to arrive after its block is canonical.
const SESSION_END: Duration = Duration::from_secs(2);
/// How many blocks more a run with a scenario has at most, for the promises of the last ones.
const MORE_BLOCKS: u64 = 5;

/// How long a flashblock may take from the builder to the overlay at the end of a run.
const LAST_SPANS: Duration = Duration::from_secs(1);

/// Why a run has no verdict.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error(transparent)]
    Devnet(DevnetError),
    #[error("installing logs")]
    Logs(#[source] TelemetryError),
    #[error("listening for signals")]
    Signals(#[source] io::Error),
    #[error("listening for spans")]
    Traces(#[source] io::Error),
    #[error("following the feed")]
    Feed(#[source] ConfigError),
    #[error("reading the scenario {path}")]
    Scenario {
        path: PathBuf,
        #[source]
        source: ScenarioError,
    },
    #[error("talking JSON-RPC")]
    Rpc(#[source] RpcFailure),
    #[error("writing the report to {path}")]
    Report {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("interrupted")]
    Interrupted,
}

/// Why the main part of a run ended.
enum End {
    /// As many blocks as were asked for.
    Blocks,
    /// Somebody said so.
    Signal,
}

/// Runs a devnet to its end.
pub async fn run(options: Options, console: Console) -> ExitCode {
    match attempt(&options, console).await {
        Ok(objections) if objections.is_empty() => ExitCode::SUCCESS,
        Ok(objections) => {
            for objection in objections {
                console.line(format_args!("FAILED: {objection}"));
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            // A child's last lines stay lines.
            console.line(format_args!("FAILED: {}", in_words(&error)));
            ExitCode::FAILURE
        }
    }
}

async fn attempt(options: &Options, console: Console) -> Result<Vec<String>, RunError> {
    let options = &options.clone().with_collector().await.map_err(RunError::Traces)?;
    let logs = TelemetryArgs { log_filter: options.log_filter.clone(), ..Default::default() };
    let exports = Exports::new(&Registry::new("devnet"));
    let _logs = preconf_telemetry::init("devnet", &logs, &exports).map_err(RunError::Logs)?;
    let mut signals = Signals::new().map_err(RunError::Signals)?;
    let started = tokio::select! {
        started = start(options, console) => started?,
        () = signals.next() => return Err(RunError::Interrupted),
    };
    let Some(mut running) = started else { return Ok(Vec::new()) };
    let ended = running.follow(options, console, &mut signals).await;
    tokio::select! {
        verdict = running.finish(options, console, ended) => verdict,
        // Whoever asks twice does not want to wait: what is dropped is killed.
        () = signals.next() => Err(RunError::Interrupted),
    }
}

/// Builds and starts what the options ask for; none if nothing is to be started.
async fn start(options: &Options, console: Console) -> Result<Option<Running>, RunError> {
    let binaries = Binaries::beside_ourselves().map_err(DevnetError::Build);
    let binaries = binaries.map_err(RunError::Devnet)?;
    if !options.no_build {
        console.line("building the services");
        let built = binaries.build().await.map_err(DevnetError::Build);
        built.map_err(RunError::Devnet)?;
    }
    if options.build_only {
        console.line("the services are built");
        return Ok(None);
    }
    let prepared = Prepared::start(options, &binaries, console).await.map_err(RunError::Devnet)?;
    let endpoints = prepared.endpoints().clone();
    console.line(format_args!("{} (chain {})\n{endpoints}", options.chain, options.chain.id()));
    let observer = Observer::start(endpoints.gateway.clone(), prepared.verifier());
    let observer = observer.map_err(RunError::Feed)?;
    let viewer = Viewer::start(endpoints.pending.clone(), console);
    let devnet = prepared.begin().await.map_err(RunError::Devnet)?;
    let begun = SystemTime::now();
    let traffic = match options.tps {
        0 => None,
        per_second => Some(Traffic::start(traffic::Config {
            overlay: Rpc::new(endpoints.overlay.clone()).map_err(RunError::Rpc)?,
            rpc_node: Rpc::new(endpoints.rpc_node.clone()).map_err(RunError::Rpc)?,
            chain_id: options.chain.id(),
            accounts: devnet.accounts.clone(),
            per_second,
            head: devnet.consensus.head(),
            window: devnet.consensus.window(),
        })),
    };
    let story = match &options.scenario {
        None => None,
        Some(path) => {
            let seed = options.seed.unwrap_or_default();
            let story = Story::begin(path, seed, &devnet, console)
                .map_err(|source| RunError::Scenario { path: path.clone(), source });
            Some(story?)
        }
    };
    Ok(Some(Running {
        devnet,
        observer,
        viewer,
        traffic,
        story,
        survived: Survived::default(),
        serves: Samples::default(),
        turns: Turns::default(),
        begun,
        last: 0,
        slot: None,
    }))
}

/// A run that is under way.
struct Running {
    devnet: Devnet,
    observer: Observer,
    viewer: Viewer,
    traffic: Option<Traffic>,
    story: Option<Story>,
    survived: Survived,
    /// How long builders took to serve again, in milliseconds.
    serves: Samples,
    turns: Turns,
    /// When everybody was ready.
    begun: SystemTime,
    /// The last block that was settled, and its slot.
    last: u64,
    slot: Option<u32>,
}

impl Running {
    /// Settles one block after the other.
    async fn follow(
        &mut self,
        options: &Options,
        console: Console,
        signals: &mut Signals,
    ) -> Result<End, RunError> {
        loop {
            let block = tokio::select! {
                block = self.devnet.next_block() => block.map_err(RunError::Devnet)?,
                () = next_deed(self.story.as_ref()) => {
                    if let Some(story) = &mut self.story {
                        let done = story.act(&mut self.devnet).await.map_err(|error| {
                            RunError::Devnet(DevnetError::Child(error))
                        })?;
                        self.take_note(done);
                    }
                    continue;
                }
                () = signals.next() => return Ok(End::Signal),
            };
            self.settle(&block, console).await;
            if let Some(story) = &mut self.story {
                story.settled(block.number, &self.devnet);
            }
            if options.blocks.is_some_and(|blocks| self.has_done(block.number, blocks.get())) {
                return Ok(End::Blocks);
            }
        }
    }

    /// Whether a run of so many blocks is done after the one with this number: when something goes wrong in
    /// the last one, what was promised in it may yet be kept.
    fn has_done(&self, number: u64, blocks: u64) -> bool {
        let is_open = || self.observer.with_ledger(|ledger| !ledger.silent().is_empty());
        let may_go_on = self.story.is_some() && number < blocks + MORE_BLOCKS;
        number >= blocks && !(may_go_on && is_open())
    }

    fn take_note(&mut self, done: Done) {
        match done {
            Done::Silenced => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
                self.observer.with_ledger(|ledger| ledger.silence(now));
            }
            Done::Serves(after) => self.serves.add(after.as_secs_f64() * 1_000.0),
            Done::Other => {}
        }
    }

    async fn settle(&mut self, block: &CanonicalBlock, console: Console) {
        let begun = self.observer.with_ledger(|ledger| ledger.has_begun(block.number));
        if begun || block.source == Source::Builder {
            self.observer.until_ended(block.number, SESSION_END).await;
        }
        let settled = self.observer.with_ledger(|ledger| ledger.settle(block));
        self.last = block.number;
        let between = self.slot.map_or(0, |last| block.slot.saturating_sub(last + 1));
        self.slot = Some(block.slot);
        // Who has nobody to compare a block with proposes what it is given: that was altered.
        let misled = block.missed.iter().filter(|kind| **kind == Kind::Native).count();
        let wanted = block.lost_rounds + u32::try_from(misled).unwrap_or(u32::MAX);
        self.survived.missed_slots += u64::from(between.saturating_sub(wanted));
        self.turns.add(block);
        self.survived.lost_rounds += u64::from(block.lost_rounds);
        let source = match (&block.source, settled.end) {
            (Source::Builder, Some(SessionEnd::Abandoned(reason))) => {
                &Source::Fallback(format!("the builder gave up: {}", reason.as_str()))
            }
            (source, _) => source,
        };
        console.line(format_args!(
            "block {} {} {} txs, {} preconfirmed, {} kept, {} flashblocks, validator {}, {source} \
             after {} ms",
            block.number,
            block.hash,
            block.transactions.len(),
            settled.preconfirmed,
            settled.kept,
            settled.flashblocks,
            block.proposer,
            block.waited.as_millis(),
        ));
    }

    /// Ends everything and judges it.
    async fn finish(
        self,
        options: &Options,
        console: Console,
        ended: Result<End, RunError>,
    ) -> Result<Vec<String>, RunError> {
        let Self { mut devnet, observer, viewer, traffic, story, mut survived, .. } = self;
        let Self { last, serves, turns, .. } = self;
        let has_story = story.is_some();
        if let Some(story) = story {
            let ended = story.end(&mut devnet).await;
            ended.map_err(|error| RunError::Devnet(DevnetError::Child(error)))?;
        }
        let interrupted = matches!(ended, Ok(End::Signal)) && options.blocks.is_some();
        let failure = ended.err();
        let measured = match (traffic, &failure) {
            (Some(traffic), None) => traffic.finish(last).await,
            (Some(_) | None, _) => Measured::default(),
        };
        drop(viewer);
        console.line("stopping");
        let (totals, cadence) =
            observer.with_ledger(|ledger| (ledger.totals(), ledger.cadence().clone()));
        observer.with_ledger(|ledger| {
            let silent = ledger.silent();
            for transaction in silent.iter().take(10) {
                console.line(format_args!("  neither kept nor taken back: {transaction}"));
            }
            survived.silent = silent.len() as u64;
            survived.silence_ms = ledger.silences().percentiles();
            let causes = ledger.causes().iter();
            survived.taken_back =
                causes.map(|(cause, count)| ((*cause).to_owned(), *count)).collect();
        });
        survived.lost = measured.unanswered;
        survived.unused = totals.unused;
        survived.serves_ms = serves.percentiles();
        drop(observer);
        let stopping = SystemTime::now();
        let stopped = devnet.stop().await;
        if let Some(failure) = failure {
            return Err(failure);
        }
        let mut report = Report::new(&totals, &cadence, &measured);
        report.validators = turns.report();
        report.survived = has_story.then(|| survived.clone());
        if let Some(path) = &options.report {
            report.write(path).map_err(|source| RunError::Report { path: path.clone(), source })?;
        }
        summarize(&report, &measured, console);
        let expected = Expected {
            traffic: options.tps > 0,
            flashblocks_per_block: options.min_flashblocks_per_block,
        };
        let mut objections = match &report.survived {
            None => objections(&totals, &measured, expected),
            Some(survived) => objections_after_faults(&totals, survived, expected),
        };
        objections.extend(validators::objection(&report.validators));
        objections.extend(too_late(&report.latency_ms.overall, &options.max_latency_ms));
        objections.extend(stopped.err().into_iter().flatten().map(|error| error.to_string()));
        if let Some(collector) = &options.collector {
            // What is published while the overlay stops is not shown any more.
            let traces = collector.judge(self.begun, stopping - LAST_SPANS);
            console.line(&traces);
            objections.extend(traces.objections());
        }
        if interrupted {
            objections.push(format!("interrupted after {last} blocks"));
        }
        Ok(objections)
    }
}

fn summarize(report: &Report, measured: &Measured, console: Console) {
    let ms = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.0}"));
    let latency = report.latency_ms;
    console.line(format_args!(
        "{} blocks, {} flashblocks ({:.1} per block), {} blocks by fallback",
        report.blocks,
        report.flashblocks,
        report.flashblocks as f64 / report.blocks.max(1) as f64,
        report.fallbacks,
    ));
    console.line(format_args!(
        "{} transactions preconfirmed, {} kept, {} retracted; {} gaps, {} invalid signatures",
        report.transactions.preconfirmed,
        report.transactions.kept,
        report.transactions.retracted,
        report.gaps,
        report.invalid_signatures,
    ));
    for (what, percentiles) in [
        ("sent to first receipt", latency.overall),
        ("  sent in the build window", latency.build_window),
    ] {
        console.line(format_args!(
            "{what}: p50 {} p90 {} p99 {} max {} ms",
            ms(percentiles.p50),
            ms(percentiles.p90),
            ms(percentiles.p99),
            ms(percentiles.max),
        ));
    }
    let cadence = report.cadence_ms;
    console.line(format_args!(
        "one flashblock to the next: p50 {} p99 {} ms",
        ms(cadence.p50),
        ms(cadence.p99)
    ));
    console.line(format_args!(
        "{} sent, {} refused, {} unanswered; {} receipts before their block, {} late; {} \
         compared, {} differ",
        measured.sent,
        measured.refused,
        measured.unanswered,
        measured.early,
        measured.late,
        report.comparisons.made,
        report.comparisons.failed,
    ));
    for (kind, validators) in &report.validators {
        let OfValidators { fetched, fallbacks, misses, latency_ms } = validators;
        console.line(format_args!(
            "validators, {kind:?}: {fetched} blocks of the sequencer, {fallbacks} of their own, {misses} \
             rounds missed; waited: p50 {} p99 {} ms",
            ms(latency_ms.p50),
            ms(latency_ms.p99),
        ));
    }
    if let Some(survived) = &report.survived {
        let Survived { missed_slots, lost_rounds, taken_back, silent, lost, unused, .. } = survived;
        console.line(format_args!(
            "{missed_slots} slots missed, {lost_rounds} rounds lost on purpose; {} promises moved to \
             another block, taken back: {taken_back:?}, broken in silence: {silent}; {lost} transactions \
             lost; {unused} sealed blocks came too late for their proposer",
            report.transactions.moved,
        ));
        for (what, percentiles) in [
            ("silenced, to the next flashblock", survived.silence_ms),
            ("started again, to serving the Engine API", survived.serves_ms),
        ] {
            console.line(format_args!(
                "{what}: p50 {} max {} ms",
                ms(percentiles.p50),
                ms(percentiles.max)
            ));
        }
    }
    for refusal in &measured.refusals {
        console.line(format_args!("  refused: {refusal}"));
    }
    for failure in &measured.failures {
        console.line(format_args!("  {failure}"));
    }
}

/// Waits until a scenario wants something done, if there is one.
async fn next_deed(story: Option<&Story>) {
    match story {
        Some(story) => story.next().await,
        None => std::future::pending().await,
    }
}

/// The signals that end a run.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
