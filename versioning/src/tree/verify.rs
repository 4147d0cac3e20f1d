//! Whether a node is one that this tree would have made.
//!
//! A map has one tree only, so what a node may look like follows from its items: running the [`chunker`](super::chunker) over them must give this very node
//! and cut it nowhere but, perhaps, at its end. A node that does not *end* by its own last item ("open") may stand only where its level ends, at the right
//! edge of the tree; and an inner root has at least two children.

use bytes::Bytes;

use super::chunker::Chunker;
use super::node::{Node, Payload};
use crate::{Key, MAX_VALUE_BYTES, NodeHash};

/// What a parent must know of a node to judge its place.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(crate) level: u8,
    /// The first key beneath.
    pub(crate) first: Bytes,
    /// The last key beneath.
    pub(crate) last: Bytes,
    /// Entries in all leaves beneath.
    pub(crate) entries: u64,
    /// How many items the node itself has.
    pub(crate) items: usize,
    /// Whether it and every last node beneath it ends by its own last item.
    pub(crate) closed: bool,
}

/// A child as its parent describes it.
#[derive(Debug, Clone)]
pub(crate) struct ChildRef {
    pub(crate) key: Bytes,
    pub(crate) hash: NodeHash,
    pub(crate) entries: u64,
}

/// The children of an inner node; none of a leaf.
pub(crate) fn children(node: &Node) -> Vec<ChildRef> {
    let items = if node.is_leaf() { 0 } else { node.len() };
    (0..items)
        .map(|index| (node.key_bytes(index), node.child(index)))
        .map(|(key, child)| ChildRef { key, hash: child.hash, entries: child.entries })
        .collect()
}

/// The entries of a leaf; none of an inner node.
pub(crate) fn entries(node: &Node) -> Vec<(Bytes, Bytes)> {
    let items = if node.is_leaf() { node.len() } else { 0 };
    (0..items).map(|index| (node.key_bytes(index), node.value(index))).collect()
}

/// Judges a node by itself; `closed` is that of its own end only, and `entries` are those that it claims.
pub(crate) fn judge_node(hash: &NodeHash, node: &Node) -> Result<Shape, String> {
    let mut chunker = Chunker::new(node.level());
    let mut closed = false;
    for index in 0..node.len() {
        let payload = node.payload(index);
        if let Payload::Value(value) = &payload {
            Key::decode(node.key_bytes(index)).map_err(|error| format!("item {index}: {error}"))?;
            if value.len() > MAX_VALUE_BYTES {
                return Err(format!("item {index} has a value of {} bytes, over {MAX_VALUE_BYTES}", value.len()));
            }
        }
        match chunker.push(node.key(index), &payload) {
            Some(chunk) if index + 1 == node.len() && chunk.hash == *hash => closed = true,
            Some(_) => return Err(format!("it should end behind item {index} of {}", node.len())),
            None => {}
        }
    }
    let key = |index: usize| Bytes::copy_from_slice(node.key(index));
    let (first, last) = if node.len() == 0 { Default::default() } else { (key(0), key(node.len() - 1)) };
    Ok(Shape { level: node.level(), first, last, entries: node.entries(), items: node.len(), closed })
}

/// Judges a child's place among its parent's: `before` is the key of the child before it, `edge` says that it is its parent's last.
pub(crate) fn judge_child(parent_level: u8, described: &ChildRef, child: &Shape, before: Option<&Bytes>, edge: bool) -> Result<(), String> {
    if child.level + 1 != parent_level {
        return Err(format!("it is of level {} below a node of level {parent_level}", child.level));
    }
    if child.last != described.key {
        return Err("it does not end at the key that its parent files it under".to_owned());
    }
    if before.is_some_and(|before| *before >= child.first) {
        return Err("it begins before the node to its left ends".to_owned());
    }
    if child.entries != described.entries {
        return Err(format!("it holds {} entries, and its parent says {}", child.entries, described.entries));
    }
    if !edge && !child.closed {
        return Err("it ends where no node ends by its content, and is not the last of its level".to_owned());
    }
    Ok(())
}

/// Judges a node as a root.
pub(crate) fn judge_root(root: &Shape) -> Result<(), String> {
    if root.level > 0 && root.items < 2 { Err("a root above leaves has one child only".to_owned()) } else { Ok(()) }
}
