//! Who is sent what: one log of messages that every reader reads at its own place.
//!
//! The log is the replay window and the queue of every reader at once. A reader is an offset into
//! it and costs nothing else, so a slow one holds no memory; the window is bounded by sessions and
//! by bytes.
//!
//! * Without a cursor a reader begins at index 0 of the current session.
//! * With a cursor it begins at that position, and gets the statements that came after the position
//!   before it, perhaps a second time.
//! * If something between the cursor and the window may be missing, a reader of everything is told
//!   so by a gap and goes on at the oldest message there is; a reader of flashblocks only, who
//!   cannot be told, begins at the current session.
//! * A reader whose source has spent its budget of replays gets nothing from before it came: it is
//!   told of the gap if it can be told, and else begins at the next session, unless it has a cursor.
//! * A reader that has been up to date is too slow when the message it is to get next has waited
//!   for longer than the limit; any reader is, when that message has left the window. It is never
//!   given a message that does not follow the last one.
//!
//! No tokio, no clock, no encoding: frames and the time come in.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use preconf_primitives::{Position, Seq};

use crate::{Limits, frame::Frame};

/// The messages of the current session and of those before it.
#[derive(Debug)]
pub(crate) struct Fanout {
    limits: Limits,
    entries: VecDeque<Entry>,
    /// The offset of the first entry. Offsets count all messages that there ever were.
    first: u64,
    /// The offsets at which the sessions in the window begin, oldest first.
    openings: VecDeque<(Seq, u64)>,
    bytes: usize,
    /// The last flashblock that there ever was.
    tip: Option<Position>,
    /// The last flashblock that left the window.
    evicted: Option<Position>,
}

#[derive(Debug)]
struct Entry {
    frame: Arc<Frame>,
    queued_at: Instant,
}

/// What a reader understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Audience {
    /// Flashblocks, as the upstream has them.
    Flashblocks,
    /// Every message of the feed.
    Everything,
}

/// A reader's place.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    audience: Audience,
    /// The offset of the next message.
    next: u64,
    /// The first position that the reader has not got.
    cursor: Option<Position>,
    /// Set until the cursor is reached.
    resuming: Option<Resuming>,
    /// Set while the reader waits for a session to begin.
    awaits_opening: bool,
    /// Whether it has ever had all there was.
    was_up_to_date: bool,
}

/// How a reader that named a cursor comes to it.
#[derive(Clone, Copy, Debug)]
struct Resuming {
    wanted: Position,
    /// Whether a flashblock before the wanted one is known, so that nothing between is missing.
    preceded: bool,
}

/// What a reader is to do.
#[derive(Clone, Debug)]
pub(crate) enum Next {
    /// Get this message.
    Frame(Arc<Frame>),
    /// Learn that what was wanted is not to be had.
    Gap {
        /// The cursor it came with.
        wanted: Position,
        /// Where it goes on.
        next: Position,
    },
    /// Wait.
    UpToDate,
    /// Leave.
    TooSlow,
}

impl Fanout {
    pub(crate) const fn new(limits: Limits) -> Self {
        Self {
            limits,
            entries: VecDeque::new(),
            first: 0,
            openings: VecDeque::new(),
            bytes: 0,
            tip: None,
            evicted: None,
        }
    }

    /// Adds a message, which must follow those before it, and forgets the oldest.
    pub(crate) fn push(&mut self, frame: Arc<Frame>, now: Instant) {
        if let Some(position) = frame.position() {
            if position.index == 0 {
                self.openings.push_back((position.seq, self.end()));
            }
            self.tip = Some(position);
        }
        self.bytes += frame.weight();
        self.entries.push_back(Entry { frame, queued_at: now });
        let excess = self.openings.len().saturating_sub(self.limits.sessions + 1);
        let oldest_kept = if excess == 0 { self.first } else { self.openings[excess].1 };
        while self.first < oldest_kept || self.bytes > self.limits.bytes && self.entries.len() > 1 {
            self.forget_oldest();
        }
    }

    /// A place for a reader that wants what follows from `cursor` on.
    pub(crate) fn subscribe(&self, audience: Audience, cursor: Option<Position>) -> Reader {
        let mut reader = Reader {
            audience,
            next: self.end(),
            cursor,
            resuming: None,
            awaits_opening: false,
            was_up_to_date: false,
        };
        match cursor {
            None => self.begin_at_current_session(&mut reader),
            Some(wanted) => self.resume(&mut reader, wanted),
        }
        reader
    }

    /// A place for a reader that gets nothing from before: one of everything is told of the gap, one
    /// without a cursor begins at the next session. `None` if it wants what it cannot be told to be
    /// missing.
    pub(crate) fn subscribe_live(
        &self,
        audience: Audience,
        cursor: Option<Position>,
    ) -> Option<Reader> {
        let (wanted, awaits_opening) = match (audience, cursor) {
            (Audience::Flashblocks, Some(_)) => return None,
            (Audience::Flashblocks, None) => (None, true),
            (Audience::Everything, Some(wanted)) => (Some(wanted), false),
            (Audience::Everything, None) => (self.tip.map(|tip| Position::new(tip.seq, 0)), false),
        };
        Some(Reader {
            audience,
            next: self.end(),
            cursor: wanted,
            resuming: wanted.map(|wanted| Resuming { wanted, preceded: false }),
            awaits_opening,
            was_up_to_date: false,
        })
    }

    /// How many bytes of JSON have been published that `reader` is to get.
    pub(crate) fn behind(&self, reader: &Reader) -> u64 {
        let start = usize::try_from(reader.next.saturating_sub(self.first)).unwrap_or(usize::MAX);
        self.entries.iter().skip(start).map(|entry| entry.frame.json().len() as u64).sum()
    }

    /// What `reader` is to do at `now`.
    pub(crate) fn next(&self, reader: &mut Reader, now: Instant) -> Next {
        if self.is_too_slow(reader, now) {
            return Next::TooSlow;
        }
        while let Some(entry) = self.entry(reader.next) {
            let Some(position) = entry.frame.position() else {
                reader.next += 1;
                if reader.audience == Audience::Everything && !reader.awaits_opening {
                    return Next::Frame(Arc::clone(&entry.frame));
                }
                continue;
            };
            match reader.arrive(position) {
                Arriving::Skip => reader.next += 1,
                Arriving::Gap(wanted) => return Next::Gap { wanted, next: position },
                Arriving::Take => {
                    reader.next += 1;
                    reader.cursor = Some(after(position));
                    return Next::Frame(Arc::clone(&entry.frame));
                }
            }
        }
        reader.was_up_to_date = true;
        Next::UpToDate
    }

    /// Whether what `reader` is to get next has waited for too long, or has been forgotten.
    pub(crate) fn is_too_slow(&self, reader: &Reader, now: Instant) -> bool {
        if reader.next < self.first {
            return true;
        }
        reader.was_up_to_date
            && self.entry(reader.next).is_some_and(|entry| {
                now.saturating_duration_since(entry.queued_at) > self.limits.max_lag
            })
    }

    /// Where `reader` is to resume: the first position it has not got.
    pub(crate) fn cursor(&self, reader: &Reader) -> Option<Position> {
        reader.cursor.or_else(|| {
            let start = reader.next.saturating_sub(self.first) as usize;
            self.entries.iter().skip(start).find_map(|entry| entry.frame.position())
        })
    }

    /// The first position that there has not been yet.
    pub(crate) fn head(&self) -> Option<Position> {
        self.tip.map(after)
    }

    /// The newest frame at `position`, if it is in the window.
    pub(crate) fn flashblock(&self, position: Position) -> Option<&Arc<Frame>> {
        self.entries
            .iter()
            .rev()
            .map(|entry| &entry.frame)
            .find(|frame| frame.position() == Some(position))
    }

    /// How many messages and bytes are kept.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.entries.len(), self.bytes)
    }

    fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    fn entry(&self, offset: u64) -> Option<&Entry> {
        self.entries.get(usize::try_from(offset.checked_sub(self.first)?).ok()?)
    }

    fn forget_oldest(&mut self) {
        let Some(Entry { frame, .. }) = self.entries.pop_front() else { return };
        self.first += 1;
        self.bytes -= frame.weight();
        self.evicted = frame.position().or(self.evicted);
        while self.openings.front().is_some_and(|(_, offset)| *offset < self.first) {
            self.openings.pop_front();
        }
    }

    fn begin_at_current_session(&self, reader: &mut Reader) {
        let Some(tip) = self.tip else { return };
        match self.openings.back() {
            Some((seq, offset)) if *seq == tip.seq => reader.next = *offset,
            // It is larger than the window, and its beginning is gone.
            Some(_) | None => reader.awaits_opening = true,
        }
    }

    fn resume(&self, reader: &mut Reader, wanted: Position) {
        let is_before = |entry: &Entry| entry.frame.position().is_some_and(|at| at < wanted);
        let before = self.entries.iter().rposition(is_before);
        let preceded = before.is_some() || self.evicted.is_some_and(|evicted| evicted < wanted);
        let start = before.map_or(self.first, |at| self.first + at as u64 + 1);
        let is_there = || {
            let first = self.entries.iter().find_map(|entry| entry.frame.position());
            first.is_none_or(|first| first == wanted)
        };
        if !preceded && !is_there() && reader.audience == Audience::Flashblocks {
            reader.cursor = None;
            return self.begin_at_current_session(reader);
        }
        reader.next = start;
        reader.resuming = Some(Resuming { wanted, preceded });
    }
}

enum Arriving {
    Skip,
    Gap(Position),
    Take,
}

impl Reader {
    /// What the flashblock at `position` is to this reader.
    fn arrive(&mut self, position: Position) -> Arriving {
        if self.awaits_opening {
            if position.index > 0 {
                return Arriving::Skip;
            }
            self.awaits_opening = false;
        }
        let Some(Resuming { wanted, preceded }) = &mut self.resuming else { return Arriving::Take };
        if position < *wanted {
            *preceded = true;
            return Arriving::Skip;
        }
        let (wanted, missed) = (*wanted, position > *wanted && !*preceded);
        self.resuming = None;
        if missed && self.audience == Audience::Everything {
            return Arriving::Gap(wanted);
        }
        Arriving::Take
    }
}

/// The position that follows inside the session. If the session has ended, the next one does.
const fn after(position: Position) -> Position {
    Position::new(position.seq, position.index.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use preconf_primitives::{Arrival, Digest};
    use proptest::prelude::*;

    use super::*;
    use crate::{
        budget::Allowance,
        frame::tests::{end, flashblock},
    };

    const LIMITS: Limits = Limits {
        sessions: 2,
        bytes: 1 << 20,
        max_lag: Duration::from_secs(5),
        replay: Allowance { source_bytes: 0, total_bytes: 0 },
    };

    fn at(seq: u64, index: u64) -> Position {
        Position::new(Seq::new(seq), index)
    }

    fn frame(seq: u64, index: u64) -> Arc<Frame> {
        sized(seq, index, 10)
    }

    fn sized(seq: u64, index: u64, bytes: usize) -> Arc<Frame> {
        let arrival = Arrival {
            position: at(seq, index),
            digest: Digest::ZERO,
            parent_digest: Digest::ZERO,
            block_number: seq,
            is_last: false,
        };
        flashblock(arrival, bytes)
    }

    fn ended(seq: u64) -> Arc<Frame> {
        end(Seq::new(seq), Digest::ZERO)
    }

    /// Sessions 1 to 4 of three flashblocks, each but the last with its end.
    fn four_sessions(limits: Limits, now: Instant) -> Fanout {
        let mut fanout = Fanout::new(limits);
        for seq in 1..=4 {
            (0..3).for_each(|index| fanout.push(frame(seq, index), now));
            if seq < 4 {
                fanout.push(ended(seq), now);
            }
        }
        fanout
    }

    /// What a reader is told until there is nothing more, in short: positions, `end`, `gap`, `slow`.
    fn read(fanout: &Fanout, reader: &mut Reader, now: Instant) -> Vec<String> {
        let mut told = Vec::new();
        loop {
            told.push(match fanout.next(reader, now) {
                Next::Frame(frame) => {
                    frame.position().map_or("end".to_owned(), |position| position.to_string())
                }
                Next::Gap { wanted, next } => format!("gap {wanted} {next}"),
                Next::TooSlow => {
                    told.push("slow".to_owned());
                    return told;
                }
                Next::UpToDate => return told,
            });
        }
    }

    fn told(audience: Audience, cursor: Option<Position>) -> Vec<String> {
        let now = Instant::now();
        let fanout = four_sessions(LIMITS, now);
        read(&fanout, &mut fanout.subscribe(audience, cursor), now)
    }

    #[test]
    fn a_newcomer_begins_at_index_0_of_the_current_session() {
        assert_eq!(told(Audience::Flashblocks, None), ["4:0", "4:1", "4:2"]);
    }

    #[test]
    fn a_cursor_in_the_window_resumes_without_a_hole() {
        assert_eq!(told(Audience::Flashblocks, Some(at(3, 2))), ["3:2", "4:0", "4:1", "4:2"]);
        assert_eq!(told(Audience::Everything, Some(at(3, 2))), ["3:2", "end", "4:0", "4:1", "4:2"]);
    }

    #[test]
    fn a_cursor_after_the_end_of_a_session_resumes_with_its_statements() {
        assert_eq!(told(Audience::Everything, Some(at(3, 3))), ["end", "4:0", "4:1", "4:2"]);
    }

    #[test]
    fn a_cursor_at_the_head_waits() {
        assert!(told(Audience::Everything, Some(at(4, 3))).is_empty());
    }

    #[test]
    fn the_window_begins_where_nothing_is_missing() {
        // Session 1 has left the window; what follows its last flashblock has not.
        assert_eq!(told(Audience::Everything, Some(at(1, 3)))[..2], ["2:0", "2:1"]);
    }

    #[test]
    fn a_cursor_before_the_window_is_a_gap_for_those_who_can_be_told() {
        let told_all = told(Audience::Everything, Some(at(1, 1)));
        assert_eq!(told_all[..3], ["gap 1:1 2:0", "2:0", "2:1"]);
        assert_eq!(told(Audience::Flashblocks, Some(at(1, 1))), ["4:0", "4:1", "4:2"]);
    }

    #[test]
    fn what_a_young_gateway_cannot_know_is_a_gap() {
        let now = Instant::now();
        let mut fanout = Fanout::new(LIMITS);
        let mut early = fanout.subscribe(Audience::Everything, Some(at(7, 6)));
        let mut exact = fanout.subscribe(Audience::Everything, Some(at(9, 0)));
        let mut plain = fanout.subscribe(Audience::Flashblocks, Some(at(7, 6)));
        fanout.push(frame(9, 0), now);

        assert_eq!(read(&fanout, &mut early, now), ["gap 7:6 9:0", "9:0"]);
        assert_eq!(read(&fanout, &mut exact, now), ["9:0"]);
        assert_eq!(read(&fanout, &mut plain, now), ["9:0"]);
    }

    #[test]
    fn a_reader_that_is_ahead_of_us_gets_nothing_twice() {
        let now = Instant::now();
        let mut fanout = four_sessions(LIMITS, now);
        let mut reader = fanout.subscribe(Audience::Flashblocks, Some(at(4, 5)));
        (3..7).for_each(|index| fanout.push(frame(4, index), now));

        assert_eq!(read(&fanout, &mut reader, now), ["4:5", "4:6"]);
    }

    #[test]
    fn without_a_replay_a_reader_goes_on_after_a_gap_or_at_the_next_session() {
        let now = Instant::now();
        let mut fanout = four_sessions(LIMITS, now);
        let live = |audience, cursor| fanout.subscribe_live(audience, cursor);
        let mut resuming = live(Audience::Everything, Some(at(3, 1))).unwrap();
        let mut newcomer = live(Audience::Everything, None).unwrap();
        let mut plain = live(Audience::Flashblocks, None).unwrap();
        assert!(live(Audience::Flashblocks, Some(at(3, 1))).is_none(), "it could not be told");
        fanout.push(frame(4, 3), now);
        fanout.push(frame(5, 0), now);

        assert_eq!(read(&fanout, &mut resuming, now), ["gap 3:1 4:3", "4:3", "5:0"]);
        assert_eq!(read(&fanout, &mut newcomer, now), ["gap 4:0 4:3", "4:3", "5:0"]);
        assert_eq!(read(&fanout, &mut plain, now), ["5:0"]);
    }

    #[test]
    fn what_a_replay_costs_is_what_was_published_before() {
        let now = Instant::now();
        let mut fanout = Fanout::new(LIMITS);
        let early = fanout.subscribe(Audience::Everything, None);
        (0..3).for_each(|index| fanout.push(sized(1, index, 100), now));
        assert_eq!(fanout.behind(&early), 300);
        assert_eq!(fanout.behind(&fanout.subscribe(Audience::Flashblocks, Some(at(1, 2)))), 100);
        assert_eq!(fanout.behind(&fanout.subscribe(Audience::Everything, Some(at(1, 3)))), 0);
    }

    #[test]
    fn the_window_is_bounded_by_sessions() {
        let fanout = four_sessions(LIMITS, Instant::now());
        assert_eq!(fanout.evicted, Some(at(1, 2)));
        assert_eq!(fanout.openings.len(), 3);
    }

    #[test]
    fn the_window_is_bounded_by_bytes_even_inside_a_session() {
        let now = Instant::now();
        let mut fanout = Fanout::new(Limits { bytes: 5_000, ..LIMITS });
        for index in 0..20 {
            fanout.push(sized(1, index, 500), now);
            assert!(fanout.size().1 <= 5_000);
        }
        let mut newcomer = fanout.subscribe(Audience::Flashblocks, None);
        assert!(read(&fanout, &mut newcomer, now).is_empty(), "the beginning is gone");

        fanout.push(sized(1, 20, 500), now);
        fanout.push(sized(2, 0, 500), now);
        assert_eq!(read(&fanout, &mut newcomer, now), ["2:0"]);
    }

    #[test]
    fn one_message_that_is_larger_than_the_window_is_still_served() {
        let now = Instant::now();
        let mut fanout = Fanout::new(Limits { bytes: 10, ..LIMITS });
        fanout.push(frame(1, 0), now);

        let mut newcomer = fanout.subscribe(Audience::Flashblocks, None);
        assert_eq!(read(&fanout, &mut newcomer, now), ["1:0"]);
    }

    #[test]
    fn a_reader_that_was_up_to_date_is_too_slow_after_the_limit() {
        let start = Instant::now();
        let mut fanout = four_sessions(LIMITS, start);
        let mut reader = fanout.subscribe(Audience::Flashblocks, None);
        read(&fanout, &mut reader, start);
        fanout.push(frame(4, 3), start);

        assert!(!fanout.is_too_slow(&reader, start + LIMITS.max_lag));
        let late = start + LIMITS.max_lag + Duration::from_millis(1);
        assert!(fanout.is_too_slow(&reader, late));
        assert_eq!(read(&fanout, &mut reader, late), ["slow"]);
        assert_eq!(fanout.cursor(&reader), Some(at(4, 3)));
    }

    #[test]
    fn a_reader_that_replays_has_as_long_as_the_window_lasts() {
        let start = Instant::now();
        let mut fanout = four_sessions(LIMITS, start);
        let mut reader = fanout.subscribe(Audience::Flashblocks, Some(at(2, 0)));
        let late = start + LIMITS.max_lag * 10;
        assert!(matches!(fanout.next(&mut reader, late), Next::Frame(_)));

        fanout.push(frame(5, 0), late);

        assert!(matches!(fanout.next(&mut reader, late), Next::TooSlow));
        assert_eq!(fanout.cursor(&reader), Some(at(2, 1)));
    }

    #[test]
    fn the_cursor_of_a_reader_that_got_nothing_is_what_it_would_get() {
        let fanout = four_sessions(LIMITS, Instant::now());
        let newcomer = fanout.subscribe(Audience::Flashblocks, None);
        assert_eq!(fanout.cursor(&newcomer), Some(at(4, 0)));
        let resuming = fanout.subscribe(Audience::Flashblocks, Some(at(3, 1)));
        assert_eq!(fanout.cursor(&resuming), Some(at(3, 1)));
        assert_eq!(fanout.head(), Some(at(4, 3)));
    }

    /// Reads to the end; what a gap names counts as seen, for its reader knows of it.
    fn catch_up(
        fanout: &Fanout,
        reader: &mut Reader,
        published: &[Position],
        seen: &mut Vec<Position>,
    ) {
        loop {
            match fanout.next(reader, Instant::now()) {
                Next::Frame(frame) => seen.extend(frame.position()),
                Next::Gap { wanted, next } => {
                    seen.extend(published.iter().filter(|at| **at >= wanted && **at < next));
                }
                Next::UpToDate => return,
                Next::TooSlow => {
                    *reader = fanout.subscribe(Audience::Everything, fanout.cursor(reader));
                }
            }
        }
    }

    proptest! {
        /// Whatever the sessions, the window and the moments at which a reader reads and leaves:
        /// resuming at its cursor, it sees every flashblock once and in order, or is told of a gap.
        #[test]
        fn a_reader_that_resumes_misses_nothing_in_silence(
            sessions in prop::collection::vec(1u64..6, 1..12),
            moments in prop::collection::vec(any::<(bool, bool)>(), 80),
        ) {
            let mut fanout = Fanout::new(LIMITS);
            let mut reader = fanout.subscribe(Audience::Everything, None);
            let mut moments = moments.into_iter().cycle();
            let (mut published, mut seen): (Vec<Position>, Vec<Position>) = (vec![], vec![]);
            for (seq, len) in (1..).zip(sessions) {
                for index in 0..len {
                    fanout.push(frame(seq, index), Instant::now());
                    published.push(at(seq, index));
                    let (leaves, reads) = moments.next().unwrap();
                    if leaves {
                        reader = fanout.subscribe(Audience::Everything, fanout.cursor(&reader));
                    }
                    if reads {
                        catch_up(&fanout, &mut reader, &published, &mut seen);
                    }
                }
            }
            catch_up(&fanout, &mut reader, &published, &mut seen);
            prop_assert_eq!(&seen[..], &published[published.len() - seen.len()..]);
            prop_assert!(!seen.is_empty());
        }
    }
}
