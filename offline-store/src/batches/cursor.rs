//! A place in an epoch, as a text for a trainer's checkpoint.
//!
//! It names how many rows of the epoch's global order *all ranks together* have had, so it does not know of world and batch sizes: ranks that have had
//! equally many batches hold the same text, and whatever number of them goes on from it gets each row that is left exactly once. Ranks that stand at
//! different batches hold different cursors: a checkpoint is taken where all of them meet, as training steps do anyway.
//!
//! The text is base64 (URL alphabet, no padding) of these bytes, numbers big-endian:
//!
//! ```text
//! 01          version
//! 32 bytes    the dataset's content digest
//! 8 bytes     the first of BLAKE3 of the split's name
//! 00 | 01     in row order | shuffled
//! u64         seed, 0 in row order
//! u64         epoch
//! u64         position: how many rows of the order were had
//! 4 bytes     the first of BLAKE3 of all before
//! ```

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::BatchesError;
use crate::dataset::ContentDigest;

const VERSION: u8 = 1;
const BODY_BYTES: usize = 1 + 32 + 8 + 1 + 3 * 8;
const CHECK_BYTES: usize = 4;

/// A place in an epoch of a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// The dataset's content.
    pub content: ContentDigest,
    split: [u8; 8],
    /// What the order was shuffled by; `None` for the order of the rows.
    pub seed: Option<u64>,
    /// The epoch.
    pub epoch: u64,
    /// How many rows of the order all ranks together have had.
    pub position: u64,
}

impl Cursor {
    /// A place in an epoch of a split; of all rows where its name is empty.
    pub fn new(content: ContentDigest, split: &str, seed: Option<u64>, epoch: u64, position: u64) -> Self {
        Self { content, split: split_mark(split), seed, epoch, position }
    }

    /// The same epoch at another place.
    #[must_use]
    pub fn at(&self, position: u64) -> Self {
        Self { position, ..self.clone() }
    }

    /// Refuses a cursor that is of other rows.
    ///
    /// # Errors
    /// [`BatchesError::OtherOrder`] that names what differs.
    pub fn check_rows(&self, content: &ContentDigest, split: &str) -> Result<(), BatchesError> {
        if self.content != *content {
            return Err(other("dataset", self.content, content));
        }
        if self.split != split_mark(split) {
            let expected = if split.is_empty() { "all rows".to_owned() } else { format!("split {split:?}") };
            return Err(other("split", "other rows of the dataset", expected));
        }
        Ok(())
    }

    /// Refuses a cursor that is of another seed or epoch, where the request names one.
    ///
    /// # Errors
    /// [`BatchesError::OtherOrder`] that names what differs.
    pub fn check_order(&self, seed: Option<u64>, epoch: Option<u64>) -> Result<(), BatchesError> {
        if let Some(wanted) = seed
            && self.seed != Some(wanted)
        {
            return Err(other("seed", self.seed.map_or("no seed: rows in their order".to_owned(), |seed| seed.to_string()), wanted));
        }
        match epoch {
            Some(wanted) if wanted != self.epoch => Err(other("epoch", self.epoch, wanted)),
            _ => Ok(()),
        }
    }

    fn body(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend(self.content.0);
        bytes.extend(self.split);
        bytes.push(u8::from(self.seed.is_some()));
        for number in [self.seed.unwrap_or_default(), self.epoch, self.position] {
            bytes.extend(number.to_be_bytes());
        }
        bytes
    }
}

fn other(what: &'static str, found: impl ToString, expected: impl ToString) -> BatchesError {
    BatchesError::OtherOrder { what, found: found.to_string(), expected: expected.to_string() }
}

fn split_mark(split: &str) -> [u8; 8] {
    first_bytes(split.as_bytes())
}

fn first_bytes<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let hash = blake3::hash(bytes);
    std::array::from_fn(|i| hash.as_bytes()[i])
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = self.body();
        bytes.extend(first_bytes::<CHECK_BYTES>(&bytes));
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for Cursor {
    type Err = BatchesError;

    fn from_str(text: &str) -> Result<Self, BatchesError> {
        let refuse = |reason| BatchesError::Cursor { text: text.chars().take(100).collect(), reason };
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| refuse("it is not base64; give it as it was given out"))?;
        if bytes.first().is_some_and(|version| *version != VERSION) {
            return Err(refuse("its version is not known here"));
        }
        let (body, check) = bytes.split_at_checked(BODY_BYTES).ok_or_else(|| refuse("it was cut short"))?;
        if check != first_bytes::<CHECK_BYTES>(body) {
            return Err(refuse("it is damaged"));
        }
        let mut rest = &body[1..];
        let mut take = |n: usize| {
            let (taken, left) = rest.split_at(n);
            rest = left;
            taken
        };
        // The lengths add up to that of the body.
        let (mut content, mut split) = (ContentDigest([0; 32]), [0; 8]);
        content.0.copy_from_slice(take(32));
        split.copy_from_slice(take(8));
        let shuffled = take(1) == [1];
        let mut number = || take(8).iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        let (seed, epoch, position) = (number(), number(), number());
        Ok(Self { content, split, seed: shuffled.then_some(seed), epoch, position })
    }
}
