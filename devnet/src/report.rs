//! What a run is judged by, and the file that says it.

use std::{collections::BTreeMap, fs, io, path::Path};

use serde::Serialize;

use crate::{
    consensus::Kind,
    observer::Totals,
    samples::{Percentiles, Samples},
    traffic::Measured,
    validators::OfValidators,
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
    /// Blocks that an execution client built, and not the builder.
    pub fallbacks: u64,
    /// Transactions that the overlay did not take.
    pub refused: u64,
    /// First receipts.
    pub receipts: Receipts,
    /// Receipts before and after.
    pub comparisons: Comparisons,
    /// The validators' turns, by how they get the sequencer's block.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub validators: BTreeMap<Kind, OfValidators>,
    /// If there was a scenario.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub survived: Option<Survived>,
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
    /// Of those: in another block.
    pub moved: u64,
}

/// What became of a run in which things went wrong on purpose.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Survived {
    /// Slots without a block that no fault asked for.
    pub missed_slots: u64,
    /// Rounds that a fault asked to be lost.
    pub lost_rounds: u64,
    /// Promises that were taken back, by cause.
    pub taken_back: BTreeMap<String, u64>,
    /// Promises that neither another block kept nor anybody took back.
    pub silent: u64,
    /// Transactions that were taken and had no receipt in time.
    pub lost: u64,
    /// Blocks that were sealed and did not reach their proposer in time, who proposed another.
    pub unused: u64,
    /// From whoever publishes being killed, stopped or held up to the next flashblock, in
    /// milliseconds.
    pub silence_ms: Percentiles,
    /// From a builder being started again to its Engine API answering, in milliseconds.
    pub serves_ms: Percentiles,
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

/// First receipts of transactions.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Receipts {
    /// Those that came before their block.
    pub early: u64,
    /// Those that may have come from it; they are not compared.
    pub late: u64,
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
    pub fn new(totals: &Totals, cadence: &Samples, measured: &Measured) -> Self {
        let overall = measured.latency.percentiles();
        let cadence = cadence.percentiles();
        Self {
            blocks: totals.blocks,
            flashblocks: totals.flashblocks,
            transactions: Promises {
                preconfirmed: totals.preconfirmed,
                kept: totals.kept,
                retracted: totals.retracted,
                moved: totals.moved,
            },
            gaps: totals.gaps,
            invalid_signatures: totals.invalid_signatures,
            latency_ms: Latency {
                all: overall,
                overall,
                build_window: measured.latency_in_window.percentiles(),
            },
            cadence_ms: Cadence { p50: cadence.p50, p99: cadence.p99 },
            fallbacks: totals.fallbacks,
            refused: measured.refused,
            receipts: Receipts { early: measured.early, late: measured.late },
            comparisons: Comparisons {
                made: measured.comparisons_made,
                failed: measured.comparisons_failed,
            },
            validators: BTreeMap::new(),
            survived: None,
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

/// What a run is expected to have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// Traffic, and with it promises.
    pub traffic: bool,
    /// At least so many flashblocks per block, on average.
    pub flashblocks_per_block: u64,
}

/// Everything that speaks against a run; nothing if it is good.
///
/// That a block was built by an execution client is not among it: the chain is made to survive
/// that. If it broke a promise, the promise is; and if the builder built none, nothing was shown.
pub fn objections(totals: &Totals, measured: &Measured, expected: Expected) -> Vec<String> {
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
    object(totals.unused, "sealed blocks did not reach their proposer");
    object(totals.unsealed, "blocks of the builder were never sealed");
    object(measured.comparisons_failed, "comparisons of receipts did not hold");
    object(measured.unanswered, "transactions had no receipt in time");
    objections.extend(too_little(totals, expected.flashblocks_per_block));
    if expected.traffic {
        objections.extend(proves_nothing(totals, measured));
    }
    objections
}

/// Everything that speaks against a run in which things went wrong on purpose. Promises may move to
/// another block or be taken back, and blocks may be the execution client's: nothing may happen in
/// silence, and the chain goes on.
pub fn objections_after_faults(
    totals: &Totals,
    survived: &Survived,
    expected: Expected,
) -> Vec<String> {
    let mut objections = Vec::new();
    let mut object = |count: u64, what: &str| {
        if count > 0 {
            objections.push(format!("{count} {what}"));
        }
    };
    object(survived.missed_slots, "slots were missed");
    object(survived.silent, "promises were broken in silence");
    object(survived.lost, "transactions were lost");
    object(totals.invalid_signatures, "signatures were not good");
    object(totals.contradictions, "messages of the feed made no sense");
    object(totals.missealed, "blocks were sealed with another hash than they have");
    objections.extend(too_little(totals, expected.flashblocks_per_block));
    if expected.traffic && totals.preconfirmed == 0 {
        objections.push("no transaction was preconfirmed".to_owned());
    }
    objections
}

/// Why the blocks of a run do not show that the builder builds.
fn too_little(totals: &Totals, flashblocks_per_block: u64) -> Option<String> {
    let Totals { blocks, flashblocks, fallbacks, .. } = *totals;
    if flashblocks == 0 {
        return Some("no flashblock was published".to_owned());
    }
    if fallbacks == blocks {
        return Some(format!("none of the {blocks} blocks was built by the builder"));
    }
    let least = flashblocks_per_block * blocks;
    let is_less = flashblocks < least;
    is_less.then(|| format!("{flashblocks} flashblocks for {blocks} blocks, not at least {least}"))
}

/// What is later than it may be: half of the receipts, and 99 of 100.
pub fn too_late(latency: &Percentiles, at_most: &[u32]) -> Option<String> {
    let measured = [("half", latency.p50), ("99 of 100", latency.p99)];
    measured.into_iter().zip(at_most).find_map(|((share, took), most)| {
        let took = took?;
        (took > f64::from(*most))
            .then(|| format!("{share} of the first receipts took up to {took:.0} ms, not {most}"))
    })
}

/// Why the traffic of a run proves nothing.
fn proves_nothing(totals: &Totals, measured: &Measured) -> Option<String> {
    let Measured { early, late, refused, .. } = *measured;
    if measured.sent == 0 && refused > 0 {
        let first = measured.refusals.first().map_or("for no reason", String::as_str);
        return Some(format!("all {refused} transactions were refused, the first one: {first}"));
    }
    let receipts = early + late;
    // Those that are sent last have none when the run ends.
    if 2 * receipts < measured.sent {
        let sent = measured.sent;
        return Some(format!(
            "only {receipts} of {sent} transactions that were taken had a receipt"
        ));
    }
    if early < late {
        return Some(format!("only {early} of {receipts} first receipts came before their block"));
    }
    let is_idle = totals.preconfirmed == 0 || measured.comparisons_made == 0;
    is_idle.then(|| "no transaction was preconfirmed and compared".to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TRAFFIC: Expected = Expected { traffic: true, flashblocks_per_block: 10 };

    fn good() -> (Totals, Measured) {
        let totals =
            Totals { blocks: 2, flashblocks: 20, preconfirmed: 9, kept: 9, ..Totals::default() };
        let measured =
            Measured { sent: 9, early: 9, comparisons_made: 9, refused: 1, ..Measured::default() };
        (totals, measured)
    }

    #[test]
    fn a_run_that_kept_everything_has_nothing_against_it() {
        let (mut totals, mut measured) = good();
        assert_eq!(objections(&totals, &measured, TRAFFIC), [""; 0]);
        totals.fallbacks = 1;
        measured.late = 9;
        assert_eq!(objections(&totals, &measured, TRAFFIC), [""; 0]);
    }

    #[test]
    fn everything_that_goes_wrong_speaks_against_a_run() {
        let (good_totals, good_measured) = good();
        let totals: [fn(&mut Totals); 10] = [
            |totals| totals.retracted = 1,
            |totals| totals.gaps = 1,
            |totals| totals.invalid_signatures = 1,
            |totals| totals.contradictions = 1,
            |totals| totals.missealed = 1,
            |totals| totals.unused = 1,
            |totals| totals.unsealed = 1,
            |totals| totals.flashblocks = 0,
            |totals| totals.flashblocks = 19,
            |totals| totals.fallbacks = 2,
        ];
        for change in totals {
            let mut totals = good_totals;
            change(&mut totals);
            assert_eq!(objections(&totals, &good_measured, TRAFFIC).len(), 1, "{totals:?}");
        }
        let measured: [fn(&mut Measured); 5] = [
            |measured| measured.comparisons_failed = 1,
            |measured| measured.unanswered = 1,
            |measured| measured.comparisons_made = 0,
            |measured| measured.late = 10,
            |measured| measured.sent = 0,
        ];
        for change in measured {
            let mut measured = good_measured.clone();
            change(&mut measured);
            assert_eq!(objections(&good_totals, &measured, TRAFFIC).len(), 1, "{measured:?}");
        }
    }

    #[test]
    fn a_run_that_shows_nothing_says_why() {
        let refusals = vec!["nonce too low".to_owned()];
        let refused = Measured { refused: 3, refusals, ..Measured::default() };
        let totals = Totals { blocks: 2, flashblocks: 4, fallbacks: 2, ..Totals::default() };
        let expected = [
            "none of the 2 blocks was built by the builder",
            "all 3 transactions were refused, the first one: nonce too low",
        ];
        assert_eq!(objections(&totals, &refused, TRAFFIC), expected);

        let (totals, measured) = good();
        let lost = Measured { early: 4, ..measured.clone() };
        let expected = ["only 4 of 9 transactions that were taken had a receipt"];
        assert_eq!(objections(&totals, &lost, TRAFFIC), expected);
        let late = Measured { early: 2, late: 3, ..measured };
        let expected = ["only 2 of 5 first receipts came before their block"];
        assert_eq!(objections(&totals, &late, TRAFFIC), expected);
    }

    #[test]
    fn without_traffic_nothing_need_be_promised() {
        let totals = Totals { blocks: 2, flashblocks: 20, ..Totals::default() };
        assert_eq!(objections(&totals, &Measured::default(), Expected::default()), [""; 0]);
        assert_eq!(objections(&totals, &Measured::default(), TRAFFIC).len(), 1);
    }

    #[test]
    fn receipts_that_come_later_than_they_may_are_told() {
        let latency = Percentiles { p50: Some(250.0), p99: Some(751.0), ..Percentiles::default() };
        assert_eq!(too_late(&latency, &[]), None);
        assert_eq!(too_late(&latency, &[250, 751]), None);
        let expected = "99 of 100 of the first receipts took up to 751 ms, not 750";
        assert_eq!(too_late(&latency, &[250, 750]).as_deref(), Some(expected));
        let expected = "half of the first receipts took up to 250 ms, not 249";
        assert_eq!(too_late(&latency, &[249, 750]).as_deref(), Some(expected));
    }

    #[test]
    fn after_faults_promises_may_move_but_nothing_may_be_silent_or_lost() {
        let (mut totals, _) = good();
        (totals.retracted, totals.kept, totals.moved, totals.fallbacks) = (3, 6, 3, 1);
        let survived = Survived { lost_rounds: 2, ..Survived::default() };
        assert_eq!(objections_after_faults(&totals, &survived, TRAFFIC), [""; 0]);
        let bad = Survived { missed_slots: 1, silent: 2, lost: 3, ..survived };
        totals.contradictions = 4;
        assert_eq!(
            objections_after_faults(&totals, &bad, TRAFFIC),
            [
                "1 slots were missed",
                "2 promises were broken in silence",
                "3 transactions were lost",
                "4 messages of the feed made no sense",
            ]
        );
    }

    #[test]
    fn the_json_has_the_names_that_scripts_read() {
        let (mut totals, mut measured) = good();
        totals.fallbacks = 1;
        measured.late = 2;
        measured.latency.add(150.0);
        let mut cadence = Samples::default();
        cadence.add(200.0);

        let report = serde_json::to_value(Report::new(&totals, &cadence, &measured)).unwrap();

        let one = json!({ "p50": 150.0, "p90": 150.0, "p99": 150.0, "max": 150.0 });
        let none = json!({ "p50": null, "p90": null, "p99": null, "max": null });
        let mut latency = one.clone();
        latency["overall"] = one;
        latency["build_window"] = none;
        let expected = json!({
            "blocks": 2,
            "flashblocks": 20,
            "transactions": { "preconfirmed": 9, "kept": 9, "retracted": 0, "moved": 0 },
            "gaps": 0,
            "invalid_signatures": 0,
            "latency_ms": latency,
            "cadence_ms": { "p50": 200.0, "p99": 200.0 },
            "fallbacks": 1,
            "refused": 1,
            "receipts": { "early": 9, "late": 2 },
            "comparisons": { "made": 9, "failed": 0 },
        });
        assert_eq!(report, expected);
    }
}
