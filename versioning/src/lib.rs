//! The versioned map: commits, branches, tags and diff over a prolly tree. It knows nothing of tables or features.
//!
//! In reading order: [`Repository`] is what callers use; [`Change`], [`CommitRequest`], [`Scan`] and [`RefSpec`] are what they say to it; [`Key`] and
//! [`Commit`] are what they get. Beneath lie the tree (a sorted map cut into nodes named by their hash), packs (how nodes and commits travel to the
//! object store), the [`MetadataStore`] (what is mutable) and the file layer [`files`] (what survives loss of power).

mod change;
mod codec;
mod commit;
mod error;
pub mod files;
mod hash;
mod key;
mod metadata;
pub mod object;
mod objects;
mod pack;
mod refs;
mod repository;
mod store;
pub mod testkit;
mod tree;

pub use change::{
    Apply, ApplyError, Change, CommitRequest, Committed, Difference, Entry, Expect, MAX_PAGE, MAX_VALUE_BYTES, MapReader, Page, Read, Scan, scan_all,
};
pub use commit::{Commit, MAX_COMMIT_BYTES};
pub use error::{Cause, Error, Result};
pub use files::{FileHandle, Files, RealFiles};
pub use hash::{CommitId, Digest, NodeHash, PackId, Root};
pub use key::{Key, KeyKind, MAX_KEY_BYTES};
pub use metadata::{
    BranchInfo, HeadMove, HeadStep, Location, MemoryMetadata, MetadataStore, MetadataWrite, Publication, ReflogEntry, SqliteMetadata, TagInfo,
};
pub use object::{
    ObjectAddress, ObjectChange, ObjectCommit, ObjectCondition, ObjectEntry, ObjectImport, ObjectInfo, ObjectItem, ObjectPage, ObjectQuery,
    ObjectReader, ObjectWriter, ObjectsCommitted, check_object_path, object_key,
};
pub use objects::{local_objects, local_objects_on};
pub use pack::{EntryKind, IndexEntry, PackIndex};
pub use refs::{MIN_HASH_DIGITS, RefBase, RefSpec, RefStep, check_ref_name};
pub use repository::{CommitInfo, LogPage, MapView, Merge, MergeRequest, Repository, RepositoryOptions, Resolved};
