//! Why a process ends, and what its exit code says about it.
//!
//! Code 2: the operator must change a flag or a file ([`ConfigError`] anywhere in the chain of
//! sources). Code 1: everything else. Either way one line on stderr tells the whole chain.

use std::{error::Error, fmt, path::Path};

/// Any error that can cross a thread.
pub type BoxError = Box<dyn Error + Send + Sync + 'static>;

/// A flag or a file is wrong: names which, and why.
#[derive(Debug, thiserror::Error)]
#[error("{subject}: {reason}")]
pub struct ConfigError {
    subject: String,
    reason: String,
    source: Option<BoxError>,
}

impl ConfigError {
    /// The file at `path` cannot be used.
    pub fn file(path: &Path, reason: impl fmt::Display) -> Self {
        Self::about(path.display(), reason)
    }

    /// The flag, or the value given to it, cannot be used.
    pub fn flag(flag: impl fmt::Display, reason: impl fmt::Display) -> Self {
        Self::about(flag, reason)
    }

    /// Adds what the reason was found by.
    #[must_use]
    pub fn because(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    fn about(subject: impl fmt::Display, reason: impl fmt::Display) -> Self {
        Self { subject: subject.to_string(), reason: reason.to_string(), source: None }
    }
}

/// The end of a process that did not go well.
///
/// Made from any error with `?`; it is not an error itself, for it is where errors end.
#[derive(Debug)]
pub struct Exit(BoxError);

impl Exit {
    /// The exit code: 2 if the configuration is at fault, else 1.
    #[must_use]
    pub fn code(&self) -> u8 {
        if chain(self.0.as_ref()).any(|error| error.is::<ConfigError>()) { 2 } else { 1 }
    }
}

impl<E: Into<BoxError>> From<E> for Exit {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Chain(self.0.as_ref()).fmt(f)
    }
}

/// Displays an error and all its sources in one line: `a: b: c`.
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (depth, error) in chain(self.0).enumerate() {
            let separator = if depth == 0 { "" } else { ": " };
            let text = error.to_string();
            write!(f, "{separator}")?;
            // A message of several lines would hide the rest of the chain from a line-based log.
            for (line, words) in text.lines().map(str::trim).filter(|l| !l.is_empty()).enumerate() {
                write!(f, "{}{words}", if line == 0 { "" } else { " " })?;
            }
        }
        Ok(())
    }
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("starting the feed")]
    struct Starting(#[source] ConfigError);

    #[test]
    fn a_chain_is_one_line() {
        let config = ConfigError::file(Path::new("/etc/key"), "not\nhex")
            .because(io::Error::other("odd length"));

        let exit = Exit::from(Starting(config));

        assert_eq!(exit.to_string(), "starting the feed: /etc/key: not hex: odd length");
    }

    #[test]
    fn a_configuration_error_anywhere_in_the_chain_exits_2() {
        assert_eq!(Exit::from(Starting(ConfigError::flag("--key", "missing"))).code(), 2);
        assert_eq!(Exit::from(ConfigError::flag("--key", "missing")).code(), 2);
        assert_eq!(Exit::from(io::Error::other("disk is full")).code(), 1);
        assert_eq!(Exit::from("nothing left to do").code(), 1);
    }
}
