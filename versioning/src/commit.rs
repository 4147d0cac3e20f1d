//! Commits and their canonical bytes, whose BLAKE3 hash names them.
//!
//! ```text
//! 0     1         2      34       35             35+32p    43+32p
//! +-----+---------+------+--------+--------------+---------+--------+-----------+-----------+---------------+
//! | 'C' | version | root | p (u8) | p parent ids | height  | time   | author    | message   | metadata      |
//! |     | = 1     | 32 B |        | 32 B each    | u64 BE  | i64 BE | u32 BE, B | u32 BE, B | n u32 BE, n × |
//! +-----+---------+------+--------+--------------+---------+--------+-----------+-----------+---------------+
//! ```
//!
//! A metadata pair is key and value, each a `u32` length and UTF-8 bytes, in strictly ascending order of keys. `height` is one more than the largest of
//! the parents', 0 without a parent: an ancestor is always lower, which bounds every walk. `time` is what the clock said, in microseconds; it may run
//! backwards and nothing depends on it.
//!
//! Refused: other versions, more than 8 parents, over [`MAX_COMMIT_BYTES`], bytes left over.

use std::collections::BTreeMap;

use anabranch_core::Timestamp;

use crate::codec::Reader;
use crate::{CommitId, Error, Result, Root};

/// The most bytes that a commit may take: author, message and metadata are words, not data.
pub const MAX_COMMIT_BYTES: usize = 1 << 20;

const TAG: u8 = b'C';
const VERSION: u8 = 1;
const MAX_PARENTS: usize = 8;

/// One version of the map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The content.
    pub root: Root,
    /// What it was made from; none for the first.
    pub parents: Vec<CommitId>,
    /// One more than the largest of the parents'.
    pub height: u64,
    /// Who made it.
    pub author: String,
    /// Why.
    pub message: String,
    /// What the clock said.
    pub time: Timestamp,
    /// Words for programs.
    pub metadata: BTreeMap<String, String>,
}

impl Commit {
    /// The canonical bytes.
    ///
    /// # Errors
    /// Refuses more than 8 parents and more than [`MAX_COMMIT_BYTES`].
    pub fn encode(&self) -> Result<Vec<u8>> {
        if self.parents.len() > MAX_PARENTS {
            return Err(Error::invalid("commit", format!("{} parents are over {MAX_PARENTS}", self.parents.len())));
        }
        let words = self.metadata.iter().map(|(key, value)| key.len() + value.len() + 8).sum::<usize>() + self.author.len() + self.message.len();
        if words > MAX_COMMIT_BYTES - 512 {
            return Err(Error::invalid("commit", format!("{words} bytes of message and metadata are over 1 MiB: put data into the map")));
        }
        let mut bytes = vec![TAG, VERSION];
        bytes.extend_from_slice(self.root.as_bytes());
        bytes.push(self.parents.len() as u8);
        self.parents.iter().for_each(|parent| bytes.extend_from_slice(parent.as_bytes()));
        bytes.extend_from_slice(&self.height.to_be_bytes());
        bytes.extend_from_slice(&self.time.micros().to_be_bytes());
        let mut text = |text: &str| {
            bytes.extend_from_slice(&(text.len() as u32).to_be_bytes());
            bytes.extend_from_slice(text.as_bytes());
        };
        text(&self.author);
        text(&self.message);
        bytes.extend_from_slice(&(self.metadata.len() as u32).to_be_bytes());
        for word in self.metadata.iter().flat_map(|(key, value)| [key, value]) {
            bytes.extend_from_slice(&(word.len() as u32).to_be_bytes());
            bytes.extend_from_slice(word.as_bytes());
        }
        Ok(bytes)
    }

    /// Reads canonical bytes.
    ///
    /// # Errors
    /// Refuses everything that [`Commit::encode`] does not write.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > MAX_COMMIT_BYTES {
            return Err(Error::invalid("commit", "longer than 1 MiB"));
        }
        let mut reader = Reader::new("commit", bytes);
        reader.tag(TAG, VERSION)?;
        let root = Root::from_slice(reader.take(32)?)?;
        let count = usize::from(reader.u8()?);
        if count > MAX_PARENTS {
            return Err(reader.malformed("too many parents"));
        }
        let parents = (0..count).map(|_| CommitId::from_slice(reader.take(32)?)).collect::<Result<_>>()?;
        let height = reader.u64()?;
        let time = Timestamp(reader.u64()? as i64);
        let (author, message) = (text(&mut reader)?, text(&mut reader)?);
        let mut metadata = BTreeMap::new();
        for _ in 0..reader.u32()? {
            let (key, value) = (text(&mut reader)?, text(&mut reader)?);
            if metadata.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return Err(reader.malformed("metadata out of order"));
            }
            metadata.insert(key, value);
        }
        reader.end()?;
        Ok(Self { root, parents, height, author, message, time, metadata })
    }
}

fn text(reader: &mut Reader<'_>) -> Result<String> {
    let len = reader.u32()? as usize;
    let bytes = reader.take(len)?;
    String::from_utf8(bytes.to_vec()).map_err(|_| reader.malformed("a text is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit() -> Commit {
        Commit {
            root: Root::of(b"root"),
            parents: vec![CommitId::of(b"parent")],
            height: 7,
            author: "ada".to_owned(),
            message: "add flights".to_owned(),
            time: Timestamp(-5),
            metadata: BTreeMap::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), String::new())]),
        }
    }

    #[test]
    fn commit_bytes_are_the_golden_ones() {
        let golden = include_bytes!("../tests/golden/commit.v1");
        assert_eq!(commit().encode().unwrap(), golden);
        assert_eq!(Commit::decode(golden).unwrap(), commit());
        assert_eq!(CommitId::of(golden).to_string(), include_str!("../tests/golden/commit.v1.id").trim());
    }

    #[test]
    fn cut_changed_or_longer_bytes_are_refused_or_differ() {
        let bytes = commit().encode().unwrap();
        for len in 0..bytes.len() {
            assert!(Commit::decode(&bytes[..len]).is_err());
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(Commit::decode(&longer).is_err());
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(Commit::decode(&changed).map_or(true, |other| other != commit()));
        }
    }

    #[test]
    fn a_commit_that_is_too_long_is_refused() {
        assert!(Commit { message: "x".repeat(MAX_COMMIT_BYTES), ..commit() }.encode().is_err());
    }
}
