//! What the person in front of the terminal reads.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

/// How often progress is shown, on a terminal and elsewhere.
const INTERVALS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// Where lines go.
#[derive(Debug)]
pub enum Output {
    /// Results to stdout, progress to stderr.
    Terminal {
        /// When progress was last shown.
        shown: Instant,
    },
    /// Results are kept.
    Kept(Vec<String>),
}

impl Output {
    /// The terminal.
    pub fn terminal() -> Self {
        Self::Terminal { shown: Instant::now() }
    }

    /// Nobody but the caller.
    pub const fn kept() -> Self {
        Self::Kept(Vec::new())
    }

    /// Writes a result.
    pub fn line(&mut self, line: impl Display) {
        match self {
            // A closed pipe does not change what is found out.
            Self::Terminal { .. } => drop(writeln!(io::stdout(), "{line}")),
            Self::Kept(lines) => lines.push(line.to_string()),
        }
    }

    /// Shows how far the work is, now and then.
    pub fn progress(&mut self, line: impl FnOnce() -> String) {
        let Self::Terminal { shown } = self else { return };
        let (often, seldom) = INTERVALS;
        let interval = if io::stderr().is_terminal() { often } else { seldom };
        if shown.elapsed() >= interval {
            *shown = Instant::now();
            drop(writeln!(io::stderr(), "{}", line()));
        }
    }
}
