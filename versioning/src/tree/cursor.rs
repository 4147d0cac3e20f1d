//! Walking the nodes of one level in key order, and the ranges that scans and diffs read.

use std::sync::Arc;

use bytes::Bytes;

use super::{Node, NodeReader, child, read};
use crate::key::successor;
use crate::{Error, MAX_PAGE, NodeHash, Result, Scan};

/// A place between the root and one node of a level.
#[derive(Debug)]
pub(crate) struct Cursor {
    /// Inner nodes from the root down, each with the child taken.
    path: Vec<(Arc<Node>, usize)>,
    node: Arc<Node>,
    hash: NodeHash,
}

impl Cursor {
    /// The node of `level` that holds or would hold `key`: the first that ends at or behind it, or else the last.
    pub(crate) async fn seek(reader: &dyn NodeReader, root: &NodeHash, level: u8, key: Option<&[u8]>) -> Result<Self> {
        let mut cursor = Self { path: Vec::new(), node: read(reader, root).await?, hash: *root };
        while cursor.node.level() > level {
            let index = key.map_or(usize::MAX, |key| cursor.node.lower_bound(key)).min(cursor.node.len() - 1);
            cursor.descend(reader, index).await?;
        }
        Ok(cursor)
    }

    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    pub(crate) fn hash(&self) -> NodeHash {
        self.hash
    }

    pub(crate) fn is_last(&self) -> bool {
        self.path.iter().all(|(node, index)| index + 1 == node.len())
    }

    /// Goes to the next node of the level; `false` if this is the last.
    pub(crate) async fn advance(&mut self, reader: &dyn NodeReader) -> Result<bool> {
        self.step(reader, |node, index| (index + 1 < node.len()).then_some(index + 1), |_| 0).await
    }

    /// Goes to the node before; `false` if this is the first.
    pub(crate) async fn retreat(&mut self, reader: &dyn NodeReader) -> Result<bool> {
        self.step(reader, |_, index| index.checked_sub(1), |node| node.len() - 1).await
    }

    async fn step(&mut self, reader: &dyn NodeReader, beside: impl Fn(&Node, usize) -> Option<usize>, edge: impl Fn(&Node) -> usize) -> Result<bool> {
        let Some(turn) = self.path.iter().rposition(|(node, index)| beside(node, *index).is_some()) else { return Ok(false) };
        let depth = self.path.len();
        self.path.truncate(turn + 1);
        let Some((node, index)) = self.path.pop() else { return Ok(false) };
        let index = beside(&node, index).unwrap_or(index);
        self.node = node;
        self.descend(reader, index).await?;
        while self.path.len() < depth {
            let index = edge(&self.node);
            self.descend(reader, index).await?;
        }
        Ok(true)
    }

    async fn descend(&mut self, reader: &dyn NodeReader, index: usize) -> Result<()> {
        let below = child(reader, &self.node, index).await?;
        self.hash = self.node.child(index).hash;
        self.path.push((std::mem::replace(&mut self.node, below), index));
        Ok(())
    }
}

/// The keys that a scan asks for, as bytes: `low <= key < high`.
#[derive(Debug, Clone)]
pub(crate) struct Range {
    pub(crate) low: Bytes,
    pub(crate) high: Option<Bytes>,
    pub(crate) limit: usize,
}

impl Range {
    pub(crate) fn of(scan: &Scan) -> Result<Self> {
        if scan.limit == 0 {
            return Err(Error::invalid("scan", "a limit of 0 reads nothing: ask for at least 1"));
        }
        let bytes = |key: &Option<crate::Key>| key.as_ref().map(|key| key.as_bytes().clone());
        let (mut lows, mut highs) = (vec![bytes(&scan.prefix), bytes(&scan.from)], vec![bytes(&scan.until)]);
        highs.push(bytes(&scan.prefix).and_then(|prefix| successor(&prefix)));
        match bytes(&scan.after) {
            Some(after) if scan.reverse => highs.push(Some(after)),
            // The smallest bytes behind a key are the key and a zero.
            Some(after) => lows.push(Some([&after[..], &[0]].concat().into())),
            None => {}
        }
        let low = lows.into_iter().flatten().max().unwrap_or_default();
        let high = highs.into_iter().flatten().min();
        Ok(Self { low, high, limit: scan.limit.min(MAX_PAGE) })
    }

    /// The children of a node that may hold keys of the range.
    pub(crate) fn children(&self, node: &Node) -> std::ops::Range<usize> {
        // A child holds what lies behind the last key of the one before it.
        let end = self.high.as_ref().map_or(node.len(), |high| (node.lower_bound(high) + 1).min(node.len()));
        node.lower_bound(&self.low).min(end)..end
    }

    pub(crate) fn is_above(&self, key: &[u8]) -> bool {
        self.high.as_ref().is_some_and(|high| key >= &high[..])
    }
}
