//! What a bench says: one row for each thing measured, as a table or as JSON.

use std::{error::Error, time::Duration};

use serde::Serialize;

use crate::{
    machine::Machine,
    measure::{Rounds, median},
};

/// What the ratio of ours to the limit should be.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    fn is_met(self, ratio: f64) -> bool {
        match self {
            Self::AtLeast(least) => ratio >= least,
            Self::AtMost(most) => ratio <= most,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtLeast(least) => format!(">= {least:.2}"),
            Self::AtMost(most) => format!("<= {most:.2}"),
        }
    }
}

/// One thing measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    name: String,
    unit: &'static str,
    ours: Side,
    limit: Option<Side>,
    ratio: Option<f64>,
    goal: Option<Goal>,
    met: Option<bool>,
}

#[derive(Clone, Debug, Serialize)]
struct Side {
    median: f64,
    samples: Vec<f64>,
}

impl Side {
    fn new(samples: &[Duration], scale: impl Fn(Duration) -> f64) -> Self {
        let median = scale(median(samples));
        Self { median, samples: samples.iter().copied().map(scale).collect() }
    }
}

impl Row {
    /// How many things are done in a second; more is better.
    pub(crate) fn rate(name: impl Into<String>, things: usize, ours: &[Duration]) -> Self {
        let scale = move |time: Duration| things as f64 / time.as_secs_f64();
        Self::new(name, "1/s", Side::new(ours, scale))
    }

    /// How many microseconds it takes; less is better.
    pub(crate) fn time(name: impl Into<String>, ours: &[Duration]) -> Self {
        Self::new(name, "us", Side::new(ours, |time| time.as_secs_f64() * 1e6))
    }

    fn new(name: impl Into<String>, unit: &'static str, ours: Side) -> Self {
        Self { name: name.into(), unit, ours, limit: None, ratio: None, goal: None, met: None }
    }

    /// Puts the limit beside it, which did `things` in each sample of a rate.
    pub(crate) fn beside(self, things: usize, limit: &[Duration]) -> Self {
        let limit = match self.unit {
            "us" => Self::time("", limit),
            _ => Self::rate("", things, limit),
        };
        let ratio = self.ours.median / limit.ours.median;
        Self { limit: Some(limit.ours), ratio: Some(ratio), ..self }
    }

    /// Says what the ratio should be.
    pub(crate) fn goal(self, goal: Goal) -> Self {
        let met = self.ratio.map(|ratio| goal.is_met(ratio));
        Self { goal: Some(goal), met, ..self }
    }

    fn cells(&self) -> [String; 6] {
        let number = |value: f64| {
            if value >= 1_000.0 { format!("{value:.0}") } else { format!("{value:.2}") }
        };
        let or_blank = |cell: Option<String>| cell.unwrap_or_else(|| "-".to_owned());
        let met = self.met.map(|met| if met { "" } else { " MISSED" });
        [
            self.name.clone(),
            self.unit.to_owned(),
            number(self.ours.median),
            or_blank(self.limit.as_ref().map(|limit| number(limit.median))),
            or_blank(self.ratio.map(|ratio| format!("{ratio:.2}"))),
            or_blank(self.goal.map(|goal| goal.text() + met.unwrap_or_default())),
        ]
    }
}

/// Everything that one run has to say.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    bench: String,
    rounds: usize,
    machine: Machine,
    rows: Vec<Row>,
}

impl Report {
    pub(crate) fn new(bench: String, rounds: Rounds, machine: Machine, rows: Vec<Row>) -> Self {
        Self { bench, rounds: rounds.get(), machine, rows }
    }

    #[expect(clippy::print_stdout, reason = "the result is what the program is for")]
    pub(crate) fn print(&self, as_json: bool) {
        if as_json {
            let json = serde_json::to_string_pretty(self);
            println!("{}", json.expect("numbers and strings are JSON"));
            return;
        }
        for line in self.machine.lines() {
            println!("{line}");
        }
        println!("bench    {}, median of {} rounds\n", self.bench, self.rounds);
        println!("{}", self.table());
    }

    fn table(&self) -> String {
        let head = ["", "unit", "ours", "limit", "ratio", "goal"].map(str::to_owned);
        let cells: Vec<_> = [head].into_iter().chain(self.rows.iter().map(Row::cells)).collect();
        let width = |column: usize| cells.iter().map(|row| row[column].len()).max().unwrap_or(0);
        let widths: [usize; 6] = std::array::from_fn(width);
        let line = |row: &[String; 6]| {
            let [name, unit, numbers @ .., goal] = row;
            let mut line = format!("{name:<0$}  {unit:<1$}", widths[0], widths[1]);
            for (number, width) in numbers.iter().zip(&widths[2..]) {
                line += &format!("  {number:>width$}");
            }
            format!("{line}  {goal}")
        };
        cells.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

/// Says why there is no result.
#[expect(clippy::print_stderr, reason = "there is nobody else to tell")]
pub(crate) fn complain(error: &dyn Error) {
    eprintln!("error: {error}");
}
