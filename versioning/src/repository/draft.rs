//! A group of commits in the making: requests replayed one after the other on a head, nothing written yet.
//!
//! Each request sees what the ones before it in the group left. One that fails leaves no trace in the draft.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use anabranch_core::{Clock, Timestamp};
use async_trait::async_trait;
use bytes::Bytes;

use super::history::CommitReader;
use super::view::DraftView;
use crate::store::{Fresh, Store};
use crate::tree::{self, Applied, Edits, Node, NodeReader};
use crate::{
    ApplyError, BranchInfo, Change, Commit, CommitId, CommitRequest, Committed, Error, Expect, HeadChange, HeadGuard, HeadMove, HeadStep, Key,
    MetadataWrite, NodeHash, Read, Result, Root, Scan,
};

/// Commits that are not written yet, upon a head.
pub(super) struct Draft<'a> {
    store: &'a Store,
    clock: &'a dyn Clock,
    pub(super) branch: &'a BranchInfo,
    pub(super) head: CommitId,
    pub(super) commit: Arc<Commit>,
    nodes: HashMap<NodeHash, Arc<Node>>,
    commits: HashMap<CommitId, Arc<Commit>>,
    fresh: Vec<Fresh>,
    steps: Vec<HeadStep>,
    pub(super) writes: Vec<MetadataWrite>,
}

/// What a commit says besides its content.
pub(super) struct Words<'a> {
    pub(super) author: &'a str,
    pub(super) message: String,
    pub(super) metadata: BTreeMap<String, String>,
    /// How the reflog calls it.
    pub(super) action: &'static str,
}

/// What is to be written and published.
pub(super) struct Finished {
    pub(super) fresh: Vec<Fresh>,
    pub(super) head: HeadMove,
    pub(super) writes: Vec<MetadataWrite>,
}

impl<'a> Draft<'a> {
    pub(super) async fn new(store: &'a Store, clock: &'a dyn Clock, branch: &'a BranchInfo) -> Result<Self> {
        let commit = store.commit(&branch.head).await?;
        let (nodes, commits) = (HashMap::new(), HashMap::new());
        let (fresh, steps, writes) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { store, clock, branch, head: branch.head, commit, nodes, commits, fresh, steps, writes })
    }

    /// Whether there is nothing to publish.
    pub(super) fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.writes.is_empty()
    }

    pub(super) fn finish(self) -> Finished {
        let head = HeadMove { branch: self.branch.id, expected: self.branch.head, steps: self.steps };
        Finished { fresh: self.fresh, head, writes: self.writes }
    }

    /// Adds a commit.
    pub(super) async fn commit(&mut self, request: &mut CommitRequest) -> Result<Committed> {
        self.check_reads(request.base, &request.reads).await?;
        let edits = self.edits(&mut request.changes).await?;
        let applied = tree::apply(&*self, &self.commit.root, edits).await?;
        if applied.root == self.commit.root && !request.allow_empty {
            return Err(Error::NothingChanged { branch: self.branch.name.clone() });
        }
        let (author, action) = (request.author.as_str(), "commit");
        let words = Words { author, message: request.message.clone(), metadata: request.metadata.clone(), action };
        let committed = self.record(applied, vec![self.head], words).await?;
        self.writes.extend(request.metadata_writes.iter().cloned());
        Ok(committed)
    }

    /// Adds a commit of this content upon these parents and moves the head to it.
    pub(super) async fn record(&mut self, applied: Applied, parents: Vec<CommitId>, words: Words<'_>) -> Result<Committed> {
        let mut height = 0;
        for parent in &parents {
            height = height.max(CommitReader::commit(self, parent).await?.height + 1);
        }
        let Words { author, message, metadata, action } = words;
        let commit = Commit { root: applied.root, parents, height, author: author.to_owned(), message, time: self.clock.now(), metadata };
        let bytes = Bytes::from(commit.encode()?);
        let (id, commit) = (CommitId::of(&bytes), Arc::new(commit));
        let committed = Committed { commit: id, previous: self.head, root: applied.root };
        self.fresh.extend(applied.nodes.iter().map(|(hash, node)| Fresh::Node(*hash, node.clone())));
        self.fresh.push(Fresh::Commit(id, commit.clone(), bytes));
        self.nodes.extend(applied.nodes);
        self.commits.insert(id, commit.clone());
        self.step(id, commit, author, action);
        Ok(committed)
    }

    /// Asks a guard about a content that the head would get, if there is one.
    pub(super) async fn ask_guard(&self, guard: Option<&Arc<dyn HeadGuard>>, applied: Applied) -> Result<Applied> {
        let Some(guard) = guard else { return Ok(applied) };
        let overlay = Overlay { beneath: self, nodes: applied.nodes };
        let change = HeadChange { reader: &overlay, old: self.commit.root, new: applied.root };
        guard.check(&change).await.map_err(|error| self.apply_error(error))?;
        Ok(Applied { root: applied.root, nodes: overlay.nodes })
    }

    pub(super) fn step(&mut self, id: CommitId, commit: Arc<Commit>, author: &str, action: &str) {
        self.head = id;
        self.commit = commit;
        self.steps.push(HeadStep { commit: id, time: self.clock.now(), author: author.to_owned(), action: action.to_owned() });
    }

    /// Fails if anything read at the base is different now.
    async fn check_reads(&self, base: Option<CommitId>, reads: &[Read]) -> Result<()> {
        let Some(base) = base else {
            return match reads.is_empty() {
                true => Ok(()),
                false => Err(Error::invalid("commit", "it names reads but no base: give the commit that they were read at")),
            };
        };
        let (then, now) = (CommitReader::commit(self, &base).await?.root, self.commit.root);
        if then == now {
            return Ok(());
        }
        for read in reads {
            let moved = match read {
                Read::Key(key) => {
                    let (before, after) = (tree::get(self, &then, key.as_bytes()).await?, tree::get(self, &now, key.as_bytes()).await?);
                    (before != after).then(|| key.clone())
                }
                Read::Prefix(prefix) => {
                    let page = tree::diff(self, &then, &now, &Scan::prefix(prefix.clone()).limit(1)).await?;
                    page.items.into_iter().next().map(|difference| difference.key)
                }
            };
            if let Some(key) = moved {
                return Err(Error::ReadConflict { key, base });
            }
        }
        Ok(())
    }

    /// What the changes come to, each checked against what those before it left.
    async fn edits(&self, changes: &mut [Change]) -> Result<Edits> {
        let mut edits = Edits::new();
        for change in changes {
            match change {
                Change::Put { key, value, expect } => self.edit(&mut edits, key, Some(value), expect).await?,
                Change::Delete { key, expect } => self.edit(&mut edits, key, None, expect).await?,
                Change::Apply(apply) => {
                    let (overlay, root);
                    let view = if edits.is_empty() {
                        DraftView { reader: self, root: self.commit.root }
                    } else {
                        let applied = tree::apply(self, &self.commit.root, edits.clone()).await?;
                        (overlay, root) = (Overlay { beneath: self, nodes: applied.nodes }, applied.root);
                        DraftView { reader: &overlay, root }
                    };
                    let changes = apply.apply(&view).await.map_err(|error| self.apply_error(error))?;
                    for change in changes {
                        match change {
                            Change::Put { key, value, expect } => self.edit(&mut edits, &key, Some(&value), &expect).await?,
                            Change::Delete { key, expect } => self.edit(&mut edits, &key, None, &expect).await?,
                            Change::Apply(_) => return Err(Error::invalid("change", "an apply may not give another apply")),
                        }
                    }
                }
            }
        }
        Ok(edits)
    }

    async fn edit(&self, edits: &mut Edits, key: &Key, value: Option<&Bytes>, expect: &Expect) -> Result<()> {
        if let Some(value) = value {
            tree::check_entry(key, value)?;
        }
        if *expect != Expect::Any {
            let held = match edits.get(key.as_bytes()) {
                Some(edited) => edited.clone(),
                None => tree::get(self, &self.commit.root, key.as_bytes()).await?,
            };
            let expected = match expect {
                Expect::Value(expected) => Some(expected),
                Expect::Any | Expect::Absent => None,
            };
            if held.as_ref() != expected {
                return Err(Error::Expect { key: key.clone() });
            }
        }
        edits.insert(key.as_bytes().clone(), value.cloned());
        Ok(())
    }

    fn apply_error(&self, error: ApplyError) -> Error {
        match error {
            ApplyError::Stale => Error::Stale { branch: self.branch.name.clone() },
            ApplyError::Failed(error) => error,
            ApplyError::Refused(refusal) => {
                let (kind, message) = (refusal.kind(), refusal.to_string());
                let source: Box<dyn std::error::Error + Send + Sync> = refusal;
                Error::Refused { kind, message, source: source.into() }
            }
        }
    }
}

#[async_trait]
impl NodeReader for Draft<'_> {
    async fn node(&self, hash: &NodeHash) -> Result<Arc<Node>> {
        match self.nodes.get(hash) {
            Some(node) => Ok(node.clone()),
            None => self.store.node(hash).await,
        }
    }
}

#[async_trait]
impl CommitReader for Draft<'_> {
    async fn commit(&self, id: &CommitId) -> Result<Arc<Commit>> {
        match self.commits.get(id) {
            Some(commit) => Ok(commit.clone()),
            None => self.store.commit(id).await,
        }
    }
}

/// Nodes made only to look at.
pub(super) struct Overlay<'a> {
    pub(super) beneath: &'a dyn NodeReader,
    pub(super) nodes: HashMap<NodeHash, Arc<Node>>,
}

#[async_trait]
impl NodeReader for Overlay<'_> {
    async fn node(&self, hash: &NodeHash) -> Result<Arc<Node>> {
        match self.nodes.get(hash) {
            Some(node) => Ok(node.clone()),
            None => self.beneath.node(hash).await,
        }
    }
}

/// The first commit of a repository, with the empty map.
pub(super) fn first_commit(metadata: BTreeMap<String, String>, time: Timestamp) -> Result<(CommitId, Vec<Fresh>)> {
    let (root, node): (Root, _) = tree::empty();
    let (author, message) = ("anabranch".to_owned(), "an empty repository".to_owned());
    let commit = Commit { root, parents: Vec::new(), height: 0, author, message, time, metadata };
    let bytes = Bytes::from(commit.encode()?);
    let id = CommitId::of(&bytes);
    Ok((id, vec![Fresh::Node(root, node), Fresh::Commit(id, Arc::new(commit), bytes)]))
}
