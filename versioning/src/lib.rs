//! The versioned map: commits, branches, tags and diff over a prolly tree. It knows nothing of tables or features.
//!
//! In reading order: [`Repository`] is what callers use; [`Change`], [`CommitRequest`], [`Scan`] and [`RefSpec`] are what they say to it; [`Key`] and
//! [`Commit`] are what they get. Beneath lie the tree (a sorted map cut into nodes named by their hash), packs (how nodes and commits travel to the
//! object store), the [`MetadataStore`] (what is mutable) and the file layer [`files`] (what survives loss of power).

mod backup;
mod change;
mod codec;
mod commit;
mod error;
pub mod files;
mod fsck;
mod hash;
mod key;
mod merge;
mod metadata;
pub mod object;
mod objects;
mod owner;
mod pack;
mod refs;
mod repository;
mod store;
pub mod testkit;
mod transfer;
mod tree;

pub use backup::{Rebuilt, decode_backup, encode_backup, rebuild_index};
pub use change::{
    Apply, ApplyError, Change, CommitRequest, Committed, Difference, Entry, Expect, MAX_PAGE, MAX_VALUE_BYTES, MapReader, Page, Read, Scan, scan_all,
};
pub use commit::{Commit, MAX_COMMIT_BYTES};
pub use error::{Cause, Error, Result};
pub use files::{FileHandle, Files, RealFiles};
pub use fsck::{Counts, Damage, Finding, FsckOptions, FsckReport, NAMED_BY_FINDING, Place, Progress, Surplus, Verified, fsck, verify_commits};
pub use hash::{CommitId, Digest, NodeHash, PackId, Root};
pub use key::{Key, KeyKind, MAX_KEY_BYTES};
pub use merge::{
    ChooseSide, Conflict, HeadChange, HeadGuard, MAX_CONFLICTS, Merge, MergeRequest, Operation, Preview, PreviewOutcome, ReplayRequest, Reset,
    ResetRequest, Resolution, Resolver, Sides, Strategy, Triple, Union,
};
pub use metadata::{
    BranchInfo, Fence, HeadMove, HeadStep, LeaseState, Location, MemoryMetadata, MetadataDump, MetadataStore, MetadataWrite, PackSummary,
    PostgresMetadata, Publication, ReflogEntry, Renamed, SqliteMetadata, TagInfo,
};
pub use object::{
    ObjectAddress, ObjectChange, ObjectCommit, ObjectCondition, ObjectEntry, ObjectImport, ObjectInfo, ObjectItem, ObjectOwner, ObjectPage,
    ObjectQuery, ObjectReader, ObjectWriter, ObjectsCommitted, check_object_path, object_key,
};
pub use objects::{local_objects, local_objects_on};
pub use owner::{EntryOwner, FileRef, Named};
pub use pack::{EntryKind, IndexEntry, PackIndex};
pub use refs::{MIN_HASH_DIGITS, RefBase, RefSpec, RefStep, check_ref_name};
pub use repository::{
    CommitInfo, Compaction, CompactionOptions, LeaseOptions, LogCursor, LogPage, LogQuery, MapView, Released, Repository, RepositoryOptions, Resolved,
};
pub use transfer::{ArchiveInfo, ExportRequest, Exported, ImportRequest, Imported, RefOutcome, export, import, read_archive_info};
