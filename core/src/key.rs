//! The canonical encoding of an entity key.
//!
//! The parts of a key stand in the order of their join keys' names, each behind a tag. The bytes order as the parts do, no key is a prefix of
//! another, and equal keys have equal bytes whatever the width of their integers.
//!
//! ```text
//! integer    01 | 8 bytes big-endian, sign bit flipped            (i32 and i64 are one key space)
//! string     02 | UTF-8, 00 written as 00 FF | 00 00
//! bytes      03 | bytes, 00 written as 00 FF | 00 00
//! bool       04 | 00 or 01
//! timestamp  05 | 8 bytes big-endian, sign bit flipped
//! ```
//!
//! A key with a null part is no key: it matches nothing.

use std::fmt;

use bytes::Bytes;

use crate::{Error, Timestamp, Value};

const INTEGER: u8 = 1;
const STRING: u8 = 2;
const BYTES: u8 = 3;
const BOOL: u8 = 4;
const TIMESTAMP: u8 = 5;

/// The canonical bytes of an entity key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntityKey(Bytes);

impl EntityKey {
    /// Encodes parts that stand in the order of their join keys' names; `None` where one is null.
    ///
    /// # Errors
    /// [`Error::Type`] where a part is of a type that no join key has.
    pub fn encode(parts: &[Value]) -> Result<Option<Self>, Error> {
        let mut writer = KeyWriter::default();
        for part in parts {
            match part {
                Value::Null => return Ok(None),
                Value::I32(i) => writer.integer(i64::from(*i)),
                Value::I64(i) => writer.integer(*i),
                Value::String(s) => writer.string(s),
                Value::Bytes(b) => writer.bytes(b),
                Value::Bool(b) => writer.bool(*b),
                Value::Timestamp(t) => writer.timestamp(*t),
                Value::F32(_) | Value::F64(_) | Value::List(_) | Value::Vector(_) => {
                    return Err(Error::Type {
                        expected: "a key (integer, string, bytes, bool or timestamp)".to_owned(),
                        found: part.to_json().to_string(),
                    });
                }
            }
        }
        Ok(Some(writer.finish()))
    }

    /// The parts; integers come back as `i64`.
    ///
    /// # Errors
    /// [`Error::Malformed`] where the bytes are not of this encoding.
    pub fn parts(&self) -> Result<Vec<Value>, Error> {
        let mut rest = &self.0[..];
        let mut parts = Vec::new();
        while let Some((tag, after)) = rest.split_first() {
            let (part, after) = match *tag {
                INTEGER => word(after).map(|(i, rest)| (Value::I64(i), rest))?,
                TIMESTAMP => word(after).map(|(i, rest)| (Value::Timestamp(Timestamp(i)), rest))?,
                BOOL => match after.split_first() {
                    Some((b @ (0 | 1), rest)) => (Value::Bool(*b == 1), rest),
                    _ => return Err(malformed("a bool is neither 0 nor 1")),
                },
                STRING => {
                    let (bytes, rest) = unescape(after)?;
                    (Value::String(String::from_utf8(bytes).map_err(|_| malformed("a string is not UTF-8"))?), rest)
                }
                BYTES => unescape(after).map(|(bytes, rest)| (Value::Bytes(bytes), rest))?,
                _ => return Err(malformed("an unknown tag")),
            };
            parts.push(part);
            rest = after;
        }
        Ok(parts)
    }

    /// Takes bytes that [`EntityKey::as_bytes`] gave.
    ///
    /// # Errors
    /// [`Error::Malformed`] where the bytes are not of this encoding.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, Error> {
        let key = Self(bytes);
        key.parts()?;
        Ok(key)
    }

    /// The canonical bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for EntityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EntityKey({self})")
    }
}

impl fmt::Display for EntityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.parts() {
            Ok(parts) => {
                let parts: Vec<_> = parts.iter().map(|part| part.to_json().to_string()).collect();
                f.write_str(&parts.join(","))
            }
            Err(_) => f.write_str("malformed"),
        }
    }
}

/// Writes the parts of a key one after the other; for loops over columns that would rather not make a [`Value`] of each cell.
#[derive(Debug, Default)]
pub struct KeyWriter(Vec<u8>);

impl KeyWriter {
    /// Adds an integer of any width.
    pub fn integer(&mut self, i: i64) {
        self.0.push(INTEGER);
        self.word(i);
    }

    /// Adds a string.
    pub fn string(&mut self, s: &str) {
        self.0.push(STRING);
        self.escaped(s.as_bytes());
    }

    /// Adds bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.0.push(BYTES);
        self.escaped(bytes);
    }

    /// Adds a bool.
    pub fn bool(&mut self, b: bool) {
        self.0.extend([BOOL, u8::from(b)]);
    }

    /// Adds a timestamp.
    pub fn timestamp(&mut self, t: Timestamp) {
        self.0.push(TIMESTAMP);
        self.word(t.0);
    }

    /// Forgets what was written, keeping the buffer.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The bytes so far.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The key.
    pub fn finish(self) -> EntityKey {
        EntityKey(self.0.into())
    }

    /// A copy of the key so far.
    pub fn to_key(&self) -> EntityKey {
        EntityKey(Bytes::copy_from_slice(&self.0))
    }

    fn word(&mut self, i: i64) {
        self.0.extend(((i as u64) ^ (1 << 63)).to_be_bytes());
    }

    fn escaped(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0.push(*byte);
            if *byte == 0 {
                self.0.push(0xFF);
            }
        }
        self.0.extend([0, 0]);
    }
}

fn word(bytes: &[u8]) -> Result<(i64, &[u8]), Error> {
    let (word, rest) = bytes.split_first_chunk::<8>().ok_or_else(|| malformed("a number is cut short"))?;
    Ok(((u64::from_be_bytes(*word) ^ (1 << 63)) as i64, rest))
}

fn unescape(bytes: &[u8]) -> Result<(Vec<u8>, &[u8]), Error> {
    let mut plain = Vec::new();
    let mut at = 0;
    loop {
        match (bytes.get(at), bytes.get(at + 1)) {
            (Some(0), Some(0)) => return Ok((plain, &bytes[at + 2..])),
            (Some(0), Some(0xFF)) => {
                plain.push(0);
                at += 2;
            }
            (Some(0), _) | (None, _) => return Err(malformed("a text has no end")),
            (Some(byte), _) => {
                plain.push(*byte);
                at += 1;
            }
        }
    }
}

fn malformed(reason: &str) -> Error {
    Error::Malformed { what: "entity key", reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part() -> impl Strategy<Value = Value> {
        prop_oneof![
            prop_oneof![Just(i64::MIN), Just(-1), Just(0), any::<i64>()].prop_map(Value::I64),
            proptest::collection::vec(prop_oneof![Just('\0'), Just('a'), any::<char>()], 0..4).prop_map(|s| Value::String(s.into_iter().collect())),
            proptest::collection::vec(prop_oneof![Just(0), Just(0xFF), any::<u8>()], 0..4).prop_map(Value::Bytes),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(|t| Value::Timestamp(Timestamp(t))),
        ]
    }

    fn same_kind(a: &Value, b: &Value) -> Option<std::cmp::Ordering> {
        match (a, b) {
            (Value::I64(a), Value::I64(b)) => Some(a.cmp(b)),
            (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
            (Value::Bytes(a), Value::Bytes(b)) => Some(a.cmp(b)),
            (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
            (Value::Timestamp(a), Value::Timestamp(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }

    proptest! {
        #[test]
        fn keys_round_trip(parts in proptest::collection::vec(part(), 1..4)) {
            let key = EntityKey::encode(&parts).unwrap().unwrap();
            prop_assert_eq!(key.parts().unwrap(), parts);
        }

        #[test]
        fn keys_order_as_their_parts(a in part(), b in part(), tail in part()) {
            if let Some(order) = same_kind(&a, &b) {
                let left = EntityKey::encode(&[a, tail.clone()]).unwrap().unwrap();
                let right = EntityKey::encode(&[b, tail]).unwrap().unwrap();
                prop_assert_eq!(left.cmp(&right), order);
            }
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..32)) {
            if let Ok(key) = EntityKey::from_bytes(bytes.clone().into()) {
                let parts = key.parts().unwrap();
                let again = EntityKey::encode(&parts).unwrap().unwrap();
                prop_assert_eq!(again.as_bytes(), &bytes[..]);
            }
        }
    }

    #[test]
    fn integers_of_every_width_are_one_key_and_null_is_none() {
        assert_eq!(EntityKey::encode(&[Value::I32(-5)]).unwrap(), EntityKey::encode(&[Value::I64(-5)]).unwrap());
        assert_eq!(EntityKey::encode(&[Value::I32(1), Value::Null]).unwrap(), None);
        assert!(EntityKey::encode(&[Value::F64(1.0)]).is_err());
    }

    #[test]
    fn bytes_are_as_recorded() {
        let key = EntityKey::encode(&[
            Value::I64(1),
            Value::String("a\0b".into()),
            Value::Bytes(vec![0]),
            Value::Bool(true),
            Value::Timestamp(Timestamp(-1)),
        ]);
        let hex: String = key.unwrap().unwrap().as_bytes().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "018000000000000001026100ff6200000300ff00000401057fffffffffffffff");
    }
}
