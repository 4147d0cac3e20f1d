//! Offsets: how far a source has been consumed, kept in the commit that holds its rows.
//!
//! An offset is an entry of the versioned map. Its key is `offset/<branch id>/<pipeline>/<source id>`, the ids big-endian in 8 and 4 bytes, so that the
//! offsets of a branch lie together. Its value:
//!
//! ```text
//! 0         1               9              17                                49
//! +---------+---------------+--------------+---------------------------------+
//! | version | next position | last arrival | digest of the judging           |
//! | u8 = 1  | u64 BE        | i64 BE       | definitions, 32 bytes           |
//! +---------+---------------+--------------+---------------------------------+
//! ```
//!
//! The digest names the definitions that judge the rows from `next position` on. It is the BLAKE3 hash of their canonical bytes, under which the
//! repository keeps them as a blob. Rows are never judged by the definitions at the head.

use anabranch_core::definition::DefinitionDigest;
use anabranch_core::{BranchId, SourceId, Timestamp};
use anabranch_versioning::{Key, KeyKind};
use bytes::Bytes;

use crate::{Error, Result};

/// The version of the value's format.
pub const OFFSET_FORMAT: u8 = 1;

const LEN: usize = 49;

/// Which offset is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetKey {
    /// The branch whose pipeline consumes the source.
    pub branch: BranchId,
    /// The pipeline.
    pub pipeline: String,
    /// The source.
    pub source: SourceId,
}

impl OffsetKey {
    /// The key in the map.
    ///
    /// # Errors
    /// Refuses a pipeline whose name is too long for a key.
    pub fn to_key(&self) -> Result<Key> {
        let (branch, source) = (self.branch.0.to_be_bytes(), self.source.get().to_be_bytes());
        Key::new(KeyKind::Offset, &[&branch, self.pipeline.as_bytes(), &source]).map_err(|error| Error::below("the offset's key", error))
    }

    /// What the keys of all offsets of a branch begin with.
    ///
    /// # Errors
    /// None in practice: the key is short.
    pub fn of_branch(branch: BranchId) -> Result<Key> {
        Key::prefix(KeyKind::Offset, &[&branch.0.to_be_bytes()]).map_err(|error| Error::below("the offset's key", error))
    }

    /// Reads a key of the map.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a key that is no offset's.
    pub fn from_key(key: &Key) -> Result<Self> {
        let malformed = || Error::Malformed { what: "offset key", reason: key.to_string() };
        let parts = key.parts();
        let (KeyKind::Offset, [branch, pipeline, source]) = (key.kind(), &parts[..]) else { return Err(malformed()) };
        let branch = BranchId(u64::from_be_bytes((*branch).try_into().map_err(|_| malformed())?));
        let pipeline = std::str::from_utf8(pipeline).map_err(|_| malformed())?.to_owned();
        let source = SourceId::new(u32::from_be_bytes((*source).try_into().map_err(|_| malformed())?))?;
        Ok(Self { branch, pipeline, source })
    }
}

/// How far a source has been consumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offset {
    /// The position of the first row that is in no commit yet.
    pub next: u64,
    /// The last arrival among the rows before.
    pub last_arrival: Timestamp,
    /// The definitions that judge the rows from `next` on.
    pub digest: DefinitionDigest,
}

impl Offset {
    /// The value in the map.
    pub fn to_bytes(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(LEN);
        bytes.push(OFFSET_FORMAT);
        bytes.extend_from_slice(&self.next.to_be_bytes());
        bytes.extend_from_slice(&self.last_arrival.0.to_be_bytes());
        bytes.extend_from_slice(&self.digest.0);
        bytes.into()
    }

    /// Reads a value of the map.
    ///
    /// # Errors
    /// [`Error::Malformed`] for bytes of another length or version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let malformed = |reason: String| Error::Malformed { what: "offset", reason };
        match bytes.first() {
            Some(&OFFSET_FORMAT) => {}
            version => return Err(malformed(format!("format version {version:?} is not known to this version, which reads {OFFSET_FORMAT}"))),
        }
        let bytes: &[u8; LEN] = bytes.try_into().map_err(|_| malformed(format!("{} bytes where {LEN} are needed", bytes.len())))?;
        let word = |at: usize| bytes[at..].first_chunk::<8>().map_or(0, |word| u64::from_be_bytes(*word));
        let mut digest = [0; 32];
        digest.copy_from_slice(&bytes[17..]);
        Ok(Self { next: word(1), last_arrival: Timestamp(word(9) as i64), digest: DefinitionDigest(digest) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn offset() -> Offset {
        Offset { next: 258, last_arrival: Timestamp(-1), digest: DefinitionDigest([7; 32]) }
    }

    #[test]
    fn key_and_value_are_as_recorded() {
        let key = OffsetKey { branch: BranchId(1), pipeline: "push".to_owned(), source: SourceId::new(3).unwrap() };
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let recorded = format!("{}\n{}\n", hex(key.to_key().unwrap().as_bytes()), hex(&offset().to_bytes()));
        assert_eq!(recorded, include_str!("../tests/golden/offset-1.txt"));
        assert_eq!(OffsetKey::from_key(&key.to_key().unwrap()).unwrap(), key);
        assert!(key.to_key().unwrap().starts_with(&OffsetKey::of_branch(BranchId(1)).unwrap()));
    }

    proptest! {
        #[test]
        fn offsets_round_trip(next: u64, arrival: i64, digest: [u8; 32]) {
            let offset = Offset { next, last_arrival: Timestamp(arrival), digest: DefinitionDigest(digest) };
            prop_assert_eq!(Offset::from_bytes(&offset.to_bytes()).unwrap(), offset);
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Offset::from_bytes(&bytes);
        }
    }
}
