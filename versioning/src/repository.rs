//! A repository: branches, tags and commits over one object store and one metadata store.

use std::sync::Arc;

use anabranch_core::{BranchId, Clock, Ids};
use async_trait::async_trait;
use bytes::Bytes;
use object_store::ObjectStore;

use crate::{
    BranchInfo, Commit, CommitId, CommitRequest, Committed, Difference, Digest, Entry, Error, Key, MapReader, MetadataStore, MetadataWrite, Page,
    RefSpec, ReflogEntry, Result, Root, Scan, TagInfo,
};

/// How a repository is opened.
#[derive(Debug, Clone)]
pub struct RepositoryOptions {
    /// What it is called; a process may hold several.
    pub name: String,
    /// How many bytes of nodes and commits are kept in memory.
    pub cache_bytes: u64,
    /// The most commits that go out as one pack and one transaction.
    pub group_limit: usize,
}

impl Default for RepositoryOptions {
    fn default() -> Self {
        Self { name: "default".to_owned(), cache_bytes: 64 << 20, group_limit: 256 }
    }
}

/// A ref that was looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The commit.
    pub commit: CommitId,
    /// The branch, where the ref is one without steps: such a ref can be written to.
    pub branch: Option<BranchInfo>,
}

/// A commit with its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitInfo {
    /// Its name.
    pub id: CommitId,
    /// The commit.
    pub commit: Arc<Commit>,
}

/// A part of the history by first parents, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPage {
    /// The commits.
    pub commits: Vec<CommitInfo>,
    /// Where the next part begins.
    pub next: Option<CommitId>,
}

/// A head to be moved forward to what another ref has.
#[derive(Debug, Clone)]
pub struct MergeRequest {
    /// What is merged.
    pub source: RefSpec,
    /// Who does it.
    pub author: String,
    /// Made in the head's own transaction, also when the head is up to date.
    pub metadata_writes: Vec<MetadataWrite>,
}

/// What a merge did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merge {
    /// The head has all of the source already.
    UpToDate {
        /// The head.
        head: CommitId,
    },
    /// The head was moved forward.
    FastForward {
        /// From here.
        from: CommitId,
        /// To here.
        to: CommitId,
    },
}

/// The versioned map with its branches and history.
#[derive(Debug)]
pub struct Repository {
    name: String,
}

#[expect(unused_variables, clippy::unused_async, reason = "being written")]
impl Repository {
    /// Opens a repository; the first time it gets a branch `main` with an empty commit.
    pub async fn open(
        metadata: Arc<dyn MetadataStore>,
        objects: Arc<dyn ObjectStore>,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn Ids>,
        options: RepositoryOptions,
    ) -> Result<Arc<Self>> {
        Err(Error::Closing)
    }
    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }
    /// Waits for the commits under way and ends the committers; later commits are [`Error::Closing`].
    pub async fn close(&self) {}
    /// What is mutable: values, marks, epochs.
    pub fn metadata(&self) -> &Arc<dyn MetadataStore> {
        unimplemented!()
    }
    /// Looks a ref up.
    pub async fn resolve(&self, spec: &RefSpec) -> Result<Resolved> {
        Err(Error::Closing)
    }
    /// A commit.
    pub async fn commit_info(&self, id: &CommitId) -> Result<CommitInfo> {
        Err(Error::Closing)
    }
    /// History by first parents from a commit on, newest first.
    pub async fn log(&self, from: &CommitId, limit: usize) -> Result<LogPage> {
        Err(Error::Closing)
    }
    /// Whether `ancestor` is `commit` or lies before it.
    pub async fn is_ancestor(&self, ancestor: &CommitId, commit: &CommitId) -> Result<bool> {
        Err(Error::Closing)
    }
    /// The map at a commit.
    pub async fn at(&self, commit: &CommitId) -> Result<MapView> {
        Err(Error::Closing)
    }
    /// A value at a commit.
    pub async fn get(&self, commit: &CommitId, key: &Key) -> Result<Option<Bytes>> {
        Err(Error::Closing)
    }
    /// A page of entries at a commit.
    pub async fn scan(&self, commit: &CommitId, scan: &Scan) -> Result<Page<Entry>> {
        Err(Error::Closing)
    }
    /// A page of what differs between two commits; forward only.
    pub async fn diff(&self, left: &CommitId, right: &CommitId, scan: &Scan) -> Result<Page<Difference>> {
        Err(Error::Closing)
    }
    /// Commits.
    pub async fn commit(&self, branch: &str, request: CommitRequest) -> Result<Committed> {
        Err(Error::Closing)
    }
    /// Moves a head forward.
    pub async fn merge(&self, into: &str, request: MergeRequest) -> Result<Merge> {
        Err(Error::Closing)
    }
    /// Makes a branch; nothing is copied.
    pub async fn create_branch(&self, name: &str, from: &RefSpec, author: &str) -> Result<BranchInfo> {
        Err(Error::Closing)
    }
    /// Deletes a branch.
    pub async fn delete_branch(&self, name: &str) -> Result<()> {
        Err(Error::Closing)
    }
    /// Protects a branch from being deleted, or no longer.
    pub async fn protect_branch(&self, name: &str, protected: bool) -> Result<()> {
        Err(Error::Closing)
    }
    /// A branch.
    pub async fn branch(&self, name: &str) -> Result<BranchInfo> {
        Err(Error::Closing)
    }
    /// All branches by name.
    pub async fn branches(&self) -> Result<Vec<BranchInfo>> {
        Err(Error::Closing)
    }
    /// The moves of a branch's head, newest first.
    pub async fn reflog(&self, branch: BranchId, before: Option<u64>, limit: usize) -> Result<Vec<ReflogEntry>> {
        Err(Error::Closing)
    }
    /// Makes a tag.
    pub async fn create_tag(&self, name: &str, of: &RefSpec) -> Result<TagInfo> {
        Err(Error::Closing)
    }
    /// Deletes a tag.
    pub async fn delete_tag(&self, name: &str) -> Result<()> {
        Err(Error::Closing)
    }
    /// All tags by name.
    pub async fn tags(&self) -> Result<Vec<TagInfo>> {
        Err(Error::Closing)
    }
    /// Stores a small file under the hash of its content, durably.
    pub async fn put_blob(&self, bytes: Bytes) -> Result<Digest> {
        Err(Error::Closing)
    }
    /// A small file, verified.
    pub async fn blob(&self, digest: &Digest) -> Result<Bytes> {
        Err(Error::Closing)
    }
}

/// The map at one root.
#[derive(Debug, Clone)]
pub struct MapView {
    root: Root,
}

impl MapView {
    /// The name of the content.
    pub fn root(&self) -> Root {
        self.root
    }
}

#[async_trait]
impl MapReader for MapView {
    async fn get(&self, _key: &Key) -> Result<Option<Bytes>> {
        Err(Error::Closing)
    }
    async fn scan(&self, _scan: &Scan) -> Result<Page<Entry>> {
        Err(Error::Closing)
    }
}
