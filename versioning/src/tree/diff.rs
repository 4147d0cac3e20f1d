//! What differs between two trees, at a cost that grows with the difference and not with the trees.
//!
//! Both trees are walked in key order at once. Each side's next thing is a subtree or an entry. Two subtrees of the same hash are passed over as a whole;
//! otherwise the higher one is opened, or both where they are level; entries are compared by key.
//!
//! Where two inner nodes stand side by side, the children in which they differ are known before they are needed: those to come are read together, no more
//! than the page has room for.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::cursor::Range;
use super::{Node, NodeReader, PAGE_BYTES, check_child, child, read};
use crate::{Difference, Error, Key, NodeHash, Page, Result, Scan};

/// The most children of each side that are read at a time.
const READ_AHEAD: usize = 64;

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
    let mut reader = ReadAhead { reader, ready: HashMap::new(), width: 0 };
    let mut left = Frontier::open(&mut reader, left, &range).await?;
    let mut right = Frontier::open(&mut reader, right, &range).await?;
    let mut bytes = 0;
    loop {
        reader.width = (range.limit - page.items.len()).min(READ_AHEAD);
        let Some(difference) = next_difference(&mut reader, &range, &mut left, &mut right).await? else { break };
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

async fn next_difference(reader: &mut ReadAhead<'_>, range: &Range, left: &mut Frontier, right: &mut Frontier) -> Result<Option<Difference>> {
    loop {
        pass_equal(left, right);
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
        if open_left && open_right && !(left.is_ready(reader) && right.is_ready(reader)) {
            reader.read(left, right, range).await?;
        }
        if open_left {
            left.open_head(reader, range).await?;
        }
        if open_right {
            right.open_head(reader, range).await?;
        }
        if open_left || open_right {
            continue;
        }
        let order = match (left.entry(range), right.entry(range)) {
            (Some((a, _)), Some((b, _))) => a.cmp(&b),
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

/// Passes over what two leaves have in common from where they stand.
fn pass_equal(left: &mut Frontier, right: &mut Frontier) {
    let (Some((a, i)), Some((b, j))) = (left.stack.last_mut(), right.stack.last_mut()) else { return };
    if a.is_leaf() && b.is_leaf() {
        while *i < a.len() && *j < b.len() && a.item(*i) == b.item(*j) {
            *i += 1;
            *j += 1;
        }
        left.pop_ended();
        right.pop_ended();
    }
}

/// Nodes that a diff is going to need.
struct ReadAhead<'a> {
    reader: &'a dyn NodeReader,
    ready: HashMap<NodeHash, Arc<Node>>,
    /// How many children of each side may be read at a time.
    width: usize,
}

impl ReadAhead<'_> {
    /// Reads the next children in which the nodes on both sides differ, as far as both reach.
    async fn read(&mut self, left: &Frontier, right: &Frontier, range: &Range) -> Result<()> {
        let (Some((a, at_a)), Some((b, at_b))) = (left.stack.last(), right.stack.last()) else { return Ok(()) };
        let (end_a, end_b) = (range.children(a).end, range.children(b).end);
        let (mut i, mut j) = (*at_a, *at_b);
        let (mut wanted, mut found) = (Vec::new(), 0);
        while i < end_a && j < end_b && found < self.width {
            let (child_a, child_b, order) = (a.child(i).hash, b.child(j).hash, a.key(i).cmp(b.key(j)));
            if order.is_ne() || child_a != child_b {
                wanted.extend(order.is_le().then_some(child_a));
                wanted.extend(order.is_ge().then_some(child_b));
                found += 1;
            }
            i += usize::from(order.is_le());
            j += usize::from(order.is_ge());
        }
        wanted.retain(|hash| !self.ready.contains_key(hash));
        let nodes = self.reader.nodes(&wanted).await?;
        self.ready.extend(wanted.into_iter().zip(nodes));
        Ok(())
    }
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
    async fn open(reader: &mut ReadAhead<'_>, root: &NodeHash, range: &Range) -> Result<Self> {
        let mut frontier = Self { stack: Vec::new() };
        frontier.push(read(reader.reader, root).await?, range);
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

    fn entry(&self, range: &Range) -> Option<(Bytes, Bytes)> {
        let (node, index) = self.stack.last()?;
        (node.is_leaf() && !range.is_above(node.key(*index))).then(|| (node.key_bytes(*index), node.value(*index)))
    }

    fn take(&mut self, range: &Range) -> Option<(Bytes, Bytes)> {
        let entry = self.entry(range);
        self.pass();
        entry
    }

    fn pass(&mut self) {
        if let Some((_, index)) = self.stack.last_mut() {
            *index += 1;
        }
        self.pop_ended();
    }

    fn is_ready(&self, reader: &ReadAhead<'_>) -> bool {
        self.stack.last().is_some_and(|(node, index)| !node.is_leaf() && reader.ready.contains_key(&node.child(*index).hash))
    }

    async fn open_head(&mut self, reader: &mut ReadAhead<'_>, range: &Range) -> Result<()> {
        let Some((node, index)) = self.stack.last() else { return Ok(()) };
        let below = match reader.ready.remove(&node.child(*index).hash) {
            Some(below) => {
                check_child(node, *index, &below)?;
                below
            }
            None => child(reader.reader, node, *index).await?,
        };
        self.pass();
        self.push(below, range);
        Ok(())
    }
}
