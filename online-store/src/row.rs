//! The packed row: what a store holds of one entity under one generation.
//!
//! ```text
//! 0       36        37      38            46          46+n           46+n+s
//! +-------+---------+-------+-------------+-----------+-------+------+
//! | order | version | flags | fingerprint | null bits | slots | heap |
//! +-------+---------+-------+-------------+-----------+-------+------+
//! ```
//!
//! - *order*: the 36 bytes of [`RowOrder`], big-endian, so that the greater of two rows is the later one. All else is little-endian.
//! - *version*: 1. A newer one is refused.
//! - *flags*: bit 0 says that the row is a tombstone; it then ends at byte 46. The other bits are 0.
//! - *fingerprint*: names the [`Layout`], which says how many null bits, slots and what types.
//! - *null bits*: one for each field, the lowest bit of a byte first, 1 for null; unused bits are 0.
//! - *slots*, one for each field, without padding: bool 1 byte (0 or 1); i32, f32 4; i64, f64, timestamp (microseconds) 8; for every other type 4, the
//!   end of its value in the heap, which begins where that of the field before it in the heap ends. The slot of a null is 0, or an empty value.
//! - *heap*: strings and bytes as they are; vectors and lists of fixed-width scalars as their values one after the other; lists of strings and of bytes
//!   as a count (4 bytes), an end for each item (4 bytes each, counted from behind the ends), and the items.
//!
//! Equal rows under equal layouts have equal bytes. Any bytes decode or are refused; none can panic.

mod decode;
mod encode;

use anabranch_core::{RowOrder, Timestamp};

pub use decode::RowReader;
pub use encode::{RowEncoder, encode_tombstone};

#[cfg(doc)]
use crate::Layout;
use crate::{Error, Result};

/// The format version that is written, and the newest that is read.
pub const VERSION: u8 = 1;

/// Largest packed row.
pub const MAX_ROW_BYTES: usize = 16 << 20;

const HEADER: usize = 46;
const TOMBSTONE: u8 = 1;

/// The bytes of a packed row whose header is sound.
#[derive(Debug, Clone, Copy)]
pub struct PackedRow<'a> {
    bytes: &'a [u8],
}

impl<'a> PackedRow<'a> {
    /// Looks at the header.
    ///
    /// # Errors
    /// [`Error::NewerFormat`], or [`Error::Corrupt`] where it is no packed row.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        if bytes.len() < HEADER {
            return Err(Error::corrupt_row(format!("{} bytes are fewer than the {HEADER} of a header", bytes.len())));
        }
        match bytes[36] {
            VERSION => {}
            0 => return Err(Error::corrupt_row("its version is 0")),
            found => return Err(Error::NewerFormat { what: "packed row", found, known: VERSION }),
        }
        if bytes[37] & !TOMBSTONE != 0 {
            return Err(Error::corrupt_row(format!("its flags are {:#04x}", bytes[37])));
        }
        Ok(Self { bytes })
    }

    /// Where the row stands in the total order.
    ///
    /// # Errors
    /// [`Error::Core`] where its source or position has a bit too many.
    pub fn order(&self) -> Result<RowOrder> {
        Ok(RowOrder::from_bytes(self.bytes)?)
    }

    /// When the row was true.
    pub fn event_time(&self) -> Timestamp {
        event_time_of(self.bytes)
    }

    /// Whether the row says that the entity has no features as of its event time.
    pub const fn is_tombstone(&self) -> bool {
        self.bytes[37] & TOMBSTONE != 0
    }

    /// The fingerprint of the row's layout.
    pub fn fingerprint(&self) -> u64 {
        self.bytes[38..].first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }

    /// Null bits, slots and heap.
    fn body(&self) -> &'a [u8] {
        &self.bytes[HEADER..]
    }
}

/// The event time that a row's order begins with.
pub(crate) fn event_time_of(row: &[u8]) -> Timestamp {
    let word = row.first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    Timestamp((word ^ (1 << 63)) as i64)
}

#[cfg(test)]
mod tests;
