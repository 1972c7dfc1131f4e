//! A whole network on one machine, for development and tests.
//!
//! * [`client`] — an execution client in this process.
//! * [`node`] — that client alone, with a chain from a file.
//! * [`clients`] — three of them, one for each role, behind real sockets.
//! * [`consensus`] — the consensus client that drives them all: slots and proposers.
//! * [`keys`] — keys, secrets, accounts and the genesis.
//! * [`build`], [`services`], [`children`] — the services: built, configured, run as processes.
//! * [`devnet`] — all of that as one system.
//! * [`wiring`], [`links`], [`entrance`], [`impostor`] — how they come to each other, and what can
//!   break.
//! * [`traffic`], [`observer`], [`viewer`] — who uses it, who watches it, and who shows it.
//! * [`validators`] — what became of the validators' turns.
//! * [`scenario`], [`story`] — what goes wrong, and how it is done to the system.
//! * [`traces`] — the spans of the services, and whether the traces in them are whole.
//! * [`run`], [`report`], [`options`] — one run of `cargo devnet`, its verdict and its flags.
//! * [`invocation`] — the whole command line, subcommands included.
//! * [`monitor`] — what feeds say, one line per message.

pub mod build;
pub mod children;
pub mod client;
pub mod clients;
pub mod consensus;
pub mod console;
pub mod devnet;
pub mod entrance;
pub mod genesis;
pub mod impostor;
pub mod invocation;
pub mod keys;
pub mod links;
pub mod monitor;
pub mod node;
pub mod observer;
pub mod options;
pub mod report;
pub mod rpc;
pub mod run;
pub mod samples;
pub mod scenario;
pub mod services;
pub mod story;
pub mod traces;
pub mod traffic;
pub mod validators;
pub mod viewer;
pub mod wiring;

pub use console::Console;
pub use devnet::{Devnet, Endpoints};
pub use invocation::{Command, Invocation};
pub use options::Options;
