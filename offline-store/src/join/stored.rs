//! Values of a column as Parquet's pages store them, of which those that are wanted are taken and no other is decoded.
//!
//! ```text
//! page:  which rows have a value     Presence, none where all have one
//!        the values of those rows    StoredValues: side by side, by byte streams, or as places in a dictionary
//! ```
//!
//! Levels and places in a dictionary are both a [`Hybrid`]. Whatever the bytes are, nothing here panics: a hybrid that ends early is none, and a place
//! beyond its dictionary is no value.

use bytes::Bytes;

/// The most bytes of a varint of 32 bits.
const VARINT_BYTES: usize = 5;

/// A page of numbers.
#[derive(Debug, Clone)]
pub struct StoredPage {
    /// How many rows it has.
    pub rows: usize,
    /// Which of them have a value; none: all.
    pub presence: Option<Presence>,
    /// The values of those that have one, in the order of the rows.
    pub values: StoredValues,
}

impl StoredPage {
    /// How many values there are.
    pub fn count(&self) -> usize {
        self.presence.as_ref().map_or(self.rows, Presence::count)
    }
}

/// Numbers of a fixed width, little-endian.
#[derive(Debug, Clone)]
pub enum StoredValues {
    /// One behind the other.
    Plain(Bytes),
    /// The first bytes of all values, then the second ones, and so on.
    Split(Bytes),
    /// As places in a dictionary.
    Dictionary {
        /// The dictionary's values, one behind the other.
        dictionary: Bytes,
        /// The place of each value.
        places: Hybrid,
    },
}

/// Small numbers as Parquet's hybrid of run lengths and bit packing, of which any can be read as it lies.
#[derive(Debug, Clone)]
pub struct Hybrid {
    bytes: Bytes,
    /// Bits of a number.
    width: usize,
    runs: Vec<Run>,
}

#[derive(Debug, Clone, Copy)]
struct Run {
    /// How many numbers there are up to its end.
    end: usize,
    content: Content,
}

#[derive(Debug, Clone, Copy)]
enum Content {
    /// One number, again and again.
    Repeated(u32),
    /// Numbers side by side, the first of them at this byte.
    Packed(usize),
}

impl Hybrid {
    /// Finds the runs of `count` numbers of `width` bits each; `None` where the bytes don't hold as many.
    pub fn parse(bytes: Bytes, width: u8, count: usize) -> Option<Self> {
        let width = usize::from(width);
        if width > 32 {
            return None;
        }
        let (mut runs, mut at, mut end) = (Vec::new(), 0, 0_usize);
        while end < count {
            let (header, length) = varint(bytes.get(at..)?)?;
            at += length;
            let items = usize::try_from(header >> 1).ok()?;
            let (numbers, content) = if header & 1 == 0 {
                let stored = bytes.get(at..at + width.div_ceil(8))?;
                at += stored.len();
                let mut number = [0; 4];
                number[..stored.len()].copy_from_slice(stored);
                (items, Content::Repeated(u32::from_le_bytes(number)))
            } else if width == 0 {
                (items.checked_mul(8)?, Content::Repeated(0))
            } else {
                // Some writers cut the last group where its numbers end.
                let stored = items.checked_mul(width)?.min(bytes.len() - at);
                let packed = Content::Packed(at);
                at += stored;
                (stored.checked_mul(8)? / width, packed)
            };
            if numbers > 0 {
                end = end.saturating_add(numbers).min(count);
                runs.push(Run { end, content });
            }
        }
        Some(Self { bytes, width, runs })
    }

    /// How many numbers there are.
    pub fn count(&self) -> usize {
        self.runs.last().map_or(0, |run| run.end)
    }

    /// Whether it says one number, again and again, and nothing else.
    pub fn is_all(&self, number: u32) -> bool {
        self.runs.iter().all(|run| matches!(run.content, Content::Repeated(repeated) if repeated == number))
    }

    /// Reads from the first number on.
    pub fn cursor(&self) -> HybridCursor<'_> {
        HybridCursor { of: self, run: 0, start: 0 }
    }

    /// The number `place` places after that at a byte.
    #[inline]
    fn unpack(&self, first: usize, place: usize) -> u32 {
        let bit = place * self.width;
        let rest = self.bytes.get(first + bit / 8..).unwrap_or_default();
        let word = rest.first_chunk().copied().unwrap_or_else(|| {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            last
        });
        // At most 7 bits before a number and 32 of it.
        ((u64::from_le_bytes(word) >> (bit % 8)) & ((1 << self.width) - 1)) as u32
    }
}

/// A number below 2^32 in groups of seven bits, the lowest first, and how many bytes it takes.
fn varint(bytes: &[u8]) -> Option<(u32, usize)> {
    let mut number = 0_u64;
    for (place, byte) in bytes.iter().take(VARINT_BYTES).enumerate() {
        number |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some((u32::try_from(number).ok()?, place + 1));
        }
    }
    None
}

/// Reads a [`Hybrid`] at places that ascend.
#[derive(Debug)]
pub struct HybridCursor<'a> {
    of: &'a Hybrid,
    run: usize,
    start: usize,
}

impl HybridCursor<'_> {
    /// The number at a place, which does not lie before the one asked for last; `None` beyond the end.
    #[inline]
    pub fn get(&mut self, place: usize) -> Option<u32> {
        let mut run = self.of.runs.get(self.run)?;
        while run.end <= place {
            self.start = run.end;
            self.run += 1;
            run = self.of.runs.get(self.run)?;
        }
        Some(match run.content {
            Content::Repeated(number) => number,
            Content::Packed(first) => self.of.unpack(first, place.checked_sub(self.start)?),
        })
    }
}

/// Which rows have a value, and the how-manieth each of these is.
#[derive(Debug, Clone)]
pub struct Presence {
    words: Vec<u64>,
    /// How many rows of the words before have a value.
    before: Vec<u32>,
    count: usize,
}

impl Presence {
    /// Takes definition levels of a column without nesting, 1 where there is a value; `None` where they say something else.
    pub fn of(levels: &Hybrid) -> Option<Self> {
        let mut bits = Bits { words: Vec::with_capacity(levels.count().div_ceil(64)), rows: 0 };
        let mut start = 0;
        for run in &levels.runs {
            let rows = run.end - start;
            match run.content {
                Content::Repeated(level @ (0 | 1)) => bits.repeat(level == 1, rows),
                Content::Packed(first) if levels.width == 1 => bits.copy(levels.bytes.get(first..first + rows.div_ceil(8))?, rows),
                _ => return None,
            }
            start = run.end;
        }
        let (mut before, mut count) = (Vec::with_capacity(bits.words.len()), 0);
        for word in &bits.words {
            before.push(count);
            count += word.count_ones();
        }
        Some(Self { words: bits.words, before, count: count as usize })
    }

    /// How many rows have a value.
    pub const fn count(&self) -> usize {
        self.count
    }

    /// The place of a row's value among the values; `None` where it has none.
    #[inline]
    pub fn place(&self, row: usize) -> Option<usize> {
        let (word, bit) = (*self.words.get(row / 64)?, row % 64);
        let lower = (word & ((1 << bit) - 1)).count_ones();
        (word >> bit & 1 == 1).then(|| (self.before[row / 64] + lower) as usize)
    }
}

/// Bits, the first of a word the lowest.
struct Bits {
    words: Vec<u64>,
    rows: usize,
}

impl Bits {
    /// Adds up to 64 bits; those above are zero.
    fn push(&mut self, bits: u64, count: usize) {
        let used = self.rows % 64;
        match self.words.last_mut().filter(|_| used > 0) {
            Some(last) => {
                *last |= bits << used;
                if used + count > 64 {
                    self.words.push(bits >> (64 - used));
                }
            }
            None if count > 0 => self.words.push(bits),
            None => {}
        }
        self.rows += count;
    }

    fn repeat(&mut self, set: bool, mut count: usize) {
        while count > 0 {
            let some = count.min(64);
            self.push(if set { lowest(some) } else { 0 }, some);
            count -= some;
        }
    }

    fn copy(&mut self, bytes: &[u8], mut count: usize) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            let some = count.min(64);
            self.push(u64::from_le_bytes(word) & lowest(some), some);
            count -= some;
        }
    }
}

/// So many bits, 64 at most.
const fn lowest(count: usize) -> u64 {
    if count < 64 { (1 << count) - 1 } else { u64::MAX }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A run as a writer may choose it: one number so many times, or groups of eight.
    #[derive(Debug, Clone)]
    enum Choice {
        Repeated(u32, usize),
        Packed(Vec<[u32; 8]>),
    }

    fn choice(width: u8) -> impl Strategy<Value = Choice> {
        let number = (0..=u32::MAX).prop_map(move |number| if width < 32 { number & ((1 << width) - 1) } else { number });
        let packed = prop::collection::vec(prop::array::uniform8(number.clone()), 0..20).prop_map(Choice::Packed);
        prop_oneof![(number, 0_usize..300).prop_map(|(number, times)| Choice::Repeated(number, times)), packed]
    }

    fn stored(width: u8, choices: &[Choice]) -> (Vec<u8>, Vec<u32>) {
        let (mut bytes, mut numbers) = (Vec::new(), Vec::new());
        let header = |bytes: &mut Vec<u8>, mut header: usize| {
            while header > 0x7f {
                bytes.push(header as u8 | 0x80);
                header >>= 7;
            }
            bytes.push(header as u8);
        };
        for choice in choices {
            match choice {
                Choice::Repeated(number, times) => {
                    header(&mut bytes, times << 1);
                    bytes.extend(&number.to_le_bytes()[..usize::from(width).div_ceil(8)]);
                    numbers.extend(std::iter::repeat_n(*number, *times));
                }
                Choice::Packed(groups) => {
                    header(&mut bytes, groups.len() << 1 | 1);
                    for group in groups {
                        let (width, mut packed) = (usize::from(width), vec![0_u8; usize::from(width)]);
                        for at in 0..8 * width {
                            packed[at / 8] |= ((group[at / width] >> (at % width) & 1) as u8) << (at % 8);
                        }
                        bytes.extend(packed);
                        numbers.extend(group);
                    }
                }
            }
        }
        (bytes, numbers)
    }

    fn hybrids() -> impl Strategy<Value = (u8, Vec<Choice>)> {
        (0_u8..=32).prop_flat_map(|width| (Just(width), prop::collection::vec(choice(width), 0..12)))
    }

    proptest! {
        #[test]
        fn a_hybrid_gives_the_numbers_that_it_was_made_of((width, choices) in hybrids(), cut in 0_usize..8, step in 1_usize..9) {
            let (bytes, numbers) = stored(width, &choices);
            let numbers = &numbers[..numbers.len().saturating_sub(cut)];
            let hybrid = Hybrid::parse(bytes.clone().into(), width, numbers.len()).unwrap();
            prop_assert_eq!(hybrid.count(), numbers.len());
            prop_assert!(!hybrid.is_all(1) || numbers.iter().all(|number| *number == 1));
            prop_assert!(hybrid.is_all(1) || !choices.iter().all(|choice| matches!(choice, Choice::Repeated(1, _))));
            let mut cursor = hybrid.cursor();
            for place in (0..numbers.len()).step_by(step) {
                // Asked for twice: rows of a spine share a row of a view.
                prop_assert_eq!(cursor.get(place), Some(numbers[place]));
                prop_assert_eq!(cursor.get(place), Some(numbers[place]));
            }
            prop_assert_eq!(cursor.get(numbers.len()), None);
            prop_assert!(width == 0 || Hybrid::parse(bytes.into(), width, numbers.len() + cut + 1).is_none());
        }

        #[test]
        fn presence_counts_as_the_levels_do(choices in prop::collection::vec(choice(1), 0..12), cut in 0_usize..8) {
            let (bytes, levels) = stored(1, &choices);
            let levels = &levels[..levels.len().saturating_sub(cut)];
            let presence = Presence::of(&Hybrid::parse(bytes.into(), 1, levels.len()).unwrap()).unwrap();
            let mut count = 0;
            for (row, level) in levels.iter().enumerate() {
                prop_assert_eq!(presence.place(row), (*level == 1).then_some(count));
                count += *level as usize;
            }
            prop_assert_eq!(presence.count(), count);
            prop_assert_eq!(presence.place(levels.len()), None);
        }

        #[test]
        fn bytes_that_are_no_hybrid_are_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..60), width in 0_u8..40, count in 0_usize..3_000) {
            if let Some(hybrid) = Hybrid::parse(bytes.into(), width, count) {
                prop_assert_eq!(hybrid.count(), count);
                let mut cursor = hybrid.cursor();
                prop_assert!((0..count).all(|place| cursor.get(place).is_some()));
                if let Some(presence) = Presence::of(&hybrid) {
                    prop_assert_eq!((0..count).filter_map(|row| presence.place(row)).collect::<Vec<_>>(), (0..presence.count()).collect::<Vec<_>>());
                }
            }
        }
    }

    #[test]
    fn a_last_group_that_is_cut_is_read_as_far_as_it_goes() {
        // Two groups are announced, nine numbers of four bits come.
        let bytes = Bytes::from_static(&[2 << 1 | 1, 0x10, 0x32, 0x54, 0x76, 0x08]);
        let hybrid = Hybrid::parse(bytes.clone(), 4, 9).unwrap();
        let mut cursor = hybrid.cursor();
        assert_eq!((0..9).map(|place| cursor.get(place)).collect::<Vec<_>>(), (0..9).map(Some).collect::<Vec<_>>());
        assert!(Hybrid::parse(bytes, 4, 11).is_none());
    }

    #[test]
    fn levels_above_one_are_refused() {
        assert!(Presence::of(&Hybrid::parse(Bytes::from_static(&[8 << 1, 2]), 1, 8).unwrap()).is_none());
    }
}
