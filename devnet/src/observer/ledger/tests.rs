//! What the books say of feeds that are whole, broken, forged, and not kept.

use alloy_primitives::{Address, Bytes, FixedBytes, U256, keccak256};
use blst::min_pk::SecretKey;
use preconf_primitives::{
    AbandonReason, Abandoned, Base, Digest, Flashblock, FlashblockParts, Opening, PayloadId,
    Retracted, Retraction, RetractionCause, Sealed, Seq,
};
use preconf_signing::{PublicKey, SIGNATURE_DST, Signature, SignedStatement, v1, v2};

use super::*;
use crate::consensus::Source;

const CHAIN: u64 = 1_337;

/// Signs a feed of its own making.
struct Sequencer {
    key: SecretKey,
    last: Digest,
}

impl Sequencer {
    fn new() -> Self {
        Self { key: SecretKey::key_gen(&[1; 32], &[]).unwrap(), last: Digest::ZERO }
    }

    fn ledger(&self) -> Ledger {
        let key = PublicKey::from_bytes(FixedBytes(self.key.sk_to_pk().compress())).unwrap();
        Ledger::new(Verifier::new(CHAIN, vec![key]))
    }

    fn sign(&self, message: B256) -> Signature {
        FixedBytes(self.key.sign(message.as_slice(), SIGNATURE_DST, &[]).compress())
    }

    fn seal(&self, digest: Digest) -> Signature {
        self.sign(v2::message(v2::domain(CHAIN), digest))
    }

    /// A flashblock of the session with this number, which builds the block with this number.
    fn flashblock(&mut self, seq: u64, index: u64, transactions: &[u8], is_last: bool) -> FeedItem {
        self.flashblock_of(seq, seq, index, transactions, is_last)
    }

    fn flashblock_of(
        &mut self,
        number: u64,
        seq: u64,
        index: u64,
        transactions: &[u8],
        is_last: bool,
    ) -> FeedItem {
        let base = Base {
            parent_beacon_block_root: B256::ZERO,
            parent_hash: B256::ZERO,
            fee_recipient: Address::ZERO,
            prev_randao: B256::ZERO,
            block_number: number,
            gas_limit: 1,
            timestamp: 1,
            extra_data: Bytes::new(),
            base_fee_per_gas: 1,
            prev_proposer_pubkey: None,
        };
        let flashblock = Flashblock::new(FlashblockParts {
            payload_id: PayloadId::repeat_byte(seq as u8),
            position: Position::new(Seq::new(seq), index),
            block_number: number,
            opening: (index == 0).then(|| Opening { base, withdrawals: vec![] }),
            transactions: transactions.iter().map(|byte| vec![*byte].into()).collect(),
            is_last,
            published_at_ms: 1_000 * seq + 200 * index,
            traceparent: None,
            parent_digest: self.last,
        })
        .unwrap();
        let content = v2::Content::of(&flashblock);
        self.last = content.digest();
        let (id, hash) = (flashblock.payload_id(), content.hashes.transactions);
        let signature = self.sign(v1::message(v1::domain(CHAIN), number, id, index, hash));
        let seal = self.seal(self.last);
        FeedItem::Flashblock(SignedFlashblock { flashblock, signature, seal })
    }

    fn sealed(&self, number: u64, block_hash: B256) -> FeedItem {
        let statement = Sealed {
            seq: Seq::new(number),
            block_number: number,
            last_digest: self.last,
            block_hash,
            state_root: B256::ZERO,
        };
        let seal = self.seal(v2::sealed_digest(&statement));
        FeedItem::Sealed(SignedStatement { statement, seal })
    }

    fn abandoned(&self, number: u64, seq: u64, reason: AbandonReason) -> FeedItem {
        let last_digest = self.last;
        let statement = Abandoned { seq: Seq::new(seq), block_number: number, last_digest, reason };
        let seal = self.seal(v2::abandoned_digest(&statement));
        FeedItem::Abandoned(SignedStatement { statement, seal })
    }

    fn retracted(&self, number: u64, transaction: u8) -> FeedItem {
        let transaction = hash(transaction);
        let retraction = Retraction { transaction, cause: RetractionCause::OutcomeChanged };
        let statement = Retracted {
            at: Position::new(Seq::new(number), 0),
            block_number: number,
            retractions: vec![retraction],
        };
        let seal = self.seal(v2::retracted_digest(&statement));
        FeedItem::Retracted(SignedStatement { statement, seal })
    }
}

fn hash(transaction: u8) -> B256 {
    keccak256([transaction])
}

fn block_hash(number: u64) -> B256 {
    B256::from(U256::from(number))
}

fn block(number: u64, transactions: &[u8]) -> CanonicalBlock {
    CanonicalBlock {
        number,
        hash: block_hash(number),
        transactions: transactions.iter().copied().map(hash).collect(),
        gas_used: 0,
        slot: 0,
        proposer: 0,
        kind: crate::consensus::Kind::Direct,
        source: Source::Builder,
        waited: Default::default(),
        lost_rounds: 0,
        missed: Vec::new(),
    }
}

fn fallback(number: u64, transactions: &[u8]) -> CanonicalBlock {
    CanonicalBlock { source: Source::Fallback(String::new()), ..block(number, transactions) }
}

#[test]
fn promises_that_are_kept_are_counted_once() {
    let mut sequencer = Sequencer::new();
    let mut ledger = sequencer.ledger();
    ledger.read(sequencer.flashblock(1, 0, &[], false));
    ledger.read(sequencer.flashblock(1, 1, &[1, 2], false));
    assert!(!ledger.has_ended(1));
    ledger.read(sequencer.flashblock(1, 2, &[3], true));
    assert!(!ledger.has_ended(1), "it was not said which block it became");
    ledger.read(sequencer.sealed(1, block_hash(1)));
    assert!(ledger.has_ended(1));

    let settled = ledger.settle(&block(1, &[1, 2, 3, 9]));

    let end = Some(SessionEnd::Sealed(block_hash(1)));
    assert_eq!(settled, Settled { flashblocks: 3, preconfirmed: 3, kept: 3, end });
    let expected =
        Totals { blocks: 1, flashblocks: 3, preconfirmed: 3, kept: 3, ..Totals::default() };
    assert_eq!(ledger.totals(), expected);
    assert_eq!(ledger.cadence().percentiles().max, Some(200.0));
    assert_eq!(ledger.cadence().len(), 1, "the last flashblock is not on the schedule");
}

#[test]
fn a_promise_that_is_mended_in_a_later_block_was_broken_all_the_same() {
    let mut sequencer = Sequencer::new();
    let mut ledger = sequencer.ledger();
    ledger.read(sequencer.flashblock(1, 0, &[1, 2], true));
    ledger.read(sequencer.flashblock(2, 0, &[2], true));

    assert_eq!(ledger.settle(&block(1, &[1])).kept, 1);
    let later = ledger.settle(&block(2, &[2]));

    assert_eq!(later, Settled { flashblocks: 1, preconfirmed: 0, kept: 0, end: None });
    assert_eq!((ledger.totals().preconfirmed, ledger.totals().retracted), (2, 1));
}

#[test]
fn a_rebuild_repeats_promises_and_does_not_make_new_ones() {
    let mut sequencer = Sequencer::new();
    let mut ledger = sequencer.ledger();
    ledger.read(sequencer.flashblock_of(5, 1, 0, &[1], false));
    ledger.read(sequencer.abandoned(5, 1, AbandonReason::AttributesChanged));
    assert!(ledger.has_ended(5));
    ledger.read(sequencer.flashblock_of(5, 2, 0, &[1], false));
    assert!(!ledger.has_ended(5));
    ledger.read(sequencer.flashblock_of(5, 2, 1, &[2], true));

    let settled = ledger.settle(&block(5, &[1, 2]));

    assert_eq!((settled.flashblocks, settled.preconfirmed, settled.kept), (3, 2, 2));
    assert_eq!((ledger.totals().gaps, ledger.totals().contradictions), (0, 0));
}

#[test]
fn what_was_taken_back_is_not_kept_even_if_it_is_there() {
    let mut sequencer = Sequencer::new();
    let mut ledger = sequencer.ledger();
    ledger.read(sequencer.flashblock(1, 0, &[1], true));
    ledger.read(sequencer.retracted(1, 1));

    assert_eq!(ledger.settle(&block(1, &[1])).kept, 0);
    assert_eq!(ledger.totals().retracted, 1);
}

#[test]
fn what_is_taken_back_after_its_block_is_counted_once() {
    let mut sequencer = Sequencer::new();
    let mut ledger = sequencer.ledger();
    ledger.read(sequencer.flashblock(1, 0, &[1, 2, 3], true));
    ledger.settle(&block(1, &[1, 2]));
    assert_eq!((ledger.totals().kept, ledger.totals().retracted), (2, 1));

    // The third was broken already; the first is taken back twice.
    for transaction in [1, 3, 1] {
        ledger.read(sequencer.retracted(1, transaction));
    }

    assert_eq!((ledger.totals().kept, ledger.totals().retracted), (1, 2));
}

#[test]
fn a_missing_flashblock_is_one_gap_and_is_asked_for() {
    let mut sequencer = Sequencer::new();
    let mut ledger = sequencer.ledger();
    ledger.read(sequencer.flashblock(1, 0, &[], false));
    let missed = sequencer.flashblock(1, 1, &[1], false);
    let third = sequencer.flashblock(1, 2, &[2], false);

    ledger.read(third.clone());
    ledger.read(sequencer.flashblock(1, 3, &[], true));
    assert!(ledger.misses_something());
    assert_eq!(ledger.totals().gaps, 1);
    assert_eq!(ledger.cursor(), Some(Position::new(Seq::new(1), 1)));

    ledger.read(missed);
    ledger.read(third);
    assert!(!ledger.misses_something());
    assert_eq!(ledger.cursor(), Some(Position::new(Seq::new(1), 3)));
}

#[test]
fn an_end_that_was_never_seen_is_a_gap() {
    let mut sequencer = Sequencer::new();
    let mut ledger = sequencer.ledger();
    ledger.read(sequencer.flashblock(1, 0, &[], false));
    let _unseen = sequencer.flashblock(1, 1, &[1], true);

    ledger.read(sequencer.flashblock(2, 0, &[], false));

    assert_eq!(ledger.totals().gaps, 1);
}

#[test]
fn what_somebody_else_signed_is_counted_and_not_believed() {
    let mut sequencer = Sequencer::new();
    let mut ledger = sequencer.ledger();
    let mut forger =
        Sequencer { key: SecretKey::key_gen(&[2; 32], &[]).unwrap(), last: Digest::ZERO };
    ledger.read(forger.flashblock(1, 0, &[6], true));
    assert_eq!(ledger.totals().invalid_signatures, 1);
    assert!(!ledger.has_ended(1));

    ledger.read(sequencer.flashblock(1, 0, &[1], true));
    assert_eq!(ledger.settle(&block(1, &[1, 6])).preconfirmed, 1);
}

#[test]
fn two_contents_at_one_position_are_a_contradiction() {
    let mut sequencer = Sequencer::new();
    let mut ledger = sequencer.ledger();
    ledger.read(sequencer.flashblock(1, 0, &[1], false));
    sequencer.last = Digest::ZERO;
    ledger.read(sequencer.flashblock(1, 0, &[2], false));
    assert_eq!(ledger.totals().contradictions, 1);
}

#[test]
fn a_block_with_another_hash_than_was_sealed_is_noticed() {
    let mut sequencer = Sequencer::new();
    let mut ledger = sequencer.ledger();
    ledger.read(sequencer.flashblock(1, 0, &[], true));
    ledger.read(sequencer.sealed(1, block_hash(7)));

    ledger.settle(&block(1, &[]));

    let totals = ledger.totals();
    assert_eq!((totals.missealed, totals.unsealed, totals.fallbacks), (1, 0, 0));
}

#[test]
fn a_sealed_block_that_its_proposer_did_not_get_is_no_lie() {
    let mut sequencer = Sequencer::new();
    let mut ledger = sequencer.ledger();
    ledger.read(sequencer.flashblock(1, 0, &[], true));
    ledger.read(sequencer.sealed(1, block_hash(7)));

    ledger.settle(&fallback(1, &[]));

    let totals = ledger.totals();
    assert_eq!((totals.missealed, totals.unused, totals.fallbacks), (0, 1, 1));
}

#[test]
fn a_block_of_the_builder_that_was_never_sealed_is_noticed() {
    let mut sequencer = Sequencer::new();
    let mut ledger = sequencer.ledger();
    ledger.read(sequencer.flashblock(1, 0, &[1], true));

    ledger.settle(&block(1, &[1]));
    // Nothing at all was seen of this one.
    ledger.settle(&block(2, &[2]));

    let totals = ledger.totals();
    assert_eq!((totals.missealed, totals.unsealed, totals.fallbacks), (0, 2, 0));
}

#[test]
fn a_block_that_the_builder_gave_up_is_a_fallback_like_one_of_the_validators() {
    let mut sequencer = Sequencer::new();
    let mut ledger = sequencer.ledger();
    ledger.read(sequencer.flashblock(1, 0, &[1], false));
    ledger.read(sequencer.abandoned(1, 1, AbandonReason::SealFailed));

    ledger.settle(&block(1, &[1]));
    ledger.settle(&fallback(2, &[]));

    let totals = ledger.totals();
    assert_eq!((totals.missealed, totals.unsealed, totals.fallbacks), (0, 0, 2));
}

#[test]
fn a_broken_promise_is_silent_until_a_later_block_holds_it_or_it_is_taken_back() {
    let mut sequencer = Sequencer::new();
    let mut ledger = sequencer.ledger();
    ledger.read(sequencer.flashblock(1, 0, &[1, 2, 3], false));
    ledger.settle(&fallback(1, &[]));
    assert_eq!(ledger.silent().len(), 3);
    ledger.read(sequencer.retracted(1, 2));
    ledger.settle(&fallback(2, &[1]));
    assert_eq!(ledger.silent(), [hash(3)]);
    assert_eq!((ledger.totals().moved, ledger.totals().retracted), (1, 3));
    let causes: Vec<_> = ledger.causes().iter().map(|(cause, count)| (*cause, *count)).collect();
    assert_eq!(causes, [("outcome_changed", 1)]);
}

#[test]
fn a_promise_that_a_rebuilt_block_before_its_own_holds_is_moved_and_not_broken() {
    let mut sequencer = Sequencer::new();
    let mut ledger = sequencer.ledger();
    ledger.read(sequencer.flashblock(1, 0, &[1], true));
    ledger.read(sequencer.flashblock(2, 0, &[2, 3], false));
    // The first block is built anew, with what was promised for the second.
    ledger.read(sequencer.flashblock_of(1, 3, 0, &[1, 2], true));
    ledger.settle(&block(1, &[1, 2]));
    ledger.settle(&fallback(2, &[]));
    assert_eq!(ledger.silent(), [hash(3)]);
    assert_eq!((ledger.totals().moved, ledger.totals().retracted), (1, 2));
}
