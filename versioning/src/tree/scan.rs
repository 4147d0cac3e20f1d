//! Reading entries in order, forwards or backwards, a page at a time.

use super::cursor::Cursor;
use super::{NodeReader, PAGE_BYTES, Range};
use crate::{Entry, Key, NodeHash, Page, Result, Scan};

/// A page of entries. The page is short of its limit only at the end of the range or at 16 MiB.
pub(crate) async fn scan(reader: &dyn NodeReader, root: &NodeHash, scan: &Scan) -> Result<Page<Entry>> {
    let range = Range::of(scan)?;
    let mut page = PageBuilder { items: Vec::new(), bytes: 0, limit: range.limit };
    let mut cursor = Cursor::seek(reader, root, 0, if scan.reverse { range.high.as_deref() } else { Some(&range.low) }).await?;
    loop {
        let node = cursor.node();
        let (first, last) = (node.lower_bound(&range.low), range.high.as_ref().map_or(node.len(), |high| node.lower_bound(high)));
        let count = last.saturating_sub(first);
        for step in 0..count {
            let index = if scan.reverse { last - 1 - step } else { first + step };
            let entry = Entry { key: Key::stored(node.key_bytes(index))?, value: node.value(index) };
            if let Err(next) = page.push(entry) {
                return Ok(Page { items: page.items, next: Some(next) });
            }
        }
        let ended = if scan.reverse { first > 0 } else { last < node.len() };
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
    /// Adds an entry, or answers where the next page begins because this one is full.
    fn push(&mut self, entry: Entry) -> Result<(), Key> {
        if let Some(last) = self.items.last()
            && (self.items.len() == self.limit || self.bytes >= PAGE_BYTES)
        {
            return Err(last.key.clone());
        }
        self.bytes += entry.key.as_bytes().len() + entry.value.len();
        self.items.push(entry);
        Ok(())
    }
}
