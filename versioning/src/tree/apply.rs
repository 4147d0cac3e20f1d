//! Applying a batch of edits: only nodes that hold an edit, and the few behind them until boundaries fall together again, are read and written.
//!
//! A level is a sequence of items cut into nodes. Of each level, from the leaves up:
//!
//! 1. [`plan()`] finds the nodes that edits fall into and divides them, with their edits, into pieces of about equal work. A node that takes many edits is
//!    itself divided, at a key.
//! 2. [`rewrite()`] merges old items with edits and cuts them anew, each piece for itself as if a node began where it does; many pieces at a time, on the
//!    threads for blocking work. A stretch of neighbouring nodes ends *open* if no new node ends where it does.
//! 3. [`stitch()`] goes on where a stretch is open: the open node takes the items that follow, of old nodes and of the stretches behind, until it ends
//!    just where one of theirs does. From there on both would be cut alike, so that what was cut in pieces is what one pass would have cut.
//! 4. What was rewritten becomes, item for item, the edits of the level above: the last keys of the nodes that went and came.
//!
//! Above the old root the rest is cut anew. The work grows with the nodes touched, the memory with the nodes made.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use super::chunker::{Chunk, Chunker};
use super::cursor::Cursor;
use super::node::{Node, NodeBuilder, Payload};
use super::{NodeReader, not_the_child, read};
use crate::{Error, NodeHash, Result};

/// What to set (`Some`) or remove (`None`), by key.
pub(crate) type Edits = BTreeMap<Bytes, Option<Bytes>>;

/// A new root and the nodes beneath it that the old tree did not have.
#[derive(Debug)]
pub(crate) struct Applied {
    pub(crate) root: NodeHash,
    pub(crate) nodes: HashMap<NodeHash, Arc<Node>>,
}

/// How work is divided.
#[derive(Debug, Clone, Copy)]
pub(super) struct Division {
    /// The most nodes of a piece, and
    pub(super) nodes: usize,
    /// the most edits.
    pub(super) edits: usize,
    /// Pieces that are read and rewritten at a time.
    pub(super) at_once: usize,
}

/// A piece is some megabytes: long against the few nodes until boundaries meet again, short against the whole.
const DIVISION: Division = Division { nodes: 128, edits: 1 << 14, at_once: 8 };
/// A piece of no more than this many nodes and [`INLINE_EDITS`] is not worth another thread.
const INLINE_NODES: usize = 4;
const INLINE_EDITS: usize = 64;

/// An edit of a level.
type Item = (Bytes, Option<Payload>);

/// Applies edits to the tree under `root`.
pub(crate) async fn apply(reader: &dyn NodeReader, root: &NodeHash, edits: Edits) -> Result<Applied> {
    apply_divided(reader, root, edits, DIVISION).await
}

/// The empty map.
pub(crate) fn empty() -> (NodeHash, Arc<Node>) {
    let (hash, node) = NodeBuilder::new(0).finish();
    (hash, Arc::new(node))
}

pub(super) async fn apply_divided(reader: &dyn NodeReader, root: &NodeHash, edits: Edits, division: Division) -> Result<Applied> {
    let top = read(reader, root).await?.level();
    let mut nodes = HashMap::new();
    let mut edits: Vec<Item> = edits.into_iter().map(|(key, value)| (key, value.map(Payload::Value))).collect();
    for level in 0..=top {
        if edits.is_empty() {
            return Ok(Applied { root: *root, nodes: HashMap::new() });
        }
        let Rewritten { old, new } = rewrite_level(reader, root, level, edits, division).await?;
        edits = if level < top { edits_above(&old, &new) } else { new.iter().map(|chunk| (chunk.last_key(), Some(chunk.as_child()))).collect() };
        // What was rewritten into itself is there already.
        let known: HashSet<&NodeHash> = old.iter().map(|(hash, _)| hash).collect();
        nodes.extend(new.into_iter().filter(|chunk| !known.contains(&chunk.hash)).map(|chunk| (chunk.hash, Arc::new(chunk.node))));
    }
    // The edits above the old root are all the nodes of its level.
    let level_items = edits.into_iter().filter_map(|(key, payload)| Some((key, payload?))).collect();
    let root = build_above(reader, top, level_items, &mut nodes).await?;
    Ok(Applied { root, nodes })
}

/// The nodes of one level that were read, by hash and last key, and those that stand in their place; both in order.
#[derive(Default)]
struct Rewritten {
    old: Vec<(NodeHash, Bytes)>,
    new: Vec<Chunk>,
}

/// A node, or a part of one, and the edits that fall into it.
#[derive(Debug, Clone)]
struct Part {
    hash: NodeHash,
    /// The last key by which its parent knows it; the root has no parent.
    filed: Option<Bytes>,
    edits: Range<usize>,
    /// Where only a part of the node is meant: the keys behind this one,
    after: Option<Bytes>,
    /// up to this one.
    until: Option<Bytes>,
    /// Whether the part before it in the plan ends just where this one begins. Two parents' children are not recognised as neighbours, which does no harm.
    follows: bool,
    /// Whether the level ends with it.
    ends_level: bool,
}

/// Items of neighbouring nodes, rewritten.
struct Stretch {
    /// The first node; `None` if it begins within the node that the stretch before it ends in.
    first: Option<NodeHash>,
    rewritten: Rewritten,
    /// The last key of the last node, also of one that the stretch ends within.
    last: Bytes,
    /// What follows the last node that was cut, if the stretch does not end with it.
    open: Option<Chunker>,
}

async fn rewrite_level(reader: &dyn NodeReader, root: &NodeHash, level: u8, edits: Vec<Item>, division: Division) -> Result<Rewritten> {
    let pieces = divide(plan(reader, root, level, &edits).await?, &edits, division);
    let edits = &Arc::new(edits);
    let rewrite_piece = |parts: Vec<Part>| async move {
        let hashes: Vec<_> = parts.iter().map(|part| part.hash).collect();
        let nodes = reader.nodes(&hashes).await?;
        let count: usize = parts.iter().map(|part| part.edits.len()).sum();
        if parts.len() <= INLINE_NODES && count <= INLINE_EDITS {
            return rewrite(level, &parts, &nodes, edits);
        }
        let edits = edits.clone();
        let done = tokio::task::spawn_blocking(move || rewrite(level, &parts, &nodes, &edits)).await;
        done.map_err(|error| Error::backend("applying edits", error))?
    };
    let stretches: Vec<Vec<Stretch>> = stream::iter(pieces).map(rewrite_piece).buffered(division.at_once).try_collect().await?;
    stitch(reader, root, level, stretches.into_iter().flatten().collect()).await
}

/// The nodes of a level that edits fall into.
async fn plan(reader: &dyn NodeReader, root: &NodeHash, level: u8, edits: &[Item]) -> Result<Vec<Part>> {
    let part = |hash, filed, edits| Part { hash, filed, edits, after: None, until: None, follows: false, ends_level: false };
    if read(reader, root).await?.level() == level {
        return Ok(vec![Part { ends_level: true, ..part(*root, None, 0..edits.len()) }]);
    }
    let (mut parts, mut next) = (Vec::new(), 0);
    while let Some((key, _)) = edits.get(next) {
        let cursor = Cursor::seek(reader, root, level + 1, Some(key)).await?;
        let (parent, mut before) = (cursor.node(), None);
        while let Some((key, _)) = edits.get(next)
            && (cursor.is_last() || parent.last_key().is_some_and(|last| &key[..] <= last))
        {
            let index = parent.lower_bound(key).min(parent.len() - 1);
            let ends_level = cursor.is_last() && index + 1 == parent.len();
            let end = if ends_level { edits.len() } else { next + edits[next..].partition_point(|(key, _)| &key[..] <= parent.key(index)) };
            let follows = before.is_some_and(|before| before + 1 == index);
            parts.push(Part { follows, ends_level, ..part(parent.child(index).hash, Some(parent.key_bytes(index)), next..end) });
            (before, next) = (Some(index), end);
        }
    }
    Ok(parts)
}

/// Groups parts into pieces, dividing those of too many edits.
fn divide(parts: Vec<Part>, edits: &[Item], division: Division) -> Vec<Vec<Part>> {
    let (mut pieces, mut piece, mut count) = (Vec::new(), Vec::new(), 0);
    for mut rest in parts {
        loop {
            if piece.len() >= division.nodes || count >= division.edits {
                pieces.push(std::mem::take(&mut piece));
                count = 0;
            }
            let room = division.edits - count;
            if rest.edits.len() <= room {
                break;
            }
            let cut = rest.edits.start + room;
            let until = Some(edits[cut - 1].0.clone());
            piece.push(Part { edits: rest.edits.start..cut, until: until.clone(), ends_level: false, ..rest.clone() });
            rest = Part { edits: cut..rest.edits.end, after: until, follows: true, ..rest };
            count += room;
        }
        count += rest.edits.len();
        piece.push(rest);
    }
    pieces.push(piece);
    pieces
}

/// Merges the nodes of a piece with their edits.
fn rewrite(level: u8, parts: &[Part], nodes: &[Arc<Node>], edits: &[Item]) -> Result<Vec<Stretch>> {
    let mut stretches: Vec<Stretch> = Vec::new();
    let mut chunker = Chunker::new(level);
    for (at, (part, node)) in parts.iter().zip(nodes).enumerate() {
        if node.level() != level || part.filed.as_ref().is_some_and(|filed| node.last_key() != Some(filed)) {
            return Err(not_the_child(&part.hash));
        }
        if at == 0 || !part.follows {
            close(&mut stretches, std::mem::replace(&mut chunker, Chunker::new(level)));
            let first = part.after.is_none().then_some(part.hash);
            stretches.push(Stretch { first, rewritten: Rewritten::default(), last: Bytes::new(), open: None });
        }
        let Some(stretch) = stretches.last_mut() else { continue };
        if let Some(last) = node.last_key() {
            stretch.last = node.bytes().slice_ref(last);
            if part.after.is_none() {
                stretch.rewritten.old.push((part.hash, stretch.last.clone()));
            }
        }
        merge_part(part, node, &edits[part.edits.clone()], &mut chunker, &mut stretch.rewritten.new);
        if part.ends_level {
            stretch.rewritten.new.extend(std::mem::replace(&mut chunker, Chunker::new(level)).finish());
        }
    }
    close(&mut stretches, chunker);
    Ok(stretches)
}

fn close(stretches: &mut [Stretch], chunker: Chunker) {
    if let Some(stretch) = stretches.last_mut() {
        stretch.open = (!chunker.is_at_boundary()).then_some(chunker);
    }
}

fn merge_part(part: &Part, node: &Node, edits: &[Item], chunker: &mut Chunker, chunks: &mut Vec<Chunk>) {
    let behind = |bound: &Option<Bytes>| bound.as_ref().map(|bound| node.partition(|key| key <= &bound[..]));
    let mut index = behind(&part.after).unwrap_or(0);
    let end = behind(&part.until).unwrap_or(node.len());
    for (key, payload) in edits {
        let at = node.lower_bound(key).max(index);
        chunker.copy(node, index..at, chunks);
        index = if at < node.len() && node.key(at) == &key[..] { at + 1 } else { at };
        if let Some(payload) = payload {
            chunks.extend(chunker.push(key, payload));
        }
    }
    chunker.copy(node, index..end.max(index), chunks);
}

/// Goes on where stretches are open, until a node ends where one of what follows does.
async fn stitch(reader: &dyn NodeReader, root: &NodeHash, level: u8, stretches: Vec<Stretch>) -> Result<Rewritten> {
    let mut whole = Rewritten::default();
    let mut stretches = stretches.into_iter().peekable();
    while let Some(Stretch { rewritten, mut last, open, .. }) = stretches.next() {
        whole.old.extend(rewritten.old);
        whole.new.extend(rewritten.new);
        let Some(mut open) = open else { continue };
        let mut cursor = None;
        while !open.is_at_boundary() {
            let mut next = stretches.next_if(|next| next.first.is_none());
            if next.is_none() {
                let cursor = match &mut cursor {
                    Some(cursor) => cursor,
                    none => none.insert(Cursor::seek(reader, root, level, Some(&last)).await?),
                };
                if !cursor.advance(reader).await? {
                    break;
                }
                next = stretches.next_if(|next| next.first == Some(cursor.hash()));
                if next.is_none() {
                    let node = cursor.node();
                    whole.old.extend(node.last_key().map(|last| (cursor.hash(), node.bytes().slice_ref(last))));
                    open.copy(node, 0..node.len(), &mut whole.new);
                }
            }
            if let Some(next) = next {
                (last, cursor) = (next.last.clone(), None);
                open = go_on(open, next, &mut whole);
            }
        }
        whole.new.extend(open.finish());
    }
    Ok(whole)
}

/// Takes what follows, as it is now, into an open node; answers what is open behind it.
fn go_on(mut open: Chunker, next: Stretch, whole: &mut Rewritten) -> Chunker {
    whole.old.extend(next.rewritten.old);
    let mut chunks = next.rewritten.new.into_iter();
    while !open.is_at_boundary()
        && let Some(chunk) = chunks.next()
    {
        open.copy(&chunk.node, 0..chunk.node.len(), &mut whole.new);
    }
    match next.open {
        // Boundaries have met: from here on both are cut alike.
        behind if open.is_at_boundary() => {
            whole.new.extend(chunks);
            behind.unwrap_or(open)
        }
        Some(behind) => {
            if let Some(rest) = behind.finish() {
                open.copy(&rest.node, 0..rest.node.len(), &mut whole.new);
            }
            open
        }
        None => open,
    }
}

/// What a level's change is to the level above, in the order of keys.
fn edits_above(old: &[(NodeHash, Bytes)], new: &[Chunk]) -> Vec<Item> {
    let mut edits = Vec::new();
    let mut new = new.iter().peekable();
    let put = |chunk: &Chunk| (chunk.last_key(), Some(chunk.as_child()));
    for (hash, last) in old {
        while let Some(chunk) = new.next_if(|chunk| chunk.node.last_key() < Some(last)) {
            edits.push(put(chunk));
        }
        match new.next_if(|chunk| chunk.node.last_key() == Some(last)) {
            Some(chunk) if chunk.hash == *hash => {}
            Some(chunk) => edits.push(put(chunk)),
            None => edits.push((last.clone(), None)),
        }
    }
    edits.extend(new.map(put));
    edits
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
            None => read(reader, &root).await?,
        };
        if node.is_leaf() || node.len() > 1 {
            return Ok(root);
        }
        nodes.remove(&root);
        root = node.child(0).hash;
    }
}
