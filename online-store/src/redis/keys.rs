//! How keys and the values of markers are written, and in which slot of a cluster a key lies.
//!
//! ```text
//! key                              type     holds
//! P{}e | entity key                hash     generation (8 bytes BE) → packed row
//! P{}p | incarnation (hex)         hash     generation (8 bytes BE) → the commit that it answers for
//! P{}r                             string   root:   01 | incarnation (16) | 0 opening, 1 open
//! P{T}m                            string   marker: 01 | incarnation (16) | 0 volatile, 1 durable | run id of the process
//! ```
//!
//! P is the prefix. Behind an empty tag the whole key says the slot, whatever braces an entity key holds: all views of an entity are one hash and share
//! its slot, and no entity can choose where it lies. T is a number whose slot is the one that the marker speaks of.

use std::sync::LazyLock;

use anabranch_core::{EntityKey, Generation};
use bytes::Bytes;

use crate::{Error, Incarnation, Result};

/// How many slots a cluster has.
pub(super) const SLOTS: u16 = 16_384;
const FORMAT: u8 = 1;

/// A number for each slot that lies in it.
static TAGS: LazyLock<Vec<u32>> = LazyLock::new(|| {
    let (mut tags, mut left) = (vec![None; usize::from(SLOTS)], SLOTS);
    for tag in 0_u32.. {
        let place = &mut tags[usize::from(crc16(tag.to_string().as_bytes()) % SLOTS)];
        if place.is_none() {
            *place = Some(tag);
            left -= 1;
            if left == 0 {
                break;
            }
        }
    }
    tags.into_iter().flatten().collect()
});

/// Names the keys under one prefix.
#[derive(Debug)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    pub(super) fn entity(&self, key: &EntityKey) -> Vec<u8> {
        let mut name = Vec::with_capacity(self.prefix.len() + 3 + key.as_bytes().len());
        name.extend_from_slice(self.prefix.as_bytes());
        name.extend_from_slice(b"{}e");
        name.extend_from_slice(key.as_bytes());
        name
    }

    /// The entity of a key that [`Keys::entity`] named.
    pub(super) fn entity_of(&self, name: &[u8]) -> Result<EntityKey> {
        let rest = name.strip_prefix(self.prefix.as_bytes()).and_then(|rest| rest.strip_prefix(b"{}e"));
        let bytes = rest.ok_or_else(|| Error::Corrupt { what: "a key in Redis", reason: "it is no entity's".to_owned() })?;
        Ok(EntityKey::from_bytes(Bytes::copy_from_slice(bytes))?)
    }

    /// What `SCAN` matches entities by.
    pub(super) fn entities(&self) -> String {
        format!("{}{{}}e*", self.prefix)
    }

    pub(super) fn published(&self, incarnation: Incarnation) -> Vec<u8> {
        format!("{}{{}}p{incarnation}", self.prefix).into_bytes()
    }

    pub(super) fn root(&self) -> Vec<u8> {
        format!("{}{{}}r", self.prefix).into_bytes()
    }

    pub(super) fn marker(&self, slot: u16) -> Vec<u8> {
        format!("{}{{{}}}m", self.prefix, TAGS[usize::from(slot)]).into_bytes()
    }
}

/// The field of a generation.
pub(super) const fn field(generation: Generation) -> [u8; 8] {
    generation.0.to_be_bytes()
}

/// The slot of a key, as Redis' cluster specification says: of the whole key, or of the tag between its first braces where that is not empty.
pub(super) fn slot_of(key: &[u8]) -> u16 {
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        rest.iter().position(|byte| *byte == b'}').map(|close| &rest[..close])
    });
    crc16(tag.filter(|tag| !tag.is_empty()).unwrap_or(key)) % SLOTS
}

/// CRC-16/XMODEM.
const fn crc16(bytes: &[u8]) -> u16 {
    let (mut crc, mut i) = (0_u16, 0);
    while i < bytes.len() {
        crc = (crc << 8) ^ CRC16[((crc >> 8) ^ bytes[i] as u16) as usize & 0xFF];
        i += 1;
    }
    crc
}

const CRC16: [u16; 256] = {
    let (mut table, mut i) = ([0; 256], 0);
    while i < 256 {
        let (mut crc, mut bit) = ((i as u16) << 8, 0);
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
};

/// What names the content of the whole store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Root {
    pub(super) incarnation: Incarnation,
    /// Whether every slot has a marker of this incarnation.
    pub(super) open: bool,
}

impl Root {
    pub(super) fn to_bytes(self) -> Vec<u8> {
        [&[FORMAT][..], &self.incarnation.0.to_be_bytes(), &[u8::from(self.open)]].concat()
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        let (incarnation, open, _) = parse("the root of the online store in Redis", bytes)?;
        Ok(Self { incarnation, open })
    }
}

/// Says of a slot which incarnation it belongs to, and which process held it when somebody looked last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Marker {
    pub(super) incarnation: Incarnation,
    /// Whether what the process acknowledged survives its end.
    pub(super) durable: bool,
    pub(super) run: String,
}

impl Marker {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        [&[FORMAT][..], &self.incarnation.0.to_be_bytes(), &[u8::from(self.durable)], self.run.as_bytes()].concat()
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        let (incarnation, durable, run) = parse("a marker of the online store in Redis", bytes)?;
        Ok(Self { incarnation, durable, run: String::from_utf8_lossy(run).into_owned() })
    }
}

fn parse<'a>(what: &'static str, bytes: &'a [u8]) -> Result<(Incarnation, bool, &'a [u8])> {
    let corrupt = || Error::Corrupt { what, reason: format!("its {} bytes are not of this format", bytes.len()) };
    let (format, rest) = bytes.split_first().ok_or_else(corrupt)?;
    if *format > FORMAT {
        return Err(Error::NewerFormat { what, found: *format, known: FORMAT });
    }
    let (incarnation, rest) = rest.split_first_chunk::<16>().ok_or_else(corrupt)?;
    let (flag, rest) = rest.split_first().ok_or_else(corrupt)?;
    Ok((Incarnation(u128::from_be_bytes(*incarnation)), *flag == 1, rest))
}

#[cfg(test)]
mod tests {
    use anabranch_core::Value;

    use super::*;

    #[test]
    fn slots_are_those_of_the_cluster_specification() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        assert_eq!(slot_of(b"{user1000}.following"), slot_of(b"{user1000}.followers"));
        assert_eq!(slot_of(b"foo{{bar}}zap"), slot_of(b"{bar"));
        assert_eq!(slot_of(b"foo{}{bar}"), crc16(b"foo{}{bar}") % SLOTS);
        assert_eq!(slot_of(b"foo{bar"), crc16(b"foo{bar") % SLOTS);
    }

    #[test]
    fn every_slot_has_a_marker_that_lies_in_it() {
        let keys = Keys::new("a:b");
        for slot in 0..SLOTS {
            assert_eq!(slot_of(&keys.marker(slot)), slot);
        }
    }

    #[test]
    fn an_entity_is_spread_by_all_of_its_key_and_comes_back_from_it() {
        let keys = Keys::new("a:b");
        let entity = |name: &str| EntityKey::encode(&[Value::String(name.to_owned())]).unwrap().unwrap();
        let (one, other) = (entity("{x}1"), entity("{x}2"));
        assert_ne!(slot_of(&keys.entity(&one)), slot_of(&keys.entity(&other)));
        assert_eq!(keys.entity_of(&keys.entity(&one)).unwrap(), one);
        assert!(keys.entity_of(b"a:b{}r").is_err());
    }

    #[test]
    fn roots_and_markers_come_back_and_newer_ones_are_refused() {
        let root = Root { incarnation: Incarnation(7), open: true };
        assert_eq!(Root::parse(&root.to_bytes()).unwrap(), root);
        let marker = Marker { incarnation: Incarnation(7), durable: false, run: "ab12".to_owned() };
        assert_eq!(Marker::parse(&marker.to_bytes()).unwrap(), marker);
        let golden = b"\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x07\0ab12";
        assert_eq!(marker.to_bytes(), golden);
        assert!(matches!(Root::parse(&[2; 18]).unwrap_err(), Error::NewerFormat { found: 2, .. }));
        for short in [&b""[..], b"\x01", &[1; 17]] {
            assert!(matches!(Root::parse(short).unwrap_err(), Error::Corrupt { .. }));
        }
    }
}
