//! Where nodes end.
//!
//! A node ends behind an item with a chance that grows with the size of the node so far, decided by the hash of the item's key: with `start` and `end` the
//! bytes of the node's items before and with this one, and `h` the first 4 bytes (big-endian) of BLAKE3(level byte, key),
//!
//! ```text
//! h / 2^32  <  (end^4 - start^4) / SCALE_BYTES^4
//! ```
//!
//! in integers, so that every machine cuts alike. The right side is the hazard of a Weibull distribution of shape 4, which concentrates sizes: the mean is
//! 0.906 × `SCALE_BYTES` (16.3 KiB), half lie between 13 and 20 KiB, one in 10⁷ exceeds twice the scale. Value sizes move boundaries, value contents do
//! not. The level is hashed too, because keys that end a node were chosen for their low hashes and would end the nodes above too early. (Dolt's key
//! splitter does the same in floating point.) An inner node never ends behind its first item, so that levels shrink whatever the size of keys.
//!
//! These rules are part of the format: other constants would give the same content another root. `tests/golden/chunks.v1` holds them.

use std::ops::Range;

use bytes::Bytes;

use crate::NodeHash;
use crate::tree::node::{Child, Node, NodeBuilder, Payload};

/// Scale of the distribution of node sizes.
pub(crate) const SCALE_BYTES: u128 = 18 << 10;

/// Cuts one level's sequence of items into nodes.
#[derive(Debug)]
pub(crate) struct Chunker {
    level: u8,
    node: NodeBuilder,
}

/// A node just cut.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) hash: NodeHash,
    pub(crate) node: Node,
}

impl Chunk {
    /// The key of its last item; a chunk has at least one.
    pub(crate) fn last_key(&self) -> Bytes {
        self.node.last_key().map(|key| self.node.bytes().slice_ref(key)).unwrap_or_default()
    }

    /// What the level above files it under.
    pub(crate) fn as_child(&self) -> Payload {
        Payload::Child(Child { hash: self.hash, entries: self.node.entries() })
    }
}

impl Chunker {
    pub(crate) fn new(level: u8) -> Self {
        Self { level, node: NodeBuilder::new(level) }
    }

    /// Whether the next item begins a node.
    pub(crate) fn is_at_boundary(&self) -> bool {
        self.node.is_empty()
    }

    /// Adds an item; answers the node that ends with it.
    pub(crate) fn push(&mut self, key: &[u8], payload: &Payload) -> Option<Chunk> {
        let start = self.node.item_bytes();
        self.node.push(key, payload);
        self.end(key, start)
    }

    /// Adds items of a node that was cut by the same rules; nodes that end go to `chunks`.
    ///
    /// An item that comes to lie as far from the start of its node as it lay before ends the new node only if it ended the old one: such items are copied
    /// together, and none but the last is asked.
    pub(crate) fn copy(&mut self, node: &Node, items: Range<usize>, chunks: &mut Vec<Chunk>) {
        let mut index = items.start;
        while index < items.end {
            let start = self.node.item_bytes();
            let together = if start == node.item_start(index) { items.end.min(node.len() - 1) } else { index };
            if together > index {
                self.node.copy(node, index..together);
                index = together;
            } else {
                self.node.copy(node, index..index + 1);
                chunks.extend(self.end(node.key(index), start));
                index += 1;
            }
        }
    }

    /// The last node, which ends because the sequence does.
    pub(crate) fn finish(mut self) -> Option<Chunk> {
        (!self.is_at_boundary()).then(|| self.cut())
    }

    /// Cuts if the item just added, which began at `start`, ends its node.
    fn end(&mut self, key: &[u8], start: usize) -> Option<Chunk> {
        let first_of_inner = self.level > 0 && start == 0;
        (!first_of_inner && ends_node(self.level, key, start, self.node.item_bytes())).then(|| self.cut())
    }

    fn cut(&mut self) -> Chunk {
        let (hash, node) = self.node.finish();
        Chunk { hash, node }
    }
}

fn ends_node(level: u8, key: &[u8], start: usize, end: usize) -> bool {
    let [a, b, c, d, ..] = *key_hash(level, key).as_bytes();
    let hash = u128::from(u32::from_be_bytes([a, b, c, d]));
    // A node is below 2^22 bytes, so that the fourth power shifted by 32 stays below 2^120.
    let hazard = (end as u128).pow(4) - (start as u128).pow(4);
    hash * SCALE_BYTES.pow(4) < hazard << 32
}

fn key_hash(level: u8, key: &[u8]) -> blake3::Hash {
    // One call over few bytes costs half of what a hasher does.
    let mut short = [level; 128];
    match short.get_mut(1..=key.len()) {
        Some(rest) => {
            rest.copy_from_slice(key);
            blake3::hash(&short[..=key.len()])
        }
        None => blake3::Hasher::new().update(&[level]).update(key).finalize(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Key, KeyKind};

    /// Sizes of the nodes of 20,000 entries at a level.
    fn sizes(level: u8) -> Vec<usize> {
        let mut chunker = Chunker::new(level);
        let value = match level {
            0 => Payload::Value(Bytes::from_static(&[7; 48])),
            _ => Payload::Child(Child { hash: NodeHash::of(b"child"), entries: 1 }),
        };
        let keys = (0..20_000u32).map(|n| Key::new(KeyKind::Object, &[b"golden", &n.to_be_bytes()]).unwrap());
        let mut sizes: Vec<_> = keys.filter_map(|key| chunker.push(key.as_bytes(), &value)).map(|chunk| chunk.node.bytes().len()).collect();
        sizes.extend(chunker.finish().map(|chunk| chunk.node.bytes().len()));
        sizes
    }

    #[test]
    fn nodes_end_where_the_golden_ones_do() {
        let lines = (0..2).map(|level| format!("level {level}: {:?}\n", sizes(level))).collect::<String>();
        assert_eq!(lines, include_str!("../../tests/golden/chunks.v1"));
    }

    #[test]
    fn node_sizes_are_concentrated_around_sixteen_kib() {
        let sizes = sizes(0);
        let mean = sizes.iter().sum::<usize>() / sizes.len();
        assert!((14_000..19_000).contains(&mean), "{mean}");
        let within = sizes.iter().filter(|size| (8_000..26_000).contains(*size)).count();
        assert!(within * 10 > sizes.len() * 8, "{within} of {}", sizes.len());
    }

    #[test]
    fn a_huge_value_ends_its_node_and_huge_keys_leave_two_in_an_inner_one() {
        let value = Payload::Value(Bytes::from(vec![0; 1 << 20]));
        assert!(Chunker::new(0).push(b"k", &value).is_some());
        let mut inner = Chunker::new(1);
        let child = Payload::Child(Child { hash: NodeHash::of(b""), entries: 1 });
        assert!(inner.push(&vec![0; 60_000], &child).is_none());
        assert!(inner.push(&vec![1; 60_000], &child).is_some());
    }
}
