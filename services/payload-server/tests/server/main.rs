//! The payload server over real HTTP and TLS, in front of a builder that answers what it is told.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod branches;
mod builder;
mod files;
mod limits;
mod noise;
mod tls;
mod turns;
mod world;
