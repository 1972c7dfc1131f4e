//! What another builder has published, or this one before it was started again (D4, D5).
//!
//! While the lease is not ours, what is heard goes to the build thread: promises, in order, and
//! which block they are for. So the block is executed here as it is published there, its state is in
//! memory, and whoever gets the lease goes on where the other one stopped. The first flashblock of a
//! session says everything that its attributes said but for the gas limit that was aimed at, so the
//! Engine API id of the payload is one of a few: the consensus client may ask here for what it
//! ordered there.
//!
//! A block that was completed is not published again: it may have been handed out. Asked for once
//! more, it is built again from what it holds, and is the same. One whose session was abandoned,
//! because its builder was stopped, goes on in a new session.
//!
//! Never answers for what was heard: whoever calls has verified it.

use std::sync::Arc;

use alloy_primitives::{B256, map::HashSet};
use alloy_rpc_types_engine::PayloadId;
use preconf_chain::Transaction;
use preconf_primitives::{AbandonReason, Flashblock, Opening, Position, Seq};
use preconf_upstream::Head;
use preconf_wire::feed::FeedItem;
use tracing::{debug, info, warn};

use crate::build::Order;

use super::{
    Attributes, Lineage, Sequencer, Wanted, Wish,
    builds::{NewWish, Theirs},
};

/// How many items that were published before are read at once: each has transactions whose senders
/// are recovered.
const AT_ONCE: usize = 64;

/// The newest session that was heard of.
#[derive(Debug)]
pub(crate) struct Heard {
    seq: Seq,
    block_number: u64,
    opening: Opening,
    /// The Engine API's id of its payload.
    id: PayloadId,
    /// It has become a block.
    is_complete: bool,
}

/// What an item of the feed says to somebody who follows.
enum News {
    Promised {
        at: Position,
        transactions: Vec<Transaction>,
        begins: Option<Box<Heard>>,
        is_last: bool,
    },
    TakenBack(HashSet<B256>),
    Sealed(Seq),
    Nothing,
}

impl Sequencer {
    /// Takes note of an item of the feed, unless this builder publishes itself.
    pub(crate) async fn hear(self: &Arc<Self>, item: Arc<FeedItem>) {
        if self.builds.leads() {
            return;
        }
        // Recovering senders takes a while.
        let Ok(news) = tokio::task::spawn_blocking(move || news(&item)).await else { return };
        if self.note(news) && !self.builds.leads() {
            self.follow_heard();
        }
    }

    /// Takes over what this builder published before it was started again, now that the head is
    /// known: what is canonical was kept, the rest is promised. So is what is in `unsigned`, which
    /// may have been signed and not published.
    ///
    /// Has to be over before anything is built: promises come first.
    pub(crate) async fn recover(
        self: &Arc<Self>,
        items: Vec<Arc<FeedItem>>,
        unsigned: Option<Flashblock>,
        head: &Head,
    ) {
        let count = items.len();
        for items in items.chunks(AT_ONCE) {
            let items = items.to_vec();
            let heard = move || items.iter().map(|item| news(item)).collect();
            self.note_all(heard).await;
        }
        if let Some(unsigned) = unsigned {
            self.note_all(move || vec![promised(&unsigned)]).await;
        }
        info!(items = count, "went through what was published before the start");
        // Even if nothing is to be built: what the chain holds meanwhile is kept.
        if let Err(error) = self.move_to(head.hash).await {
            warn!(error = &error as &dyn std::error::Error, "the head was not read");
        }
        let parent = self.heard.lock().as_ref().map(|heard| heard.opening.base.parent_hash);
        if parent == Some(head.hash) {
            self.follow_heard();
        }
    }

    /// Passes on what was published before. `read` takes a while: it recovers senders.
    async fn note_all(&self, read: impl FnOnce() -> Vec<News> + Send + 'static) {
        let Ok(heard) = tokio::task::spawn_blocking(read).await else { return };
        if let Some(oldest) = heard.iter().find_map(News::begins) {
            let parent = (oldest.block_number.saturating_sub(1), oldest.opening.base.parent_hash);
            let mut lineage = self.lineage.lock();
            if *lineage == Lineage::default() {
                *lineage = Lineage::from(parent.0, parent.1);
            }
        }
        for news in heard {
            self.note(news);
        }
    }

    /// The lease is ours: what runs is published from here on.
    pub(super) fn lead(&self) {
        let head = self.head.borrow().as_ref().map(|head| head.cache.block().1);
        let heard = self.heard.lock();
        let completed = heard.as_ref().filter(|heard| heard.is_complete).map(|heard| heard.id);
        match self.builds.lead(head, completed, &self.outgoing, &self.orders) {
            Ok(Some(build)) => info!(build = build.0, "took the lead"),
            Ok(None) => {}
            Err((build, reason)) => self.end(build, reason),
        }
    }

    /// The lease is another builder's.
    pub(super) fn follow(&self) {
        self.builds.follow();
    }

    /// Passes news on to the build thread. Whether the newest session goes on.
    fn note(&self, news: News) -> bool {
        let mut heard = self.heard.lock();
        match news {
            News::Promised { at, transactions, begins, is_last } => {
                if heard.as_ref().is_some_and(|heard| at.seq < heard.seq) {
                    return false;
                }
                if let Some(begins) = begins {
                    *heard = Some(*begins);
                }
                let Some(heard) = heard.as_mut().filter(|heard| heard.seq == at.seq) else {
                    return false;
                };
                heard.is_complete |= is_last;
                if !transactions.is_empty() {
                    // A thread that takes no orders builds nothing either.
                    let _ = self.orders.give(Order::Promise { transactions });
                }
                !heard.is_complete
            }
            News::TakenBack(transactions) => {
                let _ = self.orders.give(Order::Withdraw { transactions });
                false
            }
            News::Sealed(seq) => {
                if let Some(heard) = heard.as_mut().filter(|heard| heard.seq == seq) {
                    heard.is_complete = true;
                }
                false
            }
            News::Nothing => false,
        }
    }

    /// Builds the newest block that was heard of, if that is not being done.
    fn follow_heard(&self) {
        let (id, opening) = match &*self.heard.lock() {
            Some(heard) => (heard.id, heard.opening.clone()),
            None => return,
        };
        if self.builds.is_building(id) {
            return;
        }
        let head = opening.base.parent_hash;
        let attributes = Attributes::of(&opening);
        // Nobody says at which gas limit the consensus client aimed, if it did.
        let targets = [opening.base.gas_limit, self.gas_target];
        let aiming = targets.map(|target| attributes.aiming_at(target));
        let build = self.builds.register(NewWish {
            id,
            aliases: aiming.iter().map(|attributes| attributes.id(head)).collect(),
            theirs: Theirs::Guessed(attributes.ids_of_clients(head, &aiming)),
            parent: head,
            number: Some(opening.base.block_number),
            attributes: attributes.clone(),
        });
        debug!(build = build.0, %id, "follows another builder's block");
        self.give_up_others(head, Some(build));
        let wish = Wish { build, attributes, heard: Some(Box::new(opening)) };
        if !self.want(Wanted { head, build: Some(wish) }) {
            self.end(build, AbandonReason::ExecutionFailed);
        }
    }
}

impl News {
    fn begins(&self) -> Option<&Heard> {
        match self {
            Self::Promised { begins, .. } => begins.as_deref(),
            Self::TakenBack(_) | Self::Sealed(_) | Self::Nothing => None,
        }
    }
}

fn news(item: &FeedItem) -> News {
    match item {
        FeedItem::Flashblock(signed) => promised(&signed.flashblock),
        FeedItem::Retracted(signed) => {
            let retractions = signed.statement.retractions.iter();
            News::TakenBack(retractions.map(|retraction| retraction.transaction).collect())
        }
        FeedItem::Sealed(signed) => News::Sealed(signed.statement.seq),
        // Its promises stand, and its block may still be asked for.
        FeedItem::Abandoned(_) | FeedItem::Gap { .. } | FeedItem::Goodbye { .. } => News::Nothing,
    }
}

fn promised(flashblock: &Flashblock) -> News {
    let encoded = flashblock.transactions().iter().cloned();
    // What cannot be decoded cannot be kept by anybody.
    let transactions = encoded.filter_map(|encoded| Transaction::decode(encoded).ok());
    let begins = flashblock.opening().map(|opening| {
        Box::new(Heard {
            seq: flashblock.position().seq,
            block_number: flashblock.block_number(),
            opening: opening.clone(),
            id: Attributes::of(opening).id(opening.base.parent_hash),
            is_complete: false,
        })
    });
    News::Promised {
        at: flashblock.position(),
        transactions: transactions.collect(),
        begins,
        is_last: flashblock.is_last(),
    }
}
