//! What the person in front of the terminal reads, one line at a time.

use std::{
    fmt::Display,
    io::{self, Write},
};

/// The terminal, or nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Console {
    /// Lines go to stdout.
    Stdout,
    /// Nobody reads, as in a test.
    Silent,
}

impl Console {
    /// Writes a line.
    pub fn line(self, line: impl Display) {
        match self {
            // A closed terminal does not stop the devnet: Ctrl-C and signals do.
            Self::Stdout => drop(writeln!(io::stdout(), "{line}")),
            Self::Silent => {}
        }
    }
}
