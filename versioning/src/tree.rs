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

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

pub(crate) use apply::{Applied, Edits, apply, empty};
pub(crate) use diff::diff;
pub(crate) use merge::triples;
#[cfg(test)]
pub(crate) use node::{Child, NodeBuilder, Payload};
pub(crate) use node::{MAX_NODE_BYTES, Node, check_entry};
pub(crate) use scan::scan;
pub(crate) use verify::{Shape, child_refs, entries, judge_child, judge_node, judge_root};

use crate::{Error, NodeHash, Result};

/// A page ends when its keys and values come to this many bytes.
const PAGE_BYTES: usize = 16 << 20;

/// Gives nodes by their hash, verified against it.
#[async_trait]
pub(crate) trait NodeReader: Send + Sync {
    async fn node(&self, hash: &NodeHash) -> Result<Arc<Node>>;

    /// The node, if it is at hand without waiting.
    fn cached(&self, _hash: &NodeHash) -> Option<Arc<Node>> {
        None
    }

    /// Several nodes in the order asked; a reader that has to fetch them fetches many at a time.
    async fn nodes(&self, hashes: &[NodeHash]) -> Result<Vec<Arc<Node>>> {
        let mut nodes = Vec::with_capacity(hashes.len());
        for hash in hashes {
            nodes.push(self.node(hash).await?);
        }
        Ok(nodes)
    }
}

/// As [`NodeReader::nodes`], for a reader that lays nodes of its own over another.
pub(crate) async fn nodes_over(own: &HashMap<NodeHash, Arc<Node>>, beneath: &dyn NodeReader, hashes: &[NodeHash]) -> Result<Vec<Arc<Node>>> {
    let asked: Vec<_> = hashes.iter().filter(|hash| !own.contains_key(hash)).copied().collect();
    let mut read = beneath.nodes(&asked).await?.into_iter();
    Ok(hashes.iter().filter_map(|hash| own.get(hash).cloned().or_else(|| read.next())).collect())
}

/// The value of a key under a root.
pub(crate) async fn get(reader: &dyn NodeReader, root: &NodeHash, key: &[u8]) -> Result<Option<Bytes>> {
    let mut node = read(reader, root).await?;
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

/// A node; one at hand is given at once.
async fn read(reader: &dyn NodeReader, hash: &NodeHash) -> Result<Arc<Node>> {
    // A walk over nodes at hand never waits; this lets others run.
    tokio::task::coop::consume_budget().await;
    match reader.cached(hash) {
        Some(node) => Ok(node),
        None => reader.node(hash).await,
    }
}

/// A child of an inner node. That it is one level lower and ends at the key that it is filed under is checked, so that no walk goes in circles.
async fn child(reader: &dyn NodeReader, node: &Node, index: usize) -> Result<Arc<Node>> {
    let hash = node.child(index).hash;
    let child = read(reader, &hash).await?;
    check_child(node, index, &child)?;
    Ok(child)
}

/// Neighbouring children of an inner node, checked as [`child()`] does.
async fn children(reader: &dyn NodeReader, node: &Node, indexes: Range<usize>) -> Result<Vec<Arc<Node>>> {
    let hashes: Vec<_> = indexes.clone().map(|index| node.child(index).hash).collect();
    let children = reader.nodes(&hashes).await?;
    indexes.zip(&children).try_for_each(|(index, child)| check_child(node, index, child))?;
    Ok(children)
}

fn check_child(node: &Node, index: usize, child: &Node) -> Result<()> {
    if child.level() + 1 != node.level() || child.last_key() != Some(node.key(index)) {
        return Err(not_the_child(&node.child(index).hash));
    }
    Ok(())
}

fn not_the_child(hash: &NodeHash) -> Error {
    Error::corrupt(format!("node {hash}"), "it is not the child that its parent describes")
}
