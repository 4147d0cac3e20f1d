//! Which rows of a dataset an epoch speaks of: all, or those of a split, so that the n-th is found at once.

/// Rows of a dataset, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowSet {
    /// So many, from the first.
    All(u64),
    /// Some of them.
    Some(Bits),
}

/// A bit for each row, and how many are set before each stretch of 512.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bits {
    words: Vec<u64>,
    before: Vec<u64>,
    rows: u64,
}

const STRETCH_WORDS: usize = 8;

impl RowSet {
    /// How many rows there are.
    pub const fn len(&self) -> u64 {
        match self {
            Self::All(rows) => *rows,
            Self::Some(bits) => bits.rows,
        }
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The n-th row; `None` where there are not so many.
    pub fn nth(&self, n: u64) -> Option<u64> {
        match self {
            Self::All(rows) => (n < *rows).then_some(n),
            Self::Some(bits) => bits.nth(n),
        }
    }
}

impl FromIterator<bool> for RowSet {
    /// The rows for which the iterator says so.
    fn from_iter<I: IntoIterator<Item = bool>>(member: I) -> Self {
        let mut bits = Bits::default();
        for (row, member) in member.into_iter().enumerate() {
            let (word, bit) = (row / u64::BITS as usize, row % u64::BITS as usize);
            if bit == 0 {
                if word % STRETCH_WORDS == 0 {
                    bits.before.push(bits.rows);
                }
                bits.words.push(0);
            }
            if member {
                bits.words[word] |= 1 << bit;
                bits.rows += 1;
            }
        }
        Self::Some(bits)
    }
}

impl Bits {
    fn nth(&self, n: u64) -> Option<u64> {
        if n >= self.rows {
            return None;
        }
        let stretch = self.before.partition_point(|before| *before <= n) - 1;
        let mut left = n - self.before[stretch];
        for (index, word) in self.words.iter().enumerate().skip(stretch * STRETCH_WORDS) {
            let set = u64::from(word.count_ones());
            if left < set {
                let mut word = *word;
                (0..left).for_each(|_| word &= word - 1);
                return Some(index as u64 * u64::from(u64::BITS) + u64::from(word.trailing_zeros()));
            }
            left -= set;
        }
        None
    }
}
