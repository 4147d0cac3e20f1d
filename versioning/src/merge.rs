//! How two sides are brought together: what a caller asks, what a kind's owner decides, and what is left in conflict.
//!
//! A merge, a revert and a cherry-pick are one thing, a three-way merge of maps, with other sides:
//!
//! | operation | base | ours (the destination) | theirs |
//! | -- | -- | -- | -- |
//! | merge | the merge base | head | the source |
//! | revert of C | C | head | C's parent |
//! | cherry-pick of C | C's parent | head | C |
//!
//! Only keys that theirs changed matter. By itself this crate knows two answers: where one side changed a key, its value is taken; where both did, and not
//! alike, it is a [`Conflict`]. The crate that owns a kind of key registers a [`Resolver`] for it ([`crate::RepositoryOptions::resolvers`]), which may
//! answer otherwise, may have several keys decided as one unit ([`Resolver::scope`]), and may judge the merged map as a whole ([`Resolver::check`]).
//! A [`Strategy`] then decides what is still in conflict, a whole unit at a time; what [`Resolver::check`] refuses no strategy decides.
//!
//! **Promises**: a conflict changes nothing and lists its keys with the values of both sides and of the base. What resolvers read of the destination is
//! noted; if any of it moves before the merge is made, they are asked again.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use anabranch_core::BranchId;
use async_trait::async_trait;
use bytes::Bytes;

use crate::tree::{self, NodeReader};
use crate::{ApplyError, CommitId, Difference, Key, KeyKind, MapReader, MetadataWrite, Page, RefSpec, Result, Root, Scan};

/// The most conflicts that are listed; more are counted.
pub const MAX_CONFLICTS: usize = 1_000;

/// What wins where the resolver says conflict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Strategy {
    /// Nothing: a conflict refuses the whole.
    #[default]
    Default,
    /// The destination.
    Ours,
    /// What is brought in.
    Theirs,
}

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Bringing in what another ref has.
    Merge,
    /// Taking back what a commit did.
    Revert,
    /// Doing again what a commit did elsewhere.
    CherryPick,
}

/// What is to be merged into a branch.
#[derive(Debug, Clone)]
pub struct MergeRequest {
    /// What is merged.
    pub source: RefSpec,
    /// Who does it.
    pub author: String,
    /// Why; without one the commit says what was merged into what.
    pub message: Option<String>,
    /// Words for programs, in the merge commit.
    pub metadata: BTreeMap<String, String>,
    /// What wins where both sides changed the same.
    pub strategy: Strategy,
    /// Makes one ordinary commit of it, which does not name the source as a parent.
    pub squash: bool,
    /// Made in the head's own transaction, also when the head is up to date.
    pub metadata_writes: Vec<MetadataWrite>,
    /// Judges the move before it is made.
    pub guard: Option<Arc<dyn HeadGuard>>,
}

impl MergeRequest {
    /// A merge by the default strategy.
    pub fn new(source: RefSpec, author: impl Into<String>) -> Self {
        let (metadata, metadata_writes) = (BTreeMap::new(), Vec::new());
        Self { source, author: author.into(), message: None, metadata, strategy: Strategy::Default, squash: false, metadata_writes, guard: None }
    }
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
    /// A commit that has both sides was made. Of a squash it has one parent.
    Merged {
        /// The head before.
        from: CommitId,
        /// The commit.
        to: CommitId,
        /// The common ancestor that both sides were compared with.
        base: CommitId,
    },
}

/// How a merge would be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PreviewOutcome {
    /// There is nothing to do.
    UpToDate,
    /// The head would be moved forward.
    FastForward,
    /// Both sides have commits that the other lacks, or a squash was asked for.
    ThreeWay,
}

/// What a merge would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    /// How it would be made.
    pub merge: PreviewOutcome,
    /// The common ancestor; none where the histories are unrelated, which is refused before.
    pub base: Option<CommitId>,
    /// The head that it was judged on.
    pub head: CommitId,
    /// What would be merged.
    pub source: CommitId,
    /// What would change on the head, as far as it is not in conflict.
    pub differences: Page<Difference>,
    /// What is in conflict, at most [`MAX_CONFLICTS`].
    pub conflicts: Vec<Conflict>,
    /// How many conflicts there are.
    pub conflict_count: u64,
}

/// A commit whose change is to be taken back, or made again, on a branch.
#[derive(Debug, Clone)]
pub struct ReplayRequest {
    /// The commit.
    pub commit: RefSpec,
    /// Against which of its parents the commit's change is taken, from 1; needed where it has several.
    pub parent: Option<u32>,
    /// Who does it.
    pub author: String,
    /// Why; without one the new commit says which commit was replayed.
    pub message: Option<String>,
    /// What wins where the head has changed the same since.
    pub strategy: Strategy,
    /// Made in the head's own transaction.
    pub metadata_writes: Vec<MetadataWrite>,
    /// Judges the move before it is made.
    pub guard: Option<Arc<dyn HeadGuard>>,
}

impl ReplayRequest {
    /// A replay by the default strategy.
    pub fn new(commit: RefSpec, author: impl Into<String>) -> Self {
        let author = author.into();
        Self { commit, parent: None, author, message: None, strategy: Strategy::Default, metadata_writes: Vec::new(), guard: None }
    }
}

/// A head that is to be set to a commit.
#[derive(Debug, Clone)]
pub struct ResetRequest {
    /// Where to.
    pub to: RefSpec,
    /// Who does it.
    pub author: String,
    /// Where the head must be; anywhere if there is none.
    pub expected: Option<CommitId>,
    /// Whether the branch's stream positions go back too, so that what was consumed since is consumed again.
    pub rewind_offsets: bool,
    /// Made in the head's own transaction.
    pub metadata_writes: Vec<MetadataWrite>,
    /// Judges the move before it is made.
    pub guard: Option<Arc<dyn HeadGuard>>,
}

impl ResetRequest {
    /// A reset that keeps the branch's stream positions.
    pub fn new(to: RefSpec, author: impl Into<String>) -> Self {
        Self { to, author: author.into(), expected: None, rewind_offsets: false, metadata_writes: Vec::new(), guard: None }
    }
}

/// A head that was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reset {
    /// Where it was.
    pub from: CommitId,
    /// Where it is: the commit asked for, or one upon it that carries the branch's stream positions.
    pub to: CommitId,
}

/// The values of a key in a three-way merge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Triple {
    /// The key.
    pub key: Key,
    /// In the common ancestor.
    pub base: Option<Bytes>,
    /// On the destination.
    pub ours: Option<Bytes>,
    /// In what is brought in.
    pub theirs: Option<Bytes>,
}

impl Triple {
    /// Whether the destination has changed it since the base.
    pub fn changed_by_ours(&self) -> bool {
        self.ours != self.base
    }

    /// Whether what is brought in has changed it since the base.
    pub fn changed_by_theirs(&self) -> bool {
        self.theirs != self.base
    }
}

/// A key that both sides changed, or that does not fit what the other side did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The key.
    pub key: Key,
    /// The value in the common ancestor.
    pub base: Option<Bytes>,
    /// The value on the destination.
    pub ours: Option<Bytes>,
    /// The value in what is brought in.
    pub theirs: Option<Bytes>,
    /// Why it cannot be decided.
    pub reason: String,
}

/// What a resolver may look at.
pub struct Sides<'a> {
    /// The common ancestor.
    pub base: &'a dyn MapReader,
    /// The destination.
    pub ours: &'a dyn MapReader,
    /// What is brought in.
    pub theirs: &'a dyn MapReader,
    /// The destination's branch.
    pub into: BranchId,
}

impl fmt::Debug for Sides<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sides").field("into", &self.into).finish_non_exhaustive()
    }
}

/// A resolver's answer for the keys that it was asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// The destination's values stay.
    Ours,
    /// What is brought in is taken.
    Theirs,
    /// The one key gets this value, or none.
    Value(Option<Bytes>),
    /// Each of these keys gets its value, or none; keys of the resolver's kinds only.
    Values(Vec<(Key, Option<Bytes>)>),
    /// It cannot be decided, and why; a [`Strategy`] may still choose a side.
    Conflict(String),
}

/// Decides the merges of the keys of some kinds; registered by the crate that owns them.
///
/// It must be a pure function of what it is given and reads: it may be asked again when the head has moved.
#[async_trait]
pub trait Resolver: Send + Sync + fmt::Debug {
    /// The kinds that it decides; of two resolvers for a kind the later one counts.
    fn kinds(&self) -> &[KeyKind];

    /// The prefixes of all keys, of its own kinds, that must be decided together with this one, its own included. Changes that have a prefix in common
    /// are one unit: it is taken as a whole where only one side changed anything in it. Empty: the key is decided by itself.
    ///
    /// # Errors
    /// Where the value cannot be read.
    fn scope(&self, change: &Triple) -> Result<Vec<Key>> {
        let _ = change;
        Ok(Vec::new())
    }

    /// Decides a key that theirs changed and that the sides do not hold alike; of a unit that both sides changed, all its changes at once.
    ///
    /// # Errors
    /// What reading fails with.
    async fn resolve(&self, operation: Operation, changes: &[Triple], sides: &Sides<'_>) -> Result<Resolution>;

    /// Judges the merged map where keys of its kinds were changed: each key that does not fit, and why.
    ///
    /// # Errors
    /// What reading fails with.
    async fn check(&self, candidate: &dyn MapReader, touched: &[Key]) -> Result<Vec<(Key, String)>> {
        let _ = (candidate, touched);
        Ok(Vec::new())
    }
}

/// Takes the side that changed; where both did it is a conflict, in which the caller's [`Strategy`] may choose. So are kinds decided that have no
/// resolver, objects among them.
#[derive(Debug, Clone, Copy, Default)]
pub struct ChooseSide;

impl ChooseSide {
    /// The answer for these changes.
    pub fn choose(changes: &[Triple]) -> Resolution {
        if !changes.iter().any(Triple::changed_by_theirs) {
            return Resolution::Ours;
        }
        let Some(both) = changes.iter().find(|change| change.changed_by_ours()) else { return Resolution::Theirs };
        let done = |value: &Option<Bytes>| match (value, &both.base) {
            (None, _) => "removed",
            (Some(_), None) => "added",
            (Some(_), Some(_)) => "changed",
        };
        Resolution::Conflict(match both.changed_by_theirs() {
            true => format!("{} here and {} there", done(&both.ours), done(&both.theirs)),
            false => "changed here together with what was changed there".to_owned(),
        })
    }
}

#[async_trait]
impl Resolver for ChooseSide {
    fn kinds(&self) -> &[KeyKind] {
        &KeyKind::ALL
    }

    async fn resolve(&self, _operation: Operation, changes: &[Triple], _sides: &Sides<'_>) -> Result<Resolution> {
        Ok(Self::choose(changes))
    }
}

/// For keys that name their value, so that both sides may be had: the destination's value stays where there is one, and otherwise the other is taken.
/// Nothing that one side removed comes back.
#[derive(Debug, Clone)]
pub struct Union(Vec<KeyKind>);

impl Union {
    /// A union of the keys of these kinds.
    pub fn of(kinds: impl Into<Vec<KeyKind>>) -> Self {
        Self(kinds.into())
    }
}

#[async_trait]
impl Resolver for Union {
    fn kinds(&self) -> &[KeyKind] {
        &self.0
    }

    async fn resolve(&self, _operation: Operation, changes: &[Triple], _sides: &Sides<'_>) -> Result<Resolution> {
        let one_sided = changes.iter().all(|change| !change.changed_by_ours());
        Ok(if one_sided { Resolution::Theirs } else { Resolution::Ours })
    }
}

/// Judges the move of a head inside the committer, where no other move can come between: what it refuses is not made.
///
/// It may be asked several times, and everyone who writes to the branch waits for it: only bounded work.
#[async_trait]
pub trait HeadGuard: Send + Sync + fmt::Debug {
    /// Whether the head may move so.
    ///
    /// # Errors
    /// [`ApplyError::Refused`] with the reason; then nothing is changed.
    async fn check(&self, change: &HeadChange<'_>) -> Result<(), ApplyError>;
}

/// What the move of a head would change.
pub struct HeadChange<'a> {
    pub(crate) reader: &'a dyn NodeReader,
    pub(crate) old: Root,
    pub(crate) new: Root,
}

impl HeadChange<'_> {
    /// What differs, left before the move and right after it.
    ///
    /// # Errors
    /// As [`crate::Repository::diff`].
    pub async fn diff(&self, scan: &Scan) -> Result<Page<Difference>> {
        tree::diff(self.reader, &self.old, &self.new, scan).await
    }

    /// A value before the move.
    ///
    /// # Errors
    /// What reading fails with.
    pub async fn before(&self, key: &Key) -> Result<Option<Bytes>> {
        tree::get(self.reader, &self.old, key.as_bytes()).await
    }

    /// A value after the move.
    ///
    /// # Errors
    /// What reading fails with.
    pub async fn after(&self, key: &Key) -> Result<Option<Bytes>> {
        tree::get(self.reader, &self.new, key.as_bytes()).await
    }
}

impl fmt::Debug for HeadChange<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeadChange").field("old", &self.old).field("new", &self.new).finish_non_exhaustive()
    }
}
