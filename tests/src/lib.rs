//! What the end-to-end tests have in common: the service binaries, and systems made of them.
//!
//! * [`cluster`] — the whole system in processes, one at a time.
//! * [`program`] — `devnet` itself as a process.

pub mod cluster;
pub mod program;
