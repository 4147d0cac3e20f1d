//! Applying a batch of edits: only nodes that hold an edit, and the few behind them until boundaries fall together again, are read and written.
//!
//! A level is a sequence of items cut into nodes. Rewriting begins at the start of the node that an edit falls into, which is a boundary of the old
//! sequence and of the new one, and merges old items with edits until an old node ends just where a new one does. What was rewritten becomes, item for
//! item, the edits of the level above: the last keys of the nodes that went, and those of the nodes that came. Above the old root the rest is cut anew.

use std::collections::{BTreeMap, HashMap};
use std::iter::Peekable;
use std::sync::Arc;

use bytes::Bytes;

use super::NodeReader;
use super::chunker::{Chunk, Chunker};
use super::cursor::Cursor;
use super::node::{Node, NodeBuilder, Payload};
use crate::{NodeHash, Result};

/// What to set (`Some`) or remove (`None`), by key.
pub(crate) type Edits = BTreeMap<Bytes, Option<Bytes>>;

/// A new root and the nodes beneath it that the old tree did not have.
#[derive(Debug)]
pub(crate) struct Applied {
    pub(crate) root: NodeHash,
    pub(crate) nodes: HashMap<NodeHash, Arc<Node>>,
}

type Items = BTreeMap<Bytes, Option<Payload>>;

/// Applies edits to the tree under `root`.
pub(crate) async fn apply(reader: &dyn NodeReader, root: &NodeHash, edits: Edits) -> Result<Applied> {
    let top = reader.node(root).await?.level();
    let mut nodes = HashMap::new();
    let mut edits: Items = edits.into_iter().map(|(key, value)| (key, value.map(Payload::Value))).collect();
    for level in 0..=top {
        if edits.is_empty() {
            return Ok(Applied { root: *root, nodes: HashMap::new() });
        }
        let Rewritten { old, new } = rewrite(reader, root, level, edits).await?;
        let mut above = Items::new();
        above.extend(old.values().map(|last| (last.clone(), None)));
        above.extend(new.iter().map(|chunk| (chunk.last_key(), Some(chunk.as_child()))));
        for chunk in new {
            if old.contains_key(&chunk.hash) {
                // Rewritten into itself: to the level above nothing happened.
                if level < top {
                    above.remove(&chunk.last_key());
                }
            } else {
                nodes.insert(chunk.hash, Arc::new(chunk.node));
            }
        }
        edits = above;
    }
    // The edits above the old root are all the nodes of its level.
    let level_items = edits.into_iter().filter_map(|(key, payload)| Some((key, payload?))).collect();
    let root = build_above(reader, top, level_items, &mut nodes).await?;
    Ok(Applied { root, nodes })
}

/// The empty map.
pub(crate) fn empty() -> (NodeHash, Arc<Node>) {
    let (hash, node) = NodeBuilder::new(0).finish();
    (hash, Arc::new(node))
}

/// The nodes of one level that were read, with their last keys, and those that stand in their place.
struct Rewritten {
    old: HashMap<NodeHash, Bytes>,
    new: Vec<Chunk>,
}

async fn rewrite(reader: &dyn NodeReader, root: &NodeHash, level: u8, edits: Items) -> Result<Rewritten> {
    let mut rewritten = Rewritten { old: HashMap::new(), new: Vec::new() };
    let mut edits = edits.into_iter().peekable();
    while let Some((key, _)) = edits.peek() {
        let mut cursor = Cursor::seek(reader, root, level, Some(key)).await?;
        let mut chunker = Chunker::new(level);
        loop {
            let node = cursor.node();
            if let Some(last) = node.last_key() {
                rewritten.old.insert(cursor.hash(), node.bytes().slice_ref(last));
            }
            merge_node(node, &mut edits, cursor.is_last(), |key, payload| rewritten.new.extend(chunker.push(key, payload)));
            if cursor.is_last() || chunker.is_at_boundary() {
                break;
            }
            cursor.advance(reader).await?;
        }
        rewritten.new.extend(chunker.finish());
    }
    Ok(rewritten)
}

/// The root over all nodes of a level: cuts levels above until one node is left, or goes down while a node has one child only.
async fn build_above(
    reader: &dyn NodeReader,
    mut level: u8,
    mut items: Vec<(Bytes, Payload)>,
    nodes: &mut HashMap<NodeHash, Arc<Node>>,
) -> Result<NodeHash> {
    while items.len() > 1 {
        level += 1;
        let mut chunker = Chunker::new(level);
        let mut chunks: Vec<Chunk> = items.iter().filter_map(|(key, payload)| chunker.push(key, payload)).collect();
        chunks.extend(chunker.finish());
        items = chunks.iter().map(|chunk| (chunk.last_key(), chunk.as_child())).collect();
        nodes.extend(chunks.into_iter().map(|chunk| (chunk.hash, Arc::new(chunk.node))));
    }
    let Some((_, Payload::Child(top))) = items.pop() else {
        let (hash, node) = empty();
        nodes.insert(hash, node);
        return Ok(hash);
    };
    let mut root = top.hash;
    loop {
        let node = match nodes.get(&root) {
            Some(node) => node.clone(),
            None => reader.node(&root).await?,
        };
        if node.is_leaf() || node.len() > 1 {
            return Ok(root);
        }
        nodes.remove(&root);
        root = node.child(0).hash;
    }
}

fn merge_node(
    node: &Node,
    edits: &mut Peekable<impl Iterator<Item = (Bytes, Option<Payload>)>>,
    is_last: bool,
    mut push: impl FnMut(&[u8], &Payload),
) {
    for index in 0..node.len() {
        let key = node.key(index);
        let mut replaced = false;
        while let Some((edited, payload)) = edits.next_if(|(edited, _)| &edited[..] <= key) {
            replaced = &edited[..] == key;
            if let Some(payload) = payload {
                push(&edited, &payload);
            }
        }
        if !replaced {
            push(key, &node.payload(index));
        }
    }
    if is_last {
        for (edited, payload) in edits.by_ref() {
            if let Some(payload) = payload {
                push(&edited, &payload);
            }
        }
    }
}
