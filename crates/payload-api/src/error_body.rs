//! The small answers: an error, and the server's health.

use serde::{Deserialize, Serialize};

/// The body of every answer that is an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The HTTP status, again.
    pub code: u16,
    /// What is wrong.
    pub message: String,
}

/// The body of the answer to a question about health.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthBody {
    /// Whether there is a chain to build on.
    pub is_ready: bool,
    /// Whether the chain is still being caught up with.
    pub is_syncing: bool,
    /// Whether the execution client answers.
    pub el_connected: bool,
}

impl ErrorBody {
    /// As it is sent: one line of JSON.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        line(self)
    }
}

impl HealthBody {
    /// Whether payloads can be served, which is what the status of the answer says.
    #[must_use]
    pub const fn is_healthy(&self) -> bool {
        self.is_ready && !self.is_syncing && self.el_connected
    }

    /// As it is sent: one line of JSON.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        line(self)
    }
}

pub(crate) fn line(value: &impl Serialize) -> Vec<u8> {
    let mut text = serde_json::to_vec(value).expect("numbers, texts and lists can be written");
    text.push(b'\n');
    text
}
