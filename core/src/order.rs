//! The total order of the rows of one entity.
//!
//! Rows are ordered by `(event time, known time, arrival, source, position)`. Among rows that speak of the same instant, what came last wins: a
//! correction, a backfill and a late duplicate need no rule of their own. Both stores and the point-in-time join use this one order.
//!
//! The encoding is big-endian with the sign bit of the times flipped, so that comparing bytes compares rows:
//!
//! ```text
//! 0         8          16        24       28         36
//! +---------+----------+---------+--------+----------+
//! | event   | known    | arrival | source | position |
//! +---------+----------+---------+--------+----------+
//! ```

use crate::{Error, Position, SourceId, Timestamp};

/// Where a row stands in the total order of its entity's rows. The derived order *is* the total order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowOrder {
    /// When it was true.
    pub event_time: Timestamp,
    /// When its maker knew it.
    pub known_time: Timestamp,
    /// When we had it.
    pub arrival: Timestamp,
    /// The log, file or stream that it came from.
    pub source: SourceId,
    /// Its place there.
    pub position: Position,
}

impl RowOrder {
    /// Bytes of the encoding.
    pub const LEN: usize = 36;

    /// The order-preserving bytes.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[0..8].copy_from_slice(&flip(self.event_time));
        bytes[8..16].copy_from_slice(&flip(self.known_time));
        bytes[16..24].copy_from_slice(&flip(self.arrival));
        bytes[24..28].copy_from_slice(&self.source.get().to_be_bytes());
        bytes[28..36].copy_from_slice(&self.position.get().to_be_bytes());
        bytes
    }

    /// Reads what [`RowOrder::to_bytes`] wrote; bytes behind it are left alone.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let short = || Error::Malformed { what: "row order", reason: format!("{} bytes where {} are needed", bytes.len(), Self::LEN) };
        let word = |at: usize| -> Result<[u8; 8], Error> { bytes.get(at..at + 8).and_then(|slice| slice.try_into().ok()).ok_or_else(short) };
        let source = bytes.get(24..28).and_then(|slice| slice.try_into().ok()).ok_or_else(short)?;
        Ok(Self {
            event_time: unflip(word(0)?),
            known_time: unflip(word(8)?),
            arrival: unflip(word(16)?),
            source: SourceId::new(u32::from_be_bytes(source))?,
            position: Position::new(u64::from_be_bytes(word(28)?))?,
        })
    }
}

fn flip(time: Timestamp) -> [u8; 8] {
    ((time.0 as u64) ^ (1 << 63)).to_be_bytes()
}

fn unflip(bytes: [u8; 8]) -> Timestamp {
    Timestamp((u64::from_be_bytes(bytes) ^ (1 << 63)) as i64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order() -> impl Strategy<Value = RowOrder> {
        let time = || prop_oneof![Just(i64::MIN), Just(-1), Just(0), Just(i64::MAX), any::<i64>()].prop_map(Timestamp);
        (time(), time(), time(), 0..=SourceId::MAX, 0..=Position::MAX).prop_map(|(event_time, known_time, arrival, source, position)| RowOrder {
            event_time,
            known_time,
            arrival,
            source: SourceId::new(source).unwrap(),
            position: Position::new(position).unwrap(),
        })
    }

    proptest! {
        #[test]
        fn bytes_order_as_rows_do_and_round_trip(a in order(), b in order()) {
            prop_assert_eq!(a.cmp(&b), a.to_bytes().cmp(&b.to_bytes()));
            prop_assert_eq!(RowOrder::from_bytes(&a.to_bytes()).unwrap(), a);
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = RowOrder::from_bytes(&bytes);
        }
    }
}
