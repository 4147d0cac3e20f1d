//! The prolly tree: a sorted map from bytes to bytes, cut into nodes named by their hash.
//!
//! Leaves (level 0) hold entries; a node of level `n + 1` holds, for each node of level `n`, its last key, its hash and how many entries lie beneath. Where
//! a node ends is decided by its own keys and sizes ([`chunker`]), never by how it came about, so that **the same content has the same root whatever the
//! order of edits**, two versions share every node that lies apart from what changed, and a diff skips whatever has the same hash. The root is the only
//! node of the lowest level that has only one; the empty map is the empty leaf. (Prolly trees: Dolt's and Noms' public documentation.)
//!
//! Everything here is a pure function of nodes read through [`NodeReader`]; nothing is written. [`apply()`] answers the nodes that are new.

mod apply;
mod chunker;
mod cursor;
mod diff;
mod merge;
mod node;
mod scan;
#[cfg(test)]
mod tests;
mod verify;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

pub(crate) use apply::{Applied, Edits, apply, empty};
use cursor::Range;
pub(crate) use diff::diff;
pub(crate) use merge::triples;
#[cfg(test)]
pub(crate) use node::{Child, NodeBuilder, Payload};
pub(crate) use node::{MAX_NODE_BYTES, Node, check_entry};
pub(crate) use scan::scan;
pub(crate) use verify::{Shape, children, entries, judge_child, judge_node, judge_root};

use crate::{Error, NodeHash, Result};

/// A page ends when its keys and values come to this many bytes.
const PAGE_BYTES: usize = 16 << 20;

/// Gives nodes by their hash, verified against it.
#[async_trait]
pub(crate) trait NodeReader: Send + Sync {
    async fn node(&self, hash: &NodeHash) -> Result<Arc<Node>>;
}

/// The value of a key under a root.
pub(crate) async fn get(reader: &dyn NodeReader, root: &NodeHash, key: &[u8]) -> Result<Option<Bytes>> {
    let mut node = reader.node(root).await?;
    while !node.is_leaf() {
        let index = node.lower_bound(key);
        if index == node.len() {
            return Ok(None);
        }
        node = child(reader, &node, index).await?;
    }
    let index = node.lower_bound(key);
    Ok((index < node.len() && node.key(index) == key).then(|| node.value(index)))
}

/// A child of an inner node. That it is one level lower and ends at the key that it is filed under is checked, so that no walk goes in circles.
async fn child(reader: &dyn NodeReader, node: &Node, index: usize) -> Result<Arc<Node>> {
    let hash = node.child(index).hash;
    let child = reader.node(&hash).await?;
    if child.level() + 1 != node.level() || child.last_key() != Some(node.key(index)) {
        return Err(Error::corrupt(format!("node {hash}"), "it is not the child that its parent describes"));
    }
    Ok(child)
}
