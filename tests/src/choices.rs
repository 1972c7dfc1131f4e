//! Choices that are made for a program: by a seed, or by bytes that somebody found.

/// Where choices come from. The same source makes the same choices everywhere.
#[derive(Clone, Debug)]
pub struct Choices<'a>(Source<'a>);

#[derive(Clone, Debug)]
enum Source<'a> {
    /// SplitMix64.
    Seed(u64),
    /// As they come. When they are used up, every choice is the first.
    Bytes(&'a [u8]),
}

impl Choices<'static> {
    /// Choices without end.
    pub const fn of_seed(seed: u64) -> Self {
        Self(Source::Seed(seed))
    }
}

impl<'a> Choices<'a> {
    /// Choices of a fuzzer's.
    pub const fn of_bytes(bytes: &'a [u8]) -> Self {
        Self(Source::Bytes(bytes))
    }

    /// One of so many, the first being 0; 0 also if there is nothing to choose from.
    pub fn roll(&mut self, sides: u64) -> u64 {
        let drawn = match &mut self.0 {
            Source::Seed(state) => split_mix(state),
            Source::Bytes(rest) => take(rest, if sides <= 256 { 1 } else { 8 }),
        };
        drawn.checked_rem(sides).unwrap_or_default()
    }

    /// Whether something happens that happens once in so many times.
    pub fn once_in(&mut self, times: u64) -> bool {
        // Not the first choice, so that a fuzzer's bytes come to an end.
        self.roll(times) + 1 == times
    }

    /// One of these.
    ///
    /// # Panics
    /// If there are none.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.roll(from.len() as u64) as usize]
    }
}

fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn take(rest: &mut &[u8], count: usize) -> u64 {
    let (taken, left) = rest.split_at(count.min(rest.len()));
    *rest = left;
    taken.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}
