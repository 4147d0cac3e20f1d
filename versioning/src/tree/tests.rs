//! The laws of the tree, against a sorted map.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::*;
use crate::{Entry, Key, KeyKind, Page, Scan};

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

#[derive(Default)]
struct Nodes {
    nodes: Mutex<HashMap<NodeHash, Arc<Node>>>,
    reads: AtomicUsize,
}

#[async_trait]
impl NodeReader for Nodes {
    async fn node(&self, hash: &NodeHash) -> Result<Arc<Node>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let node = self.nodes.lock().unwrap().get(hash).cloned();
        let node = node.ok_or_else(|| Error::corrupt(hash.to_string(), "missing"))?;
        assert_eq!(NodeHash::of(node.bytes()), *hash);
        Ok(Arc::new(Node::decode(node.bytes().clone())?))
    }
}

impl Nodes {
    fn empty() -> (Self, NodeHash) {
        let (nodes, (root, node)) = (Self::default(), empty());
        nodes.nodes.lock().unwrap().insert(root, node);
        (nodes, root)
    }

    fn apply(&self, root: NodeHash, edits: Edits) -> (NodeHash, usize) {
        let applied = block_on(apply(self, &root, edits)).unwrap();
        let made = applied.nodes.len();
        self.nodes.lock().unwrap().extend(applied.nodes);
        (applied.root, made)
    }

    fn build(&self, content: &Content) -> NodeHash {
        let (root, node) = empty();
        self.nodes.lock().unwrap().insert(root, node);
        self.apply(root, content.iter().map(|(key, value)| (key.as_bytes().clone(), Some(value.clone()))).collect()).0
    }

    fn pages(&self, root: &NodeHash, mut request: Scan) -> Vec<Entry> {
        let mut entries = Vec::new();
        loop {
            let Page { items, next } = block_on(scan(self, root, &request)).unwrap();
            assert!(items.len() <= request.limit);
            assert!(next.is_none() || !items.is_empty());
            entries.extend(items);
            match next {
                Some(next) => request.after = Some(next),
                None => return entries,
            }
        }
    }

    fn reads(&self) -> usize {
        self.reads.swap(0, Ordering::Relaxed)
    }
}

type Content = BTreeMap<Key, Bytes>;

fn key(number: u32) -> Key {
    Key::new(if number.is_multiple_of(7) { KeyKind::Table } else { KeyKind::Object }, &[&(number / 50).to_be_bytes(), &number.to_be_bytes()]).unwrap()
}

/// A value whose length is told by a class: most small, some long, a few huge.
fn value(class: u8, seed: u8) -> Bytes {
    let len = match class {
        0..=199 => usize::from(class),
        200..=250 => usize::from(class) * 20,
        _ => 300_000,
    };
    vec![seed; len].into()
}

fn edits(max: u32) -> impl Strategy<Value = Vec<(u32, Option<(u8, u8)>)>> {
    proptest::collection::vec((0..max, proptest::option::weighted(0.7, (any::<u8>(), any::<u8>()))), 0..400)
}

fn fold(content: &mut Content, batch: &[(u32, Option<(u8, u8)>)]) -> Edits {
    let mut edits = Edits::new();
    for (number, change) in batch {
        let (key, value) = (key(*number), change.map(|(class, seed)| value(class, seed)));
        edits.insert(key.as_bytes().clone(), value.clone());
        match value {
            Some(value) => content.insert(key, value),
            None => content.remove(&key),
        };
    }
    edits
}

fn entries(content: &Content) -> Vec<Entry> {
    content.iter().map(|(key, value)| Entry { key: key.clone(), value: value.clone() }).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn same_content_has_the_same_root_whatever_the_order_of_edits(batches in proptest::collection::vec(edits(3000), 1..6), order in any::<u64>()) {
        let (nodes, mut root) = Nodes::empty();
        let empty_root = root;
        let mut content = Content::new();
        for batch in &batches {
            root = nodes.apply(root, fold(&mut content, batch)).0;
            prop_assert_eq!(nodes.pages(&root, Scan::all().limit(97)), entries(&content));
        }
        prop_assert_eq!(nodes.build(&content), root);
        // One by one, in another order.
        let mut shuffled: Vec<_> = content.iter().collect();
        shuffled.sort_by_key(|(key, _)| blake3::hash(&[&order.to_be_bytes()[..], key.as_bytes()].concat()).to_hex().to_string());
        let mut other = empty_root;
        for (key, value) in shuffled.iter().take(60) {
            other = nodes.apply(other, Edits::from([(key.as_bytes().clone(), Some((*value).clone()))])).0;
        }
        let rest = shuffled.iter().skip(60).map(|(key, value)| (key.as_bytes().clone(), Some((*value).clone()))).collect();
        prop_assert_eq!(nodes.apply(other, rest).0, root);
        // And everything away again.
        let all = content.keys().map(|key| (key.as_bytes().clone(), None)).collect();
        prop_assert_eq!(nodes.apply(root, all).0, empty_root);
    }

    #[test]
    fn scans_read_what_a_sorted_map_would(batch in edits(2000), from in 0..2000u32, until in 0..2000u32, after in 0..2000u32, reverse: bool, limit in 1..80usize) {
        let (nodes, root) = Nodes::empty();
        let mut content = Content::new();
        let root = nodes.apply(root, fold(&mut content, &batch)).0;
        for number in [from, until] {
            prop_assert_eq!(block_on(get(&nodes, &root, key(number).as_bytes())).unwrap(), content.get(&key(number)).cloned());
        }
        let prefix = Key::prefix(key(from).kind(), &[&(from / 50).to_be_bytes()]).unwrap();
        let scans = [
            Scan { reverse, limit, ..Scan::all() },
            Scan { prefix: Some(prefix.clone()), reverse, limit, ..Scan::all() },
            Scan { from: Some(key(from)), until: Some(key(until)), reverse, limit, ..Scan::all() },
            Scan { prefix: Some(prefix), from: Some(key(until)), after: Some(key(after)), reverse, limit, ..Scan::all() },
        ];
        for scan in scans {
            let mut expected = entries(&content);
            expected.retain(|Entry { key, .. }| {
                scan.prefix.as_ref().is_none_or(|prefix| key.starts_with(prefix))
                    && scan.from.as_ref().is_none_or(|from| key >= from)
                    && scan.until.as_ref().is_none_or(|until| key < until)
                    && scan.after.as_ref().is_none_or(|after| if reverse { key < after } else { key > after })
            });
            if reverse {
                expected.reverse();
            }
            prop_assert_eq!(nodes.pages(&root, scan), expected);
        }
    }

    #[test]
    fn a_diff_is_exactly_what_differs(base in edits(2500), a in edits(2500), b in edits(2500), whole: bool, limit in 1..50usize) {
        let (nodes, root) = Nodes::empty();
        let mut common = Content::new();
        let base = nodes.apply(root, fold(&mut common, &base)).0;
        let (mut left, mut right) = (common.clone(), common);
        let left_root = nodes.apply(base, fold(&mut left, &a)).0;
        let right_root = nodes.apply(base, fold(&mut right, &b[..b.len().min(3)])).0;
        let mut scan = if whole { Scan::all() } else { Scan::prefix(Key::prefix(KeyKind::Object, &[&7u32.to_be_bytes()]).unwrap()) }.limit(limit);
        let prefix = scan.prefix.clone();
        let mut found = Vec::new();
        loop {
            let page = block_on(diff(&nodes, &left_root, &right_root, &scan)).unwrap();
            found.extend(page.items.into_iter().map(|difference| (difference.key, difference.left, difference.right)));
            match page.next {
                Some(next) => scan.after = Some(next),
                None => break,
            }
        }
        let keys: std::collections::BTreeSet<_> = left.keys().chain(right.keys()).cloned().collect();
        let expected: Vec<_> = keys
            .into_iter()
            .filter(|key| left.get(key) != right.get(key) && prefix.as_ref().is_none_or(|prefix| key.starts_with(prefix)))
            .map(|key| (key.clone(), left.get(&key).cloned(), right.get(&key).cloned()))
            .collect();
        prop_assert_eq!(found, expected);
    }
}

fn large() -> (Nodes, NodeHash) {
    let nodes = Nodes::default();
    let content = (0..60_000).map(|number| (key(number), value(60, number as u8))).collect();
    let root = nodes.build(&content);
    nodes.reads();
    (nodes, root)
}

#[test]
fn one_edit_reads_and_writes_a_few_nodes_only() {
    let (nodes, root) = large();
    let height = usize::from(block_on(nodes.node(&root)).unwrap().level()) + 1;
    assert!(height >= 2);
    for number in (0..60_000).step_by(5000) {
        nodes.reads();
        let (_, made) = nodes.apply(root, Edits::from([(key(number).as_bytes().clone(), Some(value(61, 1)))]));
        let reads = nodes.reads();
        assert!(made <= 3 * height && reads <= 8 * height, "{made} made, {reads} read at height {height}");
    }
}

#[test]
fn a_diff_reads_a_few_nodes_for_each_change() {
    let (nodes, root) = large();
    let edits: Edits = (0..10).map(|n| (key(n * 6000 + 17).as_bytes().clone(), Some(value(60, 99)))).collect();
    let (changed, _) = nodes.apply(root, edits);
    nodes.reads();
    let page = block_on(diff(&nodes, &root, &changed, &Scan::all())).unwrap();
    assert_eq!(page.items.len(), 10);
    let reads = nodes.reads();
    assert!(reads <= 10 * 8, "{reads}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_three_way_merge_sees_exactly_what_theirs_changed(base in edits(2500), ours in edits(2500), theirs in edits(2500), limit in 1..60usize) {
        let (nodes, root) = Nodes::empty();
        let mut common = Content::new();
        let base = nodes.apply(root, fold(&mut common, &base)).0;
        let (mut left, mut right) = (common.clone(), common.clone());
        let ours = nodes.apply(base, fold(&mut left, &ours)).0;
        let theirs = nodes.apply(base, fold(&mut right, &theirs[..theirs.len().min(120)])).0;
        let mut scan = Scan::all().limit(limit);
        let mut found = Vec::new();
        loop {
            let page = block_on(triples(&nodes, &base, &ours, &theirs, &scan)).unwrap();
            found.extend(page.items.into_iter().map(|triple| (triple.key, triple.base, triple.ours, triple.theirs)));
            match page.next {
                Some(next) => scan.after = Some(next),
                None => break,
            }
        }
        let keys: std::collections::BTreeSet<_> = common.keys().chain(right.keys()).cloned().collect();
        let changed = keys.into_iter().filter(|key| common.get(key) != right.get(key));
        let expected: Vec<_> =
            changed.map(|key| (key.clone(), common.get(&key).cloned(), left.get(&key).cloned(), right.get(&key).cloned())).collect();
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn a_three_way_merge_reads_a_few_nodes_for_each_change_of_theirs_whatever_ours_did() {
    let (nodes, root) = large();
    let edit = |number: u32, seed| (key(number).as_bytes().clone(), Some(value(60, seed)));
    let (ours, _) = nodes.apply(root, (0..20_000).map(|n| edit(n * 3, 98)).collect());
    let (theirs, _) = nodes.apply(root, (0..10).map(|n| edit(n * 6000 + 17, 99)).collect());
    nodes.reads();
    let page = block_on(triples(&nodes, &root, &ours, &theirs, &Scan::all())).unwrap();
    assert_eq!(page.items.len(), 10);
    let reads = nodes.reads();
    assert!(reads <= 10 * 12, "{reads}");
}

#[test]
fn edits_that_change_nothing_make_nothing() {
    let (nodes, root) = large();
    let same: Edits = (0..200).map(|n| (key(n * 300).as_bytes().clone(), Some(value(60, (n * 300) as u8)))).collect();
    assert_eq!(nodes.apply(root, same), (root, 0));
    assert_eq!(nodes.apply(root, Edits::from([(key(900_000).as_bytes().clone(), None)])), (root, 0));
}

#[test]
fn a_child_that_is_not_what_its_parent_says_is_told_as_damage() {
    let (nodes, root) = large();
    let top = block_on(nodes.node(&root)).unwrap();
    let (first, second) = (top.child(0).hash, top.child(1).hash);
    let wrong = nodes.nodes.lock().unwrap()[&second].clone();
    let mut moved = HashMap::from([(root, top)]);
    moved.insert(first, wrong);
    struct Unchecked(HashMap<NodeHash, Arc<Node>>);
    #[async_trait]
    impl NodeReader for Unchecked {
        async fn node(&self, hash: &NodeHash) -> Result<Arc<Node>> {
            self.0.get(hash).cloned().ok_or_else(|| Error::corrupt(hash.to_string(), "missing"))
        }
    }
    let error = block_on(get(&Unchecked(moved), &root, key(0).as_bytes())).unwrap_err();
    assert!(error.to_string().contains(&first.to_string()), "{error}");
}
