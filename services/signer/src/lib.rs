//! The signer: it holds the key, the session counter and the lease, and signs structures, once.
//!
//! Everything it guards is decided by one pure machine, [`watermark`]: no two contents at one
//! position, one holder of the right to build at a time, no session number used twice. The machine
//! records a decision before a signature is made of it; [`service`] puts the key behind it and
//! answers `signer.v1`.
//!
//! The key is in this process and nowhere else; it never leaves it, and is never printed.
//!
//! With `--record` each decision is on the disk before its signature leaves, and a signer that is
//! started again goes on where it was. Without, state is in memory: it says so when it starts, and
//! takes its numbers from the clock so that they are not used twice ([`Seed`]).

mod config;
mod key;
mod metrics;
mod record;
mod server;
pub mod service;
mod signatory;
pub mod watermark;

pub use config::Config;
pub use key::{InvalidKey, SigningKey};
pub use metrics::register as register_metrics;
pub use server::{Prepared, serve, spawn};
pub use service::Signer;
pub use signatory::Signatory;
pub use watermark::Seed;
