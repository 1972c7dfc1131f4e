//! The flags by which an operator chooses what is logged.
//!
//! A filter that does not parse is refused here, with the other flags, so that nothing later can
//! fail on it. Traces have no flags: they follow the `OTEL_*` variables that every SDK knows.

use std::{fmt, str::FromStr};

use tracing_subscriber::{EnvFilter, filter::LevelFilter, filter::ParseError};

/// Flags for logs, shared by every service.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Logs")]
pub struct TelemetryArgs {
    /// How a log line is written to stderr.
    #[arg(long, env = "PRECONF_LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,

    /// What is logged, in the syntax of RUST_LOG: `info`, or `warn,preconf_builder=debug`.
    #[arg(long, env = "RUST_LOG", default_value_t, value_name = "DIRECTIVES")]
    pub log_filter: LogFilter,
}

/// How a log line is written.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people: one line, fields as `name=value`.
    #[default]
    Text,
    /// For machines: one JSON object per line.
    Json,
}

/// A log filter that is known to parse.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LogFilter(String);

impl LogFilter {
    /// Compiles the filter for one layer.
    pub(crate) fn compile(&self) -> EnvFilter {
        parse(&self.0).expect("the directives were parsed when the filter was made")
    }
}

impl Default for LogFilter {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl FromStr for LogFilter {
    type Err = ParseError;

    fn from_str(directives: &str) -> Result<Self, ParseError> {
        parse(directives).map(|_| Self(directives.to_owned()))
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An empty filter means the default level, as an unset variable does.
fn parse(directives: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).parse(directives)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        telemetry: TelemetryArgs,
    }

    #[test]
    fn flags_choose_format_and_filter() {
        let flags =
            Flags::try_parse_from(["x", "--log-format", "json", "--log-filter", "warn"]).unwrap();

        assert_eq!(flags.telemetry.log_format, LogFormat::Json);
        assert_eq!(flags.telemetry.log_filter.to_string(), "warn");
    }

    #[test]
    fn a_filter_that_does_not_parse_is_refused_with_the_flags() {
        let refused = Flags::try_parse_from(["x", "--log-filter", "preconf=loud"]);

        assert!(refused.is_err_and(|error| error.exit_code() == 2));
    }
}
