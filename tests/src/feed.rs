//! A sequencer and a consumer in one process, without anything between them: blocks go in whole,
//! are cut into signed flashblocks, verified, executed by the machine that every consumer runs, and
//! come out as snapshots.
//!
//! * [`Known`] — a block with the complete state after it.
//! * [`Split`] — where a block is cut.
//! * [`Sequencer`] — signs.
//! * [`Consumer`] — verifies, executes, shows.
//! * [`check`] — compares what was shown with the header that should come out.

mod check;
mod consumer;
mod known;
mod sequencer;
mod split;

pub use check::{Mismatch, compare, header_of};
pub use consumer::{Consumer, Heard, Message, Trouble};
pub use known::{Known, root_of};
pub use sequencer::{OpenSession, Sequencer, base_of, sendable, withdrawals_of};
pub use split::{BadSplit, Split};
