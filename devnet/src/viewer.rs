//! One line for each flashblock, as the consumer has it: executed, and how old.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use preconf_chassis::{Backoff, Chain, Endpoint, Security, channel};
use preconf_pending::snapshot::Update;
use preconf_primitives::Position;
use preconf_wire::pending::{PendingClient, PendingError};
use tokio::{task::JoinHandle, time::timeout};
use tracing::debug;

use crate::console::Console;

/// How long subscribing may take.
const SUBSCRIBE: Duration = Duration::from_secs(5);

/// Prints what the consumer has executed, until it is dropped.
#[derive(Debug)]
pub struct Viewer(JoinHandle<()>);

impl Viewer {
    /// Starts.
    pub fn start(pending: Endpoint, console: Console) -> Self {
        Self(tokio::spawn(follow(pending, console)))
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn follow(pending: Endpoint, console: Console) {
    let mut backoff = Backoff::new();
    let mut shown = None;
    loop {
        if let Err(error) = view(&pending, console, &mut shown, &mut backoff).await {
            // While the consumer starts this is no news; if it died, its own end says more.
            debug!(error = %Chain(&*error), "the consumer's updates are not to be had");
        }
        backoff.wait().await;
    }
}

async fn view(
    pending: &Endpoint,
    console: Console,
    shown: &mut Option<Position>,
    backoff: &mut Backoff,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut client = PendingClient::new(channel(pending, &Security::default())?);
    let mut updates = Box::pin(timeout(SUBSCRIBE, client.subscribe()).await??);
    while let Some(update) = updates.next().await {
        let update: Result<Update, PendingError> = update;
        show(&update?, console, shown);
        backoff.reset();
    }
    Ok(())
}

fn show(update: &Update, console: Console, shown: &mut Option<Position>) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    for executed in &update.executed {
        let position = executed.position;
        if *shown >= Some(position) {
            continue;
        }
        *shown = Some(position);
        let block = update.chain.iter().find(|block| block.seq == position.seq);
        let number = block.map_or_else(|| "?".to_owned(), |block| block.number.to_string());
        let sent = executed.transactions.iter();
        let sent = sent.filter(|sent| !sent.transaction.envelope().is_pol()).count();
        let age = now.saturating_sub(u128::from(executed.published_at_ms));
        console.line(format_args!(
            "  flashblock {number}/{:<2} {:>4} txs {:>10} gas {age:>5} ms old",
            position.index, sent, executed.gas_used,
        ));
    }
    for retraction in &update.retracted {
        let (transaction, cause) = (retraction.transaction, retraction.cause.as_str());
        console.line(format_args!("  retracted {transaction}: {cause}"));
    }
}
