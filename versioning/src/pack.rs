//! (being written)

use crate::PackId;

/// What an entry of a pack is; the numbers are persisted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EntryKind {
    /// A node of a tree.
    Node = 1,
    /// A commit.
    Commit = 2,
}

/// Where one entry lies in a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexEntry {
    /// The BLAKE3 hash of the entry's canonical bytes.
    pub hash: [u8; 32],
    /// What it is.
    pub kind: EntryKind,
    /// Its first byte in the pack.
    pub offset: u64,
    /// Its length in the pack.
    pub len: u32,
}

/// The index of one pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackIndex {
    /// The pack.
    pub pack: PackId,
    /// Its size in bytes.
    pub bytes: u64,
    /// What it holds.
    pub entries: Vec<IndexEntry>,
}
