//! What is mutable: branch heads and their reflog, tags, id marks, epochs, small values, and the index that says which pack holds which node.
//!
//! [`MetadataStore`] is the contract; [`MemoryMetadata`], [`SqliteMetadata`] and [`PostgresMetadata`] keep it, and
//! [`crate::testkit::metadata_laws`] is run on each. A store holds one repository. A database of a newer schema is refused, an older one is migrated.

mod lease;
mod memory;
mod postgres;
mod sql;
mod sqlite;

use std::collections::BTreeMap;
use std::fmt;

use anabranch_core::{BranchId, Timestamp};
use async_trait::async_trait;
use bytes::Bytes;

pub(crate) use lease::branch_lease;
use lease::check_holder;
pub use lease::{Fence, LeaseState};
pub use memory::MemoryMetadata;
pub use postgres::PostgresMetadata;
pub use sqlite::SqliteMetadata;

use crate::{CommitId, PackId, PackIndex, Result};

/// A branch as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BranchInfo {
    /// Never reused, also when a branch of the same name is made again.
    pub id: BranchId,
    /// The name.
    pub name: String,
    /// The commit that it points to.
    pub head: CommitId,
    /// Whether deleting it is refused.
    pub protected: bool,
    /// When it was made.
    pub created: Timestamp,
}

/// A tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagInfo {
    /// The name.
    pub name: String,
    /// The commit that it names.
    pub commit: CommitId,
    /// When it was made.
    pub created: Timestamp,
}

/// One move of a branch's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReflogEntry {
    /// Grows with every entry; the order of moves, whatever the clock said.
    pub seq: u64,
    /// Where the head was; `None` where the branch was made.
    pub old: Option<CommitId>,
    /// Where it went.
    pub new: CommitId,
    /// When, by the clock of the server that moved it.
    pub time: Timestamp,
    /// Who.
    pub author: String,
    /// How: `commit`, `merge`, `create`.
    pub action: String,
}

/// Where the bytes of a node or commit lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// The pack.
    pub pack: PackId,
    /// The first byte of the entry in it.
    pub offset: u64,
    /// The length of the entry.
    pub len: u32,
}

/// A write that travels with a head move, in the same transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum MetadataWrite {
    /// Sets a value.
    Put {
        /// A table of values, one for each use.
        space: String,
        /// The key in it.
        key: Bytes,
        /// The value.
        value: Bytes,
    },
    /// Removes a value.
    Delete {
        /// A table of values, one for each use.
        space: String,
        /// The key in it.
        key: Bytes,
    },
    /// Sees to it that a mark is at least `to`.
    RaiseMark {
        /// The mark.
        name: String,
        /// The next id that it may give.
        to: u64,
    },
    /// Makes an epoch one larger; the first bump makes it 1.
    BumpEpoch {
        /// The tag whose epoch it is.
        tag: String,
    },
}

/// One step of a head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadStep {
    /// The commit that it moves to.
    pub commit: CommitId,
    /// When.
    pub time: Timestamp,
    /// Who.
    pub author: String,
    /// How: `commit` or `merge`.
    pub action: String,
}

/// A move of one head, by compare-and-set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadMove {
    /// The branch.
    pub branch: BranchId,
    /// Where its head must be.
    pub expected: CommitId,
    /// The steps in order, a reflog entry each; the head ends at the last.
    pub steps: Vec<HeadStep>,
}

/// What one transaction makes visible, all of it or nothing.
#[derive(Debug, Clone, Default)]
pub struct Publication {
    /// The pack that is already durable in the object store, to be indexed. Hashes that an earlier pack holds keep their place.
    pub pack: Option<PackIndex>,
    /// The head to be moved.
    pub head: Option<HeadMove>,
    /// The writes that go with it, in order.
    pub writes: Vec<MetadataWrite>,
    /// The lease that must still be held under this token. What passes it has renewed it.
    pub fence: Option<Fence>,
}

/// What became of a renaming.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Renamed {
    /// The branch under its new name.
    Done(BranchInfo),
    /// There is no branch of this name and id that is not protected.
    NoBranch,
    /// Another branch has the new name.
    Taken,
}

/// A pack and what of it is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackSummary {
    /// The pack.
    pub id: PackId,
    /// How many nodes and commits are looked up in it. Those that an earlier pack holds are not.
    pub entries: u64,
    /// Its size in bytes.
    pub bytes: u64,
}

/// Everything mutable of a repository but its incarnation, the leases and the index of packs, in the order of names, keys and numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MetadataDump {
    /// The largest id that a branch ever had.
    pub last_branch: u64,
    /// The branches, by name.
    pub branches: Vec<BranchInfo>,
    /// The moves of all heads, also of branches that are gone, by their number.
    pub reflog: Vec<(BranchId, ReflogEntry)>,
    /// The tags, by name.
    pub tags: Vec<TagInfo>,
    /// Space, key and value.
    pub values: Vec<(String, Bytes, Bytes)>,
    /// The next id of every mark.
    pub marks: BTreeMap<String, u64>,
    /// The epoch of every tag.
    pub epochs: BTreeMap<String, u64>,
}

/// Holds what is mutable of one repository.
///
/// Every method is one transaction: atomic, durable when it returns `Ok`, and after `Err` it was done as a whole or not at all. What one caller was told is
/// seen by every later call of any caller (linearisable). Names are exact bytes and lists come in byte order. Times are only recorded: nothing is
/// decided by them but [`MetadataStore::head_at`].
#[async_trait]
pub trait MetadataStore: Send + Sync + fmt::Debug + 'static {
    /// Random, made with the database: a restored or new database has another.
    async fn incarnation(&self) -> Result<u128>;

    /// Publishes, or publishes nothing and answers `false`: if the head is not where the move expects it, if the branch is gone, or if the lease of the
    /// fence has changed hands.
    async fn publish(&self, publication: &Publication) -> Result<bool>;
    /// Where these nodes or commits lie, in the order asked.
    async fn locate(&self, hashes: &[[u8; 32]]) -> Result<Vec<Option<Location>>>;
    /// At most `limit` indexed commits with `low <= id <= high`, in order.
    async fn commits_between(&self, low: &CommitId, high: &CommitId, limit: usize) -> Result<Vec<CommitId>>;

    /// Makes a branch; `None` if the name is taken.
    async fn create_branch(&self, name: &str, head: &CommitId, time: Timestamp, author: &str) -> Result<Option<BranchInfo>>;
    /// Deletes a branch if it has this id and is not protected; its reflog stays. Answers whether it did.
    async fn delete_branch(&self, name: &str, id: BranchId) -> Result<bool>;
    /// Gives a branch another name if it has this id and is not protected; its id and reflog stay.
    async fn rename_branch(&self, name: &str, id: BranchId, new: &str) -> Result<Renamed>;
    /// Protects a branch from being deleted or renamed, or no longer. Answers whether there is such a branch.
    async fn protect_branch(&self, name: &str, protected: bool) -> Result<bool>;
    /// The branch of this name.
    async fn branch(&self, name: &str) -> Result<Option<BranchInfo>>;
    /// All branches by name.
    async fn branches(&self) -> Result<Vec<BranchInfo>>;
    /// At most `limit` branches whose name begins with `prefix` and comes after `after`, by name.
    async fn branches_page(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<BranchInfo>>;
    /// The moves of a branch's head, newest first, at most `limit` with `seq < before`.
    async fn reflog(&self, branch: BranchId, before: Option<u64>, limit: usize) -> Result<Vec<ReflogEntry>>;
    /// Where a branch's head was: the last move whose time is not after `time`.
    async fn head_at(&self, branch: BranchId, time: Timestamp) -> Result<Option<CommitId>>;

    /// Makes a tag; `None` if the name is taken.
    async fn create_tag(&self, name: &str, commit: &CommitId, time: Timestamp) -> Result<Option<TagInfo>>;
    /// Deletes a tag. Answers whether there was one.
    async fn delete_tag(&self, name: &str) -> Result<bool>;
    /// The tag of this name.
    async fn tag(&self, name: &str) -> Result<Option<TagInfo>>;
    /// All tags by name.
    async fn tags(&self) -> Result<Vec<TagInfo>>;
    /// At most `limit` tags whose name begins with `prefix` and comes after `after`, by name.
    async fn tags_page(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<TagInfo>>;

    /// A value.
    async fn value(&self, space: &str, key: &[u8]) -> Result<Option<Bytes>>;
    /// At most `limit` values whose key begins with `prefix` and is larger than `after`, by key.
    async fn values(&self, space: &str, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<(Bytes, Bytes)>>;
    /// Sets (`Some`) or removes (`None`) a value if it is `expected`. Answers whether it was.
    async fn swap_value(&self, space: &str, key: &[u8], expected: Option<&[u8]>, new: Option<&[u8]>) -> Result<bool>;

    /// Takes `count` ids that nobody else gets; they begin at the answer. The first id of a mark is 1.
    async fn allocate(&self, mark: &str, count: u64) -> Result<u64>;
    /// The next id that a mark would give.
    async fn mark(&self, mark: &str) -> Result<u64>;
    /// The epochs of these tags, in the order asked; `None` for one never bumped.
    async fn epochs(&self, tags: &[&str]) -> Result<Vec<Option<u64>>>;

    /// A lease as it stands; one that was never taken is free with token 0.
    async fn lease(&self, name: &str) -> Result<LeaseState>;
    /// Takes a lease that is free, or whose `(token, beat)` are still these, or joins those waiting for it. What is held already stays so. Answers how it
    /// stands then.
    async fn take_lease(&self, name: &str, holder: &str, dead: Option<(u64, u64)>) -> Result<LeaseState>;
    /// Moves the beat of a lease that is held under this token. Answers whether it is.
    async fn renew_lease(&self, fence: &Fence) -> Result<bool>;
    /// Hands a lease to who waits first or nobody, and leaves off waiting for it.
    async fn release_lease(&self, name: &str, holder: &str) -> Result<()>;

    /// At most `limit` packs with an id larger than `after`, by id.
    async fn packs(&self, after: Option<&PackId>, limit: usize) -> Result<Vec<PackSummary>>;
    /// Looks up in `new` packs, durable already, what was looked up in `old` ones, which are forgotten then. Does nothing and answers `false` if one of
    /// `old` is not there, or holds something in use that `new` lacks.
    async fn replace_packs(&self, new: &[PackIndex], old: &[PackId]) -> Result<bool>;

    /// Everything of one moment.
    async fn dump(&self) -> Result<MetadataDump>;
    /// Fills a database that has no branch, reflog, tag, value, mark or epoch; invalid for another. Its incarnation and its index of packs stay.
    async fn load(&self, dump: &MetadataDump) -> Result<()>;
}

/// The least text that is larger than every text with this prefix; `None` where there is none.
pub(crate) fn text_successor(prefix: &str) -> Option<String> {
    let mut text = prefix.to_owned();
    while let Some(last) = text.pop() {
        // The gap of the surrogates is no character.
        let next = if last == '\u{D7FF}' { Some('\u{E000}') } else { char::from_u32(last as u32 + 1) };
        if let Some(next) = next {
            text.push(next);
            return Some(text);
        }
    }
    None
}

/// Numbers of marks and epochs must fit the database's signed 64 bits.
fn check_count(number: Option<u64>) -> Result<i64> {
    number.and_then(|number| i64::try_from(number).ok()).ok_or_else(|| crate::Error::invalid("mark", "no id is left beyond 2^63"))
}

const NOT_EMPTY: &str = "the metadata database is not empty: load into a new one";

/// Refuses a dump that no database could have given.
fn check_dump(dump: &MetadataDump) -> Result<()> {
    let refuse = |reason: &str| Err(crate::Error::invalid("metadata dump", reason));
    let in_order = |names: Vec<&str>| names.windows(2).all(|pair| pair[0] < pair[1]);
    let ids = dump.branches.iter().map(|branch| branch.id).chain(dump.reflog.iter().map(|(branch, _)| *branch));
    if ids.into_iter().any(|id| id.0 > dump.last_branch) {
        return refuse("a branch has an id beyond the largest");
    }
    let mut ids = std::collections::BTreeSet::new();
    if !in_order(dump.branches.iter().map(|branch| &*branch.name).collect()) || !dump.branches.iter().all(|branch| ids.insert(branch.id)) {
        return refuse("the branches are not in order, or one is there twice");
    }
    if !in_order(dump.tags.iter().map(|tag| &*tag.name).collect()) {
        return refuse("the tags are not in order, or one is there twice");
    }
    if !dump.reflog.iter().zip(dump.reflog.iter().skip(1)).all(|((_, one), (_, next))| one.seq < next.seq) {
        return refuse("the reflog is not in order");
    }
    if !dump.values.iter().zip(dump.values.iter().skip(1)).all(|(one, next)| (&one.0, &one.1) < (&next.0, &next.1)) {
        return refuse("the values are not in order");
    }
    let last = dump.reflog.last().map(|(_, entry)| entry.seq);
    let numbers = dump.marks.values().chain(dump.epochs.values()).copied().chain(last).chain([dump.last_branch]);
    numbers.into_iter().try_for_each(|number| check_count(Some(number)).map(drop))
}

/// Refuses writes that no back-end could make, before they fail the transaction of others.
pub(crate) fn check_writes(writes: &[MetadataWrite]) -> Result<()> {
    writes.iter().try_for_each(|write| match write {
        MetadataWrite::RaiseMark { to, .. } => check_count(Some(*to)).map(drop),
        _ => Ok(()),
    })
}
