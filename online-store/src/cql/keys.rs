//! Which timestamp a row is written with, and how the values of the control table are written.
//!
//! ```text
//! part                      name               value
//! 'root'                    ''                 01 | incarnation (16)
//! 'node'                    id of the node     01 | incarnation (16) | 0 volatile, 1 durable | the node's start (text)
//! 'published ' incarnation  generation (hex)   the commit that the generation answers for
//! ```
//!
//! # Timestamps
//!
//! Of two cells the server keeps the one with the greater timestamp, and of two with one timestamp the greater value, compared byte by byte. The value is
//! the packed row, which begins with the whole order; so any timestamp that never falls while the event time rises leaves the greatest row. It is the
//! event time in units of 2¹³ µs (8.2 ms), rounded down: that every event time, the least and the greatest included, then has a timestamp that no server
//! refuses, for the greatest of them is of the year 2005. (Cassandra refuses `i64::MIN`, Scylla what lies 3 days ahead.) Rows of different times still
//! have different timestamps, by which a server leaves files unread that hold only older rows.
//!
//! The timestamp of a `DELETE` is above all of these, and in the past: it ends a generation for ever, rows that come late included.

use anabranch_core::{Generation, RowOrder, Timestamp};

use crate::row::event_time_of;
use crate::{Error, Incarnation, Result};

const FORMAT: u8 = 1;
const UNIT_BITS: u32 = 13;
/// Above the timestamp of every row.
pub(super) const END: i64 = (i64::MAX >> UNIT_BITS) + 1;

pub(super) const ROOT: &str = "root";
pub(super) const NODE: &str = "node";

/// The timestamp of a packed row.
pub(super) fn timestamp(row: &[u8]) -> i64 {
    timestamp_at(event_time_of(row))
}

const fn timestamp_at(event_time: Timestamp) -> i64 {
    event_time.0 >> UNIT_BITS
}

/// The part of the control table that says which commits generations answer for.
pub(super) fn published(incarnation: Incarnation) -> String {
    format!("published {incarnation}")
}

pub(super) fn name(generation: Generation) -> String {
    format!("{:016x}", generation.0)
}

/// CQL has no unsigned integers; every generation has a number of its own all the same.
pub(super) const fn column(generation: Generation) -> i64 {
    generation.0.cast_signed()
}

/// What names the content of the whole store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Root(pub(super) Incarnation);

impl Root {
    pub(super) fn to_bytes(self) -> Vec<u8> {
        [&[FORMAT][..], &self.0.0.to_be_bytes()].concat()
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        Ok(Self(parse("the root of the online store on CQL", bytes)?.0))
    }
}

/// Says of a node how it was when somebody looked last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Marker {
    pub(super) incarnation: Incarnation,
    /// Whether what the node acknowledged survives loss of power.
    pub(super) durable: bool,
    /// Another one after each start.
    pub(super) start: String,
}

impl Marker {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        [&[FORMAT][..], &self.incarnation.0.to_be_bytes(), &[u8::from(self.durable)], self.start.as_bytes()].concat()
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        const WHAT: &str = "a marker of the online store on CQL";
        let (incarnation, rest) = parse(WHAT, bytes)?;
        let (durable, start) = rest.split_first().ok_or(Error::Corrupt { what: WHAT, reason: "it is cut short".to_owned() })?;
        Ok(Self { incarnation, durable: *durable == 1, start: String::from_utf8_lossy(start).into_owned() })
    }
}

fn parse<'a>(what: &'static str, bytes: &'a [u8]) -> Result<(Incarnation, &'a [u8])> {
    let corrupt = || Error::Corrupt { what, reason: format!("its {} bytes are not of this format", bytes.len()) };
    let (format, rest) = bytes.split_first().ok_or_else(corrupt)?;
    if *format > FORMAT {
        return Err(Error::NewerFormat { what, found: *format, known: FORMAT });
    }
    let (incarnation, rest) = rest.split_first_chunk::<16>().ok_or_else(corrupt)?;
    Ok((Incarnation(u128::from_be_bytes(*incarnation)), rest))
}

const _: () = assert!(RowOrder::LEN >= 8, "a row begins with its event time");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn timestamps_rise_with_event_times_and_none_is_refused(a: i64, b: i64) {
            let (a, b) = (a.min(b), a.max(b));
            let year_2006 = 1_136_073_600_000_000;
            let [low, high] = [a, b].map(|time| timestamp(&crate::testkit::row(crate::testkit::at(time), b"")));
            prop_assert!(low <= high && low > i64::MIN && high < END && END < year_2006);
            prop_assert_eq!(low, timestamp_at(Timestamp(a)));
        }
    }

    #[test]
    fn the_edges_of_time_have_timestamps_of_their_own() {
        let edges =
            [i64::MIN, -(1 << UNIT_BITS) - 1, -1, 0, (1 << UNIT_BITS) - 1, 1 << UNIT_BITS, i64::MAX].map(|time| timestamp_at(Timestamp(time)));
        assert_eq!(edges, [-(1 << 50), -2, -1, 0, 0, 1, (1 << 50) - 1]);
        assert_eq!(END, 1 << 50);
    }

    #[test]
    fn roots_and_markers_come_back_and_newer_ones_are_refused() {
        let root = Root(Incarnation(7));
        assert_eq!(root.to_bytes(), b"\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x07");
        assert_eq!(Root::parse(&root.to_bytes()).unwrap(), root);
        let marker = Marker { incarnation: Incarnation(7), durable: true, start: "17".to_owned() };
        assert_eq!(marker.to_bytes(), b"\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x07\x0117");
        assert_eq!(Marker::parse(&marker.to_bytes()).unwrap(), marker);
        assert!(matches!(Root::parse(&[2; 17]).unwrap_err(), Error::NewerFormat { found: 2, .. }));
        for short in [&b""[..], b"\x01", &[1; 16]] {
            assert!(matches!(Root::parse(short).unwrap_err(), Error::Corrupt { .. }));
        }
        assert!(matches!(Marker::parse(&[1; 17]).unwrap_err(), Error::Corrupt { .. }));
    }

    #[test]
    fn generations_have_columns_and_names_of_their_own() {
        assert_eq!([0, 1, u64::MAX].map(|g| column(Generation(g))), [0, 1, -1]);
        assert_eq!(name(Generation(u64::MAX)), "ffffffffffffffff");
    }
}
