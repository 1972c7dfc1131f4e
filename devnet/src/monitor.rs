//! `preconf-monitor`: what one or several feeds say, one line per message.
//!
//! With `--sequencer-pubkey` every signature is checked and each line names the key, or says that
//! there is no good one; without, lines say `unverified`. A feed of the upstream's format, which
//! knows no seals, is checked by its v1 signature. Whoever closes our output ends us in good order.

use std::{
    fmt,
    io::{self, Write},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use preconf_chassis::{Chain, Context, Exit, ProcessArgs, Security, SecurityArgs};
use preconf_primitives::Position;
use preconf_signing::{Checked, PublicKey, Refusal, SignedFlashblock, Verified, Verifier};
use preconf_subscribe::{Event, FeedUrl, Subscription};
use preconf_wire::{
    feed::FeedItem,
    json::{self, UpstreamFlashblock},
};
use serde::Serialize;
use tokio::task::spawn_blocking;
use tracing::{info, warn};

/// Shows what feeds of flashblocks say.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "preconf-monitor", version)]
pub struct Config {
    /// The feeds: ws:// for WebSocket (ours or any of the upstream's format), http://, https:// or
    /// unix: for gRPC.
    #[arg(value_name = "URL", required = true)]
    pub feeds: Vec<FeedUrl>,

    /// The public key of the sequencer, 0x and 96 hex digits; lines say `unverified` without it.
    #[arg(
        long = "sequencer-pubkey",
        env = "PRECONF_SEQUENCER_PUBKEY",
        value_name = "KEY",
        value_delimiter = ',',
        requires = "chain_id"
    )]
    pub sequencer_pubkeys: Vec<PublicKey>,

    /// The chain that the flashblocks are for.
    #[arg(long, env = "PRECONF_CHAIN_ID", value_name = "ID")]
    pub chain_id: Option<u64>,

    /// Print the JSON of each message as it was received.
    #[arg(long, env = "PRECONF_RAW")]
    pub raw: bool,

    /// Print one JSON object per line.
    #[arg(long, env = "PRECONF_JSON", conflicts_with = "raw")]
    pub json: bool,

    /// What gRPC links are authenticated with.
    #[command(flatten)]
    pub security: SecurityArgs,

    /// Health, logs and shutdown.
    #[command(flatten)]
    pub process: ProcessArgs,
}

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Text,
    Json,
    Raw,
}

/// Follows the feeds until shutdown.
///
/// # Errors
/// If an endpoint is not allowed.
pub async fn serve(config: &Config, security: Security, context: Context) -> Result<(), Exit> {
    let format = match (config.raw, config.json) {
        (true, _) => Format::Raw,
        (false, true) => Format::Json,
        (false, false) => Format::Text,
    };
    let verifier = config.chain_id.filter(|_| !config.sequencer_pubkeys.is_empty());
    let verifier = verifier
        .map(|chain_id| Arc::new(Verifier::new(chain_id, config.sequencer_pubkeys.clone())));
    for feed in &config.feeds {
        let subscription = Subscription::spawn(
            feed.clone(),
            preconf_subscribe::Config {
                security: security.clone(),
                raw: format == Format::Raw,
                ..Default::default()
            },
            || None,
        )?;
        let monitor = Monitor {
            feed: feed.to_string().into(),
            named: config.feeds.len() > 1,
            format,
            verifier: verifier.clone(),
        };
        context.tasks.spawn("monitor", follow(subscription, monitor, context.clone()));
    }
    Ok(())
}

async fn follow(
    mut subscription: Subscription,
    monitor: Monitor,
    context: Context,
) -> Result<(), io::Error> {
    loop {
        let event = tokio::select! {
            event = subscription.next() => event,
            () = context.shutdown.cancelled() => return Ok(()),
        };
        let monitor = monitor.clone();
        let printing = spawn_blocking(move || monitor.print(event, &mut io::stdout().lock()));
        match printing.await.expect("printing does not panic and is not aborted") {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                context.shutdown.trigger();
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
}

/// Writes the events of one feed.
#[derive(Clone, Debug)]
struct Monitor {
    feed: Arc<str>,
    /// Whether lines name the feed.
    named: bool,
    format: Format,
    verifier: Option<Arc<Verifier>>,
}

impl Monitor {
    fn print(&self, event: Event, out: &mut dyn Write) -> io::Result<()> {
        match self.format {
            Format::Raw => self.print_raw(&event, out),
            Format::Text => self.report(event).map_or(Ok(()), |line| writeln!(out, "{line}")),
            Format::Json => self.report(event).map_or(Ok(()), |line| {
                serde_json::to_writer(&mut *out, &line)?;
                writeln!(out)
            }),
        }
    }

    fn print_raw(&self, event: &Event, out: &mut dyn Write) -> io::Result<()> {
        match event {
            Event::Raw(json) => {
                out.write_all(json)?;
                writeln!(out)
            }
            // What came over gRPC was no JSON; this is how a gateway would write it.
            Event::Item(item) if !self.feed.starts_with("ws:") => {
                writeln!(out, "{}", json::encode(item))
            }
            Event::Item(_) | Event::Upstream(_) => Ok(()),
            Event::BadFrame(bad) => {
                warn!(feed = %self.feed, reason = %Chain(bad), "bad frame");
                Ok(())
            }
            Event::Connected => {
                info!(feed = %self.feed, "connected");
                Ok(())
            }
            Event::Disconnected(disconnect) => {
                warn!(feed = %self.feed, reason = %disconnect, "disconnected");
                Ok(())
            }
        }
    }

    fn report(&self, event: Event) -> Option<Line> {
        let line = match event {
            Event::Raw(_) => return None,
            Event::Connected => Line::new("connected"),
            Event::Disconnected(disconnect) => {
                Line::new("disconnected").detail(disconnect.to_string())
            }
            Event::BadFrame(bad) => Line::new("bad_frame").detail(Chain(&bad).to_string()),
            Event::Item(item) => self.item(item),
            Event::Upstream(flashblock) => self.upstream(&flashblock),
        };
        Some(Line { feed: self.named.then(|| Arc::clone(&self.feed)), ..line })
    }

    fn item(&self, item: FeedItem) -> Line {
        match item {
            FeedItem::Flashblock(signed) => self.flashblock(signed),
            FeedItem::Abandoned(signed) => {
                let line = Line::new("abandoned")
                    .session(signed.statement.block_number, signed.statement.seq.get())
                    .detail(signed.statement.reason.as_str());
                self.proven(line, |verifier| verifier.abandoned(signed))
            }
            FeedItem::Sealed(signed) => {
                let line = Line::new("sealed")
                    .session(signed.statement.block_number, signed.statement.seq.get())
                    .detail(signed.statement.block_hash.to_string());
                self.proven(line, |verifier| verifier.sealed(signed))
            }
            FeedItem::Retracted(signed) => {
                let statement = &signed.statement;
                let line = Line {
                    transactions: Some(statement.retractions.len()),
                    ..Line::new("retracted").session(statement.block_number, statement.at.seq.get())
                };
                self.proven(line, |verifier| verifier.retracted(signed))
            }
            FeedItem::Gap { wanted, next } => {
                Line::new("gap").detail(format!("{wanted} to {next}"))
            }
            FeedItem::Goodbye { reason, cursor } => {
                let cursor = cursor.map(|cursor: Position| format!(" at {cursor}"));
                let cursor = cursor.unwrap_or_default();
                Line::new("goodbye").detail(format!("{}{cursor}", reason.as_str()))
            }
        }
    }

    fn flashblock(&self, signed: SignedFlashblock) -> Line {
        let flashblock = &signed.flashblock;
        let line = Line {
            index: Some(flashblock.index()),
            transactions: Some(flashblock.transactions().len()),
            bytes: Some(flashblock.transaction_bytes()),
            age_ms: Some(age_ms(flashblock.published_at_ms())),
            is_last: flashblock.is_last(),
            ..Line::new("flashblock").session(flashblock.block_number(), flashblock.seq().get())
        };
        self.proven(line, |verifier| verifier.flashblock(signed, Checked::Both))
    }

    fn upstream(&self, flashblock: &UpstreamFlashblock) -> Line {
        let line = Line {
            block: Some(flashblock.block_number),
            payload_id: Some(flashblock.payload_id.to_string()),
            index: Some(flashblock.index),
            transactions: Some(flashblock.transactions.len()),
            bytes: Some(flashblock.transactions.iter().map(|bytes| bytes.len()).sum()),
            is_last: flashblock.is_last,
            ..Line::new("flashblock")
        };
        line.proof(self.verifier.as_deref().map(|verifier| {
            verifier.v1(
                flashblock.block_number,
                flashblock.payload_id,
                flashblock.index,
                &flashblock.transactions,
                &flashblock.signature,
            )
        }))
    }

    fn proven<T>(
        &self,
        line: Line,
        verify: impl FnOnce(&Verifier) -> Result<Verified<T>, Refusal>,
    ) -> Line {
        let verified = self.verifier.as_deref().map(verify);
        line.proof(verified.map(|verified| verified.map(|verified| *verified.key())))
    }
}

/// What is said about one message.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Line {
    #[serde(skip_serializing_if = "Option::is_none")]
    feed: Option<Arc<str>>,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    block: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transactions: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    age_ms: Option<i64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_last: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    /// Whether its signatures were found good. Absent where there is nothing to sign.
    #[serde(skip_serializing_if = "Option::is_none")]
    verified: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<String>,
}

impl Line {
    const fn new(kind: &'static str) -> Self {
        Self {
            feed: None,
            kind,
            block: None,
            session: None,
            payload_id: None,
            index: None,
            transactions: None,
            bytes: None,
            age_ms: None,
            is_last: false,
            detail: None,
            verified: None,
            key: None,
            refusal: None,
        }
    }

    fn session(self, block: u64, seq: u64) -> Self {
        Self { block: Some(block), session: Some(seq), ..self }
    }

    fn detail(self, detail: impl Into<String>) -> Self {
        Self { detail: Some(detail.into()), ..self }
    }

    /// What checking found; `None` if there is no key to check with.
    fn proof(self, checked: Option<Result<PublicKey, Refusal>>) -> Self {
        match checked {
            None => Self { verified: Some(false), ..self },
            Some(Ok(key)) => Self { verified: Some(true), key: Some(key.to_string()), ..self },
            Some(Err(refusal)) => {
                Self { verified: Some(false), refusal: Some(refusal.to_string()), ..self }
            }
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(feed) = &self.feed {
            write!(f, "{feed} ")?;
        }
        f.write_str(self.kind)?;
        field(f, "block", self.block.as_ref())?;
        field(f, "session", self.session.as_ref())?;
        field(f, "payload_id", self.payload_id.as_ref())?;
        field(f, "index", self.index.as_ref())?;
        field(f, "transactions", self.transactions.as_ref())?;
        field(f, "bytes", self.bytes.as_ref())?;
        field(f, "age_ms", self.age_ms.as_ref())?;
        if self.is_last {
            f.write_str(" last")?;
        }
        if let Some(detail) = &self.detail {
            write!(f, " {detail}")?;
        }
        field(f, "key", self.key.as_ref())?;
        match (&self.refusal, self.verified) {
            (Some(refusal), _) => write!(f, " REFUSED: {refusal}"),
            (None, Some(false)) => f.write_str(" unverified"),
            (None, Some(true) | None) => Ok(()),
        }
    }
}

fn field(f: &mut fmt::Formatter<'_>, name: &str, value: Option<&impl fmt::Display>) -> fmt::Result {
    value.map_or(Ok(()), |value| write!(f, " {name}={value}"))
}

/// How long ago that was. Negative if our clock is behind the sequencer's.
fn age_ms(published_at_ms: u64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    now as i64 - published_at_ms as i64
}
