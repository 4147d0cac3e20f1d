//! Keys of the versioned map: a kind and length-prefixed parts, so that a part may hold any byte.
//!
//! ```text
//! 0      1             3            3+n
//! +------+-------------+------------+-------------+----
//! | kind | len n (u16) | n bytes    | len m (u16) | …
//! +------+-------------+------------+-------------+----
//! ```
//!
//! Lengths are big-endian. Keys are ordered by their bytes, so that the keys of one kind, or of one kind and the same leading parts, lie together:
//! [`Key::prefix`] finds them, and a whole part never matches the beginning of a longer one. Parts of the *same length* order by their bytes; parts of
//! unlike length order by length. Numbers that must scan in order are therefore given as big-endian bytes of a fixed width.
//!
//! Refused: a part over 65,535 bytes, a key over [`MAX_KEY_BYTES`], an unknown kind, bytes that do not decode to whole parts.

use std::fmt;

use bytes::Bytes;

use crate::{Error, Result};

/// The longest key in bytes; an inner node of the tree holds several, so it must stay well under a node.
pub const MAX_KEY_BYTES: usize = 4096;

/// What an entry of the map is; the numbers are persisted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum KeyKind {
    /// A table: namespace, name.
    Table = 1,
    /// A snapshot of a table: table uuid, snapshot id.
    Snapshot = 2,
    /// A definition: kind, name.
    Feature = 3,
    /// A stream position: branch id, pipeline, source id.
    Offset = 4,
    /// The result of a check: check version, hash of what it read.
    Evidence = 5,
    /// Any file: path.
    Object = 6,
}

impl KeyKind {
    /// Every kind, in key order.
    pub const ALL: [Self; 6] = [Self::Table, Self::Snapshot, Self::Feature, Self::Offset, Self::Evidence, Self::Object];

    /// The name as people read it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Snapshot => "snapshot",
            Self::Feature => "feature",
            Self::Offset => "offset",
            Self::Evidence => "evidence",
            Self::Object => "object",
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// A key, or the beginning of keys that [`Key::prefix`] makes. Ordered by its bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Bytes);

impl Key {
    /// A key of these parts.
    ///
    /// # Errors
    /// Refuses a key over [`MAX_KEY_BYTES`].
    pub fn new(kind: KeyKind, parts: &[&[u8]]) -> Result<Self> {
        let len = 1 + parts.iter().map(|part| 2 + part.len()).sum::<usize>();
        if len > MAX_KEY_BYTES {
            return Err(Error::invalid("key", format!("its {len} bytes are over {MAX_KEY_BYTES}: shorten a name")));
        }
        let mut bytes = Vec::with_capacity(len);
        bytes.push(kind as u8);
        for part in parts {
            bytes.extend_from_slice(&(part.len() as u16).to_be_bytes());
            bytes.extend_from_slice(part);
        }
        Ok(Self(bytes.into()))
    }

    /// What all keys of this kind with these leading parts begin with. With all the parts of a key it is that key.
    ///
    /// # Errors
    /// As [`Key::new`].
    pub fn prefix(kind: KeyKind, parts: &[&[u8]]) -> Result<Self> {
        Self::new(kind, parts)
    }

    /// The key in these bytes.
    ///
    /// # Errors
    /// Refuses bytes that are not a known kind and whole parts.
    pub fn decode(bytes: Bytes) -> Result<Self> {
        let malformed = |reason: &str| Error::invalid("key", reason);
        if bytes.len() > MAX_KEY_BYTES {
            return Err(malformed("too long"));
        }
        let kind = bytes.first().ok_or_else(|| malformed("empty"))?;
        KeyKind::from_byte(*kind).ok_or_else(|| malformed("unknown kind"))?;
        let mut rest = &bytes[1..];
        while !rest.is_empty() {
            let (_, after) = split_part(rest).ok_or_else(|| malformed("a part is cut short"))?;
            rest = after;
        }
        Ok(Self(bytes))
    }

    /// The kind.
    pub fn kind(&self) -> KeyKind {
        self.0.first().copied().and_then(KeyKind::from_byte).expect("a key begins with a known kind")
    }

    /// The parts in order.
    pub fn parts(&self) -> Vec<&[u8]> {
        let (mut parts, mut rest) = (Vec::new(), self.0.get(1..).unwrap_or_default());
        while let Some((part, after)) = split_part(rest) {
            parts.push(part);
            rest = after;
        }
        parts
    }

    /// One part, counted from 0.
    pub fn part(&self, index: usize) -> Option<&[u8]> {
        self.parts().get(index).copied()
    }

    /// Whether this key begins with all of `prefix`.
    pub fn starts_with(&self, prefix: &Self) -> bool {
        self.0.starts_with(&prefix.0)
    }

    /// The encoded bytes.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// A key that a verified node holds.
    pub(crate) fn stored(bytes: Bytes) -> Result<Self> {
        Self::decode(bytes).map_err(|error| Error::corrupt("the tree", error.to_string()))
    }
}

fn split_part(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let len = u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?);
    bytes.get(2..)?.split_at_checked(usize::from(len))
}

/// The smallest bytes behind everything that begins with `prefix`.
pub(crate) fn successor(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut bytes = prefix[..=last].to_vec();
    bytes[last] += 1;
    Some(bytes.into())
}

/// Shown as `table/"ns"/"name"`; a part that is no text is shown in hex.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind().name())?;
        for part in self.parts() {
            match std::str::from_utf8(part) {
                Ok(text) if !text.chars().any(char::is_control) => write!(f, "/{text:?}")?,
                _ => {
                    f.write_str("/0x")?;
                    part.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts() -> impl Strategy<Value = Vec<Vec<u8>>> {
        proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..6), 0..4)
    }

    fn key(kind: KeyKind, parts: &[Vec<u8>]) -> Key {
        Key::new(kind, &parts.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap()
    }

    proptest! {
        #[test]
        fn parts_come_back_and_prefixes_match_exactly_the_leading_parts(a in parts(), b in parts(), k in 0..6usize, l in 0..6usize) {
            let (left, right) = (key(KeyKind::ALL[k], &a), key(KeyKind::ALL[l], &b));
            prop_assert_eq!(left.parts(), a.iter().map(Vec::as_slice).collect::<Vec<_>>());
            prop_assert_eq!(left.kind(), KeyKind::ALL[k]);
            prop_assert_eq!(&Key::decode(left.as_bytes().clone()).unwrap(), &left);
            prop_assert_eq!(right.starts_with(&left), k == l && b.starts_with(&a));
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..32)) {
            if let Ok(key) = Key::decode(bytes.clone().into()) {
                let parts = key.parts();
                prop_assert_eq!(Key::new(key.kind(), &parts).unwrap().as_bytes().to_vec(), bytes);
            }
        }
    }

    #[test]
    fn a_key_that_is_too_long_is_refused() {
        assert!(Key::new(KeyKind::Object, &[&[b'x'; MAX_KEY_BYTES - 3]]).is_ok());
        assert!(Key::new(KeyKind::Object, &[&[b'x'; MAX_KEY_BYTES - 2]]).is_err());
    }

    #[test]
    fn key_bytes_are_the_golden_ones() {
        let golden = include_bytes!("../tests/golden/key.v1");
        let key = key(KeyKind::Offset, &[7u64.to_be_bytes().to_vec(), b"flights".to_vec(), Vec::new(), vec![b'x'; 300]]);
        assert_eq!(key.as_bytes(), &golden[..]);
        assert_eq!(Key::decode(Bytes::from_static(golden)).unwrap(), key);
    }

    #[test]
    fn a_key_is_shown_readably() {
        assert_eq!(key(KeyKind::Table, &[b"ns".to_vec(), vec![0, 255]]).to_string(), r#"table/"ns"/0x00ff"#);
    }
}
