//! What a run is judged by, and the file that says it.

use std::{fs, io, path::Path};

use serde::Serialize;

use crate::{
    observer::Totals,
    samples::{Percentiles, Samples},
    traffic::Measured,
};

/// The report. Its JSON is read by scripts: names are not changed.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Canonical blocks.
    pub blocks: u64,
    /// Flashblocks published for them.
    pub flashblocks: u64,
    /// What was promised.
    pub transactions: Promises,
    /// Holes in the feed.
    pub gaps: u64,
    /// Signatures and seals that were not good.
    pub invalid_signatures: u64,
    /// From sending a transaction to its first receipt at the overlay.
    pub latency_ms: Latency,
    /// From one flashblock to the next.
    pub cadence_ms: Cadence,
    /// Blocks that the validators' own client built.
    pub fallbacks: u64,
    /// Receipts before and after.
    pub comparisons: Comparisons,
}

/// Transactions that were promised, and what became of them.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Promises {
    /// Promised.
    pub preconfirmed: u64,
    /// In the block that promised them.
    pub kept: u64,
    /// Not there, or taken back.
    pub retracted: u64,
}

/// Latencies, of all transactions and of some.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    /// Of all transactions.
    #[serde(flatten)]
    pub all: Percentiles,
    /// Of all transactions.
    pub overall: Percentiles,
    /// Of those sent while the next block was being built.
    pub build_window: Percentiles,
}

/// The rhythm of flashblocks within their sessions, the last of each apart.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cadence {
    /// Half of them follow the one before by at most this.
    pub p50: Option<f64>,
    /// 99 of 100 do.
    pub p99: Option<f64>,
}

/// Receipts that were compared.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Comparisons {
    /// How many.
    pub made: u64,
    /// How many did not hold.
    pub failed: u64,
}

impl Report {
    /// Puts the parts together.
    pub fn new(totals: &Totals, cadence: &Samples, fallbacks: u64, measured: &Measured) -> Self {
        let overall = measured.latency.percentiles();
        let cadence = cadence.percentiles();
        Self {
            blocks: totals.blocks,
            flashblocks: totals.flashblocks,
            transactions: Promises {
                preconfirmed: totals.preconfirmed,
                kept: totals.kept,
                retracted: totals.retracted,
            },
            gaps: totals.gaps,
            invalid_signatures: totals.invalid_signatures,
            latency_ms: Latency {
                all: overall,
                overall,
                build_window: measured.latency_in_window.percentiles(),
            },
            cadence_ms: Cadence { p50: cadence.p50, p99: cadence.p99 },
            fallbacks,
            comparisons: Comparisons {
                made: measured.comparisons_made,
                failed: measured.comparisons_failed,
            },
        }
    }

    /// Writes the file.
    ///
    /// # Errors
    /// What the system said.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut text = serde_json::to_string_pretty(self).map_err(io::Error::other)?;
        text.push('\n');
        fs::write(path, text)
    }
}

/// Everything that speaks against a run; nothing if it is good.
///
/// That a block was built by the validators' own client is not among it: the chain is made to
/// survive that. If it broke a promise, the promise is.
pub fn objections(totals: &Totals, measured: &Measured, traffic: bool) -> Vec<String> {
    let mut objections = Vec::new();
    let mut object = |count: u64, what: &str| {
        if count > 0 {
            objections.push(format!("{count} {what}"));
        }
    };
    object(totals.retracted, "preconfirmed transactions were not kept");
    object(totals.gaps, "gaps in the feed");
    object(totals.invalid_signatures, "signatures were not good");
    object(totals.contradictions, "messages of the feed made no sense");
    object(totals.missealed, "blocks were sealed with another hash than they have");
    object(measured.comparisons_failed, "comparisons of receipts did not hold");
    object(measured.unanswered, "transactions had no receipt in time");
    // A run that promised nothing has proved nothing.
    if totals.flashblocks == 0 {
        objections.push("no flashblock was published".to_owned());
    }
    if traffic && (totals.preconfirmed == 0 || measured.comparisons_made == 0) {
        objections.push("no transaction was preconfirmed and compared".to_owned());
    }
    objections
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn good() -> (Totals, Measured) {
        let totals =
            Totals { blocks: 2, flashblocks: 20, preconfirmed: 9, kept: 9, ..Totals::default() };
        (totals, Measured { comparisons_made: 9, ..Measured::default() })
    }

    #[test]
    fn a_run_that_kept_everything_has_nothing_against_it() {
        let (totals, measured) = good();
        assert_eq!(objections(&totals, &measured, true), [""; 0]);
    }

    #[test]
    fn everything_that_goes_wrong_speaks_against_a_run() {
        let (good_totals, good_measured) = good();
        let totals: [fn(&mut Totals); 6] = [
            |totals| totals.retracted = 1,
            |totals| totals.gaps = 1,
            |totals| totals.invalid_signatures = 1,
            |totals| totals.contradictions = 1,
            |totals| totals.missealed = 1,
            |totals| totals.flashblocks = 0,
        ];
        for change in totals {
            let mut totals = good_totals;
            change(&mut totals);
            assert_eq!(objections(&totals, &good_measured, true).len(), 1, "{totals:?}");
        }
        let failed = Measured { comparisons_failed: 1, ..good_measured.clone() };
        let unanswered = Measured { unanswered: 1, ..good_measured.clone() };
        let idle = Measured { comparisons_made: 0, ..good_measured };
        for measured in [failed, unanswered, idle] {
            assert_eq!(objections(&good_totals, &measured, true).len(), 1, "{measured:?}");
        }
    }

    #[test]
    fn without_traffic_nothing_need_be_promised() {
        let totals = Totals { blocks: 2, flashblocks: 20, ..Totals::default() };
        assert_eq!(objections(&totals, &Measured::default(), false), [""; 0]);
        assert_eq!(objections(&totals, &Measured::default(), true).len(), 1);
    }

    #[test]
    fn the_json_has_the_names_that_scripts_read() {
        let (totals, mut measured) = good();
        measured.latency.add(150.0);
        let mut cadence = Samples::default();
        cadence.add(200.0);

        let report = serde_json::to_value(Report::new(&totals, &cadence, 1, &measured)).unwrap();

        let one = json!({ "p50": 150.0, "p90": 150.0, "p99": 150.0, "max": 150.0 });
        let none = json!({ "p50": null, "p90": null, "p99": null, "max": null });
        let mut latency = one.clone();
        latency["overall"] = one;
        latency["build_window"] = none;
        let expected = json!({
            "blocks": 2,
            "flashblocks": 20,
            "transactions": { "preconfirmed": 9, "kept": 9, "retracted": 0 },
            "gaps": 0,
            "invalid_signatures": 0,
            "latency_ms": latency,
            "cadence_ms": { "p50": 200.0, "p99": 200.0 },
            "fallbacks": 1,
            "comparisons": { "made": 9, "failed": 0 },
        });
        assert_eq!(report, expected);
    }
}
