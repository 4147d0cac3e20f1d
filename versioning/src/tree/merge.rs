//! What a three-way merge has to decide: the keys that one side changed, with what the other side has there.
//!
//! The changes are a diff of the base and the side that is brought in, which passes over whatever they share; what the destination holds at each of them
//! is looked up by a walk that goes down from the last place only as far up as need be. So it costs what was changed on *that* side, whatever the
//! destination did meanwhile.

use std::sync::Arc;

use bytes::Bytes;

use super::{Node, NodeReader, child, diff};
use crate::{NodeHash, Page, Result, Scan, Triple};

/// A page of the keys that theirs changed since the base, in key order; forward scans only.
pub(crate) async fn triples(reader: &dyn NodeReader, base: &NodeHash, ours: &NodeHash, theirs: &NodeHash, scan: &Scan) -> Result<Page<Triple>> {
    let page = diff(reader, base, theirs, scan).await?;
    let mut finder = Finder { root: *ours, path: Vec::new() };
    let mut items = Vec::with_capacity(page.items.len());
    for difference in page.items {
        let held = if ours == base { difference.left.clone() } else { finder.find(reader, difference.key.as_bytes()).await? };
        items.push(Triple { key: difference.key, base: difference.left, ours: held, theirs: difference.right });
    }
    Ok(Page { items, next: page.next })
}

/// Looks keys up in ascending order.
struct Finder {
    root: NodeHash,
    /// From the root down to a leaf, as far as the last key led.
    path: Vec<Arc<Node>>,
}

impl Finder {
    async fn find(&mut self, reader: &dyn NodeReader, key: &[u8]) -> Result<Option<Bytes>> {
        // A node holds whatever lies up to its last key and behind all earlier keys asked for.
        while self.path.last().is_some_and(|node| node.last_key().is_none_or(|last| last < key)) {
            self.path.pop();
        }
        if self.path.is_empty() {
            self.path.push(reader.node(&self.root).await?);
        }
        while let Some(node) = self.path.last().filter(|node| !node.is_leaf()) {
            let index = node.lower_bound(key);
            if index == node.len() {
                return Ok(None);
            }
            let below = child(reader, node, index).await?;
            self.path.push(below);
        }
        let Some(leaf) = self.path.last() else { return Ok(None) };
        let index = leaf.lower_bound(key);
        Ok((index < leaf.len() && leaf.key(index) == key).then(|| leaf.value(index)))
    }
}
