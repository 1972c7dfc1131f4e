//! What the consensus client wants: which block its next one follows, and with what attributes.
//!
//! A forkchoice update says it, and the execution client answers with an id; getPayload names only
//! the id. What stands behind the newest ids is kept here.

use std::{collections::VecDeque, ops::RangeInclusive, str::FromStr, sync::Arc};

use alloy_eips::eip4895::Withdrawal;
use alloy_primitives::{Address, B256};
use alloy_rpc_types_engine::{PayloadAttributes, PayloadId};
use parking_lot::Mutex;
use preconf_chain::ProposerPublicKey;
use preconf_engine::PayloadVersion;
use preconf_payload_api::{PayloadRequest, SlotRule};
use tokio::sync::OnceCell;

/// How many ids are remembered; the oldest is forgotten first, and its payload left to the execution
/// client. A consensus client asks within seconds.
const REMEMBERED: usize = 64;

/// A build that the execution client was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Job {
    /// The block that it follows.
    pub(crate) head: B256,
    /// What it is to be.
    pub(crate) attributes: PayloadAttributes,
    /// The key of the previous block's proposer, on Berachain since Prague1.
    pub(crate) parent_proposer_pubkey: Option<ProposerPublicKey>,
    /// The block that it follows, once it has been looked up.
    pub(crate) parent: OnceCell<Parent>,
}

/// The newest builds, by the execution client's ids. The lock is held for a look-up.
#[derive(Debug, Default)]
pub(crate) struct Jobs(Mutex<VecDeque<(PayloadId, Arc<Job>)>>);

impl Jobs {
    pub(crate) fn remember(&self, id: PayloadId, job: Job) -> Arc<Job> {
        let job = Arc::new(job);
        let mut jobs = self.0.lock();
        jobs.retain(|(known, _)| *known != id);
        if jobs.len() == REMEMBERED {
            jobs.pop_front();
        }
        jobs.push_back((id, job.clone()));
        job
    }

    pub(crate) fn get(&self, id: PayloadId) -> Option<Arc<Job>> {
        let jobs = self.0.lock();
        jobs.iter().find(|(known, _)| *known == id).map(|(_, job)| job.clone())
    }
}

/// The block before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parent {
    pub(crate) number: u64,
    pub(crate) timestamp: u64,
}

/// Who may get the fees of a block of the sequencer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeeRecipients {
    /// Anybody: whom the sequencer chooses.
    Any,
    /// The validator's own, as the consensus client names it.
    Own,
    /// One of these.
    These(Vec<Address>),
}

/// A text that names nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected `any`, `own`, or addresses with commas between")]
pub struct FeeRecipientsError;

impl FromStr for FeeRecipients {
    type Err = FeeRecipientsError;

    fn from_str(text: &str) -> Result<Self, FeeRecipientsError> {
        match text {
            "any" => Ok(Self::Any),
            "own" => Ok(Self::Own),
            addresses => {
                let addresses = addresses.split(',').map(|address| address.trim().parse());
                let addresses = addresses.collect::<Result<_, _>>();
                addresses.map(Self::These).map_err(|_| FeeRecipientsError)
            }
        }
    }
}

/// Everything that a payload is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The method that asks for it.
    pub(crate) version: PayloadVersion,
    pub(crate) slot: u64,
    pub(crate) parent_hash: B256,
    pub(crate) number: u64,
    pub(crate) timestamps: RangeInclusive<u64>,
    pub(crate) prev_randao: B256,
    pub(crate) withdrawals: Vec<Withdrawal>,
    pub(crate) parent_beacon_block_root: B256,
    pub(crate) parent_proposer_pubkey: Option<ProposerPublicKey>,
    pub(crate) fee_recipient: Address,
    pub(crate) fee_recipients: FeeRecipients,
}

impl Wanted {
    /// What getPayload of this version wants of a job; none if that cannot be told, and then the
    /// payload is the execution client's.
    pub(crate) fn new(
        version: PayloadVersion,
        job: &Job,
        parent: Parent,
        slots: SlotRule,
        fee_recipients: &FeeRecipients,
    ) -> Option<Self> {
        let Job { head, attributes, parent_proposer_pubkey, parent: _ } = job;
        let is_p11 = match version {
            PayloadVersion::V3 | PayloadVersion::V4 | PayloadVersion::V5 => false,
            PayloadVersion::V4P11 => true,
        };
        if is_p11 != parent_proposer_pubkey.is_some() {
            return None;
        }
        let number = parent.number.checked_add(1)?;
        let latest = attributes.timestamp.checked_add(1)?;
        let timestamps = match slots {
            // Who builds before the consensus time is known may be a second off.
            SlotRule::Number => parent.timestamp.checked_add(1)?..=latest,
            // The time of a slot is given.
            SlotRule::Time { .. } => attributes.timestamp..=attributes.timestamp,
        };
        Some(Self {
            version,
            slot: slots.slot(number, attributes.timestamp)?,
            parent_hash: *head,
            number,
            timestamps,
            prev_randao: attributes.prev_randao,
            withdrawals: attributes.withdrawals.clone()?,
            parent_beacon_block_root: attributes.parent_beacon_block_root?,
            parent_proposer_pubkey: *parent_proposer_pubkey,
            fee_recipient: attributes.suggested_fee_recipient,
            fee_recipients: fee_recipients.clone(),
        })
    }

    /// What a sequencer is asked for.
    pub(crate) fn request(&self) -> PayloadRequest {
        PayloadRequest { slot: self.slot, parent_block_root: self.parent_beacon_block_root }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: Parent = Parent { number: 6, timestamp: 1_000 };

    fn job() -> Job {
        Job {
            head: B256::repeat_byte(1),
            attributes: PayloadAttributes {
                timestamp: 1_012,
                prev_randao: B256::repeat_byte(2),
                suggested_fee_recipient: Address::repeat_byte(3),
                withdrawals: Some(Vec::new()),
                parent_beacon_block_root: Some(B256::repeat_byte(4)),
                ..PayloadAttributes::default()
            },
            parent_proposer_pubkey: None,
            parent: OnceCell::new(),
        }
    }

    fn wanted(version: PayloadVersion, job: &Job, slots: &str) -> Option<Wanted> {
        Wanted::new(version, job, PARENT, slots.parse().unwrap(), &FeeRecipients::Any)
    }

    #[test]
    fn where_slots_are_numbers_the_slot_is_the_blocks_and_its_time_may_be_a_second_later() {
        let wanted = wanted(PayloadVersion::V4, &job(), "number").unwrap();
        assert_eq!((wanted.slot, wanted.number, wanted.timestamps.clone()), (7, 7, 1_001..=1_013));
        let request = wanted.request();
        assert_eq!(request.parent_block_root, B256::repeat_byte(4));
    }

    #[test]
    fn where_slots_are_times_the_time_is_that_of_the_attributes() {
        let wanted = wanted(PayloadVersion::V4, &job(), "time:988:12").unwrap();
        assert_eq!((wanted.slot, wanted.number, wanted.timestamps), (2, 7, 1_012..=1_012));
    }

    #[test]
    fn what_cannot_be_told_is_not_wanted() {
        let mut without_root = job();
        without_root.attributes.parent_beacon_block_root = None;
        assert_eq!(wanted(PayloadVersion::V4, &without_root, "number"), None);
        assert_eq!(wanted(PayloadVersion::V4, &job(), "time:2000:12"), None, "before slot 0");
        assert_eq!(wanted(PayloadVersion::V4P11, &job(), "number"), None, "without a key");
        let key = Some(ProposerPublicKey::repeat_byte(5));
        let with_key = Job { parent_proposer_pubkey: key, ..job() };
        assert_eq!(wanted(PayloadVersion::V4, &with_key, "number"), None, "with a key");
        assert!(wanted(PayloadVersion::V4P11, &with_key, "number").is_some());
        let mut at_the_end = job();
        at_the_end.attributes.timestamp = u64::MAX;
        assert_eq!(wanted(PayloadVersion::V4, &at_the_end, "number"), None);
    }

    #[test]
    fn the_oldest_job_is_forgotten_first_and_the_newest_of_an_id_counts() {
        let (jobs, id) = (Jobs::default(), |n: u8| PayloadId::new([n; 8]));
        jobs.remember(id(0), job());
        jobs.remember(id(0), Job { head: B256::ZERO, ..job() });
        assert_eq!(jobs.get(id(0)).unwrap().head, B256::ZERO);
        for n in 1..=64 {
            jobs.remember(id(n), job());
        }
        assert_eq!(jobs.get(id(0)), None);
        assert!(jobs.get(id(1)).is_some() && jobs.get(id(64)).is_some());
    }

    #[test]
    fn who_may_get_the_fees_is_read() {
        let address = Address::repeat_byte(1);
        assert_eq!("any".parse(), Ok(FeeRecipients::Any));
        assert_eq!("own".parse(), Ok(FeeRecipients::Own));
        let two = format!("{address}, {address}");
        assert_eq!(two.parse(), Ok(FeeRecipients::These(vec![address; 2])));
        for wrong in ["", "none", "0x12", "any,own"] {
            assert_eq!(wrong.parse::<FeeRecipients>(), Err(FeeRecipientsError), "{wrong}");
        }
    }
}
