//! A three-way merge of one state of the destination, all in memory: the edits that make the destination what is wanted, the conflicts that stand in the
//! way, and what was read of the destination to come to them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use anabranch_core::BranchId;
use async_trait::async_trait;
use bytes::Bytes;

use crate::repository::draft::Overlay;
use crate::repository::view::DraftView;
use crate::tree::{self, Edits, NodeReader};
use crate::{
    ChooseSide, Conflict, Entry, Error, Key, KeyKind, MAX_CONFLICTS, MapReader, Operation, Page, Resolution, Resolver, Result, Root, Scan, Sides,
    Strategy, Triple,
};

/// Differences of two heads that are read at once rather than key by key.
const MOVED_PAGE: usize = 64;

/// Who decides which kind.
#[derive(Debug)]
pub(in crate::repository) struct Resolvers(BTreeMap<KeyKind, Arc<dyn Resolver>>);

impl Resolvers {
    pub(in crate::repository) fn new(resolvers: &[Arc<dyn Resolver>]) -> Self {
        Self(resolvers.iter().flat_map(|resolver| resolver.kinds().iter().map(|kind| (*kind, resolver.clone()))).collect())
    }

    fn of(&self, kind: KeyKind) -> &dyn Resolver {
        self.0.get(&kind).map_or(&ChooseSide, |resolver| resolver.as_ref())
    }

    /// Each resolver with those of its kinds that it decides.
    fn each(&self) -> Vec<(&Arc<dyn Resolver>, Vec<KeyKind>)> {
        let mut each: Vec<(&Arc<dyn Resolver>, Vec<KeyKind>)> = Vec::new();
        for (kind, resolver) in &self.0 {
            match each.iter_mut().find(|(known, _)| Arc::ptr_eq(known, resolver)) {
                Some((_, kinds)) => kinds.push(*kind),
                None => each.push((resolver, vec![*kind])),
            }
        }
        each
    }
}

/// The three sides.
pub(in crate::repository) struct Trees<'a> {
    pub(in crate::repository) reader: &'a dyn NodeReader,
    pub(in crate::repository) base: Root,
    pub(in crate::repository) ours: Root,
    pub(in crate::repository) theirs: Root,
    pub(in crate::repository) into: BranchId,
}

/// What a three-way merge comes to.
#[derive(Clone, Default)]
pub(in crate::repository) struct ThreeWay {
    /// What to change on the destination, conflicts apart.
    pub(in crate::repository) edits: Edits,
    pub(in crate::repository) conflicts: Conflicts,
    /// What it rests on at the destination.
    pub(in crate::repository) reads: Reads,
}

impl fmt::Debug for ThreeWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreeWay").field("edits", &self.edits.len()).field("conflicts", &self.conflicts.total).finish_non_exhaustive()
    }
}

/// Conflicts in the order of keys.
#[derive(Debug, Clone, Default)]
pub(in crate::repository) struct Conflicts {
    pub(in crate::repository) listed: Vec<Conflict>,
    pub(in crate::repository) total: u64,
}

/// Keys and prefixes of the destination.
#[derive(Debug, Clone, Default)]
pub(in crate::repository) struct Reads {
    keys: Vec<Bytes>,
    prefixes: Vec<Bytes>,
    all: bool,
}

impl Reads {
    fn scan(&mut self, scan: &Scan) {
        match &scan.prefix {
            Some(prefix) => self.prefix(prefix),
            None => self.all = true,
        }
    }

    fn prefix(&mut self, prefix: &Key) {
        if !self.prefixes.contains(prefix.as_bytes()) {
            self.prefixes.push(prefix.as_bytes().clone());
        }
    }

    fn settle(&mut self) {
        self.keys.sort_unstable();
        self.keys.dedup();
    }

    fn contains(&self, key: &Bytes) -> bool {
        self.all || self.keys.binary_search(key).is_ok() || self.prefixes.iter().any(|prefix| key.starts_with(prefix))
    }
}

/// Whether anything of what was read differs between two states: by their differences where these are few, else key by key.
pub(in crate::repository) async fn moved(reader: &dyn NodeReader, then: &Root, now: &Root, reads: &Reads) -> Result<bool> {
    if then == now {
        return Ok(false);
    }
    let few = reads.keys.len().max(MOVED_PAGE);
    let page = tree::diff(reader, then, now, &Scan::all().limit(few)).await?;
    if page.items.iter().any(|difference| reads.contains(difference.key.as_bytes())) {
        return Ok(true);
    }
    let Some(last) = page.next else { return Ok(false) };
    if reads.all {
        return Ok(true);
    }
    for prefix in &reads.prefixes {
        let scan = Scan::prefix(Key::decode(prefix.clone())?).limit(1);
        if !tree::diff(reader, then, now, &scan).await?.items.is_empty() {
            return Ok(true);
        }
    }
    let rest = reads.keys.partition_point(|key| key <= last.as_bytes());
    for key in &reads.keys[rest..] {
        if tree::get(reader, then, key).await? != tree::get(reader, now, key).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Merges, reading only what theirs changed and what resolvers ask for.
pub(in crate::repository) async fn three_way(trees: &Trees<'_>, operation: Operation, strategy: Strategy, resolvers: &Resolvers) -> Result<ThreeWay> {
    let recorded = Mutex::new(Reads::default());
    let view = |root| DraftView { reader: trees.reader, root };
    let ours = Recorder { view: view(trees.ours), reads: &recorded };
    let (base, theirs) = (view(trees.base), view(trees.theirs));
    let sides = Sides { base: &base, ours: &ours, theirs: &theirs, into: trees.into };
    let merging = Merging { trees, operation, strategy, resolvers, sides, merged: ThreeWay::default() };
    let mut merged = merging.run(&recorded).await?;
    let recorded = recorded.into_inner().unwrap_or_else(PoisonError::into_inner);
    merged.reads.keys.extend(recorded.keys);
    merged.reads.prefixes.extend(recorded.prefixes);
    merged.reads.all |= recorded.all;
    merged.reads.settle();
    merged.conflicts.listed.sort_by(|a, b| a.key.cmp(&b.key));
    merged.conflicts.listed.truncate(MAX_CONFLICTS);
    Ok(merged)
}

struct Merging<'a> {
    trees: &'a Trees<'a>,
    operation: Operation,
    strategy: Strategy,
    resolvers: &'a Resolvers,
    sides: Sides<'a>,
    merged: ThreeWay,
}

impl Merging<'_> {
    async fn run(mut self, recorded: &Mutex<Reads>) -> Result<ThreeWay> {
        let (mut scan, mut units) = (Scan::all(), Units::default());
        loop {
            let Trees { reader, base, ours, theirs, .. } = self.trees;
            let page = tree::triples(*reader, base, ours, theirs, &scan).await?;
            for change in page.items {
                self.merged.reads.keys.push(change.key.as_bytes().clone());
                let scope = self.resolvers.of(change.key.kind()).scope(&change)?;
                if scope.is_empty() { self.decide_one(change).await? } else { units.add(scope, change) }
            }
            match page.next {
                Some(next) => scan.after = Some(next),
                None => break,
            }
        }
        for (scopes, changes) in units.finish() {
            self.decide_unit(&scopes, changes).await?;
        }
        self.check(recorded).await?;
        Ok(self.merged)
    }

    async fn decide_one(&mut self, change: Triple) -> Result<()> {
        if change.ours == change.theirs {
            return Ok(());
        }
        let changes = [change];
        let resolution = self.resolvers.of(changes[0].key.kind()).resolve(self.operation, &changes, &self.sides).await?;
        self.settle(&changes, resolution)
    }

    async fn decide_unit(&mut self, scopes: &[Key], mut changes: Vec<Triple>) -> Result<()> {
        changes.sort_by(|a, b| a.key.cmp(&b.key));
        let by_theirs = changes.len();
        for scope in scopes {
            self.merged.reads.prefix(scope);
            let mut scan = Scan::prefix(scope.clone());
            loop {
                let page = tree::diff(self.trees.reader, &self.trees.base, &self.trees.ours, &scan).await?;
                for difference in page.items {
                    if changes[..by_theirs].binary_search_by(|change| change.key.cmp(&difference.key)).is_err() {
                        let (theirs, base) = (difference.left.clone(), difference.left);
                        changes.push(Triple { key: difference.key, base, ours: difference.right, theirs });
                    }
                }
                match page.next {
                    Some(next) => scan.after = Some(next),
                    None => break,
                }
            }
        }
        changes.sort_by(|a, b| a.key.cmp(&b.key));
        changes.dedup_by(|a, b| a.key == b.key);
        if changes.iter().all(|change| change.ours == change.theirs) {
            return Ok(());
        }
        let Some(kind) = changes.iter().find(|change| change.changed_by_theirs()).map(|change| change.key.kind()) else { return Ok(()) };
        let resolution = match changes.iter().any(Triple::changed_by_ours) {
            true => self.resolvers.of(kind).resolve(self.operation, &changes, &self.sides).await?,
            false => Resolution::Theirs,
        };
        self.settle(&changes, resolution)
    }

    fn settle(&mut self, changes: &[Triple], resolution: Resolution) -> Result<()> {
        match (resolution, self.strategy) {
            (Resolution::Ours, _) | (Resolution::Conflict(_), Strategy::Ours) => {}
            (Resolution::Theirs, _) | (Resolution::Conflict(_), Strategy::Theirs) => {
                for change in changes.iter().filter(|change| change.ours != change.theirs) {
                    self.merged.edits.insert(change.key.as_bytes().clone(), change.theirs.clone());
                }
            }
            (Resolution::Value(value), _) => match changes {
                [change] => self.edit(&change.key, value)?,
                _ => return Err(Error::invalid("resolver", "one value cannot decide several keys")),
            },
            (Resolution::Values(values), _) => {
                for (key, value) in values {
                    self.edit(&key, value)?;
                }
            }
            (Resolution::Conflict(reason), Strategy::Default) => {
                let both = changes.iter().filter(|change| change.changed_by_ours() && change.changed_by_theirs() && change.ours != change.theirs);
                let both: Vec<_> = both.collect();
                let named = if both.is_empty() { changes.iter().collect() } else { both };
                for Triple { key, base, ours, theirs } in named.into_iter().cloned() {
                    self.conflict(Conflict { key, base, ours, theirs, reason: reason.clone() });
                }
            }
        }
        Ok(())
    }

    fn edit(&mut self, key: &Key, value: Option<Bytes>) -> Result<()> {
        if let Some(value) = &value {
            tree::check_entry(key, value)?;
        }
        self.merged.edits.insert(key.as_bytes().clone(), value);
        Ok(())
    }

    fn conflict(&mut self, conflict: Conflict) {
        self.merged.conflicts.total += 1;
        // Units come after single keys: twice the room, so that the first in order are among them.
        if self.merged.conflicts.listed.len() < 2 * MAX_CONFLICTS {
            self.merged.conflicts.listed.push(conflict);
        }
    }

    /// Has the merged map judged by those whose keys were changed. While there are conflicts there is no such map.
    async fn check(&mut self, recorded: &Mutex<Reads>) -> Result<()> {
        if self.merged.conflicts.total > 0 {
            return Ok(());
        }
        let mut touched: BTreeMap<KeyKind, Vec<Key>> = BTreeMap::new();
        for key in self.merged.edits.keys() {
            let key = Key::decode(key.clone())?;
            if self.resolvers.0.contains_key(&key.kind()) {
                touched.entry(key.kind()).or_default().push(key);
            }
        }
        if touched.is_empty() {
            return Ok(());
        }
        let applied = tree::apply(self.trees.reader, &self.trees.ours, self.merged.edits.clone()).await?;
        let overlay = Overlay { beneath: self.trees.reader, nodes: applied.nodes };
        let candidate = Recorder { view: DraftView { reader: &overlay, root: applied.root }, reads: recorded };
        let resolvers = self.resolvers;
        for (resolver, kinds) in resolvers.each() {
            let keys: Vec<Key> = kinds.iter().filter_map(|kind| touched.get(kind)).flatten().cloned().collect();
            if keys.is_empty() {
                continue;
            }
            for (key, reason) in resolver.check(&candidate, &keys).await? {
                let Trees { reader, base, ours, theirs, .. } = self.trees;
                let get = async |root: &Root| tree::get(*reader, root, key.as_bytes()).await;
                let (base, ours, theirs) = (get(base).await?, get(ours).await?, get(theirs).await?);
                self.conflict(Conflict { key: key.clone(), base, ours, theirs, reason });
            }
        }
        Ok(())
    }
}

/// Changes that are decided together, found by the prefixes that they have in common.
#[derive(Default)]
struct Units {
    of: BTreeMap<Key, usize>,
    /// A union-find forest.
    parents: Vec<usize>,
    changes: Vec<Triple>,
}

impl Units {
    fn add(&mut self, scope: Vec<Key>, change: Triple) {
        let new = self.parents.len();
        self.parents.push(new);
        self.changes.push(change);
        for prefix in scope {
            match self.of.get(&prefix) {
                Some(unit) => {
                    let root = self.root(*unit);
                    let own = self.root(new);
                    self.parents[own] = root;
                }
                None => {
                    self.of.insert(prefix, new);
                }
            }
        }
    }

    fn root(&mut self, mut unit: usize) -> usize {
        while self.parents[unit] != unit {
            self.parents[unit] = self.parents[self.parents[unit]];
            unit = self.parents[unit];
        }
        unit
    }

    fn finish(mut self) -> Vec<(Vec<Key>, Vec<Triple>)> {
        let mut units: BTreeMap<usize, (Vec<Key>, Vec<Triple>)> = BTreeMap::new();
        for (prefix, unit) in std::mem::take(&mut self.of) {
            let root = self.root(unit);
            units.entry(root).or_default().0.push(prefix);
        }
        for (unit, change) in std::mem::take(&mut self.changes).into_iter().enumerate() {
            let root = self.root(unit);
            units.entry(root).or_default().1.push(change);
        }
        units.into_values().collect()
    }
}

/// Notes what is read.
struct Recorder<'a> {
    view: DraftView<'a>,
    reads: &'a Mutex<Reads>,
}

#[async_trait]
impl MapReader for Recorder<'_> {
    async fn get(&self, key: &Key) -> Result<Option<Bytes>> {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner).keys.push(key.as_bytes().clone());
        self.view.get(key).await
    }

    async fn scan(&self, scan: &Scan) -> Result<Page<Entry>> {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner).scan(scan);
        self.view.scan(scan).await
    }
}
