//! How late a flashblock is cut, and how long it then takes to be published, by how much comes in.
//!
//! Ours is what the builder says of itself: `cut_late_seconds` and `publish_seconds`, as buckets, so
//! a figure is the least bound that holds. The limit for the cut is a bare thread of this process
//! that sleeps until the same ticks at the same time: what the machine allows.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::time::{interval, sleep_until};

use super::{block_on, quantile, system::System};
use crate::{
    measure::{Rounds, Wrong},
    report::{Goal, Row},
};

/// What comes in, in transactions per second.
const RATES: [usize; 3] = [0, 200, 1_000];
const SLOT: Duration = Duration::from_secs(2);
const INTERVAL: Duration = Duration::from_millis(200);
/// What the cut is aimed at, at 200 transactions per second.
const AIM: Duration = Duration::from_millis(3);

pub(crate) fn measure(rounds: Rounds) -> Result<Vec<Row>, Wrong> {
    let mut rows = Vec::new();
    for rate in RATES {
        rows.extend(block_on(at(rate, rounds))?);
    }
    Ok(rows)
}

async fn at(rate: usize, rounds: Rounds) -> Result<Vec<Row>, Wrong> {
    let mut system = System::start().await?;
    let per_block = rate * SLOT.as_secs() as usize;
    let timer = Timer::start();
    // Each round is a block.
    for _ in 0..rounds.get() {
        let transfers = system.transfers(per_block)?;
        let attributes = system.attributes();
        let id = system.choose(system.head().1, Some(&attributes)).await?;
        let id = id.ok_or(Wrong("an id".to_owned()))?;
        let ends = tokio::time::Instant::now() + SLOT;
        if rate > 0 {
            let mut next = interval(Duration::from_secs(1) / rate as u32);
            for transfer in transfers {
                next.tick().await;
                system.submit(transfer).await?;
            }
        }
        sleep_until(ends).await;
        let envelope = system.payload(id).await?;
        let hash = system.check(&system.engine, &envelope).await?;
        system.choose(hash, None).await?;
    }
    let bare = timer.stop();
    let metrics = system.metrics();
    system.stop().await?;
    let late = Buckets::read(&metrics, "cut_late_seconds");
    let published = Buckets::read(&metrics, "publish_seconds");
    let row = |share: f64| {
        let name = format!("cut after its tick, p{:.0}, {rate} tx/s", share * 100.);
        Row::time(name, &[late.quantile(share)]).beside(1, &[quantile(&bare, share)])
    };
    let mut rows = vec![row(0.5), row(0.99)];
    if rate == 200 {
        let name = "the same p99, beside what is aimed at";
        let aimed = Row::time(name, &[late.quantile(0.99)]).beside(1, &[AIM]);
        rows.push(aimed.goal(Goal::AtMost(1.)));
    }
    for share in [0.5, 0.99] {
        let name = format!("published after its cut, p{:.0}, {rate} tx/s", share * 100.);
        rows.push(Row::time(name, &[published.quantile(share)]));
    }
    Ok(rows)
}

/// A thread that does nothing but wake at ticks.
struct Timer {
    ends: Arc<AtomicBool>,
    thread: thread::JoinHandle<Vec<Duration>>,
}

impl Timer {
    fn start() -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let ended = ends.clone();
        let thread = thread::spawn(move || {
            let mut late = Vec::new();
            let mut tick = Instant::now() + INTERVAL;
            while !ended.load(Ordering::Relaxed) {
                thread::sleep(tick.saturating_duration_since(Instant::now()));
                late.push(tick.elapsed());
                tick += INTERVAL;
            }
            late
        });
        Self { ends, thread }
    }

    fn stop(self) -> Vec<Duration> {
        self.ends.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

/// A histogram as Prometheus shows it.
struct Buckets(Vec<(f64, u64)>);

impl Buckets {
    fn read(metrics: &str, name: &str) -> Self {
        let name = format!("{name}_bucket{{");
        let bucket = |line: &str| {
            let (_, rest) = line.split_once(&name)?;
            let (_, rest) = rest.split_once("le=\"")?;
            let (bound, rest) = rest.split_once('"')?;
            let count = rest.split_whitespace().nth(1)?.parse().ok()?;
            Some((bound.parse().unwrap_or(f64::INFINITY), count))
        };
        Self(metrics.lines().filter_map(bucket).collect())
    }

    /// The least bound below which this share of them is.
    fn quantile(&self, share: f64) -> Duration {
        let all = self.0.last().map_or(0, |(_, count)| *count);
        let wanted = (all as f64 * share).ceil() as u64;
        let bucket = self.0.iter().find(|(_, count)| *count >= wanted);
        let bound = bucket.map_or(0., |(bound, _)| *bound);
        if bound.is_finite() { Duration::from_secs_f64(bound) } else { Duration::MAX }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_read_as_prometheus_shows_them() {
        let metrics = "# TYPE preconf_x histogram\n\
            preconf_x_sum 1.0\n\
            preconf_x_bucket{le=\"0.001\"} 90\n\
            preconf_x_bucket{le=\"0.003\"} 99 # {trace_id=\"1\"} 0.002\n\
            preconf_x_bucket{le=\"+Inf\"} 100\n";
        let buckets = Buckets::read(metrics, "x");
        assert_eq!(buckets.quantile(0.5), Duration::from_millis(1));
        assert_eq!(buckets.quantile(0.99), Duration::from_millis(3));
        assert_eq!(buckets.quantile(1.), Duration::MAX);
    }
}
