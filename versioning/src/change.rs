//! What a caller asks of a commit, and what it reads by.

use std::collections::BTreeMap;
use std::fmt;

use anabranch_core::Kinded;
use async_trait::async_trait;
use bytes::Bytes;

use crate::{CommitId, Error, Key, MetadataWrite, Result, Root};

/// The longest value in bytes: values are identities and small payloads; data go into files.
pub const MAX_VALUE_BYTES: usize = 1 << 20;

/// The most entries of a page, whatever is asked.
pub const MAX_PAGE: usize = 10_000;

/// What the head must hold at a key for a change to apply.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Expect {
    /// Anything or nothing.
    #[default]
    Any,
    /// No value.
    Absent,
    /// Exactly this value.
    Value(Bytes),
}

/// A change of the map.
#[derive(Debug)]
pub enum Change {
    /// Sets a value.
    Put {
        /// Where.
        key: Key,
        /// At most [`MAX_VALUE_BYTES`].
        value: Bytes,
        /// What must be there.
        expect: Expect,
    },
    /// Removes a value; removing what is not there changes nothing.
    Delete {
        /// Where.
        key: Key,
        /// What must be there.
        expect: Expect,
    },
    /// Work prepared outside the queue, finished against the current head.
    Apply(Box<dyn Apply>),
}

impl Change {
    /// Sets a value, whatever is there.
    pub fn put(key: Key, value: impl Into<Bytes>) -> Self {
        Self::Put { key, value: value.into(), expect: Expect::Any }
    }

    /// Removes a value, whatever is there.
    pub fn delete(key: Key) -> Self {
        Self::Delete { key, expect: Expect::Any }
    }
}

/// A change whose owner prepared it outside the committer's queue and finishes it inside.
///
/// Called with the state that the commit's earlier changes and all commits before it left. It may be called again on a later head if another server
/// moved the head first, so it must not keep what it saw. Inside the queue everyone waits for it: only bounded work, no writing of files.
#[async_trait]
pub trait Apply: Send + fmt::Debug {
    /// The changes, each a [`Change::Put`] or [`Change::Delete`].
    async fn apply(&mut self, head: &dyn MapReader) -> Result<Vec<Change>, ApplyError>;
}

/// Why an [`Apply`] gives no changes.
#[derive(Debug)]
pub enum ApplyError {
    /// What was prepared no longer fits the head; the commit fails with [`Error::Stale`].
    Stale,
    /// The owner refuses; the commit fails with [`Error::Refused`] of the same kind, which carries the error as its source.
    Refused(Box<dyn Kinded>),
    /// Reading the head failed.
    Failed(Error),
}

impl From<Error> for ApplyError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Something that a commit read at its base: it fails if it has changed since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// One key, absence included.
    Key(Key),
    /// Every key that begins with this.
    Prefix(Key),
}

/// A commit to be made.
#[derive(Debug, Default)]
pub struct CommitRequest {
    /// Who makes it.
    pub author: String,
    /// Why.
    pub message: String,
    /// Words for programs.
    pub metadata: BTreeMap<String, String>,
    /// Applied in order; all or none.
    pub changes: Vec<Change>,
    /// The commit that `reads` were made at; needed where there are any.
    pub base: Option<CommitId>,
    /// What must not have changed since `base`.
    pub reads: Vec<Read>,
    /// Made in the head's own transaction.
    pub metadata_writes: Vec<MetadataWrite>,
    /// Whether to make a commit that changes nothing; otherwise it is [`Error::NothingChanged`].
    pub allow_empty: bool,
}

impl CommitRequest {
    /// A commit of these changes.
    pub fn new(author: impl Into<String>, message: impl Into<String>, changes: Vec<Change>) -> Self {
        Self { author: author.into(), message: message.into(), changes, ..Self::default() }
    }
}

/// A commit that is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The commit.
    pub commit: CommitId,
    /// Its parent: the head before.
    pub previous: CommitId,
    /// The content.
    pub root: Root,
}

/// One entry of the map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Key,
    /// The value.
    pub value: Bytes,
}

/// A key whose value differs between two commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The key.
    pub key: Key,
    /// The value on the left.
    pub left: Option<Bytes>,
    /// The value on the right.
    pub right: Option<Bytes>,
}

/// A part of a long answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The part.
    pub items: Vec<T>,
    /// Where the next part begins: give it as [`Scan::after`]. `None` at the end.
    pub next: Option<Key>,
}

/// Which entries to read, and in which direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// Only keys that begin with this.
    pub prefix: Option<Key>,
    /// Only keys from this on.
    pub from: Option<Key>,
    /// Only keys before this.
    pub until: Option<Key>,
    /// Only keys that come behind this one in the scan's direction.
    pub after: Option<Key>,
    /// From the last key to the first.
    pub reverse: bool,
    /// At most this many, and at most [`MAX_PAGE`]; a page also ends at 16 MiB.
    pub limit: usize,
}

impl Default for Scan {
    fn default() -> Self {
        Self { prefix: None, from: None, until: None, after: None, reverse: false, limit: MAX_PAGE }
    }
}

impl Scan {
    /// Everything that begins with `prefix`.
    pub fn prefix(prefix: Key) -> Self {
        Self { prefix: Some(prefix), ..Self::default() }
    }

    /// Everything.
    pub fn all() -> Self {
        Self::default()
    }

    /// The same, behind this key.
    pub fn after(self, key: Key) -> Self {
        Self { after: Some(key), ..self }
    }

    /// The same, from the last to the first.
    pub fn reversed(self) -> Self {
        Self { reverse: true, ..self }
    }

    /// The same, at most `limit`.
    pub fn limit(self, limit: usize) -> Self {
        Self { limit, ..self }
    }
}

/// Reads one state of the map.
#[async_trait]
pub trait MapReader: Send + Sync {
    /// The value of a key.
    async fn get(&self, key: &Key) -> Result<Option<Bytes>>;
    /// A page of entries in the order of keys.
    async fn scan(&self, scan: &Scan) -> Result<Page<Entry>>;
}

/// Reads every page of a scan; for what is known to be small.
pub async fn scan_all(reader: &dyn MapReader, mut scan: Scan) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    loop {
        let page = reader.scan(&scan).await?;
        entries.extend(page.items);
        match page.next {
            Some(next) => scan.after = Some(next),
            None => return Ok(entries),
        }
    }
}
