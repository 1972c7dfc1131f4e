//! Measures what preconf does beside the least that it could cost: ours, the limit, ours, the limit.
//!
//! Each bench prepares its input outside of the timed part, compares what both sides came to, and
//! fails if that differs; a missed goal is printed and is no failure.

mod clock;
mod consume;
mod execute;
mod live;
mod machine;
mod measure;
mod one_shot;
mod options;
mod pool;
mod recover;
mod report;
mod sequencer;
mod world;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    options::Options::parse().run()
}
