//! The state in as few records as there can be.
//!
//! Sessions are told by the records that made them, oldest first; what else there is, by one
//! checkpoint behind them. That is bounded as the machine is, however many records led to it.

use preconf_primitives::{Epoch, Seq};

use super::{Contradiction, Highest, Lease, Record, RetractionList, Watermark};

/// What the records of the remembered sessions do not tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The newest epoch.
    pub epoch: Epoch,
    /// The newest session, which need not be remembered.
    pub last_seq: Seq,
    /// The lease of the newest epoch.
    pub lease: Option<Lease>,
    /// The highest block number of the newest epoch.
    pub highest: Option<Highest>,
    /// The lists of retractions, newest first: at most
    /// [`MAX_RETRACTION_LISTS`](super::MAX_RETRACTION_LISTS).
    pub retracted: Vec<RetractionList>,
}

impl Watermark {
    /// What leads a machine that has signed nothing, and goes on from zero, to this state.
    pub fn condensed(&self) -> Vec<Record> {
        let mut records: Vec<Record> = self.history.records().collect();
        records.push(Record::Checkpoint(Checkpoint {
            epoch: self.leases.newest(),
            last_seq: self.last_seq,
            lease: self.leases.lease().cloned(),
            highest: self.highest,
            retracted: self.retracted.iter().copied().collect(),
        }));
        records
    }

    pub(super) fn restore(&mut self, checkpoint: &Checkpoint) -> Result<(), Contradiction> {
        let Checkpoint { epoch, last_seq, lease, highest, retracted } = checkpoint.clone();
        if last_seq < self.last_seq {
            return Err(Contradiction::Session { seq: last_seq, newest: self.last_seq });
        }
        self.leases.restore(epoch, lease)?;
        self.last_seq = last_seq;
        self.highest = highest;
        self.retracted = retracted.into();
        Ok(())
    }
}
