//! What entries name beyond the map: files in the object store, and ids that were given.
//!
//! The map holds identities; what they stand for lies in files whose formats this crate does not know. The owner of a kind of entry knows them and tells
//! so through [`EntryOwner`]. Verifying a repository, moving it and restoring it all walk over the same graph:
//!
//! ```text
//! commit ─▶ root ─▶ … ─▶ leaf ─▶ entry ──[EntryOwner::entry]──▶ file ──[EntryOwner::file]──▶ file …
//! ```
//!
//! A file is known by its path. Files never change, so each is looked into once, however many entries name it.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use object_store::ObjectStore;

use crate::{Digest, Entry, KeyKind, Result};

/// A file of the object store that an entry names, directly or through another file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRef {
    /// Where it lies.
    pub path: String,
    /// What it is to its owner, as people read it: `blob`, `manifest`, `data file`.
    pub role: &'static str,
    /// How many bytes it must have, where whoever names it says so.
    pub size: Option<u64>,
    /// The BLAKE3 hash of its bytes, where whoever names it says so.
    pub digest: Option<Digest>,
    /// How many rows it must hold, where whoever names it says so.
    pub rows: Option<u64>,
}

impl FileRef {
    /// A file of which nothing but its place is known.
    pub fn new(path: impl Into<String>, role: &'static str) -> Self {
        Self { path: path.into(), role, size: None, digest: None, rows: None }
    }

    /// A blob: its name is its hash.
    pub fn blob(digest: Digest) -> Self {
        Self { digest: Some(digest), ..Self::new(format!("blobs/{digest}"), "blob") }
    }
}

/// What one entry names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Named {
    /// Files.
    pub files: Vec<FileRef>,
    /// Marks, each with an id that the entry shows to be given.
    pub ids: Vec<(String, u64)>,
    /// A branch id that the entry shows to be given.
    pub branch: Option<u64>,
}

/// Knows what the entries of one kind mean, as far as files and ids go.
///
/// Damage is told as [`crate::Error::Corrupt`], with what is damaged named; any other error says that the answer could not be found out.
#[async_trait]
pub trait EntryOwner: Send + Sync + fmt::Debug {
    /// The kind of entries.
    fn kind(&self) -> KeyKind;

    /// Reads an entry: that its key and value are well formed, and what they name.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`] for an entry that its owner would not have written.
    fn entry(&self, entry: &Entry) -> Result<Named>;

    /// Looks into a file that is there and as long as it must be, and answers what it names in turn. A `deep` look reads and decodes all of it; whether a
    /// file with a digest has that content was looked at before.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`] for a file that its owner cannot read.
    async fn file(&self, file: &FileRef, objects: &Arc<dyn ObjectStore>, deep: bool) -> Result<Vec<FileRef>> {
        let _ = (file, objects, deep);
        Ok(Vec::new())
    }
}
