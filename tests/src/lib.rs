//! What doubts the rest: public test suites, random blocks, and what the end-to-end tests have in
//! common.
//!
//! * [`conformance`] — the program that runs public suites of execution clients.
//! * [`random`] — random blocks, executed in different ways.
//! * [`feed`] — a sequencer and a consumer without anything between them.
//! * [`payload_api`] — what strangers send to the payload API.
//! * [`choices`] — what is left to chance, by a seed or by a fuzzer's bytes.
//! * [`metrics`] — the documentation of all metrics.
//! * [`cluster`] — the whole system in processes, one or two at a time.
//! * [`program`] — `devnet` itself as a process.

pub mod choices;
pub mod cluster;
pub mod conformance;
pub mod feed;
pub mod metrics;
pub mod payload_api;
pub mod program;
pub mod random;
