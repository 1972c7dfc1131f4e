//! What can be special about a transaction or a block, so that it can be counted.
//!
//! A generator that stops making something is not noticed otherwise: everything would still come to
//! the same. Nothing here decides what is made, or how often.

use std::fmt;

use super::{Rules, world::Rewards};

/// The number of the precompile that only Osaka has.
pub const P256_VERIFY: u16 = 0x100;

/// Something that happened, or was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An authorization for another chain.
    ForeignChain,
    /// An authorization for any chain.
    AnyChain,
    /// An authorization that nobody has signed.
    BadSignature,
    /// An authorization with a nonce that is not the account's.
    WrongNonce,
    /// An authorization of who pays for it.
    OfSender,
    /// A delegation of an account to itself.
    SelfDelegation,
    /// A delegation that ends one.
    Clearing,
    /// An account that was given code by a delegation.
    Delegated,
    /// An account whose delegation has ended.
    Undelegated,
    /// Blobs that pay less than the blob base fee, refused.
    BlobFeeBelow,
    /// Blobs that pay just the blob base fee.
    BlobFeeExact,
    /// More blobs than a transaction may have, refused.
    TooManyBlobs,
    /// A contract larger than Ethereum allows.
    LargeCode,
    /// A precompile returned something.
    Answered(u16),
    /// A precompile returned nothing: there is none, or that is its way to say no.
    Silent(u16),
    /// A precompile failed.
    Failed(u16),
    /// A block began with its reward.
    Reward(Rewards),
    /// A block minted what the chain mints.
    Inflation,
    /// A session was abandoned after several of its flashblocks.
    AbandonedLate,
    /// A session was abandoned before all that was heard of it was executed.
    AbandonedMidway,
    /// Another block became canonical in place of one that was promised.
    Replaced,
    /// That happened with a block that another promised one was built on.
    ReplacedBelow,
    /// Another block took the place of the canonical one.
    Reorganised,
}

impl Kind {
    /// Whether it is of transactions that no block can hold.
    pub const fn is_refused(self) -> bool {
        matches!(self, Self::BlobFeeBelow | Self::TooManyBlobs)
    }

    /// Everything that must happen sooner or later under these rules.
    pub fn all(rules: Rules) -> Vec<Self> {
        let mut all = vec![
            Self::ForeignChain,
            Self::AnyChain,
            Self::BadSignature,
            Self::WrongNonce,
            Self::OfSender,
            Self::SelfDelegation,
            Self::Clearing,
            Self::Delegated,
            Self::Undelegated,
            Self::BlobFeeBelow,
            Self::BlobFeeExact,
            Self::TooManyBlobs,
            Self::AbandonedLate,
            Self::AbandonedMidway,
            Self::Replaced,
            Self::ReplacedBelow,
            Self::Reorganised,
            // A signature that is none is not a failure.
            Self::Silent(1),
            Self::Silent(P256_VERIFY),
        ];
        all.extend((1..=0x11).chain([P256_VERIFY]).map(Self::Answered));
        all.extend((6..=0x11).map(Self::Failed));
        match rules {
            Rules::Ethereum => (),
            Rules::Berachain => {
                all.extend([Self::LargeCode, Self::Inflation]);
                all.extend(Rewards::ALL.map(Self::Reward));
            }
        }
        all
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Answered(number) => return write!(f, "precompile {number:#x}"),
            Self::Silent(number) => return write!(f, "precompile {number:#x} silent"),
            Self::Failed(number) => return write!(f, "precompile {number:#x} failed"),
            Self::ForeignChain => "authorization of a foreign chain",
            Self::AnyChain => "authorization of any chain",
            Self::BadSignature => "authorization with a bad signature",
            Self::WrongNonce => "authorization with a wrong nonce",
            Self::OfSender => "authorization of the sender",
            Self::SelfDelegation => "delegation to itself",
            Self::Clearing => "delegation cleared",
            Self::Delegated => "account delegated",
            Self::Undelegated => "account undelegated",
            Self::BlobFeeBelow => "blob fee below",
            Self::BlobFeeExact => "blob fee exact",
            Self::TooManyBlobs => "too many blobs",
            Self::LargeCode => "large code",
            Self::Reward(Rewards::Paid) => "reward paid",
            Self::Reward(Rewards::Reverted) => "reward reverted",
            Self::Reward(Rewards::Burnt) => "reward out of gas",
            Self::Reward(Rewards::Nobody) => "reward to nobody",
            Self::Inflation => "inflation",
            Self::AbandonedLate => "abandoned late",
            Self::AbandonedMidway => "abandoned in mid-execution",
            Self::Replaced => "replaced",
            Self::ReplacedBelow => "replaced with one above",
            Self::Reorganised => "reorganised",
        };
        f.write_str(name)
    }
}
