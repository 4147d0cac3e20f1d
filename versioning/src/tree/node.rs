//! Nodes and their canonical bytes, whose BLAKE3 hash names them.
//!
//! ```text
//! 0     1         2       3              7
//! +-----+---------+-------+--------------+-------+-------+----
//! | 'N' | version | level | count (u32)  | item  | item  | …
//! |     | = 1     | (u8)  | big-endian   |       |       |
//! +-----+---------+-------+--------------+-------+-------+----
//!
//! level 0:   key length (u16) | key | value length (u32) | value
//! level > 0: last key length (u16) | last key of the child | hash of the child (32 B) | entries beneath the child (u64)
//! ```
//!
//! Keys ascend strictly. Only the empty map's root has no items. Refused: anything else, also a node over [`MAX_NODE_BYTES`].

use std::ops::Range;

use bytes::{BufMut, Bytes};

use crate::codec::Reader;
use crate::{Error, MAX_KEY_BYTES, MAX_VALUE_BYTES, NodeHash, Result};

/// No node is longer: a full one is some tens of KiB, to which one item of the largest value may come.
pub(crate) const MAX_NODE_BYTES: usize = 4 << 20;

const TAG: u8 = b'N';
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 7;

/// A verified node. Keys and values are slices of its bytes.
#[derive(Debug)]
pub(crate) struct Node {
    bytes: Bytes,
    level: u8,
    /// Where each item begins.
    offsets: Vec<u32>,
}

/// What an inner node knows of a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Child {
    pub(crate) hash: NodeHash,
    /// Entries in all leaves beneath.
    pub(crate) entries: u64,
}

/// What lies behind a key: a value in a leaf, a child above.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Payload {
    Value(Bytes),
    Child(Child),
}

impl Node {
    pub(crate) fn decode(bytes: Bytes) -> Result<Self> {
        let mut reader = Reader::new("node", &bytes);
        if bytes.len() > MAX_NODE_BYTES {
            return Err(reader.malformed("too long"));
        }
        reader.tag(TAG, VERSION)?;
        let level = reader.u8()?;
        let count = reader.u32()? as usize;
        if count == 0 && level > 0 {
            return Err(reader.malformed("an inner node without children"));
        }
        let mut offsets = Vec::with_capacity(count.min(bytes.len() / 6));
        let mut last: Option<&[u8]> = None;
        for _ in 0..count {
            offsets.push(reader.position() as u32);
            let len = reader.u16()?;
            let key = reader.take(usize::from(len))?;
            if last.is_some_and(|last| last >= key) || key.len() > MAX_KEY_BYTES {
                return Err(reader.malformed("a key is out of order or too long"));
            }
            last = Some(key);
            let payload = if level == 0 { reader.u32()? as usize } else { 40 };
            reader.take(payload)?;
        }
        reader.end()?;
        Ok(Self { bytes, level, offsets })
    }

    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub(crate) fn level(&self) -> u8 {
        self.level
    }

    pub(crate) fn is_leaf(&self) -> bool {
        self.level == 0
    }

    pub(crate) fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Bytes that the node takes in memory.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.bytes.len() + self.offsets.len() * 4 + 128
    }

    pub(crate) fn key(&self, index: usize) -> &[u8] {
        let at = self.offsets[index] as usize;
        let len = usize::from(u16::from_be_bytes([self.bytes[at], self.bytes[at + 1]]));
        &self.bytes[at + 2..at + 2 + len]
    }

    pub(crate) fn key_bytes(&self, index: usize) -> Bytes {
        self.bytes.slice_ref(self.key(index))
    }

    pub(crate) fn last_key(&self) -> Option<&[u8]> {
        self.len().checked_sub(1).map(|last| self.key(last))
    }

    /// The value of an entry of a leaf.
    pub(crate) fn value(&self, index: usize) -> Bytes {
        self.bytes.slice(self.payload_start(index) + 4..self.item_end(index))
    }

    /// The child of an inner node.
    pub(crate) fn child(&self, index: usize) -> Child {
        let at = self.payload_start(index);
        let (mut hash, mut entries) = ([0; 32], [0; 8]);
        hash.copy_from_slice(&self.bytes[at..at + 32]);
        entries.copy_from_slice(&self.bytes[at + 32..at + 40]);
        Child { hash: NodeHash(hash), entries: u64::from_be_bytes(entries) }
    }

    pub(crate) fn payload(&self, index: usize) -> Payload {
        if self.is_leaf() { Payload::Value(self.value(index)) } else { Payload::Child(self.child(index)) }
    }

    /// The first item whose key is not less than `key`; `len()` if there is none.
    pub(crate) fn lower_bound(&self, key: &[u8]) -> usize {
        self.partition(|candidate| candidate < key)
    }

    /// The first item whose key does not satisfy `before`, which all keys up to some point do.
    pub(crate) fn partition(&self, before: impl Fn(&[u8]) -> bool) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            if before(self.key(middle)) { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// Entries in all leaves beneath.
    pub(crate) fn entries(&self) -> u64 {
        if self.is_leaf() { self.len() as u64 } else { (0..self.len()).map(|index| self.child(index).entries).fold(0, u64::saturating_add) }
    }

    /// The bytes of an item.
    pub(crate) fn item(&self, index: usize) -> &[u8] {
        &self.bytes[self.offsets[index] as usize..self.item_end(index)]
    }

    /// Where an item begins, counted from the first item.
    pub(crate) fn item_start(&self, index: usize) -> usize {
        self.offsets[index] as usize - HEADER_BYTES
    }

    fn payload_start(&self, index: usize) -> usize {
        self.offsets[index] as usize + 2 + self.key(index).len()
    }

    fn item_end(&self, index: usize) -> usize {
        self.offsets.get(index + 1).map_or(self.bytes.len(), |next| *next as usize)
    }
}

/// Writes nodes of one level, one after the other; keys come in ascending order.
#[derive(Debug)]
pub(crate) struct NodeBuilder {
    bytes: Vec<u8>,
    level: u8,
    offsets: Vec<u32>,
}

impl NodeBuilder {
    pub(crate) fn new(level: u8) -> Self {
        Self { bytes: vec![TAG, VERSION, level, 0, 0, 0, 0], level, offsets: Vec::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// Bytes of the items so far.
    pub(crate) fn item_bytes(&self) -> usize {
        self.bytes.len() - HEADER_BYTES
    }

    pub(crate) fn push(&mut self, key: &[u8], payload: &Payload) {
        self.offsets.push(self.bytes.len() as u32);
        self.bytes.put_u16(key.len() as u16);
        self.bytes.put_slice(key);
        match payload {
            Payload::Value(value) => {
                self.bytes.put_u32(value.len() as u32);
                self.bytes.put_slice(value);
            }
            Payload::Child(child) => {
                self.bytes.put_slice(child.hash.as_bytes());
                self.bytes.put_u64(child.entries);
            }
        }
    }

    /// Adds items of another node of the level, as they stand there.
    pub(crate) fn copy(&mut self, node: &Node, items: Range<usize>) {
        if items.is_empty() {
            return;
        }
        let (start, end) = (node.offsets[items.start], node.item_end(items.end - 1));
        let at = self.bytes.len() as u32;
        self.offsets.extend(node.offsets[items].iter().map(|offset| offset - start + at));
        self.bytes.extend_from_slice(&node.bytes[start as usize..end]);
    }

    /// The node of the items so far; what comes next begins another. A node's bytes are copied out, so that it takes no more memory than it needs.
    pub(crate) fn finish(&mut self) -> (NodeHash, Node) {
        let count = self.offsets.len() as u32;
        self.bytes[3..HEADER_BYTES].copy_from_slice(&count.to_be_bytes());
        let node = Node { bytes: Bytes::copy_from_slice(&self.bytes), level: self.level, offsets: self.offsets.clone() };
        self.bytes.truncate(HEADER_BYTES);
        self.offsets.clear();
        (NodeHash::of(&node.bytes), node)
    }
}

/// Refuses what a node could not hold.
pub(crate) fn check_entry(key: &crate::Key, value: &Bytes) -> Result<()> {
    if value.len() > MAX_VALUE_BYTES {
        return Err(Error::invalid("value", format!("{} bytes at {key} are over {MAX_VALUE_BYTES}: put them into a blob", value.len())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn leaf() -> (NodeHash, Node) {
        let mut builder = NodeBuilder::new(0);
        builder.push(b"\x01\x00\x01a", &Payload::Value(Bytes::from_static(b"one")));
        builder.push(b"\x01\x00\x01b", &Payload::Value(Bytes::new()));
        builder.finish()
    }

    fn inner() -> (NodeHash, Node) {
        let mut builder = NodeBuilder::new(1);
        builder.push(b"\x01\x00\x01b", &Payload::Child(Child { hash: leaf().0, entries: 2 }));
        builder.push(b"\x02", &Payload::Child(Child { hash: NodeHash::of(b"x"), entries: 3 }));
        builder.finish()
    }

    #[test]
    fn node_bytes_are_the_golden_ones() {
        let golden = [
            (leaf(), &include_bytes!("../../tests/golden/leaf.v1")[..], include_str!("../../tests/golden/leaf.v1.hash")),
            (inner(), &include_bytes!("../../tests/golden/inner.v1")[..], include_str!("../../tests/golden/inner.v1.hash")),
            (NodeBuilder::new(0).finish(), &include_bytes!("../../tests/golden/empty.v1")[..], include_str!("../../tests/golden/empty.v1.hash")),
        ];
        for ((hash, node), bytes, name) in golden {
            assert_eq!(node.bytes(), bytes);
            assert_eq!(hash.to_string(), name.trim());
            let read = Node::decode(Bytes::from_static(bytes)).unwrap();
            assert_eq!((read.level, &read.offsets), (node.level, &node.offsets));
        }
    }

    #[test]
    fn items_come_back() {
        let (_, node) = leaf();
        assert_eq!((node.key(1), node.value(0), node.value(1)), (&b"\x01\x00\x01b"[..], Bytes::from_static(b"one"), Bytes::new()));
        let (_, node) = inner();
        assert_eq!((node.child(1).entries, node.entries()), (3, 5));
    }

    proptest! {
        #[test]
        fn changed_bytes_are_refused_or_read_without_panic(at in 0..100usize, bit in 0..8u8, len in 0..100usize) {
            for (_, node) in [leaf(), inner()] {
                let mut bytes = node.bytes().to_vec();
                let last = bytes.len() - 1;
                bytes[at.min(last)] ^= 1 << bit;
                if let Ok(node) = Node::decode(bytes.clone().into()) {
                    (0..node.len()).for_each(|index| drop(node.payload(index)));
                }
                bytes.truncate(len.min(last));
                prop_assert!(Node::decode(bytes.into()).is_err());
            }
        }
    }
}
