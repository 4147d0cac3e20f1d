//! A repository: branches, tags and commits over one object store and one metadata store.
//!
//! Reading goes by commit ids and never waits for writers. Writing goes through the committer of the branch ([`committer`]), which makes groups of commits
//! durable; what was acknowledged survives loss of power if the two stores keep their contracts. Several repositories may share a process; each has
//! stores of its own.

mod committer;
mod compaction;
mod draft;
mod history;
mod lease;
mod merge;
mod names;
mod objects;
pub(crate) mod release;
mod replay;
mod reset;
#[cfg(test)]
mod tests;
mod view;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anabranch_core::{Clock, Ids};
use bytes::Bytes;
use object_store::ObjectStore;

pub use compaction::{Compaction, CompactionOptions};
pub(crate) use history::CommitReader;
pub(crate) use history::ancestry::is_ancestor;
pub use history::{LogCursor, LogPage, LogQuery};
pub use lease::LeaseOptions;
pub use release::Released;
pub use view::MapView;

use crate::metadata::check_writes;
use crate::store::Store;
use crate::{
    BranchInfo, Commit, CommitId, CommitRequest, Committed, Difference, Digest, Entry, Key, KeyKind, MapReader, MetadataStore, Page, Publication,
    Resolver, Result, Scan, Union, tree,
};
use committer::{Committers, Job};
use merge::Resolvers;

/// The branch that every repository has.
const MAIN: &str = "main";

/// How a repository is opened.
#[derive(Debug, Clone)]
pub struct RepositoryOptions {
    /// What it is called; a process may hold several.
    pub name: String,
    /// How many bytes of nodes, commits and blobs are kept in memory.
    pub cache_bytes: u64,
    /// The most commits that go out as one pack and one transaction.
    pub group_limit: usize,
    /// Who decides the merges of which kinds; see [`Resolver`].
    pub resolvers: Vec<Arc<dyn Resolver>>,
    /// Where several servers share the repository: how a committer takes turns with the others'. Without it this process must be the only one that commits.
    pub lease: Option<LeaseOptions>,
}

impl Default for RepositoryOptions {
    fn default() -> Self {
        // What is named by the hash of what was read speaks for whatever commit that hash is true of.
        let resolvers: Vec<Arc<dyn Resolver>> = vec![Arc::new(Union::of([KeyKind::Evidence]))];
        Self { name: "default".to_owned(), cache_bytes: 64 << 20, group_limit: 256, resolvers, lease: None }
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

/// The versioned map with its branches and history.
#[derive(Debug)]
pub struct Repository {
    name: String,
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    committers: Committers,
    ids: Arc<dyn Ids>,
    resolvers: Arc<Resolvers>,
    /// Whether any root was ever released; only then is looked for it.
    releases: AtomicBool,
}

impl Repository {
    /// Opens a repository; the first time it gets a branch `main` with an empty commit.
    ///
    /// # Errors
    /// The stores' failures.
    pub async fn open(
        metadata: Arc<dyn MetadataStore>,
        objects: Arc<dyn ObjectStore>,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn Ids>,
        options: RepositoryOptions,
    ) -> Result<Arc<Self>> {
        let store = Arc::new(Store::new(metadata, objects, options.cache_bytes));
        if store.metadata.branch(MAIN).await?.is_none() {
            // The id tells the histories of two repositories apart from their first commit on.
            let words = BTreeMap::from([("repository".to_owned(), format!("{:032x}", ids.random()))]);
            let (head, fresh) = draft::first_commit(words, clock.now())?;
            let pack = store.write_pack(&fresh).await?;
            store.metadata.publish(&Publication { pack, ..Publication::default() }).await?;
            // If another server was faster, its commit is the first and ours is garbage.
            store.metadata.create_branch(MAIN, &head, clock.now(), "anabranch").await?;
        }
        let resolvers = Arc::new(Resolvers::new(&options.resolvers));
        let lease = options.lease.map(|lease| lease.of_this_instance(ids.as_ref()));
        let committers = Committers::new(store.clone(), clock.clone(), options.group_limit, lease);
        let releases = AtomicBool::new(release::any_released(store.metadata.as_ref()).await?);
        Ok(Arc::new(Self { name: options.name, store, clock, committers, ids, resolvers, releases }))
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is mutable: values, marks, epochs.
    pub fn metadata(&self) -> &Arc<dyn MetadataStore> {
        &self.store.metadata
    }

    /// Waits for the commits under way and ends the committers; later commits are [`crate::Error::Closing`].
    pub async fn close(&self) {
        self.committers.close().await;
    }

    /// The map at a commit.
    ///
    /// # Errors
    /// [`crate::Error::NoCommit`]; [`crate::Error::Expired`] where its content was released.
    pub async fn at(&self, commit: &CommitId) -> Result<MapView> {
        self.check_kept(commit).await?;
        Ok(MapView { store: self.store.clone(), root: self.store.commit(commit).await?.root })
    }

    /// The value of a key at a commit.
    ///
    /// # Errors
    /// [`crate::Error::NoCommit`].
    pub async fn get(&self, commit: &CommitId, key: &Key) -> Result<Option<Bytes>> {
        self.at(commit).await?.get(key).await
    }

    /// A page of entries at a commit, in the order of keys.
    ///
    /// # Errors
    /// [`crate::Error::NoCommit`]; invalid for a limit of 0.
    pub async fn scan(&self, commit: &CommitId, scan: &Scan) -> Result<Page<Entry>> {
        self.at(commit).await?.scan(scan).await
    }

    /// A page of what differs between two commits, in the order of keys; forward only.
    ///
    /// # Errors
    /// [`crate::Error::NoCommit`]; invalid for a limit of 0 or a reverse scan.
    pub async fn diff(&self, left: &CommitId, right: &CommitId, scan: &Scan) -> Result<Page<Difference>> {
        let (left, right) = (self.at(left).await?.root, self.at(right).await?.root);
        tree::diff(self.store.as_ref(), &left, &right, scan).await
    }

    /// Commits changes on the head of a branch, atomically and durably. Requests on one branch do not exclude each other: they meet only in what they
    /// expect and read.
    ///
    /// # Errors
    /// [`Expect`](crate::Error::Expect), [`ReadConflict`](crate::Error::ReadConflict), [`Stale`](crate::Error::Stale) and
    /// [`Refused`](crate::Error::Refused) say that this request does not fit the head; [`NothingChanged`](crate::Error::NothingChanged) that it would do
    /// nothing. Nothing is changed then, nor after [`Unavailable`](crate::Error::Unavailable) and [`Full`](crate::Error::Full); only
    /// [`OutcomeUnknown`](crate::Error::OutcomeUnknown) leaves open whether the commit was made.
    pub async fn commit(&self, branch: &str, request: CommitRequest) -> Result<Committed> {
        self.branch(branch).await?;
        check_writes(&request.metadata_writes)?;
        self.committers.ask(branch, |answer| Job::Commit(Box::new(request), answer)).await
    }

    /// Stores a small file (at most 64 MiB) under the hash of its content, durably.
    ///
    /// # Errors
    /// Invalid if it is too long; the object store's.
    pub async fn put_blob(&self, bytes: Bytes) -> Result<Digest> {
        self.store.put_blob(bytes).await
    }

    /// A small file, verified against its name.
    ///
    /// # Errors
    /// [`crate::Error::NoBlob`].
    pub async fn blob(&self, digest: &Digest) -> Result<Bytes> {
        self.store.blob(digest).await
    }
}
