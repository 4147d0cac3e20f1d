//! What differs between two trees, at a cost that grows with the difference and not with the trees.
//!
//! Both trees are walked in key order at once. Each side's next thing is a subtree or an entry. Two subtrees of the same hash are passed over as a whole;
//! otherwise the higher one is opened, or both where they are level; entries are compared by key.

use std::cmp::Ordering;
use std::sync::Arc;

use bytes::Bytes;

use super::{Node, NodeReader, PAGE_BYTES, Range, child};
use crate::{Difference, Error, Key, NodeHash, Page, Result, Scan};

/// A page of differences in key order; forward scans only.
pub(crate) async fn diff(reader: &dyn NodeReader, left: &NodeHash, right: &NodeHash, scan: &Scan) -> Result<Page<Difference>> {
    if scan.reverse {
        return Err(Error::invalid("diff", "it reads forward only"));
    }
    let range = Range::of(scan)?;
    let mut page = Page { items: Vec::new(), next: None };
    if left == right {
        return Ok(page);
    }
    let mut left = Frontier::open(reader, left, &range).await?;
    let mut right = Frontier::open(reader, right, &range).await?;
    let mut bytes = 0;
    while let Some(difference) = next_difference(reader, &range, &mut left, &mut right).await? {
        if let Some(last) = page.items.last()
            && (page.items.len() == range.limit || bytes >= PAGE_BYTES)
        {
            page.next = Some(last.key.clone());
            break;
        }
        bytes += difference.key.as_bytes().len() + [&difference.left, &difference.right].into_iter().flatten().map(Bytes::len).sum::<usize>();
        page.items.push(difference);
    }
    Ok(page)
}

async fn next_difference(reader: &dyn NodeReader, range: &Range, left: &mut Frontier, right: &mut Frontier) -> Result<Option<Difference>> {
    loop {
        let (open_left, open_right) = match (left.head(range), right.head(range)) {
            (None, None) => return Ok(None),
            (Some(Head::Subtree(_, a)), Some(Head::Subtree(_, b))) if a == b => {
                left.pass();
                right.pass();
                continue;
            }
            (Some(Head::Subtree(a, _)), Some(Head::Subtree(b, _))) => (a >= b, b >= a),
            (a, b) => (matches!(a, Some(Head::Subtree(..))), matches!(b, Some(Head::Subtree(..)))),
        };
        if open_left {
            left.open_head(reader, range).await?;
        }
        if open_right {
            right.open_head(reader, range).await?;
        }
        if open_left || open_right || pass_equal_entries(left, right) {
            continue;
        }
        let order = match (left.key(range), right.key(range)) {
            (Some(a), Some(b)) => a.cmp(b),
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        let a = order.is_le().then(|| left.take(range)).flatten();
        let b = order.is_ge().then(|| right.take(range)).flatten();
        let values = |side: &Option<(Bytes, Bytes)>| side.as_ref().map(|(_, value)| value.clone());
        let (old, new) = (values(&a), values(&b));
        if let Some((key, _)) = a.or(b)
            && old != new
        {
            return Ok(Some(Difference { key: Key::stored(key)?, left: old, right: new }));
        }
    }
}

/// Passes over entries that both sides have, as far as the two leaves go; answers whether there were any.
fn pass_equal_entries(left: &mut Frontier, right: &mut Frontier) -> bool {
    let (Some((a, i)), Some((b, j))) = (left.stack.last_mut(), right.stack.last_mut()) else { return false };
    if !a.is_leaf() || !b.is_leaf() {
        return false;
    }
    let (first, most) = (*i, (a.len() - *i).min(b.len() - *j));
    // Beyond the range there is nothing to be found, and what is equal is passed in any case.
    let equal = (0..most).take_while(|step| a.item(first + step) == b.item(*j + step)).count();
    *i += equal;
    *j += equal;
    left.pop_ended();
    right.pop_ended();
    equal > 0
}

/// The rest of one tree: nodes from the root down, each with its next item.
struct Frontier {
    stack: Vec<(Arc<Node>, usize)>,
}

enum Head {
    /// Level of the parent and hash.
    Subtree(u8, NodeHash),
    Entry,
}

impl Frontier {
    async fn open(reader: &dyn NodeReader, root: &NodeHash, range: &Range) -> Result<Self> {
        let mut frontier = Self { stack: Vec::new() };
        frontier.push(reader.node(root).await?, range);
        Ok(frontier)
    }

    fn push(&mut self, node: Arc<Node>, range: &Range) {
        let first = node.lower_bound(&range.low);
        self.stack.push((node, first));
        self.pop_ended();
    }

    fn pop_ended(&mut self) {
        while self.stack.last().is_some_and(|(node, index)| *index == node.len()) {
            self.stack.pop();
        }
    }

    /// What comes next, if it can lie within the range.
    fn head(&self, range: &Range) -> Option<Head> {
        let (node, index) = self.stack.last()?;
        if node.is_leaf() {
            return (!range.is_above(node.key(*index))).then_some(Head::Entry);
        }
        // A subtree lies behind the last key of the one before it.
        let beyond = index.checked_sub(1).is_some_and(|before| range.is_above(node.key(before)));
        (!beyond).then(|| Head::Subtree(node.level(), node.child(*index).hash))
    }

    /// The key of the entry that comes next, if it lies within the range.
    fn key(&self, range: &Range) -> Option<&[u8]> {
        let (node, index) = self.stack.last()?;
        (node.is_leaf() && !range.is_above(node.key(*index))).then(|| node.key(*index))
    }

    fn take(&mut self, range: &Range) -> Option<(Bytes, Bytes)> {
        let within = self.key(range).is_some();
        let entry = self.stack.last().filter(|_| within).map(|(node, index)| (node.key_bytes(*index), node.value(*index)));
        self.pass();
        entry
    }

    fn pass(&mut self) {
        if let Some((_, index)) = self.stack.last_mut() {
            *index += 1;
        }
        self.pop_ended();
    }

    async fn open_head(&mut self, reader: &dyn NodeReader, range: &Range) -> Result<()> {
        let Some((node, index)) = self.stack.last() else { return Ok(()) };
        let below = child(reader, node, *index).await?;
        self.pass();
        self.push(below, range);
        Ok(())
    }
}
