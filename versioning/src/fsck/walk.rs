//! The walk over commits, nodes, entries and files, each visited once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::refs::{Start, name_refs};
use super::{Damage, Finding, FsckOptions, FsckReport, NAMED_BY_FINDING, Place};
use crate::pack::unpack;
use crate::repository::release;
use crate::store::pack_path;
use crate::tree::{Node, Shape, child_refs, entries, judge_child, judge_node, judge_root};
use crate::{Commit, CommitId, Digest, Entry, EntryOwner, Error, FileRef, Key, MetadataStore, NodeHash, Result};

/// Findings, by their place in the report.
type Found = Vec<usize>;

/// The work under way.
pub(crate) struct Walk {
    pub(super) metadata: Arc<dyn MetadataStore>,
    pub(super) objects: Arc<dyn ObjectStore>,
    options: FsckOptions,
    pub(crate) report: FsckReport,
    commits: HashMap<CommitId, Arc<Commit>>,
    parents: HashMap<CommitId, Vec<CommitId>>,
    /// What is damaged in a commit or beneath it.
    commit_findings: HashMap<CommitId, Found>,
    released: HashSet<CommitId>,
    nodes: HashMap<NodeHash, Seen>,
    files: HashMap<String, Found>,
    /// What was visited, where somebody wants to know.
    pub(crate) collected: Option<Collected>,
    /// The largest ids that entries show to be given, by mark.
    pub(crate) ids: BTreeMap<String, u64>,
    /// The largest branch id that entries show to be given.
    pub(crate) last_branch: u64,
}

/// What a walk visited, in order: a commit after those that it was reached from.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    pub(crate) commits: Vec<CommitId>,
    pub(crate) nodes: Vec<NodeHash>,
    pub(crate) files: Vec<FileRef>,
}

#[derive(Clone)]
struct Seen {
    /// `None` where it cannot be read.
    shape: Option<Shape>,
    found: Found,
}

/// Bytes that were read, or why they are damaged.
type Read = std::result::Result<(Bytes, Place), (Option<Place>, String)>;

impl Walk {
    pub(crate) fn new(metadata: Arc<dyn MetadataStore>, objects: Arc<dyn ObjectStore>, options: FsckOptions) -> Self {
        Self {
            metadata,
            objects,
            options,
            report: FsckReport::default(),
            commits: HashMap::new(),
            parents: HashMap::new(),
            commit_findings: HashMap::new(),
            released: HashSet::new(),
            nodes: HashMap::new(),
            files: HashMap::new(),
            collected: None,
            ids: BTreeMap::new(),
            last_branch: 0,
        }
    }

    /// Passes over the roots that were released.
    pub(crate) async fn skip_released(&mut self) -> Result<()> {
        self.released = release::released(self.metadata.as_ref()).await?;
        Ok(())
    }

    /// Passes over these commits' roots too.
    pub(crate) fn skip(&mut self, released: HashSet<CommitId>) {
        self.released.extend(released);
    }

    /// These commits, all before them and all that they hold.
    pub(crate) async fn history(&mut self, starts: impl IntoIterator<Item = CommitId>) -> Result<()> {
        let mut next: Vec<CommitId> = starts.into_iter().collect();
        let mut visited = Vec::new();
        while let Some(id) = next.pop() {
            if self.parents.contains_key(&id) {
                continue;
            }
            visited.push(id);
            let parents = self.commit(id).await?;
            next.extend(parents.iter().filter(|parent| !self.parents.contains_key(*parent)));
            self.parents.insert(id, parents);
        }
        for id in visited {
            self.judge_height(id);
        }
        Ok(())
    }

    /// One commit and what it holds, whatever lies before it.
    pub(crate) async fn single(&mut self, id: CommitId) -> Result<()> {
        if !self.parents.contains_key(&id) {
            let parents = self.commit(id).await?;
            self.parents.insert(id, parents);
        }
        Ok(())
    }

    /// Takes these commits as known, with all before them and all that they hold: a walk stops at them.
    pub(crate) async fn stop_at(&mut self, commits: impl IntoIterator<Item = CommitId>) -> Result<()> {
        let collected = self.collected.take();
        self.history(commits).await?;
        self.collected = collected;
        Ok(())
    }

    /// Takes these commits as known without looking at what lies before them.
    pub(crate) fn assume(&mut self, commits: impl IntoIterator<Item = CommitId>) {
        for commit in commits {
            self.parents.entry(commit).or_default();
        }
    }

    /// A commit and what it holds; answers its parents.
    async fn commit(&mut self, id: CommitId) -> Result<Vec<CommitId>> {
        self.report.counts.commits += 1;
        self.tell();
        let decoded = match self.read(&id.0, &format!("commit {id}")).await? {
            Ok((bytes, place)) => Commit::decode(&bytes).map_err(|error| (Some(place), error.to_string())),
            Err(damage) => Err(damage),
        };
        let commit = match decoded {
            Ok(commit) => Arc::new(commit),
            Err((place, reason)) => {
                let finding = Finding { place, ..Finding::new(Damage::Commit, id.to_string(), reason) };
                self.found_in(id, finding);
                return Ok(Vec::new());
            }
        };
        if let Some(collected) = &mut self.collected {
            collected.commits.push(id);
        }
        if self.released.contains(&id) {
            self.report.counts.expired += 1;
        } else {
            let found = self.root(commit.root).await?;
            self.commit_findings.entry(id).or_default().extend(found);
        }
        let parents = commit.parents.clone();
        self.commits.insert(id, commit);
        Ok(parents)
    }

    fn judge_height(&mut self, id: CommitId) {
        let Some(commit) = self.commits.get(&id) else { return };
        let above: Option<Vec<u64>> = commit.parents.iter().map(|parent| Some(self.commits.get(parent)?.height)).collect();
        let Some(above) = above else { return };
        let expected = above.iter().max().map_or(0, |height| height.saturating_add(1));
        if commit.height != expected {
            let reason = format!("its height is {}, and its parents make it {expected}", commit.height);
            self.found_in(id, Finding::new(Damage::Commit, id.to_string(), reason));
        }
    }

    fn found_in(&mut self, commit: CommitId, finding: Finding) {
        let index = self.add(finding);
        self.commit_findings.entry(commit).or_default().push(index);
    }

    fn add(&mut self, finding: Finding) -> usize {
        self.report.findings.push(finding);
        self.report.findings.len() - 1
    }

    /// A whole tree; answers what is damaged in it.
    pub(crate) async fn root(&mut self, root: NodeHash) -> Result<Found> {
        let seen = self.node(root).await?;
        if let Some(reason) = seen.shape.as_ref().and_then(|shape| judge_root(shape).err()) {
            let index = self.add(Finding::new(Damage::Node, root.to_string(), reason));
            return Ok([seen.found, vec![index]].concat());
        }
        Ok(seen.found)
    }

    fn node(&mut self, hash: NodeHash) -> BoxFuture<'_, Result<Seen>> {
        async move {
            if let Some(seen) = self.nodes.get(&hash) {
                return Ok(seen.clone());
            }
            let seen = self.new_node(hash).await?;
            self.nodes.insert(hash, seen.clone());
            Ok(seen)
        }
        .boxed()
    }

    async fn new_node(&mut self, hash: NodeHash) -> Result<Seen> {
        self.report.counts.nodes += 1;
        self.tell();
        let decoded = match self.read(&hash.0, &format!("node {hash}")).await? {
            Ok((bytes, place)) => match Node::decode(bytes) {
                Ok(node) => judge_node(&hash, &node).map(|shape| (node, shape)).map_err(|reason| (Some(place), reason)),
                Err(error) => Err((Some(place), error.to_string())),
            },
            Err(damage) => Err(damage),
        };
        let (node, mut shape) = match decoded {
            Ok(decoded) => decoded,
            Err((place, reason)) => {
                let index = self.add(Finding { place, ..Finding::new(Damage::Node, hash.to_string(), reason) });
                return Ok(Seen { shape: None, found: vec![index] });
            }
        };
        if let Some(collected) = &mut self.collected {
            collected.nodes.push(hash);
        }
        let mut found = self.beneath(&node, &mut shape).await?;
        for (key, value) in entries(&node) {
            found.extend(self.entry(key, value).await?);
        }
        found.sort_unstable();
        found.dedup();
        Ok(Seen { shape: Some(shape), found })
    }

    async fn beneath(&mut self, node: &Node, shape: &mut Shape) -> Result<Found> {
        let children = child_refs(node);
        let (mut found, mut before) = (Vec::new(), None);
        for (index, described) in children.iter().enumerate() {
            let edge = index + 1 == children.len();
            let child = self.node(described.hash).await?;
            found.extend(child.found);
            if let Some(below) = child.shape {
                if let Err(reason) = judge_child(node.level(), described, &below, before.as_ref(), edge) {
                    found.push(self.add(Finding::new(Damage::Node, described.hash.to_string(), reason)));
                }
                if index == 0 {
                    shape.first = below.first;
                }
                if edge {
                    shape.closed &= below.closed;
                }
            }
            before = Some(described.key.clone());
        }
        Ok(found)
    }

    async fn entry(&mut self, key: Bytes, value: Bytes) -> Result<Found> {
        self.report.counts.entries += 1;
        // Keys of a judged node decode.
        let Ok(key) = Key::decode(key) else { return Ok(Vec::new()) };
        let Some(owner) = self.options.owners.iter().find(|owner| owner.kind() == key.kind()).cloned() else { return Ok(Vec::new()) };
        let name = key.to_string();
        let named = match owner.entry(&Entry { key, value }) {
            Ok(named) => named,
            Err(error) if is_damage(&error) => return Ok(vec![self.add(Finding::new(Damage::Entry, name, reason(&error)))]),
            Err(error) => return Err(error),
        };
        for (mark, id) in named.ids {
            let largest = self.ids.entry(mark).or_default();
            *largest = (*largest).max(id);
        }
        self.last_branch = self.last_branch.max(named.branch.unwrap_or_default());
        let mut found = Vec::new();
        for file in named.files {
            found.extend(self.file(file, &owner).await?);
        }
        Ok(found)
    }

    fn file<'a>(&'a mut self, file: FileRef, owner: &'a Arc<dyn EntryOwner>) -> BoxFuture<'a, Result<Found>> {
        async move {
            if let Some(found) = self.files.get(&file.path) {
                return Ok(found.clone());
            }
            self.report.counts.files += 1;
            let path = file.path.clone();
            let found = self.new_file(file, owner).await?;
            self.files.insert(path, found.clone());
            Ok(found)
        }
        .boxed()
    }

    async fn new_file(&mut self, mut file: FileRef, owner: &Arc<dyn EntryOwner>) -> Result<Found> {
        let inside = match self.look(&mut file, owner).await {
            Ok(inside) => inside,
            Err(error) if is_damage(&error) => {
                let reason = format!("{}: {}", file.role, reason(&error));
                return Ok(vec![self.add(Finding::new(Damage::File, &file.path, reason))]);
            }
            Err(error) => return Err(error),
        };
        if let Some(collected) = &mut self.collected {
            collected.files.push(file);
        }
        let mut found = Vec::new();
        for file in inside {
            found.extend(self.file(file, owner).await?);
        }
        Ok(found)
    }

    /// A file's size, its content where that is known by its hash, and what its owner finds in it.
    async fn look(&self, file: &mut FileRef, owner: &Arc<dyn EntryOwner>) -> Result<Vec<FileRef>> {
        let path = Path::parse(&file.path).map_err(|error| Error::corrupt(&file.path, error.to_string()))?;
        let failed = |error| match error {
            object_store::Error::NotFound { .. } => Error::corrupt(&file.path, "it is missing"),
            error => Error::backend(format!("reading {}", file.path), error),
        };
        let size = self.objects.head(&path).await.map_err(failed)?.size;
        if let Some(expected) = file.size.filter(|expected| *expected != size) {
            return Err(Error::corrupt(&file.path, format!("it has {size} bytes and must have {expected}")));
        }
        if let Some(digest) = file.digest.filter(|_| self.options.deep || file.role == "blob") {
            let bytes = self.objects.get(&path).await.map_err(failed)?.bytes().await.map_err(failed)?;
            if Digest::of(&bytes) != digest {
                return Err(Error::corrupt(&file.path, "its bytes are not what its name says"));
            }
        }
        file.size = Some(size);
        owner.file(file, &self.objects, self.options.deep).await
    }

    /// The canonical bytes of a node or commit, past every cache.
    async fn read(&self, hash: &[u8; 32], name: &str) -> Result<Read> {
        let Some(location) = self.metadata.locate(&[*hash]).await?.pop().flatten() else {
            return Ok(Err((None, "no pack holds it".to_owned())));
        };
        let place = Place { pack: location.pack, offset: location.offset };
        let path = pack_path(&location.pack);
        let end = location.offset.saturating_add(u64::from(location.len));
        let bytes = match self.objects.get_range(&path, location.offset..end).await {
            Ok(bytes) => bytes,
            Err(object_store::Error::NotFound { .. }) => return Ok(Err((Some(place), "its pack is missing".to_owned()))),
            Err(error) => match self.objects.head(&path).await {
                Ok(meta) if meta.size < end => return Ok(Err((Some(place), format!("its pack is cut short to {} bytes", meta.size)))),
                _ => return Err(Error::backend(format!("reading {path}"), error)),
            },
        };
        Ok(match unpack(&bytes, hash, name) {
            Ok(bytes) => Ok((bytes, place)),
            Err(error) => Err((Some(place), reason(&error))),
        })
    }

    pub(super) fn tell(&self) {
        if let Some(progress) = &self.options.progress {
            progress(&self.report.counts);
        }
    }

    pub(super) fn is_damaged_commit(&self, commit: &CommitId) -> bool {
        !self.commits.contains_key(commit)
    }

    /// What is damaged in a commit, its root included.
    pub(crate) fn findings_of(&self, commit: &CommitId) -> Vec<&Finding> {
        self.commit_findings.get(commit).into_iter().flatten().map(|index| &self.report.findings[*index]).collect()
    }

    pub(super) fn file_paths(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// The report, with the commits and refs that reach each finding.
    pub(super) fn finish(mut self, starts: &[Start]) -> FsckReport {
        let mut order: Vec<_> = self.commit_findings.iter().filter(|(_, found)| !found.is_empty()).collect();
        // Newest first: those are what people look for.
        order.sort_by_key(|(commit, _)| (std::cmp::Reverse(self.commits.get(*commit).map_or(u64::MAX, |commit| commit.height)), **commit));
        for (commit, found) in order {
            let unique: std::collections::BTreeSet<_> = found.iter().copied().collect();
            for index in unique {
                let finding = &mut self.report.findings[index];
                finding.commit_count += 1;
                if finding.commits.len() < NAMED_BY_FINDING {
                    finding.commits.push(*commit);
                }
            }
        }
        name_refs(&mut self.report.findings, starts, &self.parents);
        self.report
    }
}

/// Whether an error says that something is damaged, rather than that it could not be read.
fn is_damage(error: &Error) -> bool {
    matches!(error, Error::Corrupt { .. } | Error::Invalid { .. } | Error::NoBlob(_))
}

/// What is wrong, without the name of the thing.
fn reason(error: &Error) -> String {
    match error {
        Error::Corrupt { reason, .. } => reason.clone(),
        other => other.to_string(),
    }
}
