//! Reading entries in order, forwards or backwards, a page at a time.
//!
//! The walk goes over the parents of leaves, which say how many entries each leaf holds: leaves are read ahead, a few at a time, and never one that the
//! page has no room for.

use std::sync::Arc;

use super::cursor::{Cursor, Range};
use super::{Node, NodeReader, PAGE_BYTES, children};
use crate::{Entry, Key, NodeHash, Page, Result, Scan};

/// The most leaves that are read at a time.
const READ_AHEAD: usize = 16;

/// A page of entries. The page is short of its limit only at the end of the range or at 16 MiB.
pub(crate) async fn scan(reader: &dyn NodeReader, root: &NodeHash, scan: &Scan) -> Result<Page<Entry>> {
    let range = Range::of(scan)?;
    let mut page = PageBuilder { items: Vec::new(), bytes: 0, limit: range.limit };
    let from = if scan.reverse { range.high.as_deref() } else { Some(&range.low[..]) };
    let mut cursor = Cursor::seek(reader, root, 1, from).await?;
    if cursor.node().is_leaf() {
        let next = page.take(cursor.node(), &range, scan.reverse)?;
        return Ok(Page { items: page.items, next });
    }
    loop {
        let parent = cursor.node().clone();
        let mut wanted = range.children(&parent);
        while !wanted.is_empty() {
            let ahead = page.leaves_ahead(&parent, &wanted, scan.reverse);
            let mut leaves = children(reader, &parent, ahead.clone()).await?;
            if scan.reverse {
                leaves.reverse();
                wanted.end = ahead.start;
            } else {
                wanted.start = ahead.end;
            }
            for leaf in leaves {
                if let Some(next) = page.take(&leaf, &range, scan.reverse)? {
                    return Ok(Page { items: page.items, next: Some(next) });
                }
            }
        }
        let ended = if scan.reverse { parent.key(0) < &range.low[..] } else { parent.last_key().is_some_and(|last| range.is_above(last)) };
        let moved = !ended && if scan.reverse { cursor.retreat(reader).await? } else { cursor.advance(reader).await? };
        if !moved {
            return Ok(Page { items: page.items, next: None });
        }
    }
}

struct PageBuilder {
    items: Vec<Entry>,
    bytes: usize,
    limit: usize,
}

impl PageBuilder {
    /// The next leaves to read: as many as the page has room for, and one entry that says whether there is more.
    fn leaves_ahead(&self, parent: &Node, wanted: &std::ops::Range<usize>, reverse: bool) -> std::ops::Range<usize> {
        let mut room = (self.limit - self.items.len()) as u64 + 1;
        let (mut count, mut bytes) = (0, self.bytes);
        while count < wanted.len().min(READ_AHEAD) && room > 0 && (count == 0 || bytes < PAGE_BYTES) {
            let index = if reverse { wanted.end - 1 - count } else { wanted.start + count };
            // Where the range cuts a leaf this counts too much, and the next step reads on.
            room = room.saturating_sub(parent.child(index).entries);
            bytes += crate::tree::chunker::SCALE_BYTES as usize;
            count += 1;
        }
        if reverse { wanted.end - count..wanted.end } else { wanted.start..wanted.start + count }
    }

    /// Adds what a leaf has of the range; answers where the next page begins if this one is full.
    fn take(&mut self, leaf: &Arc<Node>, range: &Range, reverse: bool) -> Result<Option<Key>> {
        let (first, last) = (leaf.lower_bound(&range.low), range.high.as_ref().map_or(leaf.len(), |high| leaf.lower_bound(high)));
        let count = last.saturating_sub(first);
        self.items.reserve(count.min(self.limit - self.items.len()));
        for step in 0..count {
            if let Some(last) = self.items.last()
                && (self.items.len() == self.limit || self.bytes >= PAGE_BYTES)
            {
                return Ok(Some(last.key.clone()));
            }
            let index = if reverse { last - 1 - step } else { first + step };
            let entry = Entry { key: Key::stored(leaf.key_bytes(index))?, value: leaf.value(index) };
            self.bytes += entry.key.as_bytes().len() + entry.value.len();
            self.items.push(entry);
        }
        Ok(None)
    }
}
